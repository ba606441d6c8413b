//! `access.toml`: who may do what, and how much. Read again on every reload.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::auth::{ApiKeyEntry, PeerEntry, Policy};

use super::document::{Node, Read, Table, read_document};
use super::node::{NodeLimits, log_filter, read_text};
use super::problem::{Place, Places, Problem, Problems};
use super::values::{Timestamp, lower_hex};

/// A valid `access.toml`.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct AccessConfig {
    /// The peers that the node knows, in the file's order.
    pub peers: Vec<PeerEntry>,
    /// The API keys it takes, in the file's order.
    pub api_keys: Vec<ApiKeyEntry>,
    /// What is admitted.
    pub limits: AccessLimits,
    /// A log filter in place of the one in `node.toml`.
    pub log: Option<String>,
    limit_places: Places,
    entry_places: EntryPlaces,
}

/// Where the entries of `access.toml` stand, by `peer_id` or prefix.
#[derive(Clone, Debug, Default)]
pub struct EntryPlaces(BTreeMap<String, Places>);

impl EntryPlaces {
    /// Where the value of `key` of the entry `id` stands, or else the entry.
    pub fn place(&self, id: &str, key: &str) -> Option<&Place> {
        self.0.get(id).map(|entry| entry.of(key))
    }

    fn note<T>(&mut self, id: &str, at: &At<T>) {
        self.0.insert(id.to_owned(), at.places.clone());
    }
}

/// What is admitted. A prefix is an IPv4 address or an IPv6 /64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AccessLimits {
    /// Connections at the same time. Default 10,000.
    pub connections: u32,
    /// Connections at the same time from a prefix. Default 100.
    pub connections_per_prefix: u32,
    /// New connections a second from a prefix. Default 20.
    pub new_per_second: u32,
    /// New connections from a prefix at once. Default 50.
    pub new_burst: u32,
    /// Failed authentications a minute from a prefix. Default 5.
    pub failures_per_minute: u32,
    /// For how long a prefix with too many failures is refused. Default 1 minute.
    pub refusal: Duration,
    /// Unfinished handshakes over which clients must prove their address. Default 512.
    pub half_open_retry: u32,
    /// Unfinished handshakes over which new ones are refused. Default 2,048.
    pub half_open_refuse: u32,
    /// How long a handshake may take, in place of what the endpoints' sections say.
    /// This and the next three hold for new connections.
    pub handshake_timeout: Option<Duration>,
    /// Time without a packet after which a connection is lost.
    pub idle_timeout: Option<Duration>,
    /// Bidirectional streams that a peer may have open on a connection.
    pub bidirectional_streams: Option<u32>,
    /// Unidirectional ones.
    pub unidirectional_streams: Option<u32>,
    /// Calls of an identity, over all its connections. Without limit by default.
    pub calls: Option<CallRate>,
    /// Calls for each end user that a forwarding identity names, within what that
    /// identity may call itself. Without limit by default.
    pub origin_calls: Option<CallRate>,
    /// Calls of an identity in flight, over all its connections. Without limit by
    /// default.
    pub calls_per_identity: Option<u32>,
}

/// How often an identity may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CallRate {
    /// Calls a second in the long run; at least 1.
    pub per_second: u32,
    /// Calls at once; at least 1. Default as many as in a second.
    pub burst: u32,
}

impl Default for AccessLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_prefix: 100,
            new_per_second: 20,
            new_burst: 50,
            failures_per_minute: 5,
            refusal: Duration::from_secs(60),
            half_open_retry: 512,
            half_open_refuse: 2_048,
            handshake_timeout: None,
            idle_timeout: None,
            bidirectional_streams: None,
            unidirectional_streams: None,
            calls: None,
            origin_calls: None,
            calls_per_identity: None,
        }
    }
}

