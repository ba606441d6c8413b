//! QUIC by quinn, behind the transport traits.

use std::io;
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
use quinn::VarInt;
use rustls::pki_types::CertificateDer;
use tokio::io::ReadBuf;

use super::config::EndpointConfig;
use super::delivery::Deliveries;
use super::drain::Drain;
use super::key::PublicKey;
use super::tls;

/// Streams that a peer may have open at a time, of each direction.
///
/// quinn keeps a place for each stream that the peer may open, some 60 bytes,
/// and most connections open few. A connection therefore begins with a few
/// places and gets the rest when it makes use of them.
#[derive(Clone, Copy)]
pub(super) struct StreamLimits {
    pub(super) bidirectional: VarInt,
    pub(super) unidirectional: VarInt,
}

impl StreamLimits {
    const FIRST_BIDIRECTIONAL: VarInt = VarInt::from_u32(64);
    const FIRST_UNIDIRECTIONAL: VarInt = VarInt::from_u32(16);
    /// Streams on a connection after which it gets its full limits.
    const GROW_AFTER: u64 = 8;

    pub(super) fn of(config: &EndpointConfig) -> Self {
        Self {
            bidirectional: config.max_bidirectional_streams.into(),
            unidirectional: config.max_unidirectional_streams.into(),
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

/// A quinn connection as handlers see it.
pub(super) struct QuicConnection {
    quinn: quinn::Connection,
    info: ConnectionInfo,
    drain: Drain,
    streams: Arc<AtomicU64>,
    deliveries: Arc<Deliveries>,
    /// The limits that it still has to get.
    growth: Mutex<Option<StreamLimits>>,
    identity: OnceLock<Identity>,
    /// quinn does not tell a local close's code to those who wait for the end.
    closed_here: Arc<OnceLock<Closed>>,
}

impl QuicConnection {
    pub(super) fn new(
        quinn: quinn::Connection,
        info: ConnectionInfo,
        drain: Drain,
        streams: Arc<AtomicU64>,
    ) -> Self {
        let (deliveries, growth, identity, closed_here) = Default::default();
        Self { quinn, info, drain, streams, deliveries, growth, identity, closed_here }
    }

    /// Lets it grow from [`StreamLimits::first`] to these limits.
    pub(super) fn growing(self, limits: StreamLimits) -> Self {
        *self.growth.lock() = Some(limits);
        self
    }

    fn grow(&self) {
        if self.streams.load(Ordering::Relaxed) < StreamLimits::GROW_AFTER {
            return;
        }
        if let Some(limits) = self.growth.lock().take() {
            self.quinn.set_max_concurrent_bi_streams(limits.bidirectional);
            self.quinn.set_max_concurrent_uni_streams(limits.unidirectional);
        }
    }

    /// What the peer has not confirmed yet.
    pub(super) fn deliveries(&self) -> Arc<Deliveries> {
        self.deliveries.clone()
    }

    /// A future over the connection that counts the stream it yields.
    fn stream<T, F, Fut>(&self, take: F) -> BoxFuture<'static, Result<T, StreamError>>
    where
        F: FnOnce(quinn::Connection, Arc<Deliveries>) -> Fut,
        Fut: Future<Output = Result<T, quinn::ConnectionError>> + Send + 'static,
    {
        self.grow();
        let streams = self.streams.clone();
        let taken = take(self.quinn.clone(), self.deliveries.clone());
        Box::pin(async move {
            let stream = taken.await.map_err(connection_error)?;
            streams.fetch_add(1, Ordering::Relaxed);
            Ok(stream)
        })
    }
}

fn halves(
    (send, recv): (quinn::SendStream, quinn::RecvStream),
    deliveries: Arc<Deliveries>,
) -> BiHalves {
    (Box::new(QuicSend::new(send, deliveries)), Box::new(QuicRecv(recv)))
}

impl ConnectionBackend for QuicConnection {
    fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    fn accept_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        self.stream(|quinn, deliveries| async move {
            quinn.accept_bi().await.map(|both| halves(both, deliveries))
        })
    }

    fn open_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        self.stream(|quinn, deliveries| async move {
            quinn.open_bi().await.map(|both| halves(both, deliveries))
        })
    }

    fn accept_uni(&self) -> BoxFuture<'static, Result<Box<dyn RecvBackend>, StreamError>> {
        self.stream(|quinn, _| async move {
            quinn.accept_uni().await.map(|recv| Box::new(QuicRecv(recv)) as _)
        })
    }

