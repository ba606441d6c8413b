//! What a connection's halves and the socket's task share.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker, ready};

use alknet_plugin_api::{Closed, ConnectionInfo, Identity};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use futures_util::{Sink, Stream};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::counted::{Counted, Traffic};
use super::{BUFFER, Signal};
use crate::frame::PREFIX;
use crate::{PROTOCOL_ERROR, reset};

/// What is passed over at once before others have their turn.
const PASSED_PER_TURN: usize = 32;

/// The longest reason that fits into a close frame, in bytes.
const MAX_REASON: usize = 123;

/// Why a socket ends.
pub(super) struct Ending {
    /// What the peer is told; nothing where it ended the socket itself.
    say: Option<(CloseCode, Cow<'static, str>)>,
    /// What this side is told; nothing as long as the peer may have it all.
    closed: Option<Closed>,
    /// Nothing can be said any more.
    lost: bool,
    /// What follows cannot be understood, only passed over.
    garbled: bool,
}

impl Ending {
    /// This side has said all, and lets the peer take it in.
    pub(super) fn finished() -> Self {
        Self { closed: None, ..Self::ours(CloseCode::Away, "shutting down") }
    }

    /// This side has had enough.
    fn ours(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> Self {
        let reason = reason.into();
        let closed = Closed { code: Some(u16::from(code).into()), reason: reason.to_string() };
        Self { say: Some((code, reason)), closed: Some(closed), lost: false, garbled: false }
    }

    fn garbled(code: CloseCode, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { garbled: true, ..Self::ours(code, reason) }
    }

    pub(super) fn silent() -> Self {
        Self::ours(CloseCode::Policy, "no sign of life")
    }

    /// The code that a stream is reset with.
    pub(super) fn reset(code: u64) -> Self {
        match code {
            reset::BAD_FRAME => Self::ours(CloseCode::Protocol, "BAD_FRAME: an empty message"),
            reset::BAD_ENVELOPE => {
                Self::ours(CloseCode::Protocol, "BAD_ENVELOPE: no envelope that can be answered")
            }
            reset::OVERFLOW => Self::ours(CloseCode::Policy, "OVERFLOW: answers are not read"),
            _ => Self::ours(CloseCode::Error, "the stream was given up"),
        }
    }

    /// The code that a connection is closed with.
    pub(super) fn close(code: u64, reason: &str) -> Self {
        let to = match code {
            0 => CloseCode::Normal,
            3 => CloseCode::Away,
            PROTOCOL_ERROR => CloseCode::Protocol,
            _ => CloseCode::Error,
        };
        let reason = &reason[..reason.floor_char_boundary(MAX_REASON)];
        Self::ours(to, reason.to_owned())
    }

    fn theirs(frame: Option<CloseFrame>) -> Self {
        let closed = match frame {
            Some(frame) => Closed {
                code: Some(u16::from(frame.code).into()),
                reason: frame.reason.as_str().to_owned(),
            },
            None => Closed { code: None, reason: "closed by the peer".into() },
        };
        Self { say: None, closed: Some(closed), lost: false, garbled: false }
    }

    pub(super) fn lost(reason: impl Into<String>) -> Self {
        let closed = Closed { code: None, reason: reason.into() };
        Self { say: None, closed: Some(closed), lost: true, garbled: false }
    }

    fn of(error: Error) -> Self {
        match error {
            Error::Capacity(error) => Self::garbled(CloseCode::Size, error.to_string()),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)
            | Error::ConnectionClosed
            | Error::AlreadyClosed
            | Error::Io(_) => Self::lost(error.to_string()),
            other => Self::garbled(CloseCode::Protocol, other.to_string()),
        }
    }
}

/// Who is woken when. The stream underneath knows one waker for all.
#[derive(Default)]
pub(super) struct Wakers {
    pub(super) recv: AtomicWaker,
    pub(super) send: AtomicWaker,
    /// Who waits for the peer to have everything.
    pub(super) stopped: AtomicWaker,
    pub(super) task: AtomicWaker,
    /// The task, where it waits for the stream as well.
    pub(super) task_io: AtomicWaker,
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.recv.wake();
        self.send.wake();
        self.task_io.wake();
    }
}

pub(super) struct Shared<S> {
    pub(super) info: ConnectionInfo,
    pub(super) shutdown: Signal,
    pub(super) identity: OnceLock<Identity>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) closed: watch::Sender<Option<Closed>>,
    pub(super) wakers: Arc<Wakers>,
    waker: Waker,
    pub(super) state: Mutex<State<S>>,
}

