//! Errors: one table for the vault, one for the store file, one for the phrase's source.

use std::{io, path::PathBuf};

/// Why the vault refused. No text holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// No seed is loaded.
    #[error("the vault is locked; unlock it with its phrase first")]
    VaultLocked,
    /// A seed is loaded already; it was kept.
    #[error("the vault is already unlocked; lock it before unlocking it with another phrase")]
    AlreadyUnlocked,
    /// The phrase is not a BIP39 English phrase.
    #[error("the phrase is not valid: {0}; check its words and their order")]
    Mnemonic(&'static str),
    /// No key could be derived.
    #[error("the key could not be derived: {0}; use another path")]
    Derivation(&'static str),
    /// Sealing or opening failed. A wrong key and a tampered entry read the same on purpose.
    #[error(
        "the entry could not be sealed or opened; check that it belongs to this phrase and name, or restore it"
    )]
    Encryption,
    /// The derivation path is malformed or not allowed here.
    #[error("the derivation path is not valid: {0}; write it like m/74'/0'/0'/0'")]
    InvalidPath(&'static str),
    /// The key type does not exist in this build, or not for this use.
    #[error("the key type is not supported: {0}; use Ed25519 or build with the feature it needs")]
    UnsupportedKeyType(&'static str),
}

/// Why the credential store could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system refused.
    #[error("cannot {action} {path}: {source}; check the directory, its owner and free space", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner may touch the file.
    #[error("{path} has mode {mode:04o}, wider than 0600; run chmod 600 on it and consider its secrets seen", path = path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a regular file.
    #[error("{path} is not a regular file; give the path of the file itself", path = path.display())]
    NotRegular {
        /// The path.
        path: PathBuf,
    },
    /// The contents are not a store. The position is given, never the text.
    #[error("{path} is not a credential store (line {line}, column {column}); restore it from a copy", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
}

/// Why the phrase could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PhraseSourceError {
    /// The source could not be read.
    #[error("cannot read the phrase from {origin}: {source}; check that it exists and may be read")]
    Io {
        /// Which source.
        origin: String,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the owner may touch the file.
    #[error("{origin} has mode {mode:04o}, wider than allowed; run chmod 600 on it")]
    Mode {
        /// Which source.
        origin: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a regular file.
    #[error("{origin} is not a regular file; give the path of the file itself")]
    NotRegular {
        /// Which source.
        origin: String,
    },
    /// More bytes than any phrase has.
    #[error("{origin} holds more than {limit} bytes; it should hold the phrase alone")]
    TooLong {
        /// Which source.
        origin: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// Not UTF-8, or nothing but blanks.
    #[error("{origin} does not hold a phrase as text; write its words on one line")]
    NotText {
        /// Which source.
        origin: String,
    },
    /// A phrase without the passphrase that it has.
    #[error("{origin} does not hold a passphrase on the line below the phrase; write it there")]
    NoPassphrase {
        /// Which source.
        origin: String,
    },
    /// The service manager passed no credentials.
    #[error("CREDENTIALS_DIRECTORY is not set; add LoadCredential= to the systemd unit")]
    NoCredentialsDirectory,
    /// The credential's name would leave the directory.
    #[error("the credential's name must be one plain file name; rename it in the unit")]
    CredentialName,
}
