//! The lock and the atomics of the cancellation tree.
//!
//! The tree is also compiled against a scheduler's own, in the tests, which tries
//! orders of events that a machine rarely shows.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};

pub(crate) use parking_lot::Mutex;
