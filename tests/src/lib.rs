//! End-to-end tests: a real daemon, real plugins, real clients.
//!
//! This library holds what the tests under `tests/` share. Foremost
//! [`mod@conformance`]: one list of behaviours that a plugin's author relies on, run
//! against every kind of host.

// Everything here runs in tests, where a panic with its line is the best report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod artifact;
pub mod authority;
pub mod browser;
pub mod conformance;
pub mod daemon;
pub mod pebble;
pub mod secrets;
pub mod service;
pub mod substrate;
