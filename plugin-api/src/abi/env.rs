//! The environment across the boundary: the operations that a plugin may call.

use std::sync::Arc;

use abi_stable::StableAbi;
use abi_stable::prefix_type::WithMetadata;

use super::call::{export_call, export_items, import_call, import_items};
use super::fault::Fault;
use super::future::{RawTask, Unit};
use super::value::{Blob, Handle, Slice, Table, answer, ask, demand, drop_raw, object};
use crate::context::{AbortPolicy, OperationEnv, PeerRef};
use crate::error::CallError;
use crate::json::Json;
use crate::operation::{CallFuture, CallStream};

type Out<T> = *mut T;

/// A policy left to the callee's default.
const POLICY_DEFAULT: u32 = 0;
const POLICY_ABORT: u32 = 1;
const POLICY_CONTINUE: u32 = 2;

pub(crate) fn policy_number(policy: AbortPolicy) -> u32 {
    match policy {
        AbortPolicy::AbortDependents => POLICY_ABORT,
        AbortPolicy::ContinueRunning => POLICY_CONTINUE,
    }
}

pub(crate) fn policy_of(number: u32) -> Option<AbortPolicy> {
    match number {
        POLICY_ABORT => Some(AbortPolicy::AbortDependents),
        POLICY_CONTINUE => Some(AbortPolicy::ContinueRunning),
        _ => None,
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