impl AccessConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// Everything that is wrong with it, also that there is none.
    pub fn load(file: &Path) -> Result<Self, Problems> {
        Self::parse(file, &Self::read_text(file)?)
    }

    /// The text of a file.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn read_text(file: &Path) -> Result<String, Problems> {
        read_text(file, "create it; an empty file lets only strangers in")
    }

    /// Reads the text of a file, whose path stands in messages.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Problems> {
        read_document(file, text, Self::read)
    }

    pub(super) fn read(table: &Table<'_>) -> Self {
        let peers: Vec<At<PeerEntry>> = table.tables("peer");
        let api_keys: Vec<At<ApiKeyEntry>> = table.tables("api_key");
        refuse_duplicates(table, &peers, &api_keys);
        let log =
            table.node("log").and_then(|node| node.table(|table| log_filter(table, "filter")));
        let limits: At<AccessLimits> = table.or_default("limits");
        let mut entry_places = EntryPlaces::default();
        for peer in &peers {
            entry_places.note(&peer.value.peer_id, peer);
        }
        for key in &api_keys {
            entry_places.note(&key.value.prefix, key);
        }
        Self {
            peers: peers.into_iter().map(|peer| peer.value).collect(),
            api_keys: api_keys.into_iter().map(|key| key.value).collect(),
            limits: limits.value,
            log: log.flatten(),
            limit_places: limits.places,
            entry_places,
        }
    }

    /// The peers and keys of `file`, made ready for looking them up.
    ///
    /// # Errors
    /// What is wrong with the entries; nothing that [`parse`](Self::parse) lets
    /// through.
    pub fn policy(&self, file: &Path) -> Result<Policy, Problems> {
        Policy::new(self.peers.clone(), self.api_keys.clone()).map_err(|errors| {
            let whole = Place::file_only(file);
            errors
                .iter()
                .map(|error| whole.problem(error.to_string(), "correct the entries in this file"))
                .collect()
        })
    }

    /// Where its entries stand.
    pub fn entry_places(&self) -> &EntryPlaces {
        &self.entry_places
    }

    /// What the file asks for beyond the node's own ceilings, which a reload
    /// cannot raise.
    pub fn over(&self, ceilings: &NodeLimits) -> Problems {
        let mut problems = Problems::new();
        let (asked, ceiling) = (self.limits.connections, ceilings.connections);
        if let Some(place) = self.limit_places.key("connections").filter(|_| asked > ceiling) {
            problems.push(place.problem(
                format!("{asked} connections are over the node's ceiling of {ceiling}"),
                "write less here, or raise `connections` in node.toml's `[limits]` and restart",
            ));
        }
        problems
    }

    /// The limits in force under the node's ceilings: a default that the file
    /// does not name gives way to a lower ceiling.
    pub fn limits_under(&self, ceilings: &NodeLimits) -> AccessLimits {
        let connections = self.limits.connections.min(ceilings.connections);
        AccessLimits { connections, ..self.limits.clone() }
    }
}

/// An entry with the places of its keys.
#[derive(Default)]
struct At<T> {
    value: T,
    places: Places,
}

impl<T> At<T> {
    fn new(table: &Table<'_>, value: T) -> Self {
        Self { value, places: table.places() }
    }

    fn place(&self, key: &str) -> &Place {
        self.places.of(key)
    }
}

impl Read for At<PeerEntry> {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.table(|table| {
            let peer = PeerEntry {
                peer_id: table.required("peer_id", "give the peer a name: `peer_id = \"ada\"`"),
                fingerprints: texts(table, "fingerprints", fingerprint),
                auth_token_hash: table.node("auth_token_hash").as_ref().and_then(token_hash),
                scopes: table.or_default("scopes"),
                resources: table.or_default("resources"),
                display_name: table.get("display_name"),
                enabled: table.or("enabled", true),
            };
            if peer.peer_id.is_empty() && table.has("peer_id") {
                table.problem(table.place_of("peer_id").problem(
                    "the peer's name is empty",
                    "give the peer a name: `peer_id = \"ada\"`",
                ));
            }
            if peer.peer_id.starts_with("alk_") {
                table.problem(table.place_of("peer_id").problem(
                    format!("`{}` begins as API keys do", peer.peer_id),
                    "choose a `peer_id` that does not begin with `alk_`",
                ));
            }
            if !table.has("fingerprints") && !table.has("auth_token_hash") {
                table.problem(table.place().problem(
                    format!("peer `{}` has neither a key nor a token", peer.peer_id),
                    "add `fingerprints = [\"ed25519:…\"]` or `auth_token_hash = \"sha256:…\"`",
                ));
            }
            Self::new(table, peer)
        })
    }
}

