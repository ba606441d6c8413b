//! Connecting to other nodes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use alknet_plugin_api::{Connection, ConnectionInfo, Source};
use parking_lot::Mutex;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};
use tokio::sync::watch;

use super::accept::{peer_key, transport};
use super::close::CloseCode;
use super::key::NodeKey;
use super::quic::{QuicConnection, varint};
use super::{EndpointConfig, tls};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// No socket, or no TLS configuration.
    #[error("cannot prepare to connect: {0}")]
    Setup(String),
    /// The node did not answer in time.
    #[error("{address} did not answer within {} s; is the node running, and UDP let through?", timeout.as_secs())]
    Timeout {
        /// Its address.
        address: SocketAddr,
        /// How long was waited.
        timeout: Duration,
    },
    /// The node at this address holds another key.
    #[error("the node at {address} is not the one expected: its key differs; correct the address or the key")]
    WrongKey {
        /// Its address.
        address: SocketAddr,
    },
    /// The node serves nothing under this ALPN.
    #[error("the node at {address} serves no `{alpn}`; see `alknet status` for what it serves")]
    NoProtocol {
        /// Its address.
        address: SocketAddr,
        /// What was asked for.
        alpn: String,
    },
    /// The handshake failed otherwise.
    #[error("cannot connect to {address}: {cause}")]
    Handshake {
        /// Its address.
        address: SocketAddr,
        /// What was wrong.
        cause: String,
    },
}

/// TLS alert 120, in QUIC's range of crypto errors (RFC 9001 section 4.8).
const NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;
/// TLS alerts that a client raises against a certificate it does not take.
const BAD_CERTIFICATE: [u64; 2] = [0x100 + 42, 0x100 + 46];

/// Connects to nodes, with a key or anonymously, and lives as long as its
/// connections do.
pub struct Dialer {
    endpoint: Endpoint,
    key: Option<NodeKey>,
    timeout: Duration,
    /// Made once for each ALPN, so that tickets are found again.
    configs: Mutex<Vec<(String, ClientConfig)>>,
    draining: watch::Sender<bool>,
}

impl Dialer {
    /// A dialer that proves to hold `key`. Must be made on a tokio runtime.
    ///
    /// # Errors
    /// No UDP socket is to be had.
    pub fn new(key: Option<NodeKey>) -> Result<Self, DialError> {
        let any: [SocketAddr; 2] =
            [(Ipv6Addr::UNSPECIFIED, 0).into(), (Ipv4Addr::UNSPECIFIED, 0).into()];
        let endpoint = Endpoint::client(any[0])
            .or_else(|_| Endpoint::client(any[1]))
            .map_err(|error| DialError::Setup(error.to_string()))?;
        Ok(Self {
            endpoint,
            key,
            timeout: EndpointConfig::default().handshake_timeout,
            configs: Mutex::default(),
            draining: watch::Sender::new(false),
        })
    }

    /// Connects to the node that holds `server_key`, for `alpn`.
    ///
    /// # Errors
    /// No answer in time, another key, an ALPN that is not served.
    pub async fn dial(
        &self,
        address: SocketAddr,
        server_key: &[u8; 32],
        alpn: &str,
    ) -> Result<Connection, DialError> {
        let config = self.config(alpn)?;
        let name = tls::name_of(server_key);
        let target = match (self.endpoint.local_addr(), address) {
            // An IPv6 socket reaches IPv4 through mapped addresses.
            (Ok(SocketAddr::V6(_)), SocketAddr::V4(v4)) => {
                SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()))
            }
            _ => address,
        };
        let connecting = self
            .endpoint
            .connect_with(config, target, &name)
            .map_err(|error| DialError::Setup(error.to_string()))?;
        let quinn = match tokio::time::timeout(self.timeout, connecting).await {
            Ok(Ok(quinn)) => quinn,
            Ok(Err(error)) => return Err(refused(address, alpn, error, self.timeout)),
            Err(_) => return Err(DialError::Timeout { address, timeout: self.timeout }),
        };
        let info = ConnectionInfo {
            id: quinn.stable_id() as u64,
            source: Source::Quic,
            alpn: alpn.to_owned(),
            remote_addr: Some(address),
            peer_key: peer_key(&quinn),
        };
        let identity = Arc::new(OnceLock::new());
        let backend = QuicConnection::new(quinn, info, identity, self.draining.subscribe());
        Ok(Connection::new(Arc::new(backend)))
    }

    /// Closes every connection, and waits until their peers know, at most half a
    /// second.
    pub async fn close(&self) {
        self.draining.send_replace(true);
        let code = CloseCode::Done;
        self.endpoint.close(varint(code.code()), code.reason().as_bytes());
        let _lost =
            tokio::time::timeout(Duration::from_millis(500), self.endpoint.wait_idle()).await;
    }

    fn config(&self, alpn: &str) -> Result<ClientConfig, DialError> {
        let mut configs = self.configs.lock();
        if let Some((_, config)) = configs.iter().find(|(known, _)| known == alpn) {
            return Ok(config.clone());
        }
        let setup = |error: Box<dyn std::error::Error>| DialError::Setup(error.to_string());
        let tls = tls::client_config(self.key.as_ref(), alpn).map_err(|e| setup(e.into()))?;
        let crypto = QuicClientConfig::try_from(tls).map_err(|e| setup(e.into()))?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        let transport = transport(&EndpointConfig::default()).map_err(|e| setup(e.into()))?;
        config.transport_config(Arc::new(transport));
        configs.push((alpn.to_owned(), config.clone()));
        Ok(config)
    }
}

fn refused(
    address: SocketAddr,
    alpn: &str,
    error: quinn::ConnectionError,
    timeout: Duration,
) -> DialError {
    use quinn::ConnectionError;
    let code = match &error {
        ConnectionError::TimedOut => return DialError::Timeout { address, timeout },
        ConnectionError::TransportError(error) => u64::from(error.code),
        ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
        _ => 0,
    };
    match code {
        NO_APPLICATION_PROTOCOL => DialError::NoProtocol { address, alpn: alpn.to_owned() },
        code if BAD_CERTIFICATE.contains(&code) => DialError::WrongKey { address },
        _ => DialError::Handshake { address, cause: error.to_string() },
    }
}
