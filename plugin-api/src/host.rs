//! The host's services to a plugin.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::backend::HostBackend;
use crate::connection::Connection;
use crate::context::{AbortPolicy, OperationEnv};
use crate::error::CallError;
use crate::http::{HttpFuture, HttpRequest};
use crate::identity::Identity;
use crate::json::Json;

/// The host, as one plugin sees it. Clones are handles to the same.
///
/// Logging needs nothing from here: `tracing` events reach the host's log with
/// the plugin's name on them.
#[derive(Clone)]
pub struct Host {
    backend: Arc<dyn HostBackend>,
}

impl Host {
    /// Wraps a host's side.
    pub fn new(backend: Arc<dyn HostBackend>) -> Self {
        Self { backend }
    }

    /// The host's side.
    pub fn backend(&self) -> &Arc<dyn HostBackend> {
        &self.backend
    }

    /// Runs `task` beside the plugin's connections and calls. A panic in it is
    /// logged and ends it alone. It is dropped when the node has drained.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> TaskHandle {
        self.backend.spawn(Box::pin(task))
    }

    /// Resolves after `duration`; millisecond resolution.
    pub async fn sleep(&self, duration: Duration) {
        self.backend.sleep(duration).await;
    }

    /// Monotonic time since an arbitrary start, the same for all plugins.
    pub fn now(&self) -> Duration {
        self.backend.now()
    }

    /// Time since the Unix epoch.
    pub fn unix_time(&self) -> Duration {
        self.backend.unix_time()
    }

    /// Writes to the node's log.
    pub fn log(&self, record: &LogRecord<'_>) {
        self.backend.log(record);
    }

    /// Whether a record of this level and target would be written.
    pub fn log_enabled(&self, level: Level, target: &str) -> bool {
        self.backend.log_enabled(level, target)
    }

    /// Adds to a counter. The host prefixes the name with `alknet_plugin_` and
    /// adds the label `plugin`.
    pub fn counter(&self, name: &str, labels: &[(&str, &str)], add: u64) {
        self.backend.counter(name, labels, add);
    }

    /// Sets a gauge; names as for [`Host::counter`].
    pub fn gauge(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.backend.gauge(name, labels, value);
    }

    /// Records a value in a histogram; names as for [`Host::counter`].
    pub fn histogram(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.backend.histogram(name, labels, value);
    }

    /// The identity that a bearer token belongs to. Any bytes are a valid
    /// argument; the host counts each failure against the peer.
    pub fn resolve_token(&self, token: &[u8]) -> Option<Identity> {
        self.backend.resolve_token(token)
    }

    /// The identity that a key belongs to, by its fingerprint
    /// (`ed25519:<64 hexadecimal digits>`).
    pub fn resolve_fingerprint(&self, fingerprint: &str) -> Option<Identity> {
        self.backend.resolve_fingerprint(fingerprint)
    }

    /// A capability that the deployment file grants this plugin.
    pub fn capability(&self, name: &str) -> Option<Capability> {
        self.backend.capability(name)
    }

    /// Composition under the plugin's own authority, outside any call.
    pub fn env(&self) -> Arc<dyn OperationEnv> {
        self.backend.env()
    }

    /// Calls on behalf of a connection's peer, for handlers that serve the
    /// registry over a protocol of theirs. `None` unless the deployment file
    /// says `gateway = true` for this plugin.
    pub fn gateway(&self, connection: &Connection) -> Option<Arc<dyn Gateway>> {
        self.backend.gateway(connection)
    }

    /// Resolves when the node begins to drain.
    pub async fn shutdown(&self) {
        self.backend.shutdown().await;
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Host")
    }
}

/// A task started with [`Host::spawn`]. Dropping the handle lets the task run.
pub struct TaskHandle(Box<dyn TaskControl>);

/// What a host can do with a spawned task.
pub trait TaskControl: Send + Sync {
    /// Drops the task at its next suspension.
    fn abort(&self);
    /// Ready when the task has ended, in whatever way.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

impl TaskHandle {
    /// Wraps a host's control of a task.
    pub fn new(control: Box<dyn TaskControl>) -> Self {
        Self(control)
    }

    /// Drops the task at its next suspension.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// Resolves when the task has ended, in whatever way.
    pub async fn ended(&mut self) {
        std::future::poll_fn(|cx| self.0.poll_ended(cx)).await;
    }

    /// Polls as [`TaskHandle::ended`] does.
    pub fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_ended(cx)
    }
}

impl fmt::Debug for TaskHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TaskHandle")
    }
}

/// How important a log record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
#[allow(missing_docs)]
pub enum Level {
    Error = 1,
    Warn = 2,
    Info = 3,
    Debug = 4,
    Trace = 5,
}

