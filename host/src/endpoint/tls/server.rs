//! The server's side of every source: which identity a client is shown.

use std::sync::Arc;

use rustls::server::{CertificateType, ClientHello};
use rustls::{Error, ServerConfig};

use super::super::identity::LiveCertificate;
use super::super::key::NodeKey;
use super::{server_config, x509};

/// Both complete configurations of one listener. rustls decides between raw keys
/// and certificates by configuration and not by connection, so a listener reads
/// the client's hello first and then takes the one that suits it.
#[derive(Clone)]
pub struct ServerIdentities {
    /// For clients that offer raw public keys.
    pub(in super::super) raw: Arc<ServerConfig>,
    /// For all others, where the node has a certificate.
    pub(in super::super) x509: Option<Arc<ServerConfig>>,
}

impl ServerIdentities {
    /// The node's key and, where it has one, its certificate, on a listener that
    /// offers `alpns` in this order of preference.
    ///
    /// # Errors
    /// The provider refuses the key or lacks TLS 1.3.
    pub fn new(
        key: &NodeKey,
        certificate: Option<Arc<LiveCertificate>>,
        alpns: Vec<Vec<u8>>,
    ) -> Result<Self, Error> {
        let x509 = certificate
            .map(|certificate| x509::server_config(certificate, alpns.clone()).map(Arc::new))
            .transpose()?;
        Ok(Self { raw: Arc::new(server_config(key, alpns)?), x509 })
    }

    /// The configuration for this client.
    pub fn choose(&self, hello: &ClientHello<'_>) -> &Arc<ServerConfig> {
        match &self.x509 {
            Some(x509) if !offers_raw_keys(hello) => x509,
            _ => &self.raw,
        }
    }
}

/// Whether the client can take a raw key from the server (RFC 7250).
pub(in super::super) fn offers_raw_keys(hello: &ClientHello<'_>) -> bool {
    hello.server_cert_types().is_some_and(|types| types.contains(&CertificateType::RawPublicKey))
}
