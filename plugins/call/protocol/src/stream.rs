//! One bidirectional stream: reads envelopes, runs the calls requested on it,
//! and writes what has gathered in its outbox.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use alknet_plugin_api::{CallError, GatewayRequest, RecvStream, StreamError, code};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::envelope::{self, Event};
use crate::frame::{FrameDecoder, write_frame};
use crate::inbound::{Inbound, Running, Work, emit};
use crate::outbox::{Kind, Outbox, Place};
use crate::reset;
use crate::set::Set;
use crate::slot::{Answer, Slot};
use crate::table::Shared;

/// Frames taken before what they caused is written.
const FRAMES_PER_TURN: usize = 16;
/// Bytes of unfinished frames that a connection's streams may hold together.
/// Each alone may hold one frame, and there may be a thousand of them.
const MAX_HELD: usize = 64 << 20;
/// How long a peer with too many refusals to read may read none of them.
const STALL: Duration = Duration::from_secs(10);

/// Why a stream ends before its time.
enum End {
    /// It is reset with this code.
    Reset(u64),
    /// The connection under it is gone.
    Lost,
}

impl From<StreamError> for End {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::ConnectionClosed | StreamError::Timeout => Self::Lost,
            _ => Self::Reset(reset::CANCELLED),
        }
    }
}

/// A stream with the calls requested on it. Dropping it aborts them, fails the
/// calls that wait for answers on it, and resets it.
pub(crate) struct StreamTask {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    recv: RecvStream,
    decoder: FrameDecoder,
    /// The decoder's share of the connection's unfinished frames.
    held: usize,
    running: Set<Running>,
    /// Taken out of the outbox, not yet written.
    out: BytesMut,
    /// A subscription whose consumer is to take an item before more is read.
    paused: Option<Arc<Slot>>,
    /// Refusals fill the outbox: nothing is read until some are written.
    stalled: Option<BoxFuture<'static, ()>>,
    more_to_read: bool,
    read_done: bool,
    unflushed: bool,
    finished: bool,
    delivered: bool,
}

impl StreamTask {
    pub(crate) fn new(shared: Arc<Shared>, outbox: Arc<Outbox>, recv: RecvStream) -> Self {
        let decoder = FrameDecoder::new(shared.limits.max_frame);
        Self {
            shared,
            outbox,
            recv,
            decoder,
            held: 0,
            running: Set::default(),
            out: BytesMut::new(),
            paused: None,
            stalled: None,
            more_to_read: true,
            read_done: false,
            unflushed: false,
            finished: false,
            delivered: false,
        }
    }

    /// Whether everything that was asked on it is answered and written.
    pub(crate) fn is_idle(&self) -> bool {
        let written = self.out.is_empty() && self.outbox.is_empty() && !self.unflushed;
        written && self.running.is_empty() && !self.more_to_read
    }

    /// Whether what has arrived is not read yet, for no fault of its consumers.
    pub(crate) fn has_more_to_read(&self) -> bool {
        self.more_to_read
    }

    /// Whether the peer has everything, and knows that this was all.
    pub(crate) fn is_delivered(&self) -> bool {
        self.delivered
    }

    /// Ends the sending side after what is still to be written, and says
    /// `call.aborted` for what still runs.
    pub(crate) fn conclude(&mut self) {
        for running in self.running.take() {
            self.outbox.append(Kind::Answer, |out| {
                abort_frame(out, &running.inbound.id, "shutting down");
            });
        }
        self.outbox.finish();
    }

    fn step(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        self.unflushed |= self.outbox.task_awake();
        self.more_to_read = self.read(cx)?;
        if self.shared.is_lost() {
            if self.more_to_read {
                cx.waker().wake_by_ref();
            }
            return Ok(if self.more_to_read { Poll::Pending } else { Poll::Ready(()) });
        }
        match self.serve(cx) {
            // What has arrived before the end is read before it is acted on.
            Err(End::Lost) => {
                self.shared.connection_lost();
                cx.waker().wake_by_ref();
                Ok(Poll::Pending)
            }
            other => other,
        }
    }

    /// Everything but reading.
    fn serve(&mut self, cx: &mut Context<'_>) -> Result<Poll<()>, End> {
        let more = self.run(cx);
        let progress = self.write(cx)?;
        if let Some(stalled) = &mut self.stalled {
            if self.outbox.has_refusal_room() {
                self.stalled = None;
                self.more_to_read = true;
            } else if progress {
                *stalled = self.shared.timer.sleep(STALL);
                cx.waker().wake_by_ref();
            }
        }
        if more || self.more_to_read {
            cx.waker().wake_by_ref();
        }
        if self.finished {
            // A peer that is told to go before it has the end may never have it.
            self.delivered =
                self.delivered || self.outbox.with_send(|send| send.poll_stopped(cx)).is_ready();
            return Ok(if self.delivered && self.read_done {
                Poll::Ready(())
            } else {
                Poll::Pending
            });
        }
        // The peer may stop reading while nothing is there to be written.
        if !self.running.is_empty()
            && let Poll::Ready(stopped) = self.outbox.with_send(|send| send.poll_stopped(cx))
            && stopped?.is_some()
        {
            return Err(End::Reset(reset::CANCELLED));
        }
        Ok(Poll::Pending)
    }

