//! A `[[plugin]]` stanza: which plugin, pinned how, with what authority.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use alknet_plugin_api::CapabilityKind;

use super::document::{Node, Read, Table};
use super::problem::{Place, Places, Problem};
use super::settings::Settings;
use super::values::{Bytes, Digest, Signature, choice};
use crate::plugins::Kind;

/// One plugin of the node.
#[derive(Clone, Debug, Default)]
pub struct PluginStanza {
    /// What the node calls it: lower-case letters, digits and `-`, unique.
    pub name: String,
    /// Its file.
    pub artifact: PathBuf,
    /// What it must be made of; `None` leaves it to the file's contents.
    pub kind: Option<Kind>,
    /// The digest that the file must have. `None` only on development nodes.
    pub sha256: Option<Digest>,
    /// The publisher's signature over the file.
    pub signature: Option<Signature>,
    /// Which of its ALPNs it serves, in the server's order of preference;
    /// `None` for all of them in the plugin's own order.
    pub alpn: Option<Vec<String>>,
    /// Its own configuration.
    pub config: Settings,
    /// Whose rights its own calls have; without one they have none.
    pub authority: Option<Authority>,
    /// The operations that its own calls may name, without a leading slash, or
    /// `@peer-id/operation` for one of a certain peer.
    pub reach: Vec<String>,
    /// The secrets it is lent, by the name that the plugin uses.
    pub capabilities: BTreeMap<String, CapabilityGrant>,
    /// The origins that the host makes requests to for it, with what it is lent.
    pub outbound: Vec<String>,
    /// Operations that must be for the wire: one that the plugin keeps internal
    /// stops the start, as only the plugin can offer it.
    pub expose: Vec<String>,
    /// Operations that the wire does not reach although the plugin offers them.
    pub hide: Vec<String>,
    /// Types of resources whose owners it keeps.
    pub owns: Vec<String>,
    /// What it may use.
    pub limits: PluginLimits,
    /// Whether the node refuses to start without it. A wrong digest, signature
    /// or permission stops the start in any case.
    pub required: bool,
    /// Where it runs.
    pub isolation: Isolation,
    /// Whether it may make calls on behalf of its connections' peers.
    pub gateway: bool,
    places: Places,
}

/// Whose rights apply to the calls that a plugin makes itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authority {
    /// The identity's id inside these calls.
    pub label: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Actions allowed on each type of resource.
    pub resources: BTreeMap<String, Vec<String>>,
}

/// A secret of the vault, lent to a plugin or to an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapabilityGrant {
    /// Where the vault has it.
    pub source: CapabilitySource,
    /// What it may be used for.
    pub kind: CapabilityKind,
    /// The header that it is the value of; only for [`CapabilityKind::Header`].
    pub header: Option<String>,
    /// Whether a plugin may see the bytes themselves; only for
    /// [`CapabilityKind::Bytes`], which are of no use otherwise.
    pub reveal: bool,
    /// The operations that it is lent to, without a leading slash; empty for the
    /// plugin as a whole.
    pub operations: Vec<String>,
    place: Place,
}

/// Where the vault has a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CapabilitySource {
    /// An entry of the credential store.
    Entry(String),
    /// A key that is derived from the phrase; only for [`CapabilityKind::Sign`].
    Path(String),
}

impl CapabilityGrant {
    /// Something wrong with the grant.
    pub fn problem(&self, what: impl Into<String>, remedy: impl Into<String>) -> Problem {
        self.place.problem(what, remedy)
    }
}

/// What a plugin may use. The host's default applies where there is none; a
/// native plugin's limits cannot be enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PluginLimits {
    /// Bytes of memory, for each instance or for an isolated plugin's process.
    pub memory: Option<u64>,
    /// How long it may compute without giving way.
    pub cpu: Option<Duration>,
    /// Instances at the same time.
    pub instances: Option<u32>,
}

