//! `from_call`: another node's operations.
//!
//! The adapter dials the node, whose key the deployment file pins, with this node's
//! own key; asks what it lists; and mirrors each spec but for its visibility. Calls
//! go over that one connection. They carry what is left of their time, whom they are
//! made for, and, when they are aborted, how far the abort goes.
//!
//! While a call is under way the peer must show signs of life; a silent one is given
//! up within a second, and with it the connection, its calls and its operations.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use alknet_call_protocol::{ALPN, CallClient, CallConnection, CallOptions, Options, Timer};
use alknet_plugin_api::{CallError, Capability, Connection, code};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::{AdapterError, OperationAdapter, Selection};
use crate::config::NodeAddress;
use crate::endpoint::{CloseCode, DialError, Dialer, PublicKey};
use crate::registry::HandlerRegistration;

mod discovery;
mod liveness;
mod remote;

pub use discovery::from_call;

/// A peer that has said nothing for so long is lost, calls or none.
pub const IDLE: Duration = Duration::from_secs(15);
/// How often a peer without calls is asked for a sign of life.
pub const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long one address may take to answer. A node that is starting is found by the
/// next attempt.
const CONNECT: Duration = Duration::from_secs(4);
/// How long a connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_millis(300);

/// What [`from_call`] needs to know beside the connection.
#[derive(Clone)]
pub struct FromCallConfig {
    /// The import's name in the deployment file.
    pub import: Arc<str>,
    /// The peer's id.
    pub peer: Arc<str>,
    /// Which operations, and under which prefix.
    pub selection: Selection,
    /// Whether the peer is not told whom calls are made for.
    pub withhold_origin: bool,
    /// A token that requests carry.
    pub credential: Option<Capability>,
    /// How long each question about its operations may take.
    pub timeout: Duration,
}

impl FromCallConfig {
    /// How errors call the source.
    fn source_name(&self) -> String {
        format!("import `{}`", self.import)
    }
}

/// Imports the operations of a node that it dials.
pub struct NodeAdapter {
    config: FromCallConfig,
    address: NodeAddress,
    dialer: Arc<Dialer>,
    current: Mutex<Option<Arc<Link>>>,
}

impl NodeAdapter {
    /// An adapter for the node at `address`.
    pub fn new(config: FromCallConfig, address: NodeAddress, dialer: Arc<Dialer>) -> Self {
        Self { config, address, dialer, current: Mutex::default() }
    }

    async fn dial(&self) -> Result<Connection, AdapterError> {
        let NodeAddress { host, port, .. } = &self.address;
        let unreachable = |cause: String| AdapterError::Transport {
            source_name: self.config.source_name(),
            cause,
        };
        let key = self.address.key().ok_or_else(|| {
            unreachable("its `address` has no key; write `alknet://<key>@host:port`".to_owned())
        })?;
        let resolved = tokio::net::lookup_host((host.as_str(), *port)).await.map_err(|error| {
            unreachable(format!("the name `{host}` does not resolve: {error}; see `address`"))
        })?;
        let mut last = format!("the name `{host}` has no address");
        for address in resolved {
            match self.dial_one(address, PublicKey(key.0)).await {
                Ok(connection) => return Ok(connection),
                Err(cause) => last = cause,
            }
        }
        Err(unreachable(last))
    }

    async fn dial_one(&self, address: SocketAddr, key: PublicKey) -> Result<Connection, String> {
        let dialled = tokio::time::timeout(CONNECT, self.dialer.dial(address, key, ALPN)).await;
        match dialled {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(dial_text(&error)),
            Err(_) => Err(format!(
                "nothing answers at {address} within {CONNECT:?}; see that the node runs and that \
                 its UDP port is open"
            )),
        }
    }
}

fn dial_text(error: &DialError) -> String {
    error.to_string()
}

