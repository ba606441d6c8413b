//! Runs operations as a node does: deadlines, aborts, panics, composition.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use futures_util::future::{self, BoxFuture, Either};
use futures_util::{FutureExt, StreamExt, stream};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::host::{TestHost, lock, panic_text};
use super::log::Logged;
use crate::backend::ContextBackend;
use crate::connection::Connection;
use crate::context::{AbortPolicy, ContextInfo, OperationContext, OperationEnv, PeerRef};
use crate::error::{CallError, code};
use crate::host::{Capability, Gateway, GatewayCall, GatewayEvent, GatewayRequest};
use crate::identity::Identity;
use crate::json::Json;
use crate::operation::{CallFuture, CallStream, OperationSpec};
use crate::ownership::OwnershipRequest;
use crate::plugin::OperationCode;

/// A call to be made, with everything that a node would say about it.
#[derive(Clone)]
pub struct TestContext {
    host: TestHost,
    info: ContextInfo,
    timeout: Option<Duration>,
}

impl TestContext {
    pub(super) fn new(host: &TestHost, operation: &str) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let number = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let info = ContextInfo {
            request_id: format!("test-{number}"),
            operation: operation.strip_prefix('/').unwrap_or(operation).to_owned(),
            ..ContextInfo::default()
        };
        Self { host: host.clone(), info, timeout: None }
    }

    /// The operation's name.
    pub fn operation(&self) -> &str {
        &self.info.operation
    }

    /// Who calls; nobody known by default.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.info.identity = Some(identity.clone());
        self.info.origin = Some(identity);
        self
    }

    /// Whose rights the operation's own calls are checked against.
    #[must_use]
    pub fn handler_identity(mut self, identity: Identity) -> Self {
        self.info.handler_identity = Some(identity);
        self
    }

    /// Who the caller says it acts for, end user first.
    #[must_use]
    pub fn forwarded_for(mut self, identities: impl IntoIterator<Item = Identity>) -> Self {
        self.info.forwarded_for = identities.into_iter().collect();
        self
    }

    /// The call's id; `test-<n>` by default.
    #[must_use]
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.info.request_id = id.into();
        self
    }

    /// Time until the deadline; none by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Says that another operation composed the call.
    #[must_use]
    pub fn internal(mut self) -> Self {
        self.info.internal = true;
        self
    }

    /// The context for a function that a test calls directly, and the means to
    /// abort the call. The deadline counts from here and is not enforced.
    pub fn build(self) -> (OperationContext, Cancel) {
        let aborted = watch::Sender::new(false);
        let side = Arc::new(CallSide {
            host: self.host,
            info: Arc::new(self.info),
            deadline: self.timeout.map(|timeout| Instant::now() + timeout),
            aborted: aborted.subscribe(),
        });
        (OperationContext::wrap(side), Cancel(aborted))
    }
}

/// Aborts the call of a context that a test has built. Dropping it does nothing.
#[derive(Debug)]
pub struct Cancel(watch::Sender<bool>);

impl Cancel {
    /// Aborts the call: the context's `cancelled()` resolves.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }
}

/// Aborts a call that is dropped before it has answered.
struct AbortOnDrop(Option<Cancel>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(cancel) = &self.0 {
            cancel.cancel();
        }
    }
}

#[derive(Clone)]
pub(super) struct CallSide {
    host: TestHost,
    info: Arc<ContextInfo>,
    deadline: Option<Instant>,
    aborted: watch::Receiver<bool>,
}

impl ContextBackend for CallSide {
    fn info(&self) -> Arc<ContextInfo> {
        self.info.clone()
    }

    fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn is_cancelled(&self) -> bool {
        *self.aborted.borrow() || self.remaining() == Some(Duration::ZERO)
    }

