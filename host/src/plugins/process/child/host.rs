//! The host's services, in the child: what is local, and what is asked of the host.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alknet_plugin_api::backend::HostBackend;
use alknet_plugin_api::http::{HttpFuture, HttpRequest, HttpResponse};
use alknet_plugin_api::{
    AbortPolicy, CallError, CallFuture, CallStream, Capability, CapabilityBackend, CapabilityKind,
    Connection, Gateway, GatewayCall, GatewayEvent, GatewayRequest, Identity, Json, Level,
    LogRecord, OperationEnv, PeerRef, TaskHandle,
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};

use super::super::wire::{
    Answer, Ask, GatewayHead, Id, MAX_BODY, Metric, ToHost, read_call_error, too_long,
};
use super::calls::Hold;
use super::connection::ConnSide;
use super::parent::{Answered, Parent};
use super::watch::Watched;
use crate::services::{Task, panic_text};

/// The host, as the plugin has it in the child.
pub(super) struct ForwardingHost(Arc<Parent>);

impl ForwardingHost {
    pub(super) fn new(parent: Arc<Parent>) -> Self {
        Self(parent)
    }

    fn metric(&self, kind: Metric, name: &str, labels: &[(&str, &str)]) {
        let (name, labels) = (name.to_owned(), owned(labels));
        self.0.record(&ToHost::Metric { kind, name, labels }, b"");
    }

