//! `alknet vault`: the phrase that a node's keys come from, and its secrets.
//!
//! No command takes a secret as an argument. A phrase comes from where `[vault]`
//! in node.toml says; a secret's value comes from standard input, or is asked for.

use std::io;

use alknet_vault::{
    CURRENT_KEY_VERSION, CredentialStore, StoreError, VaultError, VaultServiceHandle, path,
};
use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::{Exit, Failure};
use super::phrase::{Words, secret_input};
use super::{Global, Output, Table};
use crate::assembly::unlock;
use crate::config::{
    Mode, NodeConfig, NodeDirectory, Problems, Unlock, VaultConfig, create_private,
};
use crate::plugins::package::Signer;

/// Keep the phrase and the secrets of a node
#[derive(Debug, Args)]
pub(super) struct Vault {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a phrase, show it once on the terminal, and ask for it back
    ///
    /// A passphrase is asked for, too, where node.toml says that there is one.
    Init {
        /// Its length: 12, 15, 18, 21 or 24
        #[arg(long, value_name = "NUMBER", default_value_t = 24)]
        words: usize,
    },
    /// Take a phrase that exists already, from the terminal or standard input
    Import,
    /// Seal a secret, whose value comes from standard input or is asked for
    #[command(after_help = "\
Example:
  alknet vault add search-api <token.txt")]
    Add {
        /// The entry's name, as capabilities in node.toml refer to it
        name: String,
        /// Take the place of an entry that is there
        #[arg(long)]
        replace: bool,
    },
    /// List the secrets' names; never their values
    List,
    /// Remove a secret
    Remove {
        /// The entry's name
        name: String,
    },
    /// Seal every secret anew, under a new key
    Rotate {
        /// The new key's version [default: the newest in use, plus one]
        #[arg(value_name = "VERSION")]
        number: Option<u32>,
    },
    /// Open every secret, without showing it
    Check,
    /// Show a public key of the vault
    Derive {
        /// The key's derivation path, such as m/74'/0'/0'/0'
        #[arg(long, value_name = "PATH", required = true)]
        public: String,
    },
}

impl Vault {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let directory = global.directory()?;
        let config = config(&directory)?;
        match self.command {
            Command::Init { words } => {
                refuse_existing(&config)?;
                begin(&directory, &config, &Words::new(words, config.passphrase)?, output)
            }
            Command::Import => {
                refuse_existing(&config)?;
                begin(&directory, &config, &Words::given(config.passphrase)?, output)
            }
            Command::Add { name, replace } => add(&config, &name, replace, output),
            Command::List => list(&load(&config)?, output),
            Command::Remove { name } => CredentialStore::edit(&config.store, |store| {
                store.entries.remove(&name).map(drop).ok_or_else(|| unknown(&name))
            }),
            Command::Rotate { number } => rotate(&config, number, output),
            Command::Check => check(&config, output),
            Command::Derive { public } => derive(&config, &public, output),
        }
    }
}

/// What node.toml says, or what a node without one would have.
fn config(directory: &NodeDirectory) -> Result<VaultConfig, Failure> {
    let file = directory.node_config();
    if !file.exists() {
        return Ok(VaultConfig::beside(&file));
    }
    let config = NodeConfig::load(&file, Mode::Development)?;
    Ok(config.vault.unwrap_or_else(|| VaultConfig::beside(&file)))
}

fn refuse_existing(config: &VaultConfig) -> Result<(), Failure> {
    let there = [Some(&config.store), phrase_file(config)];
    match there.into_iter().flatten().find(|file| file.exists()) {
        None => Ok(()),
        Some(file) => {
            Err(Failure::new(Exit::Config, format!("there is a vault already: {}", file.display()))
                .remedy("use it, or move its files away first: their secrets need their phrase"))
        }
    }
}

fn phrase_file(config: &VaultConfig) -> Option<&std::path::PathBuf> {
    match &config.unlock {
        Unlock::File(file) => Some(file),
        _ => None,
    }
}

/// Makes an empty store, and the phrase's file where the vault is unlocked by one.
fn begin(
    directory: &NodeDirectory,
    config: &VaultConfig,
    words: &Words,
    output: &Output,
) -> Result<(), Failure> {
    let public = write(directory, config, words)?;
    if output.is_json() {
        let phrase_file = phrase_file(config);
        return output.json(&json!({
            "node_key": public, "store": config.store, "phrase_file": phrase_file,
        }));
    }
    output.line(&format!("node key {public}"))?;
    output.note(&format!("created {}", config.store.display()));
    if let Some(file) = phrase_file(config) {
        output.note(&format!("created {}", file.display()));
    }
    Ok(())
}

/// Writes a vault's files and gives the node's public key.
pub(super) fn write(
    directory: &NodeDirectory,
    config: &VaultConfig,
    words: &Words,
) -> Result<String, Failure> {
    let node = words.vault()?.derive_ed25519(path::NODE_IDENTITY)?;
    directory.create().map_err(|error| {
        let what = format!("cannot make {}: {error}", directory.path().display());
        Failure::new(Exit::Config, what).remedy("choose a folder that you may write to")
    })?;
    if let Unlock::File(file) = &config.unlock {
        create_private(file, words.lines().as_bytes()).map_err(|error| {
            Failure::new(Exit::Config, format!("cannot write {}: {error}", file.display()))
        })?;
    }
    CredentialStore::new(&config.store).save()?;
    Ok(hex::encode(node.public_key()))
}

