//! The client's side: whom it expects, and what it shows of itself.

use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, Error, RootCertStore};

use super::super::fingerprint::Fingerprint;
use super::super::identity::Certificate;
use super::super::key::NodeKey;
use super::x509::Certificates;
use super::{client_config, provider, server_name};

/// What a client shows of itself, and which authorities it believes. One serves
/// for all servers.
pub struct ClientIdentities {
    raw: ClientConfig,
    certificate: Option<Arc<dyn ResolvesClientCert>>,
    authorities: Option<Arc<RootCertStore>>,
}

/// Why a file of authorities cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthoritiesError {
    /// It cannot be read as PEM.
    #[error("cannot read the authorities in {file}: {reason}; it holds their certificates as PEM")]
    Unreadable {
        /// Which file.
        file: String,
        /// Why not.
        reason: String,
    },
    /// It names nobody.
    #[error("{0} holds no certificate of an authority in PEM form")]
    Empty(String),
}

impl ClientIdentities {
    /// Shows `key` to servers that prove raw keys, or nothing; shows nothing to
    /// servers with certificates, and believes the system's authorities.
    ///
    /// # Errors
    /// The provider refuses the key or lacks TLS 1.3.
    pub fn new(key: Option<&NodeKey>) -> Result<Self, Error> {
        Ok(Self::with_raw(client_config(key)?))
    }

    pub(in super::super) fn with_raw(raw: ClientConfig) -> Self {
        Self { raw, certificate: None, authorities: None }
    }

    /// Shows this certificate to servers with certificates.
    #[must_use]
    pub fn with_certificate(self, certificate: &Certificate) -> Self {
        self.with_certified_key((**certificate.certified_key()).clone())
    }

    /// Shows this chain and signs with this key, which may not be its own.
    pub(in super::super) fn with_certified_key(mut self, key: CertifiedKey) -> Self {
        self.certificate = Some(Arc::new(SingleCertAndKey::from(key)));
        self
    }

    /// Believes these authorities instead of the system's.
    #[must_use]
    pub fn with_authorities(mut self, authorities: RootCertStore) -> Self {
        self.authorities = Some(Arc::new(authorities));
        self
    }

    /// The configuration to dial whoever holds `pin`, or, without one, whoever
    /// the authorities say has the name that is dialled.
    ///
    /// # Errors
    /// There are no authorities to ask.
    pub fn config(&self, pin: Option<Fingerprint>, alpn: &str) -> Result<ClientConfig, Error> {
        let mut config = match pin {
            Some(Fingerprint::Key(_)) => self.raw.clone(),
            Some(Fingerprint::Certificate(digest)) => {
                self.x509(Arc::new(Certificates::pinned(provider(), digest)))?
            }
            None => self.x509(self.web_pki()?)?,
        };
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        Ok(config)
    }

    fn x509(&self, verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientConfig, Error> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.certificate {
            Some(certificate) => builder.with_client_cert_resolver(certificate.clone()),
            None => builder.with_no_client_auth(),
        };
        config.enable_early_data = false;
        Ok(config)
    }

    fn web_pki(&self) -> Result<Arc<dyn ServerCertVerifier>, Error> {
        match &self.authorities {
            Some(authorities) => {
                WebPkiServerVerifier::builder_with_provider(authorities.clone(), provider())
                    .build()
                    .map(|verifier| verifier as _)
                    .map_err(|error| Error::General(error.to_string()))
            }
            None => Ok(Arc::new(rustls_platform_verifier::Verifier::new(provider())?)),
        }
    }
}

/// The name under which a server is dialled: what its certificate must say, or
/// what its key makes of it.
pub fn name_of(pin: Option<Fingerprint>, host: &str) -> String {
    match pin {
        Some(Fingerprint::Key(key)) => server_name(&key),
        _ => host.to_owned(),
    }
}

/// The authorities whose certificates stand in a PEM file.
///
/// # Errors
/// [`AuthoritiesError`].
pub fn authorities(file: &std::path::Path) -> Result<RootCertStore, AuthoritiesError> {
    let unreadable = |reason: &dyn std::fmt::Display| AuthoritiesError::Unreadable {
        file: file.display().to_string(),
        reason: reason.to_string(),
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| unreadable(&error))? {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        roots.add(certificate).map_err(|error| unreadable(&error))?;
    }
    if roots.is_empty() {
        return Err(AuthoritiesError::Empty(file.display().to_string()));
    }
    Ok(roots)
}
