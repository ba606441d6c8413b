//! An `[[import]]` stanza: whose operations the node makes its own, and how.
//!
//! A stanza's `kind` decides which of its keys there are. Every kind has a name, a
//! prefix, a choice of operations and, where the source asks for one, a
//! credential of the vault.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use alknet_plugin_api::CapabilityKind;

use super::document::{Node, Read, Table};
use super::known_nodes::{Carrier, NodeAddress};
use super::plugin::{CapabilityGrant, stanza_name};
use super::problem::{Place, Places, Problem};
use super::values::{Bytes, choice};

/// First segments of names that the node itself uses.
const RESERVED: [&str; 3] = ["node", "services", "session"];

/// The largest answer over HTTP.
const MAX_RESPONSE: u64 = 8 << 20;
/// How long a source may take to say what it offers.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// One source of operations.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImportStanza {
    /// What the node calls it: lower-case letters, digits and `-`, unique among
    /// imports.
    pub name: String,
    /// What is imported.
    pub source: ImportSource,
    /// What its operations' names begin with, without a slash at the end. `None`
    /// for the default: `peer/<peer_id>` for a node, the import's name for others.
    pub prefix: Option<String>,
    /// Which operations: names as the source has them, or beginnings with a `*`.
    /// Empty for all.
    pub include: Vec<String>,
    /// Which of them not, in the same form.
    pub exclude: Vec<String>,
    /// Operations that the wire reaches, by the source's names for them.
    pub expose: Vec<String>,
    /// Whether the node refuses to start before it has them.
    pub required: bool,
    /// What whoever calls its operations must hold, besides what the source asks.
    pub scopes: Vec<String>,
    /// How long the source may take to be reached and to say what it offers.
    pub timeout: Duration,
    /// Bytes of the largest answer over HTTP, and of the largest event of a stream.
    /// Default 8 MiB.
    pub max_response: u64,
    /// The authorities of the service's certificate, a file in PEM; `None` means the
    /// system's.
    pub authority: Option<PathBuf>,
    /// What the source asks for.
    pub credential: Option<CapabilityGrant>,
    places: Places,
}

/// What is imported, and what that kind needs to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImportSource {
    /// The operations of another node.
    Call {
        /// Where it is, and its key.
        address: NodeAddress,
        /// Whether it is not told whom calls are made for.
        withhold_origin: bool,
    },
    /// The operations of an HTTP service, described by an OpenAPI document.
    OpenApi {
        /// The document, JSON or YAML.
        document: Document,
        /// Where the service is, in the place of what the document says.
        base_url: Option<String>,
    },
    /// One endpoint of an HTTP service.
    JsonSchema {
        /// The operation's spec, a JSON file.
        spec: PathBuf,
        /// Where the service is.
        url: String,
        /// The method of its requests.
        method: String,
        /// The path of its requests, with `{field}` for the input's fields.
        path: String,
    },
    /// The tools of an MCP server, over streamable HTTP.
    Mcp {
        /// Its endpoint.
        url: String,
    },
}

/// Where an OpenAPI document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// A file.
    File(PathBuf),
    /// An `http` or `https` URL.
    Url(String),
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Url(url) => f.write_str(url),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Call,
    OpenApi,
    JsonSchema,
    Mcp,
}

const KINDS: [(&str, Kind); 4] = [
    ("call", Kind::Call),
    ("openapi", Kind::OpenApi),
    ("json-schema", Kind::JsonSchema),
    ("mcp", Kind::Mcp),
];

impl Kind {
    /// Whether this binary can import it.
    fn is_built(self) -> bool {
        match self {
            Self::Call => cfg!(feature = "quinn"),
            Self::OpenApi | Self::JsonSchema | Self::Mcp => cfg!(feature = "imports"),
        }
    }
}

impl ImportSource {
    /// The word for it in the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Call { .. } => "call",
            Self::OpenApi { .. } => "openapi",
            Self::JsonSchema { .. } => "json-schema",
            Self::Mcp { .. } => "mcp",
        }
    }

    /// Where the operations come from, for people. It holds no secret.
    pub fn place(&self) -> String {
        match self {
            Self::Call { address, .. } => address.to_string(),
            Self::OpenApi { document, .. } => document.to_string(),
            Self::JsonSchema { url, path, .. } => format!("{url}{path}"),
            Self::Mcp { url } => url.clone(),
        }
    }
}

