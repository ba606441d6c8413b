//! Changing plugins' stanzas of `node.toml` by command, without touching what people
//! wrote in it.
//!
//! As with `access.toml`, comments, order and spacing stay, what would not be a valid
//! file is never written, and the folder is locked meanwhile.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table, TableLike};

use super::edit::{EditError, Entries, set};
use super::node::{Mode, NodeConfig, read_text};
use super::values::{Digest, PublicKey, Signature};
use super::write::replace;

const PLUGINS: Entries = Entries { list: "plugin", id: "name" };

/// The file that a stanza names, and how it is pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedArtifact {
    /// Its path as the file has it: relative to the node's folder, or absolute.
    pub artifact: String,
    /// Its digest.
    pub sha256: Digest,
    /// Its publisher's signature; without one, none stays.
    pub signature: Option<Signature>,
}

/// `node.toml`, open for a change. Dropping it without [`save`](Self::save) leaves the
/// file as it is.
#[derive(Debug)]
pub struct NodeFile {
    file: PathBuf,
    before: String,
    document: DocumentMut,
    /// The folder, held locked.
    _lock: File,
}

impl NodeFile {
    /// Reads a file, once no other command is changing one in its folder. It may have
    /// mistakes: that a plugin is not pinned is one.
    ///
    /// # Errors
    /// It is missing, unreadable or no TOML.
    pub fn load(file: &Path) -> Result<Self, EditError> {
        let file_error = |error| EditError::File { path: file.into(), error };
        let remedy = "make a node with `alknet init` or `alknet run --dev`";
        let before = read_text(file, remedy).map_err(EditError::Invalid)?;
        let folder = match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let lock = File::open(folder).map_err(file_error)?;
        lock.lock().map_err(file_error)?;
        let document = match before.parse() {
            Ok(document) => document,
            Err(error) => {
                // The file's own reader says it with a line; should it find nothing, the
                // two differ in what they take.
                NodeConfig::parse(file, &before, Mode::Development).map_err(EditError::Invalid)?;
                return Err(file_error(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
        };
        Ok(Self { file: file.into(), before, document, _lock: lock })
    }

    /// The plugin whose stanza names this file.
    pub fn plugin_of(&self, artifact: &Path) -> Option<String> {
        let wanted = artifact.canonicalize().ok()?;
        let folder = self.file.parent().unwrap_or(Path::new(""));
        let names = |stanza: &&dyn TableLike| {
            let named = stanza.get("artifact").and_then(Item::as_str);
            named
                .is_some_and(|named| folder.join(named).canonicalize().ok() == Some(wanted.clone()))
        };
        let found = PLUGINS.all(&self.document).into_iter().find(names)?;
        found.get("name").and_then(Item::as_str).map(str::to_owned)
    }

    /// The file that a plugin's stanza names, as it stands there; `None` without one.
    pub fn artifact_of(&self, name: &str) -> Option<&str> {
        self.value_of(name, "artifact")
    }

    /// The signature in a plugin's stanza.
    pub fn signature_of(&self, name: &str) -> Option<Signature> {
        self.value_of(name, "signature")?.parse().ok()
    }

    /// The keys of publishers, as far as they are readable.
    pub fn trusted_keys(&self) -> Vec<PublicKey> {
        let keys = self.document.get("trusted_plugin_keys").and_then(Item::as_array);
        let keys = keys.into_iter().flatten().filter_map(|key| key.as_str()?.parse().ok());
        keys.collect()
    }

    fn value_of(&self, name: &str, key: &str) -> Option<&str> {
        let at = PLUGINS.position(&self.document, name)?;
        let stanza = PLUGINS.all(&self.document).into_iter().nth(at)?;
        stanza.get(key).and_then(Item::as_str)
    }

    /// Whether a plugin has a stanza.
    pub fn has(&self, name: &str) -> bool {
        PLUGINS.position(&self.document, name).is_some()
    }

    /// Has a plugin's stanza name and pin this file.
    ///
    /// # Errors
    /// [`EditError::UnknownPlugin`].
    pub fn pin(&mut self, name: &str, pin: &PinnedArtifact) -> Result<(), EditError> {
        let unknown = || EditError::UnknownPlugin(name.to_owned());
        let found = PLUGINS.position(&self.document, name).ok_or_else(unknown)?;
        let stanza = PLUGINS.entry(&mut self.document, found).ok_or_else(unknown)?;
        set(stanza, "artifact", pin.artifact.as_str().into());
        set(stanza, "sha256", pin.sha256.to_string().into());
        match pin.signature {
            Some(signature) => set(stanza, "signature", signature.to_string().into()),
            None => drop(stanza.remove("signature")),
        }
        Ok(())
    }

    /// Adds a stanza after the others. It grants nothing.
    pub fn add(&mut self, name: &str, pin: &PinnedArtifact) {
        let mut stanza = Table::new();
        stanza["name"] = toml_edit::value(name);
        stanza["artifact"] = toml_edit::value(&pin.artifact);
        stanza["sha256"] = toml_edit::value(pin.sha256.to_string());
        if let Some(signature) = pin.signature {
            stanza["signature"] = toml_edit::value(signature.to_string());
        }
        PLUGINS.push(&mut self.document, stanza);
    }

    /// The file as it would be read with the changes so far.
    ///
    /// # Errors
    /// [`EditError::Refused`].
    pub fn check(&self) -> Result<NodeConfig, EditError> {
        let text = self.document.to_string();
        NodeConfig::parse(&self.file, &text, Mode::Pinned).map_err(EditError::Refused)
    }

    /// Writes the file, if it is still the one that was loaded and the changes leave it
    /// valid. A running node takes it up at its next start.
    ///
    /// # Errors
    /// [`EditError::Refused`], [`EditError::Changed`], [`EditError::File`]; the file
    /// then stands as it did.
    pub fn save(self) -> Result<(), EditError> {
        self.check()?;
        let file_error = |error| EditError::File { path: self.file.clone(), error };
        // An editor knows nothing of the lock.
        if std::fs::read(&self.file).map_err(file_error)? != self.before.as_bytes() {
            return Err(EditError::Changed(self.file));
        }
        replace(&self.file, self.document.to_string().as_bytes()).map_err(file_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# The node.
[endpoint.quic]
listen = [\"127.0.0.1:1\"]

# Says it back.
[[plugin]]
name = \"echo\" # ours
artifact = \"echo.so\"
sha256 = \"00\" # of June

# The last word.
";

    fn open(text: &str) -> (tempfile::TempDir, NodeFile) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        std::fs::write(&path, text).unwrap();
        let file = NodeFile::load(&path).unwrap();
        (folder, file)
    }

    fn pin(signature: Option<Signature>) -> PinnedArtifact {
        PinnedArtifact { artifact: "plugins/echo-2.so".into(), sha256: Digest([1; 32]), signature }
    }

    #[test]
    fn a_pin_changes_values_and_leaves_words() {
        let (folder, mut file) = open(FILE);
        assert_eq!(file.artifact_of("echo"), Some("echo.so"));
        std::fs::write(folder.path().join("echo.so"), "").unwrap();
        assert_eq!(file.plugin_of(&folder.path().join("echo.so")).as_deref(), Some("echo"));
        file.pin("echo", &pin(Some(Signature([2; 64])))).unwrap();
        file.save().unwrap();
        let text = std::fs::read_to_string(folder.path().join("node.toml")).unwrap();
        let (digest, signature) = ("01".repeat(32), "02".repeat(64));
        let expected = FILE.replace("\"echo.so\"", "\"plugins/echo-2.so\"").replace(
            "\"00\" # of June",
            &format!("\"{digest}\" # of June\nsignature = \"ed25519:{signature}\""),
        );
        assert_eq!(text, expected);
        // What is not signed loses the signature of what was.
        let mut file = NodeFile::load(&folder.path().join("node.toml")).unwrap();
        file.pin("echo", &pin(None)).unwrap();
        assert!(!file.document.to_string().contains("signature"));
        assert!(matches!(file.pin("other", &pin(None)), Err(EditError::UnknownPlugin(_))));
    }

    #[test]
    fn a_new_stanza_stands_at_the_end_and_what_would_be_invalid_is_refused() {
        let (_folder, mut file) =
            open(&FILE.replace("\"00\"", &format!("\"{}\"", "00".repeat(32))));
        file.add("two", &pin(None));
        assert!(file.has("two"));
        let text = file.document.to_string();
        assert!(text.contains("# The last word.\n\n[[plugin]]\nname = \"two\"\n"), "{text}");
        assert_eq!(file.check().unwrap().plugins.len(), 2);
        file.add("Not A Name", &pin(None));
        assert!(matches!(file.save(), Err(EditError::Refused(_))));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        assert!(matches!(NodeFile::load(&path), Err(EditError::Invalid(_))));
        std::fs::write(&path, "a = ").unwrap();
        assert!(matches!(NodeFile::load(&path), Err(EditError::Invalid(_))));
    }
}