/// Where a plugin runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Isolation {
    /// In the daemon's own process.
    #[default]
    None,
    /// In a process of its own, which the daemon supervises.
    Process,
}

impl PluginStanza {
    /// Where the value of a key stands, or else the stanza itself.
    pub fn place(&self, key: &str) -> &Place {
        self.places.of(key)
    }

    /// Whether the stanza has a key, readable or not.
    pub(super) fn has_key(&self, key: &str) -> bool {
        self.places.key(key).is_some()
    }

    /// Where the plugin's own configuration has the value at a JSON Pointer, or
    /// else what is nearest to it.
    pub fn config_place(&self, pointer: &str) -> &Place {
        self.config.place(pointer).unwrap_or_else(|| self.place("config"))
    }

    /// Something wrong with the value of a key.
    pub fn problem(
        &self,
        key: &str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Problem {
        self.place(key).problem(what, remedy)
    }
}

impl Read for PluginStanza {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.table(|table| {
            let stanza = Self {
                name: stanza_name(table, "plugin", "echo"),
                artifact: table.required("artifact", "name the plugin's file: `artifact = \"…\"`"),
                kind: table.node("kind").as_ref().and_then(|node| {
                    choice(node, &[("native", Kind::Native), ("component", Kind::Component)])
                }),
                sha256: table.get("sha256"),
                signature: table.get("signature"),
                alpn: table.node("alpn").as_ref().and_then(alpns),
                config: table.or_default("config"),
                authority: table.get("authority"),
                reach: operations(table, "reach"),
                capabilities: table.or_default("capabilities"),
                outbound: table.node("outbound").as_ref().and_then(origins).unwrap_or_default(),
                expose: operations(table, "expose"),
                hide: operations(table, "hide"),
                owns: table.or_default("owns"),
                limits: table.or_default("limits"),
                required: table.or("required", true),
                isolation: isolation(table),
                gateway: table.or("gateway", false),
                places: table.places(),
            };
            let sent = |grant: &CapabilityGrant| {
                use CapabilityKind::{Basic, Bearer, Header};
                matches!(grant.kind, Bearer | Basic | Header)
            };
            if !stanza.outbound.is_empty() && !stanza.capabilities.values().any(sent) {
                table.problem(stanza.problem(
                    "outbound",
                    "the plugin is lent nothing that could be sent",
                    "lend it a capability of kind `bearer`, `basic` or `header`, or remove the key",
                ));
            }
            if let Some(both) = stanza.expose.iter().find(|name| stanza.hide.contains(name)) {
                table.problem(stanza.problem(
                    "hide",
                    format!("`{both}` is both exposed and hidden"),
                    "name it in `expose` or in `hide`",
                ));
            }
            stanza
        })
    }
}

/// The name of a `[[plugin]]` or an `[[import]]`.
pub(super) fn stanza_name(table: &Table<'_>, what: &str, example: &str) -> String {
    let remedy = format!("give the {what} a name: `name = \"{example}\"`");
    let name: String = table.required("name", &remedy);
    let name_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    // A missing or unreadable name is empty, and already a problem.
    let written_empty = name.is_empty() && table.has("name");
    if written_empty || !name.chars().all(name_ok) {
        let article = if what.starts_with('i') { "an" } else { "a" };
        table.problem(table.place_of("name").problem(
            format!("`{name}` is not {article} {what}'s name"),
            "use lower-case letters, digits and `-`",
        ));
    }
    name
}

fn alpns(node: &Node<'_>) -> Option<Vec<String>> {
    let alpns = Vec::<String>::read(node)?;
    if node.elements().is_some_and(|elements| elements.is_empty()) {
        return node.refuse(
            "the list of ALPNs is empty",
            "remove the key to serve all of the plugin's ALPNs, or the stanza to serve none",
        );
    }
    for (alpn, element) in alpns.iter().zip(node.elements()?) {
        if alpn.is_empty() || alpn.len() > 255 || !alpn.bytes().all(|b| b.is_ascii_graphic()) {
            element.refuse::<()>(
                format!("`{alpn}` is not an ALPN"),
                "write 1 to 255 printable ASCII characters, such as `alknet/echo` or `h3`",
            );
        }
    }
    Some(alpns)
}