/// The longest secret, in bytes.
const LONGEST: u64 = 65_536;

fn add(config: &VaultConfig, name: &str, replace: bool, output: &Output) -> Result<(), Failure> {
    if name.is_empty() || name.len() > 128 || name.contains(char::is_control) {
        return Err(Failure::new(Exit::Usage, "an entry's name has 1 to 128 printable characters"));
    }
    let vault = unlocked(config)?;
    let value = secret_input("value: ", LONGEST)?;
    // Of what `echo` and editors put at the end, one line's end is not meant.
    let value = value.strip_suffix('\n').unwrap_or(&value);
    let value = value.strip_suffix('\r').unwrap_or(value);
    if value.is_empty() {
        return Err(Failure::new(Exit::Usage, "the value is empty; pipe it into this command"));
    }
    let replaced = CredentialStore::edit(&config.store, |store| {
        if store.entries.contains_key(name) && !replace {
            return Err(Failure::new(Exit::Config, format!("there is an entry `{name}` already"))
                .remedy("choose another name, or add `--replace`"));
        }
        let sealed = vault.encrypt_for_version(newest(store), name, value)?;
        Ok(store.entries.insert(name.to_owned(), sealed).is_some())
    })?;
    let done = if replaced { "replaced" } else { "added" };
    output.note(&format!("{done} `{name}`; a running node needs a restart to lend it"));
    Ok(())
}

/// The newest key version in use.
fn newest(store: &CredentialStore) -> u32 {
    let versions = store.entries.values().map(|entry| entry.key_version);
    versions.max().unwrap_or(CURRENT_KEY_VERSION).max(CURRENT_KEY_VERSION)
}

fn list(store: &CredentialStore, output: &Output) -> Result<(), Failure> {
    let mut table = Table::new(["name", "key version"]);
    let mut entries = Vec::new();
    for (name, entry) in &store.entries {
        table.row([name.clone(), entry.key_version.to_string()]);
        entries.push(json!({ "name": name, "key_version": entry.key_version }));
    }
    output.table(&table, &json!({ "entries": entries }))
}

fn rotate(config: &VaultConfig, version: Option<u32>, output: &Output) -> Result<(), Failure> {
    let vault = unlocked(config)?;
    let (count, to) = CredentialStore::edit(&config.store, |store| {
        let to = version.unwrap_or_else(|| newest(store).saturating_add(1));
        for (name, entry) in &mut store.entries {
            *entry = vault.rotate(name, entry, to).map_err(|error| does_not_open(name, &error))?;
        }
        Ok::<_, Failure>((store.entries.len(), to))
    })?;
    output.note(&format!("sealed {count} entries under key version {to}"));
    Ok(())
}

fn check(config: &VaultConfig, output: &Output) -> Result<(), Failure> {
    let vault = unlocked(config)?;
    let store = load(config)?;
    let mut table = Table::new(["name", "key version", "opens"]);
    let mut entries = Vec::new();
    let mut shut = 0;
    for (name, entry) in &store.entries {
        let opens = vault.decrypt(name, entry).is_ok();
        shut += usize::from(!opens);
        let said = if opens { "yes" } else { "no" };
        table.row([name.clone(), entry.key_version.to_string(), said.to_owned()]);
        entries.push(json!({ "name": name, "key_version": entry.key_version, "opens": opens }));
    }
    output.table(&table, &json!({ "entries": entries }))?;
    match shut {
        0 => Ok(()),
        shut => Err(Failure::new(Exit::Config, format!("{shut} entries do not open"))
            .remedy("they belong to another phrase or name, or were changed; add them again")),
    }
}

fn derive(config: &VaultConfig, path: &str, output: &Output) -> Result<(), Failure> {
    let key = unlocked(config)?.derive_ed25519(path)?;
    let public = hex::encode(key.public_key());
    match output.is_json() {
        true => output.json(&json!({
            "path": path, "public_key": public, "fingerprint": format!("ed25519:{public}"),
        })),
        false => output.line(&public),
    }
}

/// The vault's key at a path, to sign with.
pub(super) fn signer(directory: &NodeDirectory, path: &str) -> Result<Signer, Failure> {
    let key = unlocked(&config(directory)?)?.derive_ed25519(path)?;
    Ok(Signer::new(&key.expose_secret()))
}

fn unlocked(config: &VaultConfig) -> Result<VaultServiceHandle, Failure> {
    unlock(config).map_err(|problem| Problems::from(problem).into())
}

fn load(config: &VaultConfig) -> Result<CredentialStore, Failure> {
    match CredentialStore::load(&config.store) {
        Err(StoreError::Io { source, path, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Err(Failure::new(
                Exit::Config,
                format!("there is no vault: {} is missing", path.display()),
            )
            .remedy("make one with `alknet vault init`"))
        }
        loaded => Ok(loaded?),
    }
}

fn unknown(name: &str) -> Failure {
    Failure::new(Exit::Config, format!("the vault has no entry `{name}`"))
        .remedy("see them with `alknet vault list`")
}

fn does_not_open(name: &str, error: &VaultError) -> Failure {
    Failure::new(Exit::Config, format!("`{name}`: {error}"))
        .remedy("nothing was changed; `alknet vault check` shows which entries open")
}
