//! BIP39: an English phrase of 12 to 24 words, its checksum, and the 64-byte seed.

use std::fmt;

use bip39::{Language, Mnemonic};
use unicode_normalization::UnicodeNormalization;
use zeroize::{Zeroize, Zeroizing};

use crate::{VaultError, locked::Locked};

/// A valid phrase. Wiped on drop, printed as `[REDACTED]`.
///
/// ```compile_fail,E0277
/// fn clone<T: Clone>() {}
/// clone::<alknet_vault::Phrase>();
/// ```
pub struct Phrase(Mnemonic);

impl Phrase {
    /// Checks word count, words and checksum. Blanks between words are free.
    ///
    /// # Errors
    /// [`VaultError::Mnemonic`].
    pub fn parse(text: &str) -> Result<Self, VaultError> {
        let normal: Zeroizing<String> = Zeroizing::new(text.nfkd().collect());
        Mnemonic::parse_in_normalized(Language::English, &normal).map(Self).map_err(|e| {
            VaultError::Mnemonic(match e {
                bip39::Error::BadWordCount(_) => "it must have 12, 15, 18, 21 or 24 words",
                bip39::Error::UnknownWord(_) => "a word is not in the BIP39 English list",
                bip39::Error::InvalidChecksum => "its checksum does not match",
                _ => "it is not a BIP39 English phrase",
            })
        })
    }

    /// A new phrase from the operating system's randomness.
    ///
    /// # Errors
    /// [`VaultError::Mnemonic`] for a count other than 12, 15, 18, 21 or 24, or without randomness.
    pub fn generate(words: usize) -> Result<Self, VaultError> {
        if !matches!(words, 12 | 15 | 18 | 21 | 24) {
            return Err(VaultError::Mnemonic("it must have 12, 15, 18, 21 or 24 words"));
        }
        let mut entropy = Zeroizing::new([0u8; 32]);
        let entropy = &mut entropy[..words / 3 * 4];
        getrandom::fill(entropy)
            .map_err(|_| VaultError::Mnemonic("the system gave no randomness"))?;
        Self::of_entropy(entropy)
    }

    /// The phrase of 16, 20, 24, 28 or 32 bytes.
    pub(crate) fn of_entropy(entropy: &[u8]) -> Result<Self, VaultError> {
        Mnemonic::from_entropy(entropy)
            .map(Self)
            .map_err(|_| VaultError::Mnemonic("the entropy has a wrong length"))
    }

    /// The words, to be shown once.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.to_string())
    }

    /// The seed under `passphrase` (empty for none), which is normalised to NFKD.
    pub fn to_seed(&self, passphrase: &str) -> Seed {
        let normal: Zeroizing<String> = Zeroizing::new(passphrase.nfkd().collect());
        let mut bytes = self.0.to_seed_normalized(&normal);
        let seed = Seed(Locked::new(&bytes));
        bytes.zeroize();
        seed
    }
}

impl fmt::Debug for Phrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Phrase([REDACTED])")
    }
}

/// The 64 bytes from which every key comes. On a page of their own that is not swapped out where the system
/// allows it, so that moving the seed leaves no copy behind; wiped on drop.
pub struct Seed(Locked<64>);

impl Seed {
    /// The bytes themselves; the caller must not keep a copy.
    pub fn expose(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed([REDACTED])")
    }
}
