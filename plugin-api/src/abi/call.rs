//! Calls across the boundary: the context of a call that a plugin serves, and
//! the environment and gateway through which it makes others.

use std::sync::Arc;
use std::time::Duration;

use abi_stable::StableAbi;
use abi_stable::prefix_type::WithMetadata;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use super::future::{ImportedStream, RawTask, Unit, run};
use super::guard_drop;
use super::host::{CapabilityRef, export_capability, import_capability};
use super::value::{Blob, Fault, Handle, Slice, Table, answer, ask, demand, drop_raw};
use crate::backend::ContextBackend;
use crate::context::{AbortPolicy, ContextInfo, OperationEnv, PeerRef};
use crate::error::CallError;
use crate::host::{Capability, Gateway, GatewayCall, GatewayEvent, GatewayRequest};
use crate::json::Json;
use crate::operation::{CallFuture, CallStream};

type Out<T> = *mut T;

/// A policy left to the callee's default.
const POLICY_DEFAULT: u32 = 0;
const POLICY_ABORT: u32 = 1;
const POLICY_CONTINUE: u32 = 2;

fn policy_number(policy: AbortPolicy) -> u32 {
    match policy {
        AbortPolicy::AbortDependents => POLICY_ABORT,
        AbortPolicy::ContinueRunning => POLICY_CONTINUE,
    }
}

fn policy_of(number: u32) -> Option<AbortPolicy> {
    match number {
        POLICY_ABORT => Some(AbortPolicy::AbortDependents),
        POLICY_CONTINUE => Some(AbortPolicy::ContinueRunning),
        _ => None,
    }
}

/// The answer of a call, on its way out.
pub(crate) fn output(result: Result<Json, CallError>) -> Result<Blob, Fault> {
    result.map(|json| Blob::new(json.into_bytes())).map_err(Fault::from)
}

/// The answer of a call, on its way in.
pub(crate) fn input(result: Result<Blob, Fault>) -> Result<Json, CallError> {
    result.map(|blob| Json::from_checked(blob.into_bytes())).map_err(CallError::from)
}

pub(crate) fn export_call(call: CallFuture) -> RawTask<Blob> {
    RawTask::future(async move { output(call.await) })
}

pub(crate) fn export_items(items: CallStream) -> RawTask<Blob> {
    RawTask::stream(items.map(output))
}

fn import_call(task: Result<RawTask<Blob>, Fault>) -> CallFuture {
    Box::pin(async move { input(run(task).await) })
}

pub(crate) fn import_items(task: Result<RawTask<Blob>, Fault>) -> CallStream {
    match task {
        Ok(task) => Box::pin(ImportedStream(task).map(input)),
        Err(fault) => Box::pin(futures_util::stream::iter([Err(fault.into())])),
    }
}

/// As [`OperationEnv`]. A policy is 0 for the default, 1 to abort dependents,
/// 2 to let them continue; a peer crosses as JSON.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = EnvRef, prefix_fields = EnvPrefix)))]
#[sabi(missing_field(option))]
#[allow(missing_docs)]
pub struct EnvTable {
    pub drop: unsafe extern "C" fn(data: *mut ()),
    pub invoke: unsafe extern "C" fn(
        data: *mut (),
        name: Slice,
        input: Blob,
        policy: u32,
        out: *mut RawTask<Blob>,
        fault: *mut Fault,
    ) -> u32,
    pub subscribe: unsafe extern "C" fn(
        data: *mut (),
        name: Slice,
        input: Blob,
        policy: u32,
        out: *mut RawTask<Blob>,
        fault: *mut Fault,
    ) -> u32,
    pub invoke_peer: unsafe extern "C" fn(
        data: *mut (),
        peer: Slice,
        name: Slice,
        input: Blob,
        out: *mut RawTask<Blob>,
        fault: *mut Fault,
    ) -> u32,
    pub contains:
        unsafe extern "C" fn(data: *mut (), name: Slice, out: *mut Unit, fault: *mut Fault) -> u32,
    #[sabi(last_prefix_field)]
    pub peer_contains: unsafe extern "C" fn(
        data: *mut (),
        peer: Slice,
        name: Slice,
        out: *mut Unit,
        fault: *mut Fault,
    ) -> u32,
}