/// Names of operations, in which a leading slash is allowed and dropped.
fn operations(table: &Table<'_>, key: &'static str) -> Vec<String> {
    let Some(node) = table.node(key) else { return Vec::new() };
    let Some(elements) = node.elements() else {
        return node.refuse_type("a list", "[\"/echo/say\"]").unwrap_or_default();
    };
    let name = |element: &Node<'_>| {
        let text = String::read(element)?;
        let name = text.strip_prefix('/').unwrap_or(&text);
        // A peer's id is the operator's choice, and may hold what a name may not.
        let pinned = name.strip_prefix('@').filter(|_| key == "reach");
        let own = match pinned.map(|pinned| pinned.split_once('/')) {
            Some(Some((peer, own))) if !peer.is_empty() => own,
            Some(_) => "",
            None => name,
        };
        let segment_ok = |segment: &str| {
            let byte_ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
            !segment.is_empty() && segment.bytes().all(byte_ok)
        };
        if own.contains('/') && own.split('/').all(segment_ok) {
            return Some(name.to_owned());
        }
        element.refuse(
            format!("`{text}` is not an operation's name"),
            "write its full name, such as `/echo/say`; there are no patterns",
        )
    };
    elements.iter().filter_map(name).collect()
}

/// Where requests may go.
fn origins(node: &Node<'_>) -> Option<Vec<String>> {
    let origins = Vec::<String>::read(node)?;
    for (text, element) in origins.iter().zip(node.elements()?) {
        match origin(text) {
            Some(("http", host)) if !matches!(host, "127.0.0.1" | "[::1]" | "localhost") => element
                .refuse::<()>(
                    format!("anybody on the way to `{text}` could read the secret"),
                    "write `https://`; only this machine may be asked without",
                ),
            Some(_) => None,
            None => element.refuse(
                format!("`{text}` is not an origin"),
                "write scheme, host and port in lower case, as in `https://api.example.com` or \
                 `https://api.example.com:8443`",
            ),
        };
    }
    if !cfg!(feature = "imports") && !origins.is_empty() {
        return node.refuse(
            "requests for plugins are not built into this binary",
            "remove `outbound`, or build alknet with the feature `imports`",
        );
    }
    Some(origins)
}

/// The scheme and host of an origin, if it is spelled as URLs spell theirs, by which
/// they are compared.
fn origin(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let scheme_port = match scheme {
        "https" => "443",
        "http" => "80",
        _ => return None,
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (rest, None),
    };
    let port_ok = |port: &str| {
        let number = port.parse::<u16>();
        port != scheme_port && number.is_ok_and(|number| number.to_string() == port)
    };
    let host_ok = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(literal) => literal.parse::<Ipv6Addr>().is_ok_and(|ip| ip.to_string() == literal),
        None => {
            let letter =
                |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
            !host.is_empty() && host.bytes().all(letter)
        }
    };
    (host_ok && port.is_none_or(port_ok)).then_some((scheme, host))
}

fn isolation(table: &Table<'_>) -> Isolation {
    let chosen = table.node("isolation");
    let chosen = chosen.as_ref().and_then(|node| {
        choice(node, &[("none", Isolation::None), ("process", Isolation::Process)])
    });
    chosen.unwrap_or_default()
}

impl Read for Authority {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.table(|table| {
            let authority = Self {
                label: table.required("label", "name the authority: `label = \"notes-agent\"`"),
                scopes: table.or_default("scopes"),
                resources: table.or_default("resources"),
            };
            // Whoever may promote code could otherwise let code promote itself.
            if authority.scopes.iter().any(|scope| scope == "promote") {
                table.problem(table.place_of("scopes").problem(
                    "no plugin's authority may hold the scope `promote`",
                    "remove it; only a person's identity promotes operations",
                ));
            }
            authority
        })
    }
}

