//! A connection over which both sides call, and the client's side of it.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use alknet_plugin_api::{
    AbortPolicy, CallError, Closed, Connection, Gateway, Host, Identity, Json, OperationType,
    RecvStream, SendStream, StreamError, code,
};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use serde::Deserialize;

use crate::envelope::{self, Request};
use crate::frame::{DEFAULT_MAX_FRAME, write_frame};
use crate::stream::{Answer, Inbound, Slot, StreamHandle, StreamTask};

/// Ids of answered calls that are kept to notice a second answer.
const ANSWERED_KEPT: usize = 256;

/// Where time comes from, so that the library needs no runtime.
pub trait Timer: Send + Sync + 'static {
    /// Resolves after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

impl Timer for Host {
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.backend().sleep(duration)
    }
}

/// What a connection accepts.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest frame in either direction, in bytes.
    pub max_frame: usize,
    /// After the node begins to drain: how long running calls may take before
    /// they are aborted.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_frame: DEFAULT_MAX_FRAME, drain: Duration::from_millis(1500) }
    }
}

/// How a connection is to be used.
#[derive(Clone)]
pub struct Options {
    timer: Arc<dyn Timer>,
    gateway: Option<Arc<dyn Gateway>>,
    limits: Limits,
}

impl Options {
    /// Serves nothing, with the default limits.
    pub fn new(timer: Arc<dyn Timer>) -> Self {
        Self { timer, gateway: None, limits: Limits::default() }
    }

    /// Serves these operations to the other side.
    #[must_use]
    pub fn serve(mut self, gateway: Arc<dyn Gateway>) -> Self {
        self.gateway = Some(gateway);
        self
    }

    /// Other limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

/// How one call is to be made.
#[derive(Clone, Debug, Default)]
pub struct CallOptions {
    /// After which the call fails with `TIMEOUT` and is aborted. The other side
    /// hears of it too.
    pub timeout: Option<Duration>,
    /// Replaces the connection's identity for this request.
    pub auth_token: Option<String>,
    /// Whom the call is made for, end user first; at most 8.
    pub forwarded_for: Vec<Identity>,
    /// Makes the call on a stream of its own.
    pub own_stream: bool,
}

pub(crate) enum Entry {
    Inbound(Arc<Inbound>),
    Outbound(Arc<Slot>),
}

/// What a connection's streams and its clients have in common.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) gateway: Option<Arc<dyn Gateway>>,
    table: Mutex<HashMap<Arc<str>, Entry>>,
    answered: Mutex<VecDeque<String>>,
    opened: Mutex<Opened>,
    draining: AtomicBool,
    held: AtomicUsize,
    next_stream: AtomicU64,
}

#[derive(Default)]
struct Opened {
    streams: Vec<StreamTask>,
    driver: Option<Waker>,
    closed: bool,
}

impl Shared {
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Notes that a stream which held `before` bytes of an unfinished frame now
    /// holds `now`; what all of them hold.
    pub(crate) fn hold(&self, before: usize, now: usize) -> usize {
        match now >= before {
            true => self.held.fetch_add(now - before, Ordering::Relaxed) + (now - before),
            false => self.held.fetch_sub(before - now, Ordering::Relaxed) - (before - now),
        }
    }

    pub(crate) fn is_in_flight(&self, id: &str) -> bool {
        self.table.lock().contains_key(id)
    }

    pub(crate) fn insert(&self, id: Arc<str>, entry: Entry) -> bool {
        let mut table = self.table.lock();
        if table.contains_key(&id) {
            return false;
        }
        table.insert(id, entry);
        true
    }

    pub(crate) fn forget_inbound(&self, inbound: &Arc<Inbound>) {
        let mut table = self.table.lock();
        if let Some(Entry::Inbound(found)) = table.get(&inbound.id)
            && Arc::ptr_eq(found, inbound)
        {
            table.remove(&inbound.id);
        }
    }

    pub(crate) fn take_for_abort(&self, id: &str) -> Option<Entry> {
        self.table.lock().remove(id)
    }

