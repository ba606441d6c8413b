//! A session of WebTransport as a connection.
//!
//! Streams and datagrams are those of the connection underneath, with the session's
//! number before them. Codes are of 32 bits here and have a range of their own
//! there.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use alknet_plugin_api::backend::{BiHalves, ConnectionBackend, RecvBackend, SendBackend};
use alknet_plugin_api::{
    Closed, Connection, ConnectionInfo, ConnectionStats, DatagramError, Identity,
    IdentityAlreadySet, SendStream, Source, StreamError,
};
use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::ReadBuf;
use tokio::sync::{Notify, watch};

use super::frames::put_varint;
use super::incoming::{BIDIRECTIONAL, UNIDIRECTIONAL};
use super::quic::Recv;
use super::sessions::{Arrived, SESSION_GONE};

/// Datagrams that wait to be read; one more drops the oldest.
const DATAGRAMS: usize = 64;

/// One session.
pub(super) struct Session {
    id: u64,
    connection: Connection,
    info: ConnectionInfo,
    bi: Queue<(SendStream, Recv)>,
    uni: Queue<Recv>,
    datagrams: Queue<Bytes>,
    closed: watch::Sender<Option<Closed>>,
    identity: OnceLock<Identity>,
}

impl Session {
    /// The session that was asked for on the stream `id` of `connection`.
    pub(super) fn new(connection: Connection, id: u64, protocol: &str) -> Arc<Self> {
        let info = connection.info().clone();
        Arc::new(Self {
            id,
            info: ConnectionInfo { source: Source::Nested, alpn: protocol.to_owned(), ..info },
            connection,
            bi: Queue::default(),
            uni: Queue::default(),
            datagrams: Queue::default(),
            closed: watch::Sender::new(None),
            identity: OnceLock::new(),
        })
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The session for those who speak a protocol over it.
    pub(super) fn connection(self: &Arc<Self>) -> Connection {
        Connection::new(Arc::new(Backend(self.clone())))
    }

    pub(super) fn arrived(&self, stream: Arrived) {
        match stream {
            stream if self.is_closed() => stream.refuse(SESSION_GONE),
            Arrived::Bi(send, recv) => drop(self.bi.push((send, recv))),
            Arrived::Uni(recv) => drop(self.uni.push(recv)),
        }
    }

    pub(super) fn datagram(&self, datagram: Bytes) {
        if self.datagrams.push(datagram) > DATAGRAMS {
            let _oldest = self.datagrams.waiting.lock().pop_front();
        }
    }

    /// Ends the session; the first end is the one that is told. What waits to be
    /// accepted never will be.
    pub(super) fn end(&self, closed: Closed) {
        let first = self.closed.send_if_modified(|now| {
            let first = now.is_none();
            if first {
                *now = Some(closed);
            }
            first
        });
        if first {
            let bi = std::mem::take(&mut *self.bi.waiting.lock());
            bi.into_iter().for_each(|(send, recv)| Arrived::Bi(send, recv).refuse(SESSION_GONE));
            let uni = std::mem::take(&mut *self.uni.waiting.lock());
            uni.into_iter().for_each(|recv| Arrived::Uni(recv).refuse(SESSION_GONE));
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.borrow().is_some()
    }

    /// How it ended.
    pub(super) fn closed(&self) -> BoxFuture<'static, Closed> {
        let mut closed = self.closed.subscribe();
        Box::pin(async move {
            match closed.wait_for(Option::is_some).await.map(|closed| closed.clone()) {
                Ok(Some(closed)) => closed,
                _ => Closed { code: None, reason: "dropped".into() },
            }
        })
    }

    async fn next<T>(&self, queue: &Queue<T>) -> Result<T, StreamError> {
        tokio::select! {
            biased;
            next = queue.next() => Ok(next),
            _ = self.closed() => Err(StreamError::ConnectionClosed),
        }
    }

    /// What every stream of this kind begins with.
    fn preface(&self, kind: u64) -> Vec<u8> {
        let mut preface = Vec::with_capacity(16);
        put_varint(&mut preface, kind);
        put_varint(&mut preface, self.id);
        preface
    }

    fn sending(self: &Arc<Self>, stream: SendStream, preface: Vec<u8>) -> Sending {
        Sending {
            stream: stream.into_backend(),
            preface: preface.into(),
            session: self.clone(),
            closed: self.closed(),
        }
    }

    fn receiving(self: &Arc<Self>, recv: Recv) -> Receiving {
        Receiving { recv, session: self.clone(), closed: self.closed() }
    }
}

/// What has arrived and is not taken.
struct Queue<T> {
    waiting: Mutex<VecDeque<T>>,
    more: Notify,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), more: Notify::new() }
    }
}

