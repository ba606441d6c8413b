//! Time and tasks, as the registry needs them: passed in, so that its tests
//! run on paused time and no call needs a socket or a thread of its own.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::runtime::{EnterGuard, Handle};
use tokio::time::Instant;

/// Monotonic time.
pub trait Clock: Send + Sync + 'static {
    /// Time since the clock's start.
    fn now(&self) -> Duration;
    /// Resolves at `deadline`, on this clock.
    fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()>;
}

/// Where calls go that outlive whoever polled them.
pub trait Spawner: Send + Sync + 'static {
    /// Runs `task` to its end.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// Lends a thread what calls need of the node's threads, until the guard is
    /// dropped; nothing where it is one of them. Plugins with a runtime of their own
    /// poll calls on its threads.
    fn enter(&self) -> Option<EnterGuard<'_>> {
        None
    }
}

/// Tokio's time, which tests can pause.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    start: Instant,
}

impl TokioClock {
    /// A clock that starts now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for TokioClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep_until(self.start + deadline))
    }
}

/// Spawns on a tokio runtime.
#[derive(Clone, Debug)]
pub struct TokioSpawner(pub Handle);

impl Spawner for TokioSpawner {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.0.spawn(task);
    }

    fn enter(&self) -> Option<EnterGuard<'_>> {
        Handle::try_current().is_err().then(|| self.0.enter())
    }
}
