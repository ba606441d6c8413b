//! A certificate in files that an operator, or the operator's tools, replace.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::live::{Certificate, CertificateError, LiveCertificate};

/// How long a folder must be quiet before the files in it count as written.
const QUIET: Duration = Duration::from_millis(200);

/// How long it may go on being written to before its files are read regardless.
const RESTLESS: Duration = Duration::from_secs(2);

/// How often the files are read without being told of a change: notification
/// misses changes on network file systems.
const LOOK: Duration = Duration::from_secs(60);

/// A chain and its private key, each in a PEM file; they may be the same file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, the leaf first.
    pub cert: PathBuf,
    /// The leaf's private key; not readable by everybody.
    pub key: PathBuf,
}

impl CertificateFiles {
    /// Reads both.
    ///
    /// # Errors
    /// [`CertificateError`]: a file is missing, open to everybody or damaged, or
    /// the two do not belong together.
    pub fn load(&self) -> Result<Certificate, CertificateError> {
        let chain = std::fs::read(&self.cert).map_err(|source| unreadable(&self.cert, source))?;
        let key = read_key(&self.key)?;
        let (cert_name, key_name) =
            (self.cert.display().to_string(), self.key.display().to_string());
        Certificate::from_pem((&chain, &cert_name), (&key, &key_name))
    }

    /// Keeps `live` at what the files hold. It never ends; dropping it stops the
    /// watch.
    pub async fn follow(self, live: Arc<LiveCertificate>) {
        let changed = Arc::new(Notify::new());
        // Held for as long as this runs.
        let _watcher = self.watch(&changed).unwrap_or_else(|error| {
            tracing::warn!(%error, "certificate files are only looked at every {LOOK:?}");
            None
        });
        loop {
            let told = tokio::time::timeout(LOOK, changed.notified()).await.is_ok();
            // A certificate and its key are two files, and each may take several
            // writes: wait for the end of it. A folder that is never quiet is looked
            // at all the same.
            let quiet =
                async { while tokio::time::timeout(QUIET, changed.notified()).await.is_ok() {} };
            if told {
                let _never_quiet = tokio::time::timeout(RESTLESS, quiet).await;
            }
            let files = self.clone();
            match tokio::task::spawn_blocking(move || files.load()).await {
                Ok(Ok(certificate)) => self.take(&live, certificate),
                Ok(Err(error)) => live.failed(&error),
                Err(_) => return,
            }
        }
    }

    fn take(&self, live: &LiveCertificate, certificate: Certificate) {
        match live.current() {
            Some(current) if current.fingerprint() == certificate.fingerprint() => live.succeeded(),
            _ => live.replace(certificate),
        }
    }

    /// Folders are watched, not files: a file that is renamed over another is a
    /// new file.
    fn watch(&self, changed: &Arc<Notify>) -> notify::Result<Option<RecommendedWatcher>> {
        let changed = changed.clone();
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // An access is no change, and reading them is one.
                if !event.is_ok_and(|event| event.kind.is_access()) {
                    changed.notify_one();
                }
            })?;
        let folder = |file: &Path| match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        for folder in BTreeSet::from([folder(&self.cert), folder(&self.key)]) {
            watcher.watch(&folder, RecursiveMode::NonRecursive)?;
        }
        Ok(Some(watcher))
    }
}

fn read_key(file: &Path) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
    use std::io::Read as _;

    // One open file for both looks at it: nobody can swap it in between.
    let mut opened = std::fs::File::open(file).map_err(|source| unreadable(file, source))?;
    let metadata = opened.metadata().map_err(|source| unreadable(file, source))?;
    // A group is how tools that fetch certificates hand them on.
    if metadata.mode() & 0o007 != 0 {
        return Err(CertificateError::Exposed { file: file.display().to_string() });
    }
    let mut key = Zeroizing::new(Vec::new());
    opened.read_to_end(&mut key).map_err(|source| unreadable(file, source))?;
    Ok(key)
}

fn unreadable(file: &Path, source: std::io::Error) -> CertificateError {
    CertificateError::Unreadable { file: file.display().to_string(), source }
}
