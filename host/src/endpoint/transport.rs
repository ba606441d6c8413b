//! QUIC connections as handlers see them, whichever library speaks QUIC.
//!
//! quinn carries the node's own endpoint, and noq, a fork of it, iroh's. They are
//! alike and have no type in common, so each implements [`Transport`] and its two
//! halves of a stream; everything that handlers are promised beyond that is here,
//! once.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use alknet_plugin_api::backend::{BiHalves, ConnectionBackend, RecvBackend, SendBackend};
use alknet_plugin_api::{
    Closed, ConnectionInfo, ConnectionStats, DatagramError, Identity, IdentityAlreadySet,
    SendStream, StreamError,
};
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use parking_lot::Mutex;
use tokio::io::ReadBuf;

use super::admission::Origin;
use super::close::CloseCode;
use super::config::{ConnectionLimits, EndpointConfig};
use super::delivery::Deliveries;
use super::dispatch::{Arrival, Dispatcher};
use super::drain::Drain;
use super::fingerprint::Fingerprint;

/// A connection of a QUIC library. Codes are at most [`MAX_CODE`].
pub(super) trait Transport: Clone + Send + Sync + 'static {
    type Send: SendHalf;
    type Recv: RecvHalf;

    fn accept_bi(self) -> impl Taken<(Self::Send, Self::Recv)>;
    fn open_bi(self) -> impl Taken<(Self::Send, Self::Recv)>;
    fn accept_uni(self) -> impl Taken<Self::Recv>;
    fn open_uni(self) -> impl Taken<Self::Send>;
    fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError>;
    fn read_datagram(self) -> impl Taken<Bytes>;
    fn max_datagram_size(&self) -> Option<usize>;
    fn is_closed(&self) -> bool;
    fn close(&self, code: u64, reason: &[u8]);
    /// How it closed; `None` when this side did it.
    fn closed(self) -> impl Future<Output = Option<Closed>> + Send;
    fn stats(&self) -> ConnectionStats;
    /// The key or certificate that the peer has proven to hold.
    fn peer(&self) -> Option<Fingerprint>;
    fn set_stream_limits(&self, limits: StreamLimits);
}

/// A future over a connection.
pub(super) trait Taken<T>: Future<Output = Result<T, StreamError>> + Send {}
impl<T, F: Future<Output = Result<T, StreamError>> + Send> Taken<T> for F {}

/// What [`SendHalf::stopped`] yields: `None` when the peer has everything, or the
/// code with which it stopped.
pub(super) type Stopped = Result<Option<u64>, StreamError>;

/// The sending half of a library's stream, which finishes when it is dropped.
pub(super) trait SendHalf: Send + 'static {
    fn id(&self) -> u64;
    fn poll_write(&mut self, cx: &mut Context<'_>, data: &[u8])
    -> Poll<Result<usize, StreamError>>;
    fn finish(&mut self) -> Result<(), StreamError>;
    /// Does nothing on a stream that has ended, and so does the next.
    fn reset(&mut self, code: u64);
    fn set_priority(&mut self, priority: i32);
    fn stopped(&self) -> impl Future<Output = Stopped> + Send + 'static;
}

/// The receiving half of a library's stream.
pub(super) trait RecvHalf: Send + 'static {
    fn id(&self) -> u64;
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>>;
    /// Does nothing on a stream that has ended.
    fn stop(&mut self, code: u64);
}

/// The largest code that QUIC's variable-length integers hold.
pub(super) const MAX_CODE: u64 = (1 << 62) - 1;

/// Application codes are 64 bits wide in the API and 62 in QUIC's encoding.
pub(super) fn wire_code(code: u64) -> u64 {
    code.min(MAX_CODE)
}

/// Streams that a peer may have open at a time, of each direction.
///
/// The libraries keep a place for each stream that the peer may open, some 60
/// bytes, and most connections open few. A connection therefore begins with a few
/// places and gets the rest when it makes use of them.
#[derive(Clone, Copy)]
pub(super) struct StreamLimits {
    pub(super) bidirectional: u32,
    pub(super) unidirectional: u32,
}

impl StreamLimits {
    const FIRST_BIDIRECTIONAL: u32 = 64;
    const FIRST_UNIDIRECTIONAL: u32 = 16;
    /// Streams on a connection after which it gets its full limits.
    const GROW_AFTER: u64 = 8;

    pub(super) fn of(config: &EndpointConfig) -> Self {
        Self {
            bidirectional: config.max_bidirectional_streams,
            unidirectional: config.max_unidirectional_streams,
        }
    }