impl<T> Queue<T> {
    /// Adds one, and says how many there are.
    fn push(&self, one: T) -> usize {
        let mut waiting = self.waiting.lock();
        waiting.push_back(one);
        self.more.notify_one();
        waiting.len()
    }

    async fn next(&self) -> T {
        loop {
            if let Some(one) = self.waiting.lock().pop_front() {
                return one;
            }
            self.more.notified().await;
        }
    }
}

struct Backend(Arc<Session>);

type Taken<T> = BoxFuture<'static, Result<T, StreamError>>;

impl ConnectionBackend for Backend {
    fn info(&self) -> &ConnectionInfo {
        &self.0.info
    }

    fn peer_fingerprint(&self) -> Option<String> {
        self.0.connection.backend().peer_fingerprint()
    }

    fn accept_bi(&self) -> Taken<BiHalves> {
        let session = self.0.clone();
        Box::pin(async move {
            let (send, recv) = session.next(&session.bi).await?;
            let send = session.sending(send, Vec::new());
            Ok((Box::new(send) as Box<dyn SendBackend>, Box::new(session.receiving(recv)) as _))
        })
    }

    fn open_bi(&self) -> Taken<BiHalves> {
        let session = self.0.clone();
        Box::pin(async move {
            if session.is_closed() {
                return Err(StreamError::ConnectionClosed);
            }
            let (send, recv) = session.connection.open_bi().await?;
            let send = session.sending(send, session.preface(BIDIRECTIONAL));
            let recv = session.receiving(Recv::new(recv));
            Ok((Box::new(send) as Box<dyn SendBackend>, Box::new(recv) as _))
        })
    }

    fn accept_uni(&self) -> Taken<Box<dyn RecvBackend>> {
        let session = self.0.clone();
        Box::pin(async move {
            let recv = session.next(&session.uni).await?;
            Ok(Box::new(session.receiving(recv)) as Box<dyn RecvBackend>)
        })
    }

    fn open_uni(&self) -> Taken<Box<dyn SendBackend>> {
        let session = self.0.clone();
        Box::pin(async move {
            if session.is_closed() {
                return Err(StreamError::ConnectionClosed);
            }
            let send = session.connection.open_uni().await?;
            let send = session.sending(send, session.preface(UNIDIRECTIONAL));
            Ok(Box::new(send) as Box<dyn SendBackend>)
        })
    }

    fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        let session = &self.0;
        if session.is_closed() {
            return Err(StreamError::ConnectionClosed.into());
        }
        let Some(max) = self.max_datagram_size() else {
            return Err(StreamError::StreamClosed.into());
        };
        if data.len() > max {
            return Err(DatagramError::TooLarge { size: data.len(), max });
        }
        let mut datagram = Vec::with_capacity(8 + data.len());
        put_varint(&mut datagram, session.id / 4);
        datagram.extend_from_slice(&data);
        session.connection.send_datagram(datagram.into())
    }

    fn read_datagram(&self) -> Taken<Bytes> {
        let session = self.0.clone();
        Box::pin(async move { session.next(&session.datagrams).await })
    }

    fn max_datagram_size(&self) -> Option<usize> {
        // The longest number before it.
        self.0.connection.max_datagram_size().map(|max| max.saturating_sub(8))
    }

    fn close(&self, code: u64, reason: &str) {
        self.0.end(Closed { code: Some(code.min(u32::MAX.into())), reason: reason.to_owned() });
    }

    fn closed(&self) -> BoxFuture<'static, Closed> {
        self.0.closed()
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.0.connection.backend().shutdown()
    }

    fn stats(&self) -> ConnectionStats {
        self.0.connection.backend().stats()
    }

    fn set_identity(&self, identity: Identity) -> Result<(), IdentityAlreadySet> {
        self.0.identity.set(identity).map_err(|_| IdentityAlreadySet)
    }

    fn identity(&self) -> Option<Identity> {
        self.0.identity.get().cloned()
    }

    fn as_any(&self) -> Option<&dyn Any> {
        None
    }
}

/// The first of the codes that sessions' own ones have on the connection. Every
/// 31st after it is reserved.
const FIRST_CODE: u64 = 0x52e4_a40f_a8db;

