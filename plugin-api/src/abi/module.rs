//! The plugin as a whole: what its shared library shows, and how the host works
//! it.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use abi_stable::StableAbi;
use abi_stable::library::AbiHeader;
use abi_stable::prefix_type::WithMetadata;
use abi_stable::type_layout::TypeLayout;
use futures_util::future::BoxFuture;

use super::call::{
    ContextRef, export_context, export_items, import_context, import_items, input, output,
};
use super::connection::{ConnectionRef, export_connection, import_connection};
use super::future::{RawTask, Unit, run};
use super::host::{HostRef, export_host, import_host};
use super::value::{
    Blob, FAULT, Fault, Handle, PENDING, READY, Slice, Table, answer, demand, drop_raw,
};
use super::waker::WakerWords;
use super::{Panicked, guard};
use crate::connection::Connection;
use crate::context::OperationContext;
use crate::handler::HandlerError;
use crate::host::Host;
use crate::identity::AuthContext;
use crate::json::Json;
use crate::manifest::Manifest;
use crate::operation::{CallFuture, CallStream, Operation, OperationType, Subscription};
use crate::plugin::{Built, DynHandler, OperationCode, Plugin};

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
struct Exports<P, const ALONE: bool>(std::marker::PhantomData<P>);

impl<P: Plugin, const ALONE: bool> Exports<P, ALONE> {
    const TABLE: &'static WithMetadata<ModuleTable> =
        &WithMetadata::new(ModuleTable { manifest: manifest::<P>, build: build::<P, ALONE> });
}

extern "C" fn module<P: Plugin>() -> ModuleRef {
    ModuleRef(Exports::<P, true>::TABLE.static_as_prefix())
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

/// A plugin's functions, from the host's side.
#[derive(Clone, Copy)]
pub struct Module(ModuleRef);

/// Why a plugin's module gave no manifest or could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// The plugin says why.
    #[error("{0}")]
    Refused(String),
    /// The plugin's code panicked.
    #[error(transparent)]
    Panicked(#[from] Panicked),
    /// The plugin's manifest cannot be read.
    #[error("its manifest is malformed: {0}")]
    Manifest(String),
}

impl From<Fault> for ModuleError {
    fn from(fault: Fault) -> Self {
        fault.panic().map_or_else(|| Self::Refused(fault.message()), Self::Panicked)
    }
}

impl Module {
    /// Takes a plugin's functions.
    ///
    /// # Safety
    /// The table came from a library whose layout has been compared with
    /// [`layout`] and found compatible, and which is never unloaded.
    pub unsafe fn new(table: ModuleRef) -> Self {
        Self(table)
    }

    /// The functions of a plugin linked into this program, through the same
    /// crossings as those of a shared library.
    pub fn linked<P: Plugin>() -> Self {
        Self(ModuleRef(Exports::<P, false>::TABLE.static_as_prefix()))
    }

    /// The plugin's declaration of itself.
    ///
    /// # Errors
    /// A panic in the plugin, or text that is no manifest.
    pub fn manifest(&self) -> Result<Manifest, ModuleError> {
        // SAFETY: the table is a plugin's; `demand` passes places to write to.
        let text = demand(|out, fault| unsafe { self.0.manifest()(out, fault) })?;
        serde_json::from_slice(text.bytes())
            .map_err(|error| ModuleError::Manifest(error.to_string()))
    }

    /// Builds the plugin, whose manifest has been read with [`Module::manifest`].
    ///
    /// # Errors
    /// The plugin's own reason, or a panic in it.
    pub fn build(
        &self,
        manifest: Manifest,
        host: &Host,
        config: &Json,
    ) -> Result<Built, ModuleError> {
        let host = export_host(host.backend().clone());
        let config = Slice::new(config.as_bytes());
        // SAFETY: the table is a plugin's; `demand` passes places to write to.
        let plugin = demand(|out, fault| unsafe { self.0.build()(host, config, out, fault) })?;
        Ok(import_built(manifest, plugin))
    }
}

/// What the field of a next minor version said in the plugin last built: nothing
/// where the plugin does not have it.
#[cfg(feature = "abi-test-next")]
#[doc(hidden)]
pub static PROBED: std::sync::Mutex<Option<u64>> = std::sync::Mutex::new(None);

/// Takes a built plugin: the handlers and operations of its manifest.
pub(crate) fn import_built(manifest: Manifest, plugin: Handle<PluginRef>) -> Built {
    #[cfg(feature = "abi-test-next")]
    {
        // SAFETY: the handle is alive.
        let probed = plugin.table.probe().map(|probe| unsafe { probe(plugin.data) });
        *PROBED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = probed;
    }
    let plugin = Arc::new(plugin);
    let part = |index: usize| Part {
        plugin: plugin.clone(),
        // A manifest with 2^32 operations does not fit in memory.
        index: u32::try_from(index).unwrap_or(u32::MAX),
    };
    let handlers =
        (0..manifest.alpns.len()).map(|index| Arc::new(part(index)) as Arc<dyn DynHandler>);
    let operations =
        manifest.operations.iter().enumerate().map(|(index, spec)| match spec.op_type {
            OperationType::Subscription => OperationCode::Stream(Arc::new(part(index))),
            _ => OperationCode::Once(Arc::new(part(index))),
        });
    Built { handlers: handlers.collect(), operations: operations.collect(), manifest }
}

/// One handler or operation of a plugin of the other side.
struct Part {
    plugin: Arc<Handle<PluginRef>>,
    index: u32,
}

impl DynHandler for Part {
    fn handle(
        self: Arc<Self>,
        connection: Connection,
        auth: AuthContext,
    ) -> BoxFuture<'static, Result<(), HandlerError>> {
        Box::pin(async move {
            let auth = serde_json::to_vec(&auth)
                .map_err(|error| HandlerError::internal(error.to_string()))?;
            let task = {
                let connection = export_connection(connection.backend().clone());
                let Handle { data, table } = &*self.plugin;
                // SAFETY: the handle is alive; `demand` passes places to write to.
                demand(|out, fault| unsafe {
                    let auth = Slice::new(&auth);
                    table.handle()(*data, self.index, connection, auth, out, fault)
                })
            };
            // The connection is closed by the host when the handler returns, so
            // nothing of it may be held here meanwhile.
            drop(connection);
            run(task).await?;
            Ok(())
        })
    }
}

