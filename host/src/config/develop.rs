//! A development node: everything that `alknet run --dev` needs, made if there
//! is none.
//!
//! Nothing that exists is overwritten, with one exception: a development node's
//! `node.toml` (it says `development = true`) gets the new digest of a plugin
//! that was built again, because whoever runs `--dev` has just built it.

use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use sha2::{Digest as _, Sha256};
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

use super::known_nodes::NodeAddress;
use super::locate::NodeDirectory;
use super::node::read_key;
use super::problem::{Place, Problem};
use super::values::{Digest, PublicKey, lower_hex};
use super::write::{replace, write_new};

/// A plugin of a new development node.
#[derive(Clone, Debug)]
pub struct DevelopPlugin {
    /// Its name in `node.toml`.
    pub name: String,
    /// Its file.
    pub artifact: PathBuf,
    /// Whether it may make calls on behalf of its connections' peers.
    pub gateway: bool,
    /// Its own configuration.
    pub config: toml::Table,
}

impl DevelopPlugin {
    /// A plugin with what it needs to be tried out: the plugins `call` and
    /// `http` may make calls for their peers, and `files` shows the current folder.
    pub fn new(name: impl Into<String>, artifact: impl Into<PathBuf>) -> Self {
        let name = name.into();
        let mut config = toml::Table::new();
        if name == "files" {
            let current = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
            config.insert("root".into(), current.display().to_string().into());
        }
        Self {
            gateway: ["call", "http"].contains(&&*name),
            name,
            artifact: artifact.into(),
            config,
        }
    }

    /// Whether the files of all are there.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(plugins: &[Self]) -> Result<(), DevelopError> {
        plugin_stanzas(plugins).map(drop)
    }
}

/// What [`develop`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Developed {
    /// The files that are new, in the order in which they were written.
    pub created: Vec<PathBuf>,
    /// The plugins whose digest was brought up to date.
    pub repinned: Vec<Repinned>,
}

/// A plugin that was built again since the last start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repinned {
    /// Its name in `node.toml`.
    pub name: String,
    /// Its file.
    pub artifact: PathBuf,
    /// The digest that stood in `node.toml`.
    pub from: Digest,
    /// The digest that stands there now.
    pub to: Digest,
}

