//! The accept loop: nothing that a client or a handler does ends it.

use std::any::Any;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use alknet_plugin_api::{AuthContext, Connection, ConnectionInfo, HandlerError, Source};
use futures_util::FutureExt;
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{IdleTimeout, Incoming, ServerConfig, TransportConfig, VarInt};
use rustls_pki_types::CertificateDer;

use super::admission::Verdict;
use super::close::{CloseCode, Crash};
use super::key::{NodeKey, fingerprint, from_spki};
use super::quic::{QuicConnection, stats, varint};
use super::table::{Carrier, Record, Route};
use super::{EndpointConfig, Shared, tls};
use crate::services::panic_text;

/// How long a handler may go on after its connection is lost, to put things in
/// order, before it is dropped.
const LINGER: Duration = Duration::from_secs(2);

/// Bytes that a peer may have under way on one stream, and on all of them.
const STREAM_WINDOW: u32 = 1_250_000;
const CONNECTION_WINDOW: u32 = 8 * STREAM_WINDOW;

/// Datagrams kept until a handler reads them, in bytes.
const DATAGRAM_BUFFER: usize = 256 * 1024;

pub(super) fn server_config(
    config: &EndpointConfig,
    key: &NodeKey,
    alpns: &[String],
) -> Result<ServerConfig, Box<dyn std::error::Error>> {
    let tls = tls::server_config(key, alpns)?;
    let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    server.transport_config(Arc::new(transport(config)?));
    // Packets of handshakes not yet looked at; the library's own limits suit a
    // larger machine.
    server.max_incoming(config.admission.half_open_refuse).incoming_buffer_size(64 * 1024);
    server.incoming_buffer_size_total(16 * 1024 * 1024);
    Ok(server)
}

pub(super) fn transport(
    config: &EndpointConfig,
) -> Result<TransportConfig, quinn::VarIntBoundsExceeded> {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::try_from(config.idle_timeout)?))
        .keep_alive_interval(Some(config.keep_alive))
        .max_concurrent_bidi_streams(VarInt::from_u32(config.bidirectional_streams))
        .max_concurrent_uni_streams(VarInt::from_u32(config.unidirectional_streams))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER));
    Ok(transport)
}

/// Accepts connections until the socket is closed.
pub(super) async fn accept(socket: quinn::Endpoint, shared: Arc<Shared>) {
    while let Some(incoming) = socket.accept().await {
        let address = incoming.remote_address();
        let validated = incoming.remote_address_validated();
        let verdict =
            shared.admission.lock().admit(address.ip(), validated, shared.start.elapsed());
        match verdict {
            Verdict::Admit if !*shared.draining.borrow() => {
                tokio::spawn(shared.handlers.track_future(serve(incoming, shared.clone())));
            }
            Verdict::Admit => {
                shared.handshake_ended(address, false);
                incoming.refuse();
            }
            Verdict::Retry => {
                metrics::counter!("alknet_handshakes_retried_total").increment(1);
                if let Err(error) = incoming.retry() {
                    error.into_incoming().refuse();
                }
            }
            Verdict::Refuse(limit) => {
                metrics::counter!("alknet_connections_refused_total", "limit" => limit).increment(1);
                tracing::debug!(%address, limit, "connection refused");
                incoming.refuse();
            }
        }
    }
}

impl Shared {
    fn handshake_ended(&self, address: SocketAddr, connected: bool) {
        let now = self.start.elapsed();
        self.admission.lock().handshake_ended(address.ip(), connected, now);
    }
}

/// Counts a connection as admitted until it is dropped.
struct Admitted {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.shared.admission.lock().disconnected(self.address.ip());
        metrics::gauge!("alknet_connections_active").decrement(1.0);
    }
}

/// One connection from its first packet to its end.
async fn serve(incoming: Incoming, shared: Arc<Shared>) {
    let address = incoming.remote_address();
    let handshake = async { incoming.accept()?.await };
    let quinn = match tokio::time::timeout(shared.config.handshake_timeout, handshake).await {
        Ok(Ok(quinn)) => quinn,
        Ok(Err(error)) => return shared.handshake_failed(address, &error.to_string()),
        Err(_) => return shared.handshake_failed(address, "it took too long"),
    };
    shared.handshake_ended(address, true);
    metrics::gauge!("alknet_connections_active").increment(1.0);
    let _admitted = Admitted { shared: shared.clone(), address };

    let route = alpn(quinn.handshake_data()).and_then(|alpn| shared.routes.get(&alpn).cloned());
    match route {
        Some(route) => dispatch(quinn, route, address, &shared).await,
        // The handshake offers only what is routed.
        None => close(&quinn, CloseCode::HandlerUnavailable),
    }
}

impl Shared {
    fn handshake_failed(&self, address: SocketAddr, error: &str) {
        self.handshake_ended(address, false);
        metrics::counter!("alknet_handshakes_failed_total").increment(1);
        tracing::debug!(%address, error, "handshake failed");
    }
}

