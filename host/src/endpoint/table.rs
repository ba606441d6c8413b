//! The two tables of an endpoint: routes, frozen before the first accept, and
//! connections, which come and go.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use alknet_plugin_api::backend::ConnectionBackend;
use alknet_plugin_api::{DynHandler, Identity, Source};
use indexmap::IndexMap;
use parking_lot::{Mutex, RwLock};
use serde::Serialize;
use tokio::sync::watch;

use super::admission::Origin;
use super::close::CloseCode;
use crate::budget::Meter;

/// Who serves an ALPN.
#[derive(Clone)]
pub struct Route {
    /// The plugin's name in the deployment file.
    pub plugin: Arc<str>,
    /// Its code; `None` where the plugin is configured and does not run, in
    /// which case connections close with [`CloseCode::NotAvailable`].
    pub handler: Option<Arc<dyn DynHandler>>,
    /// Counts what the plugin uses, and holds it to its limits.
    pub meter: Option<Arc<Meter>>,
}

/// Two plugins want one ALPN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "ALPN `{alpn}` is claimed by plugin `{first}` and by plugin `{second}`; one connection has one \
     handler: narrow `alpn` in one of their stanzas, or remove one"
)]
pub struct DuplicateAlpn {
    /// The ALPN.
    pub alpn: String,
    /// The plugin that stands first in the file.
    pub first: String,
    /// The plugin that stands later.
    pub second: String,
}

/// ALPNs and their handlers, in the deployment file's order, which is the
/// server's order of preference.
#[derive(Clone, Default)]
pub struct RouteTable {
    routes: IndexMap<String, Route>,
}

impl RouteTable {
    /// A table without routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a route.
    ///
    /// # Errors
    /// [`DuplicateAlpn`]; the first route stays.
    pub fn add(
        &mut self,
        alpn: &str,
        plugin: &str,
        handler: Option<Arc<dyn DynHandler>>,
    ) -> Result<(), DuplicateAlpn> {
        if let Some(first) = self.routes.get(alpn) {
            return Err(DuplicateAlpn {
                alpn: alpn.to_owned(),
                first: first.plugin.to_string(),
                second: plugin.to_owned(),
            });
        }
        let route = Route { plugin: plugin.into(), handler, meter: None };
        self.routes.insert(alpn.to_owned(), route);
        Ok(())
    }

    /// Puts a route's connections on a plugin's account.
    pub fn meter(&mut self, alpn: &str, meter: Arc<Meter>) {
        if let Some(route) = self.routes.get_mut(alpn) {
            route.meter = Some(meter);
        }
    }

    /// The route of an ALPN.
    pub fn get(&self, alpn: &str) -> Option<&Route> {
        self.routes.get(alpn)
    }

    /// The ALPNs, in order of preference.
    pub fn alpns(&self) -> impl Iterator<Item = &str> {
        self.routes.keys().map(String::as_str)
    }
}

/// A connection in the node's status. Nothing in it decides access.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionRecord {
    /// The node's number for it.
    pub id: u64,
    /// What carries it.
    pub source: Source,
    /// The peer's address at the time of the handshake.
    pub address: Option<SocketAddr>,
    /// The fingerprint of the key or certificate that the peer has proven to hold.
    pub peer: Option<String>,
    /// The negotiated ALPN.
    pub alpn: String,
    /// The plugin that serves it.
    pub plugin: String,
    /// When it was dispatched, in milliseconds since the Unix epoch.
    pub since_unix_ms: u64,
    /// Smoothed round-trip time in microseconds.
    pub rtt_us: u64,
    /// Bytes sent, with the transport's own.
    pub bytes_sent: u64,
    /// Bytes received, with the transport's own.
    pub bytes_received: u64,
    /// Streams opened by either side, so far.
    pub streams: u64,
    /// The id that the handler has named with `set_identity`.
    pub identity: Option<String>,
}

pub(super) struct Entry {
    pub(super) backend: Arc<dyn ConnectionBackend>,
    pub(super) plugin: Arc<str>,
    pub(super) streams: Arc<AtomicU64>,
    pub(super) since: SystemTime,
    pub(super) origin: Option<Origin>,
    pub(super) peer: Arc<Peer>,
}

/// The peer that a connection's proven key stood for when it was last looked up.
#[derive(Default)]
pub(super) struct Peer(Mutex<Option<String>>);