    /// These, with `limits` in their place.
    pub(super) fn under(self, limits: &ConnectionLimits) -> Self {
        Self {
            bidirectional: limits.bidirectional_streams.unwrap_or(self.bidirectional),
            unidirectional: limits.unidirectional_streams.unwrap_or(self.unidirectional),
        }
    }

    /// What a connection begins with.
    pub(super) fn first(self) -> Self {
        Self {
            bidirectional: self.bidirectional.min(Self::FIRST_BIDIRECTIONAL),
            unidirectional: self.unidirectional.min(Self::FIRST_UNIDIRECTIONAL),
        }
    }
}

/// A connection as handlers see it.
pub(super) struct QuicConnection<T> {
    transport: T,
    info: ConnectionInfo,
    drain: Drain,
    streams: Arc<AtomicU64>,
    deliveries: Arc<Deliveries>,
    /// The limits that it still has to get.
    growth: Mutex<Option<StreamLimits>>,
    identity: OnceLock<Identity>,
    /// The libraries do not tell a local close's code to those who wait for the
    /// end.
    closed_here: Arc<OnceLock<Closed>>,
}

impl<T: Transport> QuicConnection<T> {
    /// A connection that belongs to no node.
    pub(super) fn dialled(transport: T, info: ConnectionInfo) -> Self {
        Self::new(transport, info, Drain::never())
    }

    fn new(transport: T, info: ConnectionInfo, drain: Drain) -> Self {
        let (streams, deliveries, growth, identity, closed_here) = Default::default();
        Self { transport, info, drain, streams, deliveries, growth, identity, closed_here }
    }

    /// Hands a connection that a node has accepted to its handler, and lets it
    /// grow from [`StreamLimits::first`] to these limits.
    pub(super) fn arrive(
        node: &Arc<Dispatcher>,
        transport: T,
        info: ConnectionInfo,
        origin: Origin,
        limits: StreamLimits,
    ) {
        let connection = Self::new(transport, info, node.drain());
        *connection.growth.lock() = Some(limits);
        let (streams, deliveries) = (connection.streams.clone(), connection.deliveries.clone());
        let (connection, origin) = (Arc::new(connection), Some(origin));
        node.dispatch(Arrival { connection, origin, streams, deliveries });
    }

    fn grow(&self) {
        if self.streams.load(Ordering::Relaxed) < StreamLimits::GROW_AFTER {
            return;
        }
        if let Some(limits) = self.growth.lock().take() {
            self.transport.set_stream_limits(limits);
        }
    }

    /// A future over the connection that counts the stream it yields.
    fn stream<S, B, Fut>(
        &self,
        take: impl FnOnce(T) -> Fut,
        wrap: impl FnOnce(S, Arc<Deliveries>) -> B + Send + 'static,
    ) -> BoxFuture<'static, Result<B, StreamError>>
    where
        Fut: Taken<S> + 'static,
    {
        self.grow();
        let streams = self.streams.clone();
        let deliveries = self.deliveries.clone();
        let taken = take(self.transport.clone());
        Box::pin(async move {
            let stream = taken.await?;
            streams.fetch_add(1, Ordering::Relaxed);
            Ok(wrap(stream, deliveries))
        })
    }
}

fn halves<S: SendHalf, R: RecvHalf>((send, recv): (S, R), deliveries: Arc<Deliveries>) -> BiHalves {
    (Box::new(QuicSend::new(send, deliveries)), Box::new(QuicRecv(recv)))
}

impl<T: Transport> ConnectionBackend for QuicConnection<T> {
    fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    fn peer_fingerprint(&self) -> Option<String> {
        self.transport.peer().map(|peer| peer.to_string())
    }

    fn accept_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        self.stream(T::accept_bi, halves)
    }

    fn open_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        self.stream(T::open_bi, halves)
    }

    fn accept_uni(&self) -> BoxFuture<'static, Result<Box<dyn RecvBackend>, StreamError>> {
        self.stream(T::accept_uni, |recv, _| Box::new(QuicRecv(recv)) as _)
    }

    fn open_uni(&self) -> BoxFuture<'static, Result<Box<dyn SendBackend>, StreamError>> {
        self.stream(T::open_uni, |send, deliveries| Box::new(QuicSend::new(send, deliveries)) as _)
    }

    fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        self.transport.send_datagram(data)
    }

    fn read_datagram(&self) -> BoxFuture<'static, Result<Bytes, StreamError>> {
        Box::pin(self.transport.clone().read_datagram())
    }

    fn max_datagram_size(&self) -> Option<usize> {
        self.transport.max_datagram_size()
    }

    fn close(&self, code: u64, reason: &str) {
        if !self.transport.is_closed() {
            let code = wire_code(code);
            let closed = Closed { code: Some(code), reason: reason.to_owned() };
            if self.closed_here.set(closed).is_ok() {
                self.transport.close(code, reason.as_bytes());
            }
        }
    }

    fn closed(&self) -> BoxFuture<'static, Closed> {
        let closed = self.transport.clone().closed();
        let here = self.closed_here.clone();
        Box::pin(async move {
            let there = closed.await;
            // Who did not close this connection has closed the endpoint.
            there
                .or_else(|| here.get().cloned())
                .unwrap_or_else(|| CloseCode::ShuttingDown.closed())
        })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.drain.begun()
    }

    fn stats(&self) -> ConnectionStats {
        self.transport.stats()
    }

    fn set_identity(&self, identity: Identity) -> Result<(), IdentityAlreadySet> {
        self.identity.set(identity).map_err(|_| IdentityAlreadySet)
    }

    fn identity(&self) -> Option<Identity> {
        self.identity.get().cloned()
    }
}

