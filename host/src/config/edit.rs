//! Changing `access.toml` by command, without touching what people wrote in it.
//!
//! An [`AccessFile`] is loaded, changed and saved. Comments, order and spacing
//! stay; what would not be a valid file is never written; the file is replaced
//! as a whole, with its mode and owner. From load to save the folder is locked,
//! so that two commands at the same time do not undo each other.
//!
//! ```no_run
//! use alknet::auth::PeerEntry;
//! use alknet::config::AccessFile;
//!
//! # fn main() -> Result<(), alknet::config::EditError> {
//! let mut file = AccessFile::load("access.toml".as_ref())?;
//! file.add_peer(&PeerEntry { peer_id: "ada".into(), enabled: true, ..Default::default() })?;
//! file.save()
//! # }
//! ```

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, InlineTable, Item, Table, TableLike, Value};

use super::access::AccessConfig;
use super::problem::Problems;
use super::values::Timestamp;
use super::write::replace;
use crate::auth::{ApiKeyEntry, PeerEntry};

const PEERS: Entries = Entries { list: "peer", id: "peer_id" };
const API_KEYS: Entries = Entries { list: "api_key", id: "prefix" };

/// Why `access.toml` or `node.toml` was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EditError {
    /// The file has mistakes already; what a change would mean is not clear.
    #[error("the file has mistakes; correct them first\n\n{0}")]
    Invalid(Problems),
    /// With the change the file would have mistakes.
    #[error("the change is refused, and nothing is written\n\n{0}")]
    Refused(Problems),
    /// The file cannot be read, locked or replaced.
    #[error("{}: {error}; run the command as a user who may write to the folder", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Somebody else has changed the file in the meantime.
    #[error("{} was changed by somebody else in the meantime; run the command again", .0.display())]
    Changed(PathBuf),
    /// There is such a peer already.
    #[error("there is a peer `{0}`; change its keys with `alknet peer keys {0}`")]
    PeerExists(String),
    /// There is no such peer.
    #[error("there is no peer `{0}`; `alknet peer list` shows those that there are")]
    UnknownPeer(String),
    /// The peer has no such key.
    #[error("peer `{peer}` has no key `{fingerprint}`; `alknet peer list` shows its keys")]
    UnknownFingerprint {
        /// The peer.
        peer: String,
        /// The key.
        fingerprint: String,
    },
    /// No stanza is for such a plugin.
    #[error("node.toml has no plugin `{0}`; `alknet plugin install` adds one from a package")]
    UnknownPlugin(String),
    /// There is no such API key.
    #[error("there is no API key `{0}`; `alknet token list` shows those that there are")]
    UnknownApiKey(String),
}

/// `access.toml`, open for a change. Dropping it without
/// [`save`](Self::save) leaves the file as it is.
#[derive(Debug)]
pub struct AccessFile {
    file: PathBuf,
    before: String,
    config: AccessConfig,
    document: DocumentMut,
    /// The folder, held locked.
    _lock: File,
}

impl AccessFile {
    /// Reads a file, once no other command is changing one in its folder.
    ///
    /// # Errors
    /// It is missing, unreadable or has mistakes.
    pub fn load(file: &Path) -> Result<Self, EditError> {
        let file_error = |error| EditError::File { path: file.into(), error };
        let folder = match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let lock = File::open(folder).map_err(file_error)?;
        lock.lock().map_err(file_error)?;
        let before = AccessConfig::read_text(file).map_err(EditError::Invalid)?;
        let config = AccessConfig::parse(file, &before).map_err(EditError::Invalid)?;
        // Two readers of one format could differ in what they take.
        let document = before
            .parse()
            .map_err(|error| file_error(io::Error::new(io::ErrorKind::InvalidData, error)))?;
        Ok(Self { file: file.into(), before, config, document, _lock: lock })
    }

    /// What the file said when it was loaded.
    pub fn config(&self) -> &AccessConfig {
        &self.config
    }

