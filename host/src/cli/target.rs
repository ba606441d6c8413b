//! Which node a command talks to, and as whom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};
use crate::config::{
    KnownNodes, Mode, NodeAddress, NodeConfig, NodeDirectory, Place, Problems, PublicKey, read_key,
};

/// A node to talk to.
pub struct Target {
    /// Its key and where to reach it.
    pub address: NodeAddress,
    /// The seed of the key by which the command line proves who it is; without
    /// one it is a stranger.
    pub client_key: Option<Zeroizing<[u8; 32]>>,
}

/// The node that `to` means, by the files of `directory`.
pub(super) fn resolve(directory: &NodeDirectory, to: Option<&str>) -> Result<Target, Failure> {
    let address = match to {
        Some(text) if text.contains("://") => text.parse().map_err(|error| {
            Failure::new(Exit::Usage, format!("`{text}` is not a node's address: {error}"))
        })?,
        Some(name) => named(directory, name)?,
        None => local(directory)?,
    };
    Ok(Target { address, client_key: client_key(directory)? })
}

fn named(directory: &NodeDirectory, name: &str) -> Result<NodeAddress, Failure> {
    let known = KnownNodes::load(&directory.known_nodes())?;
    if let Some(address) = known.get(name) {
        return Ok(address.clone());
    }
    if name == "local" {
        return local(directory);
    }
    let near = known
        .iter()
        .map(|(candidate, _)| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let remedy = match near {
        Some((_, candidate)) => format!("did you mean `{candidate}`?"),
        None => format!(
            "add a line `{name} alknet://<key>@host:port` to {}, or write the address itself",
            directory.known_nodes().display()
        ),
    };
    Err(Failure::new(Exit::Usage, format!("no known node is called `{name}`")).remedy(remedy))
}

/// The node whose files these are: the one that `known-nodes` calls `local`, or
/// else where its own configuration says that it listens.
fn local(directory: &NodeDirectory) -> Result<NodeAddress, Failure> {
    let known = KnownNodes::load(&directory.known_nodes())?;
    if let Some(address) = known.get("local") {
        return Ok(address.clone());
    }
    if !directory.node_config().exists() {
        let what = format!("there is no node in {}", directory.path().display());
        return Err(Failure::new(Exit::Unavailable, what)
            .remedy("start one with `alknet run --dev`, or name one with `--to` or `--node`"));
    }
    let config = NodeConfig::load(&directory.node_config(), Mode::Development)?;
    let key = read_key(&config.identity_key, config.identity_place()).map_err(Problems::from)?;
    let listen = config.quic.as_ref().and_then(|quic| quic.listen.first());
    let Some(listen) = listen.filter(|listen| listen.port() != 0) else {
        let what = "the node's configuration does not say at which port it can be reached";
        return Err(Failure::new(Exit::Config, what)
            .remedy("write a port other than 0 to `listen`, or name the node with `--to`"));
    };
    Ok(NodeAddress {
        key: PublicKey(SigningKey::from_bytes(&key).verifying_key().to_bytes()),
        host: reachable(listen).to_string(),
        port: listen.port(),
    })
}

/// Who listens on every address is reached on the loopback one.
fn reachable(listen: &SocketAddr) -> IpAddr {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

fn client_key(directory: &NodeDirectory) -> Result<Option<Zeroizing<[u8; 32]>>, Failure> {
    let file = directory.client_key();
    if !file.exists() {
        return Ok(None);
    }
    let key = read_key(&file, &Place::file_only(&file)).map_err(Problems::from)?;
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{develop, write_key};

    fn failure(directory: &NodeDirectory, to: Option<&str>) -> Failure {
        resolve(directory, to).map(|target| target.address).unwrap_err()
    }

    #[test]
    fn addresses_names_and_the_local_node() {
        let folder = tempfile::tempdir().unwrap();
        let directory = NodeDirectory::new(folder.path().join(".node"));
        let none = failure(&directory, None);
        assert_eq!(none.exit(), Exit::Unavailable);
        assert!(none.to_string().contains("alknet run --dev"), "{none}");

        let listen = "127.0.0.1:4433".parse().unwrap();
        develop(&directory, listen, &[]).unwrap();
        let target = resolve(&directory, None).unwrap();
        assert_eq!((target.address.host.as_str(), target.address.port), ("127.0.0.1", 4433));
        assert!(target.client_key.is_some());
        let named = resolve(&directory, Some("local")).unwrap();
        assert_eq!(named.address, target.address);
        let written = target.address.to_string();
        assert_eq!(resolve(&directory, Some(&written)).unwrap().address, target.address);

        let unknown = failure(&directory, Some("locla"));
        assert_eq!(unknown.exit(), Exit::Usage);
        assert!(unknown.to_string().contains("did you mean `local`?"), "{unknown}");
        assert_eq!(failure(&directory, Some("alknet://x@y:1")).exit(), Exit::Usage);

        std::fs::write(directory.known_nodes(), "local nonsense\n").unwrap();
        assert_eq!(failure(&directory, None).exit(), Exit::Config);
    }

    #[test]
    fn without_known_nodes_the_configuration_tells_the_address() {
        let folder = tempfile::tempdir().unwrap();
        let directory = NodeDirectory::new(folder.path());
        let write = |listen: &str| {
            let text = format!("[endpoint.quic]\nlisten = [\"{listen}\"]\n");
            std::fs::write(directory.node_config(), text).unwrap();
        };
        write("[::]:4433");
        assert_eq!(failure(&directory, None).exit(), Exit::Config, "there is no key yet");
        write_key(&folder.path().join("node.key"), &[7; 32]).unwrap();
        let target = resolve(&directory, None).unwrap();
        assert_eq!(target.address.host, "::1");
        assert_eq!(
            target.address.key.0,
            SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes()
        );
        assert!(target.client_key.is_none(), "a stranger");
        write("[::]:0");
        assert_eq!(failure(&directory, None).exit(), Exit::Config);
    }
}
