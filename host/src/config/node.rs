//! `node.toml`: what the node is made of. Read once, at start.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::document::{Node, Read, Table, read_document, read_partly};
use super::identity::{AcmeChallenge, CertificateSource, certificate};
use super::import::{ImportStanza, imports};
use super::known_nodes::relay_url;
use super::locate::state_folder;
use super::plugin::PluginStanza;
use super::problem::{Place, Problem, Problems};
use super::sandbox::{Sandbox, sandbox};
use super::tcp::{self, Tcp};
use super::values::{PublicKey, choice, lower_hex};
use super::vault::{VaultConfig, VaultIdentity, vault};
use crate::endpoint::{IrohConfig, Lookup, Relay};
use crate::observe::audit::What as AuditWhat;

/// What to do without a file.
const MISSING: &str = "create it, or start with `alknet run --dev`";

/// How strictly plugins must be pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every plugin needs its digest.
    Pinned,
    /// `alknet run --dev`: a plugin without a digest is loaded as it is.
    Development,
}

/// A valid `node.toml`, with paths made relative to its own folder.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeConfig {
    /// The file it came from.
    pub file: PathBuf,
    /// Whether the file says that this node is for development.
    pub development: bool,
    /// The QUIC endpoint.
    pub quic: Option<Quic>,
    /// The iroh endpoint.
    pub iroh: Option<IrohConfig>,
    /// TLS over TCP.
    pub tcp: Option<Tcp>,
    /// The file of the node's private key; see [`read_key`].
    pub identity_key: PathBuf,
    /// The key of the vault that is used instead of a file's.
    pub identity_vault: Option<VaultIdentity>,
    /// Where secrets come from.
    pub vault: Option<VaultConfig>,
    /// The certificate for clients that do not know raw keys, where there is one.
    pub certificate: Option<CertificateSource>,
    /// Hard ceilings.
    pub limits: NodeLimits,
    /// The plugins, in the file's order.
    pub plugins: Vec<PluginStanza>,
    /// Sources of operations elsewhere, in the file's order.
    pub imports: Vec<ImportStanza>,
    /// Whether callers may ask which operations are whose, with
    /// `services/list-peers`. Default no.
    pub list_peers: bool,
    /// Logs and metrics.
    pub observe: Observe,
    /// The keys of publishers; with any, every plugin needs a signature of one.
    pub trusted_plugin_keys: Vec<PublicKey>,
    /// What the daemon confines itself to.
    pub sandbox: Sandbox,
    identity_place: Place,
    certificate_place: Place,
}

/// The QUIC endpoint and the limits of its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Quic {
    /// The UDP addresses to listen on; at least one.
    pub listen: Vec<SocketAddr>,
    /// How long a handshake may take. Default 5 s.
    pub handshake_timeout: Duration,
    /// After how long without a packet a connection is dropped. Default 30 s.
    pub idle_timeout: Duration,
    /// How often a silent connection is kept alive. Default 10 s.
    pub keep_alive: Duration,
    /// Bidirectional streams that a peer may have open on a connection. Default 1,000.
    pub bidirectional_streams: u32,
    /// Unidirectional streams that a peer may have open on a connection. Default 100.
    pub unidirectional_streams: u32,
    /// Threads that each drive a socket of their own for every address, with the
    /// connections that the kernel gives it; 0 drives one socket for each on the
    /// runtime that everything else uses. Default 0.
    pub shards: u32,
    listen_place: Place,
}

impl Quic {
    /// Where the addresses stand.
    pub fn listen_place(&self) -> &Place {
        &self.listen_place
    }
}

/// Ceilings that no reload can raise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeLimits {
    /// Connections at the same time. Default 10,000.
    pub connections: u32,
    /// Calls in flight on a connection. Default 256.
    pub calls_per_connection: u32,
    /// Live descendants of a call from the wire. Default 1,024.
    pub descendants_per_call: u32,
    /// How long handlers may take to finish at shutdown. Default 2 s.
    pub drain_timeout: Duration,
}

