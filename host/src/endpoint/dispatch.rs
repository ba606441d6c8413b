//! From a proven connection to its handler, whatever carried it.
//!
//! Every source ends here: quinn, iroh, and further transports behind the same
//! traits. A handler runs in a task of its own, and whatever becomes of it, an
//! error, a panic, a trap or the end of the drain time, becomes one close code
//! and costs that connection alone.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant, SystemTime};

use alknet_plugin_api::backend::ConnectionBackend;
use alknet_plugin_api::{AuthContext, Connection, Identity};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use super::admission::{Admission, Handshake, Origin, Refusal, Stay, Turned};
use super::close::CloseCode;
use super::config::ConnectionLimits;
use super::delivery::Deliveries;
use super::drain::Drain;
use super::table::{ConnectionTable, Entry, Peer, Route, RouteTable};
use crate::budget::{Metered, Resource, Timed};

/// How long a handler may go on after its connection has ended, to put its
/// things in order, before it is dropped.
const AFTERWARDS: Duration = Duration::from_secs(5);

/// How long a connection whose handler is done may wait for its peer to confirm
/// what the handler had finished.
const DELIVERY: Duration = Duration::from_secs(1);

/// Knows which identity a proven key belongs to.
pub trait PeerResolver: Send + Sync + 'static {
    /// The identity behind a fingerprint; `None` for strangers and for peers
    /// that are disabled.
    fn resolve_fingerprint(&self, fingerprint: &str) -> Option<Identity>;
}

/// A connection that a source has taken through its handshake.
pub struct Arrival {
    /// The transport. Its info names the ALPN, the proven key and the address.
    pub connection: Arc<dyn ConnectionBackend>,
    /// Whom it counts for; `None` is not limited.
    pub origin: Option<Origin>,
    /// Streams opened on it so far; the source counts.
    pub streams: Arc<AtomicU64>,
    /// Finished streams that may not have arrived yet; the source keeps them.
    pub deliveries: Arc<Deliveries>,
}

/// What all sources of one node share.
pub struct Dispatcher {
    routes: RouteTable,
    resolver: Arc<dyn PeerResolver>,
    pub(super) table: ConnectionTable,
    pub(super) admission: Mutex<Admission>,
    limits: Mutex<ConnectionLimits>,
    started: Instant,
    draining: watch::Sender<bool>,
    closing: CancellationToken,
    handlers: TaskTracker,
}

impl Dispatcher {
    pub(super) fn new(
        routes: RouteTable,
        resolver: Arc<dyn PeerResolver>,
        admission: Admission,
    ) -> Self {
        Self {
            routes,
            resolver,
            table: ConnectionTable::default(),
            admission: Mutex::new(admission),
            limits: Mutex::default(),
            started: Instant::now(),
            draining: watch::Sender::new(false),
            closing: CancellationToken::new(),
            handlers: TaskTracker::new(),
        }
    }

    /// Monotonic time since the node began.
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// What takes the place of the sources' own limits now.
    pub(super) fn limits(&self) -> ConnectionLimits {
        *self.limits.lock()
    }

    pub(super) fn set_limits(&self, limits: ConnectionLimits) {
        *self.limits.lock() = limits;
    }

    /// The ALPNs served, in order of preference.
    #[cfg(feature = "iroh")]
    pub(super) fn alpns(&self) -> impl Iterator<Item = &str> {
        self.routes.alpns()
    }

    /// A new connection's number.
    pub fn next_id(&self) -> u64 {
        self.table.next_id()
    }

    /// What a new connection follows to learn of the shutdown.
    pub fn drain(&self) -> Drain {
        Drain::following(&self.draining)
    }

    /// Whether new connections are to be refused.
    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Cancelled when everything must close.
    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Refuses what comes and tells every handler to finish.
    pub(super) fn begin_drain(&self) {
        self.draining.send_replace(true);
        self.handlers.close();
    }

