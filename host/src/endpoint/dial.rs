//! The client's side: dialling a node by its key.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alknet_plugin_api::{Connection, ConnectionInfo, Source};
use parking_lot::Mutex;
use quinn::crypto::rustls::QuicClientConfig;

use super::key::{NodeKey, PublicKey};
use super::transport::QuicConnection;
use super::{quic, tls};

/// Dials nodes, with a key of its own or anonymously. One dialer keeps the
/// resumption tickets of all its peers, each under that peer's key.
pub struct Dialer {
    crypto: rustls::ClientConfig,
    transport: Arc<quinn::TransportConfig>,
    /// A socket for each address family, made when first needed.
    sockets: Mutex<Sockets>,
    last_id: AtomicU64,
}

#[derive(Default)]
struct Sockets {
    v4: Option<quinn::Endpoint>,
    v6: Option<quinn::Endpoint>,
}

/// Why a node could not be dialled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No local socket.
    #[error("cannot open a UDP socket: {0}; check the process's limits and sandbox")]
    Socket(#[source] std::io::Error),
    /// The TLS configuration does not stand.
    #[error("cannot set TLS up: {0}")]
    Tls(#[from] rustls::Error),
    /// The address cannot be dialled at all.
    #[error("cannot dial {address}: {source}")]
    Address {
        /// Where to.
        address: SocketAddr,
        /// What is wrong with it.
        source: quinn::ConnectError,
    },
    /// The handshake failed.
    #[error(
        "no connection to {address}: {source}; check that the node runs, that it holds key \
         {key}, and that it serves ALPN `{alpn}`"
    )]
    Handshake {
        /// Where to.
        address: SocketAddr,
        /// Whom.
        key: PublicKey,
        /// What for.
        alpn: String,
        /// Why not.
        source: Box<quinn::ConnectionError>,
    },
}

impl Dialer {
    /// A dialer that proves `key`, or stays anonymous.
    ///
    /// # Errors
    /// [`DialError::Tls`] when the provider refuses the key.
    pub fn new(key: Option<&NodeKey>) -> Result<Self, DialError> {
        Ok(Self::with_crypto(tls::client_config(key)?))
    }

    pub(super) fn with_crypto(crypto: rustls::ClientConfig) -> Self {
        let mut transport = quinn::TransportConfig::default();
        transport.keep_alive_interval(Some(Duration::from_secs(10)));
        Self {
            crypto,
            transport: Arc::new(transport),
            sockets: Mutex::default(),
            last_id: AtomicU64::new(0),
        }
    }

    /// Keeps silent connections alive at this interval, and gives them up when the
    /// peer has sent nothing for `idle`. Default: 10 s and 30 s.
    #[must_use]
    pub fn with_times(mut self, keep_alive: Duration, idle: Duration) -> Self {
        let mut transport = quinn::TransportConfig::default();
        transport.keep_alive_interval(Some(keep_alive));
        // Only a time of thousands of years does not fit.
        transport.max_idle_timeout(quinn::IdleTimeout::try_from(idle).ok());
        self.transport = Arc::new(transport);
        self
    }

    /// Connects to the node that holds `key`, for `alpn`. Dropping the future
    /// gives the attempt up. The connection ends with this dialer's runtime.
    ///
    /// # Errors
    /// [`DialError::Handshake`] when nobody answers, somebody else does, or the
    /// ALPN is not served.
    pub async fn dial(
        &self,
        address: SocketAddr,
        key: PublicKey,
        alpn: &str,
    ) -> Result<Connection, DialError> {
        self.dial_name(address, key, &tls::server_name(&key), alpn).await
    }

    pub(super) async fn dial_name(
        &self,
        address: SocketAddr,
        key: PublicKey,
        name: &str,
        alpn: &str,
    ) -> Result<Connection, DialError> {
        let mut crypto = self.crypto.clone();
        crypto.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let crypto = QuicClientConfig::try_from(crypto)
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.transport.clone());
        let connecting = self
            .endpoint(address)?
            .connect_with(config, address, name)
            .map_err(|source| DialError::Address { address, source })?;
        let connection = connecting.await.map_err(|source| DialError::Handshake {
            address,
            key,
            alpn: alpn.to_owned(),
            source: Box::new(source),
        })?;
        let info = ConnectionInfo {
            id: self.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            source: Source::Quic,
            alpn: alpn.to_owned(),
            remote_addr: Some(connection.remote_address()),
            peer_key: quic::peer_key(&connection).map(|key| key.0),
        };
        Ok(Connection::new(Arc::new(QuicConnection::dialled(connection, info))))
    }

    fn endpoint(&self, address: SocketAddr) -> Result<quinn::Endpoint, DialError> {
        let mut sockets = self.sockets.lock();
        let (slot, local) = match address {
            SocketAddr::V4(_) => (&mut sockets.v4, Ipv4Addr::UNSPECIFIED.into()),
            SocketAddr::V6(_) => (&mut sockets.v6, Ipv6Addr::UNSPECIFIED.into()),
        };
        if let Some(endpoint) = slot {
            return Ok(endpoint.clone());
        }
        let endpoint =
            quinn::Endpoint::client(SocketAddr::new(local, 0)).map_err(DialError::Socket)?;
        Ok(slot.insert(endpoint).clone())
    }

    /// Waits until what has been closed is closed on the wire too.
    pub async fn wait_idle(&self) {
        let (v4, v6) = {
            let sockets = self.sockets.lock();
            (sockets.v4.clone(), sockets.v6.clone())
        };
        for endpoint in [v4, v6].into_iter().flatten() {
            endpoint.wait_idle().await;
        }
    }
}