impl<S> Shared<S> {
    pub(super) fn new(
        info: ConnectionInfo,
        shutdown: Signal,
        traffic: Arc<Traffic>,
        socket: WebSocketStream<Counted<S>>,
    ) -> Arc<Self> {
        let wakers = Arc::new(Wakers::default());
        Arc::new(Self {
            info,
            shutdown,
            identity: OnceLock::new(),
            traffic,
            closed: watch::Sender::new(None),
            waker: wakers.clone().into(),
            wakers,
            state: Mutex::new(State {
                socket,
                incoming: Incoming::default(),
                partial: BytesMut::new(),
                accepted: false,
                ending: None,
                step: Step::Say,
                reading: false,
                blocked: false,
            }),
        })
    }

    /// What the stream underneath is polled with.
    pub(super) fn context(&self) -> Context<'_> {
        Context::from_waker(&self.waker)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.closed.borrow().is_some()
    }

    pub(super) fn is_ending(&self) -> bool {
        self.state.lock().ending.is_some()
    }

    /// Ends the socket; only the first ending is told.
    pub(super) fn end(&self, mut ending: Ending) {
        let closed = ending.closed.take();
        self.state.lock().ending.get_or_insert(ending);
        if let Some(closed) = closed {
            self.closed.send_if_modified(|known| {
                let first = known.is_none();
                known.get_or_insert(closed);
                first
            });
        }
        let Wakers { recv, send, stopped, task, .. } = &*self.wakers;
        [recv, send, stopped, task].into_iter().for_each(AtomicWaker::wake);
    }
}

/// A message that is being read, with its prefix.
#[derive(Default)]
pub(super) struct Incoming {
    prefix: Bytes,
    message: Bytes,
}

impl Incoming {
    pub(super) fn new(message: Bytes) -> Self {
        // The limit keeps it far below this.
        let size = u32::try_from(message.len()).unwrap_or(u32::MAX);
        Self { prefix: Bytes::copy_from_slice(&size.to_be_bytes()), message }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.prefix.is_empty() && self.message.is_empty()
    }

    pub(super) fn read(&mut self, into: &mut ReadBuf<'_>) {
        for part in [&mut self.prefix, &mut self.message] {
            let n = part.len().min(into.remaining());
            into.put_slice(&part[..n]);
            part.advance(n);
        }
    }
}

/// How far the end has come.
#[derive(Clone, Copy)]
enum Step {
    Say,
    Flush,
    Hear,
    Leave,
}