    /// Takes what has arrived, at most [`FRAMES_PER_TURN`] frames; whether more
    /// may be there.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
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
            if let Some(stalled) = &mut self.stalled {
                return match stalled.as_mut().poll(cx) {
                    Poll::Ready(()) => Err(End::Reset(reset::OVERFLOW)),
                    Poll::Pending => Ok(false),
                };
            }
            match self.decoder.next_frame() {
                Ok(Some(frame)) => self.on_frame(&frame, cx)?,
                Ok(None) => {
                    self.count_held()?;
                    let mut room = self.decoder.room();
                    match pin!(self.recv.read_buf(&mut room)).poll(cx) {
                        Poll::Pending => return Ok(false),
                        Poll::Ready(Ok(0)) => {
                            self.decoder.finish().map_err(|_| End::Reset(reset::BAD_FRAME))?;
                            self.read_done = true;
                            self.outbox.peer_finished();
                            self.shared.stream_ended(self.outbox.stream);
                        }
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(error)) => return Err(StreamError::from_io(error).into()),
                    }
                }
                Err(_) => return Err(End::Reset(reset::BAD_FRAME)),
            }
        }
        Ok(true)
    }

    /// Keeps the connection's sum of unfinished frames.
    fn count_held(&mut self) -> Result<(), End> {
        let now = self.decoder.buffer().len();
        if now == self.held {
            return Ok(());
        }
        let all = self.shared.hold(self.held, now);
        self.held = now;
        match all > MAX_HELD.max(2 * self.shared.limits.max_frame) {
            true => Err(End::Reset(reset::OVERFLOW)),
            false => Ok(()),
        }
    }

    fn on_frame(&mut self, frame: &Bytes, cx: &mut Context<'_>) -> Result<(), End> {
        let bad = |_| End::Reset(reset::BAD_ENVELOPE);
        let (id, event) = envelope::read(frame).map_err(bad)?;
        let answer = match event {
            Event::Requested(request) => return self.on_request(id.into_owned(), request, cx),
            Event::Aborted { policy, reason } => {
                if let Some(inbound) = self.shared.take_inbound(&id) {
                    if let Some(gateway) = &self.shared.gateway {
                        gateway.abort(&id, policy);
                    }
                    inbound.abort();
                    return Ok(());
                }
                Answer::Failed(CallError::aborted(
                    reason.unwrap_or_else(|| "aborted by the other side".into()),
                ))
            }
            Event::Responded { output, terminal } => Answer::Item(output, terminal),
            Event::Completed => Answer::Completed,
            Event::Error(error) => Answer::Failed(error),
            Event::Unparsable(kind) => {
                Answer::Failed(CallError::internal(format!("the answer is a malformed {kind}")))
            }
            Event::Unknown => return Ok(()),
        };
        // Ids that this side never gave are nobody's.
        let Some(number) = self.shared.ids.number(&id) else { return Ok(()) };
        if let Some(slot) = self.shared.slot_for(number, &answer) {
            slot.push(answer);
            if slot.subscription && !slot.has_room() {
                self.paused = Some(slot);
            }
        } else if matches!(answer, Answer::Item(..)) && self.shared.was_answered(number) {
            // A second item: what was called is a subscription.
            self.outbox
                .append(Kind::Abort, |out| abort_frame(out, &id, "called, not subscribed to"));
        }
        Ok(())
    }

    fn on_request(
        &mut self,
        id: String,
        request: Result<envelope::Request, CallError>,
        cx: &mut Context<'_>,
    ) -> Result<(), End> {
        if self.shared.is_lost() {
            return Ok(());
        }
        if self.shared.is_in_flight(&id) {
            return Err(End::Reset(reset::BAD_ENVELOPE));
        }
        let request = match request {
            Ok(request) => request,
            Err(error) => return self.refuse(|out| envelope::write_error(out, &id, &error)),
        };
        if self.shared.is_draining() {
            return self.refuse(|out| {
                envelope::write_aborted(out, &id, Default::default(), "shutting down");
            });
        }
        let Some(gateway) = &self.shared.gateway else {
            let error = CallError::not_found("this side serves no operations");
            return self.refuse(|out| envelope::write_error(out, &id, &error));
        };
        if !self.shared.has_inbound_room() {
            let error = CallError::new(
                code::RESOURCE_EXHAUSTED,
                format!("{} calls are in flight on the connection", self.shared.limits.in_flight),
            );
            return self.refuse(|out| envelope::write_error(out, &id, &error.retryable(true)));
        }
        let name = CallName::of(&id);
        let mut work = Work::new(gateway.dispatch(GatewayRequest {
            request_id: id,
            operation: request.operation,
            input: request.input,
            auth_token: request.auth_token,
            forwarded_for: request.forwarded_for,
            timeout: request.timeout,
            remote_addr: None,
        }));
        // Most calls answer at once: they enter neither the table nor the set.
        if self.outbox.has_answer_room()
            && let Poll::Ready(step) = work.poll_step(cx)
            && emit(&self.outbox, name.as_str(), step, self.shared.limits.max_frame)
        {
            return Ok(());
        }
        let inbound = Arc::new(Inbound::new(name.as_str().into(), work));
        self.shared.insert_inbound(&inbound);
        self.running.push(Running {
            inbound,
            outbox: self.outbox.clone(),
            shared: self.shared.clone(),
            place: Place::default(),
        });
        Ok(())
    }

    /// Appends an answer that no call gives. A peer that does not read them is
    /// not read either, and after a while has its stream reset.
    fn refuse(&mut self, write: impl FnOnce(&mut BytesMut)) -> Result<(), End> {
        self.outbox.append(Kind::Refusal, |out| write_frame(out, usize::MAX, write));
        if !self.outbox.has_refusal_room() {
            self.stalled = Some(self.shared.timer.sleep(STALL));
        }
        Ok(())
    }

    /// Lets calls append their results; whether there may be more.
    fn run(&mut self, cx: &mut Context<'_>) -> bool {
        for _ in 0..FRAMES_PER_TURN {
            if self.running.poll_next(cx).is_pending() {
                return false;
            }
        }
        true
    }

    /// Writes what has gathered; whether any of it went.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut progress = false;
        if self.finished {
            return Ok(false);
        }
        while !self.out.is_empty() || self.outbox.take(&mut self.out, cx) {
            match self.outbox.with_send(|send| send.poll_write(cx, &self.out)) {
                Poll::Ready(Ok(n)) => {
                    self.out.advance(n);
                    self.unflushed = true;
                    progress = true;
                }
                Poll::Ready(Err(error)) => return Err(error.into()),
                // The write's own wake-up finds what is appended meanwhile.
                Poll::Pending => return Ok(progress),
            }
        }
        if self.unflushed
            && let Poll::Ready(flushed) = self
                .outbox
                .with_send(|send| Pin::new(send).poll_flush(cx).map_err(StreamError::from_io))
        {
            flushed?;
            self.unflushed = false;
        }
        let ended = self.outbox.is_finishing() || self.read_done;
        if ended && self.running.is_empty() {
            self.outbox.close();
            self.finished = true;
            // It fails only where the stream has ended already.
            let _ = self.outbox.with_send(|send| Poll::Ready(send.finish()));
        }
        Ok(progress)
    }
}

