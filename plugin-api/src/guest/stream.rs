//! Streams: the transport's bytes arrive and leave through `stream<u8>`.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use wit_bindgen::{StreamReader, StreamResult, StreamWriter};

use super::bindings::alknet::plugin::{connections as wit, types};
use super::bindings::wit_stream;
use super::local::Local;
use crate::backend::{RecvBackend, SendBackend};
use crate::connection::StreamError;

/// Bytes that cross in one operation: what measurement found to be enough for
/// the crossing not to matter.
const CHUNK: usize = 64 * 1024;
/// Room to read into even where the caller asks for less.
const READ_AHEAD: usize = 16 * 1024;

impl From<types::StreamError> for StreamError {
    fn from(error: types::StreamError) -> Self {
        match error {
            types::StreamError::ConnectionClosed => Self::ConnectionClosed,
            types::StreamError::StreamClosed => Self::StreamClosed,
            types::StreamError::Timeout => Self::Timeout,
            types::StreamError::Reset(code) => Self::Reset(code),
            types::StreamError::Stopped(code) => Self::Stopped(code),
            types::StreamError::Internal(text) => Self::Internal(io::Error::other(text)),
        }
    }
}

type Boxed<T> = Pin<Box<dyn Future<Output = T>>>;
/// What `stopped` resolves with.
type Stopped = Result<Option<u64>, types::StreamError>;

/// A pipe into the host, and the write that may be under way in it.
enum Outgoing {
    Idle(StreamWriter<u8>, Vec<u8>),
    /// `sent` is what is being written: a caller that polls again offers the
    /// same bytes.
    Busy(Boxed<(StreamWriter<u8>, StreamResult, Vec<u8>)>),
    Closed,
}

pub(super) struct GuestSend {
    // Before the resource: a write under way is cancelled first.
    outgoing: Local<Outgoing>,
    stopped: Local<Option<Boxed<Stopped>>>,
    resource: Local<std::rc::Rc<wit::SendStream>>,
    id: u64,
}

impl GuestSend {
    pub(super) fn new(resource: wit::SendStream) -> Self {
        let (writer, reader) = wit_stream::new();
        resource.connect(reader);
        Self {
            outgoing: Local(Outgoing::Idle(writer, Vec::new())),
            stopped: Local(None),
            id: resource.id(),
            resource: Local(std::rc::Rc::new(resource)),
        }
    }

    /// Why the host takes no more.
    fn failure(&self) -> StreamError {
        self.resource.failure().map_or(StreamError::StreamClosed, StreamError::from)
    }
}

impl SendBackend for GuestSend {
    fn id(&self) -> u64 {
        self.id
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            match std::mem::replace(&mut self.outgoing.0, Outgoing::Closed) {
                Outgoing::Closed => return Poll::Ready(Err(self.failure())),
                Outgoing::Idle(mut writer, mut buffer) => {
                    buffer.clear();
                    buffer.extend_from_slice(&data[..data.len().min(CHUNK)]);
                    self.outgoing.0 = Outgoing::Busy(Box::pin(async move {
                        let (result, rest) = writer.write(buffer).await;
                        (writer, result, rest.into_vec())
                    }));
                }
                Outgoing::Busy(mut write) => {
                    let Poll::Ready((writer, result, rest)) = write.as_mut().poll(cx) else {
                        self.outgoing.0 = Outgoing::Busy(write);
                        return Poll::Pending;
                    };
                    match result {
                        StreamResult::Complete(n) => {
                            self.outgoing.0 = Outgoing::Idle(writer, rest);
                            // A caller that gave up a pending write and now
                            // offers less has seen its bytes leave all the same.
                            return Poll::Ready(Ok(n.min(data.len())));
                        }
                        StreamResult::Cancelled => self.outgoing.0 = Outgoing::Idle(writer, rest),
                        StreamResult::Dropped => {}
                    }
                }
            }
        }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        // A write is only reported when the host has taken it.
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self) -> Result<(), StreamError> {
        self.outgoing.0 = Outgoing::Closed;
        Ok(self.resource.finish()?)
    }

    fn reset(&mut self, code: u64) {
        self.outgoing.0 = Outgoing::Closed;
        self.resource.reset(code);
    }

    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, StreamError>> {
        let resource = &self.resource.0;
        let stopped = self.stopped.0.get_or_insert_with(|| {
            let resource = resource.clone();
            Box::pin(async move { resource.stopped().await })
        });
        let result = ready!(stopped.as_mut().poll(cx));
        self.stopped.0 = None;
        Poll::Ready(result.map_err(StreamError::from))
    }

    fn set_priority(&mut self, priority: i32) {
        self.resource.set_priority(priority);
    }
}

/// A pipe out of the host, what has come out of it, and the read that may be
/// under way.
enum Incoming {
    Idle(StreamReader<u8>, Vec<u8>),
    Busy(Boxed<(StreamReader<u8>, StreamResult, Vec<u8>)>),
    /// The host has closed it.
    Closed,
}

pub(super) struct GuestRecv {
    // Before the resource: a read under way is cancelled first.
    incoming: Local<Incoming>,
    /// How much of the idle pipe's buffer the caller has had.
    taken: usize,
    resource: Local<wit::RecvStream>,
    id: u64,
}

impl GuestRecv {
    pub(super) fn new(resource: wit::RecvStream) -> Self {
        Self {
            incoming: Local(Incoming::Idle(resource.data(), Vec::new())),
            taken: 0,
            id: resource.id(),
            resource: Local(resource),
        }
    }
}

impl RecvBackend for GuestRecv {
    fn id(&self) -> u64 {
        self.id
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            match std::mem::replace(&mut self.incoming.0, Incoming::Closed) {
                Incoming::Closed => {
                    return Poll::Ready(match self.resource.failure() {
                        Some(error) => Err(error.into()),
                        None => Ok(()),
                    });
                }
                Incoming::Idle(reader, arrived) if self.taken < arrived.len() => {
                    let n = buffer.remaining().min(arrived.len() - self.taken);
                    buffer.put_slice(&arrived[self.taken..self.taken + n]);
                    self.taken += n;
                    self.incoming.0 = Incoming::Idle(reader, arrived);
                    return Poll::Ready(Ok(()));
                }
                Incoming::Idle(mut reader, mut room) => {
                    self.taken = 0;
                    room.clear();
                    room.reserve(buffer.remaining().clamp(READ_AHEAD, CHUNK));
                    self.incoming.0 = Incoming::Busy(Box::pin(async move {
                        let (result, arrived) = reader.read(room).await;
                        (reader, result, arrived)
                    }));
                }
                Incoming::Busy(mut read) => {
                    let Poll::Ready((reader, result, arrived)) = read.as_mut().poll(cx) else {
                        self.incoming.0 = Incoming::Busy(read);
                        return Poll::Pending;
                    };
                    if !matches!(result, StreamResult::Dropped) {
                        self.incoming.0 = Incoming::Idle(reader, arrived);
                    }
                }
            }
        }
    }

    fn stop(&mut self, code: u64) {
        self.incoming.0 = Incoming::Closed;
        self.resource.stop(code);
    }
}
