//! The call protocol's rules over a pair of connections in memory.

mod calls;
mod ends;
mod peer;
mod pressure;
mod wire;
