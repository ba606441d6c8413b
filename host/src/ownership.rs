//! The node's owners, kept in one file of its folder `state`.
//!
//! The file has a line of JSON for each change, oldest first. A change is written
//! and synced before it is answered, so that what a plugin has been told survives
//! a power cut; a last line that was cut off was never answered and does not
//! count. When most lines are history, the file is rewritten: to a temporary
//! file, synced, renamed.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alknet_plugin_api::Identity;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::registry::{Owners, OwnershipError, OwnershipProvider, OwnershipStore};

/// The file's name in the node's folder `state`.
pub const FILE_NAME: &str = "ownership.jsonl";

/// Lines of history that are not worth a rewrite.
const HISTORY: usize = 1024;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It cannot be read.
    #[error("{file} cannot be read: {cause}", file = file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A line is not a change of owner.
    #[error("{file}:{line} is not a change of owner: {cause}", file = file.display())]
    Line {
        /// The file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// Why.
        cause: serde_json::Error,
    },
}

/// One line of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change<'a> {
    /// The new owner; nobody without one.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    owner: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    resource_type: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    id: std::borrow::Cow<'a, str>,
}

/// Owners in a file, of certain types. Clones are handles to the same.
#[derive(Clone)]
pub struct FileOwnership(Arc<Inner>);

struct Inner {
    path: PathBuf,
    types: BTreeSet<String>,
    owners: RwLock<Owners>,
    /// Changes take turns; decisions never wait for the disk.
    writing: Mutex<Writing>,
    runtime: Handle,
}

struct Writing {
    /// Opened for the first change: reading alone creates nothing.
    file: Option<File>,
    /// Bytes of whole lines.
    length: u64,
    lines: usize,
}

impl FileOwnership {
    /// Reads the file at `path`, if there is one. Ownership decides about `types`.
    /// Changes are written on `runtime`'s threads for blocking work.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn open(path: &Path, types: BTreeSet<String>, runtime: Handle) -> Result<Self, OpenError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(cause) => return Err(OpenError::Read { file: path.to_owned(), cause }),
        };
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let mut owners = Owners::default();
        let mut lines = 0;
        for line in text[..whole].lines() {
            lines += 1;
            let change: Change<'_> = serde_json::from_str(line)
                .map_err(|cause| OpenError::Line { file: path.to_owned(), line: lines, cause })?;
            match &change.owner {
                Some(owner) => owners.record(owner, &change.resource_type, &change.id),
                None => owners.revoke(&change.resource_type, &change.id),
            };
        }
        let writing = Writing { file: None, length: whole as u64, lines };
        Ok(Self(Arc::new(Inner {
            path: path.to_owned(),
            types,
            owners: RwLock::new(owners),
            writing: Mutex::new(writing),
            runtime,
        })))
    }

    /// Writes a change where `applies` says that it is one, and then makes it.
    fn change(
        &self,
        owner: Option<String>,
        resource_type: String,
        id: String,
    ) -> BoxFuture<'static, Result<bool, OwnershipError>> {
        let inner = self.0.clone();
        let work = move || inner.change(owner.as_deref(), &resource_type, &id);
        let changed = self.0.runtime.spawn_blocking(work);
        async move {
            match changed.await {
                Ok(changed) => changed.map_err(|error| OwnershipError::Store(error.to_string())),
                Err(error) => Err(OwnershipError::Store(error.to_string())),
            }
        }
        .boxed()
    }
}

impl Inner {
    fn change(&self, owner: Option<&str>, resource_type: &str, id: &str) -> io::Result<bool> {
        let mut writing = self.writing.lock();
        let owned = self.owners.read().owner(resource_type, id).is_some();
        if owned == owner.is_some() {
            return Ok(false);
        }
        writing.append(&self.path, &line(owner, resource_type, id)?)?;
        let mut owners = self.owners.write();
        match owner {
            Some(owner) => owners.record(owner, resource_type, id),
            None => owners.revoke(resource_type, id),
        };
        drop(owners);
        // The change is kept already, whatever becomes of the rewrite.
        let owners = self.owners.read();
        if writing.lines > 2 * owners.len() + HISTORY
            && let Err(error) = writing.rewrite(&self.path, &owners)
        {
            tracing::warn!(file = %self.path.display(), %error, "owners were not rewritten");
        }
        Ok(true)
    }
}

fn line(owner: Option<&str>, resource_type: &str, id: &str) -> io::Result<Vec<u8>> {
    let change =
        Change { owner: owner.map(Into::into), resource_type: resource_type.into(), id: id.into() };
    let mut line = serde_json::to_vec(&change)?;
    line.push(b'\n');
    Ok(line)
}