    pub(crate) fn take_outbound(&self, id: &str) -> Option<Entry> {
        let mut table = self.table.lock();
        matches!(table.get(id), Some(Entry::Outbound(_))).then(|| table.remove(id)).flatten()
    }

    fn send_abort(&self, slot: &Slot, id: &str, policy: AbortPolicy) {
        slot.handle.append(|out| abort_frame(out, id, policy));
    }

    /// The call that an answer belongs to, forgotten with its last answer.
    pub(crate) fn slot_for(&self, id: &str, answer: &Answer) -> Option<Arc<Slot>> {
        let mut table = self.table.lock();
        let Some(Entry::Outbound(slot)) = table.get(id) else { return None };
        let slot = slot.clone();
        let item = matches!(answer, Answer::Item(..));
        if slot.subscription && item {
            return Some(slot);
        }
        table.remove(id);
        drop(table);
        if item {
            let mut answered = self.answered.lock();
            if answered.len() == ANSWERED_KEPT {
                answered.pop_front();
            }
            answered.push_back(id.to_owned());
        }
        Some(slot)
    }

    pub(crate) fn was_answered(&self, id: &str) -> bool {
        let mut answered = self.answered.lock();
        let Some(at) = answered.iter().position(|known| known == id) else { return false };
        answered.remove(at);
        true
    }

    /// Fails the calls whose answers were to come on this stream.
    pub(crate) fn stream_ended(&self, stream: u64) {
        self.fail(|slot| slot.handle.id == stream, "stream ended");
    }

    fn fail(&self, which: impl Fn(&Slot) -> bool, message: &str) {
        let mut failed = Vec::new();
        self.table.lock().retain(|_, entry| match entry {
            Entry::Outbound(slot) if which(slot) => {
                failed.push(slot.clone());
                false
            }
            _ => true,
        });
        for slot in failed {
            slot.push(Answer::Failed(CallError::internal(message)));
        }
    }

    fn is_idle(&self) -> bool {
        !self.table.lock().values().any(|entry| matches!(entry, Entry::Inbound(_)))
    }

    fn add(self: &Arc<Self>, halves: (SendStream, RecvStream)) -> Option<Arc<StreamHandle>> {
        let id = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let handle = Arc::new(StreamHandle::new(id));
        let task = StreamTask::new(self.clone(), handle.clone(), halves);
        let driver = {
            let mut opened = self.opened.lock();
            if opened.closed {
                return None;
            }
            opened.streams.push(task);
            opened.driver.take()
        };
        if let Some(driver) = driver {
            driver.wake();
        }
        Some(handle)
    }
}

/// Starts calling and serving over connections that are already established.
#[derive(Clone, Copy, Debug)]
pub struct CallClient;

impl CallClient {
    /// A handle to call with, and the future that does the work. Dropping the
    /// driver fails this side's calls and aborts the other's.
    pub fn spawn_dispatch(connection: Connection, options: Options) -> (CallConnection, Driver) {
        let shared = Arc::new(Shared {
            limits: options.limits,
            gateway: options.gateway,
            table: Mutex::default(),
            answered: Mutex::default(),
            opened: Mutex::default(),
            draining: AtomicBool::new(false),
            held: AtomicUsize::new(0),
            next_stream: AtomicU64::new(0),
        });
        let client = CallConnection(Arc::new(Client {
            connection: connection.clone(),
            shared: shared.clone(),
            timer: options.timer.clone(),
            default: tokio::sync::Mutex::new(None),
            types: Mutex::default(),
        }));
        (client, Driver::new(connection, shared, options.timer))
    }
}

/// Does a connection's work. It resolves when the connection has ended, or has
/// drained.
pub struct Driver {
    connection: Connection,
    shared: Arc<Shared>,
    timer: Arc<dyn Timer>,
    streams: FuturesUnordered<StreamTask>,
    accept: Option<BoxFuture<'static, Result<(SendStream, RecvStream), StreamError>>>,
    closed: BoxFuture<'static, Closed>,
    shutdown: Option<BoxFuture<'static, ()>>,
    deadline: Option<BoxFuture<'static, ()>>,
}

