//! What is to be written to one stream, gathered so that many envelopes leave in
//! one write.
//!
//! Requests and answers have an allowance each, so that neither a subscription's
//! items nor a burst of calls can keep the other from being sent.

use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use parking_lot::Mutex;

/// Bytes of requests, or of answers, that wait to be written before no more are
/// taken: a peer that does not read must not make this side's memory grow.
pub(crate) const HIGH_WATER: usize = 64 * 1024;
/// Refusals that wait to be written before the stream's requests are read no
/// further.
pub(crate) const MAX_REFUSALS: usize = 1024;

/// Whose allowance an envelope counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Answer,
    /// An answer that no call gave; counted by number.
    Refusal,
    /// At most one for each call of this side, and so bounded by them.
    Abort,
}

/// Where everything that goes out on one stream is appended.
pub(crate) struct Outbox {
    pub(crate) stream: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    buffer: BytesMut,
    requests: usize,
    answers: usize,
    refusals: usize,
    /// Refusals in what the stream's task has taken and not yet written.
    refusals_taken: usize,
    /// How often the buffer was taken; a place in `waiting` lasts until then.
    generation: u64,
    waiting: Vec<Waker>,
    task: Option<Waker>,
    finish: bool,
    unanswerable: bool,
    closed: bool,
}

/// A place in the queue for room, so that one waiter takes no two.
#[derive(Default)]
pub(crate) struct Place {
    held: Option<(u64, Waker)>,
}

impl Outbox {
    pub(crate) fn new(stream: u64) -> Self {
        Self { stream, state: Mutex::default() }
    }

    /// Whether requests can still be sent and answered.
    pub(crate) fn is_open(&self) -> bool {
        let state = self.state.lock();
        !(state.closed || state.unanswerable || state.finish)
    }

    pub(crate) fn has_answer_room(&self) -> bool {
        self.state.lock().answers < HIGH_WATER
    }

    pub(crate) fn has_refusal_room(&self) -> bool {
        let state = self.state.lock();
        state.refusals + state.refusals_taken < MAX_REFUSALS
    }

    /// Ready when there is room for an envelope of this kind, or will never be.
    pub(crate) fn poll_room(&self, kind: Kind, place: &mut Place, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        let used = if kind == Kind::Request { state.requests } else { state.answers };
        if state.closed || used < HIGH_WATER {
            place.held = None;
            return Poll::Ready(());
        }
        let waiting = place.held.as_ref().is_some_and(|(generation, waker)| {
            *generation == state.generation && waker.will_wake(cx.waker())
        });
        if !waiting {
            state.waiting.push(cx.waker().clone());
            place.held = Some((state.generation, cx.waker().clone()));
        }
        Poll::Pending
    }

    /// Appends to what the stream's task writes next; `None` where it would never
    /// be written, or never be answered.
    pub(crate) fn append<R>(
        &self,
        kind: Kind,
        write: impl FnOnce(&mut BytesMut) -> R,
    ) -> Option<R> {
        let (result, task) = {
            let mut state = self.state.lock();
            let pointless = kind == Kind::Request && (state.unanswerable || state.finish);
            if state.closed || pointless {
                return None;
            }
            let before = state.buffer.len();
            let result = write(&mut state.buffer);
            let written = state.buffer.len() - before;
            match kind {
                Kind::Request => state.requests += written,
                Kind::Answer => state.answers += written,
                Kind::Refusal => state.refusals += 1,
                Kind::Abort => {}
            }
            (result, state.task.take())
        };
        if let Some(task) = task {
            task.wake();
        }
        Some(result)
    }

    /// Finishes the sending side once everything appended has been written and
    /// nothing more is to be answered.
    pub(crate) fn finish(&self) {
        let task = {
            let mut state = self.state.lock();
            state.finish = true;
            state.task.take()
        };
        if let Some(task) = task {
            task.wake();
        }
    }

    pub(crate) fn is_finishing(&self) -> bool {
        self.state.lock().finish
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().buffer.is_empty()
    }

    /// The peer sends nothing more: what is asked now can never be answered.
    pub(crate) fn peer_finished(&self) {
        self.state.lock().unanswerable = true;
    }

    /// The stream's task is being polled: it looks here before it rests.
    pub(crate) fn task_awake(&self) {
        self.state.lock().task = None;
    }

    /// Exchanges the empty `into` for what has gathered. Where nothing has, the
    /// task is woken when something is there.
    pub(crate) fn take(&self, into: &mut BytesMut, cx: &Context<'_>) -> bool {
        let waiting = {
            let mut state = self.state.lock();
            state.refusals_taken = 0;
            if state.buffer.is_empty() {
                state.task = Some(cx.waker().clone());
                return false;
            }
            std::mem::swap(into, &mut state.buffer);
            state.refusals_taken = std::mem::take(&mut state.refusals);
            (state.requests, state.answers) = (0, 0);
            state.generation += 1;
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
        true
    }

    /// Nothing more is written.
    pub(crate) fn close(&self) {
        let waiting = {
            let mut state = self.state.lock();
            state.closed = true;
            state.buffer = BytesMut::new();
            std::mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}
