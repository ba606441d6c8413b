//! quinn as a source: sockets, the accept loop and the handshake.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use alknet_plugin_api::{ConnectionInfo, Source};
use quinn::VarInt;
use socket2::{Domain, Protocol, Socket, Type};

use super::EndpointError;
use super::admission::Origin;
use super::attempt::{Arrived, Attempt, Door, accept};
use super::config::{ConnectionLimits, EndpointConfig, RECEIVE_WINDOW};
use super::dispatch::Dispatcher;
use super::either::quic_config;
use super::quic;
use super::tls::ServerIdentities;
use super::transport::{QuicConnection, StreamLimits};

/// Attempts that quinn may hold before the accept loop has looked at them, and
/// the bytes that they may hold. quinn's own defaults suit a machine that does
/// nothing else.
const MAX_INCOMING: usize = 1_024;
const MAX_INCOMING_BYTES: u64 = 8 << 20;

/// Everything that the sockets of one node have in common. Retry tokens and
/// stateless resets hold on every shard, since all share the keys.
#[derive(Clone)]
pub(super) struct QuicSetup {
    server: quinn::ServerConfig,
    endpoint: quinn::EndpointConfig,
    config: EndpointConfig,
}

impl QuicSetup {
    pub(super) fn new(
        config: &EndpointConfig,
        identities: &ServerIdentities,
    ) -> Result<Self, EndpointError> {
        let mut server = quinn::ServerConfig::with_crypto(quic_config(identities)?);
        server.transport_config(Arc::new(transport(config)));
        server.max_incoming(MAX_INCOMING).incoming_buffer_size_total(MAX_INCOMING_BYTES);
        Ok(Self { server, endpoint: quinn::EndpointConfig::default(), config: config.clone() })
    }

    /// Puts a QUIC endpoint on a socket, driven by the current runtime.
    pub(super) fn listen(&self, socket: UdpSocket) -> io::Result<quinn::Endpoint> {
        let runtime = Arc::new(quinn::TokioRuntime);
        quinn::Endpoint::new(self.endpoint.clone(), Some(self.server.clone()), socket, runtime)
    }

    /// Takes connections until the node closes. A failed handshake is counted
    /// and forgotten.
    pub(super) async fn accept(self, endpoint: quinn::Endpoint, node: Arc<Dispatcher>) {
        let limit = self.config.handshake_timeout;
        let door = QuicDoor { quinn: endpoint, setup: Arc::new(self) };
        accept(door, node, limit).await;
    }

    /// For one connection under these limits.
    fn server(&self, limits: &ConnectionLimits) -> Arc<quinn::ServerConfig> {
        let mut server = self.server.clone();
        server.transport_config(Arc::new(transport(&self.config.under(limits))));
        Arc::new(server)
    }
}

struct QuicDoor {
    quinn: quinn::Endpoint,
    setup: Arc<QuicSetup>,
}

impl Door for QuicDoor {
    type Attempt = Knocking;

    async fn next(&self) -> Option<Knocking> {
        Some(Knocking { quinn: self.quinn.accept().await?, setup: self.setup.clone() })
    }
}

/// An attempt that the node has not answered yet.
struct Knocking {
    quinn: quinn::Incoming,
    setup: Arc<QuicSetup>,
}

impl Attempt for Knocking {
    fn origin(&self) -> Origin {
        Origin::Address(self.quinn.remote_address().ip())
    }

    fn is_validated(&self) -> bool {
        self.quinn.remote_address_validated()
    }

    async fn handshake(self, node: Arc<Dispatcher>) -> Result<Arrived, String> {
        let limits = node.limits();
        let connecting = match limits.shape_connections() {
            true => self.quinn.accept_with(self.setup.server(&limits)),
            false => self.quinn.accept(),
        };
        let connecting = connecting.map_err(|error| error.to_string())?;
        let streams = StreamLimits::of(&self.setup.config).under(&limits);
        let connection = connecting.await.map_err(|error| error.to_string())?;
        Ok(Box::new(move || {
            let address = connection.remote_address();
            let info = ConnectionInfo {
                id: node.next_id(),
                source: Source::Quic,
                alpn: quic::alpn(&connection).unwrap_or_default(),
                remote_addr: Some(address),
                peer_key: quic::peer(&connection).and_then(|peer| peer.key()).map(|key| key.0),
            };
            let origin = Origin::Address(address.ip());
            QuicConnection::arrive(&node, connection, info, origin, streams);
        }))
    }

    fn retry(self) {
        // An address that is not validated may always be asked to.
        let _always_possible = self.quinn.retry();
    }

    fn refuse(self) {
        self.quinn.refuse();
    }
}

fn transport(config: &EndpointConfig) -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    let limits = StreamLimits::of(config).first();
    transport
        .max_concurrent_bidi_streams(limits.bidirectional.into())
        .max_concurrent_uni_streams(limits.unidirectional.into())
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