/// What the node shows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Observe {
    /// A log filter such as `info,alknet::endpoint=debug`. Default `info`.
    pub log: String,
    /// How log lines are written.
    pub format: LogFormat,
    /// Where metrics are served over HTTP; nowhere by default.
    pub metrics: Option<SocketAddr>,
    /// Where decisions on access are written down; nowhere by default.
    pub audit: Option<Audit>,
}

/// The audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Audit {
    /// The file, to which lines of JSON are appended. Default `state/audit.jsonl` in
    /// the node's folder.
    pub file: PathBuf,
    /// Which decisions. Default all.
    pub what: AuditWhat,
    place: Place,
}

impl Audit {
    /// Where the file is named, or else the section.
    pub fn place(&self) -> &Place {
        &self.place
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for NodeLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            calls_per_connection: 256,
            descendants_per_call: 1_024,
            drain_timeout: Duration::from_secs(2),
        }
    }
}

impl Default for Observe {
    fn default() -> Self {
        Self { log: "info".into(), format: LogFormat::Text, metrics: None, audit: None }
    }
}

impl NodeConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// Everything that is wrong with it, also that there is none.
    pub fn load(file: &Path, mode: Mode) -> Result<Self, Problems> {
        Self::parse(file, &read_text(file, MISSING)?, mode)
    }

    /// Reads a file for those who look further in spite of mistakes: gives what could be
    /// read of it, to be looked at and never to be run, and everything that is wrong.
    pub fn load_partly(file: &Path, mode: Mode) -> (Option<Self>, Problems) {
        match read_text(file, MISSING) {
            Ok(text) => read_partly(file, &text, |table| Self::read(file, table, mode)),
            Err(problems) => (None, problems),
        }
    }

    /// Reads the text of a file, whose path stands in messages and is what
    /// relative paths start from.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file: &Path, text: &str, mode: Mode) -> Result<Self, Problems> {
        read_document(file, text, |table| Self::read(file, table, mode))
    }

    pub(super) fn read(file: &Path, table: &Table<'_>, mode: Mode) -> Self {
        let (identity_key, identity_vault, identity_place, certificate) = identity(file, table);
        let (certificate, certificate_place) = certificate.unzip();
        let Endpoints { quic, iroh, tcp } = endpoints(table);
        let before = table.problem_count();
        let vault = vault(file, table);
        let vault_unclear = table.problem_count() > before;
        let before = table.problem_count();
        let trusted_plugin_keys = table.or_default("trusted_plugin_keys");
        let keys_unclear = table.problem_count() > before;
        let mut plugins: Vec<PluginStanza> = table.tables("plugin");
        if keys_unclear {
            // Whose code may run cannot be told.
            plugins.iter_mut().for_each(|plugin| plugin.unclear = true);
        }
        let config = Self {
            file: file.to_owned(),
            development: table.or("development", false),
            quic,
            iroh,
            tcp,
            identity_key,
            identity_vault,
            // One that is misread must not be asked for its phrase.
            vault: vault.filter(|_| !vault_unclear),
            certificate,
            limits: table.or_default("limits"),
            plugins,
            imports: imports(table),
            list_peers: list_peers(table),
            observe: table.or_default("observe"),
            trusted_plugin_keys,
            certificate_place: certificate_place.unwrap_or_else(|| identity_place.clone()),
            sandbox: sandbox(table),
            identity_place,
        };
        config.refuse_unpinned(table, mode);
        config.refuse_duplicates(table);
        if !vault_unclear {
            config.refuse_without_vault(table);
        }
        config.refuse_unanswered(table);
        config
    }

    /// Where the node's key is named, or else the file.
    pub fn identity_place(&self) -> &Place {
        &self.identity_place
    }

    /// Where the certificate's source is named, or else the key or the file.
    pub fn certificate_place(&self) -> &Place {
        &self.certificate_place
    }

    /// An ACME server's question must find somebody who answers.
    fn refuse_unanswered(&self, table: &Table<'_>) {
        if let Some(CertificateSource::Acme(acme)) = &self.certificate
            && acme.challenge == AcmeChallenge::TlsAlpn01
            && self.tcp.is_none()
        {
            table.problem(self.certificate_place.problem(
                "the challenge `tls-alpn-01` is answered over TCP, where the node does not listen",
                "add `[endpoint.tcp]` with `listen = [\"0.0.0.0:443\"]`, or write `challenge = \"http-01\"`",
            ));
        }
    }

    fn refuse_unpinned(&self, table: &Table<'_>, mode: Mode) {
        for plugin in &self.plugins {
            let pinned = plugin.sha256.is_some() || plugin.has_key("sha256");
            if mode == Mode::Pinned && !pinned {
                table.problem(plugin.problem(
                    "sha256",
                    format!("plugin `{}` is not pinned", plugin.name),
                    "run `alknet plugin pin FILE`, or write `sha256 = \"…\"` with what `sha256sum FILE` \
                     prints",
                ));
            }
            let signed = plugin.signature.is_some() || plugin.has_key("signature");
            if !self.trusted_plugin_keys.is_empty() && !signed {
                table.problem(plugin.problem(
                    "signature",
                    format!("plugin `{}` is not signed", plugin.name),
                    "write `signature = \"…\"` by one of `trusted_plugin_keys`",
                ));
            }
        }
    }

    fn refuse_duplicates(&self, table: &Table<'_>) {
        let mut names = BTreeMap::new();
        let mut alpns = BTreeMap::new();
        let mut keepers = BTreeMap::new();
        for plugin in self.plugins.iter().filter(|plugin| !plugin.name.is_empty()) {
            let place = plugin.place("name");
            if let Some(first) = names.insert(&plugin.name, place) {
                table.problem(place.problem(
                    format!("two plugins are called `{}`", plugin.name),
                    format!("rename one of them; the other stands in line {}", first.line()),
                ));
            }
            for kind in &plugin.owns {
                if let Some(first) = keepers.insert(kind, &plugin.name) {
                    table.problem(plugin.problem(
                        "owns",
                        format!("resources of type `{kind}` are kept by `{first}` already"),
                        "leave them to one plugin: another could take them from their owners",
                    ));
                }
            }
            for alpn in plugin.alpn.iter().flatten() {
                if let Some(first) = alpns.insert(alpn, &plugin.name) {
                    table.problem(plugin.problem(
                        "alpn",
                        format!("ALPN `{alpn}` is served by `{first}` and by `{}`", plugin.name),
                        "leave it to one of them: a connection goes to one handler",
                    ));
                }
            }
        }
    }

    /// Capabilities and identities come out of the vault, so without one they are
    /// promises that the node cannot keep.
    fn refuse_without_vault(&self, table: &Table<'_>) {
        if self.vault.is_some() {
            return;
        }
        const REMEDY: &str = "add `[vault]`, and make one with `alknet vault init`";
        if self.identity_vault.is_some() {
            let what = "the node's key is in the vault, and there is none";
            table.problem(self.identity_place.problem(what, REMEDY));
        }
        for plugin in self.plugins.iter().filter(|plugin| !plugin.capabilities.is_empty()) {
            let what = "capabilities are lent by the vault, and there is none";
            table.problem(plugin.problem("capabilities", what, REMEDY));
        }
        for import in self.imports.iter().filter(|import| import.credential.is_some()) {
            let what = "credentials are lent by the vault, and there is none";
            table.problem(import.problem("credential", what, REMEDY));
        }
    }
}