    fn cancelled(&self) -> BoxFuture<'static, ()> {
        let (aborted, deadline) = (self.aborted.clone(), self.deadline);
        Box::pin(async move {
            let passed = async move {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => future::pending().await,
                }
            };
            future::select(Box::pin(raised(aborted)), Box::pin(passed)).await;
        })
    }

    fn env(&self) -> Arc<dyn OperationEnv> {
        Arc::new(Composition::new(self.host.clone(), Some(self.clone())))
    }

    fn capability(&self, name: &str) -> Option<Capability> {
        self.host.inner.find_capability(name)
    }

    fn ownership(&self, request: OwnershipRequest) -> CallFuture {
        let answer = self.host.inner.ownership(self.info.identity.as_ref(), request);
        Box::pin(future::ready(answer))
    }
}

/// Resolves when the flag is raised; never when it cannot be any more.
async fn raised(mut flag: watch::Receiver<bool>) {
    if flag.wait_for(|raised| *raised).await.is_err() {
        future::pending::<()>().await;
    }
}

/// One call or subscription about to run.
pub(super) struct Run {
    pub(super) context: TestContext,
    /// The code, or `None` where nothing of that name is in reach.
    pub(super) code: Option<OperationCode>,
    /// What the operation declares; without it every error passes.
    pub(super) spec: Option<Arc<OperationSpec>>,
    /// Ends the call from outside.
    pub(super) abort: Option<BoxFuture<'static, ()>>,
}

impl Run {
    fn not_found(&self) -> CallError {
        CallError::not_found(format!("no operation `{}`", self.context.operation()))
    }

    fn wrong_type(&self, is: &str) -> CallError {
        let text = format!("`{}` is {is}", self.context.operation());
        CallError::new(code::INVALID_OPERATION_TYPE, text)
    }

    /// Runs a query or mutation. Dropping the future aborts it.
    pub(super) fn call(self, input: Json) -> CallFuture {
        Box::pin(async move {
            let operation = match &self.code {
                Some(OperationCode::Once(operation)) => operation.clone(),
                Some(OperationCode::Stream(_)) => return Err(self.wrong_type("a subscription")),
                None => return Err(self.not_found()),
            };
            let (timeout, dispatch) =
                (self.context.timeout, self.context.host.inner.dispatch.clone());
            let (context, cancel) = self.context.build();
            let mut abort = AbortOnDrop(Some(cancel));
            let work = async move { operation.call(context, input).await };
            let work = AssertUnwindSafe(Logged::new(&dispatch, work)).catch_unwind();
            let result = match future::select(work, Box::pin(ending(timeout, self.abort))).await {
                Either::Left((Ok(result), _)) => {
                    abort.0 = None;
                    result
                }
                Either::Left((Err(panic), _)) => Err(panicked(&*panic)),
                Either::Right((error, _)) => Err(error),
            };
            result.map_err(|error| as_declared(self.spec.as_deref(), error))
        })
    }

    /// Runs a subscription. Dropping the stream aborts it.
    pub(super) fn subscribe(self, input: Json) -> CallStream {
        let subscription = match &self.code {
            Some(OperationCode::Stream(subscription)) => subscription.clone(),
            Some(OperationCode::Once(_)) => return failed(self.wrong_type("no subscription")),
            None => return failed(self.not_found()),
        };
        let (timeout, dispatch) = (self.context.timeout, self.context.host.inner.dispatch.clone());
        let (context, cancel) = self.context.build();
        let start = async move { subscription.subscribe(context, input) };
        Box::pin(Running {
            items: Some(Box::pin(Logged::new(&dispatch, start.flatten_stream()))),
            ending: Box::pin(ending(timeout, self.abort)),
            abort: AbortOnDrop(Some(cancel)),
            spec: self.spec,
        })
    }
}

/// Resolves with what a call is ended with before it has answered.
async fn ending(timeout: Option<Duration>, abort: Option<BoxFuture<'static, ()>>) -> CallError {
    let deadline = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => future::pending().await,
        }
    };
    let abort = abort.unwrap_or_else(|| Box::pin(future::pending()));
    match future::select(Box::pin(deadline), abort).await {
        Either::Left(_) => CallError::timeout(),
        Either::Right(_) => CallError::aborted("the caller aborted the call"),
    }
}