/// A call of an operation on the other side, begun at its first poll.
struct Call {
    plugin: Arc<Handle<PluginRef>>,
    index: u32,
    state: State,
}

enum State {
    New { context: OperationContext, input: bytes::Bytes },
    Running(RawTask<Blob>),
    Done,
}

impl Call {
    fn begin(
        &mut self,
        context: &OperationContext,
        input: &bytes::Bytes,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Blob, Fault>> {
        let context = export_context(context.backend().clone());
        let words = WakerWords::of(cx.waker());
        let mut out = MaybeUninit::<Blob>::uninit();
        let mut task = MaybeUninit::<RawTask<Blob>>::uninit();
        let mut fault = MaybeUninit::<Fault>::uninit();
        let Handle { data, table } = &*self.plugin;
        // SAFETY: the handle is alive, and everything lent lives through the call.
        let status = unsafe {
            table.call()(
                *data,
                self.index,
                context,
                Blob::argument(input),
                &words,
                out.as_mut_ptr(),
                task.as_mut_ptr(),
                fault.as_mut_ptr(),
            )
        };
        match status {
            // SAFETY: the status says that `out` was written.
            READY => Poll::Ready(Ok(unsafe { out.assume_init() })),
            PENDING => {
                // SAFETY: the status says that `task` was written.
                self.state = State::Running(unsafe { task.assume_init() });
                Poll::Pending
            }
            // SAFETY: the status says that `fault` was written.
            FAULT => Poll::Ready(Err(unsafe { fault.assume_init() })),
            status => Poll::Ready(Err(Fault::internal(&format!("unknown status {status}")))),
        }
    }
}

impl Future for Call {
    type Output = Result<Json, crate::CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = match std::mem::replace(&mut self.state, State::Done) {
            State::New { context, input } => self.begin(&context, &input, cx),
            State::Running(mut task) => match task.poll(cx) {
                Poll::Pending => {
                    self.state = State::Running(task);
                    Poll::Pending
                }
                Poll::Ready(Some(answer)) => Poll::Ready(answer),
                Poll::Ready(None) => Poll::Ready(Err(Fault::internal("the call gave no answer"))),
            },
            State::Done => Poll::Ready(Err(Fault::internal("a call was polled after its end"))),
        };
        polled.map(input)
    }
}

impl Operation for Part {
    fn call(&self, context: OperationContext, input: Json) -> CallFuture {
        let state = State::New { context, input: input.into_bytes() };
        Box::pin(Call { plugin: self.plugin.clone(), index: self.index, state })
    }
}

impl Subscription for Part {
    fn subscribe(&self, context: OperationContext, input: Json) -> CallStream {
        let context = export_context(context.backend().clone());
        let input = input.into_bytes();
        let Handle { data, table } = &*self.plugin;
        // SAFETY: the handle is alive, and everything lent lives through the call.
        import_items(demand(|out, fault| unsafe {
            let input = Blob::argument(&input);
            table.subscribe()(*data, self.index, context, input, out, fault)
        }))
    }
}
