//! A connection, a host and a call in memory, as small as the loader's tests
//! can do with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use alknet_plugin_api::backend::{
    BiHalves, ConnectionBackend, ContextBackend, HostBackend, RecvBackend, SendBackend,
};
use alknet_plugin_api::{
    AbortPolicy, CallError, CallFuture, CallStream, Capability, Closed, Connection, ConnectionInfo,
    ConnectionStats, ContextInfo, DatagramError, Gateway, Host, Identity, IdentityAlreadySet, Json,
    Level, LogRecord, OperationContext, OperationEnv, PeerRef, SendStream, Source, StreamError,
    TaskControl, TaskHandle,
};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::ReadBuf;
use tokio::sync::{mpsc, watch};

const ROOM: usize = 256 * 1024;

/// One direction of a stream.
#[derive(Default)]
struct Pipe {
    bytes: BytesMut,
    ended: bool,
    reset: Option<u64>,
    stopped: Option<u64>,
    drained: bool,
    wakers: Vec<Waker>,
}

type Shared = Arc<Mutex<Pipe>>;

impl Pipe {
    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

struct Writer(Shared, u64);
struct Reader(Shared, u64);

impl SendBackend for Writer {
    fn id(&self) -> u64 {
        self.1
    }
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        let mut pipe = self.0.lock().unwrap();
        if let Some(code) = pipe.stopped {
            return Poll::Ready(Err(StreamError::Stopped(code)));
        }
        if pipe.ended || pipe.reset.is_some() {
            return Poll::Ready(Err(StreamError::StreamClosed));
        }
        let n = data.len().min(ROOM - pipe.bytes.len());
        if n == 0 {
            pipe.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        pipe.bytes.extend_from_slice(&data[..n]);
        pipe.wake();
        Poll::Ready(Ok(n))
    }
    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Poll::Ready(Ok(()))
    }
    fn finish(&mut self) -> Result<(), StreamError> {
        let mut pipe = self.0.lock().unwrap();
        if std::mem::replace(&mut pipe.ended, true) {
            return Err(StreamError::StreamClosed);
        }
        pipe.wake();
        Ok(())
    }
    fn reset(&mut self, code: u64) {
        let mut pipe = self.0.lock().unwrap();
        pipe.reset.get_or_insert(code);
        pipe.wake();
    }
    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, StreamError>> {
        let mut pipe = self.0.lock().unwrap();
        if pipe.drained || pipe.stopped.is_some() {
            return Poll::Ready(Ok(pipe.stopped));
        }
        pipe.wakers.push(cx.waker().clone());
        Poll::Pending
    }
    fn set_priority(&mut self, _: i32) {}
}

impl RecvBackend for Reader {
    fn id(&self) -> u64 {
        self.1
    }
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>> {
        let mut pipe = self.0.lock().unwrap();
        if let Some(code) = pipe.reset {
            return Poll::Ready(Err(StreamError::Reset(code)));
        }
        if pipe.bytes.is_empty() && !pipe.ended {
            pipe.wakers.push(cx.waker().clone());
            return Poll::Pending;
        }
        let n = pipe.bytes.len().min(buffer.remaining());
        buffer.put_slice(&pipe.bytes[..n]);
        pipe.bytes.advance(n);
        pipe.drained = pipe.ended && pipe.bytes.is_empty();
        pipe.wake();
        Poll::Ready(Ok(()))
    }
    fn stop(&mut self, code: u64) {
        let mut pipe = self.0.lock().unwrap();
        pipe.stopped.get_or_insert(code);
        pipe.wake();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.0.lock().unwrap().ended {
            self.reset(SendStream::DROPPED);
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop(0);
    }
}

type Inbox<T> = (mpsc::UnboundedSender<T>, tokio::sync::Mutex<mpsc::UnboundedReceiver<T>>);

fn inbox<T>() -> Inbox<T> {
    let (send, receive) = mpsc::unbounded_channel();
    (send, tokio::sync::Mutex::new(receive))
}

struct Side {
    bi: Inbox<BiHalves>,
    uni: Inbox<Reader>,
    datagrams: Inbox<Bytes>,
}

struct Link {
    sides: [Side; 2],
    closed: watch::Sender<Option<Closed>>,
    identity: Mutex<Option<Identity>>,
    next_stream: std::sync::atomic::AtomicU64,
}

struct End {
    link: Arc<Link>,
    side: usize,
    info: ConnectionInfo,
}

/// Both ends of a connection with this ALPN.
pub(crate) fn pair(alpn: &str) -> (Connection, Connection) {
    let side = || Side { bi: inbox(), uni: inbox(), datagrams: inbox() };
    let link = Arc::new(Link {
        sides: [side(), side()],
        closed: watch::channel(None).0,
        identity: Mutex::default(),
        next_stream: 0.into(),
    });
    let end = |side| {
        let info = ConnectionInfo {
            id: 42,
            source: Source::Memory,
            alpn: alpn.to_owned(),
            remote_addr: None,
            peer_key: None,
        };
        Connection::new(Arc::new(End { link: link.clone(), side, info }))
    };
    (end(0), end(1))
}

impl End {
    fn receive<T: Send + 'static>(
        &self,
        pick: fn(&Side) -> &Inbox<T>,
    ) -> BoxFuture<'static, Result<T, StreamError>> {
        let (link, side) = (self.link.clone(), self.side);
        async move {
            let mut closed = link.closed.subscribe();
            let mut inbox = pick(&link.sides[side]).1.lock().await;
            tokio::select! {
                biased;
                item = inbox.recv() => item.ok_or(StreamError::ConnectionClosed),
                _ = closed.wait_for(Option::is_some) => Err(StreamError::ConnectionClosed),
            }
        }
        .boxed()
    }

    fn pipe(&self) -> (Writer, Reader) {
        let id = self.link.next_stream.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let pipe = Shared::default();
        (Writer(pipe.clone(), id), Reader(pipe, id))
    }
}

