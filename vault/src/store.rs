//! The credential store: one JSON file of sealed entries, replaced as a whole or not at all.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::{EncryptedData, StoreError};

/// Entry name → sealed entry, with the file it came from.
#[derive(Debug)]
pub struct CredentialStore {
    path: PathBuf,
    /// The entries. Changes reach the file by [`save`](Self::save).
    pub entries: BTreeMap<String, EncryptedData>,
}

impl CredentialStore {
    /// An empty store that will be written to `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), entries: BTreeMap::new() }
    }

    /// Reads the store at `path`, which must be a regular file of mode 0600 or narrower.
    ///
    /// # Errors
    /// [`StoreError`]; a file that does not exist is `Io` of kind `NotFound`.
    pub fn load(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let path = path.into();
        // Not blocking, so that a pipe in the file's place cannot hang start-up.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .map_err(io_error("open", &path))?;
        // Asked of the open file: the name may point elsewhere by now.
        let meta = file.metadata().map_err(io_error("inspect", &path))?;
        if !meta.is_file() {
            return Err(StoreError::NotRegular { path });
        }
        let mode = meta.permissions().mode() & 0o7777;
        if mode & !0o600 != 0 {
            return Err(StoreError::Mode { path, mode });
        }
        let text = io::read_to_string(file).map_err(io_error("read", &path))?;
        match serde_json::from_str(&text) {
            Ok(entries) => Ok(Self { path, entries }),
            Err(e) => Err(StoreError::Format { line: e.line(), column: e.column(), path }),
        }
    }

    /// Reads the store at `path`, or an empty one where there is none, lets `change` edit it, and replaces the
    /// file. Others who do the same wait until it is done, so that no change is lost.
    ///
    /// # Errors
    /// [`StoreError`], or what `change` says; the file then stands as it was.
    pub fn edit<T, E: From<StoreError>>(
        path: impl Into<PathBuf>,
        change: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let path = path.into();
        let dir = directory_of(&path);
        // The directory, because the file itself is another one after each change. The lock goes with the
        // descriptor, also when the process dies.
        let held = File::open(dir).map_err(io_error("open", dir))?;
        held.lock().map_err(io_error("lock", dir))?;
        let mut store = match Self::load(&path) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::new(path)
            }
            loaded => loaded?,
        };
        let done = change(&mut store)?;
        store.save()?;
        Ok(done)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces the file. Whenever the process dies, the file is the old or the new one; a temporary
    /// file of mode 0600 may then be left beside it, holding sealed entries only.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the old file then stands, unless only the directory's sync failed.
    pub fn save(&self) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec_pretty(&self.entries)
            .map_err(|e| io_error("encode", &self.path)(e.into()))?;
        let dir = directory_of(&self.path);
        let mut tag = [0; 8];
        getrandom::fill(&mut tag)
            .map_err(|e| io_error("name a temporary file for", &self.path)(io::Error::other(e)))?;
        let temporary = dir.join(format!(".vault-{:016x}.tmp", u64::from_ne_bytes(tag)));
        let written =
            write_new(&temporary, &bytes).and_then(|()| fs::rename(&temporary, &self.path));
        if let Err(e) = written {
            // Best effort: the error that matters is the one being returned.
            let _ = fs::remove_file(&temporary);
            return Err(io_error("write", &self.path)(e));
        }
        File::open(dir).and_then(|d| d.sync_all()).map_err(io_error("sync", dir))
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_path_buf();
    move |source| StoreError::Io { action, path, source }
}
