//! What is to be written to one stream, gathered so that many envelopes leave in
//! one write. A request that has nothing to gather with is written at once, by
//! whoever makes it, which spares it the way through the connection's task.
//!
//! Requests and answers have an allowance each, so that neither a subscription's
//! items nor a burst of calls can keep the other from being sent.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use alknet_plugin_api::{SendStream, StreamError};
use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tokio::io::AsyncWrite;

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
    /// Nothing once the stream's task is gone. Locked after `state`, or alone.
    send: Mutex<Option<SendStream>>,
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
    /// The stream's task, while it rests: it has written all that it took.
    task: Option<Waker>,
    /// Something was written in the task's place and not flushed.
    unflushed: bool,
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
    /// One that nothing is sent through.
    #[cfg(test)]
    pub(crate) fn unconnected() -> std::sync::Arc<Self> {
        let (stream, send, state) = (0, Mutex::new(None), Mutex::default());
        std::sync::Arc::new(Self { stream, send, state })
    }

    pub(crate) fn new(stream: u64, send: SendStream) -> Self {
        Self { stream, send: Mutex::new(Some(send)), state: Mutex::default() }
    }

    /// The sending half, for the stream's task.
    pub(crate) fn with_send<T>(
        &self,
        work: impl FnOnce(&mut SendStream) -> Poll<Result<T, StreamError>>,
    ) -> Poll<Result<T, StreamError>> {
        match &mut *self.send.lock() {
            Some(send) => work(send),
            None => Poll::Ready(Err(StreamError::StreamClosed)),
        }
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
        self.append_with(kind, false, write)
    }

    /// As [`Outbox::append`]. With `alone`, nothing is expected to gather with
    /// this: where the stream's task rests and the transport has room, it is
    /// written at once and the task left in peace.
    pub(crate) fn append_with<R>(
        &self,
        kind: Kind,
        alone: bool,
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
            let written = alone && before == 0 && self.write_through(&mut state);
            (result, if written { None } else { state.task.take() })
        };
        if let Some(task) = task {
            task.wake();
        }
        Some(result)
    }

    /// Writes the whole buffer to the stream in the place of its resting task;
    /// `false` where the task has to go on. Errors are the task's to find: the
    /// stream gives them again.
    fn write_through(&self, state: &mut State) -> bool {
        let (Some(task), Some(mut send)) = (&state.task, self.send.try_lock()) else {
            return false;
        };
        let Some(send) = send.as_mut() else { return false };
        // The transport's wake-up, should it have no room, is for the task.
        let mut cx = Context::from_waker(task);
        while !state.buffer.is_empty() {
            match send.poll_write(&mut cx, &state.buffer) {
                Poll::Ready(Ok(n)) => state.buffer.advance(n),
                Poll::Ready(Err(_)) | Poll::Pending => return false,
            }
        }
        (state.requests, state.answers, state.refusals) = (0, 0, 0);
        state.unflushed = !matches!(Pin::new(send).poll_flush(&mut cx), Poll::Ready(Ok(())));
        !state.unflushed
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

    /// The stream's task is being polled: it looks here before it rests. Whether
    /// something was written in its place that it has to flush.
    pub(crate) fn task_awake(&self) -> bool {
        let mut state = self.state.lock();
        state.task = None;
        std::mem::take(&mut state.unflushed)
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

    /// The stream's task is gone, and with it the stream, which is reset unless
    /// it was finished.
    pub(crate) fn release(&self) {
        self.close();
        let send = self.send.lock().take();
        drop(send);
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
