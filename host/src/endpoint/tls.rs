//! TLS with raw public keys (RFC 7250): no certificates, no authority; a peer is
//! the Ed25519 key that it proves to hold.
//!
//! The server asks for the client's key and takes clients without one. Whoever
//! shows a key must sign the handshake with it, and the signature is checked by
//! the provider's own algorithms: nothing here ever answers "valid" unchecked.
//! The client always knows whom it expects: the key stands in the server name,
//! so one configuration serves all peers while each has its own tickets.
//!
//! Beside it, [`x509`] does the same with certificates, and [`ServerIdentities`]
//! lets one listener serve clients of both kinds.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, ResolvesClientCert};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer,
    UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    PeerIncompatible, ServerConfig, SignatureScheme,
};

use super::key::{NodeKey, PublicKey};

mod client;
mod server;
pub mod x509;

pub use client::{AuthoritiesError, ClientIdentities, authorities, name_of};
pub use server::ServerIdentities;
#[cfg(feature = "quinn")]
pub(super) use server::offers_raw_keys;

/// What stands before the 32 bytes of an Ed25519 key in its SPKI (RFC 8410).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The one provider of the program. It is passed to every configuration, so that
/// no process-wide default decides.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The server's side for raw-key clients, which offers `alpns` in this order of
/// preference.
///
/// # Errors
/// The provider refuses the key or lacks TLS 1.3.
pub fn server_config(key: &NodeKey, alpns: Vec<Vec<u8>>) -> Result<ServerConfig, Error> {
    let provider = provider();
    let own = certified_key(key, key.public(), &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(RawKeys { provider }))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own)));
    config.alpn_protocols = alpns;
    // Early data can be replayed, and a handler could not tell.
    config.max_early_data_size = 0;
    Ok(config)
}

/// The client's side, with a key or anonymous. Dial with [`server_name`].
///
/// # Errors
/// The provider refuses the key or lacks TLS 1.3.
pub fn client_config(key: Option<&NodeKey>) -> Result<ClientConfig, Error> {
    let provider = provider();
    let resolver: Arc<dyn ResolvesClientCert> = match key {
        Some(key) => Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified_key(
            key,
            key.public(),
            &provider,
        )?)),
        None => Arc::new(Anonymous),
    };
    client_config_with(resolver, provider)
}

fn client_config_with(
    resolver: Arc<dyn ResolvesClientCert>,
    provider: Arc<CryptoProvider>,
) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(RawKeys { provider }))
        .with_client_cert_resolver(resolver);
    config.enable_sni = false;
    config.enable_early_data = false;
    Ok(config)
}

/// The name under which a peer's key, and its resumption tickets, are known to
/// the client. It never goes over the wire.
pub fn server_name(key: &PublicKey) -> String {
    format!("{}.invalid", key.base32())
}

fn expected_key(name: &ServerName<'_>) -> Option<PublicKey> {
    let ServerName::DnsName(name) = name else { return None };
    name.as_ref().strip_suffix(".invalid").filter(|label| label.len() == 52)?.parse().ok()
}

/// The Ed25519 key in an SPKI, where it is one.
pub fn key_of_spki(spki: &[u8]) -> Option<PublicKey> {
    let (prefix, key) = spki.split_first_chunk()?;
    (*prefix == SPKI_PREFIX).then_some(PublicKey(key.try_into().ok()?))
}

fn certified_key(
    private: &NodeKey,
    shown: PublicKey,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, Error> {
    let pkcs8 = private.pkcs8();
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(&pkcs8[..]));
    // rustls wants a DER of its own: this copy of the seed, and the signer that
    // comes of it, live in memory that nobody wipes.
    let signer = provider.key_provider.load_private_key(der.clone_key())?;
    let spki = [&SPKI_PREFIX[..], &shown.0[..]].concat();
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], signer)))
}

/// A client that shows no key, and yet speaks raw keys with the server.
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
        false
    }
}

/// Verifies raw Ed25519 keys, on either side.
#[derive(Debug)]
struct RawKeys {
    provider: Arc<CryptoProvider>,
}

impl RawKeys {
    fn key(&self, shown: &CertificateDer<'_>) -> Result<PublicKey, Error> {
        key_of_spki(shown).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))
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
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(shown.as_ref()),
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }
}

impl ClientCertVerifier for RawKeys {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    /// Any key may knock: who it belongs to is decided above, once
    /// `verify_tls13_signature` has shown that the client holds it.
    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.key(shown).map(|_| ClientCertVerified::assertion())
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
        vec![SignatureScheme::ED25519]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ServerCertVerifier for RawKeys {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        // A name that holds no key means that nobody in particular is expected,
        // which is never a reason to accept somebody.
        match expected_key(name) {
            Some(expected) if expected == self.key(shown)? => Ok(ServerCertVerified::assertion()),
            _ => Err(Error::InvalidCertificate(CertificateError::NotValidForName)),
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
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// A client that shows `victim`'s public key and signs with its own.
#[cfg(test)]
pub(super) fn forged_client_config(attacker: &NodeKey, victim: PublicKey) -> ClientConfig {
    let provider = provider();
    let forged = certified_key(attacker, victim, &provider).unwrap();
    client_config_with(Arc::new(AlwaysResolvesClientRawPublicKeys::new(forged)), provider).unwrap()
}
