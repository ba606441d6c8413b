//! The host's services across the boundary: the host exports, the plugin imports.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use abi_stable::StableAbi;
use abi_stable::prefix_type::WithMetadata;
use futures_util::future::BoxFuture;

use super::capability::{CapabilityRef, export_capability, import_capability};
use super::connection::{ImportedConnection, exported as exported_connection};
use super::env::{EnvRef, export_env, import_env, no_env};
use super::fault::Fault;
use super::future::{Imported, RawTask, Unit, run};
use super::gateway::{GatewayRef, export_gateway, import_gateway};
use super::task::{TaskRef, export_task, import_task};
use super::value::{Blob, Handle, Pairs, Slice, Table, answer, ask, demand, drop_raw, object};
use super::{guard, guard_drop};
use crate::backend::HostBackend;
use crate::connection::Connection;
use crate::context::OperationEnv;
use crate::host::{Capability, Gateway, Level, LogRecord, TaskHandle};
use crate::identity::Identity;

type Out<T> = *mut T;

/// As [`HostBackend`]; identities cross as JSON, times in nanoseconds.
/// `gateway` takes the data of a connection's handle, which it only borrows.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HostRef, prefix_fields = HostPrefix)))]
#[sabi(missing_field(option))]
#[allow(missing_docs)]
pub struct HostTable {
    pub drop: unsafe extern "C" fn(data: *mut ()),
    pub spawn: unsafe extern "C" fn(
        data: *mut (),
        task: RawTask<Unit>,
        out: *mut Handle<TaskRef>,
        fault: *mut Fault,
    ) -> u32,
    pub sleep: unsafe extern "C" fn(
        data: *mut (),
        nanos: u64,
        out: *mut RawTask<Unit>,
        fault: *mut Fault,
    ) -> u32,
    pub now: unsafe extern "C" fn(data: *mut ()) -> u64,
    pub unix_time: unsafe extern "C" fn(data: *mut ()) -> u64,
    pub log_enabled: unsafe extern "C" fn(data: *mut (), level: u32, target: Slice) -> u32,
    pub log: unsafe extern "C" fn(
        data: *mut (),
        level: u32,
        target: Slice,
        message: Slice,
        fields: Pairs,
    ),
    pub counter: unsafe extern "C" fn(data: *mut (), name: Slice, labels: Pairs, add: u64),
    pub gauge: unsafe extern "C" fn(data: *mut (), name: Slice, labels: Pairs, value: f64),
    pub histogram: unsafe extern "C" fn(data: *mut (), name: Slice, labels: Pairs, value: f64),
    pub resolve_token:
        unsafe extern "C" fn(data: *mut (), token: Slice, out: *mut Blob, fault: *mut Fault) -> u32,
    pub resolve_fingerprint: unsafe extern "C" fn(
        data: *mut (),
        fingerprint: Slice,
        out: *mut Blob,
        fault: *mut Fault,
    ) -> u32,
    pub capability: unsafe extern "C" fn(
        data: *mut (),
        name: Slice,
        out: *mut Handle<CapabilityRef>,
        fault: *mut Fault,
    ) -> u32,
    pub env:
        unsafe extern "C" fn(data: *mut (), out: *mut Handle<EnvRef>, fault: *mut Fault) -> u32,
    pub gateway: unsafe extern "C" fn(
        data: *mut (),
        connection: *mut (),
        out: *mut Handle<GatewayRef>,
        fault: *mut Fault,
    ) -> u32,
    #[sabi(last_prefix_field)]
    pub shutdown:
        unsafe extern "C" fn(data: *mut (), out: *mut RawTask<Unit>, fault: *mut Fault) -> u32,
    /// What a next minor version might add: for the tests of that.
    #[cfg(feature = "abi-test-next")]
    pub probe: unsafe extern "C" fn(data: *mut ()) -> u64,
}

impl Table for HostRef {
    fn drop_fn(self) -> unsafe extern "C" fn(*mut ()) {
        self.drop()
    }
}

type Exported = Arc<dyn HostBackend>;