impl Table for EnvRef {
    fn drop_fn(self) -> unsafe extern "C" fn(*mut ()) {
        self.drop()
    }
}

type ExportedEnv = Arc<dyn OperationEnv>;

static ENV: WithMetadata<EnvTable> = WithMetadata::new(EnvTable {
    drop: drop_raw::<ExportedEnv>,
    invoke,
    subscribe,
    invoke_peer,
    contains,
    peer_contains,
});

pub(crate) fn export_env(env: Arc<dyn OperationEnv>) -> Handle<EnvRef> {
    Handle::new::<ExportedEnv>(env, EnvRef(ENV.static_as_prefix()))
}

/// # Safety
/// `data` belongs to a living handle of an exported `T`.
unsafe fn object<'a, T>(data: *mut ()) -> &'a T {
    // SAFETY: the caller vouches for it.
    unsafe { &*data.cast() }
}

// SAFETY for the functions below: they are called through their table with the
// data of the handle that the table came in, and with pointers that are valid
// through the call; the objects are Sync, so calls may be concurrent.

unsafe extern "C" fn invoke(
    data: *mut (),
    name: Slice,
    input: Blob,
    policy: u32,
    out: Out<RawTask<Blob>>,
    fault: Out<Fault>,
) -> u32 {
    let body = || {
        // SAFETY: see above.
        let (env, name) = unsafe { (object::<ExportedEnv>(data), name.text()?) };
        let input = Json::from_checked(input.into_bytes());
        Ok(Some(export_call(match policy_of(policy) {
            Some(policy) => env.invoke_with_policy(name, input, policy),
            None => env.invoke(name, input),
        })))
    };
    // SAFETY: see above.
    unsafe { answer(out, fault, body) }
}

unsafe extern "C" fn subscribe(
    data: *mut (),
    name: Slice,
    input: Blob,
    policy: u32,
    out: Out<RawTask<Blob>>,
    fault: Out<Fault>,
) -> u32 {
    let body = || {
        // SAFETY: see above.
        let (env, name) = unsafe { (object::<ExportedEnv>(data), name.text()?) };
        let input = Json::from_checked(input.into_bytes());
        Ok(Some(export_items(match policy_of(policy) {
            Some(policy) => env.subscribe_with_policy(name, input, policy),
            None => env.subscribe(name, input),
        })))
    };
    // SAFETY: see above.
    unsafe { answer(out, fault, body) }
}

unsafe extern "C" fn invoke_peer(
    data: *mut (),
    peer: Slice,
    name: Slice,
    input: Blob,
    out: Out<RawTask<Blob>>,
    fault: Out<Fault>,
) -> u32 {
    let body = || {
        // SAFETY: see above.
        let (env, name) = unsafe { (object::<ExportedEnv>(data), name.text()?) };
        // SAFETY: see above.
        let peer: PeerRef = unsafe { peer.json()? };
        let input = Json::from_checked(input.into_bytes());
        Ok(Some(export_call(env.invoke_peer(peer, name, input))))
    };
    // SAFETY: see above.
    unsafe { answer(out, fault, body) }
}

unsafe extern "C" fn contains(
    data: *mut (),
    name: Slice,
    out: Out<Unit>,
    fault: Out<Fault>,
) -> u32 {
    // SAFETY: see above.
    unsafe {
        answer(out, fault, || {
            Ok(object::<ExportedEnv>(data).contains(name.text()?).then_some(Unit::UNIT))
        })
    }
}

unsafe extern "C" fn peer_contains(
    data: *mut (),
    peer: Slice,
    name: Slice,
    out: Out<Unit>,
    fault: Out<Fault>,
) -> u32 {
    // SAFETY: see above.
    unsafe {
        answer(out, fault, || {
            let found = object::<ExportedEnv>(data).peer_contains(&peer.json()?, name.text()?);
            Ok(found.then_some(Unit::UNIT))
        })
    }
}

struct ImportedEnv(Handle<EnvRef>);

pub(crate) fn import_env(handle: Handle<EnvRef>) -> Arc<dyn OperationEnv> {
    Arc::new(ImportedEnv(handle))
}

