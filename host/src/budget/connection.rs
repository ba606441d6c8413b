//! A plugin's connections, counted and held to its limits.
//!
//! Bytes are counted on each stream and handed to the plugin's meter now and then, so
//! that streams on several threads do not fight for one number.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use alknet_plugin_api::backend::{BiHalves, ConnectionBackend, RecvBackend, SendBackend};
use alknet_plugin_api::{
    Closed, ConnectionInfo, ConnectionStats, DatagramError, Identity, IdentityAlreadySet,
    StreamError,
};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use tokio::io::ReadBuf;
use tokio::runtime::Handle;
use tokio::time::Sleep;

use super::meter::{Full, Meter, Place};
use super::table::Resource;

/// The code with which a stream beyond a plugin's limit is reset and stopped.
pub const REFUSED: u64 = 0x11;

/// Bytes of a stream that its meter may not know of yet.
const UNTOLD: u64 = 64 * 1024;

/// Bytes that are written at once where bytes are limited.
const CHUNK: usize = 64 * 1024;

/// A connection as a metered plugin sees it.
pub struct Metered {
    inner: Arc<dyn ConnectionBackend>,
    meter: Arc<Meter>,
    /// Where timers run: a plugin's own threads are on no runtime of ours.
    runtime: Handle,
}

impl Metered {
    /// `inner`, on the account of `meter`, with timers on `runtime`.
    pub fn new(inner: Arc<dyn ConnectionBackend>, meter: Arc<Meter>, runtime: Handle) -> Self {
        Self { inner, meter, runtime }
    }

    /// Takes the next stream for which there is a place, and refuses those before.
    fn accept<S: Refuse, B: 'static>(
        &self,
        accept: fn(&dyn ConnectionBackend) -> BoxFuture<'static, Result<S, StreamError>>,
        wrap: fn(S, Arc<Account>) -> B,
    ) -> BoxFuture<'static, Result<B, StreamError>> {
        let (inner, meter, runtime) =
            (self.inner.clone(), self.meter.clone(), self.runtime.clone());
        Box::pin(async move {
            loop {
                let mut stream = accept(&*inner).await?;
                match meter.enter(Resource::Streams) {
                    Ok(place) => return Ok(wrap(stream, Arc::new(Account { place, runtime }))),
                    Err(_) => stream.refuse(),
                }
            }
        })
    }

    fn open<S: Send + 'static, B: 'static>(
        &self,
        open: BoxFuture<'static, Result<S, StreamError>>,
        wrap: fn(S, Arc<Account>) -> B,
    ) -> BoxFuture<'static, Result<B, StreamError>> {
        let full = |full: Full| StreamError::Internal(io::Error::other(full));
        let (place, runtime) = (self.meter.enter(Resource::Streams), self.runtime.clone());
        Box::pin(async move {
            let place = place.map_err(full)?;
            Ok(wrap(open.await?, Arc::new(Account { place, runtime })))
        })
    }
}

/// A stream that nobody will see.
trait Refuse: Send + 'static {
    fn refuse(&mut self);
}

impl Refuse for BiHalves {
    fn refuse(&mut self) {
        self.0.reset(REFUSED);
        self.1.stop(REFUSED);
    }
}

impl Refuse for Box<dyn RecvBackend> {
    fn refuse(&mut self) {
        self.stop(REFUSED);
    }
}

fn send(stream: Box<dyn SendBackend>, account: Arc<Account>) -> Box<dyn SendBackend> {
    Box::new(Half::new(stream, account, Meter::wrote))
}

fn recv(stream: Box<dyn RecvBackend>, account: Arc<Account>) -> Box<dyn RecvBackend> {
    Box::new(Half::new(stream, account, Meter::read))
}

fn halves((sending, receiving): BiHalves, account: Arc<Account>) -> BiHalves {
    (send(sending, account.clone()), recv(receiving, account))
}

impl ConnectionBackend for Metered {
    fn info(&self) -> &ConnectionInfo {
        self.inner.info()
    }

    fn peer_fingerprint(&self) -> Option<String> {
        self.inner.peer_fingerprint()
    }

