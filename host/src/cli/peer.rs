//! `alknet peer`: who the node knows, by changing its `access.toml`. A running
//! node takes the change up by itself.

use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::Failure;
use super::{Global, Output, Table};
use crate::auth::PeerEntry;
use crate::config::{AccessConfig, AccessFile, is_fingerprint};

/// Look at the peers that the node knows, and change them
#[derive(Debug, Args)]
pub(super) struct Peer {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the peers
    List,
    /// Add a peer
    Add(Add),
    /// Change a peer's keys, without changing who it is
    Keys(Keys),
    /// Forget a peer, and close its connections
    Remove {
        /// The peer's name
        name: String,
    },
    /// Treat a peer as unknown until it is enabled again, and close its connections
    Disable {
        /// The peer's name
        name: String,
    },
    /// Know a disabled peer again
    Enable {
        /// The peer's name
        name: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  alknet peer add ada --key ed25519:DIGITS --scopes notes:read --resource folder=read")]
struct Add {
    /// The name that it keeps, whatever its keys
    name: String,
    /// A public key of it: ed25519:DIGITS, or SHA256:DIGITS of a certificate; may stand several
    /// times
    #[arg(long, required = true, value_name = "PUBLIC KEY", value_parser = public_key)]
    key: Vec<String>,
    /// What it may do
    #[arg(long, value_name = "SCOPE,…", value_delimiter = ',')]
    scopes: Vec<String>,
    /// What it may do with a type of resource; may stand several times
    #[arg(long, value_name = "TYPE=ACTION,…", value_parser = resource)]
    resource: Vec<(String, Vec<String>)>,
    /// What people call it
    #[arg(long, value_name = "NAME")]
    display_name: Option<String>,
}

#[derive(Debug, Args)]
struct Keys {
    /// The peer's name
    name: String,
    /// A public key that it has from now on; may stand several times
    #[arg(long, value_name = "PUBLIC KEY", value_parser = public_key, required_unless_present = "remove")]
    add: Vec<String>,
    /// A public key that it has no more; may stand several times
    #[arg(long, value_name = "PUBLIC KEY", value_parser = public_key)]
    remove: Vec<String>,
}

impl Peer {
    pub(super) fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let path = global.directory()?.access_config();
        if let Command::List = self.command {
            let access = AccessConfig::load(&path)?;
            return output.table(&table(&access.peers), &json!({ "peers": access.peers }));
        }
        let mut file = AccessFile::load(&path)?;
        let done = match self.command {
            Command::List => return Ok(()),
            Command::Add(add) => {
                file.add_peer(&add.entry())?;
                format!("added peer {}", add.name)
            }
            Command::Keys(Keys { name, add, remove }) => {
                for key in &add {
                    file.add_fingerprint(&name, key)?;
                }
                for key in &remove {
                    file.remove_fingerprint(&name, key)?;
                }
                format!("changed the keys of peer {name}")
            }
            Command::Remove { name } => {
                file.remove_peer(&name)?;
                format!("removed peer {name}")
            }
            Command::Disable { name } => {
                file.set_enabled(&name, false)?;
                format!("disabled peer {name}")
            }
            Command::Enable { name } => {
                file.set_enabled(&name, true)?;
                format!("enabled peer {name}")
            }
        };
        file.save()?;
        match output.is_json() {
            true => output.json(&json!({ "file": path })),
            false => output.line(&format!("{done} in {}", path.display())),
        }
    }
}

impl Add {
    fn entry(&self) -> PeerEntry {
        PeerEntry {
            peer_id: self.name.clone(),
            fingerprints: self.key.clone(),
            scopes: self.scopes.clone(),
            resources: self.resource.iter().cloned().collect(),
            display_name: self.display_name.clone(),
            enabled: true,
            ..PeerEntry::default()
        }
    }
}

/// A private key is 64 digits too, so that bare digits are not taken.
fn public_key(text: &str) -> Result<String, String> {
    match is_fingerprint(text) {
        true => Ok(text.to_owned()),
        false => Err("write `ed25519:` (a raw key) or `SHA256:` (a certificate) and 64 \
                      lower-case hexadecimal digits"
            .to_owned()),
    }
}

fn resource(text: &str) -> Result<(String, Vec<String>), String> {
    match text.split_once('=') {
        Some((kind, actions)) if !kind.is_empty() && !actions.is_empty() => {
            Ok((kind.to_owned(), actions.split(',').map(str::to_owned).collect()))
        }
        _ => Err("write a type and its actions: folder=read,write".to_owned()),
    }
}

fn table(peers: &[PeerEntry]) -> Table {
    let mut table = Table::new(["peer", "enabled", "scopes", "resources", "keys", "name"]);
    for peer in peers {
        let resources: Vec<_> = peer
            .resources
            .iter()
            .map(|(kind, actions)| format!("{kind}={}", actions.join(",")))
            .collect();
        table.row([
            &*peer.peer_id,
            if peer.enabled { "yes" } else { "no" },
            &peer.scopes.join(" "),
            &resources.join(" "),
            &peer.fingerprints.join(" "),
            peer.display_name.as_deref().unwrap_or_default(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k72_what_could_be_a_private_key_is_no_public_key() {
        assert!(public_key(&"ab".repeat(32)).is_err());
        assert!(public_key(&format!("ed25519:{}", "ab".repeat(32))).is_ok());
        assert!(public_key(&format!("ed25519:{}", "AB".repeat(32))).is_err());
    }

    #[test]
    fn resources_have_a_type_and_actions() {
        let parsed = resource("folder=read,write").unwrap();
        assert_eq!(parsed, ("folder".into(), vec!["read".into(), "write".into()]));
        for wrong in ["folder", "folder=", "=read"] {
            assert!(resource(wrong).is_err(), "{wrong}");
        }
    }
}