/// The text of a file.
pub(super) fn read_text(file: &Path, remedy: &str) -> Result<String, Problems> {
    std::fs::read_to_string(file).map_err(|error| {
        let (what, remedy) = match error.kind() {
            std::io::ErrorKind::NotFound => ("there is no such file".to_owned(), remedy),
            std::io::ErrorKind::InvalidData => {
                ("the file is not UTF-8 text".to_owned(), "save it as UTF-8")
            }
            _ => (
                format!("the file cannot be read: {error}"),
                "make it a file that the daemon's user may read",
            ),
        };
        Place::file_only(file).problem(what, remedy).into()
    })
}

/// Reads a private key: a file of 64 hexadecimal digits that only its owner can
/// read.
///
/// # Errors
/// The file is missing, is not a regular file, is open to others, or holds
/// something else. The problem stands at `place`, where the key is named.
pub fn read_key(file: &Path, place: &Place) -> Result<Zeroizing<[u8; 32]>, Problem> {
    let name = file.display();
    let unreadable = |error: std::io::Error| {
        place.problem(
            format!("the key file {name} cannot be read: {error}"),
            "restore the file, or name another; `alknet run --dev` creates a development node",
        )
    };
    // One open file for every look at it: nobody can swap it in between.
    let mut opened = File::open(file).map_err(unreadable)?;
    let metadata = opened.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(place.problem(format!("{name} is not a regular file"), "name the key's file"));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(place.problem(
            format!(
                "others may use the key file {name}: its mode is {:04o}",
                metadata.mode() & 0o7777
            ),
            format!("run `chmod 600 {name}`, and replace the key if others could have read it"),
        ));
    }
    let mut text = Zeroizing::new(String::with_capacity(128));
    let read = opened.by_ref().take(128).read_to_string(&mut text);
    read.map_err(unreadable)?;
    lower_hex(text.trim_end()).map(Zeroizing::new).ok_or_else(|| {
        place.problem(
            format!("the key file {name} does not hold a key"),
            "it takes 64 lower-case hexadecimal digits and nothing else; restore it from a backup",
        )
    })
}

