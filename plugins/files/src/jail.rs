//! A directory that no path leads out of.
//!
//! The kernel does the walking: `openat2(2)` with `RESOLVE_BENEATH` refuses every
//! step above the root, be it `..`, an absolute path or a link, in one call. There
//! is no moment between a check and its use in which somebody could exchange a
//! directory for a link. Links that stay beneath the root work as usual. What the
//! jail cannot see are hard links and mounts: they are part of what the operator
//! put there.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2};
use rustix::io::Errno;

/// How often a walk is tried again that the kernel gave up because somebody was
/// renaming directories under it.
const RACES: usize = 64;

/// The root of the jail.
pub(crate) struct Jail {
    root: OwnedFd,
}

/// Why something in the jail could not be opened.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no such file or directory")]
    NotFound,
    #[error("the path, or a link on it, leads out of the root")]
    Outside,
    #[error("not a regular file")]
    NotAFile,
    #[error("not a directory")]
    NotADirectory,
    #[error("the node may not read it")]
    NotReadable,
    #[error("not a path: {0}")]
    NotAPath(&'static str),
    #[error("the directories on the path are being renamed")]
    Busy,
    #[error("{0}")]
    Other(Errno),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::NotFound,
            // Magic links, such as those below /proc, answer ELOOP. So does a
            // circle of links, which leads nowhere either.
            Errno::XDEV | Errno::LOOP => Self::Outside,
            Errno::NOTDIR => Self::NotADirectory,
            Errno::ISDIR | Errno::NXIO => Self::NotAFile,
            Errno::ACCESS | Errno::PERM => Self::NotReadable,
            Errno::NAMETOOLONG => Self::NotAPath("it or a name in it is too long"),
            Errno::AGAIN => Self::Busy,
            other => Self::Other(other),
        }
    }
}

impl Jail {
    /// Opens the root. Links on the way to it are the operator's and are followed.
    ///
    /// # Errors
    /// The root is no directory, or the kernel lacks `openat2` (Linux 5.6).
    pub(crate) fn new(root: &Path) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let jail = Self { root: open(root, flags, Mode::empty())? };
        match jail.resolve(b".", OFlags::PATH) {
            Ok(_) => Ok(jail),
            Err(Refusal::Other(errno)) => Err(errno),
            Err(_) => Err(Errno::NOSYS),
        }
    }

    /// What `path` names, without opening it: opening a device or a pipe already
    /// does something to it.
    pub(crate) fn stat(&self, path: &[u8]) -> Result<Stat, Refusal> {
        let file = self.resolve(path, OFlags::PATH)?;
        Ok(fstat(&file)?)
    }

    /// Opens a regular file for reading.
    pub(crate) fn file(&self, path: &[u8]) -> Result<(File, Stat), Refusal> {
        require_file(&self.stat(path)?)?;
        // What the path names may have changed since. Then this opens something
        // else, but does not wait for it and does not read it.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.resolve(path, flags)?;
        let stat = fstat(&file)?;
        require_file(&stat)?;
        Ok((File::from(file), stat))
    }

    /// Opens a directory for listing.
    pub(crate) fn directory(&self, path: &[u8]) -> Result<OwnedFd, Refusal> {
        self.resolve(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    fn resolve(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Refusal> {
        if path.contains(&0) {
            return Err(Refusal::NotAPath("it holds a NUL"));
        }
        let path = if path.is_empty() { &b"."[..] } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0..RACES;
        loop {
            let path = OsStr::from_bytes(path);
            let flags = flags | OFlags::CLOEXEC;
            match openat2(self.root.as_fd(), path, flags, Mode::empty(), resolve) {
                // `..` and a rename at the same time: the kernel cannot tell
                // whether it is still beneath the root, and says so.
                Err(Errno::AGAIN | Errno::INTR) if tries.next().is_some() => {}
                other => return Ok(other?),
            }
        }
    }
}

fn require_file(stat: &Stat) -> Result<(), Refusal> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        _ => Err(Refusal::NotAFile),
    }
}
