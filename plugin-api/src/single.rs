//! A connection out of a single byte stream: TLS over TCP, a stream inside a
//! WebTransport session, a pipe.
//!
//! The stream shows at the first [`Connection::accept_bi`]; after that there are
//! no more, and nothing can be opened. A byte stream carries no codes, so:
//!
//! - a finished send half is flushed and shut down; a reset one never is, and the
//!   peer sees the stream break off when the connection ends;
//! - stopping the peer only stops reading;
//! - closing drops what is not finished and completes what is, without telling
//!   code or reason.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use alknet_plugin_api::single::SingleStream;
//! use alknet_plugin_api::{ConnectionInfo, Source};
//! use tokio::io::AsyncReadExt;
//!
//! let (near, mut far) = tokio::io::duplex(1024);
//! let (reader, writer) = tokio::io::split(near);
//! let info = ConnectionInfo {
//!     id: 1,
//!     source: Source::Tls,
//!     alpn: "alknet/example".into(),
//!     remote_addr: None,
//!     peer_key: None,
//! };
//! let (connection, driver) = SingleStream::new(info, reader, writer).build();
//! let driver = tokio::spawn(driver);
//!
//! let (mut send, _recv) = connection.accept_bi().await?;
//! send.write_all(b"hello").await?;
//! send.finish()?;
//! connection.close(0, "done");
//!
//! driver.await?;
//! let mut received = String::new();
//! far.read_to_string(&mut received).await?;
//! assert_eq!(received, "hello");
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{self, BoxFuture};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use crate::backend::{BiHalves, ConnectionBackend, RecvBackend, SendBackend, key_fingerprint};
use crate::connection::{
    Closed, Connection, ConnectionInfo, ConnectionStats, DatagramError, IdentityAlreadySet,
    StreamError,
};
use crate::identity::Identity;

type Reader = Pin<Box<dyn AsyncRead + Send>>;
type Writer = Pin<Box<dyn AsyncWrite + Send>>;
type Signal = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// A byte stream about to become a [`Connection`].
pub struct SingleStream {
    info: ConnectionInfo,
    halves: (Reader, Writer),
    peer: Option<String>,
    shutdown: Signal,
}

impl SingleStream {
    /// Takes both halves of a stream and what is known of its peer.
    pub fn new(
        info: ConnectionInfo,
        reader: impl AsyncRead + Send + 'static,
        writer: impl AsyncWrite + Send + 'static,
    ) -> Self {
        Self {
            info,
            halves: (Box::pin(reader), Box::pin(writer)),
            peer: None,
            shutdown: Box::new(|| Box::pin(future::pending())),
        }
    }

    /// Gives the connection a shutdown signal: `signal` makes a future that
    /// resolves when the node drains. Without one it never does.
    #[must_use]
    pub fn shutdown<F>(mut self, signal: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.shutdown = Box::new(move || Box::pin(signal()));
        self
    }

    /// The fingerprint of what the peer has proven to hold, where that is not the
    /// raw key of the connection's info.
    #[must_use]
    pub fn peer_fingerprint(mut self, fingerprint: String) -> Self {
        self.peer = Some(fingerprint);
        self
    }

    /// The connection, and the task that completes what it leaves behind.
    pub fn build(self) -> (Connection, Driver) {
        let shared = Arc::new(Shared {
            info: self.info,
            peer: self.peer,
            shutdown: self.shutdown,
            identity: OnceLock::new(),
            bytes_sent: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            closed: watch::Sender::new(None),
            state: Mutex::new(State { halves: Some(self.halves), ..State::default() }),
        });
        let backend = SingleConnection(Arc::new(Hold(shared.clone())));
        (Connection::new(Arc::new(backend)), Driver { shared })
    }
}

impl fmt::Debug for SingleStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleStream").field("info", &self.info).finish_non_exhaustive()
    }
}

