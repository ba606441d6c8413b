//! One bidirectional stream: reads envelopes, runs the calls requested on it,
//! and gathers what is to be written so that many envelopes leave in one write.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use alknet_plugin_api::{
    CallError, GatewayCall, GatewayEvent, GatewayRequest, Json, RecvStream, SendStream,
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::connection::{Entry, Shared};
use crate::envelope::{self, Event};
use crate::frame::{FrameDecoder, write_frame};
use crate::reset;

/// Bytes waiting to be written above which no further results are taken: a
/// peer that does not read must not make this side's memory grow.
pub(crate) const HIGH_WATER: usize = 64 * 1024;
/// Items that wait for a subscription's consumer before its stream is read no
/// further.
pub(crate) const ITEM_BUFFER: usize = 32;
/// Calls, running or refused, that may wait on one stream whose answers the
/// peer does not read: 256 in flight and 1024 refusals.
const MAX_WAITING: usize = 256 + 1024;
/// Bytes of unfinished frames that a connection's streams may hold together.
/// Each alone may hold one frame, and there may be a thousand of them.
const MAX_HELD: usize = 64 << 20;
/// Frames taken before what they caused is written.
const FRAMES_PER_TURN: usize = 128;
const READ_CHUNK: usize = 16 * 1024;

/// What others append to a stream.
pub(crate) struct StreamHandle {
    pub(crate) id: u64,
    out: Mutex<Out>,
}

#[derive(Default)]
struct Out {
    buffer: BytesMut,
    task: Option<Waker>,
    waiting: Vec<Waker>,
    closed: bool,
    finish: bool,
}

impl StreamHandle {
    pub(crate) fn new(id: u64) -> Self {
        Self { id, out: Mutex::default() }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.out.lock().closed
    }

