//! Sample plugin: read-only operations over a jailed directory.