struct QuicSend<S: SendHalf> {
    half: S,
    deliveries: Arc<Deliveries>,
    /// Made at the first `poll_stopped` and kept, so that polls do not allocate.
    stopped: Option<Pin<Box<dyn Future<Output = Stopped> + Send>>>,
    state: Sending,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sending {
    Open,
    /// Finished; the peer has not confirmed everything yet.
    Finished,
    /// Reset, stopped or confirmed.
    Over,
}

impl<S: SendHalf> QuicSend<S> {
    fn new(half: S, deliveries: Arc<Deliveries>) -> Self {
        Self { half, deliveries, stopped: None, state: Sending::Open }
    }
}

impl<S: SendHalf> SendBackend for QuicSend<S> {
    fn id(&self) -> u64 {
        self.half.id()
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        self.half.poll_write(cx, data)
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self) -> Result<(), StreamError> {
        self.half.finish()?;
        self.state = Sending::Finished;
        Ok(())
    }

    fn reset(&mut self, code: u64) {
        self.state = Sending::Over;
        self.half.reset(wire_code(code));
    }

    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Stopped> {
        let Self { half, stopped, .. } = self;
        let result = ready!(stopped.get_or_insert_with(|| Box::pin(half.stopped())).poll_unpin(cx));
        // A finished future must not be polled again.
        *stopped = None;
        if self.state == Sending::Finished {
            self.state = Sending::Over;
        }
        Poll::Ready(result)
    }