static HOST: WithMetadata<HostTable> = WithMetadata::new(HostTable {
    drop: drop_raw::<Exported>,
    spawn,
    sleep,
    now,
    unix_time,
    log_enabled,
    log,
    counter,
    gauge,
    histogram,
    resolve_token,
    resolve_fingerprint,
    capability,
    env,
    gateway,
    shutdown,
    #[cfg(feature = "abi-test-next")]
    probe: host_probe,
});

/// Hands the host's services to a plugin.
pub(crate) fn export_host(host: Arc<dyn HostBackend>) -> Handle<HostRef> {
    Handle::new::<Exported>(host, HostRef(HOST.static_as_prefix()))
}

fn level_of(number: u32) -> Level {
    match number {
        0 | 1 => Level::Error,
        2 => Level::Warn,
        3 => Level::Info,
        4 => Level::Debug,
        _ => Level::Trace,
    }
}

// SAFETY for the functions below: they are called through their table with the
// data of the handle that the table came in, and with pointers that are valid
// through the call; hosts are Sync, so calls may be concurrent.

#[cfg(feature = "abi-test-next")]
unsafe extern "C" fn host_probe(_data: *mut ()) -> u64 {
    0x5eed
}

unsafe extern "C" fn spawn(
    data: *mut (),
    task: RawTask<Unit>,
    out: Out<Handle<TaskRef>>,
    fault: Out<Fault>,
) -> u32 {
    let body = || {
        // A panic in the task has been logged on the plugin's side.
        let task = Box::pin(async move { drop(Imported(task).await) });
        // SAFETY: see above.
        let task = unsafe { object::<Exported>(data) }.spawn(task);
        Ok(Some(export_task(task)))
    };
    // SAFETY: see above.
    unsafe { answer(out, fault, body) }
}

fn export_wait(wait: BoxFuture<'static, ()>) -> RawTask<Unit> {
    RawTask::future(async move {
        wait.await;
        Ok(Unit::UNIT)
    })
}

unsafe extern "C" fn sleep(
    data: *mut (),
    nanos: u64,
    out: Out<RawTask<Unit>>,
    fault: Out<Fault>,
) -> u32 {
    // SAFETY: see above.
    unsafe {
        answer(out, fault, || {
            Ok(Some(export_wait(object::<Exported>(data).sleep(Duration::from_nanos(nanos)))))
        })
    }
}

unsafe extern "C" fn now(data: *mut ()) -> u64 {
    // SAFETY: see above.
    guard(|| super::nanos(unsafe { object::<Exported>(data) }.now())).unwrap_or(0)
}

unsafe extern "C" fn unix_time(data: *mut ()) -> u64 {
    // SAFETY: see above.
    guard(|| super::nanos(unsafe { object::<Exported>(data) }.unix_time())).unwrap_or(0)
}

unsafe extern "C" fn log_enabled(data: *mut (), level: u32, target: Slice) -> u32 {
    let enabled = guard(|| {
        // SAFETY: see above.
        let (host, target) = unsafe { (object::<Exported>(data), target.text().ok()?) };
        Some(host.log_enabled(level_of(level), target))
    });
    u32::from(matches!(enabled, Ok(Some(true))))
}

unsafe extern "C" fn log(data: *mut (), level: u32, target: Slice, message: Slice, fields: Pairs) {
    guard_drop(|| {
        // SAFETY: see above.
        let record = unsafe { (target.text(), message.text(), fields.read()) };
        if let (Ok(target), Ok(message), Ok(fields)) = record {
            let record = LogRecord { level: level_of(level), target, message, fields: &fields };
            // SAFETY: see above.
            unsafe { object::<Exported>(data) }.log(&record);
        }
    });
}

/// # Safety
/// As for the functions that call it.
unsafe fn metric(
    data: *mut (),
    name: Slice,
    labels: Pairs,
    write: impl FnOnce(&Exported, &str, &[(&str, &str)]),
) {
    guard_drop(|| {
        // SAFETY: see above.
        if let (Ok(name), Ok(labels)) = unsafe { (name.text(), labels.read()) } {
            // SAFETY: see above.
            write(unsafe { object::<Exported>(data) }, name, &labels);
        }
    });
}

