//! What a connection's peer has not confirmed yet.
//!
//! QUIC's CONNECTION_CLOSE ends a connection at once: whatever of a finished
//! stream is still under way then is lost. A handler that finishes its last
//! stream and returns means its data to arrive, so its connection closes only
//! after the peer has confirmed it, or after a time.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;

/// Resolves when a stream's peer has everything, or wants no more of it.
type Confirmed = BoxFuture<'static, ()>;

/// Streams kept before those that have been confirmed meanwhile are looked for.
const FIRST_SWEEP: usize = 32;

/// The finished streams of one connection that are not known to have arrived.
#[derive(Default)]
pub struct Deliveries(Mutex<State>);

#[derive(Default)]
struct State {
    waiting: Vec<Confirmed>,
    sweep_at: usize,
}

impl Deliveries {
    /// Keeps a finished stream that nobody watches any more. The peer's limit on
    /// streams bounds how many can be unconfirmed.
    pub fn keep(&self, confirmed: Confirmed) {
        let mut state = self.0.lock();
        state.waiting.push(confirmed);
        if state.waiting.len() >= state.sweep_at.max(FIRST_SWEEP) {
            state.sweep(&mut Context::from_waker(Waker::noop()));
            state.sweep_at = state.waiting.len() * 2;
        }
    }

    /// Resolves when everything finished so far has been confirmed, or cannot be
    /// any more because the connection is lost.
    pub(super) async fn done(self: Arc<Self>) {
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock();
            state.sweep(cx);
            if state.waiting.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl State {
    fn sweep(&mut self, cx: &mut Context<'_>) {
        self.waiting.retain_mut(|confirmed| confirmed.poll_unpin(cx).is_pending());
    }
}
