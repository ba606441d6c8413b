//! The call protocol's rules over a pair of connections in memory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod calls;
mod ends;
mod imported;
mod lone;
mod peer;
mod pressure;
mod vectors;
#[cfg(feature = "websocket")]
mod websocket;
mod wire;
