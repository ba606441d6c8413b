//! The handlers and operations of a plugin in a process of its own.

use std::sync::Arc;
use std::time::Duration;

use alknet_plugin_api::{
    AuthContext, CallError, CallFuture, CallStream, Connection, DynHandler, HandlerError, Json,
    Operation, OperationContext, Subscription,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, oneshot};

use super::link::Unsent;
use super::session::{DELIVERY, Finishing, Served, Session};
use super::supervise::Process;
use super::wire::{self, Id, MAX_BODY, ToChild, read_outcome, too_long};

/// The plugin's process ended under a handler.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plugin's process {0}")]
pub struct Died(pub(super) Arc<str>);

impl Died {
    /// The end that a handler's error reports, if that is what it does.
    pub fn of(error: &HandlerError) -> Option<&Self> {
        match error {
            HandlerError::Internal(error) => error.downcast_ref(),
            _ => None,
        }
    }
}

impl From<Died> for HandlerError {
    fn from(died: Died) -> Self {
        Self::Internal(Box::new(died))
    }
}

impl From<Died> for CallError {
    fn from(died: Died) -> Self {
        Self::internal(died.to_string())
    }
}

/// One handler or operation, by its place in the manifest.
pub(super) struct Part {
    process: Arc<Process>,
    index: u32,
}

impl Part {
    pub(super) fn new(process: Arc<Process>, index: usize) -> Arc<Self> {
        // A manifest with 2^32 operations does not fit in memory.
        Arc::new(Self { process, index: u32::try_from(index).unwrap_or(u32::MAX) })
    }
}

/// Tells the child to drop what it does when nobody waits for it any more.
struct Wanted {
    session: Arc<Session>,
    task: Id,
    over: bool,
}

impl Wanted {
    fn died(&self) -> Died {
        Died(self.session.death().unwrap_or_else(|| "does not answer".into()))
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let mut tables = self.session.tables.lock();
        let left = (
            tables.handlers.remove(&self.task),
            tables.calls.remove(&self.task),
            tables.subscriptions.remove(&self.task),
        );
        drop(tables);
        drop(left);
        if !self.over {
            let _gone = self.session.say(&ToChild::Drop { task: self.task }, b"");
        }
    }
}