/// What is on and built in; what is on and refused has its own problem already.
#[derive(Default)]
struct Endpoints {
    quic: Option<Quic>,
    iroh: Option<IrohConfig>,
    tcp: Option<Tcp>,
}

fn endpoints(table: &Table<'_>) -> Endpoints {
    let read = match table.node("endpoint") {
        Some(node) => node.table(|table| {
            let mut iroh = None;
            let has_iroh = optional(table, "iroh", cfg!(feature = "iroh"), |table| {
                iroh = Some(read_iroh(table));
            });
            let built = cfg!(all(feature = "tcp", feature = "quinn"));
            let mut tcp = None;
            let has_tcp = optional(table, "tcp", built, |table| tcp = Some(tcp::read(table)));
            let mut quic = None;
            let has_quic = optional(table, "quic", cfg!(feature = "quinn"), |table| {
                quic = Some(read_quic(table));
            });
            let (quic, iroh) = (quic.filter(|_| has_quic), iroh.filter(|_| has_iroh));
            let tcp = tcp.filter(|_| has_tcp);
            (has_quic || has_iroh || has_tcp, Endpoints { quic, iroh, tcp })
        }),
        None => Some((false, Endpoints::default())),
    };
    let Some((listens, endpoints)) = read else { return Endpoints::default() };
    if !listens {
        table.problem(table.place_of("endpoint").problem(
            "the node listens nowhere",
            "add `[endpoint.quic]` with `listen = [\"0.0.0.0:4433\"]`",
        ));
    }
    endpoints
}

