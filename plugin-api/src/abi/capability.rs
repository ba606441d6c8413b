//! Capabilities across the boundary, and the requests made with them.

use std::sync::Arc;

use abi_stable::StableAbi;
use abi_stable::prefix_type::WithMetadata;
use bytes::Bytes;

use super::fault::Fault;
use super::future::{RawTask, run};
use super::value::{Blob, Handle, Slice, Table, answer, ask, demand, drop_raw, object};
use crate::error::CallError;
use crate::host::{Capability, CapabilityBackend, CapabilityKind};
use crate::http::{self, HttpFuture, HttpRequest, HttpResponse, frame};

type Out<T> = *mut T;

/// As [`CapabilityBackend`]; the kind crosses by its name in JSON.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = CapabilityRef, prefix_fields = CapabilityPrefix)))]
#[sabi(missing_field(option))]
#[allow(missing_docs)]
pub struct CapabilityTable {
    pub drop: unsafe extern "C" fn(data: *mut ()),
    pub kind: unsafe extern "C" fn(data: *mut (), out: *mut Blob, fault: *mut Fault) -> u32,
    pub reveal: unsafe extern "C" fn(data: *mut (), out: *mut Blob, fault: *mut Fault) -> u32,
    #[sabi(last_prefix_field)]
    pub sign: unsafe extern "C" fn(
        data: *mut (),
        message: Slice,
        out: *mut [u8; 64],
        fault: *mut Fault,
    ) -> u32,
    /// The request and the answer are frames of [`crate::http`]; absent in
    /// hosts that make no requests.
    pub send: unsafe extern "C" fn(
        data: *mut (),
        request: Blob,
        out: *mut RawTask<Blob>,
        fault: *mut Fault,
    ) -> u32,
}

impl Table for CapabilityRef {
    fn drop_fn(self) -> unsafe extern "C" fn(*mut ()) {
        self.drop()
    }
}

static CAPABILITY: WithMetadata<CapabilityTable> = WithMetadata::new(CapabilityTable {
    drop: drop_raw::<Capability>,
    kind: capability_kind,
    reveal: capability_reveal,
    sign: capability_sign,
    send: capability_send,
});

pub(crate) fn export_capability(capability: Capability) -> Handle<CapabilityRef> {
    Handle::new(capability, CapabilityRef(CAPABILITY.static_as_prefix()))
}

unsafe extern "C" fn capability_kind(data: *mut (), out: Out<Blob>, fault: Out<Fault>) -> u32 {
    // SAFETY: called through the table with the handle's data.
    unsafe { answer(out, fault, || Blob::json(&object::<Capability>(data).kind()).map(Some)) }
}

unsafe extern "C" fn capability_reveal(data: *mut (), out: Out<Blob>, fault: Out<Fault>) -> u32 {
    // SAFETY: as above.
    unsafe { answer(out, fault, || Ok(object::<Capability>(data).reveal().map(Blob::new))) }
}

unsafe extern "C" fn capability_sign(
    data: *mut (),
    message: Slice,
    out: Out<[u8; 64]>,
    fault: Out<Fault>,
) -> u32 {
    // SAFETY: as above.
    unsafe { answer(out, fault, || Ok(object::<Capability>(data).sign(message.bytes()))) }
}

unsafe extern "C" fn capability_send(
    data: *mut (),
    request: Blob,
    out: Out<RawTask<Blob>>,
    fault: Out<Fault>,
) -> u32 {
    let body = || {
        let (head, body) = frame::read::<HttpRequest>(&request.into_bytes())?;
        // SAFETY: as above.
        let answer = unsafe { object::<Capability>(data) }.send(HttpRequest { body, ..head });
        Ok(Some(RawTask::future(async move {
            let answer = answer.await?;
            Ok(Blob::new(frame::write(&answer, &answer.body)?))
        })))
    };
    // SAFETY: as above.
    unsafe { answer(out, fault, body) }
}

struct ImportedCapability {
    handle: Handle<CapabilityRef>,
    kind: CapabilityKind,
}

pub(crate) fn import_capability(handle: Handle<CapabilityRef>) -> Capability {
    // SAFETY: the handle is alive.
    let kind = demand(|out, fault| unsafe { handle.table.kind()(handle.data, out, fault) });
    // A kind that a newer host knows and this plugin does not is so many bytes.
    let kind = kind.and_then(|kind| kind.read_json()).unwrap_or(CapabilityKind::Bytes);
    Capability::new(Arc::new(ImportedCapability { handle, kind }))
}

impl CapabilityBackend for ImportedCapability {
    fn kind(&self) -> CapabilityKind {
        self.kind
    }

    fn reveal(&self) -> Option<Bytes> {
        // SAFETY: the handle is alive.
        let secret =
            ask(|out, fault| unsafe { self.handle.table.reveal()(self.handle.data, out, fault) });
        secret.ok().flatten().map(Blob::into_secret)
    }

    fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        // SAFETY: the handle is alive and the message lives through the call.
        let signature = ask(|out, fault| unsafe {
            self.handle.table.sign()(self.handle.data, Slice::new(message), out, fault)
        });
        signature.ok().flatten()
    }

    fn send(&self, request: HttpRequest) -> HttpFuture {
        let Some(send) = self.handle.table.send() else { return http::unavailable() };
        let sent = frame::write(&request, &request.body).map(|request| {
            let request = Blob::argument(&request);
            // SAFETY: the handle is alive and the request lives through the call.
            demand(|out, fault| unsafe { send(self.handle.data, request, out, fault) })
        });
        Box::pin(async move {
            let answer = run(sent?).await.map_err(CallError::from)?;
            let (head, body) = frame::read::<HttpResponse>(&answer.into_bytes())?;
            Ok(HttpResponse { body, ..head })
        })
    }
}