unsafe extern "C" fn counter(data: *mut (), name: Slice, labels: Pairs, add: u64) {
    // SAFETY: see above.
    unsafe { metric(data, name, labels, |host, name, labels| host.counter(name, labels, add)) }
}

unsafe extern "C" fn gauge(data: *mut (), name: Slice, labels: Pairs, value: f64) {
    // SAFETY: see above.
    unsafe { metric(data, name, labels, |host, name, labels| host.gauge(name, labels, value)) }
}

unsafe extern "C" fn histogram(data: *mut (), name: Slice, labels: Pairs, value: f64) {
    // SAFETY: see above.
    unsafe { metric(data, name, labels, |host, name, labels| host.histogram(name, labels, value)) }
}

unsafe extern "C" fn resolve_token(
    data: *mut (),
    token: Slice,
    out: Out<Blob>,
    fault: Out<Fault>,
) -> u32 {
    // SAFETY: see above.
    unsafe {
        answer(out, fault, || {
            let identity = object::<Exported>(data).resolve_token(token.bytes());
            identity.map(|identity| Blob::json(&identity)).transpose()
        })
    }
}

unsafe extern "C" fn resolve_fingerprint(
    data: *mut (),
    fingerprint: Slice,
    out: Out<Blob>,
    fault: Out<Fault>,
) -> u32 {
    // SAFETY: see above.
    unsafe {
        answer(out, fault, || {
            let identity = object::<Exported>(data).resolve_fingerprint(fingerprint.text()?);
            identity.map(|identity| Blob::json(&identity)).transpose()
        })
    }
}

unsafe extern "C" fn capability(
    data: *mut (),
    name: Slice,
    out: Out<Handle<CapabilityRef>>,
    fault: Out<Fault>,
) -> u32 {
    // SAFETY: see above.
    unsafe {
        answer(out, fault, || {
            Ok(object::<Exported>(data).capability(name.text()?).map(export_capability))
        })
    }
}

unsafe extern "C" fn env(data: *mut (), out: Out<Handle<EnvRef>>, fault: Out<Fault>) -> u32 {
    // SAFETY: see above.
    unsafe { answer(out, fault, || Ok(Some(export_env(object::<Exported>(data).env())))) }
}

unsafe extern "C" fn gateway(
    data: *mut (),
    connection: *mut (),
    out: Out<Handle<GatewayRef>>,
    fault: Out<Fault>,
) -> u32 {
    // SAFETY: see above; the plugin passes the data of a connection that this
    // side exported and that it still holds.
    unsafe {
        answer(out, fault, || {
            let connection = Connection::new(exported_connection(connection).clone());
            Ok(object::<Exported>(data).gateway(&connection).map(export_gateway))
        })
    }
}

unsafe extern "C" fn shutdown(data: *mut (), out: Out<RawTask<Unit>>, fault: Out<Fault>) -> u32 {
    // SAFETY: see above.
    unsafe { answer(out, fault, || Ok(Some(export_wait(object::<Exported>(data).shutdown())))) }
}

/// The host, from a plugin in a shared library.
pub(crate) struct ImportedHost(Handle<HostRef>);

/// Takes the host's services.
pub(crate) fn import_host(handle: Handle<HostRef>) -> Arc<dyn HostBackend> {
    Arc::new(ImportedHost(handle))
}

impl ImportedHost {
    fn table(&self) -> HostRef {
        self.0.table
    }

    fn data(&self) -> *mut () {
        self.0.data
    }

    /// The field of a next minor version, where the host has it.
    #[cfg(feature = "abi-test-next")]
    pub(crate) fn probe(&self) -> Option<u64> {
        // SAFETY: the handle is alive.
        self.table().probe().map(|probe| unsafe { probe(self.data()) })
    }
}

fn import_wait(task: Result<RawTask<Unit>, Fault>) -> BoxFuture<'static, ()> {
    Box::pin(async move { drop(run(task).await) })
}

