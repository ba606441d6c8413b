//! The lock and the atomics of the calls in flight.
//!
//! They are also compiled against a scheduler's own, in the tests, which tries
//! orders of events that a machine rarely shows.

pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use parking_lot::Mutex;
