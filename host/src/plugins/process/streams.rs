//! Halves of streams, from the host's side: a task for each carries bytes between
//! the transport and the child.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use alknet_plugin_api::backend::{RecvBackend, SendBackend};
use alknet_plugin_api::{SendStream, StreamError};
use bytes::{Buf, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncWrite, ReadBuf};

use super::session::{Finishing, Session, Violation};
use super::wire::{CHUNK, Id, ToChild, WINDOW};

/// Chunks of a stream in a row.
const IN_A_ROW: usize = 16;

thread_local! {
    static CHUNKS: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

/// What the child writes, on its way to the peer.
pub(super) struct Outgoing {
    finishing: Arc<Finishing>,
    state: Mutex<OutState>,
}

#[derive(Default)]
struct OutState {
    came: VecDeque<Bytes>,
    /// Bytes that the child has been given no credit for since.
    owed: u32,
    /// How the plugin ended it.
    end: Option<End>,
    priority: Option<i32>,
    /// Nothing is taken any more.
    over: bool,
    pump: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Finish,
    Reset(u64),
    Release,
}

impl Outgoing {
    pub(super) fn new(finishing: Arc<Finishing>) -> Self {
        Self { finishing, state: Mutex::default() }
    }

    pub(super) fn data(&self, data: Bytes) -> Result<(), Violation> {
        let mut state = self.state.lock();
        let owed = state.owed as usize + data.len();
        if owed > WINDOW as usize {
            return Err("more of a stream than it may send".into());
        }
        state.owed = owed as u32;
        if !state.over && state.end.is_none() && !data.is_empty() {
            state.came.push_back(data);
            wake(state);
        }
        Ok(())
    }

    pub(super) fn finish(&self) {
        self.end(End::Finish);
    }

    pub(super) fn reset(&self, code: u64) {
        self.end(End::Reset(code));
    }

    pub(super) fn release(&self) {
        self.end(End::Release);
    }

    fn end(&self, end: End) {
        let mut state = self.state.lock();
        if state.end.is_some() || state.over {
            return;
        }
        state.end = Some(end);
        if end == End::Finish {
            self.finishing.begin();
        }
        wake(state);
    }

    pub(super) fn set_priority(&self, priority: i32) {
        let mut state = self.state.lock();
        state.priority = Some(priority);
        wake(state);
    }

    /// Carries on until the stream has ended one way or the other.
    fn poll(
        &self,
        cx: &mut Context<'_>,
        session: &Session,
        id: Id,
        stream: &mut Option<SendStream>,
        done: &mut Done,
    ) -> Poll<()> {
        let mut state = self.state.lock();
        state.pump = Some(cx.waker().clone());
        let Some(half) = stream else { return Poll::Ready(()) };
        if done.told {
            // Nobody reads it; how it ends is the plugin's to say all the same.
            state.came.clear();
            match state.end {
                _ if done.finished => {}
                Some(End::Reset(code)) => half.reset(code),
                Some(End::Finish) => {
                    let _late = half.finish();
                }
                Some(End::Release) => drop(stream.take().map(SendStream::into_backend)),
                None => return Poll::Pending,
            }
            return Poll::Ready(());
        }
        if let Some(priority) = state.priority.take() {
            half.set_priority(priority);
        }
        let mut wrote = false;
        let mut failure = None;
        loop {
            match state.end {
                _ if done.finished => break,
                Some(End::Reset(code)) => {
                    half.reset(code);
                    return Poll::Ready(());
                }
                Some(End::Release) => {
                    drop(stream.take().map(SendStream::into_backend));
                    return Poll::Ready(());
                }
                _ => {}
            }
            let Some(front) = state.came.front_mut() else { break };
            match half.poll_write(cx, front) {
                Poll::Ready(Ok(n)) => {
                    wrote = true;
                    front.advance(n.min(front.len()));
                    if front.is_empty() {
                        state.came.pop_front();
                    }
                }
                Poll::Ready(Err(error)) => {
                    failure = Some(error);
                    break;
                }
                Poll::Pending => break,
            }
        }
        let waiting: usize = state.came.iter().map(Bytes::len).sum();
        let gone = state.owed.saturating_sub(waiting as u32);
        if gone >= WINDOW / 4 || (wrote && waiting == 0 && gone > 0) {
            state.owed -= gone;
            let _gone = session.say(&ToChild::Credit { stream: id, bytes: gone }, b"");
        }
        if failure.is_none() && waiting == 0 && !done.finished {
            if state.end == Some(End::Finish) {
                done.finished = true;
                failure = half.finish().err();
                self.finishing.end();
            } else if wrote && let Poll::Ready(Err(error)) = Pin::new(&mut *half).poll_flush(cx) {
                failure = Some(StreamError::from_io(error));
            }
        }
        let end = match failure {
            Some(StreamError::Stopped(code)) => Ok(Some(code)),
            Some(error) => Err(error.into()),
            None => match half.poll_stopped(cx) {
                Poll::Ready(end) => end.map_err(Into::into),
                Poll::Pending => return Poll::Pending,
            },
        };
        let _gone = session.say(&ToChild::Stopped { stream: id, end }, b"");
        done.told = true;
        drop(state);
        self.poll(cx, session, id, stream, done)
    }
}

/// What has been done with what the child writes.
#[derive(Default)]
struct Done {
    /// The transport knows of the clean end.
    finished: bool,
    /// The child knows what became of it on the other side.
    told: bool,
}

fn wake(mut state: parking_lot::MutexGuard<'_, OutState>) {
    let pump = state.pump.take();
    drop(state);
    pump.into_iter().for_each(Waker::wake);
}

/// What the peer sends, on its way to the child.
pub(super) struct Incoming(Mutex<InState>);

struct InState {
    credit: u32,
    /// The plugin reads no more; and the code for the peer, unless it had ended.
    stop: Option<Option<u64>>,
    pump: Option<Waker>,
}

impl Incoming {
    fn new() -> Self {
        Self(Mutex::new(InState { credit: WINDOW, stop: None, pump: None }))
    }

    pub(super) fn credit(&self, bytes: u32) -> Result<(), Violation> {
        let mut over = false;
        self.change(|state| {
            state.credit = state.credit.saturating_add(bytes);
            over = state.credit > WINDOW;
        });
        if over { Err("more credit than there was".into()) } else { Ok(()) }
    }

    pub(super) fn stop(&self, code: Option<u64>) {
        self.change(|state| state.stop = Some(code));
    }

    fn change(&self, change: impl FnOnce(&mut InState)) {
        let mut state = self.0.lock();
        change(&mut state);
        let pump = state.pump.take();
        drop(state);
        pump.into_iter().for_each(Waker::wake);
    }

    fn poll(
        &self,
        cx: &mut Context<'_>,
        session: &Session,
        id: Id,
        recv: &mut Box<dyn RecvBackend>,
    ) -> Poll<()> {
        let mut state = self.0.lock();
        state.pump = Some(cx.waker().clone());
        for _ in 0..IN_A_ROW {
            if let Some(code) = state.stop {
                code.into_iter().for_each(|code| recv.stop(code));
                return Poll::Ready(());
            }
            if state.credit == 0 {
                return Poll::Pending;
            }
            std::task::ready!(session.outbox.poll_room(cx));
            let room = (state.credit as usize).min(CHUNK);
            let read = CHUNKS.with_borrow_mut(|chunk| {
                let mut buffer = ReadBuf::new(&mut chunk[..room]);
                let read = std::task::ready!(recv.poll_read(cx, &mut buffer));
                let read = read.map(|()| buffer.filled().len());
                if let Ok(n) = read
                    && n > 0
                {
                    let _gone = session.say(&ToChild::Data { stream: id }, buffer.filled());
                }
                Poll::Ready(read)
            });
            let end = match std::task::ready!(read) {
                Ok(0) => Ok(()),
                Ok(n) => {
                    state.credit -= n as u32;
                    continue;
                }
                Err(error) => Err(error.into()),
            };
            let _gone = session.say(&ToChild::End { stream: id, end }, b"");
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Session {
    /// Begins to carry a stream, once `tell` has told the child its number.
    pub(super) fn follow(
        self: &Arc<Self>,
        send: Option<Box<dyn SendBackend>>,
        recv: Option<Box<dyn RecvBackend>>,
        finishing: &Arc<Finishing>,
        tell: impl FnOnce(Id),
    ) {
        let id = self.number();
        let Some(node) = self.node.get() else { return };
        let send = send.map(|send| (send, Arc::new(Outgoing::new(finishing.clone()))));
        let recv = recv.map(|recv| (recv, Arc::new(Incoming::new())));
        let mut tables = self.tables.lock();
        tables.outgoing.extend(send.iter().map(|(_, half)| (id, half.clone())));
        tables.incoming.extend(recv.iter().map(|(_, half)| (id, half.clone())));
        drop(tables);
        tell(id);
        if let Some((send, half)) = send {
            node.spawn(self.clone().carry_out(id, SendStream::new(send), half));
        }
        if let Some((mut recv, half)) = recv {
            let session = self.clone();
            node.spawn(async move {
                let carry = std::future::poll_fn(|cx| half.poll(cx, &session, id, &mut recv));
                tokio::select! {
                    () = carry => {}
                    () = session.gone.cancelled() => {}
                }
            });
        }
    }

    /// Carries what the child writes. Where the child is gone, the stream is reset.
    async fn carry_out(self: Arc<Self>, id: Id, stream: SendStream, half: Arc<Outgoing>) {
        let (mut stream, mut done) = (Some(stream), Done::default());
        let carry = std::future::poll_fn(|cx| half.poll(cx, &self, id, &mut stream, &mut done));
        tokio::select! {
            () = carry => {}
            () = self.gone.cancelled() => {}
        }
        let mut state = half.state.lock();
        state.over = true;
        state.came.clear();
        let unfinished = state.end == Some(End::Finish) && !done.finished;
        drop(state);
        if unfinished {
            half.finishing.end();
        }
    }
}
