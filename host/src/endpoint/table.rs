//! The frozen table of routes, and the table of live connections.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use alknet_plugin_api::{ConnectionStats, DynHandler, Identity, Source};
use parking_lot::Mutex;

use crate::observe::status::ConnectionStatus;

/// One ALPN's handler.
#[derive(Clone)]
pub struct Route {
    /// The ALPN.
    pub alpn: Arc<str>,
    /// The plugin's name in the deployment file.
    pub plugin: Arc<str>,
    /// The handler.
    pub handler: Arc<dyn DynHandler>,
}

/// Two plugins serve one ALPN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ALPN `{alpn}` is served by both `{first}` and `{second}`; leave it out of one's `alpn`")]
pub struct DuplicateAlpn {
    /// The ALPN.
    pub alpn: String,
    /// The plugin that comes first in the file.
    pub first: String,
    /// The other.
    pub second: String,
}

/// Which handler serves which ALPN. It never changes while the node runs.
#[derive(Clone, Default)]
pub struct RouteTable {
    routes: HashMap<Arc<str>, Route>,
    preference: Vec<String>,
}

impl RouteTable {
    /// A table of `routes`, whose order is the server's preference.
    ///
    /// # Errors
    /// The first ALPN that two plugins serve.
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Result<Self, DuplicateAlpn> {
        let mut table = Self::default();
        for route in routes {
            if let Some(first) = table.routes.get(&route.alpn) {
                return Err(DuplicateAlpn {
                    alpn: route.alpn.to_string(),
                    first: first.plugin.to_string(),
                    second: route.plugin.to_string(),
                });
            }
            table.preference.push(route.alpn.to_string());
            table.routes.insert(route.alpn.clone(), route);
        }
        Ok(table)
    }

    /// Every ALPN, the preferred one first.
    pub fn alpns(&self) -> &[String] {
        &self.preference
    }

    /// The handler of an ALPN.
    pub fn get(&self, alpn: &str) -> Option<&Route> {
        self.routes.get(alpn)
    }
}

/// What carries a connection, as far as the table asks.
pub(super) trait Carrier: Send + Sync {
    fn stats(&self) -> ConnectionStats;
}

/// A live connection's record.
pub(super) struct Record {
    pub(super) source: Source,
    pub(super) remote_addr: Option<SocketAddr>,
    pub(super) fingerprint: Option<String>,
    pub(super) alpn: Arc<str>,
    pub(super) plugin: Arc<str>,
    pub(super) since: Instant,
    /// As the endpoint resolved it, or as the handler set it.
    pub(super) identity: Arc<OnceLock<Identity>>,
    pub(super) carrier: Box<dyn Carrier>,
}

/// The live connections. Shown in status, never read for access.
#[derive(Default)]
pub struct ConnectionTable {
    next: AtomicU64,
    live: Mutex<BTreeMap<u64, Record>>,
}

impl ConnectionTable {
    /// A number for the next connection.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Enters a connection until the returned value is dropped.
    pub(super) fn enter(self: &Arc<Self>, id: u64, record: Record) -> Entered {
        self.live.lock().insert(id, record);
        Entered { table: self.clone(), id }
    }

    /// Live connections.
    pub fn len(&self) -> usize {
        self.live.lock().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The live connections, the oldest first.
    pub fn snapshot(&self) -> Vec<ConnectionStatus> {
        let live = self.live.lock();
        let status = |(id, record): (&u64, &Record)| {
            let stats = record.carrier.stats();
            let named = record.identity.get().map(|identity| identity.id.clone());
            ConnectionStatus {
                id: *id,
                source: record.source.to_string(),
                remote_addr: record.remote_addr,
                peer: named.or_else(|| record.fingerprint.clone()),
                alpn: record.alpn.to_string(),
                plugin: record.plugin.to_string(),
                age_seconds: record.since.elapsed().as_secs(),
                bytes_received: stats.bytes_received,
                bytes_sent: stats.bytes_sent,
                rtt_micros: stats.rtt.as_micros().try_into().unwrap_or(u64::MAX),
            }
        };
        live.iter().map(status).collect()
    }
}

/// A connection's entry; dropping it removes it.
pub(super) struct Entered {
    table: Arc<ConnectionTable>,
    id: u64,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.table.live.lock().remove(&self.id);
    }
}