impl Driver {
    fn new(connection: Connection, shared: Arc<Shared>, timer: Arc<dyn Timer>) -> Self {
        let (closing, draining) = (connection.clone(), connection.clone());
        let accept = accept(connection.clone());
        Self {
            connection,
            shared,
            timer,
            streams: FuturesUnordered::new(),
            accept: Some(accept),
            closed: Box::pin(async move { closing.closed().await }),
            shutdown: Some(Box::pin(async move { draining.shutdown().await })),
            deadline: None,
        }
    }
}

fn accept(
    connection: Connection,
) -> BoxFuture<'static, Result<(SendStream, RecvStream), StreamError>> {
    Box::pin(async move { connection.accept_bi().await })
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if let Some(shutdown) = &mut this.shutdown
            && shutdown.as_mut().poll(cx).is_ready()
        {
            this.shutdown = None;
            this.accept = None;
            this.shared.draining.store(true, Ordering::Relaxed);
            // What has ended in one direction has to be looked at again.
            for stream in std::mem::take(&mut this.streams) {
                this.streams.push(stream);
            }
            this.deadline = Some(this.timer.sleep(this.shared.limits.drain));
        }
        while let Some(accepting) = &mut this.accept {
            match accepting.as_mut().poll(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(halves)) => {
                    this.shared.add(halves);
                    this.accept = Some(accept(this.connection.clone()));
                }
                Poll::Ready(Err(_)) => this.accept = None,
            }
        }
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            this.deadline = None;
            for mut stream in std::mem::take(&mut this.streams) {
                stream.abort_running();
                this.streams.push(stream);
            }
        }
        {
            let mut opened = this.shared.opened.lock();
            this.streams.extend(opened.streams.drain(..));
            opened.driver = Some(cx.waker().clone());
        }
        while let Poll::Ready(Some(())) = this.streams.poll_next_unpin(cx) {}
        let idle = this.shared.is_draining()
            && this.shared.is_idle()
            && this.streams.iter().all(StreamTask::is_idle);
        // Each of them is told, so not the first that is not settled ends it.
        let settled = idle && this.streams.iter().filter(|stream| !stream.settle()).count() == 0;
        if settled { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let unstarted = {
            let mut opened = self.shared.opened.lock();
            opened.closed = true;
            std::mem::take(&mut opened.streams)
        };
        // Before the streams go, as their end is not why these calls fail.
        self.shared.fail(|_| true, "connection closed");
        drop(unstarted);
    }
}

struct Client {
    connection: Connection,
    shared: Arc<Shared>,
    timer: Arc<dyn Timer>,
    default: tokio::sync::Mutex<Option<Arc<StreamHandle>>>,
    types: Mutex<HashMap<(String, Option<String>), OperationType>>,
}

/// Calls the other side. Clones share the connection.
#[derive(Clone)]
pub struct CallConnection(Arc<Client>);

impl CallConnection {
    /// Calls a query or mutation. Dropping the future aborts the call.
    ///
    /// # Errors
    /// The operation's or the protocol's; `INTERNAL` with `connection closed` or
    /// `stream ended` where no answer can come any more.
    pub async fn call(&self, name: &str, input: impl Into<Json>) -> Result<Json, CallError> {
        self.call_with(name, input, CallOptions::default()).await
    }