impl DynHandler for Part {
    fn handle(
        self: Arc<Self>,
        connection: Connection,
        auth: AuthContext,
    ) -> BoxFuture<'static, Result<(), HandlerError>> {
        Box::pin(async move {
            let session = self.process.session().await?;
            let (conn, finishing) = (session.number(), Arc::<Finishing>::default());
            let max_datagram = connection.max_datagram_size().map(|max| max as u64);
            let served = wire::Served { info: connection.info().clone(), auth };
            let served = serde_json::to_vec(&served)
                .map_err(|error| HandlerError::internal(error.to_string()))?;
            let (done, end) = oneshot::channel();
            // The child says when it has let go of it; the connection is closed when
            // this returns, so nothing of it may be held here meanwhile.
            let entry = Served::new(connection, finishing.clone());
            session.tables.lock().conns.insert(conn, entry);
            session.tables.lock().handlers.insert(conn, done);
            let mut wanted = Wanted { session, task: conn, over: false };
            let handle = ToChild::Handle { conn, index: self.index, max_datagram };
            let sent = wanted.session.say(&handle, &served);
            let end = match sent {
                Ok(()) => end.await,
                Err(_) => return Err(wanted.died().into()),
            };
            let Ok(end) = end else { return Err(wanted.died().into()) };
            wanted.over = true;
            // What the plugin has finished is still on its way to the transport,
            // which alone knows how long to wait for the peer.
            let _late = tokio::time::timeout(DELIVERY, finishing.idle()).await;
            end.map_err(HandlerError::from)
        })
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Part {
    /// Begins a call or a subscription. `enter` notes who waits for it.
    async fn begin(
        &self,
        context: OperationContext,
        input: &Json,
        enter: impl FnOnce(&Session, Id),
        message: impl FnOnce(Id, Option<u64>, String) -> ToChild,
    ) -> Result<Wanted, CallError> {
        let len = input.as_bytes().len();
        if len > MAX_BODY {
            return Err(too_long("the input", len));
        }
        let session = self.process.session().await?;
        let task = session.number();
        let info = serde_json::to_string(context.info()).unwrap_or_default();
        let remaining = context.remaining().map(nanos);
        enter(&session, task);
        session.tables.lock().contexts.insert(task, context);
        let wanted = Wanted { session, task, over: false };
        match wanted.session.say(&message(task, remaining, info), input.as_bytes()) {
            Ok(()) => Ok(wanted),
            Err(Unsent::Gone) => Err(wanted.died().into()),
            Err(Unsent::TooLong) => {
                let context = wanted.session.tables.lock().contexts.remove(&task);
                drop(context);
                Err(CallError::internal("the call's context is too long for the plugin's process"))
            }
        }
    }

    async fn answer(&self, context: OperationContext, input: Json) -> Result<Json, CallError> {
        let index = self.index;
        let (caller, answer) = oneshot::channel();
        let enter =
            |session: &Session, call| drop(session.tables.lock().calls.insert(call, caller));
        let message = |call, remaining, info| ToChild::Call { call, index, remaining, info };
        let mut wanted = self.begin(context, &input, enter, message).await?;
        let Ok((ok, body)) = answer.await else { return Err(wanted.died().into()) };
        wanted.over = true;
        read_outcome(ok, body)
    }
}

impl Operation for Part {
    fn call(&self, context: OperationContext, input: Json) -> CallFuture {
        let part = Self { process: self.process.clone(), index: self.index };
        Box::pin(async move { part.answer(context, input).await })
    }
}

/// A subscription under way: its items come when they are asked for.
struct Following {
    wanted: Wanted,
    items: mpsc::Receiver<Option<(bool, Bytes)>>,
}

impl Following {
    async fn next(mut self, first: bool) -> Option<(Result<Json, CallError>, Option<Self>)> {
        if !first {
            let next = ToChild::Next { call: self.wanted.task };
            let _gone = self.wanted.session.say(&next, b"");
        }
        match self.items.recv().await {
            Some(Some((ok, body))) => {
                let item = read_outcome(ok, body);
                // An error is the last.
                let more = item.is_ok().then_some(self);
                Some((item, more))
            }
            Some(None) => {
                self.wanted.over = true;
                None
            }
            None => Some((Err(self.wanted.died().into()), None)),
        }
    }
}

enum State {
    New(OperationContext, Json),
    Following(Box<Following>),
    Over,
}

impl Subscription for Part {
    fn subscribe(&self, context: OperationContext, input: Json) -> CallStream {
        let part = Self { process: self.process.clone(), index: self.index };
        let new = State::New(context, input);
        stream::unfold((part, new), |(part, state)| async move {
            let (following, first) = match state {
                State::New(context, input) => match part.follow(context, &input).await {
                    Ok(following) => (following, true),
                    Err(error) => return Some((Err(error), (part, State::Over))),
                },
                State::Following(following) => (*following, false),
                State::Over => return None,
            };
            let (item, more) = following.next(first).await?;
            let state = more.map_or(State::Over, |more| State::Following(Box::new(more)));
            Some((item, (part, state)))
        })
        .boxed()
    }
}

impl Part {
    async fn follow(
        &self,
        context: OperationContext,
        input: &Json,
    ) -> Result<Following, CallError> {
        let index = self.index;
        let (consumer, items) = mpsc::channel(1);
        let enter = |session: &Session, call| {
            drop(session.tables.lock().subscriptions.insert(call, consumer));
        };
        let message = |call, remaining, info| ToChild::Subscribe { call, index, remaining, info };
        let wanted = self.begin(context, input, enter, message).await?;
        Ok(Following { wanted, items })
    }
}
