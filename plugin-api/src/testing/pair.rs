//! Two ends of a connection in one process.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::ReadBuf;
use tokio::sync::{Notify, Semaphore, watch};

use super::pipe::{Lost, Pipe};
use crate::backend::{BiHalves, ConnectionBackend, RecvBackend, SendBackend};
use crate::connection::{
    Closed, Connection, ConnectionInfo, ConnectionStats, DatagramError, IdentityAlreadySet, Source,
    StreamError,
};
use crate::identity::Identity;
use crate::single::SingleStream;

/// The largest number that QUIC's integer encoding holds.
const MAX_CODE: u64 = (1 << 62) - 1;

/// A connection in memory: first the client's end, then the server's.
///
/// Everything that QUIC has is there: both kinds of streams with QUIC's ids,
/// flow control, codes both ways, datagrams, close codes. See [`Pair`] for
/// limits and for injecting failures.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (client, server) = alknet_plugin_api::testing::pair("alknet/example");
/// let (mut send, _recv) = client.open_bi().await?;
/// send.write_all(b"hello").await?;
/// send.finish()?;
/// let (_send, mut recv) = server.accept_bi().await?;
/// assert_eq!(recv.read_to_end(100).await?, b"hello");
/// # Ok(())
/// # }
/// ```
pub fn pair(alpn: &str) -> (Connection, Connection) {
    let (client, server, _) = Pair::new(alpn).build();
    (client, server)
}

/// A connection of a single stream, as TLS over TCP gives it: the peer's end of
/// the bytes, and the connection around the other end.
///
/// # Panics
/// Outside a tokio runtime.
pub fn single_stream(alpn: &str) -> (tokio::io::DuplexStream, Connection) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (reader, writer) = tokio::io::split(near);
    let info = ConnectionInfo {
        id: next_id(),
        source: Source::Tls,
        alpn: alpn.to_owned(),
        remote_addr: None,
        peer_key: None,
    };
    let (connection, driver) = SingleStream::new(info, reader, writer).build();
    tokio::spawn(driver);
    (far, connection)
}