    /// As [`CallConnection::call`], with options.
    ///
    /// # Errors
    /// As for [`CallConnection::call`], and `TIMEOUT`.
    pub async fn call_with(
        &self,
        name: &str,
        input: impl Into<Json>,
        options: CallOptions,
    ) -> Result<Json, CallError> {
        let own_stream = options.own_stream;
        let sleep = options.timeout.map(|timeout| self.0.timer.sleep(timeout));
        let work = async {
            let pending = self.start(name, input.into(), options, own_stream, false).await?;
            match pending.next().await {
                Answer::Item(output, _) => Ok(output),
                Answer::Failed(error) => Err(error),
                Answer::Completed => {
                    Err(CallError::internal("the call completed without a result"))
                }
            }
        };
        let Some(mut sleep) = sleep else { return work.await };
        let mut work = std::pin::pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(result) = work.as_mut().poll(cx) {
                return Poll::Ready(result);
            }
            sleep.as_mut().poll(cx).map(|()| Err(CallError::timeout()))
        })
        .await
    }

    /// Makes several calls at once; their results in the order of the requests.
    pub async fn batch(
        &self,
        requests: impl IntoIterator<Item = (String, Json)>,
    ) -> Vec<Result<Json, CallError>> {
        let calls =
            requests.into_iter().map(|(name, input)| async move { self.call(&name, input).await });
        futures_util::future::join_all(calls).await
    }

    /// Subscribes, on a stream of its own.
    ///
    /// # Errors
    /// `INVALID_OPERATION_TYPE` where the other side's schema says that the
    /// operation is no subscription; the connection's errors.
    pub async fn subscribe(
        &self,
        name: &str,
        input: impl Into<Json>,
    ) -> Result<Subscription, CallError> {
        self.subscribe_with(name, input, CallOptions::default()).await
    }

    /// As [`CallConnection::subscribe`], with options.
    ///
    /// # Errors
    /// As for [`CallConnection::subscribe`].
    pub async fn subscribe_with(
        &self,
        name: &str,
        input: impl Into<Json>,
        options: CallOptions,
    ) -> Result<Subscription, CallError> {
        let sleep = options.timeout.map(|timeout| self.0.timer.sleep(timeout));
        let key = (name.trim_start_matches('/').to_owned(), options.auth_token.clone());
        let known = self.0.types.lock().get(&key).copied();
        let op_type = match known {
            Some(op_type) => Some(op_type),
            None => self.learn_type(key, &options).await?,
        };
        if op_type.is_some_and(|op_type| op_type != OperationType::Subscription) {
            return Err(CallError::new(
                code::INVALID_OPERATION_TYPE,
                format!("{name} is no subscription"),
            ));
        }
        let pending = self.start(name, input.into(), options, true, true).await?;
        Ok(Subscription { pending, sleep, terminal: false, ended: false })
    }

    async fn learn_type(
        &self,
        key: (String, Option<String>),
        options: &CallOptions,
    ) -> Result<Option<OperationType>, CallError> {
        #[derive(Deserialize)]
        struct Typed {
            op_type: OperationType,
        }
        let mut asking = options.clone();
        asking.own_stream = false;
        let input = serde_json::json!({ "name": key.0 });
        match self.call_with("services/schema", input, asking).await {
            Ok(schema) => {
                let typed: Typed = schema.to().map_err(|error| {
                    CallError::internal(format!("services/schema gave no spec: {error}"))
                })?;
                self.0.types.lock().insert(key, typed.op_type);
                Ok(Some(typed.op_type))
            }
            Err(error) if error.code == code::NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Aborts the call with this id, if it is one of this side's in flight.
    pub fn abort(&self, id: &str, policy: AbortPolicy) {
        if let Some(Entry::Outbound(slot)) = self.0.shared.take_outbound(id) {
            self.0.shared.send_abort(&slot, id, policy);
            slot.push(Answer::Failed(CallError::aborted("aborted by this side")));
        }
    }

    /// What the other side offers, as its `services/list` answers.
    ///
    /// # Errors
    /// As for [`CallConnection::call`].
    pub async fn services_list(&self) -> Result<Json, CallError> {
        self.call("services/list", Json::empty_object()).await
    }

    /// One operation's spec, as the other side's `services/schema` answers.
    ///
    /// # Errors
    /// As for [`CallConnection::call`].
    pub async fn services_schema(&self, name: &str) -> Result<Json, CallError> {
        self.call("services/schema", serde_json::json!({ "name": name })).await
    }

    /// The connection underneath.
    pub fn connection(&self) -> &Connection {
        &self.0.connection
    }

    async fn stream(&self, own: bool) -> Result<Arc<StreamHandle>, CallError> {
        let lost = || CallError::internal("connection closed");
        let open = async || {
            let halves = self.0.connection.open_bi().await.map_err(|_| lost())?;
            self.0.shared.add(halves).ok_or_else(lost)
        };
        if own {
            return open().await;
        }
        let mut default = self.0.default.lock().await;
        if let Some(handle) = &*default
            && !handle.is_closed()
        {
            return Ok(handle.clone());
        }
        let handle = open().await?;
        *default = Some(handle.clone());
        Ok(handle)
    }

    async fn start(
        &self,
        name: &str,
        input: Json,
        options: CallOptions,
        own: bool,
        subscription: bool,
    ) -> Result<Pending, CallError> {
        let shared = &self.0.shared;
        let request = Request {
            operation: name.to_owned(),
            input,
            auth_token: options.auth_token,
            forwarded_for: options.forwarded_for,
            timeout: options.timeout,
        };
        let handle = self.stream(own).await?;
        poll_fn(|cx| handle.poll_room(cx)).await;
        let id: Arc<str> = uuid::Uuid::new_v4().to_string().into();
        let slot = Arc::new(Slot::new(handle.clone(), subscription));
        if !shared.insert(id.clone(), Entry::Outbound(slot.clone())) {
            return Err(CallError::internal("two calls drew the same id"));
        }
        let pending = Pending { shared: shared.clone(), handle, slot, id, own };
        let limit = shared.limits.max_frame;
        let written = pending.handle.append(|out| {
            write_frame(out, limit, |out| envelope::write_request(out, &pending.id, &request))
        });
        match written {
            Some(Ok(())) => Ok(pending),
            Some(Err(error)) => {
                shared.take_outbound(&pending.id);
                Err(CallError::invalid_input(format!("the request cannot be sent: {error}")))
            }
            None => {
                shared.take_outbound(&pending.id);
                Err(CallError::internal("stream ended"))
            }
        }
    }
}

/// A call in flight. Dropping it aborts the call.
struct Pending {
    shared: Arc<Shared>,
    handle: Arc<StreamHandle>,
    slot: Arc<Slot>,
    id: Arc<str>,
    own: bool,
}

impl Pending {
    async fn next(&self) -> Answer {
        poll_fn(|cx| self.slot.poll_pop(cx)).await
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.shared.take_outbound(&self.id).is_some() {
            self.handle.append(|out| abort_frame(out, &self.id, AbortPolicy::default()));
        }
        self.slot.leave();
        if self.own {
            self.handle.finish();
        }
    }
}

fn abort_frame(out: &mut bytes::BytesMut, id: &str, policy: AbortPolicy) {
    let _ = write_frame(out, usize::MAX, |out| {
        envelope::write_aborted(out, id, policy, "no longer wanted");
    });
}

/// A subscription's items. Dropping it aborts the subscription.
pub struct Subscription {
    pending: Pending,
    sleep: Option<BoxFuture<'static, ()>>,
    terminal: bool,
    ended: bool,
}

impl Subscription {
    /// The next item; `None` after the last, or after an error.
    pub async fn next(&mut self) -> Option<Result<Json, CallError>> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    /// Whether the last item was marked as the final result.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// The id that it has on the wire.
    pub fn id(&self) -> &str {
        &self.pending.id
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Json, CallError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let item = match self.pending.slot.poll_pop(cx) {
            Poll::Ready(Answer::Item(item, terminal)) => {
                self.terminal = terminal;
                return Poll::Ready(Some(Ok(item)));
            }
            Poll::Ready(Answer::Completed) => None,
            Poll::Ready(Answer::Failed(error)) => Some(Err(error)),
            Poll::Pending => {
                let expired = self.sleep.as_mut().is_some_and(|s| s.as_mut().poll(cx).is_ready());
                if !expired {
                    return Poll::Pending;
                }
                let Pending { shared, id, .. } = &self.pending;
                if let Some(Entry::Outbound(slot)) = shared.take_outbound(id) {
                    shared.send_abort(&slot, id, AbortPolicy::default());
                }
                Some(Err(CallError::timeout()))
            }
        };
        self.ended = true;
        Poll::Ready(item)
    }
}

impl futures_core::Stream for Subscription {
    type Item = Result<Json, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_item(cx)
    }
}