/// Where the other side could not give an environment: nothing is in reach.
struct NoEnv;

/// An environment with nothing in reach.
pub(crate) fn no_env() -> Arc<dyn OperationEnv> {
    Arc::new(NoEnv)
}

fn out_of_reach(name: &str) -> CallError {
    CallError::not_found(format!("operation `{name}` not found"))
}

impl OperationEnv for NoEnv {
    fn invoke(&self, name: &str, _: Json) -> CallFuture {
        Box::pin(std::future::ready(Err(out_of_reach(name))))
    }
    fn invoke_with_policy(&self, name: &str, input: Json, _: AbortPolicy) -> CallFuture {
        self.invoke(name, input)
    }
    fn subscribe(&self, name: &str, _: Json) -> CallStream {
        Box::pin(futures_util::stream::iter([Err(out_of_reach(name))]))
    }
    fn subscribe_with_policy(&self, name: &str, input: Json, _: AbortPolicy) -> CallStream {
        self.subscribe(name, input)
    }
    fn invoke_peer(&self, _: PeerRef, name: &str, input: Json) -> CallFuture {
        self.invoke(name, input)
    }
    fn contains(&self, _: &str) -> bool {
        false
    }
    fn peer_contains(&self, _: &PeerRef, _: &str) -> bool {
        false
    }
}

impl ImportedEnv {
    fn start(&self, name: &str, input: Json, policy: u32) -> Result<RawTask<Blob>, Fault> {
        let input = input.into_bytes();
        // SAFETY: the handle is alive and everything lent lives through the call.
        demand(|out, fault| unsafe {
            let (name, input) = (Slice::new(name.as_bytes()), Blob::argument(&input));
            self.0.table.invoke()(self.0.data, name, input, policy, out, fault)
        })
    }

    fn start_items(&self, name: &str, input: Json, policy: u32) -> Result<RawTask<Blob>, Fault> {
        let input = input.into_bytes();
        // SAFETY: the handle is alive and everything lent lives through the call.
        demand(|out, fault| unsafe {
            let (name, input) = (Slice::new(name.as_bytes()), Blob::argument(&input));
            self.0.table.subscribe()(self.0.data, name, input, policy, out, fault)
        })
    }
}

fn peer_text(peer: &PeerRef) -> Vec<u8> {
    serde_json::to_vec(peer).unwrap_or_default()
}

impl OperationEnv for ImportedEnv {
    fn invoke(&self, name: &str, input: Json) -> CallFuture {
        import_call(self.start(name, input, POLICY_DEFAULT))
    }

    fn invoke_with_policy(&self, name: &str, input: Json, policy: AbortPolicy) -> CallFuture {
        import_call(self.start(name, input, policy_number(policy)))
    }

    fn subscribe(&self, name: &str, input: Json) -> CallStream {
        import_items(self.start_items(name, input, POLICY_DEFAULT))
    }

    fn subscribe_with_policy(&self, name: &str, input: Json, policy: AbortPolicy) -> CallStream {
        import_items(self.start_items(name, input, policy_number(policy)))
    }

    fn invoke_peer(&self, peer: PeerRef, name: &str, input: Json) -> CallFuture {
        let (peer, input) = (peer_text(&peer), input.into_bytes());
        // SAFETY: the handle is alive and everything lent lives through the call.
        import_call(demand(|out, fault| unsafe {
            let (peer, name) = (Slice::new(&peer), Slice::new(name.as_bytes()));
            let input = Blob::argument(&input);
            self.0.table.invoke_peer()(self.0.data, peer, name, input, out, fault)
        }))
    }

    fn contains(&self, name: &str) -> bool {
        // SAFETY: the handle is alive and everything lent lives through the call.
        let found = ask(|out, fault| unsafe {
            self.0.table.contains()(self.0.data, Slice::new(name.as_bytes()), out, fault)
        });
        matches!(found, Ok(Some(_)))
    }

