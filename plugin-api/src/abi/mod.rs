//! The native ABI: how a host and a plugin in a shared library meet.
//!
//! Plugin authors do not need this module; [`export!`](crate::export) uses it.
//!
//! Either side may have been compiled by another compiler, with another
//! allocator and another version of every dependency. So what crosses is bytes,
//! integers, callbacks, and *handles*: a pointer that only its own side follows,
//! with a table of C functions that work on it. For each trait in
//! [`backend`](crate::backend) there is both ends of the crossing here: what
//! *exports* a Rust object as a handle, and what *imports* a handle as an
//! implementation of the same trait. The host exports connections and services
//! and imports the plugin; the plugin does the reverse.
//!
//! | module | what crosses |
//! |---|---|
//! | [`value`] | slices, owned bytes, handles |
//! | [`fault`] | failures |
//! | [`waker`] | wakers |
//! | [`future`] | futures and streams |
//! | [`stream`] | halves of byte streams |
//! | [`connection`] | connections |
//! | [`call`] | calls and their contexts |
//! | [`env`](mod@env) | environments |
//! | [`gateway`] | gateways |
//! | [`capability`] | capabilities |
//! | [`task`] | spawned tasks |
//! | [`host`] | the host's services |
//! | [`module`], [`loaded`] | the plugin as a whole, from both sides |
//! | [`c`] | the same for plugins in C |
//!
//! # Rules
//!
//! - A panic never crosses. Every function that the other side can call runs its
//!   body in [`catch_unwind`]; the panic's text becomes
//!   a [`Fault`](fault::Fault), and its payload is forgotten, since dropping it
//!   could panic again.
//! - Whoever made something frees it: owned values carry their own release
//!   function.
//! - Tables grow at their end, in minor versions, and what they may lack is read
//!   through `Option`. Nothing else about them changes before a new major version.
//! - Statuses are integers; the functions that return one write either their out
//!   parameter or their fault, as it says.

#![allow(unsafe_code)]

pub mod c;
pub mod call;
pub mod capability;
pub mod connection;
pub mod env;
pub mod fault;
pub mod future;
pub mod gateway;
pub mod host;
pub mod loaded;
pub mod module;
pub mod stream;
pub mod task;
pub mod value;
pub mod waker;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

pub use abi_stable;
pub use loaded::{Module, ModuleError};
pub use module::{Header, MAGIC, SYMBOL};

/// The code on the other side of the boundary panicked. It stands inside the
/// error of the connection or call that this cost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plugin panicked: {0}")]
pub struct Panicked(pub String);

/// Runs `body`; a panic comes back as its text.
fn guard<R>(body: impl FnOnce() -> R) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|payload| {
        let text = panic_text(&*payload);
        std::mem::forget(payload);
        text
    })
}

/// Runs `body`, which drops or wakes: there is nobody to tell of a panic but
/// the log, which the panic hook has told.
fn guard_drop(body: impl FnOnce()) {
    let _: Result<(), String> = guard(body);
}

/// What a panic says.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a text")
        .to_owned()
}

/// Durations cross as nanoseconds; 584 years are enough.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What the tests of minor versions call: fields that only a next minor version has.
#[cfg(feature = "abi-test-next")]
#[doc(hidden)]
pub fn probe_host(host: &crate::Host) -> Option<u64> {
    host.backend().as_any()?.downcast_ref::<host::ImportedHost>()?.probe()
}
