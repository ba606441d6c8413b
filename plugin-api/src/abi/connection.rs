//! Connections across the boundary: the host exports, the plugin imports.

use std::any::Any;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use abi_stable::StableAbi;
use abi_stable::prefix_type::WithMetadata;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::fault::{self, Fault};
use super::future::{RawTask, Unit, run};
use super::guard_drop;
use super::stream::{ImportedRecv, ImportedSend, RecvRef, SendRef, export_recv, export_send};
use super::value::{Blob, Handle, Slice, Table, answer, ask, demand, drop_raw};
use crate::backend::{BiHalves, ConnectionBackend, RecvBackend, SendBackend};
use crate::connection::{
    Closed, ConnectionInfo, ConnectionStats, DatagramError, IdentityAlreadySet, Source, StreamError,
};
use crate::identity::Identity;

/// Both halves of a bidirectional stream.
#[repr(C)]
#[derive(StableAbi)]
pub struct Halves {
    send: Handle<SendRef>,
    recv: Handle<RecvRef>,
}

/// As [`ConnectionStats`]; the round-trip time in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct Stats {
    rtt: u64,
    bytes_sent: u64,
    bytes_received: u64,
    packets_lost: u64,
    #[cfg(not(feature = "abi-test-altered"))]
    mtu: u64,
    /// Another type than the interface has: what the layout check must refuse.
    #[cfg(feature = "abi-test-altered")]
    mtu: u16,
}

type Out<T> = *mut T;

/// As [`ConnectionBackend`]; information, identity and the end cross as JSON.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ConnectionRef, prefix_fields = ConnectionPrefix)))]
#[sabi(missing_field(option))]
#[allow(missing_docs)]
pub struct ConnectionTable {
    pub drop: unsafe extern "C" fn(data: *mut ()),
    pub info: unsafe extern "C" fn(data: *mut (), out: *mut Blob, fault: *mut Fault) -> u32,
    pub accept_bi:
        unsafe extern "C" fn(data: *mut (), out: *mut RawTask<Halves>, fault: *mut Fault) -> u32,
    pub open_bi:
        unsafe extern "C" fn(data: *mut (), out: *mut RawTask<Halves>, fault: *mut Fault) -> u32,
    pub accept_uni: unsafe extern "C" fn(
        data: *mut (),
        out: *mut RawTask<Handle<RecvRef>>,
        fault: *mut Fault,
    ) -> u32,
    pub open_uni: unsafe extern "C" fn(
        data: *mut (),
        out: *mut RawTask<Handle<SendRef>>,
        fault: *mut Fault,
    ) -> u32,
    pub send_datagram:
        unsafe extern "C" fn(data: *mut (), bytes: Blob, out: *mut Unit, fault: *mut Fault) -> u32,
    pub read_datagram:
        unsafe extern "C" fn(data: *mut (), out: *mut RawTask<Blob>, fault: *mut Fault) -> u32,
    pub max_datagram_size:
        unsafe extern "C" fn(data: *mut (), out: *mut u64, fault: *mut Fault) -> u32,
    pub close: unsafe extern "C" fn(data: *mut (), code: u64, reason: Slice),
    pub closed:
        unsafe extern "C" fn(data: *mut (), out: *mut RawTask<Blob>, fault: *mut Fault) -> u32,
    pub shutdown:
        unsafe extern "C" fn(data: *mut (), out: *mut RawTask<Unit>, fault: *mut Fault) -> u32,
    pub stats: unsafe extern "C" fn(data: *mut (), out: *mut Stats, fault: *mut Fault) -> u32,
    pub set_identity: unsafe extern "C" fn(
        data: *mut (),
        identity: Slice,
        out: *mut Unit,
        fault: *mut Fault,
    ) -> u32,
    #[sabi(last_prefix_field)]
    pub identity: unsafe extern "C" fn(data: *mut (), out: *mut Blob, fault: *mut Fault) -> u32,
}

impl Table for ConnectionRef {
    fn drop_fn(self) -> unsafe extern "C" fn(*mut ()) {
        self.drop()
    }
}

type Exported = Arc<dyn ConnectionBackend>;