impl Future for StreamTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        match this.step(cx) {
            Ok(poll) => poll,
            Err(End::Lost) => {
                this.shared.connection_lost();
                Poll::Ready(())
            }
            Err(End::Reset(code)) => {
                let _ = this.outbox.with_send(|send| {
                    send.reset(code);
                    Poll::Ready(Ok(()))
                });
                this.recv.stop(code);
                Poll::Ready(())
            }
        }
    }
}

impl Drop for StreamTask {
    fn drop(&mut self) {
        self.shared.hold(self.held, 0);
        self.outbox.release();
        self.shared.stream_ended(self.outbox.stream);
    }
}

/// A request's id, kept for its answer: the request itself takes the `String`,
/// and few ids are too long for the stack.
enum CallName {
    Short([u8; 40], u8),
    Long(Box<str>),
}

impl CallName {
    fn of(id: &str) -> Self {
        let mut short = [0; 40];
        match short.get_mut(..id.len()) {
            Some(place) => {
                place.copy_from_slice(id.as_bytes());
                Self::Short(short, id.len() as u8)
            }
            None => Self::Long(id.into()),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Short(text, len) => {
                std::str::from_utf8(&text[..usize::from(*len)]).unwrap_or_default()
            }
            Self::Long(text) => text,
        }
    }
}

fn abort_frame(out: &mut BytesMut, id: &str, reason: &str) {
    let _ = write_frame(out, usize::MAX, |out| {
        envelope::write_aborted(out, id, Default::default(), reason);
    });
}
