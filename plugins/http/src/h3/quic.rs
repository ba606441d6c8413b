//! What h3 wants of QUIC, over an alknet connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use alknet_plugin_api::{Connection, RecvStream, SendStream, StreamError};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use parking_lot::Mutex;
use tokio::io::ReadBuf;

use super::frames::Frames;
use super::incoming::Incoming;

/// Bytes that are read from a stream at a time.
const READ: usize = 8 << 10;

/// The connection's side that h3 drives.
pub(crate) struct Quic {
    incoming: Incoming,
    opener: Opener,
    handed: Handed,
}

/// The sending half of the stream that h3 was given last. h3 wraps it, and what it
/// wraps cannot be asked whether the client still listens.
pub(crate) type Handed = Arc<Mutex<Option<Outgoing>>>;

impl Quic {
    pub(crate) fn new(connection: Connection, incoming: Incoming) -> (Self, Handed) {
        let handed = Handed::default();
        (Self { incoming, opener: Opener::new(connection), handed: handed.clone() }, handed)
    }
}

impl quic::Connection<Bytes> for Quic {
    type RecvStream = Recv;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Recv, ConnectionErrorIncoming>> {
        self.incoming.poll_uni(cx).map_err(lost)
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Bidi, ConnectionErrorIncoming>> {
        let (send, recv) = ready!(self.incoming.poll_bi(cx)).map_err(lost)?;
        let send = Send::new(send);
        *self.handed.lock() = Some(send.outgoing.clone());
        Poll::Ready(Ok(Bidi { send, recv }))
    }

    fn opener(&self) -> Opener {
        Opener::new(self.opener.connection.clone())
    }
}

impl quic::OpenStreams<Bytes> for Quic {
    type BidiStream = Bidi;
    type SendStream = Send;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bidi, StreamErrorIncoming>> {
        self.opener.poll_open_bidi(cx)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Send, StreamErrorIncoming>> {
        self.opener.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.opener.close(code, reason);
    }
}

type Opening<T> = Option<BoxFuture<'static, Result<T, StreamError>>>;

/// Opens streams.
pub(crate) struct Opener {
    connection: Connection,
    bi: Opening<(SendStream, RecvStream)>,
    uni: Opening<SendStream>,
}

impl Opener {
    fn new(connection: Connection) -> Self {
        Self { connection, bi: None, uni: None }
    }
}

fn poll_opening<T>(
    opening: &mut Opening<T>,
    cx: &mut Context<'_>,
    open: impl FnOnce() -> BoxFuture<'static, Result<T, StreamError>>,
) -> Poll<Result<T, StreamErrorIncoming>> {
    let opened = ready!(opening.get_or_insert_with(open).as_mut().poll(cx));
    *opening = None;
    Poll::Ready(opened.map_err(broken))
}

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = Bidi;
    type SendStream = Send;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bidi, StreamErrorIncoming>> {
        let connection = &self.connection;
        let open = || {
            let connection = connection.clone();
            Box::pin(async move { connection.open_bi().await }) as BoxFuture<'static, _>
        };
        let (send, recv) = ready!(poll_opening(&mut self.bi, cx, open))?;
        Poll::Ready(Ok(Bidi { send: Send::new(send), recv: Recv::new(recv) }))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<Send, StreamErrorIncoming>> {
        let connection = &self.connection;
        let open = || {
            let connection = connection.clone();
            Box::pin(async move { connection.open_uni().await }) as BoxFuture<'static, _>
        };
        Poll::Ready(ready!(poll_opening(&mut self.uni, cx, open)).map(Send::new))
    }

    /// h3 also says goodbye when it is dropped, while answers may be on their way.
    /// When that is, the handler knows.
    fn close(&mut self, code: Code, reason: &[u8]) {
        if code != Code::H3_NO_ERROR {
            self.connection.close(code.value(), &String::from_utf8_lossy(reason));
        }
    }
}

/// A sending half, shared by h3 and whoever answers the request.
#[derive(Clone)]
pub(crate) struct Outgoing(Arc<Mutex<SendStream>>);

impl Outgoing {
    /// Polls for the client's word that it listens no more (its code), or that it
    /// has everything (`None`).
    pub(crate) fn poll_stopped(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<u64>, StreamError>> {
        self.0.lock().poll_stopped(cx)
    }

    /// Resolves as [`Outgoing::poll_stopped`] does.
    pub(crate) async fn stopped(&self) -> Result<Option<u64>, StreamError> {
        std::future::poll_fn(|cx| self.poll_stopped(cx)).await
    }

    pub(crate) fn id(&self) -> u64 {
        self.0.lock().id()
    }

    /// Ends the stream, unless it has ended.
    pub(crate) fn finish(&self) {
        let _ended_before = self.0.lock().finish();
    }

    pub(crate) fn reset(&self, code: Code) {
        self.0.lock().reset(code.value());
    }
}

/// A sending half as h3 writes to it.
pub(crate) struct Send {
    outgoing: Outgoing,
    id: StreamId,
    writing: Option<WriteBuf<Bytes>>,
}

impl Send {
    fn new(stream: SendStream) -> Self {
        let id = id(stream.id());
        Self { outgoing: Outgoing(Arc::new(Mutex::new(stream))), id, writing: None }
    }
}

impl quic::SendStream<Bytes> for Send {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while let Some(buffer) = &mut self.writing
            && buffer.has_remaining()
        {
            let written = self.outgoing.0.lock().poll_write(cx, buffer.chunk());
            buffer.advance(ready!(written).map_err(broken)?);
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.writing.is_some() {
            return Err(StreamErrorIncoming::Unknown("a write before the last one's end".into()));
        }
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        Poll::Ready(self.outgoing.0.lock().finish().map_err(broken))
    }

