//! The host, as the child sees it: what it says, and what it is asked.

use std::cell::Cell;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak, mpsc};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use alknet_plugin_api::{Built, Json, SendStream};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::net::UnixStream as AsyncStream;
use tokio::runtime::Handle;
use tokio::sync::{mpsc as queue, oneshot};
use tokio::task::AbortHandle;

use super::super::link::{Frame, Inbox, Outbox};
use super::super::wire::{Answer, Ask, Id, ToChild, ToHost};
use super::connection::Conn;
use super::stream::{Receiving, Sending};
use super::{calls, watch};

thread_local! {
    static READING: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread as the one that reads the socket.
pub(super) fn mark_reading() {
    READING.set(true);
}

/// An answer and its body.
pub(super) type Answered = (Answer, Bytes);

/// Who waits for an answer.
enum Waiter {
    Thread(mpsc::SyncSender<Answered>),
    Task(oneshot::Sender<Answered>),
    /// Gone: a stream that was opened for it is given up.
    Nobody,
}

/// The host on the other end of the socket.
pub(super) struct Parent {
    pub(super) outbox: Outbox,
    /// Where the plugin's code runs.
    pub(super) runtime: Handle,
    /// The plugin, once it is built.
    pub(super) built: OnceLock<Built>,
    /// This process's time and the host's, when the plugin was built.
    started: OnceLock<(Instant, Duration)>,
    levels: AtomicU8,
    next: AtomicU64,
    /// When the runtime was last asked for a sign of life, until it gives one.
    probe: Mutex<Option<Instant>>,
    probed: AtomicBool,
    known: Mutex<Known>,
}

/// What the host's numbers mean.
#[derive(Default)]
struct Known {
    waiters: HashMap<Id, Waiter>,
    conns: HashMap<Id, Weak<Conn>>,
    sending: HashMap<Id, Arc<Sending>>,
    receiving: HashMap<Id, Arc<Receiving>>,
    tasks: HashMap<Id, AbortHandle>,
    subscriptions: HashMap<Id, queue::UnboundedSender<()>>,
}

impl Parent {
    pub(super) fn new(socket: UnixStream, runtime: Handle) -> Self {
        Self {
            outbox: Outbox::new(socket),
            runtime,
            built: OnceLock::new(),
            started: OnceLock::new(),
            levels: AtomicU8::new(u8::MAX),
            next: AtomicU64::new(1),
            probe: Mutex::default(),
            probed: AtomicBool::new(true),
            known: Mutex::default(),
        }
    }

    /// A number for something of the child's.
    pub(super) fn number(&self) -> Id {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The host's monotonic time.
    pub(super) fn now(&self) -> Duration {
        self.started.get().map_or(Duration::ZERO, |(here, there)| *there + here.elapsed())
    }

    pub(super) fn logs(&self, level: u8) -> bool {
        self.levels.load(Ordering::Relaxed) & (1 << level) != 0
    }

    /// Says something. Nobody is told where the host is gone: the process ends.
    pub(super) fn say(&self, message: &ToHost, body: &[u8]) {
        let _gone = self.outbox.send(message, body);
    }

    /// Says something that may wait until the host has read what was said before.
    pub(super) fn record(&self, message: &ToHost, body: &[u8]) {
        match READING.get() {
            true => self.say(message, body),
            false => self.outbox.send_patiently(message, body),
        }
    }

    /// Asks, and keeps this thread until the answer is there.
    pub(super) fn ask_now(&self, ask: Ask, body: &[u8]) -> Option<Answered> {
        // The answer would come to the thread that waits for it.
        if READING.get() {
            return None;
        }
        let (sender, answer) = mpsc::sync_channel(1);
        self.begin(self.number(), Waiter::Thread(sender), ask, body)?;
        answer.recv().ok()
    }

    /// Asks. Dropping the future gives the request up.
    pub(super) fn ask(self: &Arc<Self>, ask: Ask, body: &[u8]) -> Asked {
        let (request, (sender, answer)) = (self.number(), oneshot::channel());
        let begun = self.begin(request, Waiter::Task(sender), ask, body);
        Asked { parent: self.clone(), request, answer: begun.map(|()| answer) }
    }

    fn begin(&self, request: Id, waiter: Waiter, ask: Ask, body: &[u8]) -> Option<()> {
        self.known.lock().waiters.insert(request, waiter);
        let sent = self.outbox.send(&ToHost::Ask { request, ask }, body);
        if sent.is_err() {
            self.known.lock().waiters.remove(&request);
        }
        sent.ok()
    }

    pub(super) fn add_conn(&self, id: Id, conn: &Arc<Conn>) {
        self.known.lock().conns.insert(id, Arc::downgrade(conn));
    }

    pub(super) fn remove_conn(&self, id: Id) {
        self.known.lock().conns.remove(&id);
        self.say(&ToHost::ReleaseConn { conn: id }, b"");
    }

    pub(super) fn remove_sending(&self, id: Id) {
        self.known.lock().sending.remove(&id);
    }

    pub(super) fn remove_receiving(&self, id: Id) {
        self.known.lock().receiving.remove(&id);
    }

    /// Begins to follow a stream: its sending half, where it has one.
    pub(super) fn send_half(self: &Arc<Self>, stream: Id, number: u64) -> Arc<Sending> {
        let half = Arc::new(Sending::new(self.clone(), stream, number));
        self.known.lock().sending.insert(stream, half.clone());
        half
    }

    /// As [`send_half`](Self::send_half), the other half.
    pub(super) fn recv_half(self: &Arc<Self>, stream: Id, number: u64) -> Arc<Receiving> {
        let half = Arc::new(Receiving::new(self.clone(), stream, number));
        self.known.lock().receiving.insert(stream, half.clone());
        half
    }

    /// Runs a task that the host may drop by its number.
    pub(super) fn run(self: &Arc<Self>, task: Id, work: impl Future<Output = ()> + Send + 'static) {
        let parent = self.clone();
        // Held until the task is entered, so that its end finds it.
        let mut known = self.known.lock();
        let running = self.runtime.spawn(async move {
            work.await;
            parent.known.lock().tasks.remove(&task);
        });
        known.tasks.insert(task, running.abort_handle());
    }

    pub(super) fn follow(&self, call: Id) -> queue::UnboundedReceiver<()> {
        let (sender, wanted) = queue::unbounded_channel();
        let _first = sender.send(());
        self.known.lock().subscriptions.insert(call, sender);
        wanted
    }

    pub(super) fn unfollow(&self, call: Id) {
        self.known.lock().subscriptions.remove(&call);
    }

    /// Reads what the host says, to the end.
    pub(super) async fn read(
        self: Arc<Self>,
        stream: &AsyncStream,
        mut inbox: Inbox,
        build: mpsc::Sender<Json>,
    ) -> io::Result<()> {
        loop {
            while let Some(frame) = inbox.next().map_err(io::Error::other)? {
                self.heard(frame, &build)?;
            }
            stream.readable().await?;
            match stream.try_read_buf(inbox.room()) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn heard(self: &Arc<Self>, (head, body): Frame, build: &mpsc::Sender<Json>) -> io::Result<()> {
        match postcard::from_bytes(&head).map_err(io::Error::other)? {
            ToChild::Load(_) => return Err(io::Error::other("a second beginning")),
            ToChild::Build { now, levels } => {
                let _first = self.started.set((Instant::now(), Duration::from_nanos(now)));
                self.levels.store(levels, Ordering::Relaxed);
                // Whoever waits for it has gone only where loading failed.
                let _gone = build.send(Json::from_checked(body));
            }
            ToChild::Handle { conn, index, max_datagram } => {
                calls::handle(self, conn, index, max_datagram, &body);
            }
            ToChild::Call { call, index, remaining, info } => {
                calls::call(self, call, index, remaining, info, body);
            }
            ToChild::Subscribe { call, index, remaining, info } => {
                calls::subscribe(self, call, index, remaining, info, body);
            }
            ToChild::Next { call } => {
                if let Some(wanted) = self.known.lock().subscriptions.get(&call) {
                    let _ended = wanted.send(());
                }
            }
            ToChild::Drop { task } => {
                let task = self.known.lock().tasks.remove(&task);
                task.inspect(AbortHandle::abort);
            }
            ToChild::Answer { request, answer } => self.answered(request, answer, body),
            ToChild::Accepted { conn, way, stream, number } => match self.conn(conn) {
                Some(conn) => conn.accepted(way, stream, number),
                None => self.give_up(stream),
            },
            ToChild::AcceptEnded { conn, way, error } => {
                self.conn(conn).inspect(|conn| conn.accept_ended(way, &error));
            }
            ToChild::Datagram { conn } => {
                self.conn(conn).inspect(|conn| conn.datagram(body));
            }
            ToChild::DatagramsEnded { conn, error } => {
                self.conn(conn).inspect(|conn| conn.datagrams_ended(&error));
            }
            ToChild::Data { stream } => {
                self.receiving(stream).inspect(|half| half.data(body));
            }
            ToChild::End { stream, end } => {
                self.receiving(stream).inspect(|half| half.ended(end));
            }
            ToChild::Credit { stream, bytes } => {
                self.sending(stream).inspect(|half| half.credit(bytes));
            }
            ToChild::Stopped { stream, end } => {
                self.sending(stream).inspect(|half| half.ended(end));
            }
            ToChild::Ping { nonce, levels } => {
                self.levels.store(levels, Ordering::Relaxed);
                let busy = u64::try_from(self.busy().as_millis()).unwrap_or(u64::MAX);
                self.say(&ToHost::Pong { nonce, busy }, b"");
            }
        }
        Ok(())
    }

    fn conn(&self, id: Id) -> Option<Arc<Conn>> {
        self.known.lock().conns.get(&id)?.upgrade()
    }

    fn sending(&self, id: Id) -> Option<Arc<Sending>> {
        self.known.lock().sending.get(&id).cloned()
    }

    fn receiving(&self, id: Id) -> Option<Arc<Receiving>> {
        self.known.lock().receiving.get(&id).cloned()
    }

    fn answered(self: &Arc<Self>, request: Id, answer: Answer, body: Bytes) {
        let waiter = self.known.lock().waiters.remove(&request);
        let left = match waiter {
            Some(Waiter::Thread(sender)) => sender.send((answer, body)).err().map(|e| e.0),
            Some(Waiter::Task(sender)) => sender.send((answer, body)).err(),
            Some(Waiter::Nobody) | None => Some((answer, body)),
        };
        self.give_up_opened(left);
    }

    fn give_up_opened(&self, answer: Option<Answered>) {
        if let Some((Answer::Stream { stream, .. }, _)) = answer {
            self.give_up(stream);
        }
    }

    /// Ends a stream that nobody waits for any more, whichever halves it has.
    fn give_up(&self, stream: Id) {
        self.say(&ToHost::Reset { stream, code: SendStream::DROPPED }, b"");
        self.say(&ToHost::ReleaseSend { stream }, b"");
        self.say(&ToHost::Stop { stream, code: Some(0) }, b"");
    }

    /// How long the plugin's threads have not given way: one of them, or all of
    /// them where the runtime shows no sign of life.
    fn busy(self: &Arc<Self>) -> Duration {
        let mut probe = self.probe.lock();
        if self.probed.swap(false, Ordering::Relaxed) {
            *probe = Some(Instant::now());
            let parent = self.clone();
            self.runtime.spawn(async move { parent.probed.store(true, Ordering::Relaxed) });
        }
        let silent = probe.map_or(Duration::ZERO, |since| since.elapsed());
        silent.max(watch::longest())
    }
}

/// An answer under way; `None` where the host is gone.
pub(super) struct Asked {
    parent: Arc<Parent>,
    request: Id,
    answer: Option<oneshot::Receiver<Answered>>,
}

impl Future for Asked {
    type Output = Option<Answered>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(answer) = &mut self.answer else { return Poll::Ready(None) };
        let answer = std::task::ready!(Pin::new(answer).poll(cx)).ok();
        self.answer = None;
        Poll::Ready(answer)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Some(mut answer) = self.answer.take() else { return };
        answer.close();
        self.parent.give_up_opened(answer.try_recv().ok());
        let mut known = self.parent.known.lock();
        let Some(waiter) = known.waiters.get_mut(&self.request) else { return };
        *waiter = Waiter::Nobody;
        drop(known);
        self.parent.say(&ToHost::Unask { request: self.request }, b"");
    }
}