impl Read for At<ApiKeyEntry> {
    fn read(node: &Node<'_>) -> Option<Self> {
        node.table(|table| {
            let prefix: String = table.required("prefix", "write the token's first 8 characters");
            let prefix_ok = prefix.len() == 8 && prefix.is_ascii() && prefix.starts_with("alk_");
            if !prefix_ok && !prefix.is_empty() {
                table.problem(table.place_of("prefix").problem(
                    format!("`{prefix}` is not a token's prefix"),
                    "write the token's first 8 characters, which begin with `alk_`",
                ));
            }
            if !table.has("hash") {
                table.problem(table.place().problem(
                    "`hash` is missing",
                    "write the token's hash: `sha256:` and 64 hexadecimal digits",
                ));
            }
            let key = ApiKeyEntry {
                prefix,
                hash: table.node("hash").as_ref().and_then(token_hash).unwrap_or_default(),
                scopes: table.or_default("scopes"),
                description: table.or_default("description"),
                expires_at: table.get::<Timestamp>("expires_at").map(|timestamp| timestamp.0),
            };
            Self::new(table, key)
        })
    }
}

impl Read for At<AccessLimits> {
    fn read(node: &Node<'_>) -> Option<Self> {
        let default = AccessLimits::default();
        node.table(|table| {
            let limits = AccessLimits {
                connections: table.or("connections", default.connections),
                connections_per_prefix: table
                    .or("connections_per_prefix", default.connections_per_prefix),
                new_per_second: table.or("new_per_second", default.new_per_second),
                new_burst: table.or("new_burst", default.new_burst),
                failures_per_minute: table.or("failures_per_minute", default.failures_per_minute),
                refusal: table.or("refusal", default.refusal),
                half_open_retry: table.or("half_open_retry", default.half_open_retry),
                half_open_refuse: table.or("half_open_refuse", default.half_open_refuse),
                handshake_timeout: time(table, "handshake_timeout"),
                idle_timeout: time(table, "idle_timeout"),
                bidirectional_streams: table.get("bidirectional_streams"),
                unidirectional_streams: table.get("unidirectional_streams"),
                calls: call_rate(table, "calls_per_second", "calls_burst"),
                origin_calls: call_rate(table, "origin_calls_per_second", "origin_calls_burst"),
                calls_per_identity: table.get("calls_per_identity"),
            };
            for (key, limit) in [
                ("connections", limits.connections),
                ("connections_per_prefix", limits.connections_per_prefix),
                ("new_per_second", limits.new_per_second),
                ("new_burst", limits.new_burst),
                ("half_open_refuse", limits.half_open_refuse),
                ("bidirectional_streams", limits.bidirectional_streams.unwrap_or(1)),
                ("calls_per_identity", limits.calls_per_identity.unwrap_or(1)),
            ] {
                if limit == 0 {
                    table.problem(table.place_of(key).problem(
                        format!("`{key} = 0` lets nobody in"),
                        "write 1 or more, or remove the key for the default",
                    ));
                }
            }
            if limits.half_open_retry > limits.half_open_refuse {
                table.problem(table.place_of("half_open_retry").problem(
                    "handshakes would be refused before clients are asked to prove their address",
                    "make `half_open_retry` at most `half_open_refuse`",
                ));
            }
            Self::new(table, limits)
        })
    }
}

/// A limit in place of one in node.toml.
fn time(table: &Table<'_>, key: &'static str) -> Option<Duration> {
    let time = table.get::<Duration>(key)?;
    if time.is_zero() {
        table.problem(table.place_of(key).problem(
            "a limit of no time lets nothing through",
            "remove the key for what node.toml says",
        ));
    }
    Some(time)
}

