//! What host and child say to each other on their socket.
//!
//! Messages go both ways in frames: the length of the rest in four bytes, the
//! length of the head in two, the head, the body. The head says what it is, in
//! postcard's encoding; the body is whatever is long or opaque: a call's input, a
//! stream's bytes, a text in JSON. Both ends are the same binary, so there is no
//! version to agree on.
//!
//! Numbers name things of one child: connections, streams and calls are numbered by
//! the host, the child's requests, subscriptions and gateways by the child.

use alknet_plugin_api::{AbortPolicy, CallError, DatagramError, HandlerError, Json, StreamError};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes of the largest body.
pub(super) const MAX_BODY: usize = 32 << 20;
/// Bytes of the largest head.
pub(super) const MAX_HEAD: usize = u16::MAX as usize;
/// Bytes in front of a head.
pub(super) const PREFIX: usize = 6;
/// Bytes that a stream may have on the way to a reader that does not read.
pub(super) const WINDOW: u32 = 256 << 10;
/// Bytes of a stream in one frame.
pub(super) const CHUNK: usize = 64 << 10;
/// Streams of one kind that are accepted before the plugin asks for them.
pub(super) const ACCEPT_AHEAD: u32 = 8;
/// Datagrams that wait in the child before the host takes no more.
pub(super) const DATAGRAMS_AHEAD: u32 = 64;

/// A number by which both ends know a thing.
pub(super) type Id = u64;

/// The two kinds of streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Way {
    Bi,
    Uni,
}

/// What the host says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToChild {
    /// The first: what to keep to. The artifact came with the process.
    Load(Setup),
    /// Build the plugin; the body is its configuration. `now` is the host's
    /// monotonic time in nanoseconds, `levels` as for [`ToChild::Ping`].
    Build { now: u64, levels: u8 },
    /// Serve a connection; the body is [`Served`] in JSON.
    Handle { conn: Id, index: u32, max_datagram: Option<u64> },
    /// Answer a call; the body is its input, `info` its context's in JSON.
    Call { call: Id, index: u32, remaining: Option<u64>, info: String },
    /// Begin a subscription and give its first item.
    Subscribe { call: Id, index: u32, remaining: Option<u64>, info: String },
    /// Give a subscription's next item.
    Next { call: Id },
    /// Drop a handler, a call or a subscription.
    Drop { task: Id },
    /// Answers a request.
    Answer { request: Id, answer: Answer },
    /// The peer has opened a stream.
    Accepted { conn: Id, way: Way, stream: Id, number: u64 },
    /// No more streams of this kind will come.
    AcceptEnded { conn: Id, way: Way, error: WireError },
    /// A datagram has come.
    Datagram { conn: Id },
    /// No more will.
    DatagramsEnded { conn: Id, error: WireError },
    /// Bytes that the plugin reads.
    Data { stream: Id },
    /// The end of what it reads.
    End { stream: Id, end: Result<(), WireError> },
    /// The plugin may write so many bytes more.
    Credit { stream: Id, bytes: u32 },
    /// What the plugin wrote has arrived, or nobody reads it.
    Stopped { stream: Id, end: Result<Option<u64>, WireError> },
    /// Answer, if you can; `levels` has a bit for each level that is logged.
    Ping { nonce: u64, levels: u8 },
}

/// What a child keeps to, before it loads anything.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Setup {
    /// The artifact's path, for messages.
    pub(super) path: String,
    /// The host's process.
    pub(super) host: u32,
    /// Bytes of memory.
    pub(super) memory: u64,
    /// File access, where that is confined.
    pub(super) files: Option<Files>,
}

/// The files that a confined child may use.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Files {
    pub(super) read: Vec<String>,
    pub(super) write: Vec<String>,
    /// Whether the child must not run where the kernel cannot see to that.
    pub(super) required: bool,
}

