//! A connection, as a handler holds it, and its streams.
//!
//! A handler owns a whole connection and opens or accepts as many streams on it
//! as it likes. The same handler serves QUIC, iroh and a single TLS stream; a
//! source with one stream yields it at the first [`Connection::accept_bi`].

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::backend::{ConnectionBackend, RecvBackend, SendBackend};
use crate::identity::Identity;

/// Anything that reads and writes like one bidirectional stream.
pub trait BiStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> BiStream for T {}

/// What carried a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Source {
    /// QUIC on a UDP socket of the node.
    Quic,
    /// iroh: QUIC to a key, through relays and holes in NATs.
    Iroh,
    /// One TLS stream over TCP.
    Tls,
    /// A stream inside another connection, such as a WebTransport session.
    Nested,
    /// A pair in memory, for tests.
    Memory,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quic => "quic",
            Self::Iroh => "iroh",
            Self::Tls => "tls",
            Self::Nested => "nested",
            Self::Memory => "memory",
        })
    }
}

/// Why a stream or connection operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The connection was closed, by either side.
    #[error("connection closed")]
    ConnectionClosed,
    /// The stream is finished, or the source cannot do this.
    #[error("stream closed")]
    StreamClosed,
    /// Nothing arrived in time.
    #[error("stream timed out")]
    Timeout,
    /// The peer reset the stream that this side reads.
    #[error("stream reset by peer with code {0:#x}")]
    Reset(u64),
    /// The peer stopped reading what this side sends.
    #[error("stream stopped by peer with code {0:#x}")]
    Stopped(u64),
    /// Anything else.
    #[error(transparent)]
    Internal(#[from] io::Error),
}

impl From<StreamError> for io::Error {
    fn from(error: StreamError) -> Self {
        let kind = match &error {
            StreamError::ConnectionClosed => io::ErrorKind::NotConnected,
            StreamError::StreamClosed => io::ErrorKind::BrokenPipe,
            StreamError::Timeout => io::ErrorKind::TimedOut,
            StreamError::Reset(_) | StreamError::Stopped(_) => io::ErrorKind::ConnectionReset,
            StreamError::Internal(_) => {
                let StreamError::Internal(inner) = error else { unreachable!() };
                return inner;
            }
        };
        Self::new(kind, error)
    }
}

impl StreamError {
    /// The [`StreamError`] inside an [`io::Error`] that a stream's `AsyncRead`
    /// or `AsyncWrite` returned, with its codes.
    pub fn from_io(error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(inner) => inner,
            Err(other) => Self::Internal(other),
        }
    }
}

/// Why a datagram was not sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatagramError {
    /// The datagram does not fit the path's packets.
    #[error("datagram of {size} bytes exceeds the maximum of {max} bytes")]
    TooLarge {
        /// Bytes in the datagram.
        size: usize,
        /// The most that [`Connection::max_datagram_size`] allows now.
        max: usize,
    },
    /// The connection is closed or carries no datagrams.
    #[error(transparent)]
    Stream(#[from] StreamError),
}

/// A connection's identity was set before; the first one is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the connection already has an identity; the first one is kept")]
pub struct IdentityAlreadySet;

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// The application's close code, where one was sent or received.
    pub code: Option<u64>,
    /// The reason, for people.
    pub reason: String,
}

/// What does not change during a connection's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// The node's number for the connection, as shown in its status.
    pub id: u64,
    /// What carries it.
    pub source: Source,
    /// The negotiated ALPN.
    pub alpn: String,
    /// The peer's address at the time of the handshake.
    pub remote_addr: Option<SocketAddr>,
    /// The Ed25519 key that the peer has proven to hold.
    pub peer_key: Option<[u8; 32]>,
}

/// Counters of a connection, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionStats {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// UDP payload bytes sent.
    pub bytes_sent: u64,
    /// UDP payload bytes received.
    pub bytes_received: u64,
    /// Packets declared lost.
    pub packets_lost: u64,
    /// Largest packet that the path carries, in bytes.
    pub mtu: u16,
}

/// One connection. Clones are handles to the same connection; when the handler
/// returns, the host closes it.
#[derive(Clone)]
pub struct Connection {
    backend: Arc<dyn ConnectionBackend>,
}

impl Connection {
    /// Wraps a transport.
    pub fn new(backend: Arc<dyn ConnectionBackend>) -> Self {
        Self { backend }
    }

    /// The transport underneath.
    pub fn backend(&self) -> &Arc<dyn ConnectionBackend> {
        &self.backend
    }