/// One line for the node's log.
#[derive(Clone, Debug)]
pub struct LogRecord<'a> {
    /// How important it is.
    pub level: Level,
    /// Where it comes from, by convention the module's path.
    pub target: &'a str,
    /// The text.
    pub message: &'a str,
    /// Further fields, as names and texts.
    pub fields: &'a [(&'a str, &'a str)],
}

/// What a capability can be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CapabilityKind {
    /// A bearer token.
    Bearer,
    /// User name and password.
    Basic,
    /// An HTTP header with its value.
    Header,
    /// Raw bytes.
    Bytes,
    /// Signs without showing its key.
    Sign,
    /// A certificate with its key.
    TlsIdentity,
}

/// A secret that the operator lent this plugin. It prints redacted and cannot be
/// serialised.
#[derive(Clone)]
pub struct Capability(Arc<dyn CapabilityBackend>);

/// The host's side of a [`Capability`].
#[allow(missing_docs)]
pub trait CapabilityBackend: Send + Sync + 'static {
    fn kind(&self) -> CapabilityKind;
    /// The secret, unless it may only be used through the host.
    fn reveal(&self) -> Option<Bytes>;
    /// An Ed25519 signature, for [`CapabilityKind::Sign`].
    fn sign(&self, message: &[u8]) -> Option<[u8; 64]>;
    /// The answer to a request that carries the secret.
    fn send(&self, _request: HttpRequest) -> HttpFuture {
        crate::http::unavailable()
    }
}

impl Capability {
    /// Wraps a host's side.
    pub fn new(backend: Arc<dyn CapabilityBackend>) -> Self {
        Self(backend)
    }

    /// What it can be used for.
    pub fn kind(&self) -> CapabilityKind {
        self.0.kind()
    }

    /// The secret's bytes; `None` for keys that only sign, and in components
    /// unless the deployment file says `reveal = true`.
    pub fn reveal(&self) -> Option<Bytes> {
        self.0.reveal()
    }

    /// An Ed25519 signature (RFC 8032) over `message`; `None` unless the
    /// capability is of kind [`CapabilityKind::Sign`].
    pub fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        self.0.sign(message)
    }

    /// Has the host make a request with the secret in its header, for the kinds
    /// bearer, basic and header. The plugin sees the answer alone; what the asked
    /// service tells of the secret in it, the plugin sees, too. An answer takes a
    /// minute at most.
    ///
    /// # Errors
    /// - `FORBIDDEN`: the deployment file does not grant the plugin the URL's
    ///   origin, by `outbound`.
    /// - `INVALID_INPUT`: the request is malformed or over
    ///   [`MAX_BODY`](crate::http::MAX_BODY), or the capability is of another kind.
    /// - `RESOURCE_EXHAUSTED`: the answer is over `MAX_BODY`.
    /// - `INTERNAL`, retryable: there was no answer, or half of one.
    pub fn send(&self, request: HttpRequest) -> HttpFuture {
        self.0.send(request)
    }
}

impl fmt::Debug for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capability({:?}, [REDACTED])", self.kind())
    }
}

/// Makes calls as a connection's peer. The host resolves who that is, from the
/// connection and from the request's token; a plugin cannot name an identity.
/// Dropping the gateway aborts every call made through it.
pub trait Gateway: Send + Sync + 'static {
    /// Starts a call. It runs while the returned [`GatewayCall`] is polled.
    fn dispatch(&self, request: GatewayRequest) -> GatewayCall;
    /// Aborts the call with this id, if it runs.
    fn abort(&self, request_id: &str, policy: AbortPolicy);
}

/// One request from a peer, as it came.
#[derive(Clone, Debug)]
pub struct GatewayRequest {
    /// Unique among the calls in flight on the connection; 1–128 bytes.
    pub request_id: String,
    /// The operation's name; one leading slash is allowed.
    pub operation: String,
    /// The input.
    pub input: Json,
    /// A token that replaces the connection's identity for this request.
    pub auth_token: Option<String>,
    /// Who the peer says it acts for, end user first.
    pub forwarded_for: Vec<Identity>,
    /// The caller's remaining budget.
    pub timeout: Option<Duration>,
    /// The end user's address, where the gateway stands behind a proxy.
    pub remote_addr: Option<SocketAddr>,
}

/// What comes back for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayEvent {
    /// A result: the only one of a call, one of many of a subscription.
    Responded(Json),
    /// A subscription's clean end.
    Completed,
    /// The end, with an error.
    Error(CallError),
}

/// A call under way. Dropping it aborts the call.
pub struct GatewayCall(Pin<Box<dyn futures_core::Stream<Item = GatewayEvent> + Send>>);

impl GatewayCall {
    /// Wraps a stream of events.
    pub fn new(events: impl futures_core::Stream<Item = GatewayEvent> + Send + 'static) -> Self {
        Self(Box::pin(events))
    }

    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<GatewayEvent> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Polls as [`GatewayCall::next`] does.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<GatewayEvent>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for GatewayCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GatewayCall")
    }
}