    fn accept_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        self.accept(|inner| inner.accept_bi(), halves)
    }

    fn open_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        self.open(self.inner.open_bi(), halves)
    }

    fn accept_uni(&self) -> BoxFuture<'static, Result<Box<dyn RecvBackend>, StreamError>> {
        self.accept(|inner| inner.accept_uni(), recv)
    }

    fn open_uni(&self) -> BoxFuture<'static, Result<Box<dyn SendBackend>, StreamError>> {
        self.open(self.inner.open_uni(), send)
    }

    fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        let size = data.len() as u64;
        if let Some(bucket) = self.meter.bytes() {
            if bucket.wait(Instant::now()).is_some() {
                self.meter.hit(Resource::BytesPerSecond);
                return Ok(());
            }
            bucket.spend(size);
        }
        self.inner.send_datagram(data)?;
        self.meter.wrote(size);
        Ok(())
    }

    fn read_datagram(&self) -> BoxFuture<'static, Result<Bytes, StreamError>> {
        let meter = self.meter.clone();
        let count = move |read: Result<Bytes, StreamError>| {
            let datagram = read?;
            meter.read(datagram.len() as u64);
            if let Some(bucket) = meter.bytes() {
                bucket.spend(datagram.len() as u64);
            }
            Ok(datagram)
        };
        self.inner.read_datagram().map(count).boxed()
    }

    fn max_datagram_size(&self) -> Option<usize> {
        self.inner.max_datagram_size()
    }

    fn close(&self, code: u64, reason: &str) {
        self.inner.close(code, reason);
    }

    fn closed(&self) -> BoxFuture<'static, Closed> {
        self.inner.closed()
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.inner.shutdown()
    }

    fn stats(&self) -> ConnectionStats {
        self.inner.stats()
    }

    fn set_identity(&self, identity: Identity) -> Result<(), IdentityAlreadySet> {
        self.inner.set_identity(identity)
    }

    fn identity(&self) -> Option<Identity> {
        self.inner.identity()
    }

    fn as_any(&self) -> Option<&dyn std::any::Any> {
        self.inner.as_any()
    }
}

/// A stream's place, which its halves share.
struct Account {
    place: Place,
    runtime: Handle,
}

/// One half of a stream.
struct Half<B> {
    inner: B,
    account: Arc<Account>,
    /// Where bytes are told.
    tell: fn(&Meter, u64),
    untold: u64,
    /// Until when the plugin's bytes are used up.
    pause: Option<Pin<Box<Sleep>>>,
}

impl<B> Half<B> {
    fn new(inner: B, account: Arc<Account>, tell: fn(&Meter, u64)) -> Self {
        Self { inner, account, tell, untold: 0, pause: None }
    }

    fn meter(&self) -> &Arc<Meter> {
        self.account.place.meter()
    }

    /// Whether bytes may be moved now. Costs nothing where they are not limited.
    fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.meter().bytes().is_none() {
            return Poll::Ready(());
        }
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            let Some(wait) = self.meter().bytes().and_then(|bucket| bucket.wait(Instant::now()))
            else {
                return Poll::Ready(());
            };
            self.told();
            self.meter().hit(Resource::BytesPerSecond);
            let _entered = self.account.runtime.enter();
            self.pause = Some(Box::pin(tokio::time::sleep(wait)));
        }
    }

    /// Notes bytes that were moved.
    fn moved(&mut self, bytes: usize) {
        if let Some(bucket) = self.meter().bytes() {
            bucket.spend(bytes as u64);
        }
        self.untold += bytes as u64;
        if self.untold >= UNTOLD {
            self.told();
        }
    }

    fn told(&mut self) {
        if self.untold > 0 {
            (self.tell)(self.account.place.meter(), std::mem::take(&mut self.untold));
        }
    }
}

impl<B> Drop for Half<B> {
    fn drop(&mut self) {
        self.told();
    }
}

impl SendBackend for Half<Box<dyn SendBackend>> {
    fn id(&self) -> u64 {
        self.inner.id()
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        ready!(self.poll_allowed(cx));
        let limited = self.meter().bytes().is_some();
        let data = if limited { &data[..data.len().min(CHUNK)] } else { data };
        let polled = self.inner.poll_write(cx, data);
        match &polled {
            Poll::Ready(Ok(bytes)) => self.moved(*bytes),
            // There is time to tell.
            _ => self.told(),
        }
        polled
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        self.inner.poll_flush(cx)
    }

    fn finish(&mut self) -> Result<(), StreamError> {
        self.told();
        self.inner.finish()
    }

    fn reset(&mut self, code: u64) {
        self.inner.reset(code);
    }

    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, StreamError>> {
        self.inner.poll_stopped(cx)
    }

    fn set_priority(&mut self, priority: i32) {
        self.inner.set_priority(priority);
    }
}

impl RecvBackend for Half<Box<dyn RecvBackend>> {
    fn id(&self) -> u64 {
        self.inner.id()
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>> {
        ready!(self.poll_allowed(cx));
        let before = buffer.filled().len();
        let polled = self.inner.poll_read(cx, buffer);
        match &polled {
            Poll::Ready(Ok(())) => self.moved(buffer.filled().len() - before),
            _ => self.told(),
        }
        polled
    }

    fn stop(&mut self, code: u64) {
        self.inner.stop(code);
    }
}
