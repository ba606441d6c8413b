//! A node for service: the files of a folder that has none yet.
//!
//! Unlike a development node's, they are for their owner alone, and nothing that
//! exists is touched.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::develop::{
    DevelopError, DevelopPlugin, Developed, create, own_key, plugin_stanzas, with_port,
};
use super::known_nodes::NodeAddress;
use super::locate::NodeDirectory;
use super::values::PublicKey;

/// What a new node is to be.
#[derive(Clone, Debug)]
pub struct NewNode {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Its plugins, which are pinned to the files that are there now.
    pub plugins: Vec<DevelopPlugin>,
    /// What `unlock` says in its `[vault]`.
    pub unlock: &'static str,
    /// What `passphrase` says there.
    pub passphrase: bool,
    /// What its operator is called.
    pub operator: String,
}

/// The files that a node for service has beside its vault's.
fn files(directory: &NodeDirectory) -> [PathBuf; 5] {
    [
        directory.node_config(),
        directory.access_config(),
        directory.known_nodes(),
        directory.client_key(),
        directory.path().join("node.key"),
    ]
}

/// A file of a node that is there already.
pub fn existing(directory: &NodeDirectory) -> Option<PathBuf> {
    files(directory).into_iter().find(|file| file.exists())
}

/// Writes the files of a node whose vault gives it the key `key`, and a key for
/// its operator. Every file is for its owner alone.
///
/// # Errors
/// A file exists, or cannot be written; what was written until then stays.
pub fn init(
    directory: &NodeDirectory,
    new: &NewNode,
    key: [u8; 32],
) -> Result<Vec<PathBuf>, DevelopError> {
    if let Some(path) = existing(directory) {
        return Err(DevelopError::File { path, error: io::ErrorKind::AlreadyExists.into() });
    }
    let path = directory.path();
    let made = directory.create();
    made.map_err(|error| DevelopError::File { path: path.into(), error })?;
    // Before anything is written: a plugin may be missing.
    let stanzas = plugin_stanzas(&new.plugins)?;
    let listen = with_port(new.listen).map_err(DevelopError::Listen)?;
    let mut done = Developed::default();
    let node = node_toml(listen, new) + &stanzas;
    create(&directory.node_config(), 0o600, &node, &mut done)?;
    let operator = own_key(&directory.client_key(), &mut done)?;
    let access = access_toml(&new.operator, operator);
    create(&directory.access_config(), 0o600, &access, &mut done)?;
    let host = match listen.ip() {
        ip if !ip.is_unspecified() => ip.to_string(),
        ip if ip.is_ipv4() => "127.0.0.1".to_owned(),
        _ => "::1".to_owned(),
    };
    let address = NodeAddress::new(PublicKey(key), host, listen.port());
    let text = format!("# name address\nlocal {address}\n");
    create(&directory.known_nodes(), 0o600, &text, &mut done)?;
    Ok(done.created)
}

fn node_toml(listen: SocketAddr, new: &NewNode) -> String {
    let unlock = new.unlock;
    let file = match unlock {
        "file" => "file = \"phrase\"\n",
        _ => "",
    };
    let passphrase = match new.passphrase {
        true => "passphrase = true\n",
        false => "",
    };
    format!(
        "# What this node is made of. `alknet check` reads it as a start would.\n\
         \n\
         [endpoint.quic]\n\
         listen = [\"{listen}\"]\n\
         \n\
         # The node's key and its plugins' secrets come from the vault's phrase.\n\
         [identity]\n\
         vault = \"node\"\n\
         \n\
         [vault]\n\
         unlock = \"{unlock}\"\n\
         {file}{passphrase}"
    )
}

fn access_toml(name: &str, key: PublicKey) -> String {
    format!(
        "# Who may do what. The operator's key is in `client.key`; API keys come from\n\
         # `alknet token new`.\n\
         [[peer]]\n\
         peer_id = {}\n\
         fingerprints = [\"{key}\"]\n\
         scopes = [\"admin\"]\n",
        toml::Value::String(name.to_owned())
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::{AccessConfig, KnownNodes, Mode, NodeConfig, Unlock, VaultIdentity};
    use super::*;

    fn new(plugins: Vec<DevelopPlugin>) -> NewNode {
        NewNode {
            listen: "0.0.0.0:4433".parse().unwrap(),
            plugins,
            unlock: "file",
            passphrase: true,
            operator: "ada".into(),
        }
    }

    #[test]
    fn a_new_node_is_valid_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let artifact = folder.path().join("call.so");
        std::fs::write(&artifact, "bytes").unwrap();
        let directory = NodeDirectory::new(folder.path().join("node"));
        let new = new(vec![DevelopPlugin::new("call", &artifact)]);
        let created = init(&directory, &new, [7; 32]).unwrap();
        assert_eq!(created.len(), 4);
        let mode =
            |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(directory.path()), 0o700);
        for file in &created {
            assert_eq!(mode(file), 0o600, "{}", file.display());
        }
        let node = NodeConfig::load(&directory.node_config(), Mode::Pinned).unwrap();
        assert_eq!(node.identity_vault, Some(VaultIdentity::Node));
        let vault = node.vault.unwrap();
        assert_eq!(vault.unlock, Unlock::File(directory.path().join("phrase")));
        assert!(vault.passphrase);
        assert!(node.plugins[0].gateway && node.plugins[0].sha256.is_some());
        let access = AccessConfig::load(&directory.access_config()).unwrap();
        assert_eq!(access.peers[0].peer_id, "ada");
        let known = KnownNodes::load(&directory.known_nodes()).unwrap();
        assert_eq!(known.get("local").unwrap().host, "127.0.0.1");

        let again = init(&directory, &new, [7; 32]).unwrap_err();
        assert!(again.to_string().contains("exists"), "{again}");
    }

    #[test]
    fn a_missing_plugin_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let directory = NodeDirectory::new(folder.path().join("node"));
        let new = new(vec![DevelopPlugin::new("call", folder.path().join("none.so"))]);
        assert!(matches!(init(&directory, &new, [7; 32]), Err(DevelopError::Artifact { .. })));
        assert_eq!(existing(&directory), None);
    }
}
