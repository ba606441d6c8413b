//! The streams that a client opens: those of HTTP/3 go to h3, those of WebTransport
//! to their sessions.
//!
//! A stream says what it is by its first bytes. They are looked at here, since h3
//! takes a stream of WebTransport for broken when those bytes come in pieces, and
//! keeps an account of each for good.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use alknet_plugin_api::{Connection, RecvStream, SendStream, StreamError};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use h3::error::Code;

use super::frames::varint;
use super::quic::Recv;
use super::sessions::{Arrived, Sessions};

/// The first number of streams that belong to a session of WebTransport.
pub(super) const BIDIRECTIONAL: u64 = 0x41;
pub(super) const UNIDIRECTIONAL: u64 = 0x54;

/// The first number of the stream with the client's settings.
const CONTROL: u64 = 0;

/// The longest frame of the control stream. None that is of use is long.
const CONTROL_FRAME: usize = 4 << 10;

type Accepting<T> = BoxFuture<'static, Result<T, StreamError>>;
/// A stream whose first bytes have come, unless they do not.
type Looking<T> = BoxFuture<'static, Option<(Kind, T)>>;

/// What may arrive, and how long it may take to say what it is.
pub(super) struct Incoming {
    connection: Connection,
    sessions: Arc<Sessions>,
    patience: Duration,
    head_bytes: usize,
    accepting_bi: Option<Accepting<(SendStream, RecvStream)>>,
    accepting_uni: Option<Accepting<RecvStream>>,
    bi: FuturesUnordered<Looking<(SendStream, Recv)>>,
    uni: FuturesUnordered<Looking<Recv>>,
}

impl Incoming {
    /// `head_bytes` is the longest frame of a request, its data apart.
    pub(super) fn new(
        connection: Connection,
        sessions: Arc<Sessions>,
        patience: Duration,
        head_bytes: usize,
    ) -> Self {
        Self {
            connection,
            sessions,
            patience,
            head_bytes,
            accepting_bi: None,
            accepting_uni: None,
            bi: FuturesUnordered::new(),
            uni: FuturesUnordered::new(),
        }
    }

    /// The next stream that may be a request.
    pub(super) fn poll_bi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(SendStream, Recv), StreamError>> {
        loop {
            let connection = &self.connection;
            let accepting = self.accepting_bi.get_or_insert_with(|| {
                let connection = connection.clone();
                Box::pin(async move { connection.accept_bi().await })
            });
            let Poll::Ready(accepted) = accepting.as_mut().poll(cx) else { break };
            self.accepting_bi = None;
            let (send, recv) = accepted?;
            let patience = self.patience;
            self.bi.push(Box::pin(async move {
                let mut halves = (send, Recv::new(recv));
                match kind(&mut halves.1, BIDIRECTIONAL, patience).await {
                    Some(kind) => Some((kind, halves)),
                    None => {
                        halves.0.reset(Code::H3_REQUEST_INCOMPLETE.value());
                        None
                    }
                }
            }));
        }
        while let Some(looked) = ready!(self.bi.poll_next_unpin(cx)) {
            match looked {
                Some((Kind::Session(session), (send, recv))) => {
                    self.sessions.arrived(session, Arrived::Bi(send, recv));
                }
                Some((Kind::Other(_), (send, mut recv))) => {
                    recv.limit_frames(0, self.head_bytes);
                    return Poll::Ready(Ok((send, recv)));
                }
                None => {}
            }
        }
        Poll::Pending
    }

    /// The next unidirectional stream of HTTP/3.
    pub(super) fn poll_uni(&mut self, cx: &mut Context<'_>) -> Poll<Result<Recv, StreamError>> {
        loop {
            let connection = &self.connection;
            let accepting = self.accepting_uni.get_or_insert_with(|| {
                let connection = connection.clone();
                Box::pin(async move { connection.accept_uni().await })
            });
            let Poll::Ready(accepted) = accepting.as_mut().poll(cx) else { break };
            self.accepting_uni = None;
            let (mut recv, patience) = (Recv::new(accepted?), self.patience);
            self.uni.push(Box::pin(async move {
                kind(&mut recv, UNIDIRECTIONAL, patience).await.map(|kind| (kind, recv))
            }));
        }
        while let Some(looked) = ready!(self.uni.poll_next_unpin(cx)) {
            match looked {
                Some((Kind::Session(session), recv)) => {
                    self.sessions.arrived(session, Arrived::Uni(recv));
                }
                Some((Kind::Other(kind), mut recv)) => {
                    if kind == CONTROL {
                        let before = recv.buffer.first().map_or(0, |first| 1 << (first >> 6));
                        recv.limit_frames(before, CONTROL_FRAME);
                    }
                    return Poll::Ready(Ok(recv));
                }
                None => {}
            }
        }
        Poll::Pending
    }
}

/// What a stream is.
enum Kind {
    /// A stream of this session.
    Session(u64),
    /// A stream that begins with this number.
    Other(u64),
}

/// What a stream is, once it says so. Only what says that it belongs to a session is
/// taken out of it.
async fn kind(recv: &mut Recv, marker: u64, patience: Duration) -> Option<Kind> {
    let looking = std::future::poll_fn(|cx| {
        loop {
            if let Some((kind, rest)) = varint(&recv.buffer) {
                if kind != marker {
                    return Poll::Ready(Some(Kind::Other(kind)));
                }
                if let Some((session, rest)) = varint(rest) {
                    let rest = rest.len();
                    let _marker = recv.buffer.split_to(recv.buffer.len() - rest);
                    return Poll::Ready(Some(Kind::Session(session)));
                }
            }
            if !matches!(ready!(recv.poll_more(cx)), Ok(true)) {
                return Poll::Ready(None);
            }
        }
    });
    tokio::time::timeout(patience, looking).await.ok().flatten()
}
