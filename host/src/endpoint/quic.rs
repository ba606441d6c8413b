//! A quinn connection as a transport.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use alknet_plugin_api::backend::{BiHalves, ConnectionBackend, RecvBackend, SendBackend};
use alknet_plugin_api::{
    Closed, ConnectionInfo, ConnectionStats, DatagramError, Identity, IdentityAlreadySet,
    StreamError,
};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quinn::{ConnectionError, ReadError, SendDatagramError, StoppedError, VarInt, WriteError};
use tokio::io::ReadBuf;
use tokio::sync::watch;

/// QUIC's integers have 62 bits: a larger code is sent as the largest.
pub(super) fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn connection_error(error: ConnectionError) -> StreamError {
    match error {
        ConnectionError::TimedOut => StreamError::Timeout,
        ConnectionError::ConnectionClosed(_)
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::Reset
        | ConnectionError::LocallyClosed => StreamError::ConnectionClosed,
        other => StreamError::Internal(io::Error::other(other)),
    }
}

fn write_error(error: WriteError) -> StreamError {
    match error {
        WriteError::Stopped(code) => StreamError::Stopped(code.into_inner()),
        WriteError::ConnectionLost(error) => connection_error(error),
        WriteError::ClosedStream => StreamError::StreamClosed,
        other => StreamError::Internal(io::Error::other(other)),
    }
}

fn read_error(error: ReadError) -> StreamError {
    match error {
        ReadError::Reset(code) => StreamError::Reset(code.into_inner()),
        ReadError::ConnectionLost(error) => connection_error(error),
        ReadError::ClosedStream => StreamError::StreamClosed,
        other => StreamError::Internal(io::Error::other(other)),
    }
}

/// How a connection ended, for people and programs.
pub(super) fn closed(error: ConnectionError) -> Closed {
    match error {
        ConnectionError::ApplicationClosed(close) => Closed {
            code: Some(close.error_code.into_inner()),
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        other => Closed { code: None, reason: other.to_string() },
    }
}

/// One quinn connection, on either side.
pub(super) struct QuicConnection {
    quinn: quinn::Connection,
    info: ConnectionInfo,
    identity: Arc<OnceLock<Identity>>,
    draining: watch::Receiver<bool>,
}

impl QuicConnection {
    pub(super) fn new(
        quinn: quinn::Connection,
        info: ConnectionInfo,
        identity: Arc<OnceLock<Identity>>,
        draining: watch::Receiver<bool>,
    ) -> Self {
        Self { quinn, info, identity, draining }
    }
}

fn halves((send, recv): (quinn::SendStream, quinn::RecvStream)) -> BiHalves {
    (Box::new(SendHalf { quinn: send, stopped: None }), Box::new(RecvHalf(recv)))
}

impl ConnectionBackend for QuicConnection {
    fn info(&self) -> &ConnectionInfo {
        &self.info
    }

    fn accept_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        let quinn = self.quinn.clone();
        async move { quinn.accept_bi().await.map(halves).map_err(connection_error) }.boxed()
    }

    fn open_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        let quinn = self.quinn.clone();
        async move { quinn.open_bi().await.map(halves).map_err(connection_error) }.boxed()
    }

    fn accept_uni(&self) -> BoxFuture<'static, Result<Box<dyn RecvBackend>, StreamError>> {
        let quinn = self.quinn.clone();
        async move {
            let recv = quinn.accept_uni().await.map_err(connection_error)?;
            Ok(Box::new(RecvHalf(recv)) as Box<dyn RecvBackend>)
        }
        .boxed()
    }

    fn open_uni(&self) -> BoxFuture<'static, Result<Box<dyn SendBackend>, StreamError>> {
        let quinn = self.quinn.clone();
        async move {
            let send = quinn.open_uni().await.map_err(connection_error)?;
            Ok(Box::new(SendHalf { quinn: send, stopped: None }) as Box<dyn SendBackend>)
        }
        .boxed()
    }

    fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        let size = data.len();
        self.quinn.send_datagram(data).map_err(|error| match error {
            SendDatagramError::TooLarge => {
                DatagramError::TooLarge { size, max: self.quinn.max_datagram_size().unwrap_or(0) }
            }
            SendDatagramError::ConnectionLost(error) => connection_error(error).into(),
            SendDatagramError::UnsupportedByPeer | SendDatagramError::Disabled => {
                StreamError::StreamClosed.into()
            }
        })
    }

    fn read_datagram(&self) -> BoxFuture<'static, Result<Bytes, StreamError>> {
        let quinn = self.quinn.clone();
        async move { quinn.read_datagram().await.map_err(connection_error) }.boxed()
    }

    fn max_datagram_size(&self) -> Option<usize> {
        self.quinn.max_datagram_size()
    }

    fn close(&self, code: u64, reason: &str) {
        self.quinn.close(varint(code), reason.as_bytes());
    }

    fn closed(&self) -> BoxFuture<'static, Closed> {
        let quinn = self.quinn.clone();
        async move { closed(quinn.closed().await) }.boxed()
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let mut draining = self.draining.clone();
        async move {
            // The sender's end is the endpoint's end.
            let _gone = draining.wait_for(|draining| *draining).await;
        }
        .boxed()
    }

    fn stats(&self) -> ConnectionStats {
        stats(&self.quinn)
    }

    fn set_identity(&self, identity: Identity) -> Result<(), IdentityAlreadySet> {
        self.identity.set(identity).map_err(|_| IdentityAlreadySet)
    }

    fn identity(&self) -> Option<Identity> {
        self.identity.get().cloned()
    }
}

pub(super) fn stats(quinn: &quinn::Connection) -> ConnectionStats {
    let stats = quinn.stats();
    ConnectionStats {
        rtt: stats.path.rtt,
        bytes_sent: stats.udp_tx.bytes,
        bytes_received: stats.udp_rx.bytes,
        packets_lost: stats.path.lost_packets,
        mtu: stats.path.current_mtu,
    }
}

type Stopped = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>;

struct SendHalf {
    quinn: quinn::SendStream,
    /// Made at the first poll, and kept: polling again allocates nothing.
    stopped: Option<Stopped>,
}

impl SendBackend for SendHalf {
    fn id(&self) -> u64 {
        VarInt::from(self.quinn.id()).into_inner()
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        Pin::new(&mut self.quinn).poll_write(cx, data).map_err(write_error)
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self) -> Result<(), StreamError> {
        self.quinn.finish().map_err(|_| StreamError::StreamClosed)
    }

    fn reset(&mut self, code: u64) {
        // A stream that is closed already has nothing left to give up.
        let _already_closed = self.quinn.reset(varint(code));
    }

    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, StreamError>> {
        let quinn = &self.quinn;
        let stopped = self.stopped.get_or_insert_with(|| Box::pin(quinn.stopped()));
        let result = ready!(stopped.as_mut().poll(cx));
        self.stopped = None;
        Poll::Ready(match result {
            Ok(code) => Ok(code.map(VarInt::into_inner)),
            Err(StoppedError::ConnectionLost(error)) => Err(connection_error(error)),
            Err(other) => Err(StreamError::Internal(io::Error::other(other))),
        })
    }

    fn set_priority(&mut self, priority: i32) {
        let _already_closed = self.quinn.set_priority(priority);
    }
}

struct RecvHalf(quinn::RecvStream);

impl RecvBackend for RecvHalf {
    fn id(&self) -> u64 {
        VarInt::from(self.0.id()).into_inner()
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>> {
        self.0.poll_read_buf(cx, buffer).map_err(read_error)
    }

    fn stop(&mut self, code: u64) {
        let _already_closed = self.0.stop(varint(code));
    }
}
