//! Sealed entries: AES-256-GCM bound to the entry's name and key version.

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Payload},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{EncryptionKey, VaultError};

/// A sealed entry as it stands in the store. Field names are a promise: none is renamed or removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncryptedData {
    /// Which encryption key sealed it; from 2.
    pub key_version: u32,
    /// 32 random bytes, base64. No cryptographic role, but covered by `context`.
    pub salt: String,
    /// The 12-byte nonce, base64.
    pub iv: String,
    /// Ciphertext and the 16-byte tag, base64.
    pub data: String,
    /// The associated data: key version, salt and entry name. Absent only in blobs of older writers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

impl EncryptedData {
    pub(crate) fn seal(key: &EncryptionKey, name: &str, text: &str) -> Result<Self, VaultError> {
        let (mut salt, mut iv) = ([0; 32], [0; 12]);
        getrandom::fill(&mut salt).map_err(|_| VaultError::Encryption)?;
        getrandom::fill(&mut iv).map_err(|_| VaultError::Encryption)?;
        let salt = STANDARD.encode(salt);
        let context = context(key.version(), &salt, name);
        let data = seal_bytes(key.bytes(), &iv, context.as_bytes(), text.as_bytes())?;
        Ok(Self {
            key_version: key.version(),
            salt,
            iv: STANDARD.encode(iv),
            data: STANDARD.encode(data),
            context: Some(context),
        })
    }

    /// Opens a blob that must belong to `name`.
    pub(crate) fn open(
        &self,
        key: &EncryptionKey,
        name: &str,
    ) -> Result<Zeroizing<String>, VaultError> {
        let expected = context(self.key_version, &self.salt, name);
        if self.context.as_deref() != Some(expected.as_str()) {
            return Err(VaultError::Encryption);
        }
        self.open_with(key, expected.as_bytes())
    }

    /// Opens a blob without a context; one with a context is refused, or its binding could be walked round.
    pub(crate) fn open_unbound(
        &self,
        key: &EncryptionKey,
    ) -> Result<Zeroizing<String>, VaultError> {
        if self.context.is_some() {
            return Err(VaultError::Encryption);
        }
        self.open_with(key, b"")
    }

    fn open_with(&self, key: &EncryptionKey, aad: &[u8]) -> Result<Zeroizing<String>, VaultError> {
        decode::<32>(&self.salt)?;
        let iv = decode::<12>(&self.iv)?;
        let data = STANDARD.decode(&self.data).map_err(|_| VaultError::Encryption)?;
        let plain = open_bytes(key.bytes(), &iv, aad, &data)?;
        match String::from_utf8(plain) {
            Ok(text) => Ok(Zeroizing::new(text)),
            Err(e) => {
                drop(Zeroizing::new(e.into_bytes()));
                Err(VaultError::Encryption)
            }
        }
    }
}

/// Ciphertext and tag.
pub(crate) fn seal_bytes(
    key: &[u8; 32],
    iv: &[u8; 12],
    aad: &[u8],
    plain: &[u8],
) -> Result<Vec<u8>, VaultError> {
    Aes256Gcm::new(key.into())
        .encrypt(iv.into(), Payload { msg: plain, aad })
        .map_err(|_| VaultError::Encryption)
}

/// The plain bytes, which are the caller's to wipe.
pub(crate) fn open_bytes(
    key: &[u8; 32],
    iv: &[u8; 12],
    aad: &[u8],
    data: &[u8],
) -> Result<Vec<u8>, VaultError> {
    Aes256Gcm::new(key.into())
        .decrypt(iv.into(), Payload { msg: data, aad })
        .map_err(|_| VaultError::Encryption)
}

/// Unambiguous: neither the number nor base64 holds a colon, and the name comes last. The salt is in it
/// so that tampering with any field at all is noticed.
fn context(version: u32, salt: &str, name: &str) -> String {
    format!("v{version}:{salt}:{name}")
}

fn decode<const N: usize>(text: &str) -> Result<[u8; N], VaultError> {
    let bytes = STANDARD.decode(text).map_err(|_| VaultError::Encryption)?;
    bytes.try_into().map_err(|_| VaultError::Encryption)
}