fn next_id() -> u64 {
    static NEXT_ID: AtomicU64 = AtomicU64::new(1);
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// Settings of a connection in memory.
#[derive(Clone, Debug)]
pub struct Pair {
    alpn: String,
    source: Source,
    buffer: usize,
    bi_limit: usize,
    uni_limit: usize,
    datagram_size: Option<usize>,
    datagram_queue: usize,
    client_key: Option<[u8; 32]>,
    client_addr: Option<SocketAddr>,
    lossy_close: bool,
}

impl Pair {
    /// A pair with 64 KiB of buffer a stream and direction, a node's default
    /// limits of 1,000 bidirectional and 100 unidirectional streams open at a
    /// time for each side, datagrams of up to 1,200 bytes, and no peer key.
    pub fn new(alpn: impl Into<String>) -> Self {
        Self {
            alpn: alpn.into(),
            source: Source::Memory,
            buffer: 64 * 1024,
            bi_limit: 1000,
            uni_limit: 100,
            datagram_size: Some(1200),
            datagram_queue: 256,
            client_key: None,
            client_addr: None,
            lossy_close: true,
        }
    }

    /// Bytes that a stream holds in each direction before its writer waits.
    #[must_use]
    pub fn buffer(mut self, bytes: usize) -> Self {
        self.buffer = bytes;
        self
    }

    /// Bidirectional streams that each side may have open.
    #[must_use]
    pub fn bi_limit(mut self, streams: usize) -> Self {
        self.bi_limit = streams;
        self
    }

    /// Unidirectional streams that each side may have open.
    #[must_use]
    pub fn uni_limit(mut self, streams: usize) -> Self {
        self.uni_limit = streams;
        self
    }

    /// Bytes that a datagram may hold; `None` for a peer that takes none.
    #[must_use]
    pub fn datagram_size(mut self, bytes: Option<usize>) -> Self {
        self.datagram_size = bytes;
        self
    }

    /// Datagrams that wait to be read before the oldest is dropped.
    #[must_use]
    pub fn datagram_queue(mut self, datagrams: usize) -> Self {
        self.datagram_queue = datagrams;
        self
    }

    /// The key that the client has proven, as the server's end tells it.
    #[must_use]
    pub fn client_key(mut self, key: [u8; 32]) -> Self {
        self.client_key = Some(key);
        self
    }

    /// The client's address, as the server's end tells it.
    #[must_use]
    pub fn client_addr(mut self, addr: SocketAddr) -> Self {
        self.client_addr = Some(addr);
        self
    }

    /// What both ends say carries them; [`Source::Memory`] by default.
    #[must_use]
    pub fn source(mut self, source: Source) -> Self {
        self.source = source;
        self
    }

    /// Whether a close throws away what the closing side has written, but has
    /// neither seen delivered with [`SendStream::stopped`] nor had read. A real
    /// network may or may not; here it is certain, so that a handler which closes
    /// too early fails its tests. On by default.
    ///
    /// [`SendStream::stopped`]: crate::SendStream::stopped
    #[must_use]
    pub fn lossy_close(mut self, lossy: bool) -> Self {
        self.lossy_close = lossy;
        self
    }

    /// The client's end, the server's end, and a hand on both. An end closes
    /// with code 0 when its connection and all its streams have been dropped.
    pub fn build(self) -> (Connection, Connection, PairControl) {
        let id = next_id();
        let end = |remote_addr, peer_key| End {
            info: ConnectionInfo {
                id,
                source: self.source,
                alpn: self.alpn.clone(),
                remote_addr,
                peer_key,
            },
            bi: Inbox::default(),
            uni: Inbox::default(),
            datagrams: Inbox::default(),
            bi_opened: Opened::new(self.bi_limit),
            uni_opened: Opened::new(self.uni_limit),
            identity: OnceLock::new(),
            shutdown: watch::Sender::new(false),
            bytes_sent: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
        };
        let link = Arc::new(Link {
            ends: [end(None, None), end(self.client_addr, self.client_key)],
            closed: watch::Sender::new(None),
            pipes: Mutex::default(),
            settings: self,
        });
        let client = Connection::new(Arc::new(MemoryConnection(Handle::new(&link, CLIENT))));
        let server = Connection::new(Arc::new(MemoryConnection(Handle::new(&link, SERVER))));
        (client, server, PairControl { link })
    }
}

/// Does to a pair what a node or a network would.
#[derive(Clone)]
pub struct PairControl {
    link: Arc<Link>,
}

impl PairControl {
    /// Begins the drain of the server's node: the server's
    /// [`Connection::shutdown`] resolves.
    pub fn begin_shutdown(&self) {
        self.link.ends[SERVER].shutdown.send_replace(true);
    }

    /// Begins the drain of the client's node.
    pub fn begin_client_shutdown(&self) {
        self.link.ends[CLIENT].shutdown.send_replace(true);
    }

    /// Cuts the connection as if the peer had vanished: both ends time out,
    /// neither learns a code.
    pub fn time_out(&self) {
        self.link.end(None, Closed { code: None, reason: "timed out".into() }, Lost::TimedOut);
    }
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

/// What the two ends share.
struct Link {
    settings: Pair,
    ends: [End; 2],
    closed: watch::Sender<Option<(Closed, Lost)>>,
    /// Every stream direction with the side that writes it.
    pipes: Mutex<Vec<(usize, Weak<Pipe>)>>,
}

/// One side: what has arrived for it, and what it has opened.
struct End {
    info: ConnectionInfo,
    bi: Inbox<BiPipes>,
    uni: Inbox<(u64, Arc<Pipe>)>,
    datagrams: Inbox<Bytes>,
    bi_opened: Opened<BiPipes>,
    uni_opened: Opened<(u64, Arc<Pipe>)>,
    identity: OnceLock<Identity>,
    shutdown: watch::Sender<bool>,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

/// A bidirectional stream as its acceptor will hold it.
struct BiPipes {
    id: u64,
    send: Arc<Pipe>,
    recv: Arc<Pipe>,
}

struct Inbox<T> {
    queue: Mutex<VecDeque<T>>,
    arrived: Notify,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self { queue: Mutex::default(), arrived: Notify::new() }
    }
}

impl<T> Inbox<T> {
    fn push(&self, item: T) {
        lock(&self.queue).push_back(item);
        self.arrived.notify_one();
    }

    async fn pop(&self, link: &Link) -> Result<T, StreamError> {
        loop {
            let arrived = self.arrived.notified();
            if let Some(item) = lock(&self.queue).pop_front() {
                return Ok(item);
            }
            if let Some(lost) = link.lost() {
                return Err(lost.error());
            }
            arrived.await;
        }
    }
}

/// The streams of one kind that one side opens. The peer learns of a stream when
/// something happens on it, and of all with lower numbers at the same time.
struct Opened<T> {
    places: Arc<Semaphore>,
    unannounced: Mutex<(u64, VecDeque<(u64, T)>)>,
}

impl<T> Opened<T> {
    fn new(limit: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(limit)), unannounced: Mutex::default() }
    }

    fn announce(&self, index: u64, inbox: &Inbox<T>) {
        let mut opened = lock(&self.unannounced);
        while opened.1.front().is_some_and(|(front, _)| *front <= index) {
            if let Some((_, stream)) = opened.1.pop_front() {
                inbox.push(stream);
            }
        }
    }
}