impl OperationAdapter for NodeAdapter {
    fn import(&self) -> BoxFuture<'_, Result<Vec<HandlerRegistration>, AdapterError>> {
        Box::pin(async move {
            self.current.lock().take();
            let link = Arc::new(Link::new(self.dial().await?, self.config.peer.clone()));
            let operations = from_call(&link, &self.config).await?;
            *self.current.lock() = Some(link);
            Ok(operations)
        })
    }

    fn lost(&self) -> BoxFuture<'_, AdapterError> {
        Box::pin(async move {
            let link = self.current.lock().clone();
            let cause = match &link {
                Some(link) => link.lost().await,
                None => "it is not connected".to_owned(),
            };
            self.current.lock().take();
            AdapterError::Transport { source_name: self.config.source_name(), cause }
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(link) = self.current.lock().take() {
                link.close(CloseCode::Done.text());
            }
            let _too_late = tokio::time::timeout(GOODBYE, self.dialer.wait_idle()).await;
        })
    }
}

/// A connection to a peer whose operations are imported. Dropping it ends the
/// connection and the calls over it.
pub struct Link {
    calls: CallConnection,
    peer: Arc<str>,
    driver: AbortHandle,
    in_flight: AtomicUsize,
    busy: Notify,
}

/// A call over a link, for as long as it is under way.
struct Flight(Arc<Link>);

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Link {
    /// Calls over an established connection to the peer with this id. It is driven by
    /// a task on the current runtime.
    pub fn new(connection: Connection, peer: Arc<str>) -> Self {
        let (calls, driver) = CallClient::spawn_dispatch(connection, Options::new(Arc::new(Clock)));
        let driver = tokio::spawn(driver).abort_handle();
        Self { calls, peer, driver, in_flight: AtomicUsize::new(0), busy: Notify::new() }
    }

    fn enter(self: &Arc<Self>) -> Flight {
        if self.in_flight.fetch_add(1, Ordering::AcqRel) == 0 {
            self.busy.notify_one();
        }
        Flight(self.clone())
    }

    /// Waits for the end of the connection, and says why it came.
    async fn lost(&self) -> String {
        let connection = self.calls.connection();
        tokio::select! {
            closed = connection.closed() => {
                match closed.code.and_then(CloseCode::from_code) {
                    Some(CloseCode::PeerRemoved) => {
                        "it closed the connection: its access.toml no longer lists this node's key"
                            .to_owned()
                    }
                    Some(code) => format!("it closed the connection: {}", code.text()),
                    None => format!("the connection is lost: {}", closed.reason),
                }
            }
            () = liveness::silence(self) => {
                self.close("silent");
                format!("it has been silent for {:?} with a call under way", liveness::PATIENCE)
            }
        }
    }

    fn close(&self, reason: &str) {
        self.calls.connection().close(CloseCode::Done.code(), reason);
    }

    /// A call's error, as the node's own callers are to understand it.
    fn explain(&self, error: CallError) -> CallError {
        let of_this_side = error.code == code::INTERNAL
            && (error.message == "connection closed" || error.message == "stream ended");
        if !of_this_side || !self.calls.is_closed() {
            return error;
        }
        let message =
            format!("connection closed: peer `{}` is lost; call again once it is back", self.peer);
        CallError::internal(message).retryable(true)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close(CloseCode::Done.text());
        self.driver.abort();
    }
}

/// Tokio's timers.
struct Clock;

impl Timer for Clock {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// What every request to the peer carries, discovery's too.
fn request(config: &FromCallConfig, token: Option<String>) -> CallOptions {
    CallOptions { timeout: Some(config.timeout), auth_token: token, ..CallOptions::default() }
}

/// The token that a credential holds.
fn token(import: &str, credential: Option<&Capability>) -> Result<Option<String>, CallError> {
    let Some(credential) = credential else { return Ok(None) };
    let secret = credential.reveal().and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
    secret.map(Some).ok_or_else(|| {
        CallError::internal(format!(
            "the credential of import `{import}` is no token; store one under its vault entry"
        ))
    })
}
