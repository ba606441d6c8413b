//! What stands behind the author's types: the traits that the daemon, the
//! native ABI, the component bindings and the in-memory test pair implement.
//!
//! Plugin authors do not need this module. Somebody who adds a transport does.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::io::ReadBuf;

use crate::connection::{
    Closed, Connection, ConnectionInfo, ConnectionStats, DatagramError, IdentityAlreadySet,
    StreamError,
};
use crate::context::{ContextInfo, OperationEnv};
use crate::error::CallError;
use crate::host::{Capability, Gateway, Level, LogRecord, TaskHandle};
use crate::identity::Identity;
use crate::operation::CallFuture;
use crate::ownership::OwnershipRequest;

/// Both halves of a bidirectional stream.
pub type BiHalves = (Box<dyn SendBackend>, Box<dyn RecvBackend>);

/// The sending half of a stream. The wrapper decides what dropping means;
/// dropping a backend alone must neither finish nor reset.
pub trait SendBackend: Send + 'static {
    /// The stream's number, unique on its connection.
    fn id(&self) -> u64;
    /// Takes some of `data`, at least one byte if there are any.
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8])
    -> Poll<Result<usize, StreamError>>;
    /// Hands buffered data on; QUIC has nothing to do here.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>>;
    /// Ends the stream cleanly.
    fn finish(&mut self) -> Result<(), StreamError>;
    /// Ends the stream with an error code for the peer.
    fn reset(&mut self, code: u64);
    /// Ready when the peer has everything (`None`) or stopped reading.
    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, StreamError>>;
    /// Orders this stream's data against others'.
    fn set_priority(&mut self, priority: i32);
}

/// The receiving half of a stream. Dropping it stops the peer with code 0.
pub trait RecvBackend: Send + 'static {
    /// The stream's number, unique on its connection.
    fn id(&self) -> u64;
    /// Appends what has arrived; nothing appended means the clean end.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>>;
    /// Asks the peer to stop sending.
    fn stop(&mut self, code: u64);
}

/// A connection's transport. See [`Connection`] for what each method promises.
#[allow(missing_docs)]
pub trait ConnectionBackend: Send + Sync + 'static {
    fn info(&self) -> &ConnectionInfo;
    /// The fingerprint of what the peer has proven to hold. A transport whose
    /// peers may prove something else than a raw key says so here. The host asks
    /// its own transports; a handler gets the answer in its `AuthContext`.
    fn peer_fingerprint(&self) -> Option<String> {
        key_fingerprint(self.info())
    }
    fn accept_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>>;
    fn open_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>>;
    fn accept_uni(&self) -> BoxFuture<'static, Result<Box<dyn RecvBackend>, StreamError>>;
    fn open_uni(&self) -> BoxFuture<'static, Result<Box<dyn SendBackend>, StreamError>>;
    fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError>;
    fn read_datagram(&self) -> BoxFuture<'static, Result<Bytes, StreamError>>;
    fn max_datagram_size(&self) -> Option<usize>;
    fn close(&self, code: u64, reason: &str);
    fn closed(&self) -> BoxFuture<'static, Closed>;
    fn shutdown(&self) -> BoxFuture<'static, ()>;
    fn stats(&self) -> ConnectionStats;
    fn set_identity(&self, identity: Identity) -> Result<(), IdentityAlreadySet>;
    fn identity(&self) -> Option<Identity>;
    /// The implementation itself, for one that must recognise its own.
    #[doc(hidden)]
    fn as_any(&self) -> Option<&dyn std::any::Any> {
        None
    }
}

/// The fingerprint of a raw key that the peer has proven to hold.
pub(crate) fn key_fingerprint(info: &ConnectionInfo) -> Option<String> {
    let digits = |key: [u8; 32]| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    info.peer_key.map(|key| format!("ed25519:{}", digits(key)))
}

/// The host's services to one plugin. See [`Host`](crate::Host) for what each
/// method promises.
#[allow(missing_docs)]
pub trait HostBackend: Send + Sync + 'static {
    fn spawn(&self, task: BoxFuture<'static, ()>) -> TaskHandle;
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
    /// Monotonic time since an arbitrary start.
    fn now(&self) -> Duration;
    /// Time since the Unix epoch.
    fn unix_time(&self) -> Duration;
    fn log_enabled(&self, level: Level, target: &str) -> bool;
    fn log(&self, record: &LogRecord<'_>);
    fn counter(&self, name: &str, labels: &[(&str, &str)], add: u64);
    fn gauge(&self, name: &str, labels: &[(&str, &str)], value: f64);
    fn histogram(&self, name: &str, labels: &[(&str, &str)], value: f64);
    fn resolve_token(&self, token: &[u8]) -> Option<Identity>;
    fn resolve_fingerprint(&self, fingerprint: &str) -> Option<Identity>;
    fn capability(&self, name: &str) -> Option<Capability>;
    /// Composition under the plugin's own authority, outside any call.
    fn env(&self) -> Arc<dyn OperationEnv>;
    /// Calls on behalf of a connection's peer; `None` where the deployment file
    /// does not grant it.
    fn gateway(&self, connection: &Connection) -> Option<Arc<dyn Gateway>>;
    fn shutdown(&self) -> BoxFuture<'static, ()>;
    /// The implementation itself, for one that must recognise its own.
    #[doc(hidden)]
    fn as_any(&self) -> Option<&dyn std::any::Any> {
        None
    }
}

/// The host's side of one call of an operation.
#[allow(missing_docs)]
pub trait ContextBackend: Send + Sync + 'static {
    fn info(&self) -> Arc<ContextInfo>;
    /// Time left before the deadline; `None` without one.
    fn remaining(&self) -> Option<Duration>;
    fn is_cancelled(&self) -> bool;
    fn cancelled(&self) -> BoxFuture<'static, ()>;
    fn env(&self) -> Arc<dyn OperationEnv>;
    fn capability(&self, name: &str) -> Option<Capability>;
    /// Whether a plugin's confined instance waits for this call, directly or
    /// through others.
    fn is_nested(&self) -> bool {
        false
    }
    /// Answers with JSON.
    fn ownership(&self, _request: OwnershipRequest) -> CallFuture {
        let text = "this host keeps no owners";
        Box::pin(std::future::ready(Err(CallError::internal(text))))
    }
}

/// Stands where a backend has been taken out.
pub(crate) struct Gone;

impl SendBackend for Gone {
    fn id(&self) -> u64 {
        u64::MAX
    }
    fn poll_write(&mut self, _: &mut Context<'_>, _: &[u8]) -> Poll<Result<usize, StreamError>> {
        Poll::Ready(Err(StreamError::StreamClosed))
    }
    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Poll::Ready(Ok(()))
    }
    fn finish(&mut self) -> Result<(), StreamError> {
        Err(StreamError::StreamClosed)
    }
    fn reset(&mut self, _: u64) {}
    fn poll_stopped(&mut self, _: &mut Context<'_>) -> Poll<Result<Option<u64>, StreamError>> {
        Poll::Ready(Err(StreamError::StreamClosed))
    }
    fn set_priority(&mut self, _: i32) {}
}

impl RecvBackend for Gone {
    fn id(&self) -> u64 {
        u64::MAX
    }
    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>> {
        Poll::Ready(Err(StreamError::StreamClosed))
    }
    fn stop(&mut self, _: u64) {}
}