impl Link {
    fn lost(&self) -> Option<Lost> {
        self.closed.borrow().as_ref().map(|(_, lost)| *lost)
    }

    fn pipe(&self, writer: usize, place: Option<super::pipe::Place>) -> Arc<Pipe> {
        let pipe = Pipe::new(self.settings.buffer, place);
        let mut pipes = lock(&self.pipes);
        if pipes.len() == pipes.capacity() {
            pipes.retain(|(_, pipe)| pipe.strong_count() > 0);
            // Room for as many again, so that sweeping stays rare.
            let live = pipes.len();
            pipes.reserve(live + 1);
        }
        pipes.push((writer, Arc::downgrade(&pipe)));
        pipe
    }

    /// Ends the connection, unless it has ended: by one side, or for both.
    fn end(&self, by: Option<usize>, closed: Closed, how: Lost) {
        let first = self.closed.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some((closed, how));
            }
            first
        });
        if !first {
            return;
        }
        let pipes = std::mem::take(&mut *lock(&self.pipes));
        for (writer, pipe) in pipes {
            if let Some(pipe) = pipe.upgrade() {
                let lossy = self.settings.lossy_close && by.is_none_or(|by| by == writer);
                pipe.lose(how, lossy);
            }
        }
        for end in &self.ends {
            end.bi_opened.places.close();
            end.uni_opened.places.close();
            end.bi.arrived.notify_waiters();
            end.uni.arrived.notify_waiters();
            end.datagrams.arrived.notify_waiters();
        }
    }

    /// Tells the peer of the stream that `id` names, if `side` opened it and the
    /// peer does not know yet.
    fn announce(&self, side: usize, id: u64) {
        if (id & 1) as usize != side {
            return;
        }
        let (opener, acceptor) = (&self.ends[side], &self.ends[1 - side]);
        if id & 2 == 0 {
            opener.bi_opened.announce(id >> 2, &acceptor.bi);
        } else {
            opener.uni_opened.announce(id >> 2, &acceptor.uni);
        }
    }
}

/// One side's hold on the link. The last one to go closes the connection.
#[derive(Clone)]
struct Handle(Arc<Hold>);

struct Hold {
    link: Arc<Link>,
    side: usize,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let closed = Closed { code: Some(0), reason: String::new() };
        self.link.end(Some(self.side), closed, Lost::Closed);
    }
}

impl Handle {
    fn new(link: &Arc<Link>, side: usize) -> Self {
        Self(Arc::new(Hold { link: link.clone(), side }))
    }

    fn link(&self) -> &Link {
        &self.0.link
    }