    /// Adds a peer after the others.
    ///
    /// # Errors
    /// [`EditError::PeerExists`].
    pub fn add_peer(&mut self, peer: &PeerEntry) -> Result<(), EditError> {
        if PEERS.position(&self.document, &peer.peer_id).is_some() {
            return Err(EditError::PeerExists(peer.peer_id.clone()));
        }
        let mut table = Table::new();
        table["peer_id"] = text(&peer.peer_id);
        if let Some(name) = &peer.display_name {
            table["display_name"] = text(name);
        }
        table["fingerprints"] = texts(&peer.fingerprints);
        if let Some(hash) = &peer.auth_token_hash {
            table["auth_token_hash"] = text(hash);
        }
        table["scopes"] = texts(&peer.scopes);
        if !peer.resources.is_empty() {
            let resources = peer.resources.iter().map(|(r, actions)| (r, array(actions)));
            table["resources"] = Item::Value(Value::from_iter(resources));
        }
        if !peer.enabled {
            table["enabled"] = toml_edit::value(false);
        }
        PEERS.push(&mut self.document, table);
        Ok(())
    }

    /// Removes a peer, with the comment that stands right above it.
    ///
    /// # Errors
    /// [`EditError::UnknownPeer`].
    pub fn remove_peer(&mut self, id: &str) -> Result<(), EditError> {
        let found = PEERS.position(&self.document, id).ok_or_else(|| unknown_peer(id))?;
        PEERS.remove(&mut self.document, found);
        Ok(())
    }

    /// Enables or disables a peer.
    ///
    /// # Errors
    /// [`EditError::UnknownPeer`].
    pub fn set_enabled(&mut self, id: &str, enabled: bool) -> Result<(), EditError> {
        let peer = self.peer(id)?;
        // Enabled is what is not said.
        if !enabled || peer.contains_key("enabled") {
            set(peer, "enabled", enabled.into());
        }
        Ok(())
    }

    /// Gives a peer one more key.
    ///
    /// # Errors
    /// [`EditError::UnknownPeer`].
    pub fn add_fingerprint(&mut self, id: &str, fingerprint: &str) -> Result<(), EditError> {
        let peer = self.peer(id)?;
        match peer.get_mut("fingerprints").and_then(Item::as_array_mut) {
            Some(keys) => push_alike(keys, fingerprint),
            None => set(peer, "fingerprints", Array::from_iter([fingerprint]).into()),
        }
        Ok(())
    }

    /// Takes a key from a peer.
    ///
    /// # Errors
    /// [`EditError::UnknownPeer`], [`EditError::UnknownFingerprint`].
    pub fn remove_fingerprint(&mut self, id: &str, fingerprint: &str) -> Result<(), EditError> {
        let keys = self.peer(id)?.get_mut("fingerprints").and_then(Item::as_array_mut);
        let found = keys.and_then(|keys| {
            let index = keys.iter().position(|key| key.as_str() == Some(fingerprint))?;
            Some(keys.remove(index))
        });
        let unknown = || EditError::UnknownFingerprint {
            peer: id.to_owned(),
            fingerprint: fingerprint.to_owned(),
        };
        found.map(drop).ok_or_else(unknown)
    }

    /// Gives a peer another token, by its stored hash, or takes it away.
    ///
    /// # Errors
    /// [`EditError::UnknownPeer`].
    pub fn set_token(&mut self, id: &str, hash: Option<&str>) -> Result<(), EditError> {
        let peer = self.peer(id)?;
        match hash {
            Some(hash) => set(peer, "auth_token_hash", hash.into()),
            None => drop(peer.remove("auth_token_hash")),
        }
        Ok(())
    }

