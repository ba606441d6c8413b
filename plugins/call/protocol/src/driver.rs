//! The future that does a connection's work, and its orderly end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use alknet_plugin_api::{Connection, RecvStream, SendStream, StreamError};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;

use crate::PROTOCOL_ERROR;
use crate::stream::StreamTask;
use crate::table::Shared;

/// How long the last answers may take to reach the peer.
const LINGER: Duration = Duration::from_millis(400);
/// Turns that streams have after the connection's end to read what had arrived.
const LAST_TURNS: usize = 1024;

/// What the driver waits for. Each part is polled when it is woken and only then: a
/// stream's turn costs no look at the connection, nor at the other streams.
enum Part {
    Stream(StreamTask),
    /// The next stream of the other side; nothing once no more are taken.
    Accept(Option<BoxFuture<'static, Happened>>),
    Event(BoxFuture<'static, Happened>),
}

enum Happened {
    StreamEnded,
    Accepted(Result<(SendStream, RecvStream), StreamError>),
    /// A unidirectional stream of the other side came, or none ever will.
    Stray(Result<RecvStream, StreamError>),
    /// The node drains.
    Shutdown,
    Closed,
}

impl Future for Part {
    type Output = Happened;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Happened> {
        match &mut *self {
            Self::Stream(task) => Pin::new(task).poll(cx).map(|()| Happened::StreamEnded),
            Self::Event(event) | Self::Accept(Some(event)) => event.as_mut().poll(cx),
            Self::Accept(None) => Poll::Pending,
        }
    }
}

enum Phase {
    /// Until the node begins to drain.
    Serving,
    /// Running calls may end until then; no new ones are taken.
    Draining(BoxFuture<'static, ()>),
    /// The streams are finished; the peer may have the last answers until then.
    Leaving(BoxFuture<'static, ()>),
}

/// Does a connection's work. It resolves when the connection has ended or, after
/// its node began to drain, when the peer has the last answers.
#[must_use = "nothing happens on the connection unless the driver is polled"]
pub struct Driver {
    connection: Connection,
    shared: Arc<Shared>,
    /// Never one alone, as [`Set`](crate::set::Set) is for.
    parts: FuturesUnordered<Part>,
    /// No stream of the other side has come yet.
    first: bool,
    phase: Phase,
}

impl Driver {
    pub(crate) fn new(connection: Connection, shared: Arc<Shared>) -> Self {
        let (strays, closing, draining) =
            (connection.clone(), connection.clone(), connection.clone());
        let closed = async move {
            closing.closed().await;
            Happened::Closed
        };
        let shutdown = async move {
            draining.shutdown().await;
            Happened::Shutdown
        };
        let parts = [
            Part::Event(Box::pin(closed)),
            Part::Event(Box::pin(async move { Happened::Stray(strays.accept_uni().await) })),
            accept(connection.clone()),
            Part::Event(Box::pin(shutdown)),
        ];
        let parts = FuturesUnordered::from_iter(parts);
        Self { connection, shared, parts, first: true, phase: Phase::Serving }
    }

    fn streams(&self) -> impl Iterator<Item = &StreamTask> {
        self.parts.iter().filter_map(|part| match part {
            Part::Stream(task) => Some(task),
            _ => None,
        })
    }

    /// Takes over the streams that have been opened.
    fn take_over(&mut self, cx: &Context<'_>) {
        self.parts.extend(self.shared.opened(cx.waker()).into_iter().map(Part::Stream));
    }

    /// Lets every part that was woken have its turn; whether the connection has ended.
    fn run(&mut self, cx: &mut Context<'_>) -> bool {
        self.take_over(cx);
        while let Poll::Ready(Some(happened)) = self.parts.poll_next_unpin(cx) {
            match happened {
                Happened::Closed => return true,
                Happened::Accepted(Ok(halves)) => {
                    let stream = self.shared.add(halves);
                    if std::mem::take(&mut self.first) {
                        self.shared.set_first(stream);
                    }
                    self.parts.push(accept(self.connection.clone()));
                    self.take_over(cx);
                }
                // Nobody would ever read it, and what nobody reads fills the
                // connection's window. A transport that has none answers with an error.
                Happened::Stray(Ok(_)) => self
                    .connection
                    .close(PROTOCOL_ERROR, "the call protocol has no unidirectional streams"),
                Happened::Shutdown => self.drain(),
                Happened::StreamEnded | Happened::Accepted(Err(_)) | Happened::Stray(Err(_)) => {}
            }
        }
        false
    }

    fn drain(&mut self) {
        for part in self.parts.iter_mut() {
            if let Part::Accept(accept) = part {
                *accept = None;
            }
        }
        self.shared.begin_drain();
        self.phase = Phase::Draining(self.shared.timer.sleep(self.shared.limits.drain));
    }

    /// Goes through the phases; ready when there is nothing left to do.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Phase::Draining(deadline) = &mut self.phase {
            let late = deadline.as_mut().poll(cx).is_ready();
            let idle = self.shared.serves_nothing_now() && self.streams().all(StreamTask::is_idle);
            if !idle && !late {
                return Poll::Pending;
            }
            for part in self.parts.iter_mut() {
                if let Part::Stream(task) = part {
                    task.conclude();
                }
            }
            self.phase = Phase::Leaving(self.shared.timer.sleep(LINGER));
            if self.run(cx) {
                return self.end(cx);
            }
        }
        let delivered = self.streams().all(StreamTask::is_delivered);
        match &mut self.phase {
            Phase::Leaving(_) if delivered => Poll::Ready(()),
            Phase::Leaving(deadline) => deadline.as_mut().poll(cx),
            Phase::Serving | Phase::Draining(_) => Poll::Pending,
        }
    }

    /// The connection has ended, and the last answers may have arrived together with
    /// the end.
    fn end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.connection_lost();
        for _ in 0..LAST_TURNS {
            self.run(cx);
            if !self.streams().any(StreamTask::has_more_to_read) {
                break;
            }
        }
        self.shared.close();
        self.parts.clear();
        Poll::Ready(())
    }
}

fn accept(connection: Connection) -> Part {
    Part::Accept(Some(Box::pin(async move { Happened::Accepted(connection.accept_bi().await) })))
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.run(cx) {
            true => self.end(cx),
            false => self.advance(cx),
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.close();
    }
}