fn alpn(handshake: Option<Box<dyn Any>>) -> Option<String> {
    let data = handshake?.downcast::<HandshakeData>().ok()?;
    String::from_utf8(data.protocol?).ok()
}

/// The Ed25519 key that the peer has proven to hold.
pub(super) fn peer_key(quinn: &quinn::Connection) -> Option<[u8; 32]> {
    let chain = quinn.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    from_spki(chain.first()?)
}

struct QuinnStats(quinn::Connection);

impl Carrier for QuinnStats {
    fn stats(&self) -> alknet_plugin_api::ConnectionStats {
        stats(&self.0)
    }
}

/// Hands a connection to its handler, and closes it as that ends.
async fn dispatch(
    quinn: quinn::Connection,
    route: Route,
    address: SocketAddr,
    shared: &Arc<Shared>,
) {
    let id = shared.table.number();
    let key = peer_key(&quinn);
    let fingerprint = key.as_ref().map(fingerprint);
    let known = fingerprint.as_deref().and_then(|f| shared.peers.resolve_from_fingerprint(f));
    let auth = AuthContext::new(
        known.as_deref().cloned(),
        &*route.alpn,
        Some(address),
        fingerprint.clone(),
        Source::Quic,
    );
    let identity = Arc::new(OnceLock::new());
    let peer = known.map(|identity| identity.id.clone()).or_else(|| fingerprint.clone());
    let peer = peer.unwrap_or_else(|| "anonymous".to_owned());
    let _entered = shared.table.enter(
        id,
        Record {
            source: Source::Quic,
            remote_addr: Some(address),
            fingerprint: Some(peer.clone()).filter(|_| key.is_some()),
            alpn: route.alpn.clone(),
            plugin: route.plugin.clone(),
            since: Instant::now(),
            identity: identity.clone(),
            carrier: Box::new(QuinnStats(quinn.clone())),
        },
    );
    let info = ConnectionInfo {
        id,
        source: Source::Quic,
        alpn: route.alpn.to_string(),
        remote_addr: Some(address),
        peer_key: key,
    };
    let backend =
        QuicConnection::new(quinn.clone(), info, identity, shared.draining.subscribe());
    tracing::info!(id, %address, peer, alpn = %route.alpn, plugin = %route.plugin, "connected");

    let connection = Connection::new(Arc::new(backend));
    let code = run(&quinn, &route, connection, auth, shared).await;
    close(&quinn, code);
    let (alpn, plugin) = (route.alpn.to_string(), route.plugin.to_string());
    metrics::counter!(
        "alknet_connections_total",
        "alpn" => alpn, "plugin" => plugin, "outcome" => code.reason()
    )
    .increment(1);
    tracing::info!(id, peer, plugin = %route.plugin, outcome = code.reason(), "disconnected");
}

/// Runs the handler to its end, and says what the peer is to be told.
async fn run(
    quinn: &quinn::Connection,
    route: &Route,
    connection: Connection,
    auth: AuthContext,
    shared: &Shared,
) -> CloseCode {
    let handler = route.handler.clone();
    // Making the future runs the handler's code too.
    let handle = AssertUnwindSafe(async move { handler.handle(connection, auth).await });
    let mut handle = Box::pin(handle.catch_unwind());
    let ended = tokio::select! {
        ended = &mut handle => ended,
        () = shared.closing.cancelled() => return CloseCode::ShuttingDown,
        _ = quinn.closed() => match tokio::time::timeout(LINGER, &mut handle).await {
            Ok(ended) => ended,
            Err(_) => {
                tracing::debug!(plugin = %route.plugin, "a handler outlived its connection and was dropped");
                return CloseCode::Done;
            }
        },
    };
    let plugin = &*route.plugin;
    match ended {
        Ok(Ok(()) | Err(HandlerError::ConnectionClosed)) => CloseCode::Done,
        Ok(Err(HandlerError::AuthRequired)) => CloseCode::AuthRequired,
        Ok(Err(HandlerError::Internal(error))) if error.is::<Crash>() => {
            crashed(plugin, &error.to_string())
        }
        Ok(Err(error)) => {
            metrics::counter!("alknet_handler_errors_total", "plugin" => plugin.to_owned())
                .increment(1);
            tracing::warn!(plugin, "the handler gave up: {error}");
            CloseCode::HandlerError
        }
        Err(panic) => crashed(plugin, panic_text(&*panic)),
    }
}

fn crashed(plugin: &str, text: &str) -> CloseCode {
    metrics::counter!("alknet_handler_panics_total", "plugin" => plugin.to_owned()).increment(1);
    tracing::error!(plugin, "the handler crashed: {text}");
    CloseCode::HandlerCrashed
}

fn close(quinn: &quinn::Connection, code: CloseCode) {
    quinn.close(varint(code.code()), code.reason().as_bytes());
}