/// A session's code, on the connection.
fn outer(code: u64) -> u64 {
    let code = code.min(u32::MAX.into());
    FIRST_CODE + code + code / 0x1e
}

/// A connection's code, in the session. What is none of its own is none.
fn inner(code: u64) -> u64 {
    let Some(place) = code.checked_sub(FIRST_CODE) else { return 0 };
    match place - place / 0x1f {
        inner if place % 0x1f != 0x1e && inner <= u32::MAX.into() => inner,
        _ => 0,
    }
}

fn translated(error: StreamError) -> StreamError {
    match error {
        StreamError::Reset(code) => StreamError::Reset(inner(code)),
        StreamError::Stopped(code) => StreamError::Stopped(inner(code)),
        other => other,
    }
}

struct Sending {
    stream: Box<dyn SendBackend>,
    /// What has to be sent before anything else.
    preface: Bytes,
    session: Arc<Session>,
    closed: BoxFuture<'static, Closed>,
}

/// Fails what waits once the session has ended.
fn unless_closed<T>(
    session: &Session,
    closed: &mut BoxFuture<'static, Closed>,
    cx: &mut Context<'_>,
    poll: Poll<Result<T, StreamError>>,
) -> Poll<Result<T, StreamError>> {
    match poll {
        Poll::Ready(result) => Poll::Ready(result.map_err(translated)),
        Poll::Pending if session.is_closed() || closed.as_mut().poll(cx).is_ready() => {
            Poll::Ready(Err(StreamError::ConnectionClosed))
        }
        Poll::Pending => Poll::Pending,
    }
}

impl Sending {
    fn poll_preface(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        while !self.preface.is_empty() {
            let n = ready!(self.stream.poll_write(cx, &self.preface))?;
            self.preface.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Self, &mut Context<'_>) -> Poll<Result<T, StreamError>>,
    ) -> Poll<Result<T, StreamError>> {
        if self.session.is_closed() {
            return Poll::Ready(Err(StreamError::ConnectionClosed));
        }
        let polled = poll(self, cx);
        unless_closed(&self.session, &mut self.closed, cx, polled)
    }
}

impl SendBackend for Sending {
    fn id(&self) -> u64 {
        self.stream.id()
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        self.poll(cx, |this, cx| {
            ready!(this.poll_preface(cx))?;
            this.stream.poll_write(cx, data)
        })
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.stream.poll_flush(cx)
    }

    /// A stream that ends before anything was written on it is not of the session.
    fn finish(&mut self) -> Result<(), StreamError> {
        match self.preface.is_empty() {
            true => self.stream.finish(),
            false => {
                self.stream.reset(outer(0));
                Ok(())
            }
        }
    }

    fn reset(&mut self, code: u64) {
        let code = if self.session.is_closed() { SESSION_GONE } else { outer(code) };
        self.stream.reset(code);
    }

    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, StreamError>> {
        self.poll(cx, |this, cx| this.stream.poll_stopped(cx).map_ok(|stopped| stopped.map(inner)))
    }

    fn set_priority(&mut self, priority: i32) {
        self.stream.set_priority(priority);
    }
}

struct Receiving {
    recv: Recv,
    session: Arc<Session>,
    closed: BoxFuture<'static, Closed>,
}

impl RecvBackend for Receiving {
    fn id(&self) -> u64 {
        self.recv.id()
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>> {
        if self.session.is_closed() {
            return Poll::Ready(Err(StreamError::ConnectionClosed));
        }
        let polled = self.recv.poll_into(cx, buffer);
        unless_closed(&self.session, &mut self.closed, cx, polled)
    }

    fn stop(&mut self, code: u64) {
        self.recv.stop(outer(code));
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        let code = if self.session.is_closed() { SESSION_GONE } else { outer(0) };
        self.recv.stop(code);
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod connection_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_a_session_have_a_range_of_their_own() {
        for (within, without) in [
            (0, 0x52e4_a40f_a8db),
            (0x1d, 0x52e4_a40f_a8f8),
            // The one between is reserved.
            (0x1e, 0x52e4_a40f_a8fa),
            (u64::from(u32::MAX), 0x52e5_ac98_3162),
        ] {
            assert_eq!((outer(within), inner(without)), (without, within));
        }
        for foreign in [0, 0x10c, 0x52e4_a40f_a8f9, 0x52e5_ac98_3163, u64::MAX >> 2] {
            assert_eq!(inner(foreign), 0, "{foreign:#x}");
        }
    }
}