    /// Adds an API key after the others. An expiry after the year 9999 is
    /// written as that year's end.
    pub fn add_api_key(&mut self, key: &ApiKeyEntry) {
        let mut table = Table::new();
        table["prefix"] = text(&key.prefix);
        table["hash"] = text(&key.hash);
        table["scopes"] = texts(&key.scopes);
        if !key.description.is_empty() {
            table["description"] = text(&key.description);
        }
        if let Some(expires_at) = key.expires_at {
            table["expires_at"] = toml_edit::value(Timestamp(expires_at).to_datetime());
        }
        API_KEYS.push(&mut self.document, table);
    }

    /// Removes an API key, with the comment that stands right above it.
    ///
    /// # Errors
    /// [`EditError::UnknownApiKey`].
    pub fn remove_api_key(&mut self, prefix: &str) -> Result<(), EditError> {
        let found = API_KEYS.position(&self.document, prefix);
        let found = found.ok_or_else(|| EditError::UnknownApiKey(prefix.to_owned()))?;
        API_KEYS.remove(&mut self.document, found);
        Ok(())
    }

    /// The file's text with the changes so far.
    pub fn text(&self) -> String {
        self.document.to_string()
    }

    /// Writes the file, if it is still the one that was loaded and the changes
    /// leave it valid. A running node takes it up by itself.
    ///
    /// # Errors
    /// [`EditError::Refused`], [`EditError::Changed`], [`EditError::File`]; the
    /// file then stands as it did.
    pub fn save(self) -> Result<(), EditError> {
        let after = self.text();
        AccessConfig::parse(&self.file, &after).map_err(EditError::Refused)?;
        let file_error = |error| EditError::File { path: self.file.clone(), error };
        // An editor knows nothing of the lock.
        if std::fs::read(&self.file).map_err(file_error)? != self.before.as_bytes() {
            return Err(EditError::Changed(self.file));
        }
        replace(&self.file, after.as_bytes()).map_err(file_error)
    }

    fn peer(&mut self, id: &str) -> Result<&mut dyn TableLike, EditError> {
        let unknown = || unknown_peer(id);
        let found = PEERS.position(&self.document, id).ok_or_else(unknown)?;
        PEERS.entry(&mut self.document, found).ok_or_else(unknown)
    }
}

fn unknown_peer(id: &str) -> EditError {
    EditError::UnknownPeer(id.to_owned())
}

/// A list of tables, written as `[[list]]` or as an array of inline tables, and
/// the key that tells its entries apart.
#[derive(Clone, Copy)]
pub(super) struct Entries {
    pub(super) list: &'static str,
    pub(super) id: &'static str,
}