    fn reset(&mut self, code: u64) {
        self.outgoing.0.lock().reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.id
    }
}

/// A receiving half. Dropped before its end, it tells the client that no more is
/// needed.
pub(crate) struct Recv {
    stream: RecvStream,
    /// What has been read and not handed on.
    pub(super) buffer: BytesMut,
    /// The lengths of its frames, where it has frames.
    frames: Option<Frames>,
    ended: bool,
}

impl Recv {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self { stream, buffer: BytesMut::new(), frames: None, ended: false }
    }

    /// What follows the next `before` bytes is frames, of at most `bytes` unless they
    /// are data.
    pub(super) fn limit_frames(&mut self, before: u64, bytes: usize) {
        self.frames = Some(Frames::new(before, bytes));
    }

    /// Reads more into the buffer; `false` at the end.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, StreamError>> {
        if self.ended {
            return Poll::Ready(Ok(false));
        }
        if self.buffer.capacity() - self.buffer.len() < READ / 8 {
            self.buffer.reserve(READ);
        }
        let read = tokio_util::io::poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.buffer);
        let read = ready!(read).map_err(StreamError::from_io)?;
        self.ended = read == 0;
        Poll::Ready(Ok(read > 0))
    }

    /// Appends what has arrived; nothing appended is the end.
    pub(super) fn poll_into(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>> {
        if !self.buffer.is_empty() {
            let n = self.buffer.len().min(into.remaining());
            into.put_slice(&self.buffer.split_to(n));
            return Poll::Ready(Ok(()));
        }
        if self.ended || into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = into.filled().len();
        let read = ready!(self.stream.poll_read(cx, into));
        self.ended = read.is_ok() && into.filled().len() == before;
        Poll::Ready(read)
    }

    /// Asks the peer to send no more.
    pub(super) fn stop(&mut self, code: u64) {
        if !self.ended {
            self.ended = true;
            self.stream.stop(code);
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.stream.id()
    }
}

impl Drop for Recv {
    fn drop(&mut self) {
        self.stop(Code::H3_NO_ERROR.value());
    }
}

impl quic::RecvStream for Recv {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        if self.buffer.is_empty() && !ready!(self.poll_more(cx)).map_err(broken)? {
            return Poll::Ready(Ok(None));
        }
        let data = self.buffer.split().freeze();
        if let Some(frames) = &mut self.frames
            && let Err(too_long) = frames.scan(&data)
        {
            return Poll::Ready(Err(StreamErrorIncoming::Unknown(Box::new(too_long))));
        }
        Poll::Ready(Ok(Some(data)))
    }

    fn stop_sending(&mut self, code: u64) {
        self.stop(code);
    }

    fn recv_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

/// Both halves.
pub(crate) struct Bidi {
    send: Send,
    recv: Recv,
}

impl quic::SendStream<Bytes> for Bidi {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, code: u64) {
        self.send.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.send.id
    }
}

impl quic::RecvStream for Bidi {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, code: u64) {
        self.recv.stop(code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

impl quic::BidiStream<Bytes> for Bidi {
    type SendStream = Send;
    type RecvStream = Recv;

    fn split(self) -> (Send, Recv) {
        (self.send, self.recv)
    }
}

/// Streams are numbered as QUIC numbers them, with 62 bits.
fn id(number: u64) -> StreamId {
    match StreamId::try_from(number & (u64::MAX >> 2)) {
        Ok(id) => id,
        Err(_) => unreachable!(),
    }
}

fn lost(error: StreamError) -> ConnectionErrorIncoming {
    match error {
        StreamError::Timeout => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}

fn broken(error: StreamError) -> StreamErrorIncoming {
    match error {
        StreamError::Reset(code) | StreamError::Stopped(code) => {
            StreamErrorIncoming::StreamTerminated { error_code: code }
        }
        StreamError::ConnectionClosed | StreamError::Timeout => {
            StreamErrorIncoming::ConnectionErrorIncoming { connection_error: lost(error) }
        }
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}