fn read_iroh(table: &Table<'_>) -> IrohConfig {
    let listen: Vec<SocketAddr> = table.or_default("listen");
    let second = |v6| listen.iter().filter(|address| address.is_ipv6() == v6).nth(1);
    for second in [second(false), second(true)].into_iter().flatten() {
        table.problem(table.place_of("listen").problem(
            format!("{second} is a second address of its family, and iroh takes one of each"),
            "leave one IPv4 and one IPv6 address at most, or listen on 0.0.0.0 and [::]",
        ));
    }
    let relay = match table.node("relay") {
        None => Relay::Disabled,
        Some(node) => match node.elements() {
            Some(urls) => {
                if urls.is_empty() {
                    table.problem(node.place().problem(
                        "the list of relays is empty",
                        "write a relay's URL, or `relay = \"disabled\"`",
                    ));
                }
                Relay::Own(urls.iter().filter_map(read_relay).collect())
            }
            None => match choice(&node, &[("disabled", false), ("n0", true)]) {
                Some(true) => Relay::N0,
                _ => Relay::Disabled,
            },
        },
    };
    let lookup = match table.node("lookup") {
        None => Vec::new(),
        Some(node) => match node.elements() {
            Some(services) => {
                services.iter().filter_map(|node| choice(node, &[("n0", Lookup::N0)])).collect()
            }
            None => node.refuse_type("a list", "[\"n0\"]").unwrap_or_default(),
        },
    };
    IrohConfig { listen, relay, lookup }
}

fn read_relay(node: &Node<'_>) -> Option<String> {
    let text = String::read(node)?;
    relay_url(&text).or_else(|| {
        node.refuse(
            format!("`{text}` is not a relay's URL"),
            "write `https://` and a host; `http://` is for a relay on this machine alone",
        )
    })
}

/// More threads than any machine that this is for has cores.
const MAX_SHARDS: u32 = 1_024;

fn read_quic(table: &Table<'_>) -> Quic {
    let quic = Quic {
        listen: table.required("listen", "say where to listen: `listen = [\"0.0.0.0:4433\"]`"),
        handshake_timeout: positive(table, "handshake_timeout", Duration::from_secs(5)),
        idle_timeout: positive(table, "idle_timeout", Duration::from_secs(30)),
        keep_alive: positive(table, "keep_alive", Duration::from_secs(10)),
        bidirectional_streams: table.or("bidirectional_streams", 1_000),
        unidirectional_streams: table.or("unidirectional_streams", 100),
        shards: table.or("shards", 0),
        listen_place: table.place_of("listen"),
    };
    let listen_is_empty =
        table.node("listen").and_then(|node| node.elements()).is_some_and(|list| list.is_empty());
    if listen_is_empty {
        table.problem(quic.listen_place.problem(
            "the list of addresses is empty",
            "write an address to listen on: `listen = [\"0.0.0.0:4433\"]`",
        ));
    }
    if quic.bidirectional_streams == 0 {
        table.problem(table.place_of("bidirectional_streams").problem(
            "without bidirectional streams no peer can ask for anything",
            "write 1 or more, or remove the key for the default of 1000",
        ));
    }
    if quic.shards > MAX_SHARDS {
        table.problem(table.place_of("shards").problem(
            format!("{} shards are more than {MAX_SHARDS}", quic.shards),
            "write the number of cores that the node may use, or 0 for one shared runtime",
        ));
    }
    if quic.keep_alive >= quic.idle_timeout {
        table.problem(table.place_of("keep_alive").problem(
            "connections would be dropped as idle before they are kept alive",
            "make `keep_alive` shorter than `idle_timeout`, at most a third of it",
        ));
    }
    quic
}

/// A duration of at least a millisecond.
pub(super) fn positive(table: &Table<'_>, key: &'static str, default: Duration) -> Duration {
    let value = table.or(key, default);
    if value.is_zero() {
        let remedy = format!("remove the key for the default of {default:?}");
        table.problem(
            table.place_of(key).problem("a limit of no time lets nothing through", remedy),
        );
        return default;
    }
    value
}

