//! `[endpoint.tcp]`: TLS over TCP.

use std::net::SocketAddr;
use std::time::Duration;

use super::document::Table;
use super::node::positive;
use super::problem::Place;

/// The TCP listener and the limits of its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tcp {
    /// The TCP addresses to listen on; at least one.
    pub listen: Vec<SocketAddr>,
    /// The ALPNs that are served over TCP, too; `None` means every one that
    /// needs no QUIC.
    pub alpn: Option<Vec<String>>,
    /// How long a handshake may take. Default 5 s.
    pub handshake_timeout: Duration,
    /// After how long without an answer from its system a peer counts as gone.
    /// Default 30 s.
    pub idle_timeout: Duration,
    /// Silence after which the peer's system is asked. Default 10 s.
    pub keep_alive: Duration,
    alpn_place: Place,
}

impl Tcp {
    /// Where the ALPNs are named, or else the section.
    pub fn alpn_place(&self) -> &Place {
        &self.alpn_place
    }
}

pub(super) fn read(table: &Table<'_>) -> Tcp {
    let tcp = Tcp {
        listen: table.required("listen", "say where to listen: `listen = [\"0.0.0.0:443\"]`"),
        alpn: table.get("alpn"),
        handshake_timeout: positive(table, "handshake_timeout", Duration::from_secs(5)),
        idle_timeout: positive(table, "idle_timeout", Duration::from_secs(30)),
        keep_alive: positive(table, "keep_alive", Duration::from_secs(10)),
        alpn_place: table.place_of("alpn"),
    };
    for (key, remedy) in [
        ("listen", "write an address to listen on: `listen = [\"0.0.0.0:443\"]`"),
        ("alpn", "remove the key for every ALPN that needs no QUIC, or the section for none"),
    ] {
        let elements = table.node(key).and_then(|node| node.elements());
        if elements.is_some_and(|elements| elements.is_empty()) {
            table.problem(table.place_of(key).problem(format!("`{key}` is empty"), remedy));
        }
    }
    if tcp.keep_alive >= tcp.idle_timeout {
        table.problem(table.place_of("keep_alive").problem(
            "peers would count as gone before they are asked",
            "make `keep_alive` shorter than `idle_timeout`, at most a third of it",
        ));
    }
    tcp
}
