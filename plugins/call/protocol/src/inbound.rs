//! A call that the other side made: runs it and appends what it gives.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use alknet_plugin_api::{CallError, GatewayCall, GatewayEvent};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::envelope;
use crate::frame::write_frame;
use crate::outbox::{Kind, Outbox, Place};
use crate::table::Shared;

/// Items that one subscription may append before the others have their turn.
const ITEMS_PER_TURN: usize = 32;

/// The operation at work. One event is polled ahead, so that a call's end is
/// known before its answer leaves: its id is then free by the time the caller
/// can use it again.
pub(crate) struct Work {
    call: GatewayCall,
    ahead: Option<GatewayEvent>,
    answered: bool,
}

/// What an operation did when it was polled.
pub(crate) enum Step {
    /// It gave this; whether that was its end.
    Event(GatewayEvent, bool),
    /// It had ended with its last answer.
    Over,
}

impl Work {
    pub(crate) fn new(call: GatewayCall) -> Self {
        Self { call, ahead: None, answered: false }
    }

    pub(crate) fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        let event = match self.ahead.take() {
            Some(event) => Some(event),
            None => match self.call.poll_next(cx) {
                Poll::Ready(event) => event,
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(match event {
            Some(event @ GatewayEvent::Responded(_)) => {
                self.answered = true;
                match self.call.poll_next(cx) {
                    Poll::Ready(None) => Step::Event(event, true),
                    Poll::Ready(next) => {
                        self.ahead = next;
                        Step::Event(event, false)
                    }
                    Poll::Pending => Step::Event(event, false),
                }
            }
            Some(event) => Step::Event(event, true),
            None if self.answered => Step::Over,
            None => {
                let error = CallError::internal("the operation ended without an answer");
                Step::Event(GatewayEvent::Error(error), true)
            }
        })
    }
}

/// Appends what an operation gave; whether that was the call's end, as it is
/// when the answer is too large to be sent.
pub(crate) fn emit(outbox: &Outbox, id: &str, step: Step, limit: usize) -> bool {
    let Step::Event(event, last) = step else { return true };
    let written = outbox.append(Kind::Answer, |out| {
        write_frame(out, limit, |out| match &event {
            GatewayEvent::Responded(output) => envelope::write_response(out, id, output, false),
            GatewayEvent::Completed => envelope::write_completed(out, id),
            GatewayEvent::Error(error) => envelope::write_error(out, id, error),
        })
    });
    let Some(Err(error)) = written else { return last };
    let error = CallError::internal(format!("the answer cannot be sent: {error}"));
    outbox.append(Kind::Answer, |out| {
        write_frame(out, usize::MAX, |out| envelope::write_error(out, id, &error))
    });
    true
}

/// A call in flight. Taking `work` out of it aborts it.
pub(crate) struct Inbound {
    pub(crate) id: Box<str>,
    work: Mutex<Option<Work>>,
    waker: AtomicWaker,
}

impl Inbound {
    pub(crate) fn new(id: Box<str>, work: Work) -> Self {
        Self { id, work: Mutex::new(Some(work)), waker: AtomicWaker::new() }
    }

    /// Drops the operation; the stream's task then forgets the call.
    pub(crate) fn abort(&self) {
        let work = self.work.lock().take();
        drop(work);
        self.waker.wake();
    }
}

/// A call that did not answer at once. Dropping it, with its stream, aborts it.
pub(crate) struct Running {
    pub(crate) inbound: Arc<Inbound>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) place: Place,
}

impl Future for Running {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.inbound.waker.register(cx.waker());
        for _ in 0..ITEMS_PER_TURN {
            let mut work = this.inbound.work.lock();
            let Some(running) = work.as_mut() else { return Poll::Ready(()) };
            if this.outbox.poll_room(Kind::Answer, &mut this.place, cx).is_pending() {
                return Poll::Pending;
            }
            let Poll::Ready(step) = running.poll_step(cx) else { return Poll::Pending };
            if emit(&this.outbox, &this.inbound.id, step, this.shared.limits.max_frame) {
                let done = work.take();
                drop(work);
                this.shared.forget_inbound(&this.inbound);
                drop(done);
                return Poll::Ready(());
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.forget_inbound(&self.inbound);
        self.inbound.abort();
    }
}