impl Drop for End {
    /// As connections do: when nobody holds one side, the other hears of it, on
    /// its streams too.
    fn drop(&mut self) {
        self.close(0, "dropped");
        for side in &self.link.sides {
            if let Ok(mut unaccepted) = side.bi.1.try_lock() {
                while unaccepted.try_recv().is_ok() {}
            }
        }
    }
}

impl ConnectionBackend for End {
    fn info(&self) -> &ConnectionInfo {
        &self.info
    }
    fn accept_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        self.receive(|side| &side.bi)
    }
    fn open_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        let ((to, from_us), (back, to_us)) = (self.pipe(), self.pipe());
        let _ = self.link.sides[1 - self.side].bi.0.send((Box::new(back), Box::new(from_us)));
        if self.link.closed.borrow().is_some() {
            return std::future::ready(Err(StreamError::ConnectionClosed)).boxed();
        }
        std::future::ready(Ok((Box::new(to) as _, Box::new(to_us) as _))).boxed()
    }
    fn accept_uni(&self) -> BoxFuture<'static, Result<Box<dyn RecvBackend>, StreamError>> {
        self.receive(|side| &side.uni).map(|uni| Ok(Box::new(uni?) as _)).boxed()
    }
    fn open_uni(&self) -> BoxFuture<'static, Result<Box<dyn SendBackend>, StreamError>> {
        let (writer, reader) = self.pipe();
        let _ = self.link.sides[1 - self.side].uni.0.send(reader);
        std::future::ready(Ok(Box::new(writer) as _)).boxed()
    }
    fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        if data.len() > 1200 {
            return Err(DatagramError::TooLarge { size: data.len(), max: 1200 });
        }
        let _ = self.link.sides[1 - self.side].datagrams.0.send(data);
        Ok(())
    }
    fn read_datagram(&self) -> BoxFuture<'static, Result<Bytes, StreamError>> {
        self.receive(|side| &side.datagrams)
    }
    fn max_datagram_size(&self) -> Option<usize> {
        Some(1200)
    }
    fn close(&self, code: u64, reason: &str) {
        let closed = Closed { code: Some(code), reason: reason.to_owned() };
        self.link.closed.send_if_modified(|state| {
            let first = state.is_none();
            state.get_or_insert(closed);
            first
        });
    }
    fn closed(&self) -> BoxFuture<'static, Closed> {
        let mut closed = self.link.closed.subscribe();
        async move { closed.wait_for(Option::is_some).await.unwrap().clone().unwrap() }.boxed()
    }
    fn shutdown(&self) -> BoxFuture<'static, ()> {
        std::future::pending().boxed()
    }
    fn stats(&self) -> ConnectionStats {
        ConnectionStats { mtu: 1200, ..ConnectionStats::default() }
    }
    fn set_identity(&self, identity: Identity) -> Result<(), IdentityAlreadySet> {
        let mut slot = self.link.identity.lock().unwrap();
        if slot.is_some() {
            return Err(IdentityAlreadySet);
        }
        *slot = Some(identity);
        Ok(())
    }
    fn identity(&self) -> Option<Identity> {
        self.link.identity.lock().unwrap().clone()
    }
}

