//! What the plugin serves: connections, calls, subscriptions.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use alknet_plugin_api::backend::ContextBackend;
use alknet_plugin_api::{
    CallError, CallFuture, Capability, Connection, ContextInfo, Json, OperationCode,
    OperationContext, OperationEnv, OwnershipRequest,
};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use super::super::wire::{Answer, Ask, Id, Served, ToHost, WireFailure, outcome};
use super::connection::{Conn, ConnSide};
use super::host::{Env, lent, read_json};
use super::parent::Parent;
use super::watch::{Watched, during};

/// Serves a connection.
pub(super) fn handle(
    parent: &Arc<Parent>,
    conn: Id,
    index: u32,
    max_datagram: Option<u64>,
    served: &[u8],
) {
    let built = parent.built.get();
    let handler = built.and_then(|built| built.handlers.get(index as usize)).cloned();
    let (handler, Served { info, auth }) = match (handler, serde_json::from_slice(served)) {
        (Some(handler), Ok(served)) => (handler, served),
        _ => {
            let end = Err(WireFailure::Internal("no such handler".into()));
            return parent.say(&ToHost::Handled { conn, end }, b"");
        }
    };
    let side = Connection::new(Arc::new(ConnSide(Conn::new(parent, conn, info, max_datagram))));
    let teller = parent.clone();
    parent.run(conn, async move {
        let handling = during(|| handler.handle(side, auth));
        let end = Watched(handling).await.map_err(WireFailure::from);
        teller.say(&ToHost::Handled { conn, end }, b"");
    });
}

/// Answers a call.
pub(super) fn call(
    parent: &Arc<Parent>,
    call: Id,
    index: u32,
    remaining: Option<u64>,
    info: String,
    input: Bytes,
) {
    let (context, answering) = begin(parent, call, remaining, info);
    let Some(OperationCode::Once(operation)) = code(parent, index) else {
        return answering.answer(Err(no_such()));
    };
    parent.run(call, async move {
        let running = during(|| operation.call(context, Json::from_checked(input)));
        let result = Watched(running).await;
        answering.answer(result);
    });
}

/// Serves a subscription, an item each time that the host asks for one.
pub(super) fn subscribe(
    parent: &Arc<Parent>,
    call: Id,
    index: u32,
    remaining: Option<u64>,
    info: String,
    input: Bytes,
) {
    let (context, answering) = begin(parent, call, remaining, info);
    let Some(OperationCode::Stream(subscription)) = code(parent, index) else {
        return answering.item(Some(Err(no_such())));
    };
    let mut wanted = parent.follow(call);
    parent.run(call, async move {
        let mut items = during(|| subscription.subscribe(context, Json::from_checked(input)));
        while wanted.recv().await.is_some() {
            let next = std::future::poll_fn(|cx| during(|| items.poll_next_unpin(cx))).await;
            if next.is_none() {
                break;
            }
            answering.item(next);
        }
        drop(items);
        answering.item(None);
    });
}

fn code(parent: &Parent, index: u32) -> Option<OperationCode> {
    parent.built.get()?.operations.get(index as usize).cloned()
}

fn no_such() -> CallError {
    CallError::internal("the plugin's process has no such operation")
}

/// A call is under way.
const RUNNING: u8 = 0;
/// The plugin has let go of its context.
const RELEASED: u8 = 1;
/// It has ended, and the plugin still holds on to its context.
const ENDED: u8 = 2;

fn begin(
    parent: &Arc<Parent>,
    call: Id,
    remaining: Option<u64>,
    info: String,
) -> (OperationContext, Answering) {
    let state = Arc::new(AtomicU8::new(RUNNING));
    let answering = Answering { parent: parent.clone(), call, state: state.clone() };
    let context = Arc::new(Hold {
        parent: parent.clone(),
        call,
        info,
        read: OnceLock::new(),
        deadline: remaining.map(|left| Instant::now() + Duration::from_nanos(left)),
        state,
    });
    (OperationContext::from_backend(Arc::new(Context(context))), answering)
}

/// The end of a call. Dropped before, it is only the end of the call's context.
struct Answering {
    parent: Arc<Parent>,
    call: Id,
    state: Arc<AtomicU8>,
}

impl Answering {
    fn answer(&self, result: Result<Json, CallError>) {
        let (ok, body) = outcome(result);
        let released = self.ended();
        self.parent.say(&ToHost::Answered { call: self.call, ok, released }, &body);
    }

    fn item(&self, item: Option<Result<Json, CallError>>) {
        let (item, body) = match item.map(outcome) {
            Some((ok, body)) => (Some(ok), body),
            None => (None, Bytes::new()),
        };
        self.parent.say(&ToHost::Item { call: self.call, item }, &body);
    }

    /// Whether nothing needs the context any more.
    fn ended(&self) -> bool {
        self.state.swap(ENDED, Ordering::AcqRel) == RELEASED
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.parent.unfollow(self.call);
        // Who lets go of it afterwards tells.
        if self.ended() {
            self.parent.say(&ToHost::Release { call: self.call }, b"");
        }
    }
}

/// A call's context, for as long as the plugin holds on to it.
pub(super) struct Hold {
    pub(super) parent: Arc<Parent>,
    pub(super) call: Id,
    info: String,
    read: OnceLock<Arc<ContextInfo>>,
    deadline: Option<Instant>,
    state: Arc<AtomicU8>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.state.swap(RELEASED, Ordering::AcqRel) == ENDED {
            self.parent.say(&ToHost::Release { call: self.call }, b"");
        }
    }
}

/// The plugin's handle of a call.
struct Context(Arc<Hold>);

impl ContextBackend for Context {
    fn info(&self) -> Arc<ContextInfo> {
        let read = || Arc::new(serde_json::from_str(&self.0.info).unwrap_or_default());
        self.0.read.get_or_init(read).clone()
    }

    fn remaining(&self) -> Option<Duration> {
        Some(self.0.deadline?.saturating_duration_since(Instant::now()))
    }

    fn is_cancelled(&self) -> bool {
        let answer = self.0.parent.ask_now(Ask::IsCancelled { call: self.0.call }, b"");
        !matches!(answer, Some((Answer::Flag(false), _)))
    }

    fn cancelled(&self) -> BoxFuture<'static, ()> {
        let asked = self.0.parent.ask(Ask::Cancelled { call: self.0.call }, b"");
        Box::pin(async move { drop(asked.await) })
    }

    fn env(&self) -> Arc<dyn OperationEnv> {
        Arc::new(Env::new(&self.0.parent, Some(self.0.clone())))
    }

    fn capability(&self, name: &str) -> Option<Capability> {
        lent(&self.0.parent, Some(self.0.clone()), name)
    }

    fn ownership(&self, request: OwnershipRequest) -> CallFuture {
        let request = serde_json::to_vec(&request).unwrap_or_default();
        let asked = self.0.parent.ask(Ask::Ownership { call: self.0.call }, &request);
        let hold = self.0.clone();
        Box::pin(async move {
            let answer = read_json(asked.await);
            drop(hold);
            answer
        })
    }
}
