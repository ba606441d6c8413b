//! A connection over the imports.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::bindings::alknet::plugin::{connections as wit, types};
use super::local::{Local, boxed};
use super::stream::{GuestRecv, GuestSend};
use crate::backend::{BiHalves, ConnectionBackend, RecvBackend, SendBackend};
use crate::connection::{
    Closed, ConnectionInfo, ConnectionStats, DatagramError, IdentityAlreadySet, StreamError,
};
use crate::identity::Identity;

/// The connection that this instance serves.
pub(super) struct GuestConnection {
    resource: Local<Rc<wit::Connection>>,
    info: OnceLock<ConnectionInfo>,
    accept_bi: Local<Waiting<(wit::SendStream, wit::RecvStream)>>,
    accept_uni: Local<Waiting<wit::RecvStream>>,
    datagrams: Local<Waiting<Vec<u8>>>,
}

impl GuestConnection {
    pub(super) fn new(resource: wit::Connection) -> Self {
        Self {
            resource: Local(Rc::new(resource)),
            info: OnceLock::new(),
            accept_bi: Local(Waiting::default()),
            accept_uni: Local(Waiting::default()),
            datagrams: Local(Waiting::default()),
        }
    }

    pub(super) fn resource(&self) -> Rc<wit::Connection> {
        self.resource.clone()
    }
}

thread_local! {
    /// The connection being served, by its number, for `Host::gateway`.
    static CURRENT: RefCell<Option<(u64, Rc<wit::Connection>)>> = const { RefCell::new(None) };
}

/// The host's connection with this number, if this instance serves it.
pub(super) fn current(id: u64) -> Option<Rc<wit::Connection>> {
    CURRENT.with_borrow(|current| {
        current.as_ref().filter(|(number, _)| *number == id).map(|(_, resource)| resource.clone())
    })
}

/// Results that are being waited for.
///
/// Dropping an `accept_bi` must not lose a stream, but cancelling the host's
/// side of it could: the stream may be on its way already. So a wait that its
/// caller gave up is kept, and the next caller goes on with it.
struct Waiting<T>(Rc<RefCell<Vec<Wait<T>>>>);

type Wait<T> = Pin<Box<dyn Future<Output = Result<T, types::StreamError>>>>;

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self(Rc::default())
    }
}

impl<T: 'static> Waiting<T> {
    /// Goes on with a wait that was given up, or starts one.
    fn next<F>(
        &self,
        connection: &Rc<wit::Connection>,
        start: impl FnOnce(Rc<wit::Connection>) -> F + 'static,
    ) -> Resumed<T>
    where
        F: Future<Output = Result<T, types::StreamError>> + 'static,
    {
        let kept = self.0.clone();
        let connection = connection.clone();
        Resumed { kept, wait: None, start: Some(Box::new(move || Box::pin(start(connection)))) }
    }
}

/// A wait that returns to where it is kept when it is dropped unfinished.
struct Resumed<T> {
    kept: Rc<RefCell<Vec<Wait<T>>>>,
    wait: Option<Wait<T>>,
    start: Option<Box<dyn FnOnce() -> Wait<T>>>,
}

impl<T> Future for Resumed<T> {
    type Output = Result<T, StreamError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.wait.is_none() {
            let kept = self.kept.borrow_mut().pop();
            self.wait = kept.or_else(|| self.start.take().map(|start| start()));
        }
        let Some(wait) = &mut self.wait else { return Poll::Pending };
        let result = std::task::ready!(wait.as_mut().poll(cx));
        self.wait = None;
        Poll::Ready(result.map_err(StreamError::from))
    }
}

impl<T> Drop for Resumed<T> {
    fn drop(&mut self) {
        if let Some(wait) = self.wait.take() {
            self.kept.borrow_mut().push(wait);
        }
    }
}

fn halves((send, recv): (wit::SendStream, wit::RecvStream)) -> BiHalves {
    (Box::new(GuestSend::new(send)), Box::new(GuestRecv::new(recv)))
}

impl ConnectionBackend for GuestConnection {
    fn info(&self) -> &ConnectionInfo {
        self.info.get_or_init(|| {
            let info: ConnectionInfo = serde_json::from_str(&self.resource.info())
                .unwrap_or_else(|error| panic!("the host's connection info: {error}"));
            CURRENT.set(Some((info.id, self.resource())));
            info
        })
    }

    fn accept_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        let wait =
            self.accept_bi.next(&self.resource, |open| async move { open.accept_bi().await });
        boxed(async move { Ok(halves(wait.await?)) })
    }

    fn open_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        let connection = self.resource();
        boxed(async move { Ok(halves(connection.open_bi().await?)) })
    }

    fn accept_uni(&self) -> BoxFuture<'static, Result<Box<dyn RecvBackend>, StreamError>> {
        let wait =
            self.accept_uni.next(&self.resource, |open| async move { open.accept_uni().await });
        boxed(async move { Ok(Box::new(GuestRecv::new(wait.await?)) as Box<dyn RecvBackend>) })
    }

    fn open_uni(&self) -> BoxFuture<'static, Result<Box<dyn SendBackend>, StreamError>> {
        let connection = self.resource();
        boxed(async move {
            let send = connection.open_uni().await?;
            Ok(Box::new(GuestSend::new(send)) as Box<dyn SendBackend>)
        })
    }

    fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        self.resource.send_datagram(&data).map_err(|error| match error {
            wit::DatagramError::TooLarge(max) => {
                DatagramError::TooLarge { size: data.len(), max: max as usize }
            }
            wit::DatagramError::Failed(error) => DatagramError::Stream(error.into()),
        })
    }

    fn read_datagram(&self) -> BoxFuture<'static, Result<Bytes, StreamError>> {
        let wait =
            self.datagrams.next(&self.resource, |open| async move { open.read_datagram().await });
        boxed(async move { wait.await.map(Bytes::from) })
    }

    fn max_datagram_size(&self) -> Option<usize> {
        self.resource.max_datagram_size().map(|size| size as usize)
    }

    fn close(&self, code: u64, reason: &str) {
        self.resource.close(code, reason);
    }

    fn closed(&self) -> BoxFuture<'static, Closed> {
        let connection = self.resource();
        boxed(async move {
            let closed = connection.closed().await;
            Closed { code: closed.code, reason: closed.reason }
        })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let connection = self.resource();
        boxed(async move { connection.shutdown().await })
    }

    fn stats(&self) -> ConnectionStats {
        let stats = self.resource.stats();
        ConnectionStats {
            rtt: Duration::from_nanos(stats.rtt),
            bytes_sent: stats.bytes_sent,
            bytes_received: stats.bytes_received,
            packets_lost: stats.packets_lost,
            mtu: stats.mtu,
        }
    }

    fn set_identity(&self, identity: Identity) -> Result<(), IdentityAlreadySet> {
        let identity = serde_json::to_string(&identity).unwrap_or_default();
        self.resource.set_identity(&identity).then_some(()).ok_or(IdentityAlreadySet)
    }

    fn identity(&self) -> Option<Identity> {
        serde_json::from_str(&self.resource.identity()?).ok()
    }
}

