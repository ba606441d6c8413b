//! One direction of a stream in memory: a bounded buffer with the ways in which
//! QUIC lets either side end it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;
use tokio::sync::OwnedSemaphorePermit;

use crate::connection::StreamError;

/// How the connection under a pipe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    Closed,
    TimedOut,
}

impl Lost {
    pub(super) fn error(self) -> StreamError {
        match self {
            Self::Closed => StreamError::ConnectionClosed,
            Self::TimedOut => StreamError::Timeout,
        }
    }
}

/// The stream's place in the limit on open streams, given back when both of its
/// directions are over.
pub(super) type Place = Arc<OwnedSemaphorePermit>;

pub(super) struct Pipe {
    state: Mutex<State>,
}

struct State {
    buffer: VecDeque<u8>,
    capacity: usize,
    /// The writer has said that this is all.
    finished: bool,
    /// The writer has seen that the reader's side has everything.
    acknowledged: bool,
    /// The reader has seen the end, clean or not.
    over: bool,
    reset: Option<u64>,
    stopped: Option<u64>,
    lost: Option<Lost>,
    place: Option<Place>,
    reader: Option<Waker>,
    writer: Option<Waker>,
    watcher: Option<Waker>,
}

/// What a change has to do once the lock is released: a waker may run anything.
#[derive(Default)]
struct After {
    wakers: [Option<Waker>; 3],
    place: Option<Place>,
}

impl After {
    fn run(self) {
        drop(self.place);
        self.wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

impl State {
    fn wake_reader(&mut self, after: &mut After) {
        after.wakers[0] = self.reader.take();
    }

    fn wake_writer(&mut self, after: &mut After) {
        after.wakers[1] = self.writer.take();
        after.wakers[2] = self.watcher.take();
    }

    /// Gives the stream's place back once neither side can do more with it.
    fn settle(&mut self, after: &mut After) {
        let given_up = self.stopped.is_some() && (self.finished || self.reset.is_some());
        if self.over || given_up || self.lost.is_some() {
            after.place = self.place.take();
        }
    }
}

impl Pipe {
    pub(super) fn new(capacity: usize, place: Option<Place>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                buffer: VecDeque::new(),
                capacity: capacity.max(1),
                finished: false,
                acknowledged: false,
                over: false,
                reset: None,
                stopped: None,
                lost: None,
                place,
                reader: None,
                writer: None,
                watcher: None,
            }),
        })
    }

    fn change<R>(&self, change: impl FnOnce(&mut State, &mut After) -> R) -> R {
        let mut after = After::default();
        let result = {
            let mut state: MutexGuard<'_, State> =
                self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let result = change(&mut state, &mut after);
            state.settle(&mut after);
            result
        };
        after.run();
        result
    }

    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        self.change(|state, after| {
            if let Some(lost) = state.lost {
                return Poll::Ready(Err(lost.error()));
            }
            if state.finished || state.reset.is_some() {
                return Poll::Ready(Err(StreamError::StreamClosed));
            }
            if let Some(code) = state.stopped {
                return Poll::Ready(Err(StreamError::Stopped(code)));
            }
            let room = state.capacity - state.buffer.len();
            if room == 0 && !data.is_empty() {
                state.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let n = room.min(data.len());
            state.buffer.extend(&data[..n]);
            state.wake_reader(after);
            Poll::Ready(Ok(n))
        })
    }

    pub(super) fn finish(&self) -> Result<(), StreamError> {
        self.change(|state, after| {
            if state.finished || state.reset.is_some() {
                return Err(StreamError::StreamClosed);
            }
            if let Some(lost) = state.lost {
                return Err(lost.error());
            }
            state.finished = true;
            state.wake_reader(after);
            state.wake_writer(after);
            Ok(())
        })
    }

    pub(super) fn reset(&self, code: u64) {
        self.change(|state, after| {
            // A peer that has read the end cannot be told otherwise.
            if state.over || state.reset.is_some() || state.lost.is_some() {
                return;
            }
            state.reset = Some(code);
            state.buffer = VecDeque::new();
            state.wake_reader(after);
            state.wake_writer(after);
        });
    }

    pub(super) fn poll_stopped(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<u64>, StreamError>> {
        self.change(|state, _| {
            if let Some(code) = state.stopped {
                return Poll::Ready(Ok(Some(code)));
            }
            if state.acknowledged || (state.finished && (state.over || state.lost.is_none())) {
                state.acknowledged = true;
                return Poll::Ready(Ok(None));
            }
            if let Some(lost) = state.lost {
                return Poll::Ready(Err(lost.error()));
            }
            if state.reset.is_some() {
                return Poll::Ready(Err(StreamError::StreamClosed));
            }
            state.watcher = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>> {
        self.change(|state, after| {
            if state.stopped.is_some() {
                return Poll::Ready(Err(StreamError::StreamClosed));
            }
            if let Some(code) = state.reset {
                state.over = true;
                return Poll::Ready(Err(StreamError::Reset(code)));
            }
            if !state.buffer.is_empty() {
                let n = buffer.remaining().min(state.buffer.len());
                let (front, back) = state.buffer.as_slices();
                let first = n.min(front.len());
                buffer.put_slice(&front[..first]);
                buffer.put_slice(&back[..n - first]);
                state.buffer.drain(..n);
                state.wake_writer(after);
                return Poll::Ready(Ok(()));
            }
            if state.finished {
                state.over = true;
                return Poll::Ready(Ok(()));
            }
            if let Some(lost) = state.lost {
                return Poll::Ready(Err(lost.error()));
            }
            state.reader = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    pub(super) fn stop(&self, code: u64) {
        self.change(|state, after| {
            let ended = state.over || state.reset.is_some() || state.lost.is_some();
            if ended || state.stopped.is_some() {
                state.over = true;
                return;
            }
            state.stopped = Some(code);
            state.buffer = VecDeque::new();
            state.wake_reader(after);
            state.wake_writer(after);
        });
    }

    /// The connection is gone. What the writer's side never saw delivered is
    /// thrown away where `lossy`, as a network may.
    pub(super) fn lose(&self, how: Lost, lossy: bool) {
        self.change(|state, after| {
            if state.lost.is_some() {
                return;
            }
            state.lost = Some(how);
            if lossy && !state.acknowledged && !state.over {
                state.buffer = VecDeque::new();
                state.finished = false;
            }
            state.wake_reader(after);
            state.wake_writer(after);
        });
    }
}
