//! Where the phrase comes from at start: a file, a descriptor, or a systemd credential. Never an argument
//! or the environment, both of which other processes can read.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::{
        fd::OwnedFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Component, Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::PhraseSourceError;

/// Far above 24 words of 8 letters.
const LIMIT: usize = 1024;

/// Where to read the phrase.
#[derive(Debug)]
#[non_exhaustive]
pub enum PhraseSource {
    /// A regular file of mode 0600 or narrower.
    File(PathBuf),
    /// An open descriptor, read to its end and closed.
    Descriptor(OwnedFd),
    /// A credential of this name in the directory that systemd names in `CREDENTIALS_DIRECTORY`. The
    /// variable holds a path, not the secret.
    SystemdCredential(String),
}

impl PhraseSource {
    /// Reads the phrase, without the blanks around it. Blocks until the source ends.
    ///
    /// # Errors
    /// [`PhraseSourceError`]; the words themselves are checked by `unlock`.
    pub fn read(self) -> Result<Zeroizing<String>, PhraseSourceError> {
        let (text, origin) = self.read_text()?;
        match text.trim() {
            "" => Err(PhraseSourceError::NotText { origin }),
            phrase => Ok(Zeroizing::new(phrase.to_owned())),
        }
    }

    /// Reads the phrase from the first line and its passphrase from the second. Blanks belong to a
    /// passphrase; the line's end does not.
    ///
    /// # Errors
    /// As [`read`](Self::read), and that there is no second line.
    pub fn read_with_passphrase(
        self,
    ) -> Result<(Zeroizing<String>, Zeroizing<String>), PhraseSourceError> {
        let (text, origin) = self.read_text()?;
        let (phrase, passphrase) =
            Self::lines(&text).ok_or(PhraseSourceError::NoPassphrase { origin })?;
        Ok((Zeroizing::new(phrase.to_owned()), Zeroizing::new(passphrase.to_owned())))
    }

    /// A phrase and the passphrase on the line below it; `None` without one.
    pub fn lines(text: &str) -> Option<(&str, &str)> {
        let mut lines = text.trim_start().lines();
        let (phrase, passphrase) = (lines.next()?.trim(), lines.next()?);
        (!passphrase.is_empty()).then_some((phrase, passphrase))
    }

    /// Its whole text.
    fn read_text(self) -> Result<Text, PhraseSourceError> {
        match self {
            Self::File(path) => read_file(&path, 0o600),
            Self::Descriptor(fd) => read_text(File::from(fd), "the file descriptor".into()),
            Self::SystemdCredential(name) => {
                let dir = std::env::var_os("CREDENTIALS_DIRECTORY")
                    .ok_or(PhraseSourceError::NoCredentialsDirectory)?;
                read_credential(Path::new(&dir), &name)
            }
        }
    }
}

/// A text, and what it comes from is called.
type Text = (Zeroizing<String>, String);

fn read_credential(dir: &Path, name: &str) -> Result<Text, PhraseSourceError> {
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        // systemd shows the access list's mask as group bits (0440); the directory is the service's own.
        (Some(Component::Normal(_)), None) => read_file(&dir.join(name), 0o640),
        _ => Err(PhraseSourceError::CredentialName),
    }
}

fn read_file(path: &Path, widest: u32) -> Result<Text, PhraseSourceError> {
    let origin = path.display().to_string();
    let io = |source| PhraseSourceError::Io { origin: origin.clone(), source };
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    if !meta.is_file() {
        return Err(PhraseSourceError::NotRegular { origin });
    }
    let mode = meta.permissions().mode() & 0o7777;
    if mode & !widest != 0 {
        return Err(PhraseSourceError::Mode { origin, mode });
    }
    read_text(file, origin)
}

fn read_text(file: File, origin: String) -> Result<Text, PhraseSourceError> {
    // Room for all that will be read: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LIMIT + 64));
    if let Err(source) = file.take(LIMIT as u64 + 1).read_to_end(&mut bytes) {
        return Err(PhraseSourceError::Io { origin, source });
    }
    if bytes.len() > LIMIT {
        return Err(PhraseSourceError::TooLong { origin, limit: LIMIT });
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok((Zeroizing::new(text.to_owned()), origin)),
        Err(_) => Err(PhraseSourceError::NotText { origin }),
    }
}