/// What the child says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToHost {
    /// The plugin's manifest is the body; what confines the process.
    Loaded { confined: Option<String> },
    /// The file is no plugin, or it refuses its configuration; the body says why.
    Refused,
    /// The plugin is ready.
    Built,
    /// A handler has returned.
    Handled { conn: Id, end: Result<(), WireFailure> },
    /// A call's answer: JSON, or an error in JSON. `released` says that nothing
    /// needs its context any more.
    Answered { call: Id, ok: bool, released: bool },
    /// A subscription's next item, or its end.
    Item { call: Id, item: Option<bool> },
    /// Nothing needs this call's context any more.
    Release { call: Id },
    /// Asks for something.
    Ask { request: Id, ask: Ask },
    /// The answer is not needed any more.
    Unask { request: Id },
    /// The plugin waits for streams of this kind.
    Accept { conn: Id, way: Way, streams: u32 },
    /// The plugin waits for datagrams.
    Datagrams { conn: Id, datagrams: u32 },
    /// Sends a datagram.
    Datagram { conn: Id },
    /// Closes a connection; the body is the reason.
    Close { conn: Id, code: u64 },
    /// The plugin has let go of a connection.
    ReleaseConn { conn: Id },
    /// Bytes to send.
    Data { stream: Id },
    /// The clean end of what is sent.
    Finish { stream: Id },
    /// The other end of it.
    Reset { stream: Id, code: u64 },
    /// Orders streams.
    Priority { stream: Id, priority: i32 },
    /// The plugin has let go of a sending half.
    ReleaseSend { stream: Id },
    /// The plugin may be sent so many bytes more.
    Credit { stream: Id, bytes: u32 },
    /// The plugin reads no more and has let go of a receiving half; `None` after
    /// its end.
    Stop { stream: Id, code: Option<u64> },
    /// A subscription or a gateway's call is given up.
    DropItems { items: Id },
    /// A gateway is given up.
    DropGateway { gateway: Id },
    /// Aborts a gateway's call.
    Abort { gateway: Id, request: String, continue_running: bool },
    /// A line for the log, which is the body.
    Log { level: u8, target: String, fields: Vec<(String, String)> },
    /// A measured value.
    Metric { kind: Metric, name: String, labels: Vec<(String, String)> },
    /// A spawned task has panicked; the body is the panic's text.
    TaskPanicked,
    /// Answers a ping: how long a thread has not given way, in milliseconds.
    Pong { nonce: u64, busy: u64 },
}

/// How a metric changes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Metric {
    Count(u64),
    Gauge(f64),
    Record(f64),
}

/// What a child asks for. `call` names the call whose context is meant, or the
/// plugin itself.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Ask {
    Open {
        conn: Id,
        way: Way,
    },
    Closed {
        conn: Id,
    },
    ConnShutdown {
        conn: Id,
    },
    Stats {
        conn: Id,
    },
    MaxDatagram {
        conn: Id,
    },
    SetIdentity {
        conn: Id,
    },
    Identity {
        conn: Id,
    },
    IsCancelled {
        call: Id,
    },
    Cancelled {
        call: Id,
    },
    Ownership {
        call: Id,
    },
    Invoke {
        call: Option<Id>,
        name: String,
        policy: Option<bool>,
    },
    InvokePeer {
        call: Option<Id>,
        peer: Option<String>,
        name: String,
    },
    Subscribe {
        call: Option<Id>,
        name: String,
        policy: Option<bool>,
        items: Id,
    },
    NextItem {
        items: Id,
    },
    Contains {
        call: Option<Id>,
        name: String,
    },
    PeerContains {
        call: Option<Id>,
        peer: Option<String>,
        name: String,
    },
    Capability {
        call: Option<Id>,
        name: String,
    },
    Reveal {
        call: Option<Id>,
        name: String,
    },
    Sign {
        call: Option<Id>,
        name: String,
    },
    /// The body is the request's, `head` the rest of it in JSON.
    Send {
        call: Option<Id>,
        name: String,
        head: String,
    },
    ResolveToken,
    ResolveFingerprint {
        fingerprint: String,
    },
    Shutdown,
    OpenGateway {
        conn: Id,
        gateway: Id,
    },
    /// The body is the input, `request` the rest in JSON.
    Dispatch {
        gateway: Id,
        request: String,
        items: Id,
    },
    NextEvent {
        items: Id,
    },
}

/// What the host answers; the body belongs to some of them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// There is none.
    None,
    /// There is one: the body.
    Some,
    Flag(bool),
    Number(Option<u64>),
    Stream {
        stream: Id,
        number: u64,
    },
    StreamError(WireError),
    /// The body is a [`CallError`] in JSON.
    CallError,
    /// A gateway's call has ended well.
    Completed,
    /// `head` is an HTTP answer but for its body, in JSON.
    Http {
        head: String,
    },
}

/// [`ToChild::Handle`]'s body.
#[derive(Serialize, Deserialize)]
pub(super) struct Served {
    pub(super) info: alknet_plugin_api::ConnectionInfo,
    pub(super) auth: alknet_plugin_api::AuthContext,
}

