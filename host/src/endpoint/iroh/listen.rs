//! iroh as a source: its sockets and relays, and who comes in by them.

use std::net::SocketAddr;
use std::sync::Arc;

use alknet_plugin_api::{ConnectionInfo, Source};
use futures_util::FutureExt;
use iroh::endpoint::{Incoming, IncomingAddr, QuicTransportConfig};

use super::{IrohError, builder};
use crate::endpoint::admission::Origin;
use crate::endpoint::attempt::{Arrived, Attempt, Door, accept};
use crate::endpoint::config::{EndpointConfig, IrohConfig, RECEIVE_WINDOW};
use crate::endpoint::dispatch::Dispatcher;
use crate::endpoint::key::{NodeKey, PublicKey};
use crate::endpoint::transport::{QuicConnection, StreamLimits, Transport};

/// A node's iroh endpoint.
pub(in crate::endpoint) struct Listener {
    iroh: iroh::Endpoint,
}

impl Listener {
    /// Listens, and hands what comes to `node`, on the current runtime.
    pub(in crate::endpoint) async fn bind(
        config: &IrohConfig,
        limits: &EndpointConfig,
        key: &NodeKey,
        node: &Arc<Dispatcher>,
    ) -> Result<Self, IrohError> {
        let alpns = node.alpns().map(|alpn| alpn.as_bytes().to_vec()).collect();
        let iroh = builder(config, Some(key))?
            .alpns(alpns)
            .transport_config(transport(limits))
            .bind()
            .await
            .map_err(|error| IrohError::Bind {
                listen: config.listen.clone(),
                reason: format!("{error:#}"),
            })?;
        let door = IrohDoor { iroh: iroh.clone(), config: Arc::new(limits.clone()) };
        tokio::spawn(accept(door, node.clone(), limits.handshake_timeout));
        Ok(Self { iroh })
    }

    /// The addresses of its sockets.
    pub(in crate::endpoint) fn addresses(&self) -> Vec<SocketAddr> {
        self.iroh.bound_sockets()
    }

    /// The relay by which it can be reached now, once it has found one.
    pub(in crate::endpoint) fn relay(&self) -> Option<String> {
        self.iroh.addr().relay_urls().next().map(ToString::to_string)
    }

    /// Closes the sockets once everybody knows. Connections should be closed
    /// before, each with its code.
    pub(in crate::endpoint) async fn close(&self) {
        self.iroh.close().await;
    }
}

fn transport(config: &EndpointConfig) -> QuicTransportConfig {
    let idle = config.idle_timeout.try_into();
    QuicTransportConfig::builder()
        // Early data would find no stream to come on; see `Knocking::handshake`.
        .max_concurrent_bidi_streams(0_u32.into())
        .max_concurrent_uni_streams(0_u32.into())
        .receive_window(RECEIVE_WINDOW.into())
        // A file cannot ask for more than QUIC can express.
        .max_idle_timeout(Some(idle.unwrap_or(iroh::endpoint::VarInt::MAX.into())))
        .keep_alive_interval(config.keep_alive)
        .build()
}

struct IrohDoor {
    iroh: iroh::Endpoint,
    config: Arc<EndpointConfig>,
}

impl Door for IrohDoor {
    type Attempt = Knocking;

    async fn next(&self) -> Option<Knocking> {
        let iroh = self.iroh.accept().await?;
        Some(Knocking { iroh, at: self.iroh.clone(), config: self.config.clone() })
    }
}

struct Knocking {
    iroh: Incoming,
    at: iroh::Endpoint,
    config: Arc<EndpointConfig>,
}

impl Attempt for Knocking {
    fn origin(&self) -> Origin {
        origin(&self.iroh.remote_addr())
    }

    fn is_validated(&self) -> bool {
        self.iroh.remote_addr_validated()
    }

    async fn handshake(self, node: Arc<Dispatcher>) -> Result<Arrived, String> {
        let from = self.iroh.remote_addr();
        let limits = node.limits();
        let accepting = match limits.shape_connections() {
            true => {
                let alpns = node.alpns().map(|alpn| alpn.as_bytes().to_vec()).collect();
                let server = self.at.create_server_config_builder(alpns);
                let server =
                    server.set_transport_config(transport(&self.config.under(&limits))).build();
                self.iroh.accept_with(Arc::new(server))
            }
            false => self.iroh.accept(),
        };
        let accepting = accepting.map_err(|error| error.to_string())?;
        let streams = StreamLimits::of(&self.config).under(&limits);
        let connection = accepting.await.map_err(|error| format!("{error:#}"))?;
        // What came before the handshake was over may be a replay.
        while let Some(Ok(_)) = Transport::read_datagram(connection.clone()).now_or_never() {}
        Ok(Box::new(move || {
            connection.set_stream_limits(streams.first());
            let info = ConnectionInfo {
                id: node.next_id(),
                source: Source::Iroh,
                alpn: String::from_utf8_lossy(connection.alpn()).into_owned(),
                remote_addr: match &from {
                    IncomingAddr::Ip(address) => Some(*address),
                    _ => None,
                },
                peer_key: Some(*connection.remote_id().as_bytes()),
            };
            QuicConnection::arrive(&node, connection, info, origin(&from), streams);
        }))
    }

    fn retry(self) {
        // An address that is not validated may always be asked to.
        let _always_possible = self.iroh.retry();
    }

    fn refuse(self) {
        self.iroh.refuse();
    }
}

fn origin(from: &IncomingAddr) -> Origin {
    match from {
        IncomingAddr::Ip(address) => Origin::Address(address.ip()),
        IncomingAddr::Relay { endpoint_id, .. } => {
            Origin::Relayed(PublicKey(*endpoint_id.as_bytes()))
        }
        // Further transports are enabled nowhere, and would count as one sender.
        _ => Origin::Relayed(PublicKey([0; 32])),
    }
}
