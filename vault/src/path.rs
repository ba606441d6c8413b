//! Derivation paths: the text, its limits, and the paths that alknet gives a meaning.

use std::{fmt, str::FromStr};

use crate::VaultError;

const HARDENED: u32 = 1 << 31;
/// BIP-32 stores the depth in one byte.
const MAX_DEPTH: usize = 255;

/// The node's identity key.
pub const NODE_IDENTITY: &str = "m/74'/0'/0'/0'";
/// The SSH host key.
pub const SSH_HOST: &str = "m/74'/0'/1'/0'";
/// The key that signs plugins and promotions.
pub const SIGNING: &str = "m/74'/3'/0'/0'";
/// The first Ethereum account (feature `secp256k1`).
pub const ETHEREUM: &str = "m/44'/60'/0'/0/0";

/// A parsed path: `m`, then `/index`, each index below 2^31 and hardened with `'` or `h`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DerivationPath(Vec<u32>);

impl DerivationPath {
    /// The key of device `n`.
    ///
    /// # Errors
    /// [`VaultError::InvalidPath`] for 0, which is the node itself, and from 2^31 on.
    pub fn device(n: u32) -> Result<Self, VaultError> {
        match n {
            0 => Err(VaultError::InvalidPath("device 0 is the node itself")),
            n if n >= HARDENED => Err(VaultError::InvalidPath("an index must be below 2^31")),
            n => Ok(Self([74, 0, 0, n].map(|i| i | HARDENED).to_vec())),
        }
    }

    /// The encryption key of `version`; the first is 2.
    ///
    /// # Errors
    /// [`VaultError::InvalidPath`] below 2 and where the index would reach 2^31.
    pub fn encryption(version: u32) -> Result<Self, VaultError> {
        match version.checked_sub(2) {
            None => Err(VaultError::InvalidPath("encryption key versions begin at 2")),
            Some(i) if i >= HARDENED => Err(VaultError::InvalidPath("an index must be below 2^31")),
            Some(i) => Ok(Self([74, 2, 0, i].map(|i| i | HARDENED).to_vec())),
        }
    }

    /// Raw indices; the top bit marks a hardened one.
    pub fn indices(&self) -> &[u32] {
        &self.0
    }

    /// Whether every index is hardened, as SLIP-0010 Ed25519 requires.
    pub fn is_hardened(&self) -> bool {
        self.0.iter().all(|i| i & HARDENED != 0)
    }
}

impl FromStr for DerivationPath {
    type Err = VaultError;

    fn from_str(text: &str) -> Result<Self, VaultError> {
        let mut parts = text.split('/');
        if parts.next() != Some("m") {
            return Err(VaultError::InvalidPath("it must begin with m"));
        }
        let indices = parts.map(parse_index).collect::<Result<Vec<_>, _>>()?;
        if indices.len() > MAX_DEPTH {
            return Err(VaultError::InvalidPath("it is deeper than 255"));
        }
        Ok(Self(indices))
    }
}

fn parse_index(part: &str) -> Result<u32, VaultError> {
    let (digits, mark) = match part.strip_suffix(['\'', 'h']) {
        Some(digits) => (digits, HARDENED),
        None => (part, 0),
    };
    // `u32::from_str` alone would accept a leading plus sign.
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(VaultError::InvalidPath("an index is not a decimal number"));
    }
    // One path, one text.
    if digits.len() > 1 && digits.starts_with('0') {
        return Err(VaultError::InvalidPath("an index has no leading zeros"));
    }
    match digits.parse::<u32>() {
        Ok(index) if index < HARDENED => Ok(index | mark),
        _ => Err(VaultError::InvalidPath("an index must be below 2^31")),
    }
}

impl fmt::Display for DerivationPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("m")?;
        for index in &self.0 {
            let mark = if index & HARDENED != 0 { "'" } else { "" };
            write!(f, "/{}{mark}", index & !HARDENED)?;
        }
        Ok(())
    }
}
