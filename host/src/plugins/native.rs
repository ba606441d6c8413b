//! Native shared libraries.
