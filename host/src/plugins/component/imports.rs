//! What a component can reach: the host's side of the world's imports.
//!
//! Each import is a thin pass to the author's own types, which the daemon
//! implements: a component and a native plugin stand on the same ground.

// The bindings re-export these types and so ask for `pub`.
#![allow(unreachable_pub)]

mod connections;
pub(super) mod futures;
mod operations;
mod services;

use std::time::Duration;

use alknet_plugin_api::{AbortPolicy, CallError, Host, StreamError};
use wasmtime::component::HasData;

pub use connections::{RecvHalf, SendHalf};
pub use operations::{Environment, Items, Sink, SinkSlot};
pub use services::{Events, PeerGateway};

use super::bindings::alknet::plugin::types;
use super::instance::State;

/// Names [`State`] to wasmtime's bindings.
pub struct Imports;

impl HasData for Imports {
    type Data<'a> = &'a mut State;
}

impl types::Host for State {}

impl State {
    /// The host's services.
    fn services(&self) -> wasmtime::Result<&Host> {
        self.host
            .as_ref()
            .ok_or_else(|| wasmtime::format_err!("a plugin cannot use the host before it is built"))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn stream_error(error: StreamError) -> types::StreamError {
    match error {
        StreamError::ConnectionClosed => types::StreamError::ConnectionClosed,
        StreamError::StreamClosed => types::StreamError::StreamClosed,
        StreamError::Timeout => types::StreamError::Timeout,
        StreamError::Reset(code) => types::StreamError::Reset(code),
        StreamError::Stopped(code) => types::StreamError::Stopped(code),
        other => types::StreamError::Internal(other.to_string()),
    }
}

fn call_error(error: CallError) -> types::CallError {
    types::CallError {
        code: error.code.into_owned(),
        message: error.message,
        retryable: error.retryable,
        details: error.details.map(|details| details.into_bytes().into()),
    }
}

fn policy(policy: types::AbortPolicy) -> AbortPolicy {
    match policy {
        types::AbortPolicy::AbortDependents => AbortPolicy::AbortDependents,
        types::AbortPolicy::ContinueRunning => AbortPolicy::ContinueRunning,
    }
}