/// Reads a section that may be switched off with `enabled = false`, and refuses
/// it when it is on and this binary lacks what it configures. Gives whether it
/// is on.
pub(super) fn optional(
    table: &Table<'_>,
    key: &'static str,
    built: bool,
    read: impl FnOnce(&Table<'_>),
) -> bool {
    let Some(node) = table.node(key) else { return false };
    node.table(|table| switched(table, key, built, read)).unwrap_or(true)
}

fn switched(table: &Table<'_>, key: &str, built: bool, read: impl FnOnce(&Table<'_>)) -> bool {
    let enabled = table.or("enabled", true);
    read(table);
    if enabled && !built {
        table.problem(table.place().problem(
            format!("`{key}` is not built into this binary"),
            "remove the section, or write `enabled = false` in it",
        ));
    }
    enabled
}

type Certificate = Option<(CertificateSource, Place)>;

fn identity(
    file: &Path,
    table: &Table<'_>,
) -> (PathBuf, Option<VaultIdentity>, Place, Certificate) {
    let default = file.with_file_name("node.key");
    let Some(node) = table.node("identity") else {
        return (default, None, Place::file_only(file), None);
    };
    let read = node.table(|table| {
        let vault = table.get::<VaultIdentity>("vault");
        if table.has("vault") && table.has("key") {
            table.problem(table.place_of("vault").problem(
                "the node's key is named twice",
                "keep `key` for a file, or `vault` for a key that the vault derives",
            ));
        }
        let key = table.node("key").and_then(|node| {
            let text = String::read(&node)?;
            match lower_hex::<32>(&text) {
                Some(_) => node.refuse_secret(
                    "a private key stands in this file",
                    "replace the key, keep the new one in a file of mode 0600, and name that file",
                ),
                None => PathBuf::read(&node),
            }
        });
        let place = table.place_of(if table.has("vault") { "vault" } else { "key" });
        (key, vault, place, certificate(file, table))
    });
    match read {
        Some((key, vault, place, certificate)) => {
            (key.unwrap_or(default), vault, place, certificate)
        }
        None => (default, None, node.place(), None),
    }
}

fn list_peers(table: &Table<'_>) -> bool {
    let discovery = table.node("discovery");
    discovery.and_then(|node| node.table(|table| table.or("list_peers", false))).unwrap_or(false)
}

impl Read for NodeLimits {
    fn read(node: &Node<'_>) -> Option<Self> {
        let default = Self::default();
        node.table(|table| Self {
            connections: table.or("connections", default.connections),
            calls_per_connection: table.or("calls_per_connection", default.calls_per_connection),
            descendants_per_call: table.or("descendants_per_call", default.descendants_per_call),
            drain_timeout: table.or("drain_timeout", default.drain_timeout),
        })
    }
}

impl Read for Observe {
    fn read(node: &Node<'_>) -> Option<Self> {
        let default = Self::default();
        node.table(|table| Self {
            log: log_filter(table, "log").unwrap_or(default.log),
            format: table
                .node("format")
                .and_then(|node| {
                    choice(&node, &[("text", LogFormat::Text), ("json", LogFormat::Json)])
                })
                .unwrap_or_default(),
            metrics: table.get("metrics"),
            audit: table.get("audit"),
        })
    }
}

impl Read for Audit {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.table(|table| Self {
            file: table.or("file", state_folder(table.place().file()).join("audit.jsonl")),
            what: table
                .node("what")
                .and_then(|node| {
                    choice(&node, &[("all", AuditWhat::All), ("refused", AuditWhat::Refused)])
                })
                .unwrap_or_default(),
            place: table.place_of("file"),
        })
    }
}

/// A log filter that the subscriber will understand.
pub(super) fn log_filter(table: &Table<'_>, key: &'static str) -> Option<String> {
    let node = table.node(key)?;
    let text = String::read(&node)?;
    match tracing_subscriber::EnvFilter::try_new(&text) {
        Ok(_) => Some(text),
        Err(error) => node.refuse(
            format!("`{text}` is not a log filter: {error}"),
            "write levels, alone or for a module: `info,alknet::endpoint=debug`",
        ),
    }
}