    fn open_uni(&self) -> BoxFuture<'static, Result<Box<dyn SendBackend>, StreamError>> {
        self.stream(|quinn, deliveries| async move {
            quinn.open_uni().await.map(|send| Box::new(QuicSend::new(send, deliveries)) as _)
        })
    }

    fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        use quinn::SendDatagramError::{ConnectionLost, Disabled, TooLarge, UnsupportedByPeer};
        let size = data.len();
        self.quinn.send_datagram(data).map_err(|error| match error {
            TooLarge => DatagramError::TooLarge {
                size,
                max: self.quinn.max_datagram_size().unwrap_or_default(),
            },
            UnsupportedByPeer | Disabled => StreamError::StreamClosed.into(),
            ConnectionLost(error) => connection_error(error).into(),
        })
    }

    fn read_datagram(&self) -> BoxFuture<'static, Result<Bytes, StreamError>> {
        let quinn = self.quinn.clone();
        Box::pin(async move { quinn.read_datagram().await.map_err(connection_error) })
    }

    fn max_datagram_size(&self) -> Option<usize> {
        self.quinn.max_datagram_size()
    }

    fn close(&self, code: u64, reason: &str) {
        if self.quinn.close_reason().is_none() {
            let code = varint(code);
            let closed = Closed { code: Some(code.into_inner()), reason: reason.to_owned() };
            if self.closed_here.set(closed).is_ok() {
                self.quinn.close(code, reason.as_bytes());
            }
        }
    }

    fn closed(&self) -> BoxFuture<'static, Closed> {
        let quinn = self.quinn.clone();
        let here = self.closed_here.clone();
        Box::pin(async move {
            let error = quinn.closed().await;
            match (&error, here.get()) {
                (quinn::ConnectionError::LocallyClosed, Some(closed)) => closed.clone(),
                _ => how_it_closed(error),
            }
        })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        self.drain.begun()
    }

    fn stats(&self) -> ConnectionStats {
        let stats = self.quinn.stats();
        ConnectionStats {
            rtt: stats.path.rtt,
            bytes_sent: stats.udp_tx.bytes,
            bytes_received: stats.udp_rx.bytes,
            packets_lost: stats.path.lost_packets,
            mtu: stats.path.current_mtu,
        }
    }

    fn set_identity(&self, identity: Identity) -> Result<(), IdentityAlreadySet> {
        self.identity.set(identity).map_err(|_| IdentityAlreadySet)
    }

    fn identity(&self) -> Option<Identity> {
        self.identity.get().cloned()
    }
}