    fn identity(&self, ask: Ask, body: &[u8]) -> Option<Identity> {
        match self.0.ask_now(ask, body)? {
            (Answer::Some, identity) => serde_json::from_slice(&identity).ok(),
            _ => None,
        }
    }
}

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl HostBackend for ForwardingHost {
    fn spawn(&self, task: BoxFuture<'static, ()>) -> TaskHandle {
        let parent = self.0.clone();
        let task = AssertUnwindSafe(Watched(task)).catch_unwind();
        let running = self.0.runtime.spawn(async move {
            if let Err(panic) = task.await {
                parent.record(&ToHost::TaskPanicked, panic_text(&*panic).as_bytes());
            }
        });
        TaskHandle::new(Box::new(Task(running)))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let _entered = self.0.runtime.enter();
        Box::pin(tokio::time::sleep(duration))
    }

    fn now(&self) -> Duration {
        self.0.now()
    }

    fn unix_time(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn log_enabled(&self, level: Level, _target: &str) -> bool {
        self.0.logs(level as u8)
    }

    fn log(&self, record: &LogRecord<'_>) {
        let (level, target) = (record.level as u8, record.target.to_owned());
        let fields = owned(record.fields);
        self.0.record(&ToHost::Log { level, target, fields }, record.message.as_bytes());
    }

    fn counter(&self, name: &str, labels: &[(&str, &str)], add: u64) {
        self.metric(Metric::Count(add), name, labels);
    }

    fn gauge(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.metric(Metric::Gauge(value), name, labels);
    }

    fn histogram(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.metric(Metric::Record(value), name, labels);
    }

    fn resolve_token(&self, token: &[u8]) -> Option<Identity> {
        self.identity(Ask::ResolveToken, token)
    }

    fn resolve_fingerprint(&self, fingerprint: &str) -> Option<Identity> {
        self.identity(Ask::ResolveFingerprint { fingerprint: fingerprint.to_owned() }, b"")
    }

    fn capability(&self, name: &str) -> Option<Capability> {
        lent(&self.0, None, name)
    }

    fn env(&self) -> Arc<dyn OperationEnv> {
        Arc::new(Env::new(&self.0, None))
    }

    fn gateway(&self, connection: &Connection) -> Option<Arc<dyn Gateway>> {
        let conn = connection.backend().as_any()?.downcast_ref::<ConnSide>()?.0.id;
        let gateway = self.0.number();
        match self.0.ask_now(Ask::OpenGateway { conn, gateway }, b"") {
            Some((Answer::Flag(true), _)) => {
                Some(Arc::new(PeerGateway { parent: self.0.clone(), gateway }))
            }
            _ => None,
        }
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let asked = self.0.ask(Ask::Shutdown, b"");
        Box::pin(async move { drop(asked.await) })
    }
}

/// An answer of a call.
pub(super) fn read_json(answered: Option<Answered>) -> Result<Json, CallError> {
    match answered {
        Some((Answer::Some, body)) => Ok(Json::from_checked(body)),
        Some((Answer::CallError, body)) => Err(read_call_error(&body)),
        _ => Err(CallError::internal("the host gave no answer")),
    }
}

/// The operations within reach, of a call or of the plugin itself.
pub(super) struct Env {
    parent: Arc<Parent>,
    context: Option<Arc<Hold>>,
}

impl Env {
    pub(super) fn new(parent: &Arc<Parent>, context: Option<Arc<Hold>>) -> Self {
        Self { parent: parent.clone(), context }
    }

    fn call(&self) -> Option<Id> {
        self.context.as_ref().map(|context| context.call)
    }

    fn ask(&self, ask: Ask, input: &Json) -> CallFuture {
        let len = input.as_bytes().len();
        if len > MAX_BODY {
            return Box::pin(std::future::ready(Err(too_long("the input", len))));
        }
        let asked = self.parent.ask(ask, input.as_bytes());
        let hold = self.context.clone();
        Box::pin(async move {
            let answer = read_json(asked.await);
            drop(hold);
            answer
        })
    }

    fn invoke(&self, name: &str, input: &Json, policy: Option<AbortPolicy>) -> CallFuture {
        let (call, name, policy) = (self.call(), name.to_owned(), policy.map(continues));
        self.ask(Ask::Invoke { call, name, policy }, input)
    }

    /// Begins at its first poll, as other streams do.
    fn subscribe(&self, name: &str, input: Json, policy: Option<AbortPolicy>) -> CallStream {
        let (call, name, policy) = (self.call(), name.to_owned(), policy.map(continues));
        let len = input.as_bytes().len();
        if len > MAX_BODY {
            return stream::iter([Err(too_long("the input", len))]).boxed();
        }
        let (items, hold) = (Items::new(&self.parent), self.context.clone());
        let begin = (Ask::Subscribe { call, name, policy, items: items.number }, input);
        stream::unfold((Some(begin), items, hold), |(begin, items, hold)| async move {
            let asked = match begin {
                Some((begin, input)) => items.parent.ask(begin, input.as_bytes()),
                None => items.parent.ask(Ask::NextItem { items: items.number }, b""),
            };
            let item = match asked.await? {
                (Answer::Some, body) => Ok(Json::from_checked(body)),
                (Answer::CallError, body) => Err(read_call_error(&body)),
                _ => return None,
            };
            Some((item, (None, items, hold)))
        })
        .boxed()
    }

    fn flag(&self, ask: Ask) -> bool {
        matches!(self.parent.ask_now(ask, b""), Some((Answer::Flag(true), _)))
    }
}

fn continues(policy: AbortPolicy) -> bool {
    policy == AbortPolicy::ContinueRunning
}

fn specific(peer: &PeerRef) -> Option<String> {
    match peer {
        PeerRef::Specific(id) => Some(id.clone()),
        PeerRef::Any => None,
    }
}

impl OperationEnv for Env {
    fn invoke(&self, name: &str, input: Json) -> CallFuture {
        self.invoke(name, &input, None)
    }

    fn invoke_with_policy(&self, name: &str, input: Json, policy: AbortPolicy) -> CallFuture {
        self.invoke(name, &input, Some(policy))
    }

    fn subscribe(&self, name: &str, input: Json) -> CallStream {
        self.subscribe(name, input, None)
    }

    fn subscribe_with_policy(&self, name: &str, input: Json, policy: AbortPolicy) -> CallStream {
        self.subscribe(name, input, Some(policy))
    }

    fn invoke_peer(&self, peer: PeerRef, name: &str, input: Json) -> CallFuture {
        let (call, peer, name) = (self.call(), specific(&peer), name.to_owned());
        self.ask(Ask::InvokePeer { call, peer, name }, &input)
    }

    fn contains(&self, name: &str) -> bool {
        self.flag(Ask::Contains { call: self.call(), name: name.to_owned() })
    }

    fn peer_contains(&self, peer: &PeerRef, name: &str) -> bool {
        let (call, peer, name) = (self.call(), specific(peer), name.to_owned());
        self.flag(Ask::PeerContains { call, peer, name })
    }
}

/// What the host yields one by one. Dropping it ends it there, too.
struct Items {
    parent: Arc<Parent>,
    number: Id,
}

impl Items {
    fn new(parent: &Arc<Parent>) -> Self {
        Self { parent: parent.clone(), number: parent.number() }
    }
}

impl Drop for Items {
    fn drop(&mut self) {
        self.parent.say(&ToHost::DropItems { items: self.number }, b"");
    }
}

/// A capability that the host has, for a call or for the plugin itself.
pub(super) fn lent(
    parent: &Arc<Parent>,
    context: Option<Arc<Hold>>,
    name: &str,
) -> Option<Capability> {
    let call = context.as_ref().map(|context| context.call);
    let ask = Ask::Capability { call, name: name.to_owned() };
    let Some((Answer::Some, kind)) = parent.ask_now(ask, b"") else { return None };
    let kind = serde_json::from_slice(&kind).ok()?;
    let (parent, name) = (parent.clone(), name.to_owned());
    Some(Capability::new(Arc::new(LentSide { parent, context, name, kind })))
}

/// The plugin's handle of a capability.
struct LentSide {
    parent: Arc<Parent>,
    context: Option<Arc<Hold>>,
    name: String,
    kind: CapabilityKind,
}

impl LentSide {
    fn call(&self) -> Option<Id> {
        self.context.as_ref().map(|context| context.call)
    }

    fn ask_now(&self, ask: Ask, body: &[u8]) -> Option<Bytes> {
        match self.parent.ask_now(ask, body)? {
            (Answer::Some, body) => Some(body),
            _ => None,
        }
    }
}

impl CapabilityBackend for LentSide {
    fn kind(&self) -> CapabilityKind {
        self.kind
    }

    fn reveal(&self) -> Option<Bytes> {
        self.ask_now(Ask::Reveal { call: self.call(), name: self.name.clone() }, b"")
    }

    fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        let ask = Ask::Sign { call: self.call(), name: self.name.clone() };
        self.ask_now(ask, message)?.as_ref().try_into().ok()
    }

    fn send(&self, request: HttpRequest) -> HttpFuture {
        let head = serde_json::to_string(&request).unwrap_or_default();
        let ask = Ask::Send { call: self.call(), name: self.name.clone(), head };
        let asked = self.parent.ask(ask, &request.body);
        Box::pin(async move {
            match asked.await {
                Some((Answer::Http { head }, body)) => {
                    let head: HttpResponse = serde_json::from_str(&head)
                        .map_err(|error| CallError::internal(error.to_string()))?;
                    let mut answer = head;
                    answer.body = body;
                    Ok(answer)
                }
                Some((Answer::CallError, body)) => Err(read_call_error(&body)),
                _ => Err(CallError::internal("the host gave no answer")),
            }
        })
    }
}

