//! One child's life, from the host's side.
//!
//! One thread reads what the child says. It never waits: bytes go into a stream's
//! queue, which the child's credit bounds, and what takes time becomes a task. What
//! no well-behaved child says ends it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use alknet_plugin_api::backend::{RecvBackend, SendBackend};
use alknet_plugin_api::{
    Connection, Gateway, Host, Level, LogRecord, OperationContext, StreamError,
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::UnixStream as AsyncStream;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::asks::Items;
use super::link::{Frame, Inbox, Outbox, Unsent};
use super::streams::{Incoming, Outgoing};
use super::wire::{Answer, Id, Metric, ToChild, ToHost, Way, WireFailure, policy};

/// Bytes that may wait for a child that does not read.
const BACKLOG: usize = 256 << 20;

/// Requests of a child at a time, and subscriptions and gateways that it holds.
pub(super) const REQUESTS: usize = 128 << 10;

/// Streams or datagrams that a child may wait for at a time.
const AHEAD: usize = 4096;

/// How long what a handler has finished may take to be handed to the transport.
pub(super) const DELIVERY: Duration = Duration::from_secs(1);

/// What no well-behaved child says.
#[derive(Debug, thiserror::Error)]
#[error("it broke the rules between plugin and host: {0}")]
pub(super) struct Violation(pub(super) String);

impl From<&str> for Violation {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

/// A stream that the peer has opened.
type Accepted = (Option<Box<dyn SendBackend>>, Box<dyn RecvBackend>);

/// What the supervisor wants to know of.
pub(super) enum Event {
    Loaded { manifest: Bytes, confined: Option<String> },
    Refused(String),
    Built,
}

/// A child and everything that numbers stand for between it and the host.
pub(super) struct Session {
    pub(super) plugin: Arc<str>,
    pub(super) outbox: Outbox,
    host: OnceLock<Host>,
    /// Where what takes time runs.
    pub(super) node: OnceLock<Handle>,
    pub(super) tables: Mutex<Tables>,
    /// Cancelled when the child is gone.
    pub(super) gone: CancellationToken,
    death: OnceLock<Arc<str>>,
    next: AtomicU64,
    events: mpsc::UnboundedSender<Event>,
    /// When the child last showed a sign of life, and how long a thread of it had
    /// not given way then.
    pulse: Mutex<(Instant, Duration)>,
}

/// What numbers stand for.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) conns: HashMap<Id, Served>,
    /// Handlers under way, by their connections.
    pub(super) handlers: HashMap<Id, oneshot::Sender<Result<(), WireFailure>>>,
    pub(super) outgoing: HashMap<Id, Arc<Outgoing>>,
    pub(super) incoming: HashMap<Id, Arc<Incoming>>,
    pub(super) calls: HashMap<Id, oneshot::Sender<(bool, Bytes)>>,
    pub(super) subscriptions: HashMap<Id, mpsc::Sender<Option<(bool, Bytes)>>>,
    pub(super) contexts: HashMap<Id, OperationContext>,
    pub(super) requests: HashMap<Id, AbortHandle>,
    /// `None` while the next is awaited.
    pub(super) items: HashMap<Id, Option<Items>>,
    pub(super) gateways: HashMap<Id, Arc<dyn Gateway>>,
}

/// A connection that the child serves.
pub(super) struct Served {
    pub(super) connection: Connection,
    pub(super) finishing: Arc<Finishing>,
    wanted: [Option<Arc<Semaphore>>; 3],
    loops: Vec<AbortHandle>,
}

impl Served {
    pub(super) fn new(connection: Connection, finishing: Arc<Finishing>) -> Self {
        let (wanted, loops) = Default::default();
        Self { connection, finishing, wanted, loops }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.loops.iter().for_each(AbortHandle::abort);
    }
}

/// Streams that a plugin has finished and that the transport has not heard of yet.
#[derive(Default)]
pub(super) struct Finishing {
    streams: AtomicUsize,
    fewer: Notify,
}

impl Finishing {
    pub(super) fn begin(&self) {
        self.streams.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn end(&self) {
        self.streams.fetch_sub(1, Ordering::AcqRel);
        self.fewer.notify_waiters();
    }

    fn is_idle(&self) -> bool {
        self.streams.load(Ordering::Acquire) == 0
    }

    /// Resolves when there are none.
    pub(super) async fn idle(&self) {
        loop {
            let fewer = self.fewer.notified();
            if self.is_idle() {
                return;
            }
            fewer.await;
        }
    }
}

impl Session {
    pub(super) fn new(
        plugin: Arc<str>,
        socket: UnixStream,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        Self {
            plugin,
            outbox: Outbox::new(socket),
            host: OnceLock::new(),
            node: OnceLock::new(),
            tables: Mutex::default(),
            gone: CancellationToken::new(),
            death: OnceLock::new(),
            next: AtomicU64::new(1),
            events,
            pulse: Mutex::new((Instant::now(), Duration::ZERO)),
        }
    }

    /// Gives the plugin its host, and what takes time a runtime.
    pub(super) fn open(&self, host: &Host, node: &Handle) {
        // A session is opened once.
        let _first = (self.host.set(host.clone()), self.node.set(node.clone()));
    }

    pub(super) fn host(&self) -> Option<&Host> {
        self.host.get()
    }

    /// A number for something of the host's.
    pub(super) fn number(&self) -> Id {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn say(&self, message: &ToChild, body: &[u8]) -> Result<(), Unsent> {
        self.outbox.send(message, body)
    }

    pub(super) fn answer(&self, request: Id, answer: Answer, body: &[u8]) {
        if self.say(&ToChild::Answer { request, answer }, body) == Err(Unsent::TooLong) {
            let _gone = self.say(&ToChild::Answer { request, answer: Answer::None }, b"");
        }
    }

    /// Why the child is gone.
    pub(super) fn death(&self) -> Option<Arc<str>> {
        self.death.get().cloned()
    }

    /// The last sign of life.
    pub(super) fn pulse(&self) -> (Instant, Duration) {
        *self.pulse.lock()
    }

    /// The child is gone: everything of it ends.
    pub(super) fn end(&self, death: &str) {
        let _first = self.death.set(death.into());
        self.outbox.close();
        self.gone.cancel();
        let tables = std::mem::take(&mut *self.tables.lock());
        tables.requests.values().for_each(AbortHandle::abort);
    }

    /// Reads what the child says, for as long as it is there.
    pub(super) async fn read(self: Arc<Self>, stream: AsyncStream) -> Result<(), Violation> {
        let mut inbox = Inbox::default();
        loop {
            while let Some(frame) = inbox.next()? {
                self.heard(frame)?;
            }
            if self.outbox.queued() > BACKLOG {
                return Err("it does not read what it is sent".into());
            }
            if stream.readable().await.is_err() {
                return Ok(());
            }
            match stream.try_read_buf(inbox.room()) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Ok(()),
            }
        }
    }

    fn heard(self: &Arc<Self>, (head, body): Frame) -> Result<(), Violation> {
        let (message, rest) = postcard::take_from_bytes(&head)
            .map_err(|error| Violation(format!("a message that is none ({error})")))?;
        if !rest.is_empty() {
            return Err("a message that is longer than itself".into());
        }
        match message {
            ToHost::Loaded { confined } => self.tell(Event::Loaded { manifest: body, confined }),
            ToHost::Refused => self.tell(Event::Refused(text(&body))),
            ToHost::Built => self.tell(Event::Built),
            ToHost::Handled { conn, end } => {
                let handler = self.tables.lock().handlers.remove(&conn);
                handler.map(|handler| handler.send(end));
            }
            ToHost::Answered { call, ok, released } => self.answered(call, ok, released, body),
            ToHost::Item { call, item } => {
                let consumer = self.tables.lock().subscriptions.get(&call).cloned();
                if let Some(consumer) = consumer
                    && let Err(mpsc::error::TrySendError::Full(_)) =
                        consumer.try_send(item.map(|ok| (ok, body)))
                {
                    return Err("an item that nobody asked for".into());
                }
            }
            ToHost::Release { call } => drop(self.take_context(call)),
            ToHost::Ask { request, ask } => self.asked(request, ask, body),
            ToHost::Unask { request } => {
                let asked = self.tables.lock().requests.remove(&request);
                if let Some(asked) = asked {
                    asked.abort();
                    self.answer(request, Answer::None, b"");
                }
            }
            ToHost::Accept { conn, way, streams } => return self.accept(conn, way, streams),
            ToHost::Datagrams { conn, datagrams } => return self.datagrams(conn, datagrams),
            ToHost::Datagram { conn } => {
                // Unreliable: what does not go out now does not.
                self.connection(conn).map(|connection| connection.send_datagram(body));
            }
            ToHost::Close { conn, code } => self.close(conn, code, &text(&body)),
            ToHost::ReleaseConn { conn } => {
                let served = self.tables.lock().conns.remove(&conn);
                drop(served);
            }
            ToHost::Data { stream } => {
                return self.outgoing(stream).map_or(Ok(()), |half| half.data(body));
            }
            ToHost::Finish { stream } => {
                self.outgoing(stream).inspect(|half| half.finish());
            }
            ToHost::Reset { stream, code } => {
                self.outgoing(stream).inspect(|half| half.reset(code));
            }
            ToHost::Priority { stream, priority } => {
                self.outgoing(stream).inspect(|half| half.set_priority(priority));
            }
            ToHost::ReleaseSend { stream } => {
                let half = self.tables.lock().outgoing.remove(&stream);
                half.inspect(|half| half.release());
            }
            ToHost::Credit { stream, bytes } => {
                let half = self.tables.lock().incoming.get(&stream).cloned();
                return half.map_or(Ok(()), |half| half.credit(bytes));
            }
            ToHost::Stop { stream, code } => {
                let half = self.tables.lock().incoming.remove(&stream);
                half.inspect(|half| half.stop(code));
            }
            ToHost::DropItems { items } => {
                let items = self.tables.lock().items.remove(&items);
                drop(items);
            }
            ToHost::DropGateway { gateway } => {
                let gateway = self.tables.lock().gateways.remove(&gateway);
                drop(gateway);
            }
            ToHost::Abort { gateway, request, continue_running } => {
                let gateway = self.tables.lock().gateways.get(&gateway).cloned();
                gateway.inspect(|gateway| gateway.abort(&request, policy(continue_running)));
            }
            ToHost::Log { level, target, fields } => self.log(level, &target, &fields, &body),
            ToHost::Metric { kind, name, labels } => self.metric(kind, &name, &labels),
            ToHost::TaskPanicked => {
                let plugin = self.plugin.to_string();
                metrics::counter!("alknet_plugin_panics_total", "plugin" => plugin).increment(1);
                self.log(Level::Error as u8, "alknet", &[], &task_panicked(&body));
            }
            ToHost::Pong { busy, .. } => {
                *self.pulse.lock() = (Instant::now(), Duration::from_millis(busy));
            }
        }
        Ok(())
    }

    fn tell(&self, event: Event) {
        // The supervisor may have given the child up.
        let _gone = self.events.send(event);
    }

    fn answered(&self, call: Id, ok: bool, released: bool, body: Bytes) {
        let mut tables = self.tables.lock();
        let caller = tables.calls.remove(&call);
        let context = released.then(|| tables.contexts.remove(&call));
        drop(tables);
        drop(context);
        caller.map(|caller| caller.send((ok, body)));
    }

    fn take_context(&self, call: Id) -> Option<OperationContext> {
        self.tables.lock().contexts.remove(&call)
    }

    fn outgoing(&self, stream: Id) -> Option<Arc<Outgoing>> {
        self.tables.lock().outgoing.get(&stream).cloned()
    }

    pub(super) fn connection(&self, conn: Id) -> Option<Connection> {
        Some(self.tables.lock().conns.get(&conn)?.connection.clone())
    }

    pub(super) fn served(&self, conn: Id) -> Option<(Connection, Arc<Finishing>)> {
        let tables = self.tables.lock();
        let served = tables.conns.get(&conn)?;
        Some((served.connection.clone(), served.finishing.clone()))
    }

    /// Lets what is finished go out first: it was, before the plugin closed.
    fn close(&self, conn: Id, code: u64, reason: &str) {
        let Some((connection, finishing)) = self.served(conn) else { return };
        let reason = reason.to_owned();
        match self.node.get() {
            Some(node) if !finishing.is_idle() => {
                node.spawn(async move {
                    let _late = tokio::time::timeout(DELIVERY, finishing.idle()).await;
                    connection.close(code, &reason);
                });
            }
            _ => connection.close(code, &reason),
        }
    }

    /// Lets `more` streams or datagrams come, and begins to take them if the child
    /// asks for the first time.
    fn want(
        self: &Arc<Self>,
        conn: Id,
        what: usize,
        more: u32,
        begin: impl FnOnce(
            &Arc<Self>,
            Connection,
            Arc<Finishing>,
            Arc<Semaphore>,
        ) -> Option<AbortHandle>,
    ) -> Result<(), Violation> {
        let mut tables = self.tables.lock();
        let Entry::Occupied(mut served) = tables.conns.entry(conn) else { return Ok(()) };
        let served = served.get_mut();
        let first = served.wanted[what].is_none();
        let wanted = served.wanted[what].get_or_insert_with(|| Arc::new(Semaphore::new(0)));
        if wanted.available_permits() + more as usize > AHEAD {
            return Err("it waits for more than it could take".into());
        }
        wanted.add_permits(more as usize);
        if first {
            let wanted = wanted.clone();
            let (connection, finishing) = (served.connection.clone(), served.finishing.clone());
            served.loops.extend(begin(self, connection, finishing, wanted));
        }
        Ok(())
    }

    fn accept(self: &Arc<Self>, conn: Id, way: Way, more: u32) -> Result<(), Violation> {
        self.want(conn, way as usize, more, |session, connection, finishing, wanted| {
            let session = session.clone();
            let node = session.node.get()?.clone();
            let accepting = node.spawn(async move {
                let error = loop {
                    let Ok(permit) = wanted.acquire().await else { return };
                    permit.forget();
                    match accept_one(&connection, way).await {
                        Ok((send, recv)) => {
                            let number = recv.id();
                            session.follow(send, Some(recv), &finishing, |stream| {
                                let message = ToChild::Accepted { conn, way, stream, number };
                                let _gone = session.say(&message, b"");
                            });
                        }
                        Err(error) => break error,
                    }
                };
                let ended = ToChild::AcceptEnded { conn, way, error: error.into() };
                let _gone = session.say(&ended, b"");
            });
            Some(accepting.abort_handle())
        })
    }

    fn datagrams(self: &Arc<Self>, conn: Id, more: u32) -> Result<(), Violation> {
        self.want(conn, 2, more, |session, connection, _, wanted| {
            let session = session.clone();
            let node = session.node.get()?.clone();
            let reading = node.spawn(async move {
                let error = loop {
                    let Ok(permit) = wanted.acquire().await else { return };
                    permit.forget();
                    match connection.read_datagram().await {
                        Ok(data) => {
                            if session.say(&ToChild::Datagram { conn }, &data).is_err() {
                                return;
                            }
                        }
                        Err(error) => break error,
                    }
                };
                let ended = ToChild::DatagramsEnded { conn, error: error.into() };
                let _gone = session.say(&ended, b"");
            });
            Some(reading.abort_handle())
        })
    }

    fn log(&self, level: u8, target: &str, fields: &[(String, String)], message: &[u8]) {
        let Some(host) = self.host() else { return };
        let level = match level {
            0 | 1 => Level::Error,
            2 => Level::Warn,
            3 => Level::Info,
            4 => Level::Debug,
            _ => Level::Trace,
        };
        let (message, fields) = (text(message), borrowed(fields));
        host.log(&LogRecord { level, target, message: &message, fields: &fields });
    }

    fn metric(&self, kind: Metric, name: &str, labels: &[(String, String)]) {
        let Some(host) = self.host() else { return };
        let labels = borrowed(labels);
        match kind {
            Metric::Count(add) => host.counter(name, &labels, add),
            Metric::Gauge(value) => host.gauge(name, &labels, value),
            Metric::Record(value) => host.histogram(name, &labels, value),
        }
    }

    /// The levels that are logged, a bit each.
    pub(super) fn levels(host: Option<&Host>) -> u8 {
        const LEVELS: [Level; 5] =
            [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];
        let Some(host) = host else { return u8::MAX };
        let logged = LEVELS.into_iter().filter(|level| host.log_enabled(*level, "plugin"));
        logged.fold(0, |levels, level| levels | 1 << level as u8)
    }
}

async fn accept_one(connection: &Connection, way: Way) -> Result<Accepted, StreamError> {
    let backend = connection.backend();
    Ok(match way {
        Way::Bi => {
            let (send, recv) = backend.accept_bi().await?;
            (Some(send), recv)
        }
        Way::Uni => (None, backend.accept_uni().await?),
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn task_panicked(panic: &[u8]) -> Vec<u8> {
    [b"a spawned task panicked: ", panic].concat()
}

fn borrowed(pairs: &[(String, String)]) -> Vec<(&str, &str)> {
    pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::plugins::process::wire::WINDOW;

    /// What comes of a child that says this.
    async fn said(bytes: &[u8]) -> Result<(), Violation> {
        let (near, mut far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let stream = AsyncStream::from_std(near.try_clone().unwrap()).unwrap();
        let session = Arc::new(Session::new("test".into(), near, mpsc::unbounded_channel().0));
        session.node.set(Handle::current()).unwrap();
        let half = Arc::new(Outgoing::new(Arc::default()));
        session.tables.lock().outgoing.insert(7, half);
        let (consumer, _items) = mpsc::channel(1);
        session.tables.lock().subscriptions.insert(8, consumer);
        let bytes = bytes.to_vec();
        // More than the socket takes at once. Nobody reads on once something is wrong.
        std::thread::spawn(move || drop(far.write_all(&bytes)));
        session.read(stream).await
    }

    fn frame(message: &ToHost, body: &[u8]) -> Vec<u8> {
        let head = postcard::to_allocvec(message).unwrap();
        let rest = (2 + head.len() + body.len()) as u32;
        [&rest.to_le_bytes()[..], &(head.len() as u16).to_le_bytes(), &head, body].concat()
    }

    #[tokio::test]
    async fn a_child_that_talks_nonsense_is_found_out() {
        let item = || frame(&ToHost::Item { call: 8, item: Some(true) }, b"1");
        let more = || frame(&ToHost::Data { stream: 7 }, &vec![0; 1 + WINDOW as usize / 2]);
        let beyond = |message: &ToHost| {
            let mut frame = frame(message, b"");
            let longer = frame.len() as u32 - 4 + 1;
            frame[..4].copy_from_slice(&longer.to_le_bytes());
            frame[4] += 1;
            frame.push(0);
            frame
        };
        for (nonsense, about) in [
            (vec![0xff; 64], "a frame"),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "a frame"),
            (
                frame(&ToHost::Built, b"")[..6].iter().copied().chain([0xee]).collect(),
                "that is none",
            ),
            (beyond(&ToHost::Built), "longer than itself"),
            ([item(), item()].concat(), "nobody asked for"),
            ([more(), more()].concat(), "more of a stream"),
        ] {
            let violation = said(&nonsense).await.unwrap_err().to_string();
            assert!(violation.contains(about), "{violation}");
        }
        // What is merely late is none.
        for late in [
            ToHost::Data { stream: 1 },
            ToHost::Answered { call: 1, ok: true, released: true },
            ToHost::ReleaseConn { conn: 1 },
            ToHost::Unask { request: 1 },
            ToHost::DropItems { items: 1 },
        ] {
            said(&frame(&late, b"x")).await.unwrap();
        }
    }
}
