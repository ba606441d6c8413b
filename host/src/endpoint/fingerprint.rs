//! What a peer is known by, whichever kind of identity it proved.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::key::PublicKey;
use super::tls;

/// The fingerprint of a proven key or certificate, the same on every source.
///
/// ```
/// use alknet::endpoint::Fingerprint;
///
/// let text = format!("SHA256:{}", "0a".repeat(32));
/// let fingerprint: Fingerprint = text.parse()?;
/// assert_eq!(fingerprint, Fingerprint::Certificate([10; 32]));
/// assert_eq!(fingerprint.to_string(), text);
/// # Ok::<(), alknet::endpoint::FingerprintError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fingerprint {
    /// A raw Ed25519 key: `ed25519:` and the key's 64 hexadecimal digits.
    Key(PublicKey),
    /// An X.509 certificate: `SHA256:` and the digest of the leaf's DER, in 64
    /// hexadecimal digits.
    Certificate([u8; 32]),
}

impl Fingerprint {
    /// Of a certificate's DER.
    pub fn of_certificate(der: &[u8]) -> Self {
        Self::Certificate(Sha256::digest(der).into())
    }

    /// Of the first entry that a TLS session shows of its peer: a certificate,
    /// or an SPKI where raw keys were agreed on. The session has verified that
    /// it is one of the two, and that the peer holds its private key.
    pub(super) fn of_shown(entry: &[u8]) -> Self {
        tls::key_of_spki(entry).map_or_else(|| Self::of_certificate(entry), Self::Key)
    }

    /// The raw key, where it is one.
    pub fn key(&self) -> Option<PublicKey> {
        match self {
            Self::Key(key) => Some(*key),
            Self::Certificate(_) => None,
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "ed25519:{key}"),
            Self::Certificate(digest) => write!(f, "SHA256:{}", hex::encode(digest)),
        }
    }
}

/// A text is no fingerprint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a fingerprint: `ed25519:` or `SHA256:` and 64 lower-case hexadecimal digits")]
pub struct FingerprintError(String);

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let parsed = text.split_once(':').and_then(|(kind, digits)| {
            let mut bytes = [0; 32];
            hex::decode_to_slice(digits, &mut bytes).ok()?;
            match kind {
                // One text a fingerprint, so that it can be compared as text.
                _ if digits.bytes().any(|digit| digit.is_ascii_uppercase()) => None,
                "ed25519" => Some(Self::Key(PublicKey(bytes))),
                "SHA256" => Some(Self::Certificate(bytes)),
                _ => None,
            }
        });
        parsed.ok_or_else(|| FingerprintError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k36_fingerprints_have_one_text_each() {
        // `printf abc | sha256sum`
        const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Fingerprint::of_certificate(b"abc").to_string(), format!("SHA256:{ABC}"));
        for text in [format!("ed25519:{ABC}"), format!("SHA256:{ABC}")] {
            assert_eq!(text.parse::<Fingerprint>().unwrap().to_string(), text);
        }
        for wrong in [
            ABC.to_owned(),
            format!("sha256:{ABC}"),
            format!("SHA256:{}", ABC.to_uppercase()),
            format!("SHA256:{}", &ABC[2..]),
            "ed25519:".into(),
        ] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }
}
