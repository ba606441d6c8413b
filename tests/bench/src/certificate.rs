//! One self-signed certificate for the contenders that need X.509, made anew in
//! each server and trusted by clients through a file.

use anyhow::Result;
use rcgen::{CertificateParams, KeyPair};

/// The name that the certificate is for.
pub(crate) const NAME: &str = "localhost";

/// A certificate and its key, in PEM.
pub(crate) struct Certificate {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

pub(crate) fn make() -> Result<Certificate> {
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(vec![NAME.to_owned()])?;
    Ok(Certificate { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// Tells the parent process where the server listens and what to trust.
pub(crate) fn announce(address: std::net::SocketAddr, certificate: &str) {
    println!("{}", serde_json::json!({ "address": address, "certificate": certificate }));
}