// SAFETY for the blocks below: the handle is alive, `ask` and `demand` pass
// places to write to, and lent slices live through the call.
impl HostBackend for ImportedHost {
    fn spawn(&self, task: BoxFuture<'static, ()>) -> TaskHandle {
        let task = RawTask::future(async move {
            task.await;
            Ok(Unit::UNIT)
        });
        // SAFETY: see above.
        let spawned =
            demand(|out, fault| unsafe { self.table().spawn()(self.data(), task, out, fault) });
        import_task(spawned)
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        // SAFETY: see above.
        import_wait(demand(|out, fault| unsafe {
            self.table().sleep()(self.data(), super::nanos(duration), out, fault)
        }))
    }

    fn now(&self) -> Duration {
        // SAFETY: see above.
        Duration::from_nanos(unsafe { self.table().now()(self.data()) })
    }

    fn unix_time(&self) -> Duration {
        // SAFETY: see above.
        Duration::from_nanos(unsafe { self.table().unix_time()(self.data()) })
    }

    fn log_enabled(&self, level: Level, target: &str) -> bool {
        let target = Slice::new(target.as_bytes());
        // SAFETY: see above.
        unsafe { self.table().log_enabled()(self.data(), level as u32, target) != 0 }
    }

    fn log(&self, record: &LogRecord<'_>) {
        Pairs::lend(record.fields, |fields| {
            let target = Slice::new(record.target.as_bytes());
            let message = Slice::new(record.message.as_bytes());
            let level = record.level as u32;
            // SAFETY: see above.
            unsafe { self.table().log()(self.data(), level, target, message, fields) }
        });
    }

    fn counter(&self, name: &str, labels: &[(&str, &str)], add: u64) {
        let name = Slice::new(name.as_bytes());
        // SAFETY: see above.
        Pairs::lend(labels, |labels| unsafe {
            self.table().counter()(self.data(), name, labels, add);
        });
    }

    fn gauge(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let name = Slice::new(name.as_bytes());
        // SAFETY: see above.
        Pairs::lend(labels, |labels| unsafe {
            self.table().gauge()(self.data(), name, labels, value);
        });
    }

    fn histogram(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let name = Slice::new(name.as_bytes());
        // SAFETY: see above.
        Pairs::lend(labels, |labels| unsafe {
            self.table().histogram()(self.data(), name, labels, value);
        });
    }

    fn resolve_token(&self, token: &[u8]) -> Option<Identity> {
        // SAFETY: see above.
        let identity = ask(|out, fault| unsafe {
            self.table().resolve_token()(self.data(), Slice::new(token), out, fault)
        });
        identity.ok().flatten()?.read_json().ok()
    }

    fn resolve_fingerprint(&self, fingerprint: &str) -> Option<Identity> {
        let fingerprint = Slice::new(fingerprint.as_bytes());
        // SAFETY: see above.
        let identity = ask(|out, fault| unsafe {
            self.table().resolve_fingerprint()(self.data(), fingerprint, out, fault)
        });
        identity.ok().flatten()?.read_json().ok()
    }

    fn capability(&self, name: &str) -> Option<Capability> {
        // SAFETY: see above.
        let capability = ask(|out, fault| unsafe {
            self.table().capability()(self.data(), Slice::new(name.as_bytes()), out, fault)
        });
        capability.ok().flatten().map(import_capability)
    }

    fn env(&self) -> Arc<dyn OperationEnv> {
        // SAFETY: see above.
        let env = demand(|out, fault| unsafe { self.table().env()(self.data(), out, fault) });
        env.map_or_else(|_| no_env(), import_env)
    }

    fn gateway(&self, connection: &Connection) -> Option<Arc<dyn Gateway>> {
        // Only a connection that the host has handed over means anything to it.
        let connection = connection.backend().as_any()?.downcast_ref::<ImportedConnection>()?;
        // SAFETY: see above; the connection is borrowed through the call.
        let gateway = ask(|out, fault| unsafe {
            self.table().gateway()(self.data(), connection.data(), out, fault)
        });
        gateway.ok().flatten().map(import_gateway)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        // SAFETY: see above.
        import_wait(demand(|out, fault| unsafe {
            self.table().shutdown()(self.data(), out, fault)
        }))
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}
