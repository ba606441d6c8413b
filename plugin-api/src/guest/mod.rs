//! The author's API inside a WebAssembly component.
//!
//! Here the traits of [`backend`](crate::backend) stand on the imports of the
//! WIT world in `wit/`, and the world's exports stand on a [`Plugin`], so that
//! the source of a plugin builds for `wasm32-wasip2` as it is.
//!
//! A component differs from a shared library in three ways that its author
//! notices:
//!
//! - The host makes an instance for each connection and keeps a few for calls,
//!   and builds the plugin in each. State is not shared between them.
//! - An instance serves one connection, or one call at a time. A task that
//!   [`Host::spawn`](crate::Host::spawn) started runs beside that connection or
//!   call and is dropped at its end.
//! - A panic ends the instance, with its text in the node's log.
//!
//! A call that is aborted is dropped where it waits. A handler that has not
//! returned a second after its connection's end is dropped too.

// Whoever enables threads in a component must replace `Local` first.
#[cfg(target_feature = "atomics")]
compile_error!("components with threads are not supported");

mod connection;
mod forward;
mod host;
mod local;
mod operations;
mod stream;

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;

use crate::connection::Connection;
use crate::context::OperationContext;
use crate::error::CallError;
use crate::handler::HandlerError;
use crate::host::Host;
use crate::json::Json;
use crate::plugin::{OperationCode, Plugin, Registrar};
use bindings::alknet::plugin::types;

/// What `wit-bindgen` makes of the world.
#[doc(hidden)]
#[allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "plugin",
        pub_export_macro: true,
        export_macro_name: "export_world",
        default_bindings_module: "alknet_plugin_api::guest::bindings",
    });
}

/// Exports a plugin from a component; [`export!`](crate::export) expands to it.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_component {
    ($plugin:ty) => {
        #[allow(unsafe_code)]
        mod __alknet_component {
            #[allow(unused_imports)]
            use super::*;
            type Exported = $crate::guest::Exports<$plugin>;
            $crate::guest::bindings::export_world!(
                Exported with_types_in $crate::guest::bindings
            );
        }
    };
}
#[doc(hidden)]
pub use __export_component as __export;

/// How long a handler may outlive its connection. Hosts give more, so that the
/// handler's destructors run.
const LEAVE: Duration = Duration::from_secs(1);

/// The world's exports, for one plugin.
#[doc(hidden)]
pub struct Exports<P>(PhantomData<P>);

thread_local! {
    /// The plugin's code, once built. One instance holds one plugin.
    static BUILT: RefCell<Option<Rc<Registrar>>> = const { RefCell::new(None) };
}

/// The built plugin. The host always builds first, so that its absence is the
/// host's mistake and worth a trap.
fn built() -> Rc<Registrar> {
    BUILT.with_borrow(Clone::clone).unwrap_or_else(|| panic!("called before `build`"))
}

impl<P: Plugin> bindings::Guest for Exports<P> {
    fn manifest() -> String {
        serde_json::to_string(&P::manifest())
            .unwrap_or_else(|error| panic!("the manifest is not JSON: {error}"))
    }

    fn build(config: String) -> Result<(), String> {
        let host = Host::new(Arc::new(host::GuestHost));
        forward::install(host.clone());
        let mut registrar = Registrar::new();
        P::build(host, Json::from_checked(config), &mut registrar)
            .map_err(|error| error.to_string())?;
        BUILT.set(Some(Rc::new(registrar)));
        Ok(())
    }

    fn verify() -> Result<(), String> {
        built().check(&P::manifest()).map_err(|error| error.to_string())
    }

    async fn handle(
        alpn: String,
        connection: bindings::Connection,
        auth: String,
    ) -> Result<(), types::HandlerError> {
        let Some(handler) = built().handler_of(&alpn) else {
            return Err(types::HandlerError::Internal(format!("no handler for ALPN `{alpn}`")));
        };
        let auth = serde_json::from_str(&auth)
            .map_err(|error| types::HandlerError::Internal(format!("auth: {error}")))?;
        let connection = Arc::new(connection::GuestConnection::new(connection));
        let open = connection.resource();
        let result = local::run(handler.handle(Connection::new(connection), auth), async move {
            open.closed().await;
            bindings::alknet::plugin::host::sleep(LEAVE.as_nanos() as u64).await;
        })
        .await;
        result.unwrap_or(Err(HandlerError::ConnectionClosed)).map_err(|error| match error {
            HandlerError::ConnectionClosed => types::HandlerError::ConnectionClosed,
            HandlerError::StreamError(error) => types::HandlerError::StreamError(error.to_string()),
            HandlerError::AuthRequired => types::HandlerError::AuthRequired,
            HandlerError::Internal(error) => types::HandlerError::Internal(error.to_string()),
        })
    }

    async fn call(
        operation: String,
        context: bindings::Context,
        input: Vec<u8>,
    ) -> Result<Vec<u8>, types::CallError> {
        let built = built();
        let Some(OperationCode::Once(code)) = built.code_of(&operation) else {
            return Err(unknown(&operation).into());
        };
        let context = Arc::new(operations::GuestContext::new(context));
        let live = context.resource();
        let future = code.call(OperationContext::wrap(context), Json::from_checked(input));
        let output = local::run(future, live.cancelled()).await;
        let output = output.unwrap_or_else(|| Err(given_up(&live)))?;
        Ok(output.into_bytes().into())
    }

    async fn subscribe(
        operation: String,
        context: bindings::Context,
        input: Vec<u8>,
        items: bindings::ItemSink,
    ) -> Result<(), types::CallError> {
        let built = built();
        let Some(OperationCode::Stream(code)) = built.code_of(&operation) else {
            return Err(unknown(&operation).into());
        };
        let context = Arc::new(operations::GuestContext::new(context));
        let live = context.resource();
        let mut stream = code.subscribe(OperationContext::wrap(context), Json::from_checked(input));
        let pump = async move {
            while let Some(item) = stream.next().await {
                items.send(item?.into_bytes().into()).await;
            }
            Ok::<(), CallError>(())
        };
        let ended = local::run(pump, live.cancelled()).await;
        ended.unwrap_or_else(|| Err(given_up(&live)))?;
        Ok(())
    }
}

/// What a call that was dropped answers, should anybody still ask.
fn given_up(context: &bindings::Context) -> CallError {
    match context.remaining() {
        Some(0) => CallError::timeout(),
        _ => CallError::aborted("the call was aborted"),
    }
}

fn unknown(operation: &str) -> CallError {
    CallError::internal(format!("no code of this kind for operation `{operation}`"))
}

impl From<CallError> for types::CallError {
    fn from(error: CallError) -> Self {
        Self {
            code: error.code.into_owned(),
            message: error.message,
            retryable: error.retryable,
            details: error.details.map(|details| details.into_bytes().into()),
        }
    }
}

impl From<types::CallError> for CallError {
    fn from(error: types::CallError) -> Self {
        Self {
            code: match crate::code::lookup(&error.code) {
                Some(known) => known.into(),
                None => error.code.into(),
            },
            message: error.message,
            retryable: error.retryable,
            details: error.details.map(Json::from_checked),
        }
    }
}
