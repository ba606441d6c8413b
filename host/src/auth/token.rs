//! Bearer tokens: `alk_` and 32 random bytes in base64url.
//!
//! The token itself is shown once, to whoever made it. Files hold its SHA-256.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// What every token begins with.
pub const TOKEN_PREFIX: &str = "alk_";

/// Characters of a token that people may see.
pub const VISIBLE_PREFIX_LEN: usize = 8;

/// What a stored hash begins with.
pub const HASH_PREFIX: &str = "sha256:";

/// A new token, with what is stored of it.
pub struct NewToken {
    /// The token, for its holder alone.
    pub token: Zeroizing<String>,
    /// The first eight characters, for people to tell tokens apart.
    pub prefix: String,
    /// `sha256:` and the hexadecimal digest of the whole token.
    pub hash: String,
}

/// Makes a token from 32 bytes of the operating system's randomness.
///
/// # Errors
/// The operating system gives no randomness.
pub fn generate() -> Result<NewToken, getrandom::Error> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes)?;
    let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes));
    let token = Zeroizing::new(format!("{TOKEN_PREFIX}{}", *encoded));
    let prefix = token.chars().take(VISIBLE_PREFIX_LEN).collect();
    let hash = stored(&digest(token.as_bytes()));
    Ok(NewToken { token, prefix, hash })
}

/// The SHA-256 of a whole token.
pub fn digest(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// A digest as files hold it.
pub fn stored(digest: &[u8; 32]) -> String {
    format!("{HASH_PREFIX}{}", hex::encode(digest))
}

/// Reads a stored hash; `None` unless it is `sha256:` and 64 lower-case
/// hexadecimal digits.
pub fn parse_stored(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix(HASH_PREFIX)?;
    if digits.bytes().any(|digit| digit.is_ascii_uppercase()) {
        return None;
    }
    let mut digest = [0; 32];
    hex::decode_to_slice(digits, &mut digest).ok()?;
    Some(digest)
}

/// Compares digests in time that does not depend on where they differ.
pub(super) fn same_digest(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |all, (a, b)| all | std::hint::black_box(a ^ b));
    std::hint::black_box(difference) == 0
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}