    /// Waits for the peer to open a bidirectional stream. A peer's stream shows
    /// only once it has sent something on it. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`StreamError::ConnectionClosed`] when there will be no more.
    pub async fn accept_bi(&self) -> Result<(SendStream, RecvStream), StreamError> {
        let (send, recv) = self.backend.accept_bi().await?;
        Ok((SendStream::new(send), RecvStream::new(recv)))
    }

    /// Opens a bidirectional stream, waiting while the peer's stream limit is
    /// used up.
    ///
    /// # Errors
    /// [`StreamError::StreamClosed`] on a single-stream source.
    pub async fn open_bi(&self) -> Result<(SendStream, RecvStream), StreamError> {
        let (send, recv) = self.backend.open_bi().await?;
        Ok((SendStream::new(send), RecvStream::new(recv)))
    }

    /// Waits for the peer to open a unidirectional stream.
    ///
    /// # Errors
    /// [`StreamError::StreamClosed`] on a single-stream source.
    pub async fn accept_uni(&self) -> Result<RecvStream, StreamError> {
        self.backend.accept_uni().await.map(RecvStream::new)
    }

    /// Opens a unidirectional stream.
    ///
    /// # Errors
    /// [`StreamError::StreamClosed`] on a single-stream source.
    pub async fn open_uni(&self) -> Result<SendStream, StreamError> {
        self.backend.open_uni().await.map(SendStream::new)
    }

    /// Queues an unreliable datagram. A full queue drops the oldest.
    ///
    /// # Errors
    /// [`DatagramError::TooLarge`] with the maximum.
    pub fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        self.backend.send_datagram(data)
    }

    /// Waits for a datagram.
    ///
    /// # Errors
    /// [`StreamError::ConnectionClosed`] when there will be no more.
    pub async fn read_datagram(&self) -> Result<Bytes, StreamError> {
        self.backend.read_datagram().await
    }

    /// Bytes that one datagram can hold now; `None` where the peer or the
    /// source takes none.
    pub fn max_datagram_size(&self) -> Option<usize> {
        self.backend.max_datagram_size()
    }

    /// Closes the connection at once. Data not yet delivered may be lost: wait
    /// for [`SendStream::stopped`], or better for an answer, first. Codes above
    /// 2^62 - 1 do not fit QUIC's encoding and are sent as that value.
    pub fn close(&self, code: u64, reason: &str) {
        self.backend.close(code, reason);
    }

    /// Resolves when the connection has ended, whoever ended it.
    pub async fn closed(&self) -> Closed {
        self.backend.closed().await
    }

    /// Resolves when the node begins to drain: finish what is under way, take
    /// on nothing new, and return.
    pub async fn shutdown(&self) {
        self.backend.shutdown().await;
    }

    /// What does not change during the connection's life.
    pub fn info(&self) -> &ConnectionInfo {
        self.backend.info()
    }

    /// The negotiated ALPN.
    pub fn alpn(&self) -> &str {
        &self.info().alpn
    }

    /// The peer's address at the time of the handshake.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.info().remote_addr
    }

    /// The Ed25519 key that the peer has proven to hold.
    pub fn peer_key(&self) -> Option<[u8; 32]> {
        self.info().peer_key
    }

    /// Counters since the connection's start.
    pub fn stats(&self) -> ConnectionStats {
        self.backend.stats()
    }

    /// Names the peer in logs and status, once. Access is never decided by it.
    ///
    /// # Errors
    /// [`IdentityAlreadySet`]; the first one is kept.
    pub fn set_identity(&self, identity: Identity) -> Result<(), IdentityAlreadySet> {
        self.backend.set_identity(identity)
    }

    /// What [`Connection::set_identity`] was given.
    pub fn identity(&self) -> Option<Identity> {
        self.backend.identity()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info().fmt(f)
    }
}

/// The half of a stream that this side writes.
///
/// Dropped before [`SendStream::finish`], it resets the stream with
/// [`SendStream::DROPPED`].
pub struct SendStream {
    backend: Box<dyn SendBackend>,
    ended: bool,
}

impl SendStream {
    /// Code of the reset that the peer sees when a stream is dropped unfinished:
    /// a dead handler must not read as a clean end.
    pub const DROPPED: u64 = 0x10;

    /// Wraps a transport's half.
    pub fn new(backend: Box<dyn SendBackend>) -> Self {
        Self { backend, ended: false }
    }

    /// Takes the transport's half out again; dropping that decides nothing.
    pub fn into_backend(mut self) -> Box<dyn SendBackend> {
        self.ended = true;
        std::mem::replace(&mut self.backend, Box::new(crate::backend::Gone))
    }

    /// The stream's number, unique on its connection.
    pub fn id(&self) -> u64 {
        self.backend.id()
    }

