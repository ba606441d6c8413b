//! Which node a command talks to, and as whom.

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::Args;
use ed25519_dalek::SigningKey;
use rustls::RootCertStore;
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};
use crate::config::{
    Carrier, KnownNodes, Mode, NodeAddress, NodeConfig, NodeDirectory, Place, Problems, PublicKey,
    Reach, read_key,
};
use crate::endpoint::IrohConfig;
use crate::endpoint::identity::{Certificate, CertificateFiles};
use crate::endpoint::tls;

/// A node to talk to.
pub struct Target {
    /// Its key and how to reach it.
    pub reach: Reach,
    /// How nodes are found that are reached by their key.
    pub iroh: IrohConfig,
    /// The seed of the key by which the command line proves who it is; without
    /// one it is a stranger.
    pub client_key: Option<Zeroizing<[u8; 32]>>,
    /// A token that is sent with every call, and counts in place of the key.
    pub token: Option<Zeroizing<String>>,
    /// The certificate by which it proves that to nodes with certificates.
    pub client_certificate: Option<Certificate>,
    /// The authorities that it believes instead of the system's.
    pub authorities: Option<RootCertStore>,
}

/// What a command is told of certificates.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Certificates {
    /// Believe these authorities, not the system's, about nodes that are dialled by name
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Show this certificate to nodes with certificates; its private part is in the same PEM file
    /// [default: client.pem in the node's folder, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    certificate: Option<PathBuf>,
}

/// The node that `to` means, by the files of `directory`.
pub(super) fn resolve(directory: &NodeDirectory, to: Option<&str>) -> Result<Target, Failure> {
    resolve_with(directory, to, &Certificates::default())
}

/// The node that `to` means, with what the command line says of certificates.
pub(super) fn resolve_with(
    directory: &NodeDirectory,
    to: Option<&str>,
    certificates: &Certificates,
) -> Result<Target, Failure> {
    let reach = match to {
        Some(text) if text.contains("://") => text.parse().map_err(|error| {
            Failure::new(Exit::Usage, format!("`{text}` is not a node's address: {error}"))
        })?,
        Some(name) => named(directory, name)?,
        None => local(directory)?,
    };
    let iroh = match &reach {
        Reach::Key(_) => iroh(directory)?,
        Reach::Address(_) => IrohConfig::default(),
    };
    Ok(Target {
        reach,
        iroh,
        client_key: client_key(directory)?,
        client_certificate: client_certificate(directory, certificates)?,
        authorities: authorities(certificates)?,
        token: None,
    })
}

/// More than any token has.
const LONGEST_TOKEN: u64 = 1_024;

/// The token in a file that only its owner can read, or on standard input for `-`.
pub(super) fn read_token(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let unusable = |what: String| {
        Failure::new(Exit::Usage, format!("no token in {}: {what}", file.display()))
            .remedy("write the token alone into a file, and run `chmod 600` on it")
    };
    let io_error = |error: std::io::Error| unusable(error.to_string());
    let mut text = Zeroizing::new(String::with_capacity(LONGEST_TOKEN as usize + 1));
    let read = match file == Path::new("-") {
        true => std::io::stdin().lock().take(LONGEST_TOKEN + 1).read_to_string(&mut text),
        false => {
            let opened = std::fs::File::open(file).map_err(io_error)?;
            let metadata = opened.metadata().map_err(io_error)?;
            if !metadata.is_file() {
                return Err(unusable("it is not a regular file".to_owned()));
            }
            if metadata.mode() & 0o077 != 0 {
                let mode = metadata.mode() & 0o7777;
                return Err(unusable(format!("others may use it: its mode is {mode:04o}")));
            }
            opened.take(LONGEST_TOKEN + 1).read_to_string(&mut text)
        }
    };
    read.map_err(io_error)?;
    let token = text.trim();
    match token.is_empty() || token.len() as u64 > LONGEST_TOKEN {
        true => Err(unusable("it holds something else".to_owned())),
        false => Ok(Zeroizing::new(token.to_owned())),
    }
}