static CONNECTION: WithMetadata<ConnectionTable> = WithMetadata::new(ConnectionTable {
    drop: drop_raw::<Exported>,
    info,
    accept_bi,
    open_bi,
    accept_uni,
    open_uni,
    send_datagram,
    read_datagram,
    max_datagram_size,
    close,
    closed,
    shutdown,
    stats,
    set_identity,
    identity,
});

/// Hands a connection to the other side.
pub(crate) fn export_connection(backend: Arc<dyn ConnectionBackend>) -> Handle<ConnectionRef> {
    Handle::new::<Exported>(backend, ConnectionRef(CONNECTION.static_as_prefix()))
}

/// The connection behind the data of a handle that this side exported.
///
/// # Safety
/// `data` belongs to a living handle made by [`export_connection`].
pub(crate) unsafe fn exported<'a>(data: *mut ()) -> &'a Exported {
    // SAFETY: the caller vouches for it.
    unsafe { &*data.cast() }
}

// SAFETY for the functions below: they are called through their table with the
// data of the handle that the table came in, and with pointers that are valid
// through the call; connections are Sync, so calls may be concurrent.

unsafe extern "C" fn info(data: *mut (), out: Out<Blob>, fault: Out<Fault>) -> u32 {
    // SAFETY: see above.
    unsafe { answer(out, fault, || Blob::json(exported(data).info()).map(Some)) }
}

fn export_halves((send, recv): BiHalves) -> Halves {
    Halves { send: export_send(send), recv: export_recv(recv) }
}

unsafe extern "C" fn accept_bi(data: *mut (), out: Out<RawTask<Halves>>, fault: Out<Fault>) -> u32 {
    // SAFETY: see above.
    unsafe {
        answer(out, fault, || {
            let accepting = exported(data).accept_bi();
            Ok(Some(RawTask::future(async move { Ok(export_halves(accepting.await?)) })))
        })
    }
}

unsafe extern "C" fn open_bi(data: *mut (), out: Out<RawTask<Halves>>, fault: Out<Fault>) -> u32 {
    // SAFETY: see above.
    unsafe {
        answer(out, fault, || {
            let opening = exported(data).open_bi();
            Ok(Some(RawTask::future(async move { Ok(export_halves(opening.await?)) })))
        })
    }
}

unsafe extern "C" fn accept_uni(
    data: *mut (),
    out: Out<RawTask<Handle<RecvRef>>>,
    fault: Out<Fault>,
) -> u32 {
    // SAFETY: see above.
    unsafe {
        answer(out, fault, || {
            let accepting = exported(data).accept_uni();
            Ok(Some(RawTask::future(async move { Ok(export_recv(accepting.await?)) })))
        })
    }
}

unsafe extern "C" fn open_uni(
    data: *mut (),
    out: Out<RawTask<Handle<SendRef>>>,
    fault: Out<Fault>,
) -> u32 {
    // SAFETY: see above.
    unsafe {
        answer(out, fault, || {
            let opening = exported(data).open_uni();
            Ok(Some(RawTask::future(async move { Ok(export_send(opening.await?)) })))
        })
    }
}

unsafe extern "C" fn send_datagram(
    data: *mut (),
    bytes: Blob,
    out: Out<Unit>,
    fault: Out<Fault>,
) -> u32 {
    // SAFETY: called through the table with the data that was exported with it,
    // which its owner keeps alive during the call.
    let connection = unsafe { exported(data) };
    let send = || match connection.send_datagram(bytes.into_bytes()) {
        Ok(()) => Ok(Some(Unit::UNIT)),
        Err(DatagramError::TooLarge { size, max }) => {
            Err(Fault { extra: max as u64, ..Fault::plain(fault::TOO_LARGE, size as u64) })
        }
        Err(DatagramError::Stream(error)) => Err(error.into()),
    };
    // SAFETY: see above.
    unsafe { answer(out, fault, send) }
}

unsafe extern "C" fn read_datagram(
    data: *mut (),
    out: Out<RawTask<Blob>>,
    fault: Out<Fault>,
) -> u32 {
    // SAFETY: see above.
    unsafe {
        answer(out, fault, || {
            let reading = exported(data).read_datagram();
            Ok(Some(RawTask::future(async move { Ok(Blob::new(reading.await?)) })))
        })
    }
}