    /// Resolves when no handler runs.
    pub(super) async fn idle(&self) {
        self.handlers.wait().await;
    }

    /// Somebody knocks at a source. `validated` says whether the source knows
    /// that the sender is where it claims to be; TCP always does.
    ///
    /// # Errors
    /// What the source has to do instead of a handshake. It is counted already.
    pub fn knock(self: &Arc<Self>, origin: Origin, validated: bool) -> Result<HalfOpen, Turned> {
        let knocked = self.admission.lock().knock(self.now(), origin, validated);
        match &knocked {
            Ok(_) => {}
            Err(Turned::Retry) => metrics::counter!("alknet_retries_sent_total").increment(1),
            Err(Turned::Refused(refusal)) => refused(*refusal),
        }
        knocked.map(|handshake| HalfOpen { node: self.clone(), handshake: Some(handshake) })
    }

    /// Counts a handshake that came to nothing.
    pub fn handshake_failed(&self, reason: &str) {
        metrics::counter!("alknet_handshakes_failed_total").increment(1);
        tracing::debug!(reason, "handshake failed");
    }

    /// Hands a connection to its handler, in a task on the current runtime.
    ///
    /// A connection that arrives while the node drains is closed.
    pub fn dispatch(self: &Arc<Self>, arrival: Arrival) {
        let Arrival { connection, origin, streams, deliveries } = arrival;
        if self.is_draining() {
            return close(&*connection, CloseCode::ShuttingDown);
        }
        let stay = match origin.map(|origin| self.admission.lock().stay(self.now(), origin)) {
            Some(Err(refusal)) => {
                refused(refusal);
                return close(&*connection, CloseCode::RateLimited);
            }
            Some(Ok(stay)) => Some(stay),
            None => None,
        };
        let place = Place { node: self.clone(), stay };
        let node = self.clone();
        let span = tracing::info_span!(
            "connection",
            id = connection.info().id,
            source = %connection.info().source,
            alpn = %connection.info().alpn,
            plugin = tracing::field::Empty,
        );
        let arrival = Arrival { connection, origin, streams, deliveries };
        let task = async move { node.serve(arrival, place).await };
        self.handlers.spawn(task.instrument(span));
    }

    async fn serve(self: &Arc<Self>, arrival: Arrival, place: Place) {
        let Arrival { connection, origin, streams, deliveries } = arrival;
        let info = connection.info().clone();
        let Some(Route { plugin, handler: Some(handler), meter }) =
            self.routes.get(&info.alpn).cloned()
        else {
            tracing::warn!("no plugin runs for this ALPN");
            return close(&*connection, CloseCode::NotAvailable);
        };
        tracing::Span::current().record("plugin", &*plugin);
        // Kept to the handler's end.
        let Ok(_seat) = meter.as_ref().map(|meter| meter.enter(Resource::Connections)).transpose()
        else {
            metrics::counter!("alknet_connections_refused_total", "limit" => "plugin").increment(1);
            return close(&*connection, CloseCode::RateLimited);
        };
        let peer = Arc::<Peer>::default();
        let entry = Entry {
            backend: connection.clone(),
            plugin: plugin.clone(),
            streams,
            since: SystemTime::now(),
            origin,
            peer: peer.clone(),
        };
        let present = Present::enter(self, info.id, entry, place);
        let fingerprint = connection.peer_fingerprint();
        let identity =
            peer.meet(|| fingerprint.as_deref().and_then(|f| self.resolver.resolve_fingerprint(f)));
        let auth = AuthContext::new(
            identity,
            info.alpn.clone(),
            info.remote_addr,
            fingerprint,
            info.source,
        );
        tracing::debug!(peer = auth.peer_fingerprint(), "connection opened");

        let handle = Connection::new(match &meter {
            Some(meter) => {
                Arc::new(Metered::new(connection.clone(), meter.clone(), Handle::current()))
            }
            None => connection.clone(),
        });
        // The call itself may panic, so it stands inside what is caught.
        let handling = async move { handler.handle(handle, auth).await }.boxed();
        let mut handling = match meter {
            Some(meter) => Timed::new(meter, handling).boxed(),
            None => handling,
        };
        let run = async {
            let result = AssertUnwindSafe(&mut handling).catch_unwind().await;
            let code = self.outcome(&plugin, result);
            if code == CloseCode::Done {
                tokio::select! {
                    () = deliveries.done() => {}
                    () = tokio::time::sleep(DELIVERY) => {}
                    () = self.closing.cancelled() => {}
                }
            }
            code
        };
        let closed = connection.closed();
        let lost = async move {
            closed.await;
            // The peer is gone, whatever its handler still has to do.
            drop(present);
            tokio::time::sleep(AFTERWARDS).await;
        };
        let code = tokio::select! {
            biased;
            code = run => code,
            () = self.closing.cancelled() => CloseCode::ShuttingDown,
            () = lost => {
                tracing::debug!("handler dropped, its connection is long gone");
                CloseCode::Done
            }
        };
        // A handler that is dropped runs its destructors, which may panic too.
        let dropped = std::panic::catch_unwind(AssertUnwindSafe(move || drop(handling)));
        let code = match dropped {
            Ok(()) => code,
            Err(panic) => self.outcome(&plugin, Err(panic)),
        };
        close(&*connection, code);
        metrics::counter!(
            "alknet_connections_total",
            "alpn" => info.alpn, "plugin" => plugin.to_string(), "outcome" => code.text(),
        )
        .increment(1);
        tracing::debug!(outcome = code.text(), "connection closed");
    }