    fn peer_contains(&self, peer: &PeerRef, name: &str) -> bool {
        let peer = peer_text(peer);
        // SAFETY: the handle is alive and everything lent lives through the call.
        let found = ask(|out, fault| unsafe {
            let (peer, name) = (Slice::new(&peer), Slice::new(name.as_bytes()));
            self.0.table.peer_contains()(self.0.data, peer, name, out, fault)
        });
        matches!(found, Ok(Some(_)))
    }
}

/// As [`ContextBackend`]; the information crosses as JSON, times in nanoseconds.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ContextRef, prefix_fields = ContextPrefix)))]
#[sabi(missing_field(option))]
#[allow(missing_docs)]
pub struct ContextTable {
    pub drop: unsafe extern "C" fn(data: *mut ()),
    pub info: unsafe extern "C" fn(data: *mut (), out: *mut Blob, fault: *mut Fault) -> u32,
    pub remaining: unsafe extern "C" fn(data: *mut (), out: *mut u64, fault: *mut Fault) -> u32,
    pub is_cancelled: unsafe extern "C" fn(data: *mut ()) -> u32,
    pub cancelled:
        unsafe extern "C" fn(data: *mut (), out: *mut RawTask<Unit>, fault: *mut Fault) -> u32,
    pub env:
        unsafe extern "C" fn(data: *mut (), out: *mut Handle<EnvRef>, fault: *mut Fault) -> u32,
    #[sabi(last_prefix_field)]
    pub capability: unsafe extern "C" fn(
        data: *mut (),
        name: Slice,
        out: *mut Handle<CapabilityRef>,
        fault: *mut Fault,
    ) -> u32,
}

impl Table for ContextRef {
    fn drop_fn(self) -> unsafe extern "C" fn(*mut ()) {
        self.drop()
    }
}

type ExportedContext = Arc<dyn ContextBackend>;

static CONTEXT: WithMetadata<ContextTable> = WithMetadata::new(ContextTable {
    drop: drop_raw::<ExportedContext>,
    info,
    remaining,
    is_cancelled,
    cancelled,
    env,
    capability,
});

pub(crate) fn export_context(context: Arc<dyn ContextBackend>) -> Handle<ContextRef> {
    Handle::new::<ExportedContext>(context, ContextRef(CONTEXT.static_as_prefix()))
}

unsafe extern "C" fn info(data: *mut (), out: Out<Blob>, fault: Out<Fault>) -> u32 {
    // SAFETY: as for the functions of `EnvTable`.
    unsafe { answer(out, fault, || Blob::json(&*object::<ExportedContext>(data).info()).map(Some)) }
}

unsafe extern "C" fn remaining(data: *mut (), out: Out<u64>, fault: Out<Fault>) -> u32 {
    // SAFETY: as for the functions of `EnvTable`.
    unsafe {
        answer(out, fault, || Ok(object::<ExportedContext>(data).remaining().map(super::nanos)))
    }
}

unsafe extern "C" fn is_cancelled(data: *mut ()) -> u32 {
    // SAFETY: as for the functions of `EnvTable`.
    super::guard(|| unsafe { object::<ExportedContext>(data) }.is_cancelled()).map_or(0, u32::from)
}

unsafe extern "C" fn cancelled(data: *mut (), out: Out<RawTask<Unit>>, fault: Out<Fault>) -> u32 {
    // SAFETY: as for the functions of `EnvTable`.
    unsafe {
        answer(out, fault, || {
            let cancelled = object::<ExportedContext>(data).cancelled();
            Ok(Some(RawTask::future(async move {
                cancelled.await;
                Ok(Unit::UNIT)
            })))
        })
    }
}

unsafe extern "C" fn env(data: *mut (), out: Out<Handle<EnvRef>>, fault: Out<Fault>) -> u32 {
    // SAFETY: as for the functions of `EnvTable`.
    unsafe { answer(out, fault, || Ok(Some(export_env(object::<ExportedContext>(data).env())))) }
}

unsafe extern "C" fn capability(
    data: *mut (),
    name: Slice,
    out: Out<Handle<CapabilityRef>>,
    fault: Out<Fault>,
) -> u32 {
    // SAFETY: as for the functions of `EnvTable`.
    unsafe {
        answer(out, fault, || {
            let capability = object::<ExportedContext>(data).capability(name.text()?);
            Ok(capability.map(export_capability))
        })
    }
}