    /// Writes all of `data`. Dropping the future may leave a part written.
    ///
    /// # Errors
    /// [`StreamError::Stopped`] with the peer's code when it reads no more.
    pub async fn write_all(&mut self, mut data: &[u8]) -> Result<(), StreamError> {
        while !data.is_empty() {
            let n = self.write(data).await?;
            data = &data[n..];
        }
        Ok(())
    }

    /// Writes some of `data` and says how much. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As for [`SendStream::write_all`].
    pub async fn write(&mut self, data: &[u8]) -> Result<usize, StreamError> {
        std::future::poll_fn(|cx| self.backend.poll_write(cx, data)).await
    }

    /// Says that nothing more will be written; the peer reads a clean end after
    /// what has been. Delivery goes on in the background, also when the stream is
    /// dropped. Once its handler has returned `Ok`, a connection stays open for
    /// this, but for at most a second: a handler that must know waits for
    /// [`SendStream::stopped`].
    ///
    /// # Errors
    /// [`StreamError::StreamClosed`] when the stream was finished or reset before.
    pub fn finish(&mut self) -> Result<(), StreamError> {
        self.ended = true;
        self.backend.finish()
    }

    /// Gives the stream up: the peer's reads fail with `code`.
    pub fn reset(&mut self, code: u64) {
        self.ended = true;
        self.backend.reset(code);
    }

    /// Resolves when the peer has received everything (`None`) or has stopped
    /// reading (its code).
    ///
    /// # Errors
    /// [`StreamError::ConnectionClosed`].
    pub async fn stopped(&mut self) -> Result<Option<u64>, StreamError> {
        std::future::poll_fn(|cx| self.backend.poll_stopped(cx)).await
    }

    /// Sends this stream's data before that of streams with a lower priority.
    /// The default is 0.
    pub fn set_priority(&mut self, priority: i32) {
        self.backend.set_priority(priority);
    }

    /// Polls as [`SendStream::write`] does.
    pub fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        self.backend.poll_write(cx, data)
    }

    /// Polls as [`SendStream::stopped`] does.
    pub fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, StreamError>> {
        self.backend.poll_stopped(cx)
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if !self.ended {
            self.backend.reset(Self::DROPPED);
        }
    }
}

impl fmt::Debug for SendStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendStream({})", self.id())
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.backend.poll_write(cx, data).map_err(io::Error::from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.backend.poll_flush(cx).map_err(io::Error::from)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.backend.poll_flush(cx)).map_err(io::Error::from)?;
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(self.finish().map_err(io::Error::from))
    }
}

/// The half of a stream that this side reads. Dropped before its end, it asks
/// the peer to stop, with code 0.
pub struct RecvStream {
    backend: Box<dyn RecvBackend>,
}

impl RecvStream {
    /// Wraps a transport's half.
    pub fn new(backend: Box<dyn RecvBackend>) -> Self {
        Self { backend }
    }

    /// Takes the transport's half out again.
    pub fn into_backend(self) -> Box<dyn RecvBackend> {
        self.backend
    }

    /// The stream's number, unique on its connection.
    pub fn id(&self) -> u64 {
        self.backend.id()
    }

    /// Reads some bytes into `buffer`; `None` at the peer's clean end. Dropping
    /// the future loses nothing.
    ///
    /// # Errors
    /// [`StreamError::Reset`] with the peer's code.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<Option<usize>, StreamError> {
        if buffer.is_empty() {
            return Ok(Some(0));
        }
        std::future::poll_fn(|cx| {
            let mut buf = ReadBuf::new(buffer);
            ready!(self.backend.poll_read(cx, &mut buf))?;
            let n = buf.filled().len();
            Poll::Ready(Ok((n > 0).then_some(n)))
        })
        .await
    }

    /// Reads to the end, at most `limit` bytes.
    ///
    /// # Errors
    /// [`StreamError::Internal`] of kind `InvalidData` when there is more.
    pub async fn read_to_end(&mut self, limit: usize) -> Result<Vec<u8>, StreamError> {
        let mut out = Vec::new();
        let mut chunk = [0; 4096];
        while let Some(n) = self.read(&mut chunk).await? {
            if out.len() + n > limit {
                return Err(StreamError::Internal(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the stream holds more than {limit} bytes"),
                )));
            }
            out.extend_from_slice(&chunk[..n]);
        }
        Ok(out)
    }

    /// Asks the peer to stop sending: its writes fail with `code`.
    pub fn stop(&mut self, code: u64) {
        self.backend.stop(code);
    }

    /// Polls for data; nothing added to `buffer` means the clean end.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>> {
        self.backend.poll_read(cx, buffer)
    }
}

impl fmt::Debug for RecvStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecvStream({})", self.id())
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.backend.poll_read(cx, buffer).map_err(io::Error::from)
    }
}
