//! Whether the plugin's threads give way.

use std::cell::OnceCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
/// When each thread began what it runs, in milliseconds since the start and one;
/// nothing while it waits.
static THREADS: Mutex<Vec<Arc<AtomicU64>>> = Mutex::new(Vec::new());

thread_local! {
    static SINCE: OnceCell<Arc<AtomicU64>> = const { OnceCell::new() };
}

fn now() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

/// Runs some of the plugin's code on this thread.
pub(super) fn during<R>(run: impl FnOnce() -> R) -> R {
    let since = SINCE.with(|since| {
        let slot = since.get_or_init(|| {
            let slot = Arc::<AtomicU64>::default();
            THREADS.lock().push(slot.clone());
            slot
        });
        slot.clone()
    });
    since.store(now(), Ordering::Relaxed);
    let result = run();
    since.store(0, Ordering::Relaxed);
    result
}

/// How long the thread has run that has run longest without giving way.
pub(super) fn longest() -> Duration {
    let now = now();
    let threads = THREADS.lock();
    let longest = threads.iter().map(|since| match since.load(Ordering::Relaxed) {
        0 => 0,
        since => now.saturating_sub(since),
    });
    Duration::from_millis(longest.max().unwrap_or(0))
}

/// A future of the plugin's.
pub(super) struct Watched<F>(pub(super) F);

impl<F: Future + Unpin> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        during(|| Pin::new(&mut self.0).poll(cx))
    }
}