/// Why there is no development node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevelopError {
    /// A file or folder could not be made, read or replaced.
    #[error("{}: {error}; make the folder one that you may write to, or choose another with `--node`", path.display())]
    File {
        /// What it was about.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A plugin's file could not be read.
    #[error("plugin `{name}`: {}: {error}; build it first", path.display())]
    Artifact {
        /// The plugin.
        name: String,
        /// Its file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A key file that was there already does not serve.
    #[error("{0}")]
    Key(Problem),
    /// There is no free port to be had.
    #[error("no free UDP port: {0}; choose an address of this machine with `--listen`")]
    Listen(io::Error),
    /// The operating system gives no randomness.
    #[error("no random bytes for a key: {0}; start the command again once the system has them")]
    Random(getrandom::Error),
}

/// Makes a development node in `directory`, or completes the one that is there,
/// and brings its plugins' digests up to date. Port 0 stands for one that is
/// free now: the node keeps it, so that others find the node again.
///
/// # Errors
/// What stands in the way. What was written until then stays, and the next call
/// goes on from there.
pub fn develop(
    directory: &NodeDirectory,
    listen: SocketAddr,
    plugins: &[DevelopPlugin],
) -> Result<Developed, DevelopError> {
    let mut done = Developed::default();
    let path = directory.path();
    directory.create().map_err(|error| DevelopError::File { path: path.into(), error })?;

    let node_config = directory.node_config();
    let mut made_for = None;
    if node_config.exists() {
        done.repinned = repin(&node_config)?;
    } else {
        let node_key = path.join("node.key");
        own_key(&node_key, &mut done)?;
        let listen = with_port(listen).map_err(DevelopError::Listen)?;
        create(&node_config, 0o644, &node_toml(listen, plugins)?, &mut done)?;
        made_for = Some(listen);
    }
    if !directory.access_config().exists() {
        let client = own_key(&directory.client_key(), &mut done)?;
        create(&directory.access_config(), 0o644, &access_toml(client), &mut done)?;
    }
    // An older node may listen elsewhere, and is found by its own file.
    if let Some(listen) = made_for.filter(|_| !directory.known_nodes().exists()) {
        let node = own_key(&path.join("node.key"), &mut done)?;
        let address = NodeAddress::new(node, listen.ip().to_string(), listen.port());
        let text = format!("# name address\nlocal {address}\n");
        create(&directory.known_nodes(), 0o644, &text, &mut done)?;
    }
    Ok(done)
}

/// The address, with a port that is free if it has none.
pub(super) fn with_port(address: SocketAddr) -> io::Result<SocketAddr> {
    match address.port() {
        0 => UdpSocket::bind(address)?.local_addr(),
        _ => Ok(address),
    }
}

/// Writes a private key to a new file that only its owner can read.
///
/// # Errors
/// The file exists or cannot be written.
pub fn write_key(file: &Path, seed: &[u8; 32]) -> io::Result<()> {
    let text = Zeroizing::new(format!("{}\n", hex::encode(seed)));
    create_private(file, text.as_bytes())
}

/// Writes a new file that only its owner can read.
///
/// # Errors
/// The file exists or cannot be written.
pub fn create_private(file: &Path, bytes: &[u8]) -> io::Result<()> {
    write_new(file, 0o600, bytes)
}

/// The public half of the key in `file`, which is made if it is missing.
pub(super) fn own_key(file: &Path, done: &mut Developed) -> Result<PublicKey, DevelopError> {
    let seed = if file.exists() {
        read_key(file, &Place::file_only(file)).map_err(DevelopError::Key)?
    } else {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(DevelopError::Random)?;
        write_key(file, &seed).map_err(|error| DevelopError::File { path: file.into(), error })?;
        done.created.push(file.into());
        seed
    };
    Ok(PublicKey(SigningKey::from_bytes(&seed).verifying_key().to_bytes()))
}

pub(super) fn create(
    file: &Path,
    mode: u32,
    text: &str,
    done: &mut Developed,
) -> Result<(), DevelopError> {
    write_new(file, mode, text.as_bytes())
        .map_err(|error| DevelopError::File { path: file.into(), error })?;
    done.created.push(file.into());
    Ok(())
}

fn digest_of(name: &str, artifact: &Path) -> Result<Digest, DevelopError> {
    let artifact_error =
        |error| DevelopError::Artifact { name: name.into(), path: artifact.into(), error };
    let bytes = std::fs::read(artifact).map_err(artifact_error)?;
    Ok(Digest(Sha256::digest(bytes).into()))
}

fn node_toml(listen: SocketAddr, plugins: &[DevelopPlugin]) -> Result<String, DevelopError> {
    let head = format!(
        "# A node for development: `alknet run --dev` brings the digests of plugins that\n\
         # were built again up to date. A node in service has no `development = true`.\n\
         development = true\n\
         \n\
         [endpoint.quic]\n\
         listen = [\"{listen}\"]\n\
         \n\
         [identity]\n\
         key = \"node.key\"\n"
    );
    Ok(head + &plugin_stanzas(plugins)?)
}

/// A stanza for each plugin, pinned to the file that is there.
pub(super) fn plugin_stanzas(plugins: &[DevelopPlugin]) -> Result<String, DevelopError> {
    let mut text = String::new();
    for plugin in plugins {
        let DevelopPlugin { name, artifact, gateway, config } = plugin;
        let artifact_error =
            |error| DevelopError::Artifact { name: name.clone(), path: artifact.clone(), error };
        let absolute = artifact.canonicalize().map_err(artifact_error)?;
        let digest = digest_of(name, &absolute)?;
        let quoted = toml::Value::String(absolute.display().to_string());
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n[[plugin]]\nname = \"{name}\"\nartifact = {quoted}\nsha256 = \"{digest}\"\n"
        );
        if *gateway {
            text.push_str("gateway = true\n");
        }
        if !config.is_empty() {
            let _ = writeln!(text, "config = {}", toml::Value::Table(config.clone()));
        }
    }
    Ok(text)
}

