//! The future that does a connection's work, and its orderly end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use alknet_plugin_api::{Closed, Connection, RecvStream, SendStream, StreamError};
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

type Stray = BoxFuture<'static, Result<RecvStream, StreamError>>;

type Accept = BoxFuture<'static, Result<(SendStream, RecvStream), StreamError>>;

enum Phase {
    /// Until the node begins to drain.
    Serving(BoxFuture<'static, ()>),
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
    streams: FuturesUnordered<StreamTask>,
    accept: Option<Accept>,
    /// No stream of the other side has come yet.
    first: bool,
    /// A unidirectional stream of the other side, should there be one. It is
    /// looked at when it wakes, not at each turn.
    stray: FuturesUnordered<Stray>,
    closed: BoxFuture<'static, Closed>,
    phase: Phase,
}

impl Driver {
    pub(crate) fn new(connection: Connection, shared: Arc<Shared>) -> Self {
        let (closing, draining) = (connection.clone(), connection.clone());
        let strays = connection.clone();
        let stray: Stray = Box::pin(async move { strays.accept_uni().await });
        Self {
            stray: FuturesUnordered::from_iter([stray]),
            accept: Some(accept(connection.clone())),
            first: true,
            connection,
            shared,
            streams: FuturesUnordered::new(),
            closed: Box::pin(async move { closing.closed().await }),
            phase: Phase::Serving(Box::pin(async move { draining.shutdown().await })),
        }
    }

    fn accept_streams(&mut self, cx: &mut Context<'_>) {
        while let Some(accepting) = &mut self.accept {
            match accepting.as_mut().poll(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(halves)) => {
                    let stream = self.shared.add(halves);
                    if std::mem::take(&mut self.first) {
                        self.shared.set_first(stream);
                    }
                    self.accept = Some(accept(self.connection.clone()));
                }
                Poll::Ready(Err(_)) => self.accept = None,
            }
        }
    }

    /// Nobody would ever read it, and what nobody reads fills the connection's
    /// window. A transport that has none answers with an error.
    fn refuse_stray(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Some(Ok(_))) = self.stray.poll_next_unpin(cx) {
            self.connection
                .close(PROTOCOL_ERROR, "the call protocol has no unidirectional streams");
        }
    }

    fn run_streams(&mut self, cx: &mut Context<'_>) {
        self.streams.extend(self.shared.opened(cx.waker()));
        while let Poll::Ready(Some(())) = self.streams.poll_next_unpin(cx) {}
    }

    /// Goes through the phases; ready when there is nothing left to do.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Phase::Serving(shutdown) = &mut self.phase {
            if shutdown.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.accept = None;
            self.shared.begin_drain();
            let drain = self.shared.limits.drain;
            self.phase = Phase::Draining(self.shared.timer.sleep(drain));
        }
        if let Phase::Draining(deadline) = &mut self.phase {
            let idle =
                self.shared.serves_nothing_now() && self.streams.iter().all(StreamTask::is_idle);
            if !idle && deadline.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.streams.iter_mut().for_each(StreamTask::conclude);
            self.phase = Phase::Leaving(self.shared.timer.sleep(LINGER));
            self.run_streams(cx);
        }
        if let Phase::Leaving(deadline) = &mut self.phase
            && !self.streams.iter().all(StreamTask::is_delivered)
            && deadline.as_mut().poll(cx).is_pending()
        {
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

fn accept(connection: Connection) -> Accept {
    Box::pin(async move { connection.accept_bi().await })
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.closed.as_mut().poll(cx).is_ready() {
            // The last answers may have arrived together with the end.
            this.shared.connection_lost();
            for _ in 0..LAST_TURNS {
                this.run_streams(cx);
                if !this.streams.iter().any(StreamTask::has_more_to_read) {
                    break;
                }
            }
            this.shared.close();
            this.streams.clear();
            return Poll::Ready(());
        }
        this.refuse_stray(cx);
        this.accept_streams(cx);
        this.run_streams(cx);
        this.advance(cx)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.close();
    }
}
