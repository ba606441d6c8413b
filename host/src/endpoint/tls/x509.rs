//! TLS with X.509 certificates.
//!
//! A server shows the certificate that its [`LiveCertificate`] holds at that
//! moment. It asks clients for theirs and takes whoever has none. No authority
//! vouches for a client: its certificate is known by its fingerprint or not at
//! all, so dates and issuers say nothing here, and possession of its private key
//! is everything. A client that dials a name checks the server against the web's
//! authorities, or those of a file; one that dials a fingerprint compares.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    ServerConfig, SignatureScheme,
};

use super::super::fingerprint::Fingerprint;
use super::super::identity::LiveCertificate;
use super::provider;

/// The server's side for clients that know X.509, which offers `alpns` in this
/// order of preference.
///
/// # Errors
/// The provider lacks TLS 1.3.
pub fn server_config(
    certificate: Arc<LiveCertificate>,
    alpns: Vec<Vec<u8>>,
) -> Result<ServerConfig, Error> {
    let provider = provider();
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Certificates { provider, pinned: None }))
        .with_cert_resolver(certificate);
    config.alpn_protocols = alpns;
    // Early data can be replayed, and a handler could not tell.
    config.max_early_data_size = 0;
    Ok(config)
}

/// Verifies that a peer holds the private key of the certificate that it shows,
/// and, on the client's side, that it is the expected one.
#[derive(Debug)]
pub(super) struct Certificates {
    provider: Arc<CryptoProvider>,
    /// The digest of the server's certificate. The server's side expects nobody
    /// in particular.
    pinned: Option<[u8; 32]>,
}

impl Certificates {
    /// Expects the server with this certificate.
    pub(super) fn pinned(provider: Arc<CryptoProvider>, digest: [u8; 32]) -> Self {
        Self { provider, pinned: Some(digest) }
    }

    fn tls12<T>(&self) -> Result<T, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic))
    }

    fn possession(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            shown,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Certificates {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    /// Any certificate may knock: who it belongs to is decided above, once
    /// `verify_tls13_signature` has shown that the client holds its key.
    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        ParsedCertificate::try_from(shown).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.possession(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }
}

impl ServerCertVerifier for Certificates {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // Nobody expected is never a reason to accept somebody.
        let expected = self.pinned.map(Fingerprint::Certificate);
        if expected == Some(Fingerprint::of_certificate(shown)) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.possession(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