/// Flushes and shuts down the stream once it is finished. Spawn it beside the
/// handler; it resolves when the connection has ended and nothing is left to
/// send. Dropping it earlier ends the connection and cuts off what a finished
/// stream has not handed on.
#[must_use = "a finished stream is completed by its driver"]
pub struct Driver {
    shared: Arc<Shared>,
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shared.lock();
        if let Some(mut writer) = state.finishing.take() {
            // The lock is not held while foreign code runs.
            state.driver = Some(cx.waker().clone());
            state.completing = true;
            drop(state);
            let shut_down = writer.as_mut().poll_shutdown(cx);
            state = self.shared.lock();
            state.completing = false;
            match shut_down {
                Poll::Pending => {
                    state.finishing = Some(writer);
                    return Poll::Pending;
                }
                Poll::Ready(result) => {
                    state.sent = Some(result.is_ok());
                    let watcher = state.watcher.take();
                    let over = state.received || result.is_err();
                    drop(state);
                    watcher.into_iter().for_each(Waker::wake);
                    if over {
                        self.shared.end(None, result.err().map_or_else(String::new, text));
                    }
                    state = self.shared.lock();
                }
            }
        }
        if self.shared.ended() {
            return Poll::Ready(());
        }
        state.driver = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.lock().finishing = None;
        self.shared.end(None, "the stream's driver was dropped".into());
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Driver")
    }
}

fn text(error: io::Error) -> String {
    error.to_string()
}

struct Shared {
    info: ConnectionInfo,
    peer: Option<String>,
    shutdown: Signal,
    identity: OnceLock<Identity>,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    closed: watch::Sender<Option<Closed>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Until they are accepted.
    halves: Option<(Reader, Writer)>,
    /// The writer between `finish` and its shutdown.
    finishing: Option<Writer>,
    /// The driver has taken it out for a moment.
    completing: bool,
    /// Whether the shutdown succeeded.
    sent: Option<bool>,
    /// The peer's end has been read, or this side reads no more.
    received: bool,
    send: Option<Waker>,
    recv: Option<Waker>,
    watcher: Option<Waker>,
    driver: Option<Waker>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> bool {
        self.closed.borrow().is_some()
    }

    fn end(&self, code: Option<u64>, reason: String) {
        let first = self.closed.send_if_modified(|closed| {
            let first = closed.is_none();
            if first {
                *closed = Some(Closed { code, reason });
            }
            first
        });
        if !first {
            return;
        }
        let (halves, wakers) = {
            let mut state = self.lock();
            let state = &mut *state;
            let wakers = [&mut state.send, &mut state.recv, &mut state.watcher, &mut state.driver];
            (state.halves.take(), wakers.map(Option::take))
        };
        drop(halves);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// What an input or output error means for the connection, which it ends.
    fn broken(&self, error: io::Error) -> StreamError {
        self.end(None, error.to_string());
        match error.kind() {
            io::ErrorKind::TimedOut => StreamError::Timeout,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::NotConnected
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => StreamError::ConnectionClosed,
            _ => StreamError::Internal(error),
        }
    }
}

/// Held by the connection and its halves; the last one to go ends it.
struct Hold(Arc<Shared>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.end(None, "dropped".into());
    }
}

struct SingleConnection(Arc<Hold>);

fn closed_stream<T: Send + 'static>() -> BoxFuture<'static, Result<T, StreamError>> {
    Box::pin(future::ready(Err(StreamError::StreamClosed)))
}

impl ConnectionBackend for SingleConnection {
    fn info(&self) -> &ConnectionInfo {
        &self.0.0.info
    }

    fn peer_fingerprint(&self) -> Option<String> {
        let shared = &self.0.0;
        shared.peer.clone().or_else(|| key_fingerprint(&shared.info))
    }