impl Entries {
    pub(super) fn all(self, document: &DocumentMut) -> Vec<&dyn TableLike> {
        match document.get(self.list) {
            Some(Item::ArrayOfTables(tables)) => tables.iter().map(|table| table as _).collect(),
            Some(Item::Value(Value::Array(values))) => {
                values.iter().filter_map(|value| Some(value.as_inline_table()? as _)).collect()
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn position(self, document: &DocumentMut, id: &str) -> Option<usize> {
        let id_of = |table: &dyn TableLike| table.get(self.id).and_then(Item::as_str) == Some(id);
        self.all(document).into_iter().position(id_of)
    }

    pub(super) fn entry(self, document: &mut DocumentMut, at: usize) -> Option<&mut dyn TableLike> {
        match document.get_mut(self.list)? {
            Item::ArrayOfTables(tables) => tables.get_mut(at).map(|table| table as _),
            Item::Value(Value::Array(values)) => values
                .get_mut(at)
                .and_then(Value::as_inline_table_mut)
                .map(|table: &mut InlineTable| table as _),
            _ => None,
        }
    }

    pub(super) fn push(self, document: &mut DocumentMut, mut entry: Table) {
        let end = last_position(document.as_table());
        let trailing = document.trailing().as_str().unwrap_or_default().to_owned();
        let list = document.entry(self.list).or_insert_with(|| Item::ArrayOfTables(<_>::default()));
        match list {
            Item::ArrayOfTables(tables) => {
                let list_end = tables.iter().filter_map(last_position).max();
                // What stands at the end of the file stays above what is added there.
                let is_last = list_end.is_none() || list_end == end;
                if is_last && !trailing.trim().is_empty() {
                    entry.decor_mut().set_prefix(format!("{trailing}\n"));
                    tables.push(entry);
                    document.set_trailing("");
                } else {
                    tables.push(entry);
                }
            }
            Item::Value(Value::Array(values)) => values.push(entry.into_inline_table()),
            // A valid file has nothing else there.
            _ => {}
        }
    }

    /// Removes an entry. Comments above it stay, but for those that no blank line
    /// parts from it.
    fn remove(self, document: &mut DocumentMut, at: usize) {
        let removed = match document.get_mut(self.list) {
            Some(Item::ArrayOfTables(tables)) => tables.remove(at),
            Some(Item::Value(Value::Array(values))) => return drop(values.remove(at)),
            _ => return,
        };
        let above = removed.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default();
        let kept = above.rfind("\n\n").map_or("", |blank| &above[..=blank]);
        if kept.trim().is_empty() {
            return;
        }
        let after = removed.position().unwrap_or_default();
        match next_table(document.as_table_mut(), after) {
            Some(next) => {
                let prefix = next.decor().prefix().and_then(|prefix| prefix.as_str());
                let prefix = format!("{kept}{}", prefix.unwrap_or_default());
                next.decor_mut().set_prefix(prefix);
            }
            None => {
                let trailing = document.trailing().as_str().unwrap_or_default();
                let trailing = format!("{kept}{trailing}");
                document.set_trailing(trailing);
            }
        }
    }
}

/// The position in the file of the last header of a table and all within it.
fn last_position(table: &Table) -> Option<isize> {
    let within = table.iter().filter_map(|(_, item)| match item {
        Item::Table(table) => last_position(table),
        Item::ArrayOfTables(tables) => tables.iter().filter_map(last_position).max(),
        _ => None,
    });
    within.chain(table.position()).max()
}

/// The table whose header is the first one after a position.
fn next_table(root: &mut Table, after: isize) -> Option<&mut Table> {
    let mut next: Option<&mut Table> = None;
    let mut open = vec![root];
    while let Some(table) = open.pop() {
        let is_better = match (table.position(), next.as_ref().and_then(|next| next.position())) {
            (Some(at), Some(best)) => at > after && at < best,
            (Some(at), None) => at > after,
            (None, _) => false,
        };
        if is_better {
            // What lies within it has later headers still.
            next = Some(table);
            continue;
        }
        for (_, item) in table.iter_mut() {
            match item {
                Item::Table(table) => open.push(table),
                Item::ArrayOfTables(tables) => open.extend(tables.iter_mut()),
                _ => {}
            }
        }
    }
    next
}

/// Sets a value, and keeps the comment behind the one before.
pub(super) fn set(table: &mut dyn TableLike, key: &str, mut value: Value) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        None => drop(table.insert(key, Item::Value(value))),
    }
}

/// Adds an element that stands as the one before does, on a line of its own or
/// not.
fn push_alike(array: &mut Array, text: &str) {
    let before = array.iter().last().and_then(|last| last.decor().prefix()).cloned();
    match before.filter(|_| array.len() > 1 || array.trailing_comma()) {
        Some(prefix) => {
            let mut value = Value::from(text);
            value.decor_mut().set_prefix(prefix);
            array.push_formatted(value);
        }
        None => array.push(text),
    }
}

fn text(text: &str) -> Item {
    toml_edit::value(text)
}

fn texts(texts: &[String]) -> Item {
    toml_edit::value(array(texts))
}

fn array(texts: &[String]) -> Array {
    texts.iter().map(String::as_str).collect()
}

#[cfg(test)]
#[path = "edit_tests.rs"]
mod tests;
