//! How long an instance may compute.
//!
//! Compiled code looks at the engine's *epoch* on every loop and call. A thread
//! advances it every [`TICK`]; an instance that computes across a tick gives its
//! thread away, and one that does so for its whole slice without waiting for
//! anything is stopped. A slice is counted between two waits, not over a life,
//! so that a connection may live for years.
//!
//! How long a plugin may compute in each second is another limit, of all its instances
//! together: one that has used it up is not polled until there is more.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::thread::Thread;
use std::time::Duration;

use alknet_plugin_api::Host;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use wasmtime::{EngineWeak, UpdateDeadline};

use super::error::Trap;
use crate::budget::{Meter, Resource};

/// How often the epoch advances while components run.
pub(super) const TICK: Duration = Duration::from_millis(10);
/// Ticks without any component running, after which the thread sleeps.
const IDLE_TICKS: u32 = 50;

/// The thread that advances the epoch. It sleeps while no component runs.
pub(super) struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
}

struct Shared {
    ticks: AtomicU64,
    /// Set by every component that runs, cleared by every tick.
    busy: AtomicBool,
    asleep: AtomicBool,
    stop: AtomicBool,
}

impl Ticker {
    pub(super) fn start(engine: EngineWeak) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            ticks: AtomicU64::new(1),
            busy: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let ours = shared.clone();
        let thread = std::thread::Builder::new()
            .name("component-epoch".into())
            .spawn(move || ours.run(&engine))?;
        Ok(Self { shared, thread: thread.thread().clone() })
    }

    /// Notes that a component runs, and returns the current tick.
    fn enter(&self) -> u64 {
        // The common case must not write to what other threads read.
        if !self.shared.busy.load(Ordering::Relaxed) {
            self.shared.busy.store(true, Ordering::SeqCst);
            if self.shared.asleep.load(Ordering::SeqCst) {
                self.thread.unpark();
            }
        }
        self.shared.ticks.load(Ordering::Relaxed)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}

impl Shared {
    fn run(&self, engine: &EngineWeak) {
        let mut idle = 0;
        while !self.stop.load(Ordering::SeqCst) {
            std::thread::sleep(TICK);
            let Some(engine) = engine.upgrade() else { return };
            self.ticks.fetch_add(1, Ordering::Relaxed);
            engine.increment_epoch();
            drop(engine);
            idle = if self.busy.swap(false, Ordering::SeqCst) { 0 } else { idle + 1 };
            if idle >= IDLE_TICKS {
                self.asleep.store(true, Ordering::SeqCst);
                while !self.busy.load(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
                    std::thread::park();
                }
                self.asleep.store(false, Ordering::SeqCst);
                idle = 0;
            }
        }
    }
}

/// One instance's account.
pub(super) struct Cpu {
    ticker: Arc<Ticker>,
    slice: u32,
    /// Ticks computed across since the last wait.
    used: AtomicU32,
    /// Whether the current poll has computed across a tick.
    preempted: AtomicBool,
    /// The tick at which the current poll began.
    entered: AtomicU64,
    meter: Arc<Meter>,
    /// Whose timers it waits by; without one it does not wait.
    host: Option<Host>,
}

impl Cpu {
    pub(super) fn new(
        ticker: Arc<Ticker>,
        slice_ms: u64,
        meter: Arc<Meter>,
        host: Option<Host>,
    ) -> Arc<Self> {
        let ticks = slice_ms.div_ceil(TICK.as_millis() as u64).max(1);
        Arc::new(Self {
            ticker,
            slice: u32::try_from(ticks).unwrap_or(u32::MAX),
            used: AtomicU32::new(0),
            preempted: AtomicBool::new(false),
            entered: AtomicU64::new(0),
            meter,
            host,
        })
    }

    /// Gives the whole slice back: the instance has waited, or moved bytes,
    /// which a peer has to feed.
    pub(super) fn refill(&self) {
        self.used.store(0, Ordering::Relaxed);
    }

    /// Decides what happens to an instance that reached its epoch's deadline.
    pub(super) fn deadline(&self) -> wasmtime::Result<UpdateDeadline> {
        let now = self.ticker.shared.ticks.load(Ordering::Relaxed);
        // The deadline passed while the instance waited.
        if now <= self.entered.load(Ordering::Relaxed) {
            return Ok(UpdateDeadline::Continue(1));
        }
        self.preempted.store(true, Ordering::Relaxed);
        if self.used.fetch_add(1, Ordering::Relaxed) + 1 > self.slice {
            self.meter.hit(Resource::Cpu);
            let ms = u64::from(self.slice) * TICK.as_millis() as u64;
            return Err(Trap::CpuSlice(ms).into());
        }
        Ok(UpdateDeadline::Yield(1))
    }

    /// Runs an instance's future on its account.
    pub(super) async fn meter<F: Future>(&self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        let mut pause = None;
        std::future::poll_fn(|cx| {
            ready!(self.poll_allowed(cx, &mut pause));
            self.entered.store(self.ticker.enter(), Ordering::Relaxed);
            self.preempted.store(false, Ordering::Relaxed);
            let poll = self.meter.poll(|| future.as_mut().poll(cx));
            if matches!(poll, Poll::Pending) && !self.preempted.load(Ordering::Relaxed) {
                self.refill();
            }
            poll
        })
        .await
    }

    /// Waits until the plugin may compute.
    fn poll_allowed(
        &self,
        cx: &mut Context<'_>,
        pause: &mut Option<BoxFuture<'static, ()>>,
    ) -> Poll<()> {
        let Some(host) = &self.host else { return Poll::Ready(()) };
        loop {
            if let Some(waiting) = pause {
                ready!(waiting.poll_unpin(cx));
                *pause = None;
            }
            let Some(wait) = self.meter.compute_wait() else { return Poll::Ready(()) };
            *pause = Some(host.backend().sleep(wait));
        }
    }
}