fn client_certificate(
    directory: &NodeDirectory,
    certificates: &Certificates,
) -> Result<Option<Certificate>, Failure> {
    let file = match &certificates.certificate {
        Some(file) => file.clone(),
        None => directory.path().join("client.pem"),
    };
    if certificates.certificate.is_none() && !file.exists() {
        return Ok(None);
    }
    let both = CertificateFiles { cert: file.clone(), key: file };
    let loaded = both.load().map_err(|error| {
        Failure::new(Exit::Config, error.to_string())
            .remedy("put the certificate and its private key into one PEM file")
    });
    loaded.map(Some)
}

fn authorities(certificates: &Certificates) -> Result<Option<RootCertStore>, Failure> {
    let read = |file: &PathBuf| {
        tls::authorities(file).map_err(|error| Failure::new(Exit::Config, error.to_string()))
    };
    certificates.ca.as_ref().map(read).transpose()
}

/// Relays and lookups as the node's own file has them, if there is one; a command
/// listens where the system likes.
fn iroh(directory: &NodeDirectory) -> Result<IrohConfig, Failure> {
    if !directory.node_config().exists() {
        return Ok(IrohConfig::default());
    }
    let config = NodeConfig::load(&directory.node_config(), Mode::Development)?;
    Ok(IrohConfig { listen: Vec::new(), ..config.iroh.unwrap_or_default() })
}

fn named(directory: &NodeDirectory, name: &str) -> Result<Reach, Failure> {
    let known = KnownNodes::load(&directory.known_nodes())?;
    if let Some(reach) = known.find(name) {
        return Ok(reach.clone());
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
fn local(directory: &NodeDirectory) -> Result<Reach, Failure> {
    let known = KnownNodes::load(&directory.known_nodes())?;
    if let Some(reach) = known.find("local") {
        return Ok(reach.clone());
    }
    if !directory.node_config().exists() {
        let what = format!("there is no node in {}", directory.path().display());
        return Err(Failure::new(Exit::Unavailable, what)
            .remedy("start one with `alknet run --dev`, or name one with `--to` or `--node`"));
    }
    let config = NodeConfig::load(&directory.node_config(), Mode::Development)?;
    if config.identity_vault.is_some() {
        let what = "the node's key is in its vault, which this command does not unlock";
        return Err(Failure::new(Exit::Config, what).remedy(format!(
            "add a line `local alknet://<key>@host:port` to {}",
            directory.known_nodes().display()
        )));
    }
    let key = read_key(&config.identity_key, config.identity_place()).map_err(Problems::from)?;
    // A QUIC client reaches iroh's sockets, too.
    let quic = config.quic.iter().flat_map(|quic| &quic.listen);
    let udp = quic.chain(config.iroh.iter().flat_map(|iroh| &iroh.listen));
    let tcp = config.tcp.iter().flat_map(|tcp| &tcp.listen);
    let mut listen = udp.map(|at| (Carrier::Quic, at)).chain(tcp.map(|at| (Carrier::Tcp, at)));
    let Some((carrier, listen)) = listen.next().filter(|(_, listen)| listen.port() != 0) else {
        let what = "the node's configuration does not say at which port it can be reached";
        return Err(Failure::new(Exit::Config, what)
            .remedy("write a port other than 0 to `listen`, or name the node with `--to`"));
    };
    let key = PublicKey(SigningKey::from_bytes(&key).verifying_key().to_bytes());
    let address = NodeAddress::new(key, reachable(listen).to_string(), listen.port());
    Ok(Reach::Address(NodeAddress { carrier, ..address }))
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
        resolve(directory, to).map(|target| target.reach).unwrap_err()
    }

    fn address(target: &Target) -> NodeAddress {
        match &target.reach {
            Reach::Address(address) => address.clone(),
            Reach::Key(_) => panic!("{}", target.reach),
        }
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
        let found = address(&target);
        assert_eq!((found.host.as_str(), found.port), ("127.0.0.1", 4433));
        assert!(target.client_key.is_some());
        let named = resolve(&directory, Some("local")).unwrap();
        assert_eq!(named.reach, target.reach);
        let written = target.reach.to_string();
        assert_eq!(resolve(&directory, Some(&written)).unwrap().reach, target.reach);

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
        assert_eq!(address(&target).host, "::1");
        assert_eq!(
            address(&target).key().unwrap().0,
            SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes()
        );
        assert!(target.client_key.is_none(), "a stranger");
        write("[::]:0");
        assert_eq!(failure(&directory, None).exit(), Exit::Config);
    }
}