    fn accept_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        // Taken when polled: a future that is dropped unpolled loses nothing.
        let hold = self.0.clone();
        Box::pin(async move {
            let halves = hold.0.lock().halves.take();
            let (reader, writer) = halves.ok_or(StreamError::ConnectionClosed)?;
            let send = SingleSend { hold: hold.clone(), writer: Some(writer) };
            let recv = SingleRecv { hold, reader: Some(reader) };
            Ok((Box::new(send) as Box<dyn SendBackend>, Box::new(recv) as Box<dyn RecvBackend>))
        })
    }

    fn open_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        closed_stream()
    }

    fn accept_uni(&self) -> BoxFuture<'static, Result<Box<dyn RecvBackend>, StreamError>> {
        closed_stream()
    }

    fn open_uni(&self) -> BoxFuture<'static, Result<Box<dyn SendBackend>, StreamError>> {
        closed_stream()
    }

    fn send_datagram(&self, _: Bytes) -> Result<(), DatagramError> {
        Err(StreamError::StreamClosed.into())
    }

    fn read_datagram(&self) -> BoxFuture<'static, Result<Bytes, StreamError>> {
        closed_stream()
    }

    fn max_datagram_size(&self) -> Option<usize> {
        None
    }

    fn close(&self, code: u64, reason: &str) {
        self.0.0.end(Some(code), reason.to_owned());
    }

    fn closed(&self) -> BoxFuture<'static, Closed> {
        let mut closed = self.0.0.closed.subscribe();
        Box::pin(async move {
            match closed.wait_for(Option::is_some).await.map(|closed| closed.clone()) {
                Ok(Some(closed)) => closed,
                _ => Closed { code: None, reason: "dropped".into() },
            }
        })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        (self.0.0.shutdown)()
    }

    fn stats(&self) -> ConnectionStats {
        ConnectionStats {
            rtt: Duration::ZERO,
            bytes_sent: self.0.0.bytes_sent.load(Ordering::Relaxed),
            bytes_received: self.0.0.bytes_received.load(Ordering::Relaxed),
            packets_lost: 0,
            mtu: 0,
        }
    }

    fn set_identity(&self, identity: Identity) -> Result<(), IdentityAlreadySet> {
        self.0.0.identity.set(identity).map_err(|_| IdentityAlreadySet)
    }

    fn identity(&self) -> Option<Identity> {
        self.0.0.identity.get().cloned()
    }
}

struct SingleSend {
    hold: Arc<Hold>,
    writer: Option<Writer>,
}