struct ImportedContext(Handle<ContextRef>);

pub(crate) fn import_context(handle: Handle<ContextRef>) -> Arc<dyn ContextBackend> {
    Arc::new(ImportedContext(handle))
}

// SAFETY for the blocks below: the handle is alive, `ask` and `demand` pass
// places to write to, and lent slices live through the call.
impl ContextBackend for ImportedContext {
    fn info(&self) -> Arc<ContextInfo> {
        // SAFETY: see above.
        let text = demand(|out, fault| unsafe { self.0.table.info()(self.0.data, out, fault) });
        Arc::new(text.and_then(|text| text.read_json()).unwrap_or_default())
    }

    fn remaining(&self) -> Option<Duration> {
        // SAFETY: see above.
        let left = ask(|out, fault| unsafe { self.0.table.remaining()(self.0.data, out, fault) });
        left.ok().flatten().map(Duration::from_nanos)
    }

    fn is_cancelled(&self) -> bool {
        // SAFETY: see above.
        unsafe { self.0.table.is_cancelled()(self.0.data) != 0 }
    }

    fn cancelled(&self) -> BoxFuture<'static, ()> {
        // SAFETY: see above.
        let task =
            demand(|out, fault| unsafe { self.0.table.cancelled()(self.0.data, out, fault) });
        Box::pin(async move { drop(run(task).await) })
    }

    fn env(&self) -> Arc<dyn OperationEnv> {
        // SAFETY: see above.
        let env = demand(|out, fault| unsafe { self.0.table.env()(self.0.data, out, fault) });
        env.map_or_else(|_| no_env(), import_env)
    }

    fn capability(&self, name: &str) -> Option<Capability> {
        // SAFETY: see above.
        let capability = ask(|out, fault| unsafe {
            self.0.table.capability()(self.0.data, Slice::new(name.as_bytes()), out, fault)
        });
        capability.ok().flatten().map(import_capability)
    }
}

/// As [`GatewayRequest`]. `auth_token` and `remote_addr` are null where there is
/// none; `forwarded_for` is JSON, or null for an empty list; `timeout` is in
/// nanoseconds, `u64::MAX` for none.
#[repr(C)]
#[derive(StableAbi)]
pub struct Request {
    request_id: Slice,
    operation: Slice,
    input: Blob,
    auth_token: Slice,
    forwarded_for: Slice,
    timeout: u64,
    remote_addr: Slice,
}

/// As [`GatewayEvent`]: 0 responded, 1 completed, 2 an error as JSON.
#[repr(C)]
#[derive(StableAbi)]
pub struct Event {
    kind: u32,
    payload: Blob,
}

/// As [`Gateway`].
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = GatewayRef, prefix_fields = GatewayPrefix)))]
#[sabi(missing_field(option))]
#[allow(missing_docs)]
pub struct GatewayTable {
    pub drop: unsafe extern "C" fn(data: *mut ()),
    pub dispatch: unsafe extern "C" fn(
        data: *mut (),
        request: Request,
        out: *mut RawTask<Event>,
        fault: *mut Fault,
    ) -> u32,
    #[sabi(last_prefix_field)]
    pub abort: unsafe extern "C" fn(data: *mut (), request_id: Slice, policy: u32),
}

impl Table for GatewayRef {
    fn drop_fn(self) -> unsafe extern "C" fn(*mut ()) {
        self.drop()
    }
}

type ExportedGateway = Arc<dyn Gateway>;

static GATEWAY: WithMetadata<GatewayTable> =
    WithMetadata::new(GatewayTable { drop: drop_raw::<ExportedGateway>, dispatch, abort });

pub(crate) fn export_gateway(gateway: Arc<dyn Gateway>) -> Handle<GatewayRef> {
    Handle::new::<ExportedGateway>(gateway, GatewayRef(GATEWAY.static_as_prefix()))
}