unsafe extern "C" fn max_datagram_size(data: *mut (), out: Out<u64>, fault: Out<Fault>) -> u32 {
    // SAFETY: see above.
    unsafe { answer(out, fault, || Ok(exported(data).max_datagram_size().map(|size| size as u64))) }
}

unsafe extern "C" fn close(data: *mut (), code: u64, reason: Slice) {
    // SAFETY: see above.
    guard_drop(|| unsafe {
        exported(data).close(code, &String::from_utf8_lossy(reason.bytes()));
    });
}

unsafe extern "C" fn closed(data: *mut (), out: Out<RawTask<Blob>>, fault: Out<Fault>) -> u32 {
    // SAFETY: see above.
    unsafe {
        answer(out, fault, || {
            let closed = exported(data).closed();
            Ok(Some(RawTask::future(async move { Blob::json(&closed.await) })))
        })
    }
}

unsafe extern "C" fn shutdown(data: *mut (), out: Out<RawTask<Unit>>, fault: Out<Fault>) -> u32 {
    // SAFETY: see above.
    unsafe {
        answer(out, fault, || {
            let shutdown = exported(data).shutdown();
            Ok(Some(RawTask::future(async move {
                shutdown.await;
                Ok(Unit::UNIT)
            })))
        })
    }
}

unsafe extern "C" fn stats(data: *mut (), out: Out<Stats>, fault: Out<Fault>) -> u32 {
    // SAFETY: see above.
    unsafe {
        answer(out, fault, || {
            let stats = exported(data).stats();
            Ok(Some(Stats {
                rtt: super::nanos(stats.rtt),
                bytes_sent: stats.bytes_sent,
                bytes_received: stats.bytes_received,
                packets_lost: stats.packets_lost,
                mtu: stats.mtu.into(),
            }))
        })
    }
}

unsafe extern "C" fn set_identity(
    data: *mut (),
    identity: Slice,
    out: Out<Unit>,
    fault: Out<Fault>,
) -> u32 {
    // SAFETY: see above.
    unsafe {
        answer(out, fault, || {
            let identity: Identity = identity.json()?;
            Ok(exported(data).set_identity(identity).ok().map(|()| Unit::UNIT))
        })
    }
}

unsafe extern "C" fn identity(data: *mut (), out: Out<Blob>, fault: Out<Fault>) -> u32 {
    // SAFETY: see above.
    unsafe {
        answer(out, fault, || exported(data).identity().map(|id| Blob::json(&id)).transpose())
    }
}

/// A connection of the other side.
pub(crate) struct ImportedConnection {
    handle: Handle<ConnectionRef>,
    info: OnceLock<ConnectionInfo>,
}

/// Takes a connection of the other side.
pub(crate) fn import_connection(handle: Handle<ConnectionRef>) -> Arc<dyn ConnectionBackend> {
    Arc::new(ImportedConnection { handle, info: OnceLock::new() })
}

impl ImportedConnection {
    /// The other side's own word for the connection, valid while `self` is.
    pub(crate) fn data(&self) -> *mut () {
        self.handle.data
    }

    fn table(&self) -> ConnectionRef {
        self.handle.table
    }
}

// SAFETY for the blocks below: the handle is alive, `ask` and `demand` pass
// places to write to, and lent slices live through the call.
impl ConnectionBackend for ImportedConnection {
    fn info(&self) -> &ConnectionInfo {
        self.info.get_or_init(|| {
            // SAFETY: see above.
            let text = demand(|out, fault| unsafe { self.table().info()(self.data(), out, fault) });
            text.and_then(|text| text.read_json()).unwrap_or_else(|_| ConnectionInfo {
                id: 0,
                source: Source::Memory,
                alpn: String::new(),
                remote_addr: None,
                peer_key: None,
            })
        })
    }

