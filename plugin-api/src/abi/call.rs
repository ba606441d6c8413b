//! Calls across the boundary: the context of a call that a plugin serves, and
//! how answers cross.

use std::sync::Arc;
use std::time::Duration;

use abi_stable::StableAbi;
use abi_stable::prefix_type::WithMetadata;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use super::capability::{CapabilityRef, export_capability, import_capability};
use super::env::{EnvRef, export_env, import_env, no_env};
use super::fault::Fault;
use super::future::{ImportedStream, RawTask, Unit, run};
use super::value::{Blob, Handle, Slice, Table, answer, ask, demand, drop_raw, object};
use crate::backend::ContextBackend;
use crate::context::{ContextInfo, OperationEnv};
use crate::error::CallError;
use crate::host::Capability;
use crate::json::Json;
use crate::operation::{CallFuture, CallStream};
use crate::ownership::OwnershipRequest;

type Out<T> = *mut T;

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

pub(crate) fn import_call(task: Result<RawTask<Blob>, Fault>) -> CallFuture {
    Box::pin(async move { input(run(task).await) })
}

pub(crate) fn import_items(task: Result<RawTask<Blob>, Fault>) -> CallStream {
    match task {
        Ok(task) => Box::pin(ImportedStream(task).map(input)),
        Err(fault) => Box::pin(futures_util::stream::iter([Err(fault.into())])),
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
    /// The request and the answer are JSON; absent in hosts that keep no owners.
    pub ownership: unsafe extern "C" fn(
        data: *mut (),
        request: Slice,
        out: *mut RawTask<Blob>,
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
    ownership,
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

unsafe extern "C" fn ownership(
    data: *mut (),
    request: Slice,
    out: Out<RawTask<Blob>>,
    fault: Out<Fault>,
) -> u32 {
    // SAFETY: as for the functions of `EnvTable`.
    unsafe {
        answer(out, fault, || {
            let answer = object::<ExportedContext>(data).ownership(request.json()?);
            Ok(Some(export_call(answer)))
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

    fn ownership(&self, request: OwnershipRequest) -> CallFuture {
        let Some(ask) = self.0.table.ownership() else {
            let text = "this host is older than the keeping of owners; update it";
            return Box::pin(std::future::ready(Err(CallError::internal(text))));
        };
        let request = serde_json::to_vec(&request).unwrap_or_default();
        // SAFETY: see above.
        import_call(demand(|out, fault| unsafe {
            ask(self.0.data, Slice::new(&request), out, fault)
        }))
    }
}
