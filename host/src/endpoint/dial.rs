//! The client's side: dialling a node by its key, its certificate or its name.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use alknet_plugin_api::{Connection, ConnectionInfo, Source};
use parking_lot::Mutex;
use quinn::crypto::rustls::QuicClientConfig;

use super::fingerprint::Fingerprint;
use super::key::{NodeKey, PublicKey};
use super::quic;
use super::tls::{self, ClientIdentities};
use super::transport::QuicConnection;

/// Dials nodes, with a key or certificate of its own or anonymously. One dialer
/// keeps the resumption tickets of all peers that it knows by key, each under
/// that peer's key.
pub struct Dialer {
    identities: ClientIdentities,
    transport: Arc<quinn::TransportConfig>,
    /// A socket for each address family, made when first needed.
    sockets: Mutex<Sockets>,
    last_id: AtomicU64,
}

/// Whom to expect at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The key or certificate that the node must prove. Without one it must show
    /// a certificate for `host` that an authority vouches for: nobody is ever
    /// taken for granted.
    pub pin: Option<Fingerprint>,
    /// The DNS name or IP address that is dialled.
    pub host: String,
}

impl Expected {
    /// The node with this key, wherever it is.
    pub fn key(key: PublicKey) -> Self {
        Self { pin: Some(Fingerprint::Key(key)), host: String::new() }
    }

    pub(super) fn name(&self) -> String {
        tls::name_of(self.pin, &self.host)
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pin {
            Some(Fingerprint::Key(key)) => write!(f, "it holds key {key}"),
            Some(certificate) => write!(f, "it shows the certificate {certificate}"),
            None => write!(f, "an authority vouches for its certificate for `{}`", self.host),
        }
    }
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
        "no connection to {address}: {source}; check that the node runs, that {expected}, \
         and that it serves ALPN `{alpn}`"
    )]
    Handshake {
        /// Where to.
        address: SocketAddr,
        /// Whom.
        expected: Box<Expected>,
        /// What for.
        alpn: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Dialer {
    /// A dialer that proves `key`, or stays anonymous.
    ///
    /// # Errors
    /// [`DialError::Tls`] when the provider refuses the key.
    pub fn new(key: Option<&NodeKey>) -> Result<Self, DialError> {
        Ok(Self::with_identities(ClientIdentities::new(key)?))
    }

    /// A dialer that shows what `identities` hold.
    pub fn with_identities(identities: ClientIdentities) -> Self {
        let mut transport = quinn::TransportConfig::default();
        transport.keep_alive_interval(Some(Duration::from_secs(10)));
        Self {
            identities,
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
        self.dial_expecting(address, &Expected::key(key), alpn).await
    }

    /// Connects to the node that is `expected`, as [`dial`](Self::dial) does.
    ///
    /// # Errors
    /// As for [`dial`](Self::dial); [`DialError::Tls`] when there is no authority
    /// to ask about a node that is not pinned.
    pub async fn dial_expecting(
        &self,
        address: SocketAddr,
        expected: &Expected,
        alpn: &str,
    ) -> Result<Connection, DialError> {
        let crypto = self.config(expected, alpn)?;
        self.dial_config(address, expected, &expected.name(), alpn, crypto).await
    }

    pub(super) fn config(
        &self,
        expected: &Expected,
        alpn: &str,
    ) -> Result<rustls::ClientConfig, DialError> {
        Ok(self.identities.config(expected.pin, alpn)?)
    }

    /// Dials with a TLS configuration of the test's own.
    #[cfg(test)]
    pub(super) fn with_crypto(crypto: rustls::ClientConfig) -> Self {
        Self::with_identities(ClientIdentities::with_raw(crypto))
    }

    /// Dials under a name that is not the key's.
    #[cfg(test)]
    pub(super) async fn dial_name(
        &self,
        address: SocketAddr,
        key: PublicKey,
        name: &str,
        alpn: &str,
    ) -> Result<Connection, DialError> {
        let expected = Expected::key(key);
        let crypto = self.config(&expected, alpn)?;
        self.dial_config(address, &expected, name, alpn, crypto).await
    }

    pub(super) async fn dial_config(
        &self,
        address: SocketAddr,
        expected: &Expected,
        name: &str,
        alpn: &str,
        crypto: rustls::ClientConfig,
    ) -> Result<Connection, DialError> {
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
            expected: expected.clone().into(),
            alpn: alpn.to_owned(),
            source: source.into(),
        })?;
        let info = ConnectionInfo {
            id: self.next_id(),
            source: Source::Quic,
            alpn: alpn.to_owned(),
            remote_addr: Some(connection.remote_address()),
            peer_key: quic::peer(&connection).and_then(|peer| peer.key()).map(|key| key.0),
        };
        Ok(Connection::new(Arc::new(QuicConnection::dialled(connection, info))))
    }

    pub(super) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
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