    fn accept_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        // SAFETY: see above.
        let task =
            demand(|out, fault| unsafe { self.table().accept_bi()(self.data(), out, fault) });
        Box::pin(async move { Ok(import_halves(run(task).await?)) })
    }

    fn open_bi(&self) -> BoxFuture<'static, Result<BiHalves, StreamError>> {
        // SAFETY: see above.
        let task = demand(|out, fault| unsafe { self.table().open_bi()(self.data(), out, fault) });
        Box::pin(async move { Ok(import_halves(run(task).await?)) })
    }

    fn accept_uni(&self) -> BoxFuture<'static, Result<Box<dyn RecvBackend>, StreamError>> {
        // SAFETY: see above.
        let task =
            demand(|out, fault| unsafe { self.table().accept_uni()(self.data(), out, fault) });
        Box::pin(async move { Ok(Box::new(ImportedRecv(run(task).await?)) as _) })
    }

    fn open_uni(&self) -> BoxFuture<'static, Result<Box<dyn SendBackend>, StreamError>> {
        // SAFETY: see above.
        let task = demand(|out, fault| unsafe { self.table().open_uni()(self.data(), out, fault) });
        Box::pin(async move { Ok(Box::new(ImportedSend(run(task).await?)) as _) })
    }

    fn send_datagram(&self, data: Bytes) -> Result<(), DatagramError> {
        // SAFETY: see above.
        let sent = demand(|out, fault| unsafe {
            self.table().send_datagram()(self.data(), Blob::argument(&data), out, fault)
        });
        sent.map(drop).map_err(|fault| match fault.code {
            fault::TOO_LARGE => DatagramError::TooLarge {
                size: usize::try_from(fault.detail).unwrap_or(usize::MAX),
                max: usize::try_from(fault.extra).unwrap_or(usize::MAX),
            },
            _ => DatagramError::Stream(fault.into()),
        })
    }

    fn read_datagram(&self) -> BoxFuture<'static, Result<Bytes, StreamError>> {
        // SAFETY: see above.
        let task =
            demand(|out, fault| unsafe { self.table().read_datagram()(self.data(), out, fault) });
        Box::pin(async move { Ok(run(task).await?.into_bytes()) })
    }

    fn max_datagram_size(&self) -> Option<usize> {
        // SAFETY: see above.
        let size =
            ask(|out, fault| unsafe { self.table().max_datagram_size()(self.data(), out, fault) });
        size.ok().flatten().and_then(|size| usize::try_from(size).ok())
    }

    fn close(&self, code: u64, reason: &str) {
        // SAFETY: see above.
        unsafe { self.table().close()(self.data(), code, Slice::new(reason.as_bytes())) }
    }

    fn closed(&self) -> BoxFuture<'static, Closed> {
        // SAFETY: see above.
        let task = demand(|out, fault| unsafe { self.table().closed()(self.data(), out, fault) });
        Box::pin(async move {
            let closed = run(task).await.and_then(|text| text.read_json());
            closed.unwrap_or_else(|fault| Closed { code: None, reason: fault.message() })
        })
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        // SAFETY: see above.
        let task = demand(|out, fault| unsafe { self.table().shutdown()(self.data(), out, fault) });
        Box::pin(async move { drop(run(task).await) })
    }

    fn stats(&self) -> ConnectionStats {
        // SAFETY: see above.
        match demand(|out, fault| unsafe { self.table().stats()(self.data(), out, fault) }) {
            Ok(stats) => ConnectionStats {
                rtt: Duration::from_nanos(stats.rtt),
                bytes_sent: stats.bytes_sent,
                bytes_received: stats.bytes_received,
                packets_lost: stats.packets_lost,
                #[allow(clippy::useless_conversion)]
                mtu: stats.mtu.try_into().unwrap_or(u16::MAX),
            },
            Err(_) => ConnectionStats::default(),
        }
    }

    fn set_identity(&self, identity: Identity) -> Result<(), IdentityAlreadySet> {
        let Ok(text) = serde_json::to_vec(&identity) else { return Err(IdentityAlreadySet) };
        // SAFETY: see above.
        let set = ask(|out, fault| unsafe {
            self.table().set_identity()(self.data(), Slice::new(&text), out, fault)
        });
        match set {
            Ok(Some(_)) => Ok(()),
            _ => Err(IdentityAlreadySet),
        }
    }

    fn identity(&self) -> Option<Identity> {
        // SAFETY: see above.
        let text = ask(|out, fault| unsafe { self.table().identity()(self.data(), out, fault) });
        text.ok().flatten()?.read_json().ok()
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

fn import_halves(halves: Halves) -> BiHalves {
    (Box::new(ImportedSend(halves.send)), Box::new(ImportedRecv(halves.recv)))
}