impl ImportStanza {
    /// Where the value of a key stands, or else the stanza itself.
    pub fn place(&self, key: &str) -> &Place {
        self.places.of(key)
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

/// The imports that are switched on. What a binary lacks is refused in those
/// alone; mistakes are, in all.
pub(super) fn imports(table: &Table<'_>) -> Vec<ImportStanza> {
    let stanzas: Vec<_> =
        table.tables::<Switched>("import").into_iter().filter_map(|stanza| stanza.0).collect();
    for (index, stanza) in stanzas.iter().enumerate() {
        let earlier = stanzas[..index].iter().find(|one| one.name == stanza.name);
        if let Some(first) = earlier.filter(|_| !stanza.name.is_empty()) {
            table.problem(stanza.problem(
                "name",
                format!("two imports are called `{}`", stanza.name),
                format!(
                    "rename one of them; the other stands in line {}",
                    first.places.table().line()
                ),
            ));
        }
    }
    stanzas
}

/// A stanza, unless it says `enabled = false` or cannot be read.
struct Switched(Option<ImportStanza>);

impl Read for Switched {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.table(|table| {
            let enabled = table.or("enabled", true);
            let stanza = read_stanza(table, enabled);
            Self(stanza.filter(|_| enabled))
        })
    }
}

fn read_stanza(table: &Table<'_>, enabled: bool) -> Option<ImportStanza> {
    let name = stanza_name(table, "import", "weather");
    let kind = match table.node("kind") {
        Some(node) => choice(&node, &KINDS),
        None => {
            let what = "`kind` is missing";
            let remedy = "say what is imported: `call`, `openapi`, `json-schema` or `mcp`";
            table.problem(table.place().problem(what, remedy));
            None
        }
    };
    if let Some(kind) = kind.filter(|kind| enabled && !kind.is_built()) {
        let word = KINDS.iter().find(|(_, other)| *other == kind).map_or("", |(word, _)| word);
        table.problem(table.place_of("kind").problem(
            format!("imports of kind `{word}` are not built into this binary"),
            "remove the stanza, or write `enabled = false` in it",
        ));
    }
    // The keys of a kind that is not known are not known either, and a mistake in
    // `kind` is no reason to call them wrong.
    let source = match kind {
        Some(kind) => read_source(table, kind),
        None => {
            for key in [
                "address",
                "withhold_origin",
                "document",
                "base_url",
                "spec",
                "url",
                "method",
                "path",
                "max_response",
                "authority",
            ] {
                table.node(key);
            }
            None
        }
    };
    let prefix = table.node("prefix").as_ref().and_then(prefix);
    let (include, exclude) = (names(table, "include", true), names(table, "exclude", true));
    let expose = names(table, "expose", false);
    let (required, timeout) = (table.or("required", false), timeout(table));
    let credential = credential(table, kind);
    let (max_response, authority) = match kind {
        Some(Kind::Call) | None => (MAX_RESPONSE, None),
        Some(_) => {
            let max_response = table.get::<Bytes>("max_response");
            (max_response.map_or(MAX_RESPONSE, |bytes| bytes.0), table.get("authority"))
        }
    };
    let scopes = table.or_default("scopes");
    Some(ImportStanza {
        name,
        source: source?,
        prefix,
        include,
        exclude,
        expose,
        required,
        scopes,
        timeout,
        max_response,
        authority,
        credential,
        places: table.places(),
    })
}

fn read_source(table: &Table<'_>, kind: Kind) -> Option<ImportSource> {
    match kind {
        Kind::Call => {
            let withhold_origin = table.or("withhold_origin", false);
            let example = "alknet://<key>@host:4433";
            let address = required(table, "address", example, node_address);
            Some(ImportSource::Call { address: address?, withhold_origin })
        }
        Kind::OpenApi => {
            let document = required(table, "document", "weather.yaml", document);
            let base_url = table.node("base_url").as_ref().and_then(http_url);
            Some(ImportSource::OpenApi { document: document?, base_url })
        }
        Kind::JsonSchema => {
            let spec = required(table, "spec", "forecast.json", PathBuf::read);
            let url = required(table, "url", "https://weather.example", http_url);
            let method = match table.node("method") {
                Some(node) => choice(&node, &METHODS),
                None => Some("POST"),
            };
            let path = required(table, "path", "/forecast/{city}", |node| {
                let path = String::read(node)?;
                if path.starts_with('/') && !path.contains(['?', '#', ' ']) {
                    return Some(path);
                }
                node.refuse(
                    format!("`{path}` is not a path"),
                    "begin it with `/`; what is no part of the path goes into the query or body",
                )
            });
            let (spec, url, method, path) = (spec?, url?, method?.to_owned(), path?);
            Some(ImportSource::JsonSchema { spec, url, method, path })
        }
        Kind::Mcp => {
            if table.has("command") {
                table.problem(table.place_of("command").problem(
                    "a server over standard input and output would run as a process of the \
                     node's, with its rights, outside every plugin's limits",
                    "start the server apart with streamable HTTP, and write its `url`",
                ));
            }
            let url = required(table, "url", "https://tools.example/mcp", http_url);
            Some(ImportSource::Mcp { url: url? })
        }
    }
}

const METHODS: [(&str, &str); 5] =
    [("GET", "GET"), ("POST", "POST"), ("PUT", "PUT"), ("PATCH", "PATCH"), ("DELETE", "DELETE")];

/// The value of a key that the kind cannot do without.
fn required<T>(
    table: &Table<'_>,
    key: &'static str,
    example: &str,
    read: impl FnOnce(&Node<'_>) -> Option<T>,
) -> Option<T> {
    match table.node(key) {
        Some(node) => read(&node),
        None => {
            let remedy = format!("write it as in `{key} = \"{example}\"`");
            table.problem(table.place().problem(format!("`{key}` is missing"), remedy));
            None
        }
    }
}

fn node_address(node: &Node<'_>) -> Option<NodeAddress> {
    let text = String::read(node)?;
    match text.parse::<NodeAddress>() {
        Ok(address) if address.key().is_none() || address.carrier != Carrier::Quic => node.refuse(
            format!("`{text}` does not name a node by its key, over QUIC"),
            "write `alknet://<key>@host:port`",
        ),
        Ok(address) => Some(address),
        Err(error) => node.refuse(format!("`{text}` is not a node's address"), error.to_string()),
    }
}

fn document(node: &Node<'_>) -> Option<Document> {
    let text = String::read(node)?;
    match text.contains("://") {
        true => http_url(node).map(Document::Url),
        false => PathBuf::read(node).map(Document::File),
    }
}

/// A URL of HTTP that names a host and shows no password.
fn http_url(node: &Node<'_>) -> Option<String> {
    let text = String::read(node)?;
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let authority = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    match authority {
        Some(authority) if authority.contains('@') => node.refuse_secret(
            "a user's name or password stands in this URL",
            "keep it in the vault, name its entry in `credential`, and replace the password",
        ),
        Some(authority) if !authority.is_empty() && !text.contains([' ', '#']) => Some(text),
        _ => node.refuse(
            format!("`{text}` is not a URL of HTTP"),
            "write `http://` or `https://`, the host and the path",
        ),
    }
}

fn segment_ok(segment: &str) -> bool {
    let byte_ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    !segment.is_empty() && segment.bytes().all(byte_ok)
}

fn prefix(node: &Node<'_>) -> Option<String> {
    let text = String::read(node)?;
    let prefix = text.trim_matches('/');
    if !prefix.split('/').all(segment_ok) {
        return node.refuse(
            format!("`{text}` is not the beginning of an operation's name"),
            "write letters, digits, `.`, `_` and `-`, in parts with `/` between them",
        );
    }
    let first = prefix.split('/').next().unwrap_or_default();
    if RESERVED.contains(&first) {
        return node.refuse(
            format!("names that begin with `{first}/` are the node's own"),
            "choose another prefix",
        );
    }
    Some(prefix.to_owned())
}

/// Names of operations as their source has them, in which a leading slash is
/// allowed and dropped.
fn names(table: &Table<'_>, key: &'static str, patterns: bool) -> Vec<String> {
    let Some(node) = table.node(key) else { return Vec::new() };
    let Some(elements) = node.elements() else {
        return node.refuse_type("a list", "[\"forecast\"]").unwrap_or_default();
    };
    let name = |element: &Node<'_>| {
        let text = String::read(element)?;
        let name = text.strip_prefix('/').unwrap_or(&text);
        let plain = match name.strip_suffix('*') {
            Some(rest) if patterns => rest.strip_suffix('/').unwrap_or(rest),
            _ => name,
        };
        let nothing_before_the_star = plain.is_empty() && patterns && name == "*";
        if nothing_before_the_star || plain.split('/').all(segment_ok) {
            return Some(name.to_owned());
        }
        let remedy = match patterns {
            true => "write a name as the source has it, or its beginning and a `*`",
            false => "write a name as the source has it; each is exposed by its own name",
        };
        element.refuse(format!("`{text}` is not an operation's name"), remedy)
    };
    elements.iter().filter_map(name).collect()
}

fn timeout(table: &Table<'_>) -> Duration {
    let timeout = table.or("timeout", DEFAULT_TIMEOUT);
    if timeout.is_zero() {
        table.problem(table.place_of("timeout").problem(
            "a source that may take no time is never heard",
            format!("remove the key for the default of {DEFAULT_TIMEOUT:?}"),
        ));
    }
    timeout
}

fn credential(table: &Table<'_>, kind: Option<Kind>) -> Option<CapabilityGrant> {
    let grant = table.get::<CapabilityGrant>("credential")?;
    let fits = match kind {
        Some(Kind::Call) => grant.kind == CapabilityKind::Bearer,
        _ => matches!(
            grant.kind,
            CapabilityKind::Bearer | CapabilityKind::Basic | CapabilityKind::Header
        ),
    };
    if !fits {
        table.problem(table.place_of("credential").problem(
            "requests to this source cannot carry such a credential",
            match kind {
                Some(Kind::Call) => "write `kind = \"bearer\"`: a node takes a token",
                _ => "write `kind = \"bearer\"`, \"basic\" or \"header\"",
            },
        ));
    }
    Some(grant)
}