fn how_it_closed(error: quinn::ConnectionError) -> Closed {
    match error {
        quinn::ConnectionError::ApplicationClosed(close) => Closed {
            code: Some(close.error_code.into_inner()),
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        other => Closed { code: None, reason: other.to_string() },
    }
}

/// The key that the peer has proven to hold; the handshake checked its signature.
pub(super) fn peer_key(quinn: &quinn::Connection) -> Option<PublicKey> {
    let shown = quinn.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    tls::key_of_spki(shown.first()?)
}

/// The ALPN that the handshake settled on.
pub(super) fn alpn(quinn: &quinn::Connection) -> Option<String> {
    let data = quinn.handshake_data()?.downcast::<quinn::crypto::rustls::HandshakeData>().ok()?;
    String::from_utf8(data.protocol?).ok()
}

/// Application codes are 64 bits wide in the API and 62 in QUIC's encoding.
pub(super) fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn connection_error(error: quinn::ConnectionError) -> StreamError {
    use quinn::ConnectionError as E;
    match error {
        E::TimedOut => StreamError::Timeout,
        E::ConnectionClosed(_) | E::ApplicationClosed(_) | E::Reset | E::LocallyClosed => {
            StreamError::ConnectionClosed
        }
        other => StreamError::Internal(io::Error::other(other)),
    }
}

type Stopped = Result<Option<VarInt>, quinn::StoppedError>;

struct QuicSend {
    quinn: quinn::SendStream,
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

impl QuicSend {
    fn new(quinn: quinn::SendStream, deliveries: Arc<Deliveries>) -> Self {
        Self { quinn, deliveries, stopped: None, state: Sending::Open }
    }
}

impl SendBackend for QuicSend {
    fn id(&self) -> u64 {
        VarInt::from(self.quinn.id()).into_inner()
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        Pin::new(&mut self.quinn).poll_write(cx, data).map_err(|error| match error {
            quinn::WriteError::Stopped(code) => StreamError::Stopped(code.into_inner()),
            quinn::WriteError::ConnectionLost(error) => connection_error(error),
            quinn::WriteError::ClosedStream => StreamError::StreamClosed,
            other => StreamError::Internal(io::Error::other(other)),
        })
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self) -> Result<(), StreamError> {
        self.quinn.finish().map_err(|_| StreamError::StreamClosed)?;
        self.state = Sending::Finished;
        Ok(())
    }

    fn reset(&mut self, code: u64) {
        self.state = Sending::Over;
        // It fails only on a stream that has ended, which is what was wanted.
        let _already_ended = self.quinn.reset(varint(code));
    }

    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, StreamError>> {
        let Self { quinn, stopped, .. } = self;
        let result =
            ready!(stopped.get_or_insert_with(|| Box::pin(quinn.stopped())).poll_unpin(cx));
        // A finished future must not be polled again.
        *stopped = None;
        if self.state == Sending::Finished {
            self.state = Sending::Over;
        }
        Poll::Ready(match result {
            Ok(code) => Ok(code.map(VarInt::into_inner)),
            Err(quinn::StoppedError::ConnectionLost(error)) => Err(connection_error(error)),
            Err(other) => Err(StreamError::Internal(io::Error::other(other))),
        })
    }

    fn set_priority(&mut self, priority: i32) {
        // It fails only on a stream that has ended, whose order is settled.
        let _already_ended = self.quinn.set_priority(priority);
    }
}

impl Drop for QuicSend {
    /// quinn would finish a stream that is dropped, and a peer would take half
    /// an answer for a whole one.
    fn drop(&mut self) {
        match self.state {
            Sending::Open => self.reset(SendStream::DROPPED),
            Sending::Finished => {
                self.deliveries.keep(Box::pin(self.quinn.stopped().map(drop)));
            }
            Sending::Over => {}
        }
    }
}

struct QuicRecv(quinn::RecvStream);

impl RecvBackend for QuicRecv {
    fn id(&self) -> u64 {
        VarInt::from(self.0.id()).into_inner()
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>> {
        self.0.poll_read_buf(cx, buffer).map_err(|error| match error {
            quinn::ReadError::Reset(code) => StreamError::Reset(code.into_inner()),
            quinn::ReadError::ConnectionLost(error) => connection_error(error),
            quinn::ReadError::ClosedStream => StreamError::StreamClosed,
            other => StreamError::Internal(io::Error::other(other)),
        })
    }

    fn stop(&mut self, code: u64) {
        // It fails only on a stream that has ended.
        let _already_ended = self.0.stop(varint(code));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k07_transport_errors_map_as_the_table_says() {
        use quinn::ConnectionError as E;
        assert!(matches!(connection_error(E::TimedOut), StreamError::Timeout));
        for error in [
            E::Reset,
            E::LocallyClosed,
            E::ApplicationClosed(quinn::ApplicationClose {
                error_code: VarInt::from_u32(1),
                reason: Bytes::new(),
            }),
        ] {
            assert!(matches!(connection_error(error), StreamError::ConnectionClosed));
        }
        for error in [E::VersionMismatch, E::CidsExhausted] {
            let text = error.to_string();
            match connection_error(error) {
                StreamError::Internal(io) => assert_eq!(io.to_string(), text),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn k11_codes_beyond_62_bits_saturate() {
        assert_eq!(varint((1 << 62) - 1).into_inner(), (1 << 62) - 1);
        assert_eq!(varint(1 << 62), VarInt::MAX);
        assert_eq!(varint(u64::MAX), VarInt::MAX);
    }
}
