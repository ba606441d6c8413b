//! A call that this side made: where its answers wait for whoever asked.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use alknet_plugin_api::{CallError, Json};

use super::sync::Mutex;
use crate::outbox::Outbox;

/// Items that wait for a subscription's consumer before its stream is read no
/// further.
pub(crate) const ITEM_BUFFER: usize = 32;

/// What a caller gets.
pub(crate) enum Answer {
    Item(Json, bool),
    Completed,
    Failed(CallError),
}

impl Answer {
    /// The answer of a query or mutation.
    pub(crate) fn into_result(self) -> Result<Json, CallError> {
        match self {
            Self::Item(output, _) => Ok(output),
            Self::Failed(error) => Err(error),
            Self::Completed => Err(CallError::internal("the call completed without a result")),
        }
    }
}

/// Between the stream that reads a call's answers and the call's consumer.
pub(crate) struct Slot {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) subscription: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// A call has one answer, and then needs no queue.
    next: Option<Answer>,
    later: VecDeque<Answer>,
    consumer: Option<Waker>,
    reader: Option<Waker>,
    gone: bool,
}

impl State {
    fn has_room(&self) -> bool {
        self.gone || self.later.len() + usize::from(self.next.is_some()) < ITEM_BUFFER
    }
}

impl Slot {
    pub(crate) fn new(outbox: Arc<Outbox>, subscription: bool) -> Self {
        Self { outbox, subscription, state: Mutex::default() }
    }

    pub(crate) fn push(&self, answer: Answer) {
        let consumer = {
            let mut state = self.state.lock();
            if state.gone {
                return;
            }
            if state.next.is_none() {
                state.next = Some(answer);
            } else {
                state.later.push_back(answer);
            }
            state.consumer.take()
        };
        if let Some(consumer) = consumer {
            consumer.wake();
        }
    }

    pub(crate) fn poll_pop(&self, cx: &Context<'_>) -> Poll<Answer> {
        let (answer, reader) = {
            let mut state = self.state.lock();
            let Some(answer) = state.next.take() else {
                state.consumer = Some(cx.waker().clone());
                return Poll::Pending;
            };
            state.next = state.later.pop_front();
            (answer, state.reader.take())
        };
        if let Some(reader) = reader {
            reader.wake();
        }
        Poll::Ready(answer)
    }

    /// The consumer has left: nothing more is kept, and nothing waits for it.
    pub(crate) fn leave(&self) {
        let reader = {
            let mut state = self.state.lock();
            state.gone = true;
            state.next = None;
            state.later = VecDeque::new();
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.state.lock().has_room()
    }

    /// Ready when the stream may be read on.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.has_room() {
            return Poll::Ready(());
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}
