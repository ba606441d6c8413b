//! A plugin's file: the checks that both kinds go through before any of its
//! code runs.
//!
//! In this order, so that nothing is trusted before it has been checked: it is a
//! regular file that nobody else can write to; its digest is the pinned one; a
//! trusted key has signed it. The file is read once. What was hashed is what is
//! loaded, whatever happens to the file meanwhile.
//!
//! # Signatures
//!
//! A signature is Ed25519 (RFC 8032) over the 32 bytes of the file's SHA-256
//! digest. It stands in the deployment file as hexadecimal or base64 text, or in
//! a file of its own, raw or as such text, which `ed25519:` may precede.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest, Sha256};

use super::{Kind, LoadError};
use crate::config::PublicKey;

/// The largest file that is read as a plugin, in bytes.
pub const MAX_SIZE: u64 = 1 << 30;

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

/// What a deployment asks of a plugin's file.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The digest that the file must have.
    pub sha256: Option<[u8; 32]>,
    /// Whether a file without a pinned digest is loaded: for development.
    pub allow_unpinned: bool,
    /// The maker's signature.
    pub signature: Option<SignatureSource>,
    /// The Ed25519 keys one of which must have signed; with none, signatures are
    /// neither needed nor accepted.
    pub trusted_keys: Vec<VerifyingKey>,
}

/// Where a signature is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignatureSource {
    /// The signature itself.
    Bytes([u8; 64]),
    /// A file that holds it.
    File(PathBuf),
}

impl SignatureSource {
    /// Reads what a deployment file says: the signature as text, or a path
    /// relative to `base`.
    pub fn parse(text: &str, base: &Path) -> Self {
        decode(text.as_bytes()).map_or_else(|| Self::File(base.join(text)), Self::Bytes)
    }

    /// The signature of `artifact`.
    ///
    /// # Errors
    /// [`LoadError::SignatureMalformed`].
    pub fn read(&self, artifact: &Path) -> Result<[u8; 64], LoadError> {
        let malformed =
            |cause: String| LoadError::SignatureMalformed { path: artifact.to_owned(), cause };
        match self {
            Self::Bytes(bytes) => Ok(*bytes),
            Self::File(path) => {
                let mut text = Vec::new();
                File::open(path)
                    // No form of a signature is longer.
                    .and_then(|file| file.take(256).read_to_end(&mut text))
                    .map_err(|error| malformed(format!("{}: {error}", path.display())))?;
                decode(&text)
                    .ok_or_else(|| malformed(format!("{} holds something else", path.display())))
            }
        }
    }
}

/// Publishers' keys as signatures are checked by them, without those that are no points
/// on the curve: those sign nothing.
pub fn verifying_keys(keys: &[PublicKey]) -> Vec<VerifyingKey> {
    keys.iter().filter_map(|key| VerifyingKey::from_bytes(&key.0).ok()).collect()
}

fn decode(text: &[u8]) -> Option<[u8; 64]> {
    if let Ok(raw) = text.try_into() {
        return Some(raw);
    }
    let text = text.trim_ascii();
    let text = text.strip_prefix(b"ed25519:").unwrap_or(text);
    let bytes = hex::decode(text).ok().or_else(|| STANDARD.decode(text).ok())?;
    bytes.try_into().ok()
}

impl Artifact {
    /// Reads and checks a plugin's file. Nothing of it runs.
    ///
    /// # Errors
    /// The first check that fails, in the order above.
    pub fn read(path: &Path, policy: &Policy) -> Result<Self, LoadError> {
        let bytes = read_file(path)?;
        let sha256: [u8; 32] = Sha256::digest(&bytes).into();
        check_digest(path, &sha256, policy)?;
        check_signature(path, &sha256, policy)?;
        Ok(Self { path: path.to_owned(), bytes, sha256 })
    }

