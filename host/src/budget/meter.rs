//! Counting one plugin.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use rustix::time::{ClockId, clock_gettime};

use super::bucket::Bucket;
use super::table::{Hold, LimitStatus, Limits, Resource, Substrate, TABLE, Usage};

/// How often the log tells that one limit is hit.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What a plugin uses, and its limits. Everything that is read and written on the way of
/// a call or of a stream's bytes is an atomic number; only a plugin whose bytes or whose
/// computing is limited over time has a lock.
#[derive(Debug)]
pub struct Meter {
    plugin: Arc<str>,
    substrate: Substrate,
    /// As the deployment file has them.
    written: Limits,
    limits: Limits,
    used: [AtomicU64; TABLE.len()],
    hits: [AtomicU64; TABLE.len()],
    /// When each limit may be told of next, in milliseconds since `since`; 0 at first.
    tell: [AtomicU64; TABLE.len()],
    since: Instant,
    cpu_ns: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    bytes: Option<Bucket>,
    computing: Option<Bucket>,
}

/// A limit that leaves no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plugin is at its limit `{}` of {limit}", TABLE[*.resource as usize].key)]
pub struct Full {
    /// Which.
    pub resource: Resource,
    /// How much that is.
    pub limit: u64,
}

impl Meter {
    /// A meter for a plugin with the limits that its stanza has written.
    pub fn new(plugin: impl Into<Arc<str>>, substrate: Substrate, written: Limits) -> Arc<Self> {
        let limits = written.in_force(substrate);
        let since = Instant::now();
        let bucket = |resource| limits.get(resource).map(|limit| Bucket::new(limit, since));
        Arc::new(Self {
            plugin: plugin.into(),
            substrate,
            written,
            used: Default::default(),
            hits: Default::default(),
            tell: Default::default(),
            since,
            cpu_ns: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            bytes: bucket(Resource::BytesPerSecond),
            // In milliseconds, spent in nanoseconds.
            computing: limits
                .get(Resource::CpuPerSecond)
                .map(|ms| Bucket::new(ms.saturating_mul(1_000_000), since)),
            limits,
        })
    }

    /// The limits in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Takes a place, given back when the place is dropped.
    ///
    /// # Errors
    /// All are taken, which counts as a hit.
    pub fn enter(self: &Arc<Self>, resource: Resource) -> Result<Place, Full> {
        let place = self.count(resource);
        match self.limits.get(resource) {
            Some(limit) if place.before >= limit => {
                self.hit(resource);
                Err(Full { resource, limit })
            }
            _ => Ok(place),
        }
    }

    /// Takes a place, whatever the limit: somebody else keeps to it.
    pub fn count(self: &Arc<Self>, resource: Resource) -> Place {
        let before = self.used[resource as usize].fetch_add(1, Relaxed);
        Place { meter: self.clone(), resource, before }
    }

    /// Notes that more memory is in use.
    pub fn grow(&self, bytes: u64) {
        self.used[Resource::Memory as usize].fetch_add(bytes, Relaxed);
    }

    /// Notes that memory is no longer in use.
    pub fn shrink(&self, bytes: u64) {
        self.used[Resource::Memory as usize].fetch_sub(bytes, Relaxed);
    }

    /// Notes that more was wanted than there may be.
    pub fn hit(&self, resource: Resource) {
        let index = resource as usize;
        let hits = self.hits[index].fetch_add(1, Relaxed) + 1;
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = self.tell[index].load(Relaxed);
        let later = now + TELL_EVERY.as_millis() as u64;
        // Whoever is first tells.
        if now < next || self.tell[index].compare_exchange(next, later, Relaxed, Relaxed).is_err() {
            return;
        }
        let (row, plugin) = (&TABLE[index], &*self.plugin);
        let value = self.limits.get(resource).map(|limit| row.unit.show(limit));
        match row.hold(self.substrate) {
            // Nothing fails.
            Hold::Waits => {
                tracing::info!(plugin, limit = row.key, value, hits, "a plugin is at its limit");
            }
            hold => tracing::warn!(
                plugin,
                limit = row.key,
                value,
                hits,
                "a plugin is at its limit: {}",
                hold.text()
            ),
        }
    }

    /// The limit on bytes over time.
    pub(super) fn bytes(&self) -> Option<&Bucket> {
        self.bytes.as_ref()
    }

    /// Notes bytes that the plugin has read.
    pub(super) fn read(&self, bytes: u64) {
        self.bytes_in.fetch_add(bytes, Relaxed);
    }