    fn own(&self) -> &End {
        &self.0.link.ends[self.0.side]
    }

    fn peer(&self) -> &End {
        &self.0.link.ends[1 - self.0.side]
    }

    fn send(&self, id: u64, pipe: Arc<Pipe>) -> Box<dyn SendBackend> {
        Box::new(MemorySend { id, pipe, handle: self.clone(), announced: false })
    }

    fn recv(&self, id: u64, pipe: Arc<Pipe>) -> Box<dyn RecvBackend> {
        Box::new(MemoryRecv { id, pipe, handle: self.clone() })
    }

    /// Waits for room under the peer's limit, then numbers a new stream.
    async fn open<T, R>(
        &self,
        opened: &Opened<T>,
        uni: u64,
        make: impl FnOnce(u64, super::pipe::Place) -> (T, R),
    ) -> Result<R, StreamError> {
        let lost = || self.link().lost().unwrap_or(Lost::Closed).error();
        let Ok(place) = opened.places.clone().acquire_owned().await else { return Err(lost()) };
        let mut numbers = lock(&opened.unannounced);
        let index = numbers.0;
        numbers.0 += 1;
        let (theirs, ours) = make(index << 2 | uni << 1 | self.0.side as u64, Arc::new(place));
        numbers.1.push_back((index, theirs));
        drop(numbers);
        // A close between the permit and here has not seen the new pipes.
        if self.link().lost().is_some() { Err(lost()) } else { Ok(ours) }
    }
}

struct MemoryConnection(Handle);

impl ConnectionBackend for MemoryConnection {
    fn info(&self) -> &ConnectionInfo {
        &self.0.own().info
    }

    fn accept_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        let handle = self.0.clone();
        Box::pin(async move {
            let BiPipes { id, send, recv } = handle.own().bi.pop(handle.link()).await?;
            Ok((handle.send(id, send), handle.recv(id, recv)))
        })
    }

    fn open_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        let handle = self.0.clone();
        Box::pin(async move {
            let side = handle.0.side;
            let make = |id, place: super::pipe::Place| {
                let out = handle.link().pipe(side, Some(place.clone()));
                let back = handle.link().pipe(1 - side, Some(place));
                let theirs = BiPipes { id, send: back.clone(), recv: out.clone() };
                (theirs, (handle.send(id, out), handle.recv(id, back)))
            };
            handle.open(&handle.own().bi_opened, 0, make).await
        })
    }

    fn accept_uni(&self) -> BoxFuture<'static, Result<Box<dyn RecvBackend>, StreamError>> {
        let handle = self.0.clone();
        Box::pin(async move {
            let (id, recv) = handle.own().uni.pop(handle.link()).await?;
            Ok(handle.recv(id, recv))
        })
    }

    fn open_uni(&self) -> BoxFuture<'static, Result<Box<dyn SendBackend>, StreamError>> {
        let handle = self.0.clone();
        Box::pin(async move {
            let make = |id, place| {
                let out = handle.link().pipe(handle.0.side, Some(place));
                ((id, out.clone()), handle.send(id, out))
            };
            handle.open(&handle.own().uni_opened, 1, make).await
        })
    }

    fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        if let Some(lost) = self.0.link().lost() {
            return Err(lost.error().into());
        }
        let settings = &self.0.link().settings;
        let Some(max) = settings.datagram_size else {
            return Err(StreamError::StreamClosed.into());
        };
        if data.len() > max {
            return Err(DatagramError::TooLarge { size: data.len(), max });
        }
        self.0.own().bytes_sent.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.0.peer().bytes_received.fetch_add(data.len() as u64, Ordering::Relaxed);
        let inbox = &self.0.peer().datagrams;
        {
            let mut queue = lock(&inbox.queue);
            while queue.len() >= settings.datagram_queue.max(1) {
                queue.pop_front();
            }
        }
        inbox.push(data);
        Ok(())
    }

    fn read_datagram(&self) -> BoxFuture<'static, Result<Bytes, StreamError>> {
        let handle = self.0.clone();
        Box::pin(async move {
            if handle.link().settings.datagram_size.is_none() {
                return Err(StreamError::StreamClosed);
            }
            handle.own().datagrams.pop(handle.link()).await
        })
    }

    fn max_datagram_size(&self) -> Option<usize> {
        self.0.link().settings.datagram_size
    }

    fn close(&self, code: u64, reason: &str) {
        let closed = Closed { code: Some(code.min(MAX_CODE)), reason: reason.to_owned() };
        self.0.link().end(Some(self.0.0.side), closed, Lost::Closed);
    }

    fn closed(&self) -> BoxFuture<'static, Closed> {
        // Holding the link, but not the side open: waiting for the end must not
        // put it off.
        let link = self.0.0.link.clone();
        wait(link.closed.subscribe()).boxed()
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let mut begun = self.0.own().shutdown.subscribe();
        Box::pin(async move {
            if begun.wait_for(|begun| *begun).await.is_err() {
                std::future::pending().await
            }
        })
    }

    fn stats(&self) -> ConnectionStats {
        let end = self.0.own();
        ConnectionStats {
            rtt: Duration::ZERO,
            bytes_sent: end.bytes_sent.load(Ordering::Relaxed),
            bytes_received: end.bytes_received.load(Ordering::Relaxed),
            packets_lost: 0,
            mtu: u16::try_from(self.max_datagram_size().unwrap_or(1200)).unwrap_or(u16::MAX),
        }
    }

    fn set_identity(&self, identity: Identity) -> Result<(), IdentityAlreadySet> {
        self.0.own().identity.set(identity).map_err(|_| IdentityAlreadySet)
    }

    fn identity(&self) -> Option<Identity> {
        self.0.own().identity.get().cloned()
    }
}

