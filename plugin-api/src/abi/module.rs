//! The plugin as a whole: what its shared library shows.

use std::task::{Context, Poll};

use abi_stable::StableAbi;
use abi_stable::library::AbiHeader;
use abi_stable::prefix_type::WithMetadata;
use abi_stable::type_layout::TypeLayout;

use super::call::{ContextRef, export_items, import_context, output};
use super::connection::{ConnectionRef, import_connection};
use super::fault::Fault;
use super::future::{RawTask, Unit};
use super::guard;
use super::host::{HostRef, import_host};
use super::value::{Blob, FAULT, Handle, PENDING, READY, Slice, Table, answer, drop_raw};
use super::waker::WakerWords;
use crate::connection::Connection;
use crate::context::OperationContext;
use crate::host::Host;
use crate::identity::AuthContext;
use crate::json::Json;
use crate::plugin::{Built, OperationCode, Plugin};

type Out<T> = *mut T;

/// The symbol that a plugin's shared library exports: a [`Header`].
pub const SYMBOL: &str = "alknet_plugin_header_1";

/// The first bytes of a [`Header`].
pub const MAGIC: [u8; 16] = *b"alknet plugin\0\r\n";

/// What stands behind [`SYMBOL`]. The part before `layout` holds no pointers, so
/// a host can read it from the file before it maps anything.
#[repr(C)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: [u8; 16],
    /// The plugin API's major version. Others are refused.
    pub api_major: u32,
    /// The plugin API's minor version, for people.
    pub api_minor: u32,
    /// abi_stable's own header: the form of `layout`'s answer.
    pub abi: AbiHeader,
    /// Describes the interface, down to each field.
    pub layout: extern "C" fn() -> &'static TypeLayout,
    /// The plugin's functions; to be called after the layout has been compared.
    pub module: extern "C" fn() -> ModuleRef,
    /// Compiler and crate version, for people.
    pub build_info: Slice,
}

// SAFETY: everything in a header is immutable, and its slice is a static text.
unsafe impl Sync for Header {}

impl Header {
    /// The header of `P`'s library.
    pub const fn of<P: Plugin>() -> Self {
        Self {
            magic: MAGIC,
            api_major: crate::API_VERSION.0,
            api_minor: crate::API_VERSION.1,
            abi: AbiHeader::VALUE,
            layout,
            module: module::<P>,
            build_info: Slice::new(
                concat!("alknet-plugin-api ", env!("CARGO_PKG_VERSION")).as_bytes(),
            ),
        }
    }
}

/// Describes the interface as this library was compiled with it.
pub extern "C" fn layout() -> &'static TypeLayout {
    <ModuleRef as StableAbi>::LAYOUT
}

/// A plugin's functions.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = ModuleRef, prefix_fields = ModulePrefix)))]
#[sabi(missing_field(option))]
#[allow(missing_docs)]
pub struct ModuleTable {
    /// The manifest as JSON.
    pub manifest: unsafe extern "C" fn(out: *mut Blob, fault: *mut Fault) -> u32,
    /// Builds the plugin with its configuration as JSON.
    #[sabi(last_prefix_field)]
    pub build: unsafe extern "C" fn(
        host: Handle<HostRef>,
        config: Slice,
        out: *mut Handle<PluginRef>,
        fault: *mut Fault,
    ) -> u32,
}

/// A plugin that has been built. Handlers and operations go by their position in
/// the manifest.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginRef, prefix_fields = PluginPrefix)))]
#[sabi(missing_field(option))]
#[allow(missing_docs)]
pub struct PluginTable {
    pub drop: unsafe extern "C" fn(data: *mut ()),
    /// Serves a connection; `auth` is JSON.
    pub handle: unsafe extern "C" fn(
        data: *mut (),
        index: u32,
        connection: Handle<ConnectionRef>,
        auth: Slice,
        out: *mut RawTask<Unit>,
        fault: *mut Fault,
    ) -> u32,
    /// Starts a call and polls it once: ready with `out` written, pending with
    /// `task` written, or a fault.
    pub call: unsafe extern "C" fn(
        data: *mut (),
        index: u32,
        context: Handle<ContextRef>,
        input: Blob,
        waker: *const WakerWords,
        out: *mut Blob,
        task: *mut RawTask<Blob>,
        fault: *mut Fault,
    ) -> u32,
    #[sabi(last_prefix_field)]
    pub subscribe: unsafe extern "C" fn(
        data: *mut (),
        index: u32,
        context: Handle<ContextRef>,
        input: Blob,
        out: *mut RawTask<Blob>,
        fault: *mut Fault,
    ) -> u32,
    /// What a next minor version might add: for the tests of that.
    #[cfg(feature = "abi-test-next")]
    pub probe: unsafe extern "C" fn(data: *mut ()) -> u64,
}

impl Table for PluginRef {
    fn drop_fn(self) -> unsafe extern "C" fn(*mut ()) {
        self.drop()
    }
}

static PLUGIN: WithMetadata<PluginTable> = WithMetadata::new(PluginTable {
    drop: drop_raw::<Built>,
    handle,
    call,
    subscribe,
    #[cfg(feature = "abi-test-next")]
    probe: plugin_probe,
});

#[cfg(feature = "abi-test-next")]
unsafe extern "C" fn plugin_probe(_data: *mut ()) -> u64 {
    0xbee
}

/// The table of `P`. Only in a library of its own (`ALONE`) does it take over the
/// process-wide log and panic hooks of that library.
pub(crate) struct Exports<P, const ALONE: bool>(std::marker::PhantomData<P>);