impl Read for CapabilityGrant {
    fn read(node: &Node<'_>) -> Option<Self> {
        const KINDS: [(&str, CapabilityKind); 6] = [
            ("bearer", CapabilityKind::Bearer),
            ("basic", CapabilityKind::Basic),
            ("header", CapabilityKind::Header),
            ("bytes", CapabilityKind::Bytes),
            ("sign", CapabilityKind::Sign),
            ("tls-identity", CapabilityKind::TlsIdentity),
        ];
        let grant = node.table(|table| {
            let kind = match table.node("kind") {
                Some(node) => choice(&node, &KINDS),
                None => {
                    table.problem(table.place().problem(
                        "`kind` is missing",
                        "say what the capability is used for, as in `kind = \"bearer\"`",
                    ));
                    None
                }
            };
            let (header, reveal) = (header(table, kind), table.or("reveal", false));
            let source = capability_source(table, kind);
            let operations = operations(table, "operations");
            // Bytes that nobody may see, or a key that somebody would.
            if kind.is_some_and(|kind| reveal != (kind == CapabilityKind::Bytes)) {
                table.problem(match reveal {
                    true => table.place_of("reveal").problem(
                        "only `bytes` can be revealed; the host uses the other kinds itself",
                        "remove `reveal`, or write `kind = \"bytes\"`",
                    ),
                    false => table.place_of("kind").problem(
                        "bytes are of no use to a plugin that may not see them",
                        "write `reveal = true` if it may, or another kind",
                    ),
                });
            }
            Some(Self {
                source: source?,
                kind: kind?,
                header,
                reveal,
                operations,
                place: table.place(),
            })
        });
        grant.flatten()
    }
}

fn capability_source(table: &Table<'_>, kind: Option<CapabilityKind>) -> Option<CapabilitySource> {
    let (entry, path) = (table.get("entry"), table.get::<String>("path"));
    let problem = match (table.has("entry"), table.has("path")) {
        (true, false) => return entry.map(CapabilitySource::Entry),
        (false, true) if kind.is_none_or(|kind| kind == CapabilityKind::Sign) => {
            return path.map(CapabilitySource::Path);
        }
        (false, true) => table
            .place_of("path")
            .problem("only keys that sign are derived", "name a vault entry: `entry = \"…\"`"),
        (true, true) => table
            .place_of("path")
            .problem("the secret is named twice", "keep `entry`, or `path` for a derived key"),
        (false, false) => {
            table.place().problem("`entry` is missing", "name the vault entry: `entry = \"…\"`")
        }
    };
    table.problem(problem);
    None
}

/// The name of a header, which only one kind takes.
fn header(table: &Table<'_>, kind: Option<CapabilityKind>) -> Option<String> {
    let node = table.node("header");
    let wanted = kind == Some(CapabilityKind::Header);
    let Some(node) = node else {
        if wanted {
            table.problem(table.place_of("kind").problem(
                "the header's name is missing",
                "name it, as in `header = \"X-Api-Key\"`; the vault entry holds its value",
            ));
        }
        return None;
    };
    let name = String::read(&node)?;
    // The characters of a token (RFC 9110, 5.6.2).
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(letter) {
        return node.refuse(
            format!("`{name}` is not a header's name"),
            "write a name such as `X-Api-Key`, without its value",
        );
    }
    if kind.is_some() && !wanted {
        return node.refuse("only the kind `header` has a header's name", "remove `header`");
    }
    Some(name)
}

impl Read for PluginLimits {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.table(|table| Self {
            memory: table.get::<Bytes>("memory").map(|bytes| bytes.0),
            cpu: table.get("cpu"),
            instances: table.get("instances"),
        })
    }
}