fn failed(error: CallError) -> CallStream {
    stream::iter([Err(error)]).boxed()
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> CallError {
    CallError::internal(format!("the operation panicked: {}", panic_text(panic)))
}

/// Callers see the codes that the protocol and the operation's spec know.
fn as_declared(spec: Option<&OperationSpec>, error: CallError) -> CallError {
    let Some(spec) = spec else { return error };
    let declared = spec.error_schemas.iter().any(|declared| declared.code == error.code);
    if declared || code::is_protocol(&error.code) || error.code.starts_with("HTTP_") {
        return error;
    }
    let text = format!("`{}` gave `{}`, which it does not declare", spec.name, error.code);
    CallError::internal(text).with_details(json!({ "code": error.code, "message": error.message }))
}

struct Running {
    items: Option<CallStream>,
    ending: BoxFuture<'static, CallError>,
    abort: AbortOnDrop,
    spec: Option<Arc<OperationSpec>>,
}

impl Stream for Running {
    type Item = Result<Json, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(items) = &mut this.items else { return Poll::Ready(None) };
        if let Poll::Ready(error) = this.ending.poll_unpin(cx) {
            this.items = None;
            return Poll::Ready(Some(Err(error)));
        }
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| items.as_mut().poll_next(cx)));
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(Some(Ok(item)))) => Poll::Ready(Some(Ok(item))),
            Ok(Poll::Ready(Some(Err(error)))) => {
                this.abort.0 = None;
                this.items = None;
                Poll::Ready(Some(Err(as_declared(this.spec.as_deref(), error))))
            }
            Ok(Poll::Ready(None)) => {
                this.abort.0 = None;
                this.items = None;
                Poll::Ready(None)
            }
            Err(panic) => {
                this.items = None;
                Poll::Ready(Some(Err(panicked(&*panic))))
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The context says so before the subscription's destructors look at it.
        if self.items.is_some()
            && let Some(cancel) = &self.abort.0
        {
            cancel.cancel();
        }
    }
}

/// The host's operations, as one call or one plugin reaches them.
pub(super) struct Composition {
    host: TestHost,
    parent: Option<CallSide>,
}

impl Composition {
    pub(super) fn new(host: TestHost, parent: Option<CallSide>) -> Self {
        Self { host, parent }
    }

    fn run(
        &self,
        name: &str,
        code: Option<OperationCode>,
        policy: AbortPolicy,
    ) -> Result<Run, CallError> {
        let mut context = self.host.context(name).internal();
        context.info.abort_policy = policy;
        let mut abort = None;
        if let Some(parent) = &self.parent {
            if parent.is_cancelled() {
                return Err(CallError::aborted("the composing call has ended"));
            }
            context.info.parent_request_id = Some(parent.info.request_id.clone());
            context.info.identity = parent.info.handler_identity.clone();
            context.info.origin = parent.info.origin.clone();
            context.timeout = parent.remaining();
            if policy == AbortPolicy::AbortDependents {
                abort = Some(raised(parent.aborted.clone()).boxed());
            }
        }
        Ok(Run { context, code, spec: None, abort })
    }

    fn call(
        &self,
        name: &str,
        code: Option<OperationCode>,
        policy: AbortPolicy,
        input: Json,
    ) -> CallFuture {
        match self.run(name, code, policy) {
            Ok(run) => run.call(input),
            Err(error) => Box::pin(future::ready(Err(error))),
        }
    }
}

impl OperationEnv for Composition {
    fn invoke(&self, name: &str, input: Json) -> CallFuture {
        self.invoke_with_policy(name, input, AbortPolicy::default())
    }

    fn invoke_with_policy(&self, name: &str, input: Json, policy: AbortPolicy) -> CallFuture {
        self.call(name, self.host.inner.operation(name), policy, input)
    }

    fn subscribe(&self, name: &str, input: Json) -> CallStream {
        self.subscribe_with_policy(name, input, AbortPolicy::default())
    }

