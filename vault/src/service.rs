//! The vault itself: a seed behind a lock, and what can be done with it.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use crate::{
    DerivationPath, DerivedKey, EncryptedData, EncryptionKey, KeyType, Phrase, Seed, VaultError,
    cache::Cache, slip10,
};

/// The key version that [`VaultServiceHandle::encrypt`] uses.
pub const CURRENT_KEY_VERSION: u32 = 2;

/// A handle on one vault; clones share it. It starts locked.
#[derive(Clone, Default)]
pub struct VaultServiceHandle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    // Taken before `cache`, always: `lock` must not race with a derivation that fills the cache.
    seed: RwLock<Option<Seed>>,
    cache: RwLock<Cache>,
}

impl VaultServiceHandle {
    /// A locked vault.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loads the seed of `phrase` under `passphrase` (empty for none).
    ///
    /// # Errors
    /// `Mnemonic`; `AlreadyUnlocked`, which keeps the seed that is loaded.
    pub fn unlock(&self, phrase: &str, passphrase: &str) -> Result<(), VaultError> {
        self.load(&Phrase::parse(phrase)?, passphrase)
    }

    /// Makes a phrase of `words` words, unlocks with it and returns it to be shown once.
    ///
    /// # Errors
    /// As [`unlock`](Self::unlock).
    pub fn unlock_new(&self, words: usize) -> Result<Phrase, VaultError> {
        let phrase = Phrase::generate(words)?;
        self.load(&phrase, "")?;
        Ok(phrase)
    }

    /// Wipes the seed and the cache. Locking twice is fine.
    pub fn lock(&self) {
        let mut seed = write(&self.0.seed);
        *seed = None;
        write(&self.0.cache).clear();
    }

    /// Whether a seed is loaded.
    pub fn is_unlocked(&self) -> bool {
        read(&self.0.seed).is_some()
    }

    /// The Ed25519 key at `path`, all of it hardened.
    ///
    /// # Errors
    /// `VaultLocked`, `InvalidPath`, `Derivation`.
    pub fn derive_ed25519(&self, path: &str) -> Result<DerivedKey, VaultError> {
        self.derive(path, KeyType::Ed25519)
    }

    /// The secp256k1 key at `path`, for instance [`path::ETHEREUM`](crate::path::ETHEREUM).
    ///
    /// # Errors
    /// As [`derive_ed25519`](Self::derive_ed25519); `UnsupportedKeyType` without the feature `secp256k1`.
    pub fn derive_ethereum_key(&self, path: &str) -> Result<DerivedKey, VaultError> {
        self.derive(path, KeyType::Secp256k1)
    }

    /// The encryption key of [`CURRENT_KEY_VERSION`].
    ///
    /// # Errors
    /// `VaultLocked`, `Derivation`.
    pub fn derive_encryption_key(&self) -> Result<EncryptionKey, VaultError> {
        self.derive_encryption_key_for_version(CURRENT_KEY_VERSION)
    }

    /// The encryption key of `version`, from 2.
    ///
    /// # Errors
    /// `VaultLocked`, `InvalidPath` below 2, `Derivation`.
    pub fn derive_encryption_key_for_version(
        &self,
        version: u32,
    ) -> Result<EncryptionKey, VaultError> {
        self.ensure_unlocked()?;
        let path = DerivationPath::encryption(version)?;
        let key = self.derive_parsed(path, KeyType::Ed25519)?;
        Ok(EncryptionKey::new(version, &key.expose_secret()))
    }

    /// Seals `text` for the entry `name`.
    ///
    /// # Errors
    /// `VaultLocked`, `Encryption`.
    pub fn encrypt(&self, name: &str, text: &str) -> Result<EncryptedData, VaultError> {
        self.encrypt_for_version(CURRENT_KEY_VERSION, name, text)
    }

    /// Seals `text` for the entry `name` under the encryption key of `version`, from 2.
    ///
    /// # Errors
    /// `VaultLocked`, `InvalidPath` for a version below 2, `Encryption`.
    pub fn encrypt_for_version(
        &self,
        version: u32,
        name: &str,
        text: &str,
    ) -> Result<EncryptedData, VaultError> {
        EncryptedData::seal(&self.derive_encryption_key_for_version(version)?, name, text)
    }

