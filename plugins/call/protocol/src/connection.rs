//! A connection over which both sides call: how it is set up, and the client's
//! side of it.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use alknet_plugin_api::{
    AbortPolicy, CallError, Connection, Gateway, Host, Identity, Json, OperationType, StreamError,
    code,
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde::Deserialize;

use crate::driver::Driver;
use crate::envelope;
use crate::frame::{DEFAULT_MAX_FRAME, write_frame};
use crate::outbox::{Kind, Outbox, Place};
use crate::pending::{Call, Pending, Subscription, send_abort};
use crate::slot::Answer;
use crate::table::Shared;

/// Operations whose type is remembered.
const TYPES_KEPT: usize = 1024;

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
    /// Calls of the other side that may be in flight at a time; one more is
    /// refused with `RESOURCE_EXHAUSTED`. A gateway may have a lower limit.
    pub in_flight: usize,
    /// After the node begins to drain: how long running calls may take before
    /// they are aborted.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_frame: DEFAULT_MAX_FRAME, in_flight: 256, drain: Duration::from_millis(1500) }
    }
}

/// How a connection is to be used.
#[derive(Clone)]
pub struct Options {
    pub(crate) timer: Arc<dyn Timer>,
    pub(crate) gateway: Option<Arc<dyn Gateway>>,
    pub(crate) limits: Limits,
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
#[derive(Clone, Default)]
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

impl fmt::Debug for CallOptions {
    /// Shows all but the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallOptions")
            .field("timeout", &self.timeout)
            .field("auth_token", &self.auth_token.as_ref().map(|_| "…"))
            .field("forwarded_for", &self.forwarded_for)
            .field("own_stream", &self.own_stream)
            .finish()
    }
}

/// Starts calling and serving over connections that are already established.
#[derive(Clone, Copy, Debug)]
pub struct CallClient;

impl CallClient {
    /// A handle to call with, and the future that does the work. Dropping the
    /// driver fails this side's calls and aborts the other's.
    pub fn spawn_dispatch(connection: Connection, options: Options) -> (CallConnection, Driver) {
        let shared = Arc::new(Shared::new(options));
        let client = CallConnection(Arc::new(Client {
            connection: connection.clone(),
            shared: shared.clone(),
            default: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            hasher: RandomState::new(),
            types: Mutex::default(),
            imported: Mutex::default(),
        }));
        (client, Driver::new(connection, shared))
    }
}

