//! The plugin as a whole, from the host's side: how its functions are called.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use super::Panicked;
use super::call::{export_context, import_items, input};
use super::connection::export_connection;
use super::fault::Fault;
use super::future::{RawTask, run};
use super::host::export_host;
use super::module::{Exports, ModuleRef, PluginRef};
use super::value::{Blob, FAULT, Handle, PENDING, READY, Slice, demand};
use super::waker::WakerWords;
use crate::connection::Connection;
use crate::context::OperationContext;
use crate::error::CallError;
use crate::handler::HandlerError;
use crate::host::Host;
use crate::identity::AuthContext;
use crate::json::Json;
use crate::manifest::Manifest;
use crate::operation::{CallFuture, CallStream, Operation, OperationType, Subscription};
use crate::plugin::{Built, DynHandler, OperationCode, Plugin};

/// A plugin's functions, from the host's side.
#[derive(Clone, Copy)]
pub struct Module {
    table: ModuleRef,
    /// Whether it was made without this crate, which checks what it hands out.
    foreign: bool,
}

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
    /// [`layout`](super::module::layout) and found compatible, and which is never unloaded.
    pub unsafe fn new(table: ModuleRef) -> Self {
        Self { table, foreign: false }
    }

    /// Takes the functions of a plugin in C.
    ///
    /// # Safety
    /// The table came from [`c::module`](super::c::module), and its library is never
    /// unloaded.
    pub unsafe fn foreign(table: ModuleRef) -> Self {
        Self { table, foreign: true }
    }

    /// The functions of a plugin linked into this program, through the same
    /// crossings as those of a shared library.
    pub fn linked<P: Plugin>() -> Self {
        Self { table: Exports::<P, false>::table(), foreign: false }
    }

    /// The plugin's declaration of itself.
    ///
    /// # Errors
    /// A panic in the plugin, or text that is no manifest.
    pub fn manifest(&self) -> Result<Manifest, ModuleError> {
        // SAFETY: the table is a plugin's; `demand` passes places to write to.
        let text = demand(|out, fault| unsafe { self.table.manifest()(out, fault) })?;
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
        let plugin = demand(|out, fault| unsafe { self.table.build()(host, config, out, fault) })?;
        if self.foreign && !super::c::is_complete(plugin.table) {
            return Err(ModuleError::Refused("its table of functions is incomplete".into()));
        }
        Ok(import_built(manifest, plugin, self.foreign))
    }
}

/// What the field of a next minor version said in the plugin last built: nothing
/// where the plugin does not have it.
#[cfg(feature = "abi-test-next")]
#[doc(hidden)]
pub static PROBED: std::sync::Mutex<Option<u64>> = std::sync::Mutex::new(None);

/// Takes a built plugin: the handlers and operations of its manifest.
pub(crate) fn import_built(manifest: Manifest, plugin: Handle<PluginRef>, foreign: bool) -> Built {
    #[cfg(feature = "abi-test-next")]
    {
        // SAFETY: the handle is alive.
        let probed = plugin.table.probe().map(|probe| unsafe { probe(plugin.data) });
        *PROBED.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = probed;
    }
    let plugin = Arc::new(plugin);
    let part = |index: usize| Part {
        plugin: plugin.clone(),
        foreign,
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
    foreign: bool,
}

/// What a foreign plugin says is JSON is passed on unread, so it must be.
fn checked(answer: Result<Json, CallError>) -> Result<Json, CallError> {
    Json::parse(answer?.into_bytes())
        .map_err(|error| CallError::internal(format!("the plugin's answer is not JSON: {error}")))
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
    foreign: bool,
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
    type Output = Result<Json, CallError>;

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
        polled.map(|answer| if self.foreign { checked(input(answer)) } else { input(answer) })
    }
}

impl Operation for Part {
    fn call(&self, context: OperationContext, input: Json) -> CallFuture {
        let state = State::New { context, input: input.into_bytes() };
        Box::pin(Call {
            plugin: self.plugin.clone(),
            index: self.index,
            foreign: self.foreign,
            state,
        })
    }
}

impl Subscription for Part {
    fn subscribe(&self, context: OperationContext, input: Json) -> CallStream {
        let context = export_context(context.backend().clone());
        let input = input.into_bytes();
        let Handle { data, table } = &*self.plugin;
        // SAFETY: the handle is alive, and everything lent lives through the call.
        let items = import_items(demand(|out, fault| unsafe {
            let input = Blob::argument(&input);
            table.subscribe()(*data, self.index, context, input, out, fault)
        }));
        if self.foreign { items.map(checked).boxed() } else { items }
    }
}
