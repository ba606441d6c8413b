//! One end of the socket: framing, and a queue that nobody waits for.
//!
//! Whoever has something to say writes it to the socket there and then, if it
//! takes it; the rest is queued, in order, and written when there is room. So a
//! message costs no change of threads where the other side keeps up. Streams look
//! for [`room`](Outbox::poll_room) first, and so no more than [`HIGH`] bytes of
//! theirs are ever in front of a call's answer.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::{Condvar, Mutex};
use serde::Serialize;
use tokio::io::Interest;
use tokio::net::UnixStream as AsyncStream;
use tokio::sync::Notify;

use super::wire::{MAX_BODY, MAX_HEAD, PREFIX};

/// Queued bytes above which streams wait.
const HIGH: usize = 1 << 20;
/// Queued bytes below which they go on.
const LOW: usize = HIGH / 2;
/// What is read at once.
const READ: usize = 128 << 10;
/// A shorter body is copied, so that it does not keep what it was read with.
const SMALL: usize = READ / 8;

/// Why a frame cannot be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// The other side is gone.
    Gone,
    /// It is longer than a frame may be.
    TooLong,
}

/// The sending side.
pub(super) struct Outbox {
    socket: UnixStream,
    queue: Mutex<Queue>,
    queued: Notify,
    drained: Condvar,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    bytes: usize,
    gone: bool,
    waiting: Vec<Waker>,
}

impl Outbox {
    /// Sends through `socket`, which must not block.
    pub(super) fn new(socket: UnixStream) -> Self {
        let (queue, queued, drained) = Default::default();
        Self { socket, queue, queued, drained }
    }

    /// Sends one frame, now or as soon as there is room. It does not wait.
    pub(super) fn send(&self, head: &impl Serialize, body: &[u8]) -> Result<(), Unsent> {
        let mut start = vec![0; PREFIX];
        start = postcard::to_extend(head, start).map_err(|_| Unsent::TooLong)?;
        let head = start.len() - PREFIX;
        if head > MAX_HEAD || body.len() > MAX_BODY {
            return Err(Unsent::TooLong);
        }
        let rest = (PREFIX - 4 + head + body.len()) as u32;
        start[..4].copy_from_slice(&rest.to_le_bytes());
        start[4..PREFIX].copy_from_slice(&(head as u16).to_le_bytes());

        let mut queue = self.queue.lock();
        if queue.gone {
            return Err(Unsent::Gone);
        }
        let mut written = 0;
        if queue.frames.is_empty() {
            let parts = [IoSlice::new(&start), IoSlice::new(body)];
            written = match retry(|| (&self.socket).write_vectored(&parts)) {
                Ok(written) => written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(_) => return self.lost(queue),
            };
        }
        let whole = start.len() + body.len();
        if written < whole {
            let mut left = Vec::with_capacity(whole - written);
            left.extend_from_slice(start.get(written..).unwrap_or_default());
            left.extend_from_slice(&body[written.saturating_sub(start.len())..]);
            queue.bytes += left.len();
            queue.frames.push_back(left.into());
            drop(queue);
            self.queued.notify_one();
        }
        Ok(())
    }

    /// As [`send`](Self::send), for the child's records: who writes them faster
    /// than they are taken waits.
    pub(super) fn send_patiently(&self, head: &impl Serialize, body: &[u8]) {
        {
            let mut queue = self.queue.lock();
            while queue.bytes > HIGH && !queue.gone {
                self.drained.wait(&mut queue);
            }
        }
        let _nobody_left = self.send(head, body);
    }

    /// Ready when a stream may send.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.queue.lock();
        if queue.bytes <= HIGH || queue.gone {
            return Poll::Ready(());
        }
        if !queue.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            queue.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Bytes that are queued.
    pub(super) fn queued(&self) -> usize {
        self.queue.lock().bytes
    }

    /// Sends nothing from now on.
    pub(super) fn close(&self) {
        let _gone = self.lost(self.queue.lock());
    }

    fn lost(&self, mut queue: parking_lot::MutexGuard<'_, Queue>) -> Result<(), Unsent> {
        queue.gone = true;
        queue.frames.clear();
        queue.bytes = 0;
        let waiting = std::mem::take(&mut queue.waiting);
        drop(queue);
        self.drained.notify_all();
        waiting.into_iter().for_each(Waker::wake);
        Err(Unsent::Gone)
    }

    /// Writes what is queued, for as long as there is somebody to take it.
    pub(super) async fn write_queued(&self, stream: &AsyncStream) -> io::Result<()> {
        loop {
            self.queued.notified().await;
            stream.async_io(Interest::WRITABLE, || self.flush()).await?;
        }
    }