pub(super) struct State<S> {
    socket: WebSocketStream<Counted<S>>,
    pub(super) incoming: Incoming,
    /// The beginning of a frame whose end has not been written.
    partial: BytesMut,
    /// Whether the one stream has been taken.
    pub(super) accepted: bool,
    pub(super) ending: Option<Ending>,
    step: Step,
    /// Everything that has come has been read, and more is waited for.
    pub(super) reading: bool,
    /// The peer does not take what is sent.
    pub(super) blocked: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> State<S> {
    /// The next binary message.
    pub(super) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Ending>> {
        for _ in 0..PASSED_PER_TURN {
            let message = match Pin::new(&mut self.socket).poll_next(cx) {
                Poll::Pending => {
                    self.reading = true;
                    return Poll::Pending;
                }
                Poll::Ready(message) => message,
            };
            self.reading = false;
            return Poll::Ready(match message {
                Some(Ok(Message::Binary(message))) => Ok(message),
                Some(Ok(Message::Text(_))) => {
                    Err(Ending::ours(CloseCode::Protocol, "a text message; envelopes are binary"))
                }
                Some(Ok(Message::Close(frame))) => Err(Ending::theirs(frame)),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Err(error)) => Err(Ending::of(error)),
                None => Err(Ending::lost("the peer has gone")),
            });
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes frames out of `data` and sends each as a message.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, Ending>> {
        ready!(self.poll_flush(cx))?;
        let mut taken = 0;
        while taken < data.len() {
            let (message, n) = next_message(&mut self.partial, &data[taken..]);
            taken += n;
            let Some(message) = message else { continue };
            let mut socket = Pin::new(&mut self.socket);
            socket.as_mut().start_send(Message::Binary(message)).map_err(Ending::of)?;
            match socket.poll_ready(cx) {
                Poll::Ready(ready) => ready.map_err(Ending::of)?,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(taken))
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ending>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(cx);
        self.blocked = flushed.is_pending();
        flushed.map_err(Ending::of)
    }

    /// Whether a ping is on its way, to be flushed.
    pub(super) fn ping(&mut self, cx: &mut Context<'_>) -> bool {
        let mut socket = Pin::new(&mut self.socket);
        matches!(socket.as_mut().poll_ready(cx), Poll::Ready(Ok(())))
            && socket.start_send(Message::Ping(Bytes::new())).is_ok()
    }

    /// Waits for nothing more.
    pub(super) fn leave(&mut self) {
        self.step = Step::Leave;
    }

    /// Goes through the end of the socket; errors are ends as well.
    pub(super) fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..PASSED_PER_TURN {
            let Some(Ending { say, lost, garbled, .. }) = &self.ending else {
                return Poll::Pending;
            };
            if *lost {
                return Poll::Ready(());
            }
            let (own, garbled) = (say.is_some(), *garbled);
            let mut socket = Pin::new(&mut self.socket);
            match self.step {
                Step::Say => {
                    if let Some((code, reason)) = say {
                        if ready!(socket.as_mut().poll_ready(cx)).is_err() {
                            return Poll::Ready(());
                        }
                        let reason = Utf8Bytes::from(&**reason);
                        let frame = CloseFrame { code: *code, reason };
                        // It fails where the peer was first, whom a flush answers.
                        let _ = socket.start_send(Message::Close(Some(frame)));
                    }
                    self.step = Step::Flush;
                }
                Step::Flush => {
                    let _ = ready!(socket.poll_flush(cx));
                    self.step = if own { Step::Hear } else { Step::Leave };
                }
                // A peer that is still sending may never see the end of a stream
                // that is not read.
                Step::Hear if garbled => {
                    let mut passed = [0; BUFFER];
                    let mut passed = ReadBuf::new(&mut passed);
                    let read =
                        ready!(Pin::new(socket.get_mut().get_mut()).poll_read(cx, &mut passed));
                    if read.is_err() || passed.filled().is_empty() {
                        self.step = Step::Leave;
                    }
                }
                Step::Hear => {
                    if ready!(self.poll_message(cx)).is_err() {
                        self.step = Step::Leave;
                    }
                }
                Step::Leave => {
                    return Pin::new(self.socket.get_mut()).poll_shutdown(cx).map(drop);
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The message that these bytes complete, and how many of them were taken.
fn next_message(partial: &mut BytesMut, data: &[u8]) -> (Option<Bytes>, usize) {
    let size = |from: &[u8]| {
        from.first_chunk::<PREFIX>().map(|prefix| PREFIX + u32::from_be_bytes(*prefix) as usize)
    };
    if partial.is_empty()
        && let Some(size) = size(data)
        && let Some(message) = data.get(PREFIX..size)
    {
        return (Some(Bytes::copy_from_slice(message)), size);
    }
    let wanted = size(partial).unwrap_or(PREFIX);
    let n = data.len().min(wanted - partial.len());
    partial.extend_from_slice(&data[..n]);
    if size(partial) != Some(partial.len()) {
        return (None, n);
    }
    let mut message = std::mem::take(partial).freeze();
    message.advance(PREFIX);
    (Some(message), n)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::write_frame;

    proptest! {
        /// Frames become messages, and messages frames, however they are cut.
        #[test]
        fn c04_frames_and_messages_are_the_same(
            sizes in prop::collection::vec(1usize..300, 1..8), cuts in prop::collection::vec(1usize..40, 1..99)
        ) {
            let mut written = BytesMut::new();
            let sent: Vec<_> = sizes.iter().map(|size| vec![*size as u8; *size]).collect();
            for message in &sent {
                write_frame(&mut written, 300, |out| out.extend_from_slice(message)).unwrap();
            }
            let (mut partial, mut messages, mut read) = (BytesMut::new(), Vec::new(), Vec::new());
            let (mut data, mut cuts) = (&written[..], cuts.iter().cycle());
            while !data.is_empty() {
                let cut = data.len().min(*cuts.next().unwrap());
                let (message, n) = next_message(&mut partial, &data[..cut]);
                messages.extend(message);
                data = &data[n..];
            }
            prop_assert_eq!(&messages, &sent);
            for message in messages {
                let mut incoming = Incoming::new(message);
                while !incoming.is_empty() {
                    let mut room = vec![0; *cuts.next().unwrap()];
                    let mut room = ReadBuf::new(&mut room);
                    incoming.read(&mut room);
                    read.extend_from_slice(room.filled());
                }
            }
            prop_assert_eq!(&read[..], &written[..]);
        }
    }
}
