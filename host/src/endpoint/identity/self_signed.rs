//! A certificate that the node signs itself: for development, and for browsers
//! that reach a node by the hash of its certificate.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use x509_parser::time::ASN1Time;
use zeroize::Zeroizing;

use super::live::{Certificate, CertificateError, LiveCertificate};
use super::{unix_now, write_private};

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

/// Browsers take a certificate by its hash only when it is valid for at most 14
/// days and its key is on the curve P-256. An hour of it lies in the past, for
/// clocks that differ.
const VALID: u64 = 13 * DAY;
const PAST: u64 = HOUR;

/// The rest of its validity at which it is replaced.
const RENEW: u64 = 2 * DAY;

/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(HOUR);

/// A self-signed certificate, kept in a file so that its hash outlives restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfSigned {
    /// DNS names and IP addresses that it is for.
    pub names: Vec<String>,
    /// Where it is kept with its key, mode 0600.
    pub file: PathBuf,
}

/// Why there is no self-signed certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelfSignedError {
    /// A name cannot stand in a certificate.
    #[error("cannot sign a certificate for {names:?}: {source}")]
    Names {
        /// The names asked for.
        names: Vec<String>,
        /// What is wrong.
        source: rcgen::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {file}: {source}; make its folder the daemon's own")]
    File {
        /// Which one.
        file: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// What was signed cannot serve.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl SelfSigned {
    /// The certificate of the file, or a new one where that is missing, about to
    /// expire, or for other names.
    ///
    /// # Errors
    /// [`SelfSignedError`].
    pub fn obtain(&self) -> Result<Certificate, SelfSignedError> {
        self.obtain_at(unix_now())
    }

    /// Whether there can be one, without making it.
    ///
    /// # Errors
    /// [`SelfSignedError::Names`].
    pub fn check(&self) -> Result<(), SelfSignedError> {
        let pem = self.pem(unix_now());
        pem.map(drop).map_err(|source| SelfSignedError::Names { names: self.names.clone(), source })
    }

    fn obtain_at(&self, now: u64) -> Result<Certificate, SelfSignedError> {
        let origin = self.file.display().to_string();
        let kept = std::fs::read(&self.file).map(Zeroizing::new).ok();
        let kept =
            kept.and_then(|pem| Certificate::from_pem((&pem, &origin), (&pem, &origin)).ok());
        match kept {
            Some(kept) if kept.names() == self.names && kept.not_after() > now + RENEW => Ok(kept),
            _ => self.sign(now, &origin),
        }
    }

    fn sign(&self, now: u64, origin: &str) -> Result<Certificate, SelfSignedError> {
        let pem = self
            .pem(now)
            .map_err(|source| SelfSignedError::Names { names: self.names.clone(), source })?;
        if let Some(folder) = self.file.parent() {
            // What is wrong with it shows when the file is written.
            let _there = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        }
        write_private(&self.file, pem.as_bytes())
            .map_err(|source| SelfSignedError::File { file: self.file.clone(), source })?;
        Ok(Certificate::from_pem((pem.as_bytes(), origin), (pem.as_bytes(), origin))?)
    }

    /// Certificate and key, one after the other.
    fn pem(&self, now: u64) -> Result<Zeroizing<String>, rcgen::Error> {
        let moment = |unix: u64| {
            let time =
                i64::try_from(unix).ok().and_then(|unix| ASN1Time::from_timestamp(unix).ok());
            time.map(|time| time.to_datetime()).ok_or(rcgen::Error::Time)
        };
        let mut params = CertificateParams::new(self.names.clone())?;
        params.not_before = moment(now.saturating_sub(PAST))?;
        params.not_after = moment(now + VALID)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "alknet, self-signed");
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.self_signed(&key)?;
        Ok(Zeroizing::new(certificate.pem() + &Zeroizing::new(key.serialize_pem())))
    }

    /// Replaces the certificate of `live` before it expires. It never ends.
    pub async fn follow(self, live: Arc<LiveCertificate>) {
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            let own = self.clone();
            match tokio::task::spawn_blocking(move || own.obtain()).await {
                Ok(Ok(certificate)) => {
                    let current = live.current().map(|current| current.fingerprint());
                    match current == Some(certificate.fingerprint()) {
                        true => live.succeeded(),
                        false => live.replace(certificate),
                    }
                }
                Ok(Err(error)) => live.failed(&error),
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_suits_browsers_and_lives_until_it_is_nearly_expired() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("self-signed.pem");
        let mut own =
            SelfSigned { names: vec!["localhost".into(), "127.0.0.1".into()], file: file.clone() };
        let now = unix_now();
        let first = own.obtain_at(now).unwrap();
        assert!(first.lifetime() <= 14 * DAY);
        assert_eq!(first.names(), ["localhost", "127.0.0.1"]);
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let key = first.certified_key().key.algorithm();
        assert_eq!(key, rustls::SignatureAlgorithm::ECDSA);
        let der = first.certified_key().end_entity_cert().unwrap().to_vec();
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        let curve = parsed.public_key().algorithm.parameters.as_ref().unwrap();
        assert_eq!(curve.as_oid().unwrap().to_id_string(), "1.2.840.10045.3.1.7", "P-256");

        let fingerprint = first.fingerprint();
        assert_eq!(own.obtain_at(now + DAY).unwrap().fingerprint(), fingerprint);
        let second = own.obtain_at(now + VALID - RENEW).unwrap().fingerprint();
        assert_ne!(second, fingerprint);
        own.names.push("::1".into());
        let third = own.obtain_at(now + VALID - RENEW).unwrap();
        assert_ne!(third.fingerprint(), second);
        assert_eq!(third.names()[2], "::1");
        std::fs::write(&file, "damaged").unwrap();
        assert!(own.obtain_at(now).is_ok());
    }

    #[test]
    fn what_cannot_be_done_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let own = SelfSigned { names: vec!["\u{fc}".into()], file: folder.path().join("a.pem") };
        assert!(matches!(own.obtain(), Err(SelfSignedError::Names { .. })));
        std::fs::write(folder.path().join("file"), "").unwrap();
        let own = SelfSigned { names: vec!["a".into()], file: folder.path().join("file/a.pem") };
        assert!(matches!(own.obtain(), Err(SelfSignedError::File { .. })));
    }
}