    fn subscribe_with_policy(&self, name: &str, input: Json, policy: AbortPolicy) -> CallStream {
        match self.run(name, self.host.inner.operation(name), policy) {
            Ok(run) => run.subscribe(input),
            Err(error) => failed(error),
        }
    }

    fn invoke_peer(&self, peer: PeerRef, name: &str, input: Json) -> CallFuture {
        let code = self.host.inner.peer_operation(peer_id(&peer), name);
        self.call(name, code, AbortPolicy::default(), input)
    }

    fn contains(&self, name: &str) -> bool {
        self.host.inner.operation(name).is_some()
    }

    fn peer_contains(&self, peer: &PeerRef, name: &str) -> bool {
        self.host.inner.peer_operation(peer_id(peer), name).is_some()
    }
}

fn peer_id(peer: &PeerRef) -> Option<&str> {
    match peer {
        PeerRef::Specific(id) => Some(id),
        PeerRef::Any => None,
    }
}

/// The host's operations, as a connection's peer reaches them.
pub(super) struct TestGateway {
    host: TestHost,
    caller: Option<Identity>,
    running: Mutex<HashMap<String, watch::Sender<bool>>>,
}

impl TestGateway {
    pub(super) fn new(host: TestHost, connection: &Connection) -> Self {
        use std::fmt::Write as _;
        let caller = connection.peer_key().and_then(|key| {
            let mut fingerprint = String::from("ed25519:");
            for byte in key {
                let _ = write!(fingerprint, "{byte:02x}");
            }
            host.inner.resolve_fingerprint(&fingerprint)
        });
        Self { host, caller, running: Mutex::default() }
    }

    fn start(&self, request: GatewayRequest) -> Result<(Run, Json), CallError> {
        let caller = match &request.auth_token {
            Some(token) => Some(
                self.host
                    .inner
                    .resolve_token(token.as_bytes())
                    .ok_or_else(|| CallError::forbidden("invalid token"))?,
            ),
            None => self.caller.clone(),
        };
        let aborted = watch::Sender::new(false);
        let abort = raised(aborted.subscribe()).boxed();
        let mut running = lock(&self.running);
        running.retain(|_, call| call.receiver_count() > 0);
        if running.insert(request.request_id.clone(), aborted).is_some() {
            return Err(CallError::invalid_input("a call with this id is under way"));
        }
        drop(running);
        let mut context = self.host.context(&request.operation).request_id(request.request_id);
        context.info.identity.clone_from(&caller);
        context.info.origin = caller;
        context.info.forwarded_for = request.forwarded_for;
        context.timeout = request.timeout;
        let code = self.host.inner.operation(&request.operation);
        Ok((Run { context, code, spec: None, abort: Some(abort) }, request.input))
    }
}

impl Gateway for TestGateway {
    fn dispatch(&self, request: GatewayRequest) -> GatewayCall {
        let (run, input) = match self.start(request) {
            Ok(started) => started,
            Err(error) => return GatewayCall::new(stream::iter([GatewayEvent::Error(error)])),
        };
        if !matches!(run.code, Some(OperationCode::Stream(_))) {
            let answer = run.call(input).map(|result| match result {
                Ok(output) => GatewayEvent::Responded(output),
                Err(error) => GatewayEvent::Error(error),
            });
            return GatewayCall::new(stream::once(answer));
        }
        let items = Some(run.subscribe(input));
        GatewayCall::new(stream::unfold(items, |items| async move {
            let mut items = items?;
            Some(match items.next().await {
                Some(Ok(item)) => (GatewayEvent::Responded(item), Some(items)),
                Some(Err(error)) => (GatewayEvent::Error(error), None),
                None => (GatewayEvent::Completed, None),
            })
        }))
    }

    fn abort(&self, request_id: &str, _: AbortPolicy) {
        if let Some(call) = lock(&self.running).remove(request_id) {
            call.send_replace(true);
        }
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        for call in lock(&self.running).values() {
            call.send_replace(true);
        }
    }
}
