//! A call of this side, from its request to its last answer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use alknet_plugin_api::{AbortPolicy, CallError, Json};
use futures_util::future::BoxFuture;

use crate::envelope;
use crate::frame::write_frame;
use crate::id::CallId;
use crate::outbox::{Kind, Outbox};
use crate::slot::{Answer, Slot};
use crate::table::Shared;

/// A call in flight. Dropping it aborts the call.
pub(crate) struct Pending {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    number: u64,
    id: CallId,
    /// Whether no other call of this side was in flight when it began.
    alone: bool,
    own_stream: bool,
    /// What the other side is told when this is dropped.
    policy: AbortPolicy,
}

impl Pending {
    pub(crate) fn new(
        shared: Arc<Shared>,
        outbox: Arc<Outbox>,
        own_stream: bool,
        subscription: bool,
    ) -> Self {
        let slot = Arc::new(Slot::new(outbox, subscription));
        let (number, id, alone) = shared.start(&slot);
        Self { shared, slot, number, id, alone, own_stream, policy: AbortPolicy::default() }
    }

    pub(crate) fn id(&self) -> &str {
        self.id.as_str()
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.alone
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.slot.outbox
    }

    pub(crate) fn poll_answer(&self, cx: &Context<'_>) -> Poll<Answer> {
        self.slot.poll_pop(cx)
    }

    /// The call was never sent, and so needs no abort.
    pub(crate) fn forget(&self) {
        self.shared.take_outbound(self.number);
    }

    fn abort(&self) {
        if self.shared.take_outbound(self.number).is_some() {
            send_abort(self.outbox(), self.id(), self.policy);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.abort();
        self.slot.leave();
        if self.own_stream {
            self.outbox().finish();
        }
    }
}

pub(crate) fn send_abort(outbox: &Outbox, id: &str, policy: AbortPolicy) {
    outbox.append(Kind::Abort, |out| {
        write_frame(out, usize::MAX, |out| {
            envelope::write_aborted(out, id, policy, "no longer wanted");
        })
    });
}

/// A call that has been sent. The future gives its answer; dropping it aborts the
/// call.
pub struct Call {
    pending: Pending,
}

impl Call {
    pub(crate) fn new(pending: Pending) -> Self {
        Self { pending }
    }

    /// The id that it has on the wire.
    pub fn id(&self) -> &str {
        self.pending.id()
    }

    /// What happens on the other side to what the call has started there, when this
    /// is dropped before its answer has come.
    pub fn set_abort_policy(&mut self, policy: AbortPolicy) {
        self.pending.policy = policy;
    }
}

impl Future for Call {
    type Output = Result<Json, CallError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.pending.poll_answer(cx).map(Answer::into_result)
    }
}

/// A subscription's items. Dropping it aborts the subscription.
pub struct Subscription {
    pending: Pending,
    sleep: Option<BoxFuture<'static, ()>>,
    terminal: bool,
    ended: bool,
}

impl Subscription {
    pub(crate) fn new(pending: Pending, sleep: Option<BoxFuture<'static, ()>>) -> Self {
        Self { pending, sleep, terminal: false, ended: false }
    }

    /// The next item; `None` after the last, or after an error. Dropping the
    /// future loses no item.
    pub async fn next(&mut self) -> Option<Result<Json, CallError>> {
        std::future::poll_fn(|cx| self.poll_item(cx)).await
    }

    /// Whether the last item was marked as the final result.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// The id that it has on the wire.
    pub fn id(&self) -> &str {
        self.pending.id()
    }

    /// As [`Call::set_abort_policy`].
    pub fn set_abort_policy(&mut self, policy: AbortPolicy) {
        self.pending.policy = policy;
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Json, CallError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // Items that never fail to be there do not put the end off.
        if self.sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready()) {
            self.ended = true;
            self.pending.abort();
            return Poll::Ready(Some(Err(CallError::timeout())));
        }
        let last = match std::task::ready!(self.pending.poll_answer(cx)) {
            Answer::Item(item, terminal) => {
                self.terminal = terminal;
                return Poll::Ready(Some(Ok(item)));
            }
            Answer::Completed => None,
            Answer::Failed(error) => Some(Err(error)),
        };
        self.ended = true;
        Poll::Ready(last)
    }
}

impl futures_core::Stream for Subscription {
    type Item = Result<Json, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_item(cx)
    }
}
