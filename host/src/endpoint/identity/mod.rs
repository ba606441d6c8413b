//! The node's X.509 identity beside its raw key: where the certificate comes
//! from, and how it changes while the node runs.
//!
//! Listeners hold a [`LiveCertificate`] and ask it at every handshake. What keeps
//! it up to date is one task of its source: files that an operator replaces
//! ([`CertificateFiles`]), a certificate that the node signs itself
//! ([`SelfSigned`]), or an ACME server. Whatever goes wrong there, the last good
//! certificate stays, and the status says what went wrong.

#[cfg(feature = "tcp")]
pub mod acme;
mod files;
mod live;
mod self_signed;

#[cfg(feature = "tcp")]
pub use acme::{Acme, Challenges};
pub use files::CertificateFiles;
pub use live::{
    Certificate, CertificateError, CertificateKind, CertificateStatus, LiveCertificate,
};
pub use self_signed::{SelfSigned, SelfSignedError};

/// Now, in seconds since the Unix epoch.
fn unix_now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Writes a file that nobody else may read: to a draft beside it, synced, and
/// then in its place, so that a reader finds the old one or the new one.
fn write_private(file: &std::path::Path, contents: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let draft = file.with_extension("draft");
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut opened =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    opened.write_all(contents)?;
    opened.sync_all()?;
    std::fs::rename(&draft, file)
}