/// Calls as a connection's peer, by way of the host.
struct PeerGateway {
    parent: Arc<Parent>,
    gateway: Id,
}

impl Gateway for PeerGateway {
    fn dispatch(&self, request: GatewayRequest) -> GatewayCall {
        let len = request.input.as_bytes().len();
        if len > MAX_BODY {
            let error = GatewayEvent::Error(too_long("the input", len));
            return GatewayCall::new(stream::iter([error]));
        }
        let head = GatewayHead {
            request_id: request.request_id,
            operation: request.operation,
            auth_token: request.auth_token,
            forwarded_for: request.forwarded_for,
            timeout: request.timeout,
            remote_addr: request.remote_addr,
        };
        let head = serde_json::to_string(&head).unwrap_or_default();
        let items = Items::new(&self.parent);
        let ask = Ask::Dispatch { gateway: self.gateway, request: head, items: items.number };
        // At once, since it may be aborted by its id from now on.
        let first = self.parent.ask(ask, request.input.as_bytes());
        GatewayCall::new(stream::unfold((Some(first), items), |(first, items)| async move {
            let next = || items.parent.ask(Ask::NextEvent { items: items.number }, b"");
            let event = match first.unwrap_or_else(next).await? {
                (Answer::Some, body) => GatewayEvent::Responded(Json::from_checked(body)),
                (Answer::Completed, _) => GatewayEvent::Completed,
                (Answer::CallError, body) => GatewayEvent::Error(read_call_error(&body)),
                _ => return None,
            };
            Some((event, (None, items)))
        }))
    }

    fn abort(&self, request_id: &str, policy: AbortPolicy) {
        let (gateway, request) = (self.gateway, request_id.to_owned());
        let continue_running = continues(policy);
        self.parent.say(&ToHost::Abort { gateway, request, continue_running }, b"");
    }
}

impl Drop for PeerGateway {
    fn drop(&mut self) {
        self.parent.say(&ToHost::DropGateway { gateway: self.gateway }, b"");
    }
}