    /// Looks every connection's proven key up again; see
    /// [`Endpoint::close_removed`](super::Endpoint::close_removed).
    pub fn close_removed(&self) -> usize {
        self.table.close_removed(|fingerprint| self.resolver.resolve_fingerprint(fingerprint))
    }

    fn outcome(
        &self,
        plugin: &str,
        result: std::thread::Result<Result<(), alknet_plugin_api::HandlerError>>,
    ) -> CloseCode {
        let code = match &result {
            Ok(result) => CloseCode::of(result),
            Err(_) => CloseCode::Crashed,
        };
        match result {
            Ok(Ok(())) | Ok(Err(alknet_plugin_api::HandlerError::ConnectionClosed)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "handler failed"),
            Err(panic) => tracing::error!(panic = panic_text(&*panic), "handler panicked"),
        }
        if code == CloseCode::Crashed {
            metrics::counter!("alknet_handler_panics_total", "plugin" => plugin.to_owned())
                .increment(1);
        }
        code
    }
}

/// A handshake's place among those under way, given back when dropped.
pub struct HalfOpen {
    node: Arc<Dispatcher>,
    handshake: Option<Handshake>,
}

impl Drop for HalfOpen {
    fn drop(&mut self) {
        if let Some(handshake) = self.handshake.take() {
            self.node.admission.lock().handshake_over(self.node.now(), handshake);
        }
    }
}

fn refused(refusal: Refusal) {
    metrics::counter!("alknet_connections_refused_total", "limit" => refusal.text()).increment(1);
}

/// A connection's place within the admission limits, given back when dropped.
struct Place {
    node: Arc<Dispatcher>,
    stay: Option<Stay>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(stay) = self.stay.take() {
            self.node.admission.lock().leave(self.node.now(), stay);
        }
    }
}

/// A connection in the table, taken out when dropped.
struct Present {
    id: u64,
    place: Place,
}

impl Present {
    fn enter(node: &Dispatcher, id: u64, entry: Entry, place: Place) -> Self {
        node.table.insert(id, entry);
        metrics::gauge!("alknet_connections_active").increment(1.0);
        Self { id, place }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.place.node.table.remove(self.id);
        metrics::gauge!("alknet_connections_active").decrement(1.0);
    }
}

fn close(connection: &dyn ConnectionBackend, code: CloseCode) {
    connection.close(code.code(), code.text());
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}
