//! `alknet init`: a node for service, from nothing to a folder that runs.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::failure::{Exit, Failure};
use super::phrase::Words;
use super::run::{NamedPlugin, named_plugin};
use super::vault::write;
use super::{Global, Output};
use crate::config::{DevelopPlugin, NewNode, Unlock, VaultConfig, existing, init};

/// Make a node for service: its vault, its keys and its files
#[derive(Debug, Args)]
pub(super) struct Init {
    /// Where the node listens
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:4433")]
    listen: SocketAddr,
    /// A plugin, pinned to the file that is there now; may stand several times
    #[arg(long, value_name = "[NAME=]FILE", value_parser = named_plugin)]
    plugin: Vec<NamedPlugin>,
    /// Where the vault's phrase comes from at each start
    #[arg(long, value_enum, value_name = "SOURCE", default_value_t = From::Prompt)]
    unlock: From,
    /// What the operator, whose key is made, is called
    #[arg(long, value_name = "NAME", default_value = "operator")]
    operator: String,
    /// How many words the phrase has: 12, 15, 18, 21 or 24
    #[arg(long, value_name = "NUMBER", default_value_t = 24)]
    words: usize,
    /// Take a phrase that exists already, from the terminal or standard input
    #[arg(long)]
    import: bool,
    /// The phrase has a passphrase as well (BIP39), which is asked for, too
    #[arg(long)]
    with_passphrase: bool,
}

/// The choices of `unlock` in `[vault]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum From {
    /// The terminal is asked
    Prompt,
    /// File descriptor 3
    Descriptor,
    /// A file of mode 0600 in the node's folder
    File,
    /// A systemd credential
    Credential,
}

impl From {
    fn key(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Descriptor => "descriptor",
            Self::File => "file",
            Self::Credential => "credential",
        }
    }
}

impl Init {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let directory = global.directory()?;
        let mut vault = VaultConfig::beside(&directory.node_config());
        let phrase_file = directory.path().join("phrase");
        let there = existing(&directory)
            .or_else(|| [&vault.store, &phrase_file].into_iter().find(|f| f.exists()).cloned());
        if let Some(file) = there {
            let what = format!("there is a node already: {}", file.display());
            return Err(Failure::new(Exit::Config, what)
                .remedy("name another folder with `--node`; nothing was changed"));
        }
        if self.unlock == From::File {
            vault.unlock = Unlock::File(phrase_file);
        }
        let new = NewNode {
            listen: self.listen,
            plugins: self.plugin.iter().map(NamedPlugin::develop).collect(),
            unlock: self.unlock.key(),
            passphrase: self.with_passphrase,
            operator: self.operator,
        };
        DevelopPlugin::check(&new.plugins).map_err(made)?;
        let words = match self.import {
            true => Words::given(self.with_passphrase)?,
            false => Words::new(self.words, self.with_passphrase)?,
        };
        let node_key = write(&directory, &vault, &words)?;
        let mut key = [0; 32];
        hex::decode_to_slice(&node_key, &mut key).map_err(|error| {
            Failure::new(Exit::Internal, format!("the node's key is malformed: {error}"))
        })?;
        let created = init(&directory, &new, key).map_err(made)?;
        if output.is_json() {
            return output.json(&json!({ "node_key": node_key, "created": created }));
        }
        output.line(&format!("node key {node_key}"))?;
        output.note(&format!("created {}", vault.store.display()));
        if let Unlock::File(file) = &vault.unlock {
            output.note(&format!("created {}", file.display()));
        }
        for file in created {
            output.note(&format!("created {}", file.display()));
        }
        if new.plugins.is_empty() {
            output.note("the node serves nothing yet: add a `[[plugin]]` to node.toml");
        }
        output.note("see that all is well with `alknet check`, and start it with `alknet run`");
        Ok(())
    }
}

fn made(error: crate::config::DevelopError) -> Failure {
    Failure::new(Exit::Config, error.to_string())
}