impl Peer {
    /// Looks the peer up for the first time. The lock is held meanwhile, so that
    /// whoever changes the peers and then looks at every connection sees either
    /// what this found, or that it has not begun and will find the change.
    pub(super) fn meet(&self, resolve: impl FnOnce() -> Option<Identity>) -> Option<Identity> {
        let mut known = self.0.lock();
        let identity = resolve();
        *known = identity.as_ref().map(|identity| identity.id.clone());
        identity
    }

    /// Looks it up again. Whether it was somebody, and is not that any more.
    fn is_gone(&self, resolve: impl FnOnce() -> Option<Identity>) -> bool {
        let mut known = self.0.lock();
        let now = resolve().map(|identity| identity.id);
        let gone = known.is_some() && *known != now;
        *known = now;
        gone
    }
}

impl Entry {
    fn fingerprint(&self) -> Option<String> {
        self.backend.peer_fingerprint()
    }

    fn record(&self) -> ConnectionRecord {
        let info = self.backend.info();
        let stats = self.backend.stats();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        ConnectionRecord {
            id: info.id,
            source: info.source,
            address: info.remote_addr,
            peer: self.fingerprint(),
            alpn: info.alpn.clone(),
            plugin: self.plugin.to_string(),
            since_unix_ms: self.since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, millis),
            rtt_us: u64::try_from(stats.rtt.as_micros()).unwrap_or(u64::MAX),
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
            streams: self.streams.load(Ordering::Relaxed),
            identity: self.backend.identity().map(|identity| identity.id),
        }
    }
}

/// The connections that the node serves now.
#[derive(Default)]
pub struct ConnectionTable {
    entries: RwLock<IndexMap<u64, Entry>>,
    last_id: AtomicU64,
    count: watch::Sender<usize>,
}

impl ConnectionTable {
    /// A number for a connection, never given twice.
    pub(super) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn insert(&self, id: u64, entry: Entry) {
        let mut entries = self.entries.write();
        entries.insert(id, entry);
        self.count.send_replace(entries.len());
    }

    pub(super) fn remove(&self, id: u64) {
        let mut entries = self.entries.write();
        entries.swap_remove(&id);
        self.count.send_replace(entries.len());
    }

    /// How many there are, now and after every change.
    pub fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Whom a connection counts for.
    pub(super) fn origin(&self, id: u64) -> Option<Origin> {
        self.entries.read().get(&id)?.origin
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.read().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What status shows, by id.
    pub fn snapshot(&self) -> Vec<ConnectionRecord> {
        let mut records: Vec<_> = self.entries.read().values().map(Entry::record).collect();
        records.sort_unstable_by_key(|record| record.id);
        records
    }

    /// Closes the connections that `which` picks, and says how many.
    pub fn close_where(&self, code: CloseCode, which: impl Fn(&ConnectionRecord) -> bool) -> usize {
        self.close_entries(code, |entry| which(&entry.record()))
    }

    /// Looks every proven key up again, and closes with
    /// [`CloseCode::PeerRemoved`] what was a peer's connection and is not that
    /// peer's any more. Strangers stay strangers. Says how many it closed.
    pub(super) fn close_removed(&self, resolve: impl Fn(&str) -> Option<Identity>) -> usize {
        self.close_entries(CloseCode::PeerRemoved, |entry| {
            entry.peer.is_gone(|| entry.fingerprint().and_then(|known| resolve(&known)))
        })
    }

    fn close_entries(&self, code: CloseCode, which: impl Fn(&Entry) -> bool) -> usize {
        let picked: Vec<_> = {
            let entries = self.entries.read();
            let picked = entries.values().filter(|entry| which(entry));
            picked.map(|entry| entry.backend.clone()).collect()
        };
        for backend in &picked {
            backend.close(code.code(), code.text());
        }
        picked.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k01_a_duplicate_alpn_names_both_plugins() {
        let mut routes = RouteTable::new();
        routes.add("alknet/echo", "echo", None).unwrap();
        let error = routes.add("alknet/echo", "parrot", None).unwrap_err().to_string();
        for part in ["`alknet/echo`", "`echo`", "`parrot`"] {
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(&*routes.get("alknet/echo").unwrap().plugin, "echo");
    }

    #[test]
    fn k02_alpns_keep_the_files_order() {
        let mut routes = RouteTable::new();
        for alpn in ["z", "a", "m"] {
            routes.add(alpn, "p", None).unwrap();
        }
        assert_eq!(routes.alpns().collect::<Vec<_>>(), ["z", "a", "m"]);
    }
}