impl SingleSend {
    /// Runs `poll` on the writer and sees to it that the connection's end wakes
    /// the caller as well.
    fn poll_writer<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut (dyn AsyncWrite + Send)>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<Result<T, StreamError>> {
        let shared = &self.hold.0;
        let Some(writer) = &mut self.writer else {
            return Poll::Ready(Err(StreamError::StreamClosed));
        };
        if shared.ended() {
            self.writer = None;
            return Poll::Ready(Err(StreamError::ConnectionClosed));
        }
        match poll(writer.as_mut(), cx) {
            Poll::Ready(Ok(value)) => Poll::Ready(Ok(value)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(shared.broken(error))),
            Poll::Pending => {
                shared.lock().send = Some(cx.waker().clone());
                if shared.ended() {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }
}

impl SendBackend for SingleSend {
    fn id(&self) -> u64 {
        0
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        let n = ready!(self.poll_writer(cx, |writer, cx| writer.poll_write(cx, data)))?;
        if n == 0 && !data.is_empty() {
            let error = io::Error::from(io::ErrorKind::WriteZero);
            return Poll::Ready(Err(self.hold.0.broken(error)));
        }
        self.hold.0.bytes_sent.fetch_add(n as u64, Ordering::Relaxed);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if self.writer.is_none() {
            return Poll::Ready(Ok(()));
        }
        self.poll_writer(cx, |writer, cx| writer.poll_flush(cx))
    }

    fn finish(&mut self) -> Result<(), StreamError> {
        let writer = self.writer.take().ok_or(StreamError::StreamClosed)?;
        if self.hold.0.ended() {
            return Err(StreamError::ConnectionClosed);
        }
        let driver = {
            let mut state = self.hold.0.lock();
            state.finishing = Some(writer);
            state.driver.take()
        };
        driver.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Keeps the writer open but unused: shutting it down would read as a clean
    /// end, and dropping one half of a stream may too.
    fn reset(&mut self, _: u64) {}

    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, StreamError>> {
        let mut state = self.hold.0.lock();
        match state.sent {
            Some(true) => Poll::Ready(Ok(None)),
            Some(false) => Poll::Ready(Err(StreamError::ConnectionClosed)),
            None if self.hold.0.ended() && state.finishing.is_none() && !state.completing => {
                Poll::Ready(Err(StreamError::ConnectionClosed))
            }
            None => {
                state.watcher = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn set_priority(&mut self, _: i32) {}
}

struct SingleRecv {
    hold: Arc<Hold>,
    reader: Option<Reader>,
}

impl SingleRecv {
    /// The peer's end, or this side's interest in it, is over.
    fn over(&self) {
        let both = {
            let mut state = self.hold.0.lock();
            state.received = true;
            state.sent.is_some()
        };
        if both {
            self.hold.0.end(None, String::new());
        }
    }
}

impl RecvBackend for SingleRecv {
    fn id(&self) -> u64 {
        0
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>> {
        let shared = &self.hold.0;
        let Some(reader) = &mut self.reader else {
            return Poll::Ready(Err(StreamError::StreamClosed));
        };
        if shared.ended() {
            // The end of both directions ends the connection, but was clean.
            let clean = shared.lock().received;
            return Poll::Ready(if clean { Ok(()) } else { Err(StreamError::ConnectionClosed) });
        }
        let before = buffer.filled().len();
        match reader.as_mut().poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                let n = buffer.filled().len() - before;
                shared.bytes_received.fetch_add(n as u64, Ordering::Relaxed);
                if n == 0 && buffer.remaining() > 0 {
                    self.over();
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(shared.broken(error))),
            Poll::Pending => {
                shared.lock().recv = Some(cx.waker().clone());
                if shared.ended() {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }

    fn stop(&mut self, _: u64) {
        if self.reader.take().is_some() {
            self.over();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::connection::Source;

    fn info() -> ConnectionInfo {
        ConnectionInfo {
            id: 1,
            source: Source::Tls,
            alpn: "alknet/test".into(),
            remote_addr: None,
            peer_key: None,
        }
    }

    fn single() -> (DuplexStream, Connection, tokio::task::JoinHandle<()>) {
        let (near, far) = tokio::io::duplex(1024);
        let (reader, writer) = tokio::io::split(near);
        let (connection, driver) = SingleStream::new(info(), reader, writer).build();
        (far, connection, tokio::spawn(driver))
    }

    #[tokio::test]
    async fn k08_a_single_stream_yields_once_and_can_open_nothing() {
        let (mut far, connection, driver) = single();
        assert!(matches!(connection.open_bi().await, Err(StreamError::StreamClosed)));
        assert!(matches!(connection.open_uni().await, Err(StreamError::StreamClosed)));
        assert!(matches!(connection.accept_uni().await, Err(StreamError::StreamClosed)));
        assert!(matches!(connection.read_datagram().await, Err(StreamError::StreamClosed)));
        assert_eq!(connection.max_datagram_size(), None);
        let refused = connection.send_datagram(Bytes::from_static(b"x"));
        assert!(matches!(refused, Err(DatagramError::Stream(StreamError::StreamClosed))));

        let (mut send, mut recv) = connection.accept_bi().await.unwrap();
        assert!(matches!(connection.accept_bi().await, Err(StreamError::ConnectionClosed)));

        far.write_all(b"ping").await.unwrap();
        far.shutdown().await.unwrap();
        assert_eq!(recv.read_to_end(10).await.unwrap(), b"ping");
        send.write_all(b"pong").await.unwrap();
        send.finish().unwrap();
        assert_eq!(send.stopped().await.unwrap(), None);
        let mut answer = Vec::new();
        far.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"pong");
        assert_eq!(connection.closed().await.code, None);
        driver.await.unwrap();
        assert_eq!(connection.stats().bytes_received, 4);
        assert_eq!(connection.stats().bytes_sent, 4);
    }

    #[tokio::test]
    async fn k09_the_first_identity_is_kept() {
        let (_far, connection, _driver) = single();
        let named = |id: &str| Identity { id: id.into(), ..Identity::default() };
        assert_eq!(connection.identity(), None);
        connection.set_identity(named("ada")).unwrap();
        assert_eq!(connection.set_identity(named("bob")), Err(IdentityAlreadySet));
        assert_eq!(connection.identity(), Some(named("ada")));
    }

    /// Notes what is done to it.
    #[derive(Clone, Default)]
    struct Notebook(Arc<Mutex<Vec<&'static str>>>);

    impl AsyncWrite for Notebook {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            data: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.lock().unwrap().push("write");
            Poll::Ready(Ok(data.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.0.lock().unwrap().push("shutdown");
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn k10_a_stream_dropped_unfinished_is_never_shut_down() {
        for (finish, expected) in [(true, &["write", "shutdown"][..]), (false, &["write"])] {
            let notes = Notebook::default();
            let (connection, driver) =
                SingleStream::new(info(), tokio::io::empty(), notes.clone()).build();
            let (mut send, recv) = connection.accept_bi().await.unwrap();
            send.write_all(b"half an answer").await.unwrap();
            if finish {
                send.finish().unwrap();
            }
            drop((send, recv));
            connection.close(0, "");
            driver.await;
            assert_eq!(*notes.0.lock().unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn a_close_ends_pending_reads_and_completes_what_was_finished() {
        let (mut far, connection, driver) = single();
        let (mut send, mut recv) = connection.accept_bi().await.unwrap();
        let read = tokio::spawn(async move { recv.read(&mut [0; 8]).await });
        send.write_all(b"bye").await.unwrap();
        send.finish().unwrap();
        connection.close(7, "enough");
        assert!(matches!(read.await.unwrap(), Err(StreamError::ConnectionClosed)));
        assert_eq!(connection.closed().await, Closed { code: Some(7), reason: "enough".into() });
        driver.await.unwrap();
        drop(send);
        let mut rest = Vec::new();
        far.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"bye");
    }

    #[tokio::test]
    async fn a_slow_reader_holds_the_shutdown_up_but_not_the_handler() {
        let (mut far, connection, driver) = single();
        let (mut send, _recv) = connection.accept_bi().await.unwrap();
        let sent = vec![7; 1024];
        send.write_all(&sent).await.unwrap();
        send.finish().unwrap();
        let mut received = vec![0; 1024];
        far.read_exact(&mut received).await.unwrap();
        assert_eq!(received, sent);
        assert_eq!(send.stopped().await.unwrap(), None);
        drop(connection);
        drop((send, _recv));
        driver.await.unwrap();
    }

    #[tokio::test]
    async fn a_vanished_peer_closes_the_connection() {
        let (far, connection, driver) = single();
        let (mut send, _recv) = connection.accept_bi().await.unwrap();
        drop(far);
        assert!(matches!(send.write(b"x").await, Err(StreamError::ConnectionClosed)));
        assert_eq!(connection.closed().await.code, None);
        driver.await.unwrap();
    }

    #[tokio::test]
    async fn the_shutdown_signal_is_the_nodes() {
        let drain = watch::Sender::new(false);
        let begun = drain.subscribe();
        let (connection, _driver) =
            SingleStream::new(info(), tokio::io::empty(), tokio::io::sink())
                .shutdown(move || {
                    let mut begun = begun.clone();
                    async move { drop(begun.wait_for(|begun| *begun).await) }
                })
                .build();
        let mut shutdown = Box::pin(connection.shutdown());
        assert!(futures_util::poll!(&mut shutdown).is_pending());
        drain.send_replace(true);
        shutdown.await;
    }
}
