//! A node's key: Ed25519, the whole of its identity.

use std::fmt;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// Before the 32 bytes of the key in a SubjectPublicKeyInfo (RFC 8410 section 4).
pub(super) const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Before the 32 bytes of the seed in a PKCS #8 private key (RFC 8410 section 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// An Ed25519 key (RFC 8032), erased from memory when dropped.
#[derive(Clone)]
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// The key of a 32-byte seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// A new key.
    ///
    /// # Errors
    /// The operating system gives no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed)?;
        Ok(Self::from_seed(&seed))
    }

    /// The public key.
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// The public key as it is written everywhere.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.public())
    }

    /// The key in the form that rustls signs handshakes with.
    ///
    /// # Errors
    /// A provider without Ed25519.
    pub(super) fn certified(
        &self,
        provider: &CryptoProvider,
    ) -> Result<Arc<CertifiedKey>, rustls::Error> {
        let mut pkcs8 = Zeroizing::new(Vec::with_capacity(48));
        pkcs8.extend_from_slice(&PKCS8_PREFIX);
        pkcs8.extend_from_slice(self.0.as_bytes());
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_slice())).clone_key();
        let key = provider.key_provider.load_private_key(der)?;
        let spki = [&SPKI_PREFIX[..], &self.public()].concat();
        Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], key)))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({}, [REDACTED])", self.fingerprint())
    }
}

/// `ed25519:` and 64 lower-case hexadecimal digits: the form that access files
/// and logs use, whatever carried the connection.
pub fn fingerprint(public: &[u8; 32]) -> String {
    format!("ed25519:{}", hex::encode(public))
}

/// The key in a SubjectPublicKeyInfo of an Ed25519 key; `None` for anything else.
pub(super) fn from_spki(spki: &[u8]) -> Option<[u8; 32]> {
    spki.strip_prefix(&SPKI_PREFIX)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k36_a_fingerprint_is_the_public_key_in_lower_case_hexadecimal() {
        // RFC 8032, section 7.1, test 1.
        let seed = hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let key = NodeKey::from_seed(&seed.unwrap().try_into().unwrap());
        assert_eq!(
            key.fingerprint(),
            "ed25519:d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
        );
        assert!(!format!("{key:?}").contains("9d61b1"));
    }

    #[test]
    fn only_an_ed25519_key_info_holds_a_key() {
        let spki = [&SPKI_PREFIX[..], &[7; 32]].concat();
        assert_eq!(from_spki(&spki), Some([7; 32]));
        assert_eq!(from_spki(&spki[..43]), None);
        assert_eq!(from_spki(&[&spki[..], &[0]].concat()), None);
        assert_eq!(from_spki(&[0; 44]), None);
    }
}
