//! Time for an instance to take its leave.
//!
//! Dropping an instance frees its memory without running any of its code, so a
//! plugin's destructors would not run when its call is aborted. Therefore work
//! that is given up goes on for [`GRACE`] beside its host's other tasks. The guest
//! hears of the abort, drops what it was doing and ends the work by that; an
//! instance that does not is dropped with the rest of its work.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use alknet_plugin_api::Host;
use futures_util::future::{BoxFuture, select};

/// What an instance has to take its leave.
const GRACE: Duration = Duration::from_millis(200);

/// Set once the instance runs the plugin's code for this piece of work: before
/// that, there is nothing to take leave of.
#[derive(Clone, Default)]
pub(super) struct Entered(Arc<AtomicBool>);

impl Entered {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Work in an instance. When it is dropped before its end, it lingers.
pub(super) struct Lingering<T: Send + 'static> {
    work: Option<BoxFuture<'static, T>>,
    entered: Entered,
    host: Host,
}

impl<T: Send + 'static> Lingering<T> {
    /// Begins nothing yet. The work tells when it has entered the instance.
    pub(super) fn new<F>(host: Host, work: impl FnOnce(Entered) -> F) -> Self
    where
        F: Future<Output = T> + Send + 'static,
    {
        let entered = Entered::default();
        Self { work: Some(Box::pin(work(entered.clone()))), entered, host }
    }
}

impl<T: Send + 'static> Future for Lingering<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(work) = &mut self.work else { return Poll::Pending };
        let output = std::task::ready!(work.as_mut().poll(cx));
        self.work = None;
        Poll::Ready(output)
    }
}

impl<T: Send + 'static> Drop for Lingering<T> {
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        // Unwinding has a reason that is no ordinary abort.
        if !self.entered.0.load(Ordering::Relaxed) || std::thread::panicking() {
            return;
        }
        let grace = self.host.backend().sleep(GRACE);
        drop(self.host.spawn(async move { drop(select(work, grace).await) }));
    }
}
