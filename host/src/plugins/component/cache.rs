//! Compiled code between starts.
//!
//! Compiled code is run as it is, so the cache is as trusted as the daemon's own
//! file: a directory that belongs to the daemon's user and that nobody else can
//! even read, files likewise, each with a digest of its contents. A file is
//! named by the digest of the component and a hash of everything in the machine
//! and in its settings that the code depends on. Anything doubtful is not used
//! but compiled again.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use wasmtime::component::Component;

use super::error::ComponentError;

/// Bytes of the digest in front of the code.
const DIGEST: usize = 32;

pub(super) struct Cache {
    dir: PathBuf,
    /// The user that the daemon's files belong to.
    owner: u32,
    /// What the code depends on besides the component.
    compatibility: u64,
}

impl Cache {
    /// Opens the cache, creating the directory where there is none.
    pub(super) fn open(dir: PathBuf, engine: &wasmtime::Engine) -> Result<Self, ComponentError> {
        let refuse = |problem: String| ComponentError::Cache { path: dir.clone(), problem };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(|error| refuse(error.to_string()))?;
        let metadata = dir.symlink_metadata().map_err(|error| refuse(error.to_string()))?;
        if !metadata.is_dir() {
            return Err(refuse("it is not a directory".into()));
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(refuse(format!("its mode is {:o}", metadata.mode() & 0o7777)));
        }
        let owner = probe_owner(&dir).map_err(|error| refuse(error.to_string()))?;
        if metadata.uid() != owner {
            return Err(refuse(format!("it belongs to user {}", metadata.uid())));
        }
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { dir, owner, compatibility: hasher.finish() })
    }

    fn path(&self, sha256: &[u8; 32]) -> PathBuf {
        self.dir.join(format!("{}-{:016x}.cwasm", hex::encode(sha256), self.compatibility))
    }

    /// The code of the component with this digest, if it is here and sound.
    pub(super) fn load(&self, engine: &wasmtime::Engine, sha256: &[u8; 32]) -> Option<Component> {
        let path = self.path(sha256);
        let refuse = |problem: &str| {
            tracing::warn!(file = %path.display(), "compiled code is not used, {problem}");
            None
        };
        let code = match self.read(&path) {
            Ok(code) => code,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return refuse(&error.to_string()),
        };
        let Some((digest, code)) = code.split_first_chunk::<DIGEST>() else {
            return refuse("it is cut off");
        };
        if Sha256::digest(code)[..] != digest[..] {
            return refuse("it has been altered");
        }
        match deserialize(engine, code) {
            Ok(component) => Some(component),
            Err(error) => refuse(&format!("{error:#}")),
        }
    }

    /// Reads a file that only the daemon's user can have written.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.uid() != self.owner || metadata.mode() & 0o077 != 0 {
            return Err(io::Error::other("it is not a private file of this user"));
        }
        let mut bytes = Vec::with_capacity(metadata.len() as usize);
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Keeps a component's code. A failure costs the next start a compilation
    /// and is only logged.
    pub(super) fn store(&self, component: &Component, sha256: &[u8; 32]) {
        let path = self.path(sha256);
        let kept = component
            .serialize()
            .map_err(|error| io::Error::other(format!("{error:#}")))
            .and_then(|code| self.write(&path, &code));
        if let Err(error) = kept {
            tracing::warn!(file = %path.display(), %error, "compiled code is not kept");
        }
    }

    /// Writes a file that appears whole or not at all.
    fn write(&self, path: &Path, code: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension(format!("{}.new", std::process::id()));
        let written = (|| {
            let mut file = create_private(&temporary)?;
            file.write_all(&Sha256::digest(code))?;
            file.write_all(code)?;
            file.sync_all()?;
            std::fs::rename(&temporary, path)
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        written
    }
}

/// Creates a file for the daemon's user alone, in place of whatever is there.
fn create_private(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

/// The user that files made here belong to.
fn probe_owner(dir: &Path) -> io::Result<u32> {
    let path = dir.join(format!("owner.{}.new", std::process::id()));
    let owner = create_private(&path)?.metadata()?.uid();
    std::fs::remove_file(&path)?;
    Ok(owner)
}

#[allow(unsafe_code)]
fn deserialize(engine: &wasmtime::Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the code is what `Component::serialize` gave to a process of this
    // user: it was read from a file that only this user can write, in a
    // directory that only this user can enter, and its digest matches. Wasmtime
    // itself refuses code for another version, machine or setting.
    unsafe { Component::deserialize(engine, code) }
}