impl<P: Plugin, const ALONE: bool> Exports<P, ALONE> {
    const TABLE: &'static WithMetadata<ModuleTable> =
        &WithMetadata::new(ModuleTable { manifest: manifest::<P>, build: build::<P, ALONE> });

    pub(crate) fn table() -> ModuleRef {
        ModuleRef(Self::TABLE.static_as_prefix())
    }
}

extern "C" fn module<P: Plugin>() -> ModuleRef {
    Exports::<P, true>::table()
}

unsafe extern "C" fn manifest<P: Plugin>(out: Out<Blob>, fault: Out<Fault>) -> u32 {
    // SAFETY: the host passes places to write to.
    unsafe { answer(out, fault, || Blob::json(&P::manifest()).map(Some)) }
}

unsafe extern "C" fn build<P: Plugin, const ALONE: bool>(
    host: Handle<HostRef>,
    config: Slice,
    out: Out<Handle<PluginRef>>,
    fault: Out<Fault>,
) -> u32 {
    let body = || {
        let host = import_host(host);
        if ALONE {
            crate::forward::install(&host);
        }
        // SAFETY: the host lends the configuration for the call.
        let config = bytes::Bytes::copy_from_slice(unsafe { config.bytes() });
        let built = Built::new::<P>(Host::new(host), Json::from_checked(config));
        Ok(Some(export_built(built.map_err(|error| Fault::internal(&error.0))?)))
    };
    // SAFETY: the host passes places to write to.
    unsafe { answer(out, fault, body) }
}

/// Hands a built plugin to the host.
pub(crate) fn export_built(built: Built) -> Handle<PluginRef> {
    Handle::new(built, PluginRef(PLUGIN.static_as_prefix()))
}

// SAFETY for the functions below: the host calls them through their table with
// the data of the handle that the table came in, and with pointers that are
// valid through the call; what is built is Sync, so calls may be concurrent.

/// # Safety
/// As above.
unsafe fn code<'a>(data: *mut (), index: u32) -> Option<&'a OperationCode> {
    // SAFETY: see above.
    unsafe { &*data.cast::<Built>() }.operations.get(index as usize)
}

fn no_such(what: &str, index: u32) -> Fault {
    Fault::internal(&format!("the plugin has no {what} number {index}"))
}

unsafe extern "C" fn handle(
    data: *mut (),
    index: u32,
    connection: Handle<ConnectionRef>,
    auth: Slice,
    out: Out<RawTask<Unit>>,
    fault: Out<Fault>,
) -> u32 {
    let body = || {
        // SAFETY: see above.
        let (built, auth) = unsafe { (&*data.cast::<Built>(), auth.json::<AuthContext>()?) };
        let handler =
            built.handlers.get(index as usize).ok_or_else(|| no_such("handler", index))?;
        let connection = Connection::new(import_connection(connection));
        let serving = handler.clone().handle(connection, auth);
        Ok(Some(RawTask::future(async move {
            serving.await?;
            Ok(Unit::UNIT)
        })))
    };
    // SAFETY: see above.
    unsafe { answer(out, fault, body) }
}

unsafe extern "C" fn call(
    data: *mut (),
    index: u32,
    context: Handle<ContextRef>,
    input: Blob,
    waker: *const WakerWords,
    out: Out<Blob>,
    task: Out<RawTask<Blob>>,
    fault: Out<Fault>,
) -> u32 {
    let started = guard(|| {
        let context = OperationContext::wrap(import_context(context));
        let input = Json::from_checked(input.into_bytes());
        // SAFETY: see above.
        let Some(OperationCode::Once(operation)) = (unsafe { code(data, index) }) else {
            return Err(no_such("query or mutation", index));
        };
        let mut call = operation.call(context, input);
        // Most calls answer at once, and then no task need cross. The wrapper of
        // a waker is not kept here: the task keeps its own once there is one.
        let mut cache = super::waker::WakerCache::default();
        // SAFETY: see above.
        let polled = unsafe {
            cache.with(*waker, |waker| call.as_mut().poll(&mut Context::from_waker(waker)))
        };
        match polled {
            Poll::Ready(answer) => output(answer).map(Ok),
            Poll::Pending => Ok(Err(super::call::export_call(call))),
        }
    });
    match started {
        Ok(Ok(Ok(answer))) => {
            // SAFETY: see above.
            unsafe { out.write(answer) };
            READY
        }
        Ok(Ok(Err(pending))) => {
            // SAFETY: see above.
            unsafe { task.write(pending) };
            PENDING
        }
        Ok(Err(error)) => {
            // SAFETY: see above.
            unsafe { fault.write(error) };
            FAULT
        }
        Err(text) => {
            // SAFETY: see above.
            unsafe { fault.write(Fault::panicked(text)) };
            FAULT
        }
    }
}

unsafe extern "C" fn subscribe(
    data: *mut (),
    index: u32,
    context: Handle<ContextRef>,
    input: Blob,
    out: Out<RawTask<Blob>>,
    fault: Out<Fault>,
) -> u32 {
    let body = || {
        let context = OperationContext::wrap(import_context(context));
        let input = Json::from_checked(input.into_bytes());
        // SAFETY: see above.
        let Some(OperationCode::Stream(subscription)) = (unsafe { code(data, index) }) else {
            return Err(no_such("subscription", index));
        };
        Ok(Some(export_items(subscription.subscribe(context, input))))
    };
    // SAFETY: see above.
    unsafe { answer(out, fault, body) }
}