unsafe extern "C" fn dispatch(
    data: *mut (),
    request: Request,
    out: Out<RawTask<Event>>,
    fault: Out<Fault>,
) -> u32 {
    let body = || {
        // SAFETY: what the request lends lives through the call.
        let request = unsafe {
            GatewayRequest {
                request_id: request.request_id.text()?.to_owned(),
                operation: request.operation.text()?.to_owned(),
                input: Json::from_checked(request.input.into_bytes()),
                auth_token: request.auth_token.optional_text()?.map(str::to_owned),
                forwarded_for: match request.forwarded_for.optional_text()? {
                    Some(_) => request.forwarded_for.json()?,
                    None => Vec::new(),
                },
                timeout: (request.timeout != u64::MAX)
                    .then(|| Duration::from_nanos(request.timeout)),
                remote_addr: match request.remote_addr.optional_text()? {
                    Some(text) => Some(
                        text.parse().map_err(|_| Fault::internal("malformed socket address"))?,
                    ),
                    None => None,
                },
            }
        };
        // SAFETY: as for the functions of `EnvTable`.
        let mut call = unsafe { object::<ExportedGateway>(data) }.dispatch(request);
        let events = futures_util::stream::poll_fn(move |cx| call.poll_next(cx));
        Ok(Some(RawTask::stream(events.map(|event| {
            Ok(match event {
                GatewayEvent::Responded(output) => {
                    Event { kind: 0, payload: Blob::new(output.into_bytes()) }
                }
                GatewayEvent::Completed => Event { kind: 1, payload: Blob::EMPTY },
                GatewayEvent::Error(error) => Event { kind: 2, payload: Blob::json(&error)? },
            })
        }))))
    };
    // SAFETY: as for the functions of `EnvTable`.
    unsafe { answer(out, fault, body) }
}

unsafe extern "C" fn abort(data: *mut (), request_id: Slice, policy: u32) {
    // SAFETY: as for the functions of `EnvTable`.
    guard_drop(|| unsafe {
        if let Ok(id) = request_id.text() {
            object::<ExportedGateway>(data).abort(id, policy_of(policy).unwrap_or_default());
        }
    });
}

struct ImportedGateway(Handle<GatewayRef>);

pub(crate) fn import_gateway(handle: Handle<GatewayRef>) -> Arc<dyn Gateway> {
    Arc::new(ImportedGateway(handle))
}

fn import_event(event: Result<Event, Fault>) -> GatewayEvent {
    match event {
        Ok(Event { kind: 0, payload }) => {
            GatewayEvent::Responded(Json::from_checked(payload.into_bytes()))
        }
        Ok(Event { kind: 1, .. }) => GatewayEvent::Completed,
        Ok(Event { payload, .. }) => {
            GatewayEvent::Error(payload.read_json().unwrap_or_else(CallError::from))
        }
        Err(fault) => GatewayEvent::Error(fault.into()),
    }
}

impl Gateway for ImportedGateway {
    fn dispatch(&self, request: GatewayRequest) -> GatewayCall {
        let forwarded = (!request.forwarded_for.is_empty())
            .then(|| serde_json::to_string(&request.forwarded_for).unwrap_or_default());
        let remote_addr = request.remote_addr.map(|addr| addr.to_string());
        let input = request.input.into_bytes();
        let lent = Request {
            request_id: Slice::new(request.request_id.as_bytes()),
            operation: Slice::new(request.operation.as_bytes()),
            input: Blob::argument(&input),
            auth_token: Slice::optional(request.auth_token.as_deref()),
            forwarded_for: Slice::optional(forwarded.as_deref()),
            timeout: request.timeout.map_or(u64::MAX, super::nanos),
            remote_addr: Slice::optional(remote_addr.as_deref()),
        };
        // SAFETY: the handle is alive and everything lent lives through the call.
        let task =
            demand(|out, fault| unsafe { self.0.table.dispatch()(self.0.data, lent, out, fault) });
        match task {
            Ok(task) => GatewayCall::new(ImportedStream(task).map(import_event)),
            Err(fault) => {
                GatewayCall::new(futures_util::stream::iter([GatewayEvent::Error(fault.into())]))
            }
        }
    }

    fn abort(&self, request_id: &str, policy: AbortPolicy) {
        let id = Slice::new(request_id.as_bytes());
        // SAFETY: the handle is alive and the id lives through the call.
        unsafe { self.0.table.abort()(self.0.data, id, policy_number(policy)) }
    }
}