    /// Ready when more may be appended, or never will be.
    pub(crate) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut out = self.out.lock();
        if out.closed || out.buffer.len() < HIGH_WATER {
            return Poll::Ready(());
        }
        out.waiting.push(cx.waker().clone());
        Poll::Pending
    }

    /// Appends to what the stream's task writes next; `None` on a closed stream.
    pub(crate) fn append<R>(&self, write: impl FnOnce(&mut BytesMut) -> R) -> Option<R> {
        let (result, task) = {
            let mut out = self.out.lock();
            if out.closed {
                return None;
            }
            (write(&mut out.buffer), out.task.take())
        };
        if let Some(task) = task {
            task.wake();
        }
        Some(result)
    }

    /// Finishes the sending side once everything appended has been written.
    pub(crate) fn finish(&self) {
        let task = {
            let mut out = self.out.lock();
            out.finish = true;
            out.task.take()
        };
        if let Some(task) = task {
            task.wake();
        }
    }

    fn close(&self) {
        let waiting = {
            let mut out = self.out.lock();
            out.closed = true;
            out.buffer = BytesMut::new();
            std::mem::take(&mut out.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// A call that this side made, as the stream that reads its answers sees it.
pub(crate) struct Slot {
    pub(crate) handle: Arc<StreamHandle>,
    pub(crate) subscription: bool,
    state: Mutex<SlotState>,
}

#[derive(Default)]
struct SlotState {
    answers: VecDeque<Answer>,
    consumer: Option<Waker>,
    reader: Option<Waker>,
    gone: bool,
}

/// What a caller gets.
pub(crate) enum Answer {
    Item(Json, bool),
    Completed,
    Failed(CallError),
}

impl Slot {
    pub(crate) fn new(handle: Arc<StreamHandle>, subscription: bool) -> Self {
        Self { handle, subscription, state: Mutex::default() }
    }

    pub(crate) fn push(&self, answer: Answer) {
        let consumer = {
            let mut state = self.state.lock();
            if state.gone {
                return;
            }
            state.answers.push_back(answer);
            state.consumer.take()
        };
        if let Some(consumer) = consumer {
            consumer.wake();
        }
    }

    pub(crate) fn poll_pop(&self, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut state = self.state.lock();
        let Some(answer) = state.answers.pop_front() else {
            state.consumer = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        Poll::Ready(answer)
    }

    /// The consumer has left: nothing more is kept, and nothing waits for it.
    pub(crate) fn leave(&self) {
        let reader = {
            let mut state = self.state.lock();
            state.gone = true;
            state.answers.clear();
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn has_room(&self) -> bool {
        let state = self.state.lock();
        state.gone || state.answers.len() < ITEM_BUFFER
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.gone || state.answers.len() < ITEM_BUFFER {
            return Poll::Ready(());
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A call that the other side made. Taking `work` out of it aborts it.
pub(crate) struct Inbound {
    pub(crate) id: Arc<str>,
    work: Mutex<Option<Work>>,
    waker: AtomicWaker,
}

struct Work {
    call: GatewayCall,
    ahead: Option<GatewayEvent>,
    answered: bool,
}

enum Step {
    Event(GatewayEvent, bool),
    Gone,
}

impl Inbound {
    /// Drops the call; its stream's task then forgets it.
    pub(crate) fn abort(&self) -> bool {
        let work = self.work.lock().take();
        self.waker.wake();
        work.is_some()
    }

    /// The next event and whether it is the last. One event is polled ahead, so
    /// that a call's end is known before its answer leaves and its id is free
    /// by the time the caller can use it again.
    fn poll_step(&self, cx: &mut Context<'_>) -> Poll<Step> {
        let mut guard = self.work.lock();
        let Some(work) = guard.as_mut() else { return Poll::Ready(Step::Gone) };
        let event = match work.ahead.take() {
            Some(event) => Some(event),
            None => match work.call.poll_next(cx) {
                Poll::Ready(event) => event,
                Poll::Pending => return Poll::Pending,
            },
        };
        let (event, last) = match event {
            Some(event @ GatewayEvent::Responded(_)) => {
                work.answered = true;
                match work.call.poll_next(cx) {
                    Poll::Ready(None) => (event, true),
                    Poll::Ready(next) => {
                        work.ahead = next;
                        (event, false)
                    }
                    Poll::Pending => (event, false),
                }
            }
            Some(event) => (event, true),
            None if work.answered => {
                *guard = None;
                return Poll::Ready(Step::Gone);
            }
            None => {
                let error = CallError::internal("the operation ended without an answer");
                (GatewayEvent::Error(error), true)
            }
        };
        if last {
            *guard = None;
        }
        Poll::Ready(Step::Event(event, last))
    }
}

/// A call in the set of those that did not answer at once. Dropping it, with its
/// stream, aborts the call.
struct Running {
    inbound: Option<Arc<Inbound>>,
    shared: Arc<Shared>,
}

impl Future for Running {
    type Output = (Running, Step);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(inbound) = self.inbound.as_ref() else { return Poll::Pending };
        inbound.waker.register(cx.waker());
        let Poll::Ready(step) = inbound.poll_step(cx) else { return Poll::Pending };
        let next = Running { inbound: self.inbound.take(), shared: self.shared.clone() };
        Poll::Ready((next, step))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(inbound) = &self.inbound {
            self.shared.forget_inbound(inbound);
            inbound.abort();
        }
    }
}

/// A stream with the calls requested on it. Dropping it aborts them, fails the
/// calls that wait for answers on it, and resets it.
pub(crate) struct StreamTask {
    shared: Arc<Shared>,
    handle: Arc<StreamHandle>,
    send: SendStream,
    recv: RecvStream,
    decoder: FrameDecoder,
    /// The decoder's share of the connection's unfinished frames.
    held: usize,
    running: FuturesUnordered<Running>,
    out: BytesMut,
    paused: Option<Arc<Slot>>,
    read_done: bool,
    finished: bool,
    delivered: bool,
    unflushed: bool,
}

impl StreamTask {
    pub(crate) fn new(
        shared: Arc<Shared>,
        handle: Arc<StreamHandle>,
        (send, recv): (SendStream, RecvStream),
    ) -> Self {
        let decoder = FrameDecoder::new(shared.limits.max_frame);
        Self {
            shared,
            handle,
            send,
            recv,
            decoder,
            held: 0,
            running: FuturesUnordered::new(),
            out: BytesMut::new(),
            paused: None,
            read_done: false,
            finished: false,
            delivered: false,
            unflushed: false,
        }
    }

    fn fail(&mut self, code: u64) -> Poll<()> {
        self.send.reset(code);
        self.recv.stop(code);
        Poll::Ready(())
    }

    /// Takes what has arrived, at most [`FRAMES_PER_TURN`] frames; whether more
    /// may be there, or the code to reset the stream with.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, u64> {
        for _ in 0..FRAMES_PER_TURN {
            if self.read_done {
                return Ok(false);
            }
            if let Some(slot) = &self.paused {
                if slot.poll_room(cx).is_pending() {
                    return Ok(false);
                }
                self.paused = None;
            }
            match self.decoder.next_frame() {
                Ok(Some(frame)) => self.on_frame(&frame, cx)?,
                Ok(None) => {
                    let buffer = self.decoder.buffer();
                    if buffer.len() != self.held {
                        let all = self.shared.hold(self.held, buffer.len());
                        self.held = buffer.len();
                        if all > MAX_HELD.max(2 * self.shared.limits.max_frame) {
                            return Err(reset::OVERFLOW);
                        }
                    }
                    buffer.reserve(READ_CHUNK);
                    match pin!(self.recv.read_buf(buffer)).poll(cx) {
                        Poll::Pending => return Ok(false),
                        Poll::Ready(Ok(0)) => {
                            self.decoder.finish().map_err(|_| reset::BAD_FRAME)?;
                            self.read_done = true;
                            self.handle.close();
                            self.shared.stream_ended(self.handle.id);
                        }
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(_)) => return Err(reset::CANCELLED),
                    }
                }
                Err(_) => return Err(reset::BAD_FRAME),
            }
        }
        Ok(true)
    }

    fn on_frame(&mut self, frame: &Bytes, cx: &mut Context<'_>) -> Result<(), u64> {
        let envelope = envelope::parse(frame).map_err(|_| reset::BAD_ENVELOPE)?;
        let id = envelope.id;
        let answer = match envelope.event {
            Event::Requested(request) => return self.on_request(id, request, cx),
            Event::Aborted { policy, reason } => {
                match self.shared.take_for_abort(&id) {
                    Some(Entry::Inbound(inbound)) => {
                        if let Some(gateway) = &self.shared.gateway {
                            gateway.abort(&id, policy);
                        }
                        inbound.abort();
                    }
                    Some(Entry::Outbound(slot)) => {
                        let reason = reason.unwrap_or_else(|| "aborted by the other side".into());
                        slot.push(Answer::Failed(CallError::aborted(reason)));
                    }
                    None => {}
                }
                return Ok(());
            }
            Event::Responded { output, terminal } => Answer::Item(output, terminal),
            Event::Completed => Answer::Completed,
            Event::Error(error) => Answer::Failed(error),
            Event::Unparsable(kind) => {
                Answer::Failed(CallError::internal(format!("the answer is a malformed {kind}")))
            }
            Event::Unknown => return Ok(()),
        };
        if let Some(slot) = self.shared.slot_for(&id, &answer) {
            slot.push(answer);
            if slot.subscription && !slot.has_room() {
                self.paused = Some(slot);
            }
        } else if matches!(answer, Answer::Item(..)) && self.shared.was_answered(&id) {
            // A second item: what was called is a subscription.
            let _ = write_frame(&mut self.out, usize::MAX, |out| {
                envelope::write_aborted(out, &id, Default::default(), "called, not subscribed to");
            });
        }
        Ok(())
    }

    fn on_request(
        &mut self,
        id: String,
        request: Result<envelope::Request, CallError>,
        cx: &mut Context<'_>,
    ) -> Result<(), u64> {
        if self.shared.is_in_flight(&id) {
            return Err(reset::BAD_ENVELOPE);
        }
        let (request, gateway) = match (request, &self.shared.gateway) {
            (Ok(_), _) if self.shared.is_draining() => {
                return self.refuse(|out| {
                    envelope::write_aborted(out, &id, Default::default(), "shutting down");
                });
            }
            (Ok(request), Some(gateway)) => (request, gateway),
            (Ok(_), None) => {
                let error = CallError::not_found("this side serves no operations");
                return self.refuse(|out| envelope::write_error(out, &id, &error));
            }
            (Err(error), _) => {
                return self.refuse(|out| envelope::write_error(out, &id, &error));
            }
        };
        if self.running.len() >= MAX_WAITING {
            return Err(reset::OVERFLOW);
        }
        let name: Arc<str> = id.as_str().into();
        let call = gateway.dispatch(GatewayRequest {
            request_id: id,
            operation: request.operation,
            input: request.input,
            auth_token: request.auth_token,
            forwarded_for: request.forwarded_for,
            timeout: request.timeout,
            remote_addr: None,
        });
        let inbound = Arc::new(Inbound {
            id: name.clone(),
            work: Mutex::new(Some(Work { call, ahead: None, answered: false })),
            waker: AtomicWaker::new(),
        });
        if !self.shared.insert(name, Entry::Inbound(inbound.clone())) {
            return Err(reset::BAD_ENVELOPE);
        }
        // Most calls answer at once: they never enter the set.
        if self.out.len() < HIGH_WATER
            && let Poll::Ready(step) = inbound.poll_step(cx)
            && self.emit(&inbound, step)
        {
            return Ok(());
        }
        self.running.push(Running { inbound: Some(inbound), shared: self.shared.clone() });
        Ok(())
    }

    /// Appends an answer that no call gives. What a peer causes without reading
    /// it is bounded.
    fn refuse(&mut self, write: impl FnOnce(&mut BytesMut)) -> Result<(), u64> {
        if self.finished {
            return Ok(());
        }
        if self.out.len() > 8 * HIGH_WATER {
            return Err(reset::OVERFLOW);
        }
        write_frame(&mut self.out, usize::MAX, write).map_err(|_| reset::BAD_FRAME)
    }

    /// Appends what a call gave; whether that was its end.
    fn emit(&mut self, inbound: &Arc<Inbound>, step: Step) -> bool {
        let Step::Event(event, last) = step else {
            self.shared.forget_inbound(inbound);
            return true;
        };
        let limit = self.shared.limits.max_frame;
        let id = &*inbound.id;
        let written = write_frame(&mut self.out, limit, |out| match &event {
            GatewayEvent::Responded(output) => envelope::write_response(out, id, output, false),
            GatewayEvent::Completed => envelope::write_completed(out, id),
            GatewayEvent::Error(error) => envelope::write_error(out, id, error),
        });
        let too_large = written.is_err();
        if let Err(error) = written {
            let error = CallError::internal(format!("the answer cannot be sent: {error}"));
            let _ = write_frame(&mut self.out, usize::MAX, |out| {
                envelope::write_error(out, id, &error);
            });
            inbound.abort();
        }
        if last || too_large {
            self.shared.forget_inbound(inbound);
        }
        last || too_large
    }

    /// Takes results while there is room for them; whether there may be more.
    fn run(&mut self, cx: &mut Context<'_>) -> bool {
        for _ in 0..FRAMES_PER_TURN {
            if self.out.len() >= HIGH_WATER {
                return false;
            }
            let Poll::Ready(Some((mut running, step))) = self.running.poll_next_unpin(cx) else {
                return false;
            };
            if let Some(inbound) = running.inbound.take() {
                if !self.emit(&inbound, step) {
                    running.inbound = Some(inbound);
                    self.running.push(running);
                }
            }
        }
        true
    }

    /// Writes what has gathered; `Err` when the peer reads no more.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, ()> {
        let before = self.out.len();
        loop {
            if self.out.is_empty() {
                let mut shared = self.handle.out.lock();
                shared.task = Some(cx.waker().clone());
                if shared.buffer.is_empty() {
                    break;
                }
                std::mem::swap(&mut self.out, &mut shared.buffer);
                let waiting = std::mem::take(&mut shared.waiting);
                drop(shared);
                waiting.into_iter().for_each(Waker::wake);
            }
            match self.send.poll_write(cx, &self.out) {
                Poll::Ready(Ok(n)) => {
                    bytes::Buf::advance(&mut self.out, n);
                    self.unflushed = true;
                }
                Poll::Ready(Err(_)) => return Err(()),
                Poll::Pending => {
                    // Registered here too: what is appended meanwhile needs no
                    // wake-up, as the write's own will find it.
                    return Ok(before >= HIGH_WATER && self.out.len() < HIGH_WATER);
                }
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.send).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => return Err(()),
                Poll::Pending => {}
            }
        }
        let asked = self.handle.out.lock().finish || self.read_done;
        if asked && !self.finished && self.running.is_empty() {
            self.finished = true;
            let _ = self.send.finish();
        }
        Ok(before >= HIGH_WATER)
    }
}

impl Future for StreamTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let more = match this.read(cx) {
            Ok(more) => more,
            Err(code) => return this.fail(code),
        };
        let more = this.run(cx) | more;
        if this.finished {
            return this.poll_end(cx);
        }
        match this.write(cx) {
            Ok(room_again) if more || room_again => cx.waker().wake_by_ref(),
            Ok(_) => {}
            Err(()) => return this.fail(reset::CANCELLED),
        }
        if this.finished {
            return this.poll_end(cx);
        }
        // The peer may stop reading while nothing is there to be written.
        if !this.running.is_empty()
            && let Poll::Ready(Ok(Some(_)) | Err(_)) = this.send.poll_stopped(cx)
        {
            return this.fail(reset::CANCELLED);
        }
        Poll::Pending
    }
}

impl Drop for StreamTask {
    fn drop(&mut self) {
        self.shared.hold(self.held, 0);
        self.handle.close();
        self.shared.stream_ended(self.handle.id);
    }
}

/// Writes `call.aborted` for everything that still runs, then forgets it.
impl StreamTask {
    pub(crate) fn abort_running(&mut self) {
        for running in std::mem::take(&mut self.running) {
            if let Some(inbound) = &running.inbound {
                let _ = write_frame(&mut self.out, usize::MAX, |out| {
                    let policy = Default::default();
                    envelope::write_aborted(out, &inbound.id, policy, "shutting down");
                });
            }
        }
        self.handle.finish();
    }

    /// After the last byte. Who drains closes the connection next, and that
    /// discards what the peer does not have yet, so its receipt is waited for.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.delivered && self.shared.is_draining() {
            // A peer that wants nothing more has all that it wants.
            let _received = ready!(self.send.poll_stopped(cx));
            self.delivered = true;
        }
        if self.read_done { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Finishes the sending side of an idle stream; whether the peer has it all.
    pub(crate) fn settle(&self) -> bool {
        if !self.finished {
            self.handle.finish();
        }
        self.delivered
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.out.is_empty()
    }
}
