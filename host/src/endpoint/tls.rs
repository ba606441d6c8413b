//! TLS 1.3 with raw public keys (RFC 7250) on both sides.
//!
//! Both verifiers do two things: they take exactly one Ed25519 key, and they let
//! the provider check that the handshake was signed with it. Neither ever says
//! "valid" without that check, so nobody can show a key that they do not hold.
//!
//! Raw key or X.509 is a property of a whole rustls configuration. A client
//! configuration serves every node: the expected key is the server's *name*, in
//! base32 under `.invalid` (RFC 6761), which also keeps resumption tickets apart
//! by peer. The name is never sent.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, ResolvesClientCert};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};

use super::key::{NodeKey, from_spki};

/// The one crypto provider, for every configuration.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Serves `key`, asks clients for theirs, and does without it.
///
/// # Errors
/// A provider that lacks what TLS 1.3 or Ed25519 needs.
pub(super) fn server_config(key: &NodeKey, alpns: &[String]) -> Result<ServerConfig, Error> {
    let provider = provider();
    let certified = key.certified(&provider)?;
    let verifier = Arc::new(ClientKeyVerifier(provider.signature_verification_algorithms));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
    config.alpn_protocols = alpns.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    // 0-RTT data can be replayed by anyone who saw it.
    config.max_early_data_size = 0;
    Ok(config)
}

/// Shows `key`, or none, and expects the key in the server's name.
///
/// # Errors
/// As for [`server_config`].
pub(super) fn client_config(key: Option<&NodeKey>, alpn: &str) -> Result<ClientConfig, Error> {
    let provider = provider();
    let resolver: Arc<dyn ResolvesClientCert> = match key {
        Some(key) => Arc::new(AlwaysResolvesClientRawPublicKeys::new(key.certified(&provider)?)),
        None => Arc::new(Anonymous),
    };
    let verifier = Arc::new(ServerKeyVerifier(provider.signature_verification_algorithms));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(resolver);
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config.enable_sni = false;
    Ok(config)
}

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The server name that stands for a key: 52 characters of base32 (RFC 4648,
/// lower case, without padding) and `.invalid`.
pub(super) fn name_of(key: &[u8; 32]) -> String {
    let mut name = String::with_capacity(60);
    let (mut bits, mut count) = (0u32, 0);
    for byte in key {
        bits = bits << 8 | u32::from(*byte);
        count += 8;
        while count >= 5 {
            count -= 5;
            name.push(char::from(BASE32[(bits >> count) as usize & 31]));
        }
    }
    name.push(char::from(BASE32[(bits << (5 - count)) as usize & 31]));
    name + ".invalid"
}

fn is_raw(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> bool {
    intermediates.is_empty() && from_spki(end_entity).is_some()
}

fn bad_key() -> Error {
    Error::InvalidCertificate(rustls::CertificateError::BadEncoding)
}

fn verify(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let spki = SubjectPublicKeyInfoDer::from(certificate.as_ref());
    verify_tls13_signature_with_raw_key(message, &spki, signature, algorithms)
}

/// Takes any server whose key is the one in its name.
#[derive(Debug)]
struct ServerKeyVerifier(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for ServerKeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = from_spki(end_entity).filter(|_| intermediates.is_empty()).ok_or_else(bad_key)?;
        // A name that stands for no key matches none: no expectation, no trust.
        match server_name {
            ServerName::DnsName(name) if name.as_ref() == name_of(&key) => {
                Ok(ServerCertVerified::assertion())
            }
            _ => Err(Error::InvalidCertificate(rustls::CertificateError::NotValidForName)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Takes any client that proves to hold the key it shows, and clients that show
/// none. Who a key belongs to is decided later, by the access policy.
#[derive(Debug)]
struct ClientKeyVerifier(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for ClientKeyVerifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match is_raw(end_entity, intermediates) {
            true => Ok(ClientCertVerified::assertion()),
            false => Err(bad_key()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// A client without a key: it still speaks raw keys, so that the server's
/// configuration for them applies.
#[derive(Debug)]
struct Anonymous;

impl ResolvesClientCert for Anonymous {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_holds_the_whole_key() {
        assert_eq!(name_of(&[0; 32]), format!("{}.invalid", "a".repeat(52)));
        let name = name_of(&[0xff; 32]);
        assert_eq!(name, format!("{}q.invalid", "7".repeat(51)));
        let mut key = [0; 32];
        key[31] = 1;
        assert_ne!(name_of(&key), name_of(&[0; 32]));
        assert!(ServerName::try_from(name).is_ok());
    }
}
