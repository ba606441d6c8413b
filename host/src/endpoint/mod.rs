//! Listeners, TLS identities, admission, the accept loop and the connection table.
//!
//! An [`Endpoint`] listens on UDP, and hands each connection, by its ALPN, to a
//! handler from a frozen [`RouteTable`]. A [`Dialer`] is the other end: what the
//! command line and outgoing calls connect with.
//!
//! The way of a connection: [admission](admission) → handshake with a time limit
//! → ALPN → who the proven key belongs to → [connection table](ConnectionTable)
//! → the handler's own task → [close code](CloseCode).
//!
//! quinn is one transport behind `ConnectionBackend`; no type of it shows here.

mod accept;
pub mod admission;
mod close;
mod dial;
mod key;
mod quic;
mod shard;
mod table;
mod tls;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use admission::AdmissionLimits;
pub use close::{CloseCode, Crash};
pub use dial::{DialError, Dialer};
pub use key::{NodeKey, fingerprint};
pub use table::{ConnectionTable, DuplicateAlpn, Route, RouteTable};

use crate::auth::IdentityProvider;

/// How an endpoint listens.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// UDP addresses. Port 0 lets the system choose.
    pub listen: Vec<SocketAddr>,
    /// Threads that each drive their own socket of every address; 0 drives one
    /// socket on the caller's runtime. See `docs/adr/0003-runtime-shape.md`.
    pub shards: usize,
    /// For a handshake to complete. Default 5 s.
    pub handshake_timeout: Duration,
    /// Without a packet from the peer, after which a connection is lost.
    /// Default 30 s.
    pub idle_timeout: Duration,
    /// Between packets that keep an idle connection alive. Default 10 s.
    pub keep_alive: Duration,
    /// Bidirectional streams that a peer may have open. Default 1,000.
    pub bidirectional_streams: u32,
    /// Unidirectional streams that a peer may have open. Default 100.
    pub unidirectional_streams: u32,
    /// Who may connect.
    pub admission: AdmissionLimits,
}

impl Default for EndpointConfig {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            shards: 0,
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(10),
            bidirectional_streams: 1_000,
            unidirectional_streams: 100,
            admission: AdmissionLimits::default(),
        }
    }
}

/// Why an endpoint does not listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointError {
    /// The address is not to be had.
    #[error(
        "cannot listen on UDP {address}: {error}; is another node running, or the port reserved?"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The key or the crypto provider does not serve TLS.
    #[error("the node's key cannot serve TLS: {0}")]
    Tls(String),
    /// A thread could not be started.
    #[error("cannot start a network thread: {0}")]
    Thread(io::Error),
}

/// What all sockets of an endpoint share.
pub(crate) struct Shared {
    config: EndpointConfig,
    routes: RouteTable,
    peers: Arc<dyn IdentityProvider>,
    table: Arc<ConnectionTable>,
    admission: parking_lot::Mutex<admission::Admission>,
    start: std::time::Instant,
    handlers: TaskTracker,
    draining: watch::Sender<bool>,
    /// Ends handlers that outlast the drain.
    closing: CancellationToken,
}

/// A node's listening side.
pub struct Endpoint {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    sockets: Vec<quinn::Endpoint>,
    shards: shard::Shards,
}

impl Endpoint {
    /// Listens on every address of `config`, as the holder of `key`, and serves
    /// `routes`. `draining` turns true when [`Endpoint::shutdown`] begins.
    ///
    /// # Errors
    /// An address that is not to be had, or a key that does not serve TLS.
    pub fn bind(
        config: EndpointConfig,
        key: &NodeKey,
        routes: RouteTable,
        peers: Arc<dyn IdentityProvider>,
        draining: watch::Sender<bool>,
    ) -> Result<Self, EndpointError> {
        let admission = parking_lot::Mutex::new(admission::Admission::new(config.admission.clone()));
        let server = accept::server_config(&config, key, routes.alpns())
            .map_err(|error| EndpointError::Tls(error.to_string()))?;
        let shared = Arc::new(Shared {
            config,
            routes,
            peers,
            table: Arc::default(),
            admission,
            start: std::time::Instant::now(),
            handlers: TaskTracker::new(),
            draining,
            closing: CancellationToken::new(),
        });
        let mut shards = shard::Shards::new(shared.config.shards)?;
        let (mut addresses, mut sockets) = (Vec::new(), Vec::new());
        for &address in &shared.config.listen {
            let bound = shards.bind(address, &server)?;
            addresses.push(bound.address);
            for (place, socket) in bound.sockets {
                shards.spawn(place, accept::accept(socket.clone(), shared.clone()));
                sockets.push(socket);
            }
        }
        Ok(Self { shared, addresses, sockets, shards })
    }

    /// The addresses in use, with the ports that the system chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The live connections.
    pub fn connections(&self) -> &Arc<ConnectionTable> {
        &self.shared.table
    }

    /// Stops accepting, tells every handler, waits for them at most `drain`, and
    /// closes what is left with [`CloseCode::ShuttingDown`]. Returns as soon as
    /// all handlers are done.
    pub async fn shutdown(&self, drain: Duration) {
        for socket in &self.sockets {
            socket.set_server_config(None);
        }
        self.shared.draining.send_replace(true);
        self.shared.handlers.close();
        // The limit is what the caller asked for, not a failure.
        let _limit = tokio::time::timeout(drain, self.shared.handlers.wait()).await;
        self.close_now().await;
    }

    /// Closes every connection with [`CloseCode::ShuttingDown`], at once.
    pub async fn close_now(&self) {
        for socket in &self.sockets {
            socket.set_server_config(None);
        }
        self.shared.draining.send_replace(true);
        self.shared.closing.cancel();
        self.shared.handlers.close();
        let code = CloseCode::ShuttingDown;
        // A handler that blocks its thread must not keep the node from ending.
        let _stuck = tokio::time::timeout(CLOSING, self.shared.handlers.wait()).await;
        for socket in &self.sockets {
            socket.close(quic::varint(code.code()), code.reason().as_bytes());
        }
        let idle = futures_util::future::join_all(self.sockets.iter().map(|s| s.wait_idle()));
        let _lost = tokio::time::timeout(CLOSING, idle).await;
        self.shards.stop();
    }
}

/// For close frames to leave, and for dropped handlers to unwind.
const CLOSING: Duration = Duration::from_millis(500);