    /// Opens the blob of the entry `name`.
    ///
    /// # Errors
    /// `VaultLocked`, `InvalidPath` for a version below 2, else `Encryption`, whatever was wrong.
    pub fn decrypt(
        &self,
        name: &str,
        blob: &EncryptedData,
    ) -> Result<Zeroizing<String>, VaultError> {
        blob.open(&self.derive_encryption_key_for_version(blob.key_version)?, name)
    }

    /// Opens a blob that has no `context`, and only such a one.
    ///
    /// # Errors
    /// As [`decrypt`](Self::decrypt).
    pub fn decrypt_unbound(&self, blob: &EncryptedData) -> Result<Zeroizing<String>, VaultError> {
        blob.open_unbound(&self.derive_encryption_key_for_version(blob.key_version)?)
    }

    /// The same text sealed under key version `to`; the old blob stays readable.
    ///
    /// # Errors
    /// As [`decrypt`](Self::decrypt).
    pub fn rotate(
        &self,
        name: &str,
        blob: &EncryptedData,
        to: u32,
    ) -> Result<EncryptedData, VaultError> {
        self.encrypt_for_version(to, name, &self.decrypt(name, blob)?)
    }

    fn load(&self, phrase: &Phrase, passphrase: &str) -> Result<(), VaultError> {
        if self.is_unlocked() {
            return Err(VaultError::AlreadyUnlocked);
        }
        // 2,048 rounds of HMAC, so not under the lock; another unlock may win meanwhile.
        let fresh = phrase.to_seed(passphrase);
        let mut seed = write(&self.0.seed);
        if seed.is_some() {
            return Err(VaultError::AlreadyUnlocked);
        }
        *seed = Some(fresh);
        Ok(())
    }

    fn ensure_unlocked(&self) -> Result<(), VaultError> {
        if self.is_unlocked() { Ok(()) } else { Err(VaultError::VaultLocked) }
    }

    fn derive(&self, path: &str, kind: KeyType) -> Result<DerivedKey, VaultError> {
        self.ensure_unlocked()?;
        self.derive_parsed(path.parse()?, kind)
    }

    fn derive_parsed(&self, path: DerivationPath, kind: KeyType) -> Result<DerivedKey, VaultError> {
        let guard = read(&self.0.seed);
        let seed = guard.as_ref().ok_or(VaultError::VaultLocked)?;
        let now = Instant::now();
        if let Some(key) = read(&self.0.cache).get(&path, kind, now) {
            return Ok(key);
        }
        let key = compute(seed, &path, kind)?;
        write(&self.0.cache).insert(path, key.duplicate(), now);
        Ok(key)
    }
}

impl fmt::Debug for VaultServiceHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VaultServiceHandle {{ unlocked: {} }}", self.is_unlocked())
    }
}

fn compute(seed: &Seed, path: &DerivationPath, kind: KeyType) -> Result<DerivedKey, VaultError> {
    let mut secret = Zeroizing::new([0; 32]);
    match kind {
        KeyType::Ed25519 => {
            secret.copy_from_slice(&slip10::derive(seed.expose(), path)?[..32]);
            let public = SigningKey::from_bytes(&secret).verifying_key().to_bytes().to_vec();
            Ok(DerivedKey::new(kind, &secret, public))
        }
        #[cfg(feature = "secp256k1")]
        KeyType::Secp256k1 => {
            secret.copy_from_slice(&crate::bip32::derive(seed.expose(), path)?[..32]);
            let public = crate::bip32::public_of(&secret[..])?;
            Ok(DerivedKey::new(kind, &secret, public))
        }
        #[cfg(not(feature = "secp256k1"))]
        KeyType::Secp256k1 => Err(VaultError::UnsupportedKeyType("secp256k1")),
    }
}

// A panic elsewhere must not cost the node its vault: every state behind these locks is whole at all times.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k69_a_poisoned_lock_does_not_disable_the_vault() {
        let vault = VaultServiceHandle::new();
        vault.unlock_new(12).unwrap();
        let other = vault.clone();
        let result = std::thread::spawn(move || {
            let _seed = other.0.seed.write();
            let _cache = other.0.cache.write();
            panic!("poison both");
        });
        assert!(result.join().is_err());
        assert!(vault.0.seed.is_poisoned() && vault.0.cache.is_poisoned());
        vault.derive_ed25519("m/74'").unwrap();
        vault.lock();
        assert!(!vault.is_unlocked());
    }
}