    fn flush(&self) -> io::Result<()> {
        let mut queue = self.queue.lock();
        while !queue.frames.is_empty() {
            let parts: Vec<_> = queue.frames.iter().take(16).map(|f| IoSlice::new(f)).collect();
            let written = match retry(|| (&self.socket).write_vectored(&parts)) {
                Ok(written) => written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(error),
                Err(error) => {
                    let _gone = self.lost(queue);
                    return Err(error);
                }
            };
            let mut left = written;
            while let Some(frame) = queue.frames.front_mut() {
                let taken = left.min(frame.len());
                frame.advance(taken);
                left -= taken;
                if !frame.is_empty() {
                    break;
                }
                queue.frames.pop_front();
            }
            queue.bytes -= written;
            if queue.bytes <= LOW && !queue.waiting.is_empty() {
                let waiting = std::mem::take(&mut queue.waiting);
                // What is woken may have something to send.
                parking_lot::MutexGuard::unlocked(&mut queue, || {
                    waiting.into_iter().for_each(Waker::wake);
                });
            }
            self.drained.notify_all();
        }
        Ok(())
    }
}

fn retry(mut write: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match write() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// What has come, cut into frames.
#[derive(Default)]
pub(super) struct Inbox {
    bytes: BytesMut,
}

/// A frame: its head and its body.
pub(super) type Frame = (Bytes, Bytes);

impl Inbox {
    /// Room for what is read next.
    pub(super) fn room(&mut self) -> &mut BytesMut {
        self.bytes.reserve(READ);
        &mut self.bytes
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// Lengths that no frame has.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, &'static str> {
        let Some((prefix, _)) = self.bytes.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [a, b, c, d, e, f] = *prefix;
        let rest = u32::from_le_bytes([a, b, c, d]) as usize;
        let head = usize::from(u16::from_le_bytes([e, f]));
        let body = rest.checked_sub(PREFIX - 4 + head).ok_or("a frame shorter than its head")?;
        if body > MAX_BODY {
            return Err("a frame longer than any may be");
        }
        let whole = PREFIX + head + body;
        if self.bytes.len() < whole {
            self.bytes.reserve(whole - self.bytes.len());
            return Ok(None);
        }
        self.bytes.advance(PREFIX);
        let head = Bytes::copy_from_slice(&self.bytes.split_to(head));
        let body = match body {
            body if body < SMALL => Bytes::copy_from_slice(&self.bytes.split_to(body)),
            body => self.bytes.split_to(body).freeze(),
        };
        Ok(Some((head, body)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::plugins::process::wire::ToChild;

    fn head(frame: &Frame) -> ToChild {
        postcard::from_bytes(&frame.0).unwrap()
    }

    #[test]
    fn frames_arrive_whole_in_whatever_pieces() {
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let outbox = Outbox::new(near);
        outbox.send(&ToChild::Data { stream: 3 }, b"hello").unwrap();
        outbox.send(&ToChild::Next { call: 9 }, b"").unwrap();
        let mut sent = [0; 200];
        let len = far.read(&mut sent).unwrap();
        let mut inbox = Inbox::default();
        let mut frames = Vec::new();
        for byte in &sent[..len] {
            inbox.room().extend_from_slice(&[*byte]);
            frames.extend(inbox.next().unwrap());
        }
        assert!(matches!(head(&frames[0]), ToChild::Data { stream: 3 }));
        assert_eq!(frames[0].1, "hello");
        assert!(matches!(head(&frames[1]), ToChild::Next { call: 9 }));
        assert_eq!(frames.len(), 2);
    }

    #[test]
    fn lengths_that_no_frame_has_are_refused() {
        for prefix in [[1, 0, 0, 0, 0, 0], [2, 0, 0, 0, 1, 0], [0xff, 0xff, 0xff, 0xff, 0, 0]] {
            let mut inbox = Inbox::default();
            inbox.room().extend_from_slice(&prefix);
            assert!(inbox.next().is_err(), "{prefix:?}");
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_is_queued_and_streams_wait() {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_nonblocking(true).unwrap();
        let stream = AsyncStream::from_std(near.try_clone().unwrap()).unwrap();
        let outbox = Outbox::new(near);
        let body = vec![7; 1 << 20];
        for stream in 0..4 {
            outbox.send(&ToChild::Data { stream }, &body).unwrap();
        }
        let room = std::future::poll_fn(|cx| outbox.poll_room(cx));
        let mut room = std::pin::pin!(room);
        assert!(futures_util::poll!(&mut room).is_pending());
        let far = AsyncStream::from_std(far).unwrap();
        let reading = async {
            let mut inbox = Inbox::default();
            for stream in 0..4 {
                let frame = loop {
                    if let Some(frame) = inbox.next().unwrap() {
                        break frame;
                    }
                    far.readable().await.unwrap();
                    let _again = far.try_read_buf(inbox.room());
                };
                assert!(matches!(head(&frame), ToChild::Data { stream: s } if s == stream));
                assert!(frame.1 == body);
            }
        };
        tokio::select! {
            () = async { futures_util::join!(reading, room); } => {}
            error = outbox.write_queued(&stream) => panic!("{error:?}"),
        }
        assert_eq!(outbox.queued(), 0);
        drop(far);
        while outbox.send(&ToChild::Next { call: 0 }, &body) != Err(Unsent::Gone) {}
        assert_eq!(
            outbox.send(&ToChild::Next { call: 0 }, &vec![0; MAX_BODY + 1]),
            Err(Unsent::TooLong)
        );
    }
}