impl Writing {
    fn append(&mut self, path: &Path, line: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                private_folder(path)?;
                let mut options = OpenOptions::new();
                let file =
                    options.write(true).create(true).truncate(false).mode(0o600).open(path)?;
                sync_folder(path)?;
                self.file.insert(file)
            }
        };
        // What an earlier attempt, or a power cut, left behind goes first.
        file.set_len(self.length)?;
        file.seek(SeekFrom::Start(self.length))?;
        let written = file.write_all(line).and_then(|()| file.sync_data());
        if let Err(error) = written {
            let _left_for_the_next_attempt = file.set_len(self.length);
            return Err(error);
        }
        self.length += line.len() as u64;
        self.lines += 1;
        Ok(())
    }

    fn rewrite(&mut self, path: &Path, owners: &Owners) -> io::Result<()> {
        let draft = path.with_extension("jsonl.draft");
        let mut text = Vec::new();
        for (owner, resource_type, id) in owners.iter() {
            text.extend(line(Some(owner), resource_type, id)?);
        }
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        sync_folder(path)?;
        *self = Self { file: Some(file), length: text.len() as u64, lines: owners.len() };
        Ok(())
    }
}

/// Makes the folder of `path`, for its owner alone, where there is none.
fn private_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder.map(|folder| DirBuilder::new().mode(0o700).create(folder)) {
        Some(Err(error)) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

impl OwnershipProvider for FileOwnership {
    fn keeps(&self, resource_type: &str) -> bool {
        self.0.types.contains(resource_type)
    }

    fn owns(&self, identity: &Identity, resource_type: &str, id: &str, _: Option<&str>) -> bool {
        self.0.owners.read().owner(resource_type, id) == Some(&*identity.id)
    }

    fn owns_any(&self, identity: &Identity, resource_type: &str) -> bool {
        self.0.owners.read().owns_any(&identity.id, resource_type)
    }
}

impl OwnershipStore for FileOwnership {
    fn record(
        &self,
        identity: &str,
        resource_type: &str,
        id: &str,
    ) -> BoxFuture<'static, Result<bool, OwnershipError>> {
        self.change(Some(identity.to_owned()), resource_type.to_owned(), id.to_owned())
    }

    fn revoke(
        &self,
        resource_type: &str,
        id: &str,
    ) -> BoxFuture<'static, Result<bool, OwnershipError>> {
        self.change(None, resource_type.to_owned(), id.to_owned())
    }

    fn owned(
        &self,
        identity: &str,
        resource_type: &str,
    ) -> BoxFuture<'static, Result<Vec<String>, OwnershipError>> {
        std::future::ready(Ok(self.0.owners.read().owned(identity, resource_type))).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<FileOwnership, OpenError> {
        FileOwnership::open(path, ["note".to_owned()].into(), Handle::current())
    }

    #[tokio::test]
    async fn owners_outlive_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        let store = open(&path).unwrap();
        assert!(!path.exists(), "reading creates nothing");
        assert!(store.record("dora", "note", "n\u{1}1\n").await.unwrap());
        assert!(!store.record("emil", "note", "n\u{1}1\n").await.unwrap());
        assert!(store.record("emil", "note", "n2").await.unwrap());
        assert!(store.revoke("note", "n2").await.unwrap());
        assert!(!store.revoke("note", "n2").await.unwrap());
        let again = open(&path).unwrap();
        assert_eq!(again.owned("dora", "note").await.unwrap(), ["n\u{1}1\n"]);
        let emil = Identity { id: "emil".into(), ..Identity::default() };
        assert!(!again.owns_any(&emil, "note"));
        assert!(again.keeps("note") && !again.keeps("task"));
    }

    #[tokio::test]
    async fn a_line_that_was_cut_off_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        open(&path).unwrap().record("dora", "note", "n1").await.unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, [&whole[..], &whole[..cut]].concat()).unwrap();
            let store = open(&path).unwrap();
            assert_eq!(store.owned("dora", "note").await.unwrap(), ["n1"]);
            assert!(store.record("emil", "note", "n2").await.unwrap());
            assert_eq!(open(&path).unwrap().owned("emil", "note").await.unwrap(), ["n2"]);
        }
        std::fs::write(&path, "{\"type\":\"note\",\"id\":\"a\"}\nnonsense\n").unwrap();
        let error = open(&path).map(drop).unwrap_err().to_string();
        assert!(error.contains("ownership.jsonl:2 is not a change of owner"), "{error}");
    }

    #[tokio::test]
    async fn history_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE_NAME);
        let store = open(&path).unwrap();
        assert!(store.record("dora", "note", "kept").await.unwrap());
        for n in 0..HISTORY {
            assert!(store.record("dora", "note", &n.to_string()).await.unwrap());
            assert!(store.revoke("note", &n.to_string()).await.unwrap());
        }
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= HISTORY + 4, "{lines}");
        assert_eq!(open(&path).unwrap().owned("dora", "note").await.unwrap(), ["kept"]);
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_an_error_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder.path().join("state").join(FILE_NAME)).unwrap();
        std::fs::write(folder.path().join("state"), "in the way").unwrap();
        let error = store.record("dora", "note", "n1").await.unwrap_err();
        assert!(error.to_string().contains("owners cannot be kept"), "{error}");
        assert!(store.owned("dora", "note").await.unwrap().is_empty());
    }
}