fn access_toml(client: PublicKey) -> String {
    format!(
        "# The command line of this folder, by its key in `client.key`.\n\
         [[peer]]\n\
         peer_id = \"local\"\n\
         display_name = \"command line\"\n\
         fingerprints = [\"{client}\"]\n\
         scopes = [\"admin\"]\n"
    )
}

/// Brings the digests in a development node's file up to date. A file that is
/// not one, or that is not valid, is left as it is: reading it will say why.
fn repin(file: &Path) -> Result<Vec<Repinned>, DevelopError> {
    let file_error = |error| DevelopError::File { path: file.into(), error };
    let mut text = std::fs::read_to_string(file).map_err(file_error)?;
    let mut changes = Vec::new();
    if let Ok(root) = DeTable::parse(&text) {
        let root = root.get_ref();
        let development = root.get("development").map(|value| value.get_ref());
        if !matches!(development, Some(DeValue::Boolean(true))) {
            return Ok(Vec::new());
        }
        let stanzas = root.get("plugin").and_then(|value| value.get_ref().as_array());
        for stanza in stanzas.into_iter().flatten() {
            let text_of =
                |key| stanza.get_ref().get(key).and_then(|value| value.get_ref().as_str());
            let (Some(name), Some(artifact)) = (text_of("name"), text_of("artifact")) else {
                continue;
            };
            let pinned = stanza.get_ref().get("sha256");
            let Some((pinned, from)) = pinned.and_then(|value| {
                Some((value.span(), Digest(lower_hex(value.get_ref().as_str()?)?)))
            }) else {
                continue;
            };
            let artifact = file.parent().unwrap_or(Path::new("")).join(artifact);
            // A missing file is for the loader to report, with the line.
            let Ok(to) = digest_of(name, &artifact) else { continue };
            if from != to {
                changes.push((pinned, Repinned { name: name.into(), artifact, from, to }));
            }
        }
    }
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    // From the end, so that what is still to be replaced keeps its place.
    changes.sort_by_key(|(span, _)| span.start);
    for (span, change) in changes.iter().rev() {
        text.replace_range(span.clone(), &format!("\"{}\"", change.to));
    }
    replace(file, text.as_bytes()).map_err(file_error)?;
    Ok(changes.into_iter().map(|(_, change)| change).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::{AccessConfig, KnownNodes, Mode, NodeConfig};
    use super::*;

    fn fixture() -> (tempfile::TempDir, NodeDirectory, DevelopPlugin) {
        let folder = tempfile::tempdir().unwrap();
        let artifact = folder.path().join("lib \"echo\".so");
        std::fs::write(&artifact, "first").unwrap();
        let directory = NodeDirectory::new(folder.path().join("a").join(".node"));
        let config = toml::Table::from_iter([("root".to_owned(), "a \"b\"".into())]);
        let plugin = DevelopPlugin { name: "echo".into(), artifact, gateway: true, config };
        (folder, directory, plugin)
    }

    fn listen() -> SocketAddr {
        "[::1]:4433".parse().unwrap()
    }

    #[test]
    fn a_new_node_is_complete_and_valid() {
        let (_folder, directory, plugin) = fixture();
        let done = develop(&directory, listen(), &[plugin]).unwrap();
        let names: Vec<_> = done
            .created
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["node.key", "node.toml", "client.key", "access.toml", "known-nodes"]);

        let node = NodeConfig::load(&directory.node_config(), Mode::Pinned).unwrap();
        assert!(node.development && node.plugins[0].gateway);
        assert_eq!(node.plugins[0].config.value()["root"], "a \"b\"");
        let seed = read_key(&node.identity_key, node.identity_place()).unwrap();
        let key = PublicKey(SigningKey::from_bytes(&seed).verifying_key().to_bytes());
        let known = KnownNodes::load(&directory.known_nodes()).unwrap();
        let local = NodeAddress::new(key, "::1", 4433);
        assert_eq!(known.get("local"), Some(&local));

        let access = AccessConfig::load(&directory.access_config()).unwrap();
        assert_eq!(access.peers[0].scopes, ["admin"]);
        let client = read_key(&directory.client_key(), &Place::default()).unwrap();
        let client = PublicKey(SigningKey::from_bytes(&client).verifying_key().to_bytes());
        assert_eq!(access.peers[0].fingerprints, [client.to_string()]);

        let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(directory.client_key()), 0o600);
        assert_eq!(mode(directory.path().into()), 0o700);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 7, "drafts are left");
    }

    #[test]
    fn a_second_time_changes_nothing() {
        let (_folder, directory, plugin) = fixture();
        develop(&directory, listen(), std::slice::from_ref(&plugin)).unwrap();
        let before = std::fs::read_to_string(directory.access_config()).unwrap();
        let again = develop(&directory, listen(), std::slice::from_ref(&plugin)).unwrap();
        assert_eq!(again, Developed::default());
        // What is missing is made again, from the keys that are there.
        std::fs::remove_file(directory.access_config()).unwrap();
        let again = develop(&directory, listen(), &[plugin]).unwrap();
        assert_eq!(again.created, [directory.access_config()]);
        assert_eq!(std::fs::read_to_string(directory.access_config()).unwrap(), before);
    }

    #[test]
    fn a_plugin_that_was_built_again_is_pinned_again() {
        let (_folder, directory, plugin) = fixture();
        develop(&directory, listen(), std::slice::from_ref(&plugin)).unwrap();
        let file = directory.node_config();
        let edited = std::fs::read_to_string(&file).unwrap() + "# my own note\n";
        std::fs::write(&file, edited).unwrap();

        std::fs::write(&plugin.artifact, "second").unwrap();
        let done = develop(&directory, listen(), std::slice::from_ref(&plugin)).unwrap();
        let second = Digest(Sha256::digest("second").into());
        assert_eq!(done.created, Vec::<PathBuf>::new());
        assert_eq!((done.repinned[0].name.as_str(), done.repinned[0].to), ("echo", second));
        let config = NodeConfig::load(&file, Mode::Pinned).unwrap();
        assert_eq!(config.plugins[0].sha256, Some(second));
        assert!(std::fs::read_to_string(&file).unwrap().ends_with("# my own note\n"));

        // A node in service is never pinned again.
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("development = true", "")).unwrap();
        std::fs::write(&plugin.artifact, "third").unwrap();
        let done = develop(&directory, listen(), &[plugin]).unwrap();
        assert_eq!(done, Developed::default());
    }

    #[test]
    fn port_0_becomes_one_that_stays() {
        let (_folder, directory, plugin) = fixture();
        develop(&directory, "127.0.0.1:0".parse().unwrap(), &[plugin]).unwrap();
        let node = NodeConfig::load(&directory.node_config(), Mode::Pinned).unwrap();
        let known = KnownNodes::load(&directory.known_nodes()).unwrap();
        let port = node.quic.unwrap().listen[0].port();
        assert_ne!(port, 0);
        assert_eq!(known.get("local").unwrap().port, port);
    }

    #[test]
    fn a_key_open_to_others_is_refused() {
        let (_folder, directory, plugin) = fixture();
        std::fs::create_dir_all(directory.path()).unwrap();
        let key = directory.path().join("node.key");
        write_key(&key, &[7; 32]).unwrap();
        assert_eq!(write_key(&key, &[8; 32]).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = develop(&directory, listen(), &[plugin]).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}
