//! quinn as a source: sockets, the accept loop and the handshake.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use alknet_plugin_api::{ConnectionInfo, Source};
use quinn::VarInt;
use quinn::crypto::rustls::QuicServerConfig;
use socket2::{Domain, Protocol, Socket, Type};

use super::EndpointError;
use super::admission::Verdict;
use super::config::EndpointConfig;
use super::dispatch::{Arrival, Dispatcher};
use super::key::NodeKey;
use super::quic::{self, QuicConnection, StreamLimits};
use super::tls;

/// Attempts that quinn may hold before the accept loop has looked at them, and
/// the bytes that they may hold. quinn's own defaults suit a machine that does
/// nothing else.
const MAX_INCOMING: usize = 1_024;
const MAX_INCOMING_BYTES: u64 = 8 << 20;
/// Bytes that a connection's streams may hold together before a handler reads
/// them. One stream alone may hold 1.25 MB.
const RECEIVE_WINDOW: u32 = 16 << 20;

/// Everything that the sockets of one node have in common. Retry tokens and
/// stateless resets hold on every shard, since all share the keys.
#[derive(Clone)]
pub(super) struct QuicSetup {
    server: quinn::ServerConfig,
    endpoint: quinn::EndpointConfig,
    handshake_timeout: Duration,
    streams: StreamLimits,
}

impl QuicSetup {
    pub(super) fn new(
        config: &EndpointConfig,
        key: &NodeKey,
        alpns: Vec<Vec<u8>>,
    ) -> Result<Self, EndpointError> {
        let crypto = tls::server_config(key, alpns)?;
        let crypto = QuicServerConfig::try_from(crypto)
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(Arc::new(transport(config)));
        server.max_incoming(MAX_INCOMING).incoming_buffer_size_total(MAX_INCOMING_BYTES);
        Ok(Self {
            server,
            endpoint: quinn::EndpointConfig::default(),
            handshake_timeout: config.handshake_timeout,
            streams: StreamLimits::of(config),
        })
    }

    /// Puts a QUIC endpoint on a socket, driven by the current runtime.
    pub(super) fn listen(&self, socket: UdpSocket) -> io::Result<quinn::Endpoint> {
        let runtime = Arc::new(quinn::TokioRuntime);
        quinn::Endpoint::new(self.endpoint.clone(), Some(self.server.clone()), socket, runtime)
    }

    /// Takes connections until the node closes. A failed handshake is counted
    /// and forgotten.
    pub(super) async fn accept(self, endpoint: quinn::Endpoint, node: Arc<Dispatcher>) {
        loop {
            let incoming = tokio::select! {
                biased;
                () = node.closing().cancelled() => return,
                incoming = endpoint.accept() => incoming,
            };
            let Some(incoming) = incoming else { return };
            if node.is_draining() {
                incoming.refuse();
                continue;
            }
            let address = incoming.remote_address().ip();
            let validated = incoming.remote_address_validated();
            let verdict = node.admission.lock().knock(node.now(), address, validated);
            match verdict {
                Verdict::Accept => {
                    let half_open = HalfOpen(node.clone());
                    let (limit, streams) = (self.handshake_timeout, self.streams);
                    tokio::spawn(async move {
                        let done = tokio::time::timeout(limit, handshake(incoming)).await;
                        let node = half_open.over();
                        match done {
                            Ok(Ok(connection)) => arrive(&node, connection, streams),
                            Ok(Err(error)) => failed(&error.to_string()),
                            Err(_) => failed("not complete in time"),
                        }
                    });
                }
                // An address that is not validated may always be asked to.
                Verdict::Retry => drop(incoming.retry()),
                Verdict::Refuse(refusal) => {
                    metrics::counter!(
                        "alknet_connections_refused_total", "limit" => refusal.text()
                    )
                    .increment(1);
                    incoming.refuse();
                }
            }
        }
    }
}

/// A handshake's place among those under way, given back when dropped.
struct HalfOpen(Arc<Dispatcher>);

impl HalfOpen {
    fn over(self) -> Arc<Dispatcher> {
        self.0.clone()
    }
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        self.0.admission.lock().handshake_over();
    }
}

async fn handshake(incoming: quinn::Incoming) -> Result<quinn::Connection, quinn::ConnectionError> {
    incoming.accept()?.await
}

fn failed(reason: &str) {
    metrics::counter!("alknet_handshakes_failed_total").increment(1);
    tracing::debug!(reason, "handshake failed");
}

fn arrive(node: &Arc<Dispatcher>, connection: quinn::Connection, limits: StreamLimits) {
    let info = ConnectionInfo {
        id: node.next_id(),
        source: Source::Quic,
        alpn: quic::alpn(&connection).unwrap_or_default(),
        remote_addr: Some(connection.remote_address()),
        peer_key: quic::peer_key(&connection).map(|key| key.0),
    };
    let streams = Arc::default();
    let connection =
        QuicConnection::new(connection, info, node.drain(), Arc::clone(&streams)).growing(limits);
    let connection = Arc::new(connection);
    let deliveries = connection.deliveries();
    node.dispatch(Arrival { connection, streams, deliveries });
}

fn transport(config: &EndpointConfig) -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    let limits = StreamLimits::of(config).first();
    transport
        .max_concurrent_bidi_streams(limits.bidirectional)
        .max_concurrent_uni_streams(limits.unidirectional)
        // quinn has no such limit unless told, and a handler need not read.
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW))
        // A file cannot ask for more than QUIC can express.
        .max_idle_timeout(Some(config.idle_timeout.try_into().unwrap_or(VarInt::MAX.into())))
        .keep_alive_interval(Some(config.keep_alive));
    transport
}

/// The sockets of one address, one a shard, all on the same port.
///
/// `SO_REUSEPORT` would also let a second daemon of the same user join in and
/// take some of the connections, so the address is first claimed without it.
pub(super) fn sockets(
    address: SocketAddr,
    count: usize,
    buffer_bytes: usize,
) -> Result<Vec<UdpSocket>, EndpointError> {
    let open = |address: SocketAddr, shared: bool| {
        socket(address, shared, buffer_bytes)
            .map_err(|source| EndpointError::Bind { address, source })
    };
    let claim = open(address, false)?;
    if count == 1 {
        return Ok(vec![claim]);
    }
    let address = claim.local_addr().map_err(|source| EndpointError::Bind { address, source })?;
    drop(claim);
    (0..count).map(|_| open(address, true)).collect()
}

fn socket(address: SocketAddr, shared: bool, buffer_bytes: usize) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        // `[::]` serves both families; the platform's default for that varies.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    #[cfg(unix)]
    socket.set_reuse_port(shared)?;
    #[cfg(not(unix))]
    let _ = shared;
    // The kernel caps these silently, and a smaller buffer still works.
    if let Err(error) = socket
        .set_recv_buffer_size(buffer_bytes)
        .and_then(|()| socket.set_send_buffer_size(buffer_bytes))
    {
        tracing::debug!(%error, "UDP socket keeps the system's buffer sizes");
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}