    fn set_priority(&mut self, priority: i32) {
        self.half.set_priority(priority);
    }
}

impl<S: SendHalf> Drop for QuicSend<S> {
    /// The libraries would finish a stream that is dropped, and a peer would take
    /// half an answer for a whole one.
    fn drop(&mut self) {
        match self.state {
            Sending::Open => self.reset(SendStream::DROPPED),
            Sending::Finished => self.deliveries.keep(Box::pin(self.half.stopped().map(drop))),
            Sending::Over => {}
        }
    }
}

struct QuicRecv<R>(R);

impl<R: RecvHalf> RecvBackend for QuicRecv<R> {
    fn id(&self) -> u64 {
        self.0.id()
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>> {
        self.0.poll_read(cx, buffer)
    }

    fn stop(&mut self, code: u64) {
        self.0.stop(wire_code(code));
    }
}

/// Implements [`Transport`] and the halves of its streams for quinn or a fork of
/// it, whose types differ in nothing but their crate. `$stats` and `$read` do what
/// the libraries do differently.
macro_rules! quic_library {
    ($library:ident, stats: $stats:path, peer: $peer:path, read: $read:path) => {
        impl Transport for $library::Connection {
            type Send = $library::SendStream;
            type Recv = $library::RecvStream;

            async fn accept_bi(self) -> Result<(Self::Send, Self::Recv), StreamError> {
                Self::accept_bi(&self).await.map_err(connection_error)
            }

            async fn open_bi(self) -> Result<(Self::Send, Self::Recv), StreamError> {
                Self::open_bi(&self).await.map_err(connection_error)
            }

            async fn accept_uni(self) -> Result<Self::Recv, StreamError> {
                Self::accept_uni(&self).await.map_err(connection_error)
            }

            async fn open_uni(self) -> Result<Self::Send, StreamError> {
                Self::open_uni(&self).await.map_err(connection_error)
            }

            fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
                use $library::SendDatagramError as E;
                let size = data.len();
                Self::send_datagram(self, data).map_err(|error| match error {
                    E::TooLarge => DatagramError::TooLarge {
                        size,
                        max: Self::max_datagram_size(self).unwrap_or_default(),
                    },
                    E::UnsupportedByPeer | E::Disabled => StreamError::StreamClosed.into(),
                    E::ConnectionLost(error) => connection_error(error).into(),
                })
            }

            async fn read_datagram(self) -> Result<Bytes, StreamError> {
                Self::read_datagram(&self).await.map_err(connection_error)
            }

            fn max_datagram_size(&self) -> Option<usize> {
                Self::max_datagram_size(self)
            }

            fn peer(&self) -> Option<Fingerprint> {
                $peer(self)
            }

            fn is_closed(&self) -> bool {
                self.close_reason().is_some()
            }

            fn close(&self, code: u64, reason: &[u8]) {
                Self::close(self, varint(code), reason);
            }

            async fn closed(self) -> Option<Closed> {
                use $library::ConnectionError as E;
                match Self::closed(&self).await {
                    E::LocallyClosed => None,
                    E::ApplicationClosed(close) => Some(Closed {
                        code: Some(close.error_code.into_inner()),
                        reason: String::from_utf8_lossy(&close.reason).into_owned(),
                    }),
                    other => Some(Closed { code: None, reason: other.to_string() }),
                }
            }

            fn stats(&self) -> ConnectionStats {
                $stats(self)
            }

            fn set_stream_limits(&self, limits: StreamLimits) {
                self.set_max_concurrent_bi_streams(limits.bidirectional.into());
                self.set_max_concurrent_uni_streams(limits.unidirectional.into());
            }
        }

        impl SendHalf for $library::SendStream {
            fn id(&self) -> u64 {
                $library::VarInt::from(Self::id(self)).into_inner()
            }

            fn poll_write(
                &mut self,
                cx: &mut Context<'_>,
                data: &[u8],
            ) -> Poll<Result<usize, StreamError>> {
                use $library::WriteError as E;
                Self::poll_write(Pin::new(self), cx, data).map_err(|error| match error {
                    E::Stopped(code) => StreamError::Stopped(code.into_inner()),
                    E::ConnectionLost(error) => connection_error(error),
                    E::ClosedStream => StreamError::StreamClosed,
                    other => StreamError::Internal(io::Error::other(other)),
                })
            }

            fn finish(&mut self) -> Result<(), StreamError> {
                Self::finish(self).map_err(|_| StreamError::StreamClosed)
            }

            fn reset(&mut self, code: u64) {
                let _already_ended = Self::reset(self, varint(code));
            }

            fn set_priority(&mut self, priority: i32) {
                // The order of a stream that has ended is settled.
                let _already_ended = Self::set_priority(self, priority);
            }

            fn stopped(&self) -> impl Future<Output = Stopped> + Send + 'static {
                use $library::StoppedError as E;
                let stopped = Self::stopped(self);
                async move {
                    match stopped.await {
                        Ok(code) => Ok(code.map($library::VarInt::into_inner)),
                        Err(E::ConnectionLost(error)) => Err(connection_error(error)),
                        Err(other) => Err(StreamError::Internal(io::Error::other(other))),
                    }
                }
            }
        }

        impl RecvHalf for $library::RecvStream {
            fn id(&self) -> u64 {
                $library::VarInt::from(Self::id(self)).into_inner()
            }

            fn poll_read(
                &mut self,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<Result<(), StreamError>> {
                use $library::ReadError as E;
                $read(self, cx, buffer).map_err(|error| match error {
                    E::Reset(code) => StreamError::Reset(code.into_inner()),
                    E::ConnectionLost(error) => connection_error(error),
                    E::ClosedStream => StreamError::StreamClosed,
                    other => StreamError::Internal(io::Error::other(other)),
                })
            }

            fn stop(&mut self, code: u64) {
                let _already_ended = Self::stop(self, varint(code));
            }
        }

        pub(super) fn varint(code: u64) -> $library::VarInt {
            $library::VarInt::from_u64(code).unwrap_or($library::VarInt::MAX)
        }

        fn connection_error(error: $library::ConnectionError) -> StreamError {
            use $library::ConnectionError as E;
            match error {
                E::TimedOut => StreamError::Timeout,
                E::ConnectionClosed(_) | E::ApplicationClosed(_) | E::Reset | E::LocallyClosed => {
                    StreamError::ConnectionClosed
                }
                other => StreamError::Internal(io::Error::other(other)),
            }
        }
    };
}

pub(super) use quic_library;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k11_codes_beyond_62_bits_saturate() {
        assert_eq!(wire_code((1 << 62) - 1), (1 << 62) - 1);
        assert_eq!(wire_code(1 << 62), MAX_CODE);
        assert_eq!(wire_code(u64::MAX), MAX_CODE);
    }
}