    /// Notes bytes that the plugin has written.
    pub(super) fn wrote(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Relaxed);
    }

    /// How long the plugin has to wait before it may compute on; that it has to is a
    /// hit.
    pub fn compute_wait(&self) -> Option<Duration> {
        let wait = self.computing.as_ref()?.wait(Instant::now())?;
        self.hit(Resource::CpuPerSecond);
        Some(wait)
    }

    /// Runs a poll of the plugin's code and counts how long it computes. Polls of other
    /// plugins within are on their own accounts.
    ///
    /// A component's polls are measured. Those of a native plugin are too many for that:
    /// the clock that is cheap enough advances every few milliseconds. A poll that sees it
    /// advance is charged for the whole step, one that does not for nothing: as kernels
    /// account by ticks, and right in the long run.
    pub fn poll<T>(&self, poll: impl FnOnce() -> T) -> T {
        if self.substrate == Substrate::Process {
            return poll();
        }
        let outer = WITHIN.replace(Within::default());
        let (start, coarse) =
            ((self.substrate == Substrate::Component).then(Instant::now), coarse_ns());
        let polled = poll();
        let coarse = coarse_ns().saturating_sub(coarse);
        let exact =
            start.map(|start| u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        let within = WITHIN.get();
        let own = match exact {
            Some(exact) => exact.saturating_sub(within.best),
            None => coarse.saturating_sub(within.coarse),
        };
        WITHIN.set(Within {
            coarse: outer.coarse + coarse,
            best: outer.best + exact.unwrap_or(coarse),
        });
        if own > 0 {
            self.cpu_ns.fetch_add(own, Relaxed);
            if let Some(bucket) = &self.computing {
                bucket.spend(own);
            }
        }
        polled
    }

    /// The rows of the table for this plugin.
    pub fn status(&self) -> Vec<LimitStatus> {
        let row = |row: &'static super::Limit| {
            let (index, hold) = (row.resource as usize, row.hold(self.substrate));
            let enforced = hold.is_enforced();
            // What a process has taken is the kernel's to know.
            let counted = row.counted
                && (self.substrate, row.resource) != (Substrate::Process, Resource::Memory);
            LimitStatus {
                name: row.key,
                unit: row.unit,
                each: row.each,
                limit: self.limits.get(row.resource).or(self.written.get(row.resource)),
                used: (enforced && counted).then(|| self.used[index].load(Relaxed)),
                hits: self.hits[index].load(Relaxed),
                enforced,
                beyond: hold.text(),
                why: match hold {
                    Hold::Unenforceable(why) => Some(why),
                    _ => None,
                },
            }
        };
        TABLE.iter().map(row).collect()
    }

    /// What the plugin has used since the start.
    pub fn usage(&self) -> Usage {
        let cpu = self.cpu_ns.load(Relaxed) as f64 / 1e9;
        Usage {
            cpu_seconds: (self.substrate != Substrate::Process).then_some(cpu),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
        }
    }

    /// Brings the metrics up to date.
    pub fn publish(&self) {
        let plugin = || self.plugin.to_string();
        for limit in self.status().into_iter().filter(|limit| limit.enforced) {
            let labels = [("plugin", plugin()), ("limit", limit.name.to_owned())];
            if let Some(used) = limit.used {
                metrics::gauge!("alknet_budget_used", &labels).set(used as f64);
            }
            if let Some(limit) = limit.limit {
                metrics::gauge!("alknet_budget_limit", &labels).set(limit as f64);
            }
            metrics::counter!("alknet_budget_hits_total", &labels).absolute(limit.hits);
        }
        let usage = self.usage();
        if let Some(seconds) = usage.cpu_seconds {
            let micros = (seconds * 1e6) as u64;
            metrics::counter!("alknet_budget_cpu_microseconds_total", "plugin" => plugin())
                .absolute(micros);
        }
        for (direction, bytes) in [("in", usage.bytes_in), ("out", usage.bytes_out)] {
            let labels = [("plugin", plugin()), ("direction", direction.to_owned())];
            metrics::counter!("alknet_budget_bytes_total", &labels).absolute(bytes);
        }
    }
}

/// What polls within a poll have taken.
#[derive(Clone, Copy, Default)]
struct Within {
    /// By the cheap clock.
    coarse: u64,
    /// By the best clock that each was measured with.
    best: u64,
}

thread_local! {
    static WITHIN: Cell<Within> = const { Cell::new(Within { coarse: 0, best: 0 }) };
}

fn coarse_ns() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// One of what is counted, given back when dropped.
#[derive(Debug)]
pub struct Place {
    meter: Arc<Meter>,
    resource: Resource,
    before: u64,
}

impl Place {
    /// Who counts it.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.meter.used[self.resource as usize].fetch_sub(1, Relaxed);
    }
}

/// A future of a plugin's, whose polls are counted as its computing.
pub struct Timed<T> {
    meter: Arc<Meter>,
    future: BoxFuture<'static, T>,
}

impl<T> Timed<T> {
    /// `future`, on the account of `meter`.
    pub fn new(meter: Arc<Meter>, future: BoxFuture<'static, T>) -> Self {
        Self { meter, future }
    }
}

impl<T> Future for Timed<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Self { meter, future } = &mut *self;
        meter.poll(|| future.as_mut().poll(cx))
    }
}
