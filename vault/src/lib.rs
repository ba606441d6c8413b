//! BIP39 phrase, SLIP-0010 keys and AES-256-GCM entries: the secrets of a node, standalone and synchronous.
//!
//! One phrase yields every key of a node. [`VaultServiceHandle`] holds its seed while unlocked, derives
//! keys from it by path, and seals named entries; [`CredentialStore`] keeps those entries in one file that
//! is replaced atomically; [`PhraseSource`] reads the phrase from where a service manager may put it.
//!
//! ```
//! use alknet_vault::{VaultServiceHandle, path};
//!
//! let vault = VaultServiceHandle::new();
//! let phrase = vault.unlock_new(24)?; // show once, then drop: the words are wiped
//! let node = vault.derive_ed25519(path::NODE_IDENTITY)?;
//! assert_eq!(node.public_key().len(), 32);
//!
//! let sealed = vault.encrypt("mail/token", "hunter2")?;
//! assert_eq!(vault.decrypt("mail/token", &sealed)?.as_str(), "hunter2");
//! assert!(vault.decrypt("other/name", &sealed).is_err());
//! vault.lock();
//! # drop(phrase);
//! # Ok::<(), alknet_vault::VaultError>(())
//! ```

#[cfg(feature = "secp256k1")]
mod bip32;
mod cache;
mod encrypted;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod key;
mod locked;
mod mnemonic;
pub mod path;
mod service;
mod slip10;
mod source;
mod store;

pub use encrypted::EncryptedData;
pub use error::{PhraseSourceError, StoreError, VaultError};
pub use key::{DerivedKey, EncryptionKey, KeyType};
pub use mnemonic::{Phrase, Seed};
pub use path::DerivationPath;
pub use service::{CURRENT_KEY_VERSION, VaultServiceHandle};
pub use source::PhraseSource;
pub use store::CredentialStore;

#[cfg(test)]
mod vectors;