    /// What the file is, by its first bytes.
    ///
    /// # Errors
    /// [`LoadError::NotAPlugin`] where it is neither kind.
    pub fn kind(&self) -> Result<Kind, LoadError> {
        let not = |found: &str| LoadError::NotAPlugin {
            path: self.path.clone(),
            found: found.to_owned(),
        };
        match self.bytes.as_slice() {
            [] => Err(not("the file is empty")),
            [0x7f, b'E', b'L', b'F', ..] => Ok(Kind::Native),
            // Version 13, layer 1: a component. Layer 0 is a core module.
            [0, b'a', b's', b'm', _, _, 1, 0, ..] => Ok(Kind::Component),
            [0, b'a', b's', b'm', ..] => Err(not(
                "it is a WebAssembly core module; build it for wasm32-wasip2, or wrap it with \
                 `wasm-tools component new`",
            )),
            [b'(', ..] => Err(not("it looks like WebAssembly text; compile it first")),
            [b'#', b'!', ..] => Err(not("it is a script")),
            other if std::str::from_utf8(&other[..other.len().min(256)]).is_ok() => {
                Err(not("it holds text"))
            }
            _ => Err(not("its first bytes are of no known format")),
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, LoadError> {
    let unreadable = |cause: io::Error| LoadError::Unreadable { path: path.to_owned(), cause };
    // Non-blocking, or opening a pipe would wait for a writer.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            return Err(LoadError::Symlink { path: path.to_owned() });
        }
        // A socket cannot be opened at all; say what it is.
        Err(error) => {
            return Err(match path.symlink_metadata() {
                Ok(found) if !found.is_file() => {
                    LoadError::NotAFile { path: path.to_owned(), found: file_type(&found) }
                }
                _ => unreadable(error),
            });
        }
    };
    // Of the open file, not of the path, which may name another one by now.
    let found = file.metadata().map_err(unreadable)?;
    if !found.is_file() {
        return Err(LoadError::NotAFile { path: path.to_owned(), found: file_type(&found) });
    }
    let daemon = daemon_uid();
    if found.uid() != 0 && found.uid() != daemon {
        return Err(LoadError::Owner { path: path.to_owned(), owner: found.uid(), daemon });
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(LoadError::Writable { path: path.to_owned(), mode });
    }
    let too_large = |size| LoadError::TooLarge { path: path.to_owned(), size, max: MAX_SIZE };
    if found.size() > MAX_SIZE {
        return Err(too_large(found.size()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(found.size()).unwrap_or(0));
    (&mut file).take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}

fn file_type(found: &std::fs::Metadata) -> &'static str {
    let kind = found.file_type();
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[allow(unsafe_code)]
fn daemon_uid() -> u32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

fn check_digest(path: &Path, found: &[u8; 32], policy: &Policy) -> Result<(), LoadError> {
    match &policy.sha256 {
        Some(expected) if expected == found => Ok(()),
        Some(expected) => Err(LoadError::Digest {
            path: path.to_owned(),
            expected: hex::encode(expected),
            found: hex::encode(found),
        }),
        None if policy.allow_unpinned => Ok(()),
        None => Err(LoadError::Unpinned { path: path.to_owned(), found: hex::encode(found) }),
    }
}

fn check_signature(path: &Path, sha256: &[u8; 32], policy: &Policy) -> Result<(), LoadError> {
    let keys = &policy.trusted_keys;
    let source = match &policy.signature {
        None if keys.is_empty() => return Ok(()),
        None => return Err(LoadError::Unsigned { path: path.to_owned() }),
        Some(_) if keys.is_empty() => {
            return Err(LoadError::SignatureUnchecked { path: path.to_owned() });
        }
        Some(source) => source,
    };
    let signature = Signature::from_bytes(&source.read(path)?);
    if keys.iter().any(|key| key.verify_strict(sha256, &signature).is_ok()) {
        Ok(())
    } else {
        Err(LoadError::Signature { path: path.to_owned(), keys: keys.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_may_stand_in_the_file_in_several_forms() {
        let raw = [7; 64];
        let base = Path::new("/etc/alknet");
        let hex = hex::encode(raw);
        let forms =
            [hex.clone(), STANDARD.encode(raw), format!("{hex}\n"), format!("ed25519:{hex}\n")];
        for text in forms {
            assert_eq!(SignatureSource::parse(&text, base), SignatureSource::Bytes(raw));
        }
        assert_eq!(
            SignatureSource::parse("echo.sig", base),
            SignatureSource::File("/etc/alknet/echo.sig".into())
        );
        assert_eq!(decode(&raw), Some(raw));
    }
}