struct Client {
    connection: Connection,
    shared: Arc<Shared>,
    /// The stream of all calls that ask for none of their own.
    default: Mutex<Option<Arc<Outbox>>>,
    /// Held while that stream is opened, so that only one is.
    opening: tokio::sync::Mutex<()>,
    hasher: RandomState,
    /// By keyed hash of name and token: a token is not to be kept.
    types: Mutex<HashMap<u64, OperationType>>,
    imported: Mutex<crate::imported::Imported>,
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
        let input = input.into();
        let sleep = options.timeout.map(|timeout| self.0.shared.timer.sleep(timeout));
        let work = async {
            let pending = self.start(name, &input, &options, options.own_stream, false).await?;
            poll_fn(|cx| pending.poll_answer(cx)).await.into_result()
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

    /// Sends a call and gives it back before its answer has come, for a caller that
    /// forwards: it minds the timeout itself and says how an abort goes on.
    ///
    /// # Errors
    /// The call could not be sent.
    pub async fn begin(
        &self,
        name: &str,
        input: Json,
        options: CallOptions,
    ) -> Result<Call, CallError> {
        Ok(Call::new(self.start(name, &input, &options, options.own_stream, false).await?))
    }

    /// As [`CallConnection::begin`], for what is known to be a subscription: the other
    /// side's schema is not asked for.
    ///
    /// # Errors
    /// The request could not be sent.
    pub async fn begin_subscription(
        &self,
        name: &str,
        input: Json,
        options: CallOptions,
    ) -> Result<Subscription, CallError> {
        Ok(Subscription::new(self.start(name, &input, &options, true, true).await?, None))
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
        let sleep = options.timeout.map(|timeout| self.0.shared.timer.sleep(timeout));
        let input = input.into();
        let op_type = self.operation_type(name, &options).await?;
        if op_type.is_some_and(|op_type| op_type != OperationType::Subscription) {
            return Err(CallError::new(
                code::INVALID_OPERATION_TYPE,
                format!("{name} is no subscription"),
            ));
        }
        let pending = self.start(name, &input, &options, true, true).await?;
        Ok(Subscription::new(pending, sleep))
    }

    /// What kind of operation this is, as the other side's `services/schema` says;
    /// `None` where it knows none of that name. An answer is remembered.
    ///
    /// # Errors
    /// As for [`CallConnection::call_with`].
    pub async fn operation_type(
        &self,
        name: &str,
        options: &CallOptions,
    ) -> Result<Option<OperationType>, CallError> {
        #[derive(Deserialize)]
        struct Typed {
            op_type: OperationType,
        }
        let name = name.strip_prefix('/').unwrap_or(name);
        let key = self.0.hasher.hash_one((name, &options.auth_token));
        let known = self.0.types.lock().get(&key).copied();
        if known.is_some() {
            return Ok(known);
        }
        let mut asking = options.clone();
        asking.own_stream = false;
        let input = serde_json::json!({ "name": name });
        match self.call_with("services/schema", input, asking).await {
            Ok(schema) => {
                let typed: Typed = schema.to().map_err(|error| {
                    CallError::internal(format!("services/schema gave no spec: {error}"))
                })?;
                let mut types = self.0.types.lock();
                if types.len() >= TYPES_KEPT {
                    types.clear();
                }
                types.insert(key, typed.op_type);
                Ok(Some(typed.op_type))
            }
            Err(error) if error.code == code::NOT_FOUND => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Aborts the call with this id, if it is one of this side's in flight.
    pub fn abort(&self, id: &str, policy: AbortPolicy) {
        let Some(number) = self.0.shared.ids.number(id) else { return };
        if let Some(slot) = self.0.shared.take_outbound(number) {
            send_abort(&slot.outbox, id, policy);
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

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.0.shared.is_lost()
    }

    /// Sends an envelope that every reader skips. The other side's transport must
    /// acknowledge it, so that whoever waits for an answer can tell a slow operation
    /// from a lost peer by [`Connection::stats`].
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn nudge(&self) -> Result<(), CallError> {
        let (outbox, _) = self.stream(false).await?;
        let written =
            outbox.append(Kind::Abort, |out| write_frame(out, usize::MAX, envelope::write_nudge));
        written.map(drop).ok_or_else(|| self.0.shared.why_closed())
    }

    pub(crate) fn imported(&self) -> &Mutex<crate::imported::Imported> {
        &self.0.imported
    }

    /// The connection underneath.
    pub fn connection(&self) -> &Connection {
        &self.0.connection
    }

    /// A new stream; `None` on a connection that has no more than its one.
    async fn open(&self) -> Result<Option<Arc<Outbox>>, CallError> {
        let lost = || CallError::internal("connection closed");
        match self.0.connection.open_bi().await {
            Ok(halves) => self.0.shared.add(halves).ok_or_else(lost).map(Some),
            Err(StreamError::StreamClosed) => Ok(None),
            Err(_) => Err(lost()),
        }
    }

    fn default_stream(&self) -> Option<Arc<Outbox>> {
        self.0.default.lock().as_ref().filter(|outbox| outbox.is_open()).cloned()
    }

    /// The stream for a call, and whether it is the call's own.
    async fn stream(&self, own: bool) -> Result<(Arc<Outbox>, bool), CallError> {
        if own && let Some(outbox) = self.open().await? {
            return Ok((outbox, true));
        }
        if let Some(outbox) = self.default_stream() {
            return Ok((outbox, false));
        }
        let _opening = self.0.opening.lock().await;
        if let Some(outbox) = self.default_stream() {
            return Ok((outbox, false));
        }
        let outbox = match self.open().await? {
            Some(outbox) => outbox,
            // Both sides' calls share the only stream that there is.
            None => self.0.shared.first().await.ok_or_else(|| self.0.shared.why_closed())?,
        };
        *self.0.default.lock() = Some(outbox.clone());
        Ok((outbox, false))
    }

    async fn start(
        &self,
        name: &str,
        input: &Json,
        options: &CallOptions,
        own: bool,
        subscription: bool,
    ) -> Result<Pending, CallError> {
        let shared = &self.0.shared;
        let (outbox, own) = self.stream(own).await?;
        let mut place = Place::default();
        poll_fn(|cx| outbox.poll_room(Kind::Request, &mut place, cx)).await;
        let pending = Pending::new(shared.clone(), outbox, own, subscription);
        let CallOptions { timeout, auth_token, forwarded_for, .. } = options;
        let written = pending.outbox().append_with(Kind::Request, pending.is_alone(), |out| {
            write_frame(out, shared.limits.max_frame, |out| {
                let (id, token) = (pending.id(), auth_token.as_deref());
                envelope::write_call(out, id, name, input, token, forwarded_for, *timeout);
            })
        });
        match written {
            Some(Ok(())) => Ok(pending),
            Some(Err(error)) => {
                pending.forget();
                Err(CallError::invalid_input(format!("the request cannot be sent: {error}")))
            }
            None => {
                pending.forget();
                Err(shared.why_closed())
            }
        }
    }
}
