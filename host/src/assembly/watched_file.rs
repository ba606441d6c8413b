//! When a file that people edit may be read.
//!
//! The folder is watched, not the file, so that a file put in the place of
//! another is seen. An editor that writes in place leaves the file half-written
//! for a while, and half of a list of peers is a valid list of peers. So a file
//! is read only when nothing has happened to it for a while, never while
//! somebody who has written to it still holds it open, and what was read counts
//! only if nobody wrote in the meantime.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::config::{AccessConfig, Place, Problems};

/// Quiet after a change, before the file is read.
pub(super) const DEBOUNCE: Duration = Duration::from_millis(200);

/// Changes that never pause put reading off for this long at most.
const LATEST: Duration = Duration::from_millis(600);

/// For how long a file that somebody writes to is waited for, before that is
/// called a problem.
const WRITTEN_TO: Duration = Duration::from_secs(5);

/// After reading: time for the news that somebody wrote at that moment.
const GRACE: Duration = Duration::from_millis(20);

/// What happened to the file so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    changes: u64,
    /// Changes of its contents in place.
    writes: u64,
    /// Whether it was written to and not closed since.
    written_to: bool,
}

impl Seen {
    fn note(&mut self, kind: &EventKind) {
        match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => self.written_to = false,
            // Opening and reading, which the node itself does.
            EventKind::Access(_) => return,
            EventKind::Modify(ModifyKind::Data(_)) => {
                self.writes += 1;
                self.written_to = true;
            }
            // Another file has the name now, and is closed as far as is known.
            EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => {
                self.written_to = false;
            }
            _ => {}
        }
        self.changes += 1;
    }
}

/// A watched file.
pub(super) struct WatchedFile {
    file: PathBuf,
    seen: watch::Receiver<Seen>,
    /// Kept for what it does; `None` where the system cannot watch.
    _watcher: Option<RecommendedWatcher>,
}

impl WatchedFile {
    /// Watches a file's folder, and behind a symbolic link its target's folder
    /// too. Where the system does not let it, changes are not noticed, which is
    /// logged; the file can still be read.
    pub(super) fn new(file: &Path) -> Self {
        let (sender, seen) = watch::channel(Seen::default());
        let watcher = watch_folders(file, sender).inspect_err(|error| {
            tracing::warn!(
                file = %file.display(), %error,
                "changes of the file are not noticed; use SIGHUP or `alknet reload`"
            );
        });
        Self { file: file.to_owned(), seen, _watcher: watcher.ok() }
    }

