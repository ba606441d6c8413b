//! Halves of streams, in the child.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use alknet_plugin_api::StreamError;
use alknet_plugin_api::backend::{RecvBackend, SendBackend};
use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::ReadBuf;

use super::super::wire::{CHUNK, Id, ToHost, WINDOW, WireError};
use super::parent::Parent;

/// What the plugin writes.
pub(super) struct Sending {
    parent: Arc<Parent>,
    stream: Id,
    /// The transport's number for it.
    number: u64,
    state: Mutex<SendState>,
}

struct SendState {
    credit: u32,
    /// The plugin has finished or reset it.
    over: bool,
    /// What became of it on the other side.
    ended: Option<Result<Option<u64>, WireError>>,
    writer: Option<Waker>,
    watcher: Option<Waker>,
}

impl Sending {
    pub(super) fn new(parent: Arc<Parent>, stream: Id, number: u64) -> Self {
        let (writer, watcher) = (None, None);
        let state = SendState { credit: WINDOW, over: false, ended: None, writer, watcher };
        Self { parent, stream, number, state: Mutex::new(state) }
    }

    /// The host has handed so much on.
    pub(super) fn credit(&self, bytes: u32) {
        let mut state = self.state.lock();
        state.credit = state.credit.saturating_add(bytes);
        let writer = state.writer.take();
        drop(state);
        writer.into_iter().for_each(Waker::wake);
    }

    /// It has arrived, or nobody reads it.
    pub(super) fn ended(&self, end: Result<Option<u64>, WireError>) {
        let mut state = self.state.lock();
        state.ended = Some(end);
        let woken = [state.writer.take(), state.watcher.take()];
        drop(state);
        woken.into_iter().flatten().for_each(Waker::wake);
    }

    fn over(&self, end: &ToHost) -> Result<(), StreamError> {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.over, true) {
            return Err(StreamError::StreamClosed);
        }
        if let Some(Err(error)) = &state.ended {
            return Err(error.clone().into());
        }
        self.parent.say(end, b"");
        Ok(())
    }
}

/// The plugin's handle of what it writes.
pub(super) struct SendSide(pub(super) Arc<Sending>);

impl SendBackend for SendSide {
    fn id(&self) -> u64 {
        self.0.number
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        let half = &self.0;
        let mut state = half.state.lock();
        match &state.ended {
            Some(Ok(Some(code))) => return Poll::Ready(Err(StreamError::Stopped(*code))),
            Some(Err(error)) => return Poll::Ready(Err(error.clone().into())),
            Some(Ok(None)) => return Poll::Ready(Err(StreamError::StreamClosed)),
            None if state.over => return Poll::Ready(Err(StreamError::StreamClosed)),
            None => {}
        }
        let n = data.len().min(CHUNK).min(state.credit as usize);
        if n == 0 && !data.is_empty() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        // The end of the stream must wake it here, too.
        state.writer = Some(cx.waker().clone());
        ready!(half.parent.outbox.poll_room(cx));
        state.credit -= n as u32;
        half.parent.say(&ToHost::Data { stream: half.stream }, &data[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self) -> Result<(), StreamError> {
        self.0.over(&ToHost::Finish { stream: self.0.stream })
    }

    fn reset(&mut self, code: u64) {
        let _over_before = self.0.over(&ToHost::Reset { stream: self.0.stream, code });
    }

    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, StreamError>> {
        let mut state = self.0.state.lock();
        match &state.ended {
            Some(end) => Poll::Ready(end.clone().map_err(StreamError::from)),
            None => {
                state.watcher = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn set_priority(&mut self, priority: i32) {
        self.0.parent.say(&ToHost::Priority { stream: self.0.stream, priority }, b"");
    }
}

impl Drop for SendSide {
    fn drop(&mut self) {
        self.0.parent.remove_sending(self.0.stream);
        self.0.parent.say(&ToHost::ReleaseSend { stream: self.0.stream }, b"");
    }
}

/// What the plugin reads.
pub(super) struct Receiving {
    parent: Arc<Parent>,
    stream: Id,
    number: u64,
    state: Mutex<RecvState>,
}

#[derive(Default)]
struct RecvState {
    came: VecDeque<Bytes>,
    /// Read, and not told to the host yet.
    read: u32,
    end: Option<Result<(), WireError>>,
    /// The plugin reads no more.
    stopped: bool,
    reader: Option<Waker>,
}

impl Receiving {
    pub(super) fn new(parent: Arc<Parent>, stream: Id, number: u64) -> Self {
        Self { parent, stream, number, state: Mutex::default() }
    }

    pub(super) fn data(&self, data: Bytes) {
        self.change(|state| state.came.push_back(data));
    }

    pub(super) fn ended(&self, end: Result<(), WireError>) {
        self.change(|state| {
            // A reset overtakes what came before it.
            if matches!(end, Err(WireError::Reset(_))) {
                state.came.clear();
            }
            state.end = Some(end);
        });
    }

    fn change(&self, change: impl FnOnce(&mut RecvState)) {
        let mut state = self.state.lock();
        change(&mut state);
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }
}

/// The plugin's handle of what it reads.
pub(super) struct RecvSide(pub(super) Arc<Receiving>);

impl RecvBackend for RecvSide {
    fn id(&self) -> u64 {
        self.0.number
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>> {
        let mut state = self.0.state.lock();
        if state.stopped {
            return Poll::Ready(Err(StreamError::StreamClosed));
        }
        let before = buffer.filled().len();
        while buffer.remaining() > 0
            && let Some(front) = state.came.front_mut()
        {
            let n = front.len().min(buffer.remaining());
            buffer.put_slice(&front[..n]);
            front.advance(n);
            if front.is_empty() {
                state.came.pop_front();
            }
        }
        let read = buffer.filled().len() - before;
        if read == 0 && buffer.remaining() > 0 {
            return match &state.end {
                Some(end) => Poll::Ready(end.clone().map_err(StreamError::from)),
                None => {
                    state.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            };
        }
        state.read += read as u32;
        if state.read >= WINDOW / 4 && state.end.is_none() {
            let bytes = std::mem::take(&mut state.read);
            self.0.parent.say(&ToHost::Credit { stream: self.0.stream, bytes }, b"");
        }
        Poll::Ready(Ok(()))
    }

    fn stop(&mut self, code: u64) {
        let mut state = self.0.state.lock();
        if !std::mem::replace(&mut state.stopped, true) {
            state.came.clear();
            drop(state);
            self.0.parent.remove_receiving(self.0.stream);
            self.0.parent.say(&ToHost::Stop { stream: self.0.stream, code: Some(code) }, b"");
        }
    }
}

impl Drop for RecvSide {
    fn drop(&mut self) {
        let state = self.0.state.lock();
        let (stopped, ended) = (state.stopped, state.end.is_some());
        drop(state);
        if !stopped {
            self.0.parent.remove_receiving(self.0.stream);
            let code = (!ended).then_some(0);
            self.0.parent.say(&ToHost::Stop { stream: self.0.stream, code }, b"");
        }
    }
}
