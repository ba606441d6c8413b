//! Keys as they leave the vault: wiped on drop, redacted when printed, never cloned or serialised.

use std::fmt;

use zeroize::Zeroizing;

use crate::locked::Locked;

/// The curve of a derived key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum KeyType {
    /// RFC 8032, by SLIP-0010.
    Ed25519,
    /// Ethereum's curve, by BIP-32 (feature `secp256k1`).
    Secp256k1,
}

/// A private key with its public key.
///
/// It is neither cloned nor serialised, and does not display:
///
/// ```compile_fail,E0277
/// fn clone<T: Clone>() {}
/// clone::<alknet_vault::DerivedKey>();
/// ```
///
/// ```compile_fail,E0277
/// fn serialise<T: serde::Serialize>() {}
/// serialise::<alknet_vault::DerivedKey>();
/// ```
///
/// ```compile_fail,E0277
/// fn display<T: std::fmt::Display>() {}
/// display::<alknet_vault::DerivedKey>();
/// ```
pub struct DerivedKey {
    kind: KeyType,
    secret: Locked<32>,
    public: Vec<u8>,
}

impl DerivedKey {
    pub(crate) fn new(kind: KeyType, secret: &[u8; 32], public: Vec<u8>) -> Self {
        Self { kind, secret: Locked::new(secret), public }
    }

    /// The cache's way to hand out a key; not public, so that copies stay countable.
    pub(crate) fn duplicate(&self) -> Self {
        Self::new(self.kind, self.secret.bytes(), self.public.clone())
    }

    /// The curve.
    pub fn key_type(&self) -> KeyType {
        self.kind
    }

    /// The private key: for Ed25519 the RFC 8032 seed. The only way to the bytes.
    pub fn expose_secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(*self.secret.bytes())
    }

    /// The public key: 32 bytes for Ed25519, 33 (compressed) for secp256k1.
    pub fn public_key(&self) -> &[u8] {
        &self.public
    }
}

impl fmt::Debug for DerivedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DerivedKey({:?}, [REDACTED])", self.kind)
    }
}

/// An AES-256-GCM key of one version.
///
/// It is neither cloned nor serialised:
///
/// ```compile_fail,E0277
/// fn clone<T: Clone>() {}
/// clone::<alknet_vault::EncryptionKey>();
/// ```
///
/// ```compile_fail,E0277
/// fn serialise<T: serde::Serialize>() {}
/// serialise::<alknet_vault::EncryptionKey>();
/// ```
pub struct EncryptionKey {
    version: u32,
    secret: Locked<32>,
}

impl EncryptionKey {
    pub(crate) fn new(version: u32, secret: &[u8; 32]) -> Self {
        Self { version, secret: Locked::new(secret) }
    }

    /// The version that blobs sealed with it carry.
    pub fn version(&self) -> u32 {
        self.version
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        self.secret.bytes()
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncryptionKey(v{}, [REDACTED])", self.version)
    }
}