/// A rate by its two keys, of which the second means nothing alone.
fn call_rate(
    table: &Table<'_>,
    per_second_key: &'static str,
    burst_key: &'static str,
) -> Option<CallRate> {
    let per_second: Option<u32> = table.get(per_second_key);
    let burst: Option<u32> = table.get(burst_key);
    for (key, limit) in [(per_second_key, per_second), (burst_key, burst)] {
        if limit == Some(0) {
            table.problem(table.place_of(key).problem(
                format!("`{key} = 0` lets nobody call anything"),
                "write 1 or more, or remove the key for no limit",
            ));
        }
    }
    if burst.is_some() && !table.has(per_second_key) {
        table.problem(table.place_of(burst_key).problem(
            format!("`{burst_key}` limits nothing by itself"),
            format!("write `{per_second_key}` too, or remove it"),
        ));
    }
    let per_second = per_second?;
    Some(CallRate { per_second, burst: burst.unwrap_or(per_second) })
}

/// A list of strings of a certain form.
fn texts(
    table: &Table<'_>,
    key: &'static str,
    read: impl Fn(&Node<'_>) -> Option<String>,
) -> Vec<String> {
    let Some(node) = table.node(key) else { return Vec::new() };
    match node.elements() {
        Some(elements) => elements.iter().filter_map(read).collect(),
        None => node.refuse_type("a list", "[\"…\"]").unwrap_or_default(),
    }
}

/// Whether a text names a key: `ed25519:`, or `SHA256:` for a certificate, and 64
/// lower-case hexadecimal digits.
pub fn is_fingerprint(text: &str) -> bool {
    let digits = text.strip_prefix("ed25519:").or_else(|| text.strip_prefix("SHA256:"));
    digits.and_then(lower_hex::<32>).is_some()
}

fn fingerprint(node: &Node<'_>) -> Option<String> {
    let text = String::read(node)?;
    match is_fingerprint(&text) {
        true => Some(text),
        false => node.refuse(
            format!("`{text}` is not a fingerprint"),
            "write `ed25519:` (a raw key) or `SHA256:` (a certificate) and 64 lower-case \
             hexadecimal digits",
        ),
    }
}

fn token_hash(node: &Node<'_>) -> Option<String> {
    let text = String::read(node)?;
    match text.strip_prefix("sha256:").and_then(lower_hex::<32>) {
        Some(_) => Some(text),
        // What stands here may be the token itself.
        None => node.refuse_secret(
            "this is not the hash of a token",
            "write `sha256:` and the 64 lower-case hexadecimal digits of the whole token's SHA-256",
        ),
    }
}

/// Names, keys and tokens each belong to one entry, or who a caller is would
/// depend on the order of the file.
fn refuse_duplicates(table: &Table<'_>, peers: &[At<PeerEntry>], api_keys: &[At<ApiKeyEntry>]) {
    let mut seen: BTreeMap<(&str, &str), &Place> = BTreeMap::new();
    let mut note = |kind: &'static str, value, place| -> Option<Problem> {
        let first = seen.insert((kind, value), place)?;
        Some(place.problem(
            format!("{kind} `{value}` stands twice"),
            format!("remove one; the other stands in line {}", first.line()),
        ))
    };
    let mut problems = Vec::new();
    for peer in peers.iter().filter(|peer| !peer.value.peer_id.is_empty()) {
        problems.extend(note("peer_id", &peer.value.peer_id, peer.place("peer_id")));
        for fingerprint in &peer.value.fingerprints {
            problems.extend(note("fingerprint", fingerprint, peer.place("fingerprints")));
        }
        if let Some(hash) = &peer.value.auth_token_hash {
            problems.extend(note("token hash", hash, peer.place("auth_token_hash")));
        }
    }
    for key in api_keys.iter().filter(|key| !key.value.prefix.is_empty()) {
        problems.extend(note("prefix", &key.value.prefix, key.place("prefix")));
        if !key.value.hash.is_empty() {
            problems.extend(note("token hash", &key.value.hash, key.place("hash")));
        }
    }
    for problem in problems {
        table.problem(problem);
    }
}
