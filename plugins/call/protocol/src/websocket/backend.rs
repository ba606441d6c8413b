//! A socket as a connection of one stream.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use alknet_plugin_api::backend::{BiHalves, ConnectionBackend, RecvBackend, SendBackend};
use alknet_plugin_api::{
    Closed, ConnectionInfo, ConnectionStats, DatagramError, Identity, IdentityAlreadySet,
    StreamError,
};
use bytes::Bytes;
use futures_util::future::{self, BoxFuture};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::state::{Ending, Incoming, Shared};

/// Held by the connection and its halves; the last one to go ends the socket.
struct Hold<S>(Arc<Shared<S>>);

impl<S> Drop for Hold<S> {
    fn drop(&mut self) {
        self.0.end(Ending::close(0, ""));
    }
}

pub(super) struct SocketConnection<S>(Arc<Hold<S>>);

impl<S> SocketConnection<S> {
    pub(super) fn new(shared: Arc<Shared<S>>) -> Self {
        Self(Arc::new(Hold(shared)))
    }
}

fn none<T: Send + 'static>() -> BoxFuture<'static, Result<T, StreamError>> {
    Box::pin(future::ready(Err(StreamError::StreamClosed)))
}

impl<S> ConnectionBackend for SocketConnection<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fn info(&self) -> &ConnectionInfo {
        &self.0.0.info
    }

    fn accept_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        let hold = self.0.clone();
        Box::pin(async move {
            if hold.0.has_ended() || std::mem::replace(&mut hold.0.state.lock().accepted, true) {
                return Err(StreamError::ConnectionClosed);
            }
            let send = SocketSend { hold: hold.clone(), finished: false };
            let recv = SocketRecv { hold };
            Ok((Box::new(send) as Box<dyn SendBackend>, Box::new(recv) as Box<dyn RecvBackend>))
        })
    }

    fn open_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        none()
    }

    fn accept_uni(&self) -> BoxFuture<'static, Result<Box<dyn RecvBackend>, StreamError>> {
        none()
    }

    fn open_uni(&self) -> BoxFuture<'static, Result<Box<dyn SendBackend>, StreamError>> {
        none()
    }

    fn send_datagram(&self, _: Bytes) -> Result<(), DatagramError> {
        Err(StreamError::StreamClosed.into())
    }

    fn read_datagram(&self) -> BoxFuture<'static, Result<Bytes, StreamError>> {
        none()
    }

    fn max_datagram_size(&self) -> Option<usize> {
        None
    }

    fn close(&self, code: u64, reason: &str) {
        self.0.0.end(Ending::close(code, reason));
    }

    fn closed(&self) -> BoxFuture<'static, Closed> {
        let mut closed = self.0.0.closed.subscribe();
        Box::pin(async move {
            match closed.wait_for(Option::is_some).await.map(|closed| closed.clone()) {
                Ok(Some(closed)) => closed,
                _ => Closed { code: None, reason: "dropped".into() },
            }
        })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        (self.0.0.shutdown)()
    }

    fn stats(&self) -> ConnectionStats {
        ConnectionStats {
            rtt: Duration::ZERO,
            bytes_sent: self.0.0.traffic.sent(),
            bytes_received: self.0.0.traffic.received(),
            packets_lost: 0,
            mtu: 0,
        }
    }

    fn set_identity(&self, identity: Identity) -> Result<(), IdentityAlreadySet> {
        self.0.0.identity.set(identity).map_err(|_| IdentityAlreadySet)
    }

    fn identity(&self) -> Option<Identity> {
        self.0.0.identity.get().cloned()
    }
}

struct SocketSend<S> {
    hold: Arc<Hold<S>>,
    finished: bool,
}

impl<S> SocketSend<S> {
    fn check(&self) -> Result<(), StreamError> {
        match self.finished {
            true => Err(StreamError::StreamClosed),
            false if self.hold.0.is_ending() => Err(StreamError::ConnectionClosed),
            false => Ok(()),
        }
    }

    fn told<T>(&self, result: Result<T, Ending>) -> Result<T, StreamError> {
        result.map_err(|ending| {
            self.hold.0.end(ending);
            StreamError::ConnectionClosed
        })
    }
}

impl<S> SendBackend for SocketSend<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fn id(&self) -> u64 {
        0
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        let shared = &self.hold.0;
        shared.wakers.send.register(cx.waker());
        self.check()?;
        let written = shared.state.lock().poll_write(&mut shared.context(), data);
        written.map(|written| self.told(written))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let shared = &self.hold.0;
        shared.wakers.send.register(cx.waker());
        self.check()?;
        let flushed = shared.state.lock().poll_flush(&mut shared.context());
        flushed.map(|flushed| self.told(flushed))
    }

    fn finish(&mut self) -> Result<(), StreamError> {
        self.check()?;
        self.finished = true;
        self.hold.0.end(Ending::finished());
        Ok(())
    }

    fn reset(&mut self, code: u64) {
        self.hold.0.end(Ending::reset(code));
    }

    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, StreamError>> {
        let shared = &self.hold.0;
        shared.wakers.stopped.register(cx.waker());
        match (shared.has_ended(), self.finished) {
            (false, _) => Poll::Pending,
            (true, true) => Poll::Ready(Ok(None)),
            (true, false) => Poll::Ready(Err(StreamError::ConnectionClosed)),
        }
    }

    fn set_priority(&mut self, _: i32) {}
}

struct SocketRecv<S> {
    hold: Arc<Hold<S>>,
}

impl<S> RecvBackend for SocketRecv<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    fn id(&self) -> u64 {
        0
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>> {
        let shared = &self.hold.0;
        shared.wakers.recv.register(cx.waker());
        let mut state = shared.state.lock();
        if state.incoming.is_empty() {
            if shared.has_ended() {
                return Poll::Ready(Err(StreamError::ConnectionClosed));
            }
            // The socket's task reads from then on, to the end.
            if state.ending.is_some() {
                return Poll::Pending;
            }
            match state.poll_message(&mut shared.context()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(message)) => state.incoming = Incoming::new(message),
                Poll::Ready(Err(ending)) => {
                    drop(state);
                    shared.end(ending);
                    return Poll::Ready(Err(StreamError::ConnectionClosed));
                }
            }
        }
        state.incoming.read(buffer);
        Poll::Ready(Ok(()))
    }

    fn stop(&mut self, _: u64) {}
}
