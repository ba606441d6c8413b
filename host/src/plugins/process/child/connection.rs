//! A connection, in the child.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use alknet_plugin_api::backend::{BiHalves, ConnectionBackend, RecvBackend, SendBackend};
use alknet_plugin_api::{
    Closed, ConnectionInfo, ConnectionStats, DatagramError, Identity, IdentityAlreadySet,
    StreamError,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use super::super::wire::{ACCEPT_AHEAD, Answer, Ask, DATAGRAMS_AHEAD, Id, ToHost, Way, WireError};
use super::parent::{Answered, Parent};
use super::stream::{RecvSide, SendSide};

/// A connection that the host serves with this plugin.
pub(super) struct Conn {
    parent: Arc<Parent>,
    pub(super) id: Id,
    info: ConnectionInfo,
    /// What one datagram may hold, as far as is known; nothing for none at all.
    max_datagram: AtomicU64,
    bi: Mutex<Arrivals<BiHalves>>,
    uni: Mutex<Arrivals<Box<dyn RecvBackend>>>,
    datagrams: Mutex<Arrivals<Bytes>>,
}

/// What has come before anybody took it.
struct Arrivals<T> {
    came: VecDeque<T>,
    end: Option<WireError>,
    asked: bool,
    waiting: Vec<Waker>,
}

impl<T> Default for Arrivals<T> {
    fn default() -> Self {
        Self { came: VecDeque::new(), end: None, asked: false, waiting: Vec::new() }
    }
}

impl<T> Arrivals<T> {
    /// Takes what came first; `more` is called with how many may come instead.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        ahead: u32,
        more: impl FnOnce(u32),
    ) -> Poll<Result<T, StreamError>> {
        if !std::mem::replace(&mut self.asked, true) {
            more(ahead);
        } else if let Some(first) = self.came.pop_front() {
            if self.end.is_none() {
                more(1);
            }
            return Poll::Ready(Ok(first));
        }
        if let Some(end) = &self.end {
            return Poll::Ready(Err(end.clone().into()));
        }
        if !self.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

fn change<T>(arrivals: &Mutex<Arrivals<T>>, change: impl FnOnce(&mut Arrivals<T>)) {
    let mut arrivals = arrivals.lock();
    change(&mut arrivals);
    let waiting = std::mem::take(&mut arrivals.waiting);
    drop(arrivals);
    waiting.into_iter().for_each(Waker::wake);
}

impl Conn {
    pub(super) fn new(
        parent: &Arc<Parent>,
        id: Id,
        info: ConnectionInfo,
        max_datagram: Option<u64>,
    ) -> Arc<Self> {
        let conn = Arc::new(Self {
            parent: parent.clone(),
            id,
            info,
            max_datagram: AtomicU64::new(max_datagram.unwrap_or(0)),
            bi: Mutex::default(),
            uni: Mutex::default(),
            datagrams: Mutex::default(),
        });
        parent.add_conn(id, &conn);
        conn
    }

    pub(super) fn accepted(&self, way: Way, stream: Id, number: u64) {
        let recv = Box::new(RecvSide(self.parent.recv_half(stream, number)));
        match way {
            Way::Bi => {
                let send = Box::new(SendSide(self.parent.send_half(stream, number)));
                change(&self.bi, |bi| bi.came.push_back((send, recv)));
            }
            Way::Uni => change(&self.uni, |uni| uni.came.push_back(recv)),
        }
    }

    pub(super) fn accept_ended(&self, way: Way, error: &WireError) {
        match way {
            Way::Bi => change(&self.bi, |bi| bi.end = Some(error.clone())),
            Way::Uni => change(&self.uni, |uni| uni.end = Some(error.clone())),
        }
    }

    pub(super) fn datagram(&self, data: Bytes) {
        change(&self.datagrams, |datagrams| datagrams.came.push_back(data));
    }

    pub(super) fn datagrams_ended(&self, error: &WireError) {
        change(&self.datagrams, |datagrams| datagrams.end = Some(error.clone()));
    }

    fn accept(&self, way: Way, streams: u32) {
        self.parent.say(&ToHost::Accept { conn: self.id, way, streams }, b"");
    }

    fn ask_now(&self, ask: Ask, body: &[u8]) -> Option<Answered> {
        self.parent.ask_now(ask, body)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.parent.remove_conn(self.id);
    }
}

/// The plugin's handle of a connection.
pub(super) struct ConnSide(pub(super) Arc<Conn>);

fn gone<T>() -> Result<T, StreamError> {
    Err(StreamError::ConnectionClosed)
}

fn read<T: DeserializeOwned>(answered: Option<Answered>) -> Option<T> {
    match answered? {
        (Answer::Some, body) => serde_json::from_slice(&body).ok(),
        _ => None,
    }
}

impl ConnSide {
    async fn open(conn: Arc<Conn>, way: Way) -> Result<(SendSide, Option<RecvSide>), StreamError> {
        match conn.parent.ask(Ask::Open { conn: conn.id, way }, b"").await {
            Some((Answer::Stream { stream, number }, _)) => {
                let recv = (way == Way::Bi).then(|| conn.parent.recv_half(stream, number));
                let send = conn.parent.send_half(stream, number);
                Ok((SendSide(send), recv.map(RecvSide)))
            }
            Some((Answer::StreamError(error), _)) => Err(error.into()),
            _ => gone(),
        }
    }
}

impl ConnectionBackend for ConnSide {
    fn info(&self) -> &ConnectionInfo {
        &self.0.info
    }

    fn accept_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        let conn = self.0.clone();
        Box::pin(std::future::poll_fn(move |cx| {
            conn.bi.lock().poll(cx, ACCEPT_AHEAD, |more| conn.accept(Way::Bi, more))
        }))
    }

    fn open_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        let opening = Self::open(self.0.clone(), Way::Bi);
        Box::pin(async move {
            match opening.await? {
                (send, Some(recv)) => Ok((Box::new(send) as _, Box::new(recv) as _)),
                _ => gone(),
            }
        })
    }

    fn accept_uni(&self) -> BoxFuture<'static, Result<Box<dyn RecvBackend>, StreamError>> {
        let conn = self.0.clone();
        Box::pin(std::future::poll_fn(move |cx| {
            conn.uni.lock().poll(cx, ACCEPT_AHEAD, |more| conn.accept(Way::Uni, more))
        }))
    }

    fn open_uni(&self) -> BoxFuture<'static, Result<Box<dyn SendBackend>, StreamError>> {
        let opening = Self::open(self.0.clone(), Way::Uni);
        Box::pin(async move { Ok(Box::new(opening.await?.0) as _) })
    }

    fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        let size = data.len();
        // What is known may be out of date, and is looked at again before it is
        // an error.
        if size as u64 > self.0.max_datagram.load(Ordering::Relaxed) {
            match self.max_datagram_size() {
                Some(max) if size > max => return Err(DatagramError::TooLarge { size, max }),
                Some(_) => {}
                None => return Err(StreamError::StreamClosed.into()),
            }
        }
        self.0.parent.say(&ToHost::Datagram { conn: self.0.id }, &data);
        Ok(())
    }

    fn read_datagram(&self) -> BoxFuture<'static, Result<Bytes, StreamError>> {
        let conn = self.0.clone();
        Box::pin(std::future::poll_fn(move |cx| {
            conn.datagrams.lock().poll(cx, DATAGRAMS_AHEAD, |datagrams| {
                conn.parent.say(&ToHost::Datagrams { conn: conn.id, datagrams }, b"");
            })
        }))
    }

    fn max_datagram_size(&self) -> Option<usize> {
        let answer = self.0.ask_now(Ask::MaxDatagram { conn: self.0.id }, b"");
        let Some((Answer::Number(max), _)) = answer else { return None };
        self.0.max_datagram.store(max.unwrap_or(0), Ordering::Relaxed);
        max.and_then(|max| max.try_into().ok())
    }

    fn close(&self, code: u64, reason: &str) {
        self.0.parent.say(&ToHost::Close { conn: self.0.id, code }, reason.as_bytes());
    }

    fn closed(&self) -> BoxFuture<'static, Closed> {
        let asked = self.0.parent.ask(Ask::Closed { conn: self.0.id }, b"");
        Box::pin(async move {
            let closed = read(asked.await);
            closed.unwrap_or_else(|| Closed { code: None, reason: "the host is gone".into() })
        })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let asked = self.0.parent.ask(Ask::ConnShutdown { conn: self.0.id }, b"");
        Box::pin(async move { drop(asked.await) })
    }

    fn stats(&self) -> ConnectionStats {
        read(self.0.ask_now(Ask::Stats { conn: self.0.id }, b"")).unwrap_or_default()
    }

    fn set_identity(&self, identity: Identity) -> Result<(), IdentityAlreadySet> {
        let identity = serde_json::to_vec(&identity).unwrap_or_default();
        match self.0.ask_now(Ask::SetIdentity { conn: self.0.id }, &identity) {
            Some((Answer::Flag(true), _)) => Ok(()),
            _ => Err(IdentityAlreadySet),
        }
    }

    fn identity(&self) -> Option<Identity> {
        read(self.0.ask_now(Ask::Identity { conn: self.0.id }, b""))
    }

    fn as_any(&self) -> Option<&dyn std::any::Any> {
        Some(self)
    }
}