/// A [`GatewayRequest`](alknet_plugin_api::GatewayRequest) but for its input.
#[derive(Serialize, Deserialize)]
pub(super) struct GatewayHead {
    pub(super) request_id: String,
    pub(super) operation: String,
    pub(super) auth_token: Option<String>,
    pub(super) forwarded_for: Vec<alknet_plugin_api::Identity>,
    pub(super) timeout: Option<std::time::Duration>,
    pub(super) remote_addr: Option<std::net::SocketAddr>,
}

/// A [`StreamError`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum WireError {
    ConnectionClosed,
    StreamClosed,
    Timeout,
    Reset(u64),
    Stopped(u64),
    Internal(String),
}

impl From<StreamError> for WireError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::ConnectionClosed => Self::ConnectionClosed,
            StreamError::StreamClosed => Self::StreamClosed,
            StreamError::Timeout => Self::Timeout,
            StreamError::Reset(code) => Self::Reset(code),
            StreamError::Stopped(code) => Self::Stopped(code),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<WireError> for StreamError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::ConnectionClosed => Self::ConnectionClosed,
            WireError::StreamClosed => Self::StreamClosed,
            WireError::Timeout => Self::Timeout,
            WireError::Reset(code) => Self::Reset(code),
            WireError::Stopped(code) => Self::Stopped(code),
            WireError::Internal(text) => Self::Internal(std::io::Error::other(text)),
        }
    }
}

impl From<WireError> for DatagramError {
    fn from(error: WireError) -> Self {
        StreamError::from(error).into()
    }
}

/// A [`HandlerError`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum WireFailure {
    ConnectionClosed,
    AuthRequired,
    Protocol(String),
    Stream(String),
    Internal(String),
    Panicked(String),
}

impl From<HandlerError> for WireFailure {
    fn from(error: HandlerError) -> Self {
        if let Some(panicked) = super::super::native::panic_of(&error) {
            return Self::Panicked(panicked.0.clone());
        }
        match error {
            HandlerError::ConnectionClosed => Self::ConnectionClosed,
            HandlerError::AuthRequired => Self::AuthRequired,
            HandlerError::StreamError(error) => match error.kind() {
                std::io::ErrorKind::InvalidData => Self::Protocol(error.to_string()),
                _ => Self::Stream(error.to_string()),
            },
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<WireFailure> for HandlerError {
    fn from(failure: WireFailure) -> Self {
        match failure {
            WireFailure::ConnectionClosed => Self::ConnectionClosed,
            WireFailure::AuthRequired => Self::AuthRequired,
            WireFailure::Protocol(text) => Self::protocol(text),
            WireFailure::Stream(text) => Self::StreamError(std::io::Error::other(text)),
            WireFailure::Internal(text) => Self::internal(text),
            WireFailure::Panicked(text) => {
                Self::Internal(Box::new(alknet_plugin_api::abi::Panicked(text)))
            }
        }
    }
}

/// A policy as it crosses: whether descendants go on.
pub(super) fn policy(continue_running: bool) -> AbortPolicy {
    match continue_running {
        true => AbortPolicy::ContinueRunning,
        false => AbortPolicy::AbortDependents,
    }
}

/// An answer of a call as it crosses: whether it is one, and the body.
pub(super) fn outcome(result: Result<Json, CallError>) -> (bool, Bytes) {
    let result = result.and_then(|json| match json.as_bytes().len() {
        len if len > MAX_BODY => Err(too_long("the answer", len)),
        _ => Ok(json),
    });
    match result {
        Ok(json) => (true, json.into_bytes()),
        Err(error) => (false, call_error(&error)),
    }
}

/// The reverse of [`outcome`]. The child's texts are checked: what is passed on
/// unread must be what it says.
pub(super) fn read_outcome(ok: bool, body: Bytes) -> Result<Json, CallError> {
    if !ok {
        return Err(read_call_error(&body));
    }
    let malformed = |error| CallError::internal(format!("the answer is not JSON: {error}"));
    Json::parse(body).map_err(malformed)
}

pub(super) fn call_error(error: &CallError) -> Bytes {
    serde_json::to_vec(error).unwrap_or_default().into()
}

pub(super) fn read_call_error(body: &[u8]) -> CallError {
    serde_json::from_slice(body)
        .unwrap_or_else(|error| CallError::internal(format!("a malformed error came: {error}")))
}

pub(super) fn too_long(what: &str, len: usize) -> CallError {
    CallError::new(
        alknet_plugin_api::code::RESOURCE_EXHAUSTED,
        format!("{what} has {len} bytes; between processes {MAX_BODY} may cross at once"),
    )
}
