//! Writing files that are there whole or not at all.
//!
//! What is written goes to a draft beside the file, is synced, and then takes
//! the file's name. Whoever reads the file, and whoever finds it after a crash,
//! sees the old contents or the new ones.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Writes a file that does not exist yet.
///
/// # Errors
/// The file exists, or it cannot be written.
pub(crate) fn write_new(file: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let draft = draft_of(file);
    let opened = open_draft(&draft, mode)?;
    let linked = fill(opened, bytes)
        // Unlike a rename, a link never replaces what somebody else has put there.
        .and_then(|()| std::fs::hard_link(&draft, file));
    std::fs::remove_file(&draft)?;
    linked
}

/// Replaces the contents of a file, which keeps its mode and its owner. Behind a
/// symbolic link it is the link's target that is replaced.
///
/// # Errors
/// The file is missing, or cannot be replaced by one of the same owner; it then
/// stands as it did.
pub(crate) fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = file.canonicalize()?;
    let old = std::fs::metadata(&file)?;
    let draft = draft_of(&file);
    // Nobody else reads the draft before it has the old file's mode.
    let opened = open_draft(&draft, 0o600)?;
    let replaced = keep_owner(&opened, &old)
        .and_then(|()| opened.set_permissions(PermissionsExt::from_mode(old.mode() & 0o7777)))
        .and_then(|()| fill(opened, bytes))
        .and_then(|()| std::fs::rename(&draft, &file));
    if replaced.is_err() {
        // The error that matters is the one being returned.
        let _ = std::fs::remove_file(&draft);
        return replaced;
    }
    // A rename that is not synced can be undone by a power cut.
    File::open(file.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// A daemon under another user must be able to read the file afterwards.
fn keep_owner(draft: &File, old: &std::fs::Metadata) -> io::Result<()> {
    let new = draft.metadata()?;
    if (new.uid(), new.gid()) == (old.uid(), old.gid()) {
        return Ok(());
    }
    fchown(draft, Some(old.uid()), Some(old.gid()))
}

fn open_draft(draft: &Path, mode: u32) -> io::Result<File> {
    // A draft that was left behind by a process that died is nobody's.
    match std::fs::remove_file(draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(mode).open(draft)
}

fn fill(mut draft: File, bytes: &[u8]) -> io::Result<()> {
    draft.write_all(bytes)?;
    draft.sync_all()
}

fn draft_of(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.draft"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_never_takes_the_place_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        write_new(&file, 0o640, b"one").unwrap();
        let error = write_new(&file, 0o640, b"two").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&file).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no draft stays");
    }

    #[test]
    fn a_replaced_file_keeps_its_mode_and_its_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("f"), folder.path().join("link"));
        std::fs::write(&file, "old").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o664)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        std::fs::write(draft_of(&file), "left behind").unwrap();
        replace(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o664);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(!draft_of(&file).exists());
        assert!(replace(&folder.path().join("missing"), b"x").is_err());
    }
}
