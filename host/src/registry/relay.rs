//! Deep composition without a deep stack.
//!
//! Polling a call polls what it composes, one frame on top of the other: a
//! thousand calls deep, that is more stack than a thread has. So every few
//! levels a call gets a task of its own, and its composer waits for it at a
//! channel that holds one event.
//!
//! A confined instance cannot be polled while another one is: their machine
//! forbids it. What one waits for, and another may have to answer, gets a task of
//! its own too.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use alknet_plugin_api::AbortPolicy;
use tokio::sync::mpsc;

use super::cancel::{End, Node, State};
use super::running::{Event, Running};

/// Calls that may be polled on top of one another. A level takes about 2 KiB
/// of stack, and a handler of a plugin's may take more. Tests hop often, so that
/// they meet the hop's own races.
const LEVELS: u32 = if cfg!(test) { 3 } else { 32 };

/// A started call, here or in a task of its own.
pub(crate) enum Started {
    Here(Running),
    Elsewhere(Relay),
}

/// The waiting end of a call that runs in its own task. Dropping it aborts
/// the call, unless that is a survivor.
pub(crate) struct Relay {
    events: mpsc::Receiver<Event>,
    node: Arc<Node>,
}

impl Started {
    /// A call that another one composes, at this depth, where roots are at 0.
    pub(crate) fn composed(running: Running, depth: u32) -> Self {
        let within = running.call().is_confined_within_another();
        if depth.is_multiple_of(LEVELS) || within {
            Self::elsewhere(running)
        } else {
            Self::Here(running)
        }
    }

    /// A call for a peer. Where a confined instance waits for it, nothing that the
    /// call comes to is polled within that.
    pub(crate) fn root(running: Running, confined: bool) -> Self {
        if confined { Self::elsewhere(running) } else { Self::Here(running) }
    }

    fn elsewhere(running: Running) -> Self {
        let (sender, events) = mpsc::channel(1);
        let call = running.call();
        let node = call.node.clone();
        // An abort must find the call in its own task from the beginning, before
        // that has had its first turn.
        node.watch(Waker::noop());
        let spawner = call.registry.spawner.clone();
        spawner.spawn(Box::pin(forward(running, sender)));
        Self::Elsewhere(Relay { events, node })
    }

    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        match self {
            Self::Here(running) => running.poll_event(cx),
            Self::Elsewhere(relay) => relay.events.poll_recv(cx),
        }
    }
}

/// Runs the call while somebody waits for it. Afterwards, dropping it decides
/// whether it runs on.
async fn forward(mut running: Running, events: mpsc::Sender<Event>) {
    while let Ok(permit) = events.reserve().await {
        let next = {
            let mut closed = std::pin::pin!(events.closed());
            std::future::poll_fn(|cx| match running.poll_event(cx) {
                Poll::Ready(event) => Poll::Ready(event),
                Poll::Pending => Pin::as_mut(&mut closed).poll(cx).map(|()| None),
            })
            .await
        };
        match next {
            Some(event) => permit.send(event),
            None => return,
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if self.node.state() != State::Survivor {
            self.node.close(End::Abort(AbortPolicy::AbortDependents));
        }
    }
}
