//! Signatures: over an artifact, as deployment files have them, and over a package.

use ed25519_dalek::{Signature as Bytes, Signer as _, SigningKey, VerifyingKey};

use crate::config::{Digest, PublicKey, Signature};

/// What is signed for a package begins with this, so that its signature is good for
/// nothing else.
const CONTEXT: &[u8] = b"alknet plugin package 1\0";

/// How long the text of a signature is, with the line's end.
pub(super) const TEXT_LEN: usize = "ed25519:".len() + 128 + 1;

/// A publisher's key.
pub struct Signer(SigningKey);

impl Signer {
    /// The key of a seed (RFC 8032).
    pub fn new(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// What others know it by.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// The signature over an artifact, by its digest.
    pub fn artifact(&self, sha256: &Digest) -> Signature {
        Signature(self.0.sign(&sha256.0).to_bytes())
    }

    /// The text of the signature over an index, by its digest.
    pub(super) fn index(&self, sha256: &Digest) -> String {
        format!("{}\n", Signature(self.0.sign(&of_index(sha256)).to_bytes()))
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signer").field(&self.public()).finish()
    }
}

/// Whether `key` has signed the artifact with this digest.
pub fn signed_artifact(key: &PublicKey, sha256: &Digest, signature: &Signature) -> bool {
    verify(key, &sha256.0, signature)
}

/// Whether `key` has signed the index with this digest.
pub(super) fn signed_index(key: &PublicKey, sha256: &Digest, text: &[u8]) -> bool {
    let signature = std::str::from_utf8(text).ok().and_then(|text| {
        let text = text.strip_suffix('\n')?;
        text.starts_with("ed25519:").then(|| text.parse().ok())?
    });
    signature.is_some_and(|signature| verify(key, &of_index(sha256), &signature))
}

fn of_index(sha256: &Digest) -> Vec<u8> {
    [CONTEXT, &sha256.0].concat()
}

fn verify(key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
    let key = VerifyingKey::from_bytes(&key.0);
    key.is_ok_and(|key| key.verify_strict(message, &Bytes::from_bytes(&signature.0)).is_ok())
}