    /// Resolves when the file has changed since the last
    /// [`read`](Self::read); never where the system cannot watch.
    pub(super) async fn changed(&mut self) {
        if self.seen.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The file's text, once it has been left alone for `quiet`.
    ///
    /// # Errors
    /// It is missing or cannot be read, is empty, or somebody keeps writing to
    /// it.
    pub(super) async fn read(&mut self, quiet: Duration) -> Result<String, Problems> {
        let start = Instant::now();
        loop {
            let before = *self.seen.borrow_and_update();
            let spent = start.elapsed();
            let wait = match before.written_to {
                true if spent >= WRITTEN_TO => return Err(self.being_written()),
                true => WRITTEN_TO - spent,
                false => quiet.min(LATEST.saturating_sub(spent)),
            };
            let is_watched = match timeout(wait, self.seen.changed()).await {
                Ok(Ok(())) => continue,
                Ok(Err(_)) => false,
                Err(_) => true,
            };
            if before.written_to && is_watched {
                continue;
            }
            let file = self.file.clone();
            let text = tokio::task::spawn_blocking(move || AccessConfig::read_text(&file)).await;
            let text = text.unwrap_or_else(|_| Err(self.being_written()));
            sleep(GRACE).await;
            let after = *self.seen.borrow();
            if after.writes == before.writes && !after.written_to {
                return text.and_then(|text| self.refuse_empty(text));
            }
            if start.elapsed() >= WRITTEN_TO {
                return Err(self.being_written());
            }
        }
    }

    fn being_written(&self) -> Problems {
        Place::file_only(&self.file)
            .problem(
                "somebody is writing to the file, so that it may be incomplete",
                "it is read once whoever writes it has closed it",
            )
            .into()
    }

    /// Every file that is written in place is empty for a moment.
    fn refuse_empty(&self, text: String) -> Result<String, Problems> {
        match text.is_empty() {
            false => Ok(text),
            true => Err(Place::file_only(&self.file)
                .problem(
                    "the file is empty, as it is while it is being written",
                    "to let only strangers in, write a comment into it",
                )
                .into()),
        }
    }
}

fn watch_folders(
    file: &Path,
    sender: watch::Sender<Seen>,
) -> Result<RecommendedWatcher, notify::Error> {
    let mut folders = vec![folder_of(file)];
    let mut names: Vec<OsString> = file.file_name().map(OsStr::to_owned).into_iter().collect();
    if let Ok(target) = file.canonicalize() {
        let folder = folder_of(&target);
        if folders[0].canonicalize().ok().as_ref() != Some(&folder) {
            folders.push(folder);
        }
        names.extend(target.file_name().map(OsStr::to_owned));
    }
    let handler = move |event: notify::Result<notify::Event>| {
        sender.send_if_modified(|seen| {
            let before = *seen;
            match event {
                Ok(event) if event.need_rescan() => {
                    *seen = Seen { changes: seen.changes + 1, writes: seen.writes + 1, ..*seen };
                    seen.written_to = false;
                }
                Ok(event) if event.paths.iter().any(|path| is_meant(path, &names)) => {
                    seen.note(&event.kind);
                }
                _ => {}
            }
            *seen != before
        });
    };
    let mut watcher = notify::recommended_watcher(handler)?;
    for folder in folders {
        watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// Besides the file itself, links such as `..data`, by whose change a mounted
/// configuration is replaced as a whole.
fn is_meant(path: &Path, names: &[OsString]) -> bool {
    path.file_name().is_some_and(|name| {
        names.iter().any(|meant| meant == name) || name.as_encoded_bytes().starts_with(b"..")
    })
}

fn folder_of(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn watched(text: &str) -> (tempfile::TempDir, PathBuf, WatchedFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.toml");
        std::fs::write(&path, text).unwrap();
        let file = WatchedFile::new(&path);
        (folder, path, file)
    }

    #[tokio::test]
    async fn k49_a_file_in_another_ones_place_is_seen() {
        let (folder, path, mut file) = watched("# old\n");
        let draft = folder.path().join("draft");
        std::fs::write(&draft, "# new\n").unwrap();
        std::fs::rename(&draft, &path).unwrap();
        file.changed().await;
        assert_eq!(file.read(DEBOUNCE).await.unwrap(), "# new\n");
    }

    #[tokio::test]
    async fn k49_a_file_is_not_read_while_it_is_written() {
        let (_folder, path, mut file) = watched("# old\n");
        let mut writer = std::fs::File::create(&path).unwrap();
        writer.write_all(b"# first half\n").unwrap();
        file.changed().await;
        let reading = tokio::spawn(async move { (file.read(DEBOUNCE).await, file) });
        // Long enough for a reader that would only wait for quiet.
        sleep(2 * DEBOUNCE).await;
        assert!(!reading.is_finished());
        writer.write_all(b"# second half\n").unwrap();
        drop(writer);
        let (text, _file) = reading.await.unwrap();
        assert_eq!(text.unwrap(), "# first half\n# second half\n");
    }

    #[tokio::test]
    async fn k49_an_empty_file_is_not_taken_for_a_policy() {
        let (_folder, path, mut file) = watched("# old\n");
        std::fs::write(&path, "").unwrap();
        file.changed().await;
        let problems = file.read(DEBOUNCE).await.unwrap_err();
        assert!(problems.to_string().contains("is empty"), "{problems}");
    }

    #[tokio::test]
    async fn changes_that_never_pause_do_not_put_reading_off_for_ever() {
        let (folder, path, mut file) = watched("# old\n");
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = stop.clone();
        let storm = std::thread::spawn(move || {
            let draft = folder.path().join("draft");
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                std::fs::write(&draft, "# new\n").unwrap();
                std::fs::rename(&draft, &path).unwrap();
            }
            folder
        });
        file.changed().await;
        assert_eq!(file.read(DEBOUNCE).await.unwrap(), "# new\n");
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        storm.join().unwrap();
    }

    #[tokio::test]
    async fn a_file_behind_links_is_seen_to_change() {
        let folder = tempfile::tempdir().unwrap();
        let (node, first, second) =
            (folder.path().join("node"), folder.path().join("1"), folder.path().join("2"));
        for made in [&node, &first, &second] {
            std::fs::create_dir(made).unwrap();
        }
        std::fs::write(first.join("access.toml"), "# first\n").unwrap();
        std::fs::write(second.join("access.toml"), "# second\n").unwrap();
        let link = |to: &Path, from: &str| std::os::unix::fs::symlink(to, node.join(from)).unwrap();
        link(&first, "..data");
        link(Path::new("..data/access.toml"), "access.toml");
        let mut file = WatchedFile::new(&node.join("access.toml"));
        link(&second, "..new");
        std::fs::rename(node.join("..new"), node.join("..data")).unwrap();
        file.changed().await;
        assert_eq!(file.read(DEBOUNCE).await.unwrap(), "# second\n");
    }
}
