//! A certificate with its key, and the place from which listeners take it.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde::Serialize;
use x509_parser::extensions::GeneralName;

use super::super::fingerprint::Fingerprint;
use super::super::tls;

/// A certificate chain with its private key, ready to serve.
pub struct Certificate {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    not_before: u64,
    not_after: u64,
    fingerprint: Fingerprint,
}

/// Why a certificate cannot serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// No certificate.
    #[error("{0} holds no certificate in PEM form; it begins with -----BEGIN CERTIFICATE-----")]
    NoCertificate(String),
    /// No key.
    #[error("{0} holds no unencrypted private key in PEM form")]
    NoKey(String),
    /// What stands between the PEM lines is not what they say.
    #[error("{what} is damaged: {reason}")]
    Damaged {
        /// Which part.
        what: String,
        /// How.
        reason: String,
    },
    /// The key belongs to another certificate.
    #[error("{key} is not the private key of {certificate}; both are replaced together")]
    Mismatch {
        /// The key's origin.
        key: String,
        /// The certificate's origin.
        certificate: String,
    },
    /// A file cannot be read.
    #[error("cannot read {file}: {source}")]
    Unreadable {
        /// Which one.
        file: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A private key that everybody can read.
    #[error(
        "everybody may read the private key {file}; run `chmod o-rwx {file}`, and replace the key"
    )]
    Exposed {
        /// Which one.
        file: String,
    },
}

impl Certificate {
    /// Reads a chain, the leaf first, and the leaf's key, both in PEM form. The
    /// origins stand in messages.
    ///
    /// # Errors
    /// [`CertificateError`]; one that has expired is none, and shows in status.
    pub fn from_pem(
        (chain, chain_origin): (&[u8], &str),
        (key, key_origin): (&[u8], &str),
    ) -> Result<Self, CertificateError> {
        let damaged = |what: &str, reason: &dyn fmt::Display| CertificateError::Damaged {
            what: what.to_owned(),
            reason: reason.to_string(),
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, pem::Error>>()
            .map_err(|error| damaged(chain_origin, &error))?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            pem::Error::NoItemsFound => CertificateError::NoKey(key_origin.to_owned()),
            other => damaged(key_origin, &other),
        })?;
        let Some(leaf) = chain.first() else {
            return Err(CertificateError::NoCertificate(chain_origin.to_owned()));
        };
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf)
            .map_err(|error| damaged(chain_origin, &error))?;
        let moment =
            |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
        let validity = parsed.validity();
        let (not_before, not_after) = (moment(validity.not_before), moment(validity.not_after));
        let names = parsed.subject_alternative_name().ok().flatten();
        let names = names.map_or_else(Vec::new, |names| {
            names.value.general_names.iter().filter_map(name).collect()
        });
        let fingerprint = Fingerprint::of_certificate(leaf);
        let key =
            CertifiedKey::from_der(chain, key, &tls::provider()).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => CertificateError::Mismatch {
                    key: key_origin.to_owned(),
                    certificate: chain_origin.to_owned(),
                },
                other => damaged(key_origin, &other),
            })?;
        Ok(Self { key: Arc::new(key), names, not_before, not_after, fingerprint })
    }

    /// The chain with its signer, as TLS takes it.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// The DNS names and IP addresses that it is for.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The end of its validity, in seconds since the Unix epoch.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// The whole time for which it is valid, in seconds.
    pub(super) fn lifetime(&self) -> u64 {
        self.not_after.saturating_sub(self.not_before)
    }

    /// The fingerprint of its leaf.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { names, not_after, fingerprint, .. } = self;
        write!(f, "Certificate({fingerprint}, {names:?}, not after {not_after})")
    }
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => {
                <[u8; 4]>::try_from(*bytes).ok().map(|ip| std::net::Ipv4Addr::from(ip).to_string())
            }
            _ => {
                <[u8; 16]>::try_from(*bytes).ok().map(|ip| std::net::Ipv6Addr::from(ip).to_string())
            }
        },
        _ => None,
    }
}

/// Where a node's certificate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateKind {
    /// Files that the operator replaces.
    X509,
    /// The node's own signature.
    SelfSigned,
    /// An ACME server.
    Acme,
}

impl CertificateKind {
    /// As in the deployment file and in status.
    pub fn text(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::SelfSigned => "self-signed",
            Self::Acme => "acme",
        }
    }
}

/// The certificate that the node shows now. A change counts from the next
/// handshake on; connections that stand are left alone.
pub struct LiveCertificate {
    kind: CertificateKind,
    current: ArcSwapOption<Certificate>,
    error: Mutex<Option<String>>,
}

/// What status shows of the node's certificate.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateStatus {
    /// Where it comes from.
    pub kind: CertificateKind,
    /// The names that it is for; none while there is no certificate yet.
    pub names: Vec<String>,
    /// The end of its validity, in seconds since the Unix epoch.
    pub not_after_unix: Option<u64>,
    /// `SHA256:` and the digest of its leaf, by which clients can pin it.
    pub fingerprint: Option<String>,
    /// Why the last attempt to replace it failed; gone with the next success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl LiveCertificate {
    /// A place for a certificate that is still to come: until then, handshakes of
    /// clients that want one fail.
    pub fn awaiting(kind: CertificateKind) -> Self {
        Self { kind, current: ArcSwapOption::empty(), error: Mutex::default() }
    }

    /// A certificate that is there.
    pub fn new(kind: CertificateKind, certificate: Certificate) -> Self {
        let live = Self::awaiting(kind);
        live.current.store(Some(Arc::new(certificate)));
        live
    }

    /// The certificate that the next handshake gets.
    pub fn current(&self) -> Option<Arc<Certificate>> {
        self.current.load_full()
    }

    /// Shows this one from the next handshake on.
    pub fn replace(&self, certificate: Certificate) {
        tracing::info!(
            kind = self.kind.text(),
            names = ?certificate.names,
            fingerprint = %certificate.fingerprint,
            not_after_unix = certificate.not_after,
            "certificate in use"
        );
        self.current.store(Some(Arc::new(certificate)));
        self.succeeded();
    }

    /// Says that the one in use is as it should be.
    pub(super) fn succeeded(&self) {
        *self.error.lock() = None;
    }

    /// Keeps the one in use and says why it was not replaced.
    pub fn failed(&self, error: &dyn fmt::Display) {
        let error = error.to_string();
        let mut last = self.error.lock();
        // The same mistake, found again by the next look at it, is no news.
        if last.as_ref() != Some(&error) {
            tracing::error!(kind = self.kind.text(), error, "the certificate was not replaced");
            metrics::counter!("alknet_certificate_failures_total").increment(1);
            *last = Some(error);
        }
    }

    /// For the node's status.
    pub fn status(&self) -> CertificateStatus {
        let current = self.current();
        let current = current.as_deref();
        CertificateStatus {
            kind: self.kind,
            names: current.map_or_else(Vec::new, |current| current.names.clone()),
            not_after_unix: current.map(Certificate::not_after),
            fingerprint: current.map(|current| current.fingerprint.to_string()),
            error: self.error.lock().clone(),
        }
    }
}

impl ResolvesServerCert for LiveCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load().as_ref().map(|current| current.key.clone())
    }
}

impl fmt::Debug for LiveCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LiveCertificate").field(&self.current()).finish()
    }
}
