//! A plugin's file: the checks that both kinds go through before any of its
//! code runs.

use std::path::PathBuf;

/// A plugin's file, read once: the bytes that were hashed are the bytes that
/// are loaded.
pub struct Artifact {
    /// Where it was read from, for messages.
    pub path: PathBuf,
    /// The whole file.
    pub bytes: Vec<u8>,
    /// Its SHA-256 digest.
    pub sha256: [u8; 32],
}