/// What a component told its host.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) logs: Mutex<Vec<String>>,
    pub(crate) counters: Mutex<HashMap<String, u64>>,
}

struct TestHost(Arc<Told>, Instant);

struct Task(tokio::task::JoinHandle<()>);

impl TaskControl for Task {
    fn abort(&self) {
        self.0.abort();
    }
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_unpin(cx).map(drop)
    }
}

/// A host, and what it is told.
pub(crate) fn host() -> (Host, Arc<Told>) {
    let told = Arc::<Told>::default();
    (Host::new(Arc::new(TestHost(told.clone(), Instant::now()))), told)
}

impl HostBackend for TestHost {
    fn spawn(&self, task: BoxFuture<'static, ()>) -> TaskHandle {
        TaskHandle::new(Box::new(Task(tokio::spawn(task))))
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(duration).boxed()
    }
    fn now(&self) -> Duration {
        self.1.elapsed()
    }
    fn unix_time(&self) -> Duration {
        Duration::from_secs(1)
    }
    fn log_enabled(&self, level: Level, _: &str) -> bool {
        level <= Level::Info
    }
    fn log(&self, record: &LogRecord<'_>) {
        let line = format!("{:?} {} {:?}", record.level, record.message, record.fields);
        self.0.logs.lock().unwrap().push(line);
    }
    fn counter(&self, name: &str, _: &[(&str, &str)], add: u64) {
        *self.0.counters.lock().unwrap().entry(name.to_owned()).or_default() += add;
    }
    fn gauge(&self, _: &str, _: &[(&str, &str)], _: f64) {}
    fn histogram(&self, _: &str, _: &[(&str, &str)], _: f64) {}
    fn resolve_token(&self, _: &[u8]) -> Option<Identity> {
        None
    }
    fn resolve_fingerprint(&self, _: &str) -> Option<Identity> {
        None
    }
    fn capability(&self, _: &str) -> Option<Capability> {
        None
    }
    fn env(&self) -> Arc<dyn OperationEnv> {
        Arc::new(Env)
    }
    fn gateway(&self, _: &Connection) -> Option<Arc<dyn Gateway>> {
        None
    }
    fn shutdown(&self) -> BoxFuture<'static, ()> {
        std::future::pending().boxed()
    }
}

/// Reaches `other/op`, which answers with its input, and `other/items`, which
/// yields its input's elements.
struct Env;

impl OperationEnv for Env {
    fn invoke(&self, name: &str, input: Json) -> CallFuture {
        let known = self.contains(name);
        async move { if known { Ok(input) } else { Err(CallError::not_found("no such operation")) } }
            .boxed()
    }
    fn invoke_with_policy(&self, name: &str, input: Json, _: AbortPolicy) -> CallFuture {
        self.invoke(name, input)
    }
    fn subscribe(&self, _: &str, input: Json) -> CallStream {
        let items: Vec<serde_json::Value> = input.to().unwrap();
        Box::pin(futures_util::stream::iter(items.into_iter().map(|item| Ok(Json::from(item)))))
    }
    fn subscribe_with_policy(&self, name: &str, input: Json, _: AbortPolicy) -> CallStream {
        self.subscribe(name, input)
    }
    fn invoke_peer(&self, _: PeerRef, _: &str, _: Json) -> CallFuture {
        std::future::ready(Err(CallError::not_found("no such peer"))).boxed()
    }
    fn contains(&self, name: &str) -> bool {
        matches!(name, "other/op" | "other/items")
    }
    fn peer_contains(&self, _: &PeerRef, _: &str) -> bool {
        false
    }
}

struct Call;

/// One call's context.
pub(crate) fn context() -> OperationContext {
    OperationContext::from_backend(Arc::new(Call))
}

impl ContextBackend for Call {
    fn info(&self) -> Arc<ContextInfo> {
        Arc::new(ContextInfo {
            request_id: "r1".into(),
            identity: Some(Identity { id: "alice".into(), ..Identity::default() }),
            ..ContextInfo::default()
        })
    }
    fn remaining(&self) -> Option<Duration> {
        Some(Duration::from_secs(30))
    }
    fn is_cancelled(&self) -> bool {
        false
    }
    fn cancelled(&self) -> BoxFuture<'static, ()> {
        std::future::pending().boxed()
    }
    fn env(&self) -> Arc<dyn OperationEnv> {
        Arc::new(Env)
    }
    fn capability(&self, _: &str) -> Option<Capability> {
        None
    }
}