async fn wait(mut closed: watch::Receiver<Option<(Closed, Lost)>>) -> Closed {
    match closed.wait_for(Option::is_some).await.map(|slot| slot.clone()) {
        Ok(Some((closed, _))) => closed,
        // Both ends are gone without a close: nobody is left to be told more.
        _ => Closed { code: None, reason: "dropped".into() },
    }
}

struct MemorySend {
    id: u64,
    pipe: Arc<Pipe>,
    handle: Handle,
    announced: bool,
}

impl MemorySend {
    fn announce(&mut self) {
        if !self.announced {
            self.announced = true;
            self.handle.link().announce(self.handle.0.side, self.id);
        }
    }
}

impl SendBackend for MemorySend {
    fn id(&self) -> u64 {
        self.id
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<Result<usize, StreamError>> {
        let written = self.pipe.poll_write(cx, data);
        if let Poll::Ready(Ok(n)) = written
            && n > 0
        {
            self.handle.own().bytes_sent.fetch_add(n as u64, Ordering::Relaxed);
            self.announce();
        }
        written
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self) -> Result<(), StreamError> {
        self.pipe.finish()?;
        self.announce();
        Ok(())
    }

    fn reset(&mut self, code: u64) {
        self.pipe.reset(code.min(MAX_CODE));
        self.announce();
    }

    fn poll_stopped(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, StreamError>> {
        self.pipe.poll_stopped(cx)
    }

    /// Memory has no queue in which one stream could overtake another.
    fn set_priority(&mut self, _: i32) {}
}

struct MemoryRecv {
    id: u64,
    pipe: Arc<Pipe>,
    handle: Handle,
}

impl RecvBackend for MemoryRecv {
    fn id(&self) -> u64 {
        self.id
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), StreamError>> {
        let before = buffer.filled().len();
        let read = self.pipe.poll_read(cx, buffer);
        let n = (buffer.filled().len() - before) as u64;
        self.handle.own().bytes_received.fetch_add(n, Ordering::Relaxed);
        read
    }

    fn stop(&mut self, code: u64) {
        self.pipe.stop(code.min(MAX_CODE));
        self.handle.link().announce(self.handle.0.side, self.id);
    }
}

impl Drop for MemoryRecv {
    fn drop(&mut self) {
        self.stop(0);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
