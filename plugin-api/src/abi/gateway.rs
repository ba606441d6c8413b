//! The gateway across the boundary: calls on behalf of a connection's peer.

use std::sync::Arc;
use std::time::Duration;

use abi_stable::StableAbi;
use abi_stable::prefix_type::WithMetadata;
use futures_util::StreamExt;

use super::env::{policy_number, policy_of};
use super::fault::Fault;
use super::future::{ImportedStream, RawTask};
use super::guard_drop;
use super::value::{Blob, Handle, Slice, Table, answer, demand, drop_raw, object};
use crate::context::AbortPolicy;
use crate::error::CallError;
use crate::host::{Gateway, GatewayCall, GatewayEvent, GatewayRequest};
use crate::json::Json;

type Out<T> = *mut T;

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
