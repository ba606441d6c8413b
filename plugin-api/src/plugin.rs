//! A plugin: its declaration and the code behind it.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connection::Connection;
use crate::context::OperationContext;
use crate::error::CallError;
use crate::handler::{HandlerError, ProtocolHandler};
use crate::host::Host;
use crate::identity::AuthContext;
use crate::json::Json;
use crate::manifest::Manifest;
use crate::operation::{
    CallFuture, CallStream, ItemSink, Operation, OperationType, SinkStream, Subscription,
};

/// What a plugin crate exports, with `alknet_plugin_api::export!(Type)`.
pub trait Plugin: 'static {
    /// What the plugin is and serves. The host calls it before
    /// [`build`](Plugin::build), and tools call it without ever building.
    fn manifest() -> Manifest;

    /// Attaches code to everything that the manifest declares. `config` has
    /// passed the manifest's schema; it is `{}` where the deployment file gives
    /// none.
    ///
    /// # Errors
    /// What is wrong, in the operator's words. The node then does not start (or
    /// starts without the plugin, where the file says `required = false`).
    fn build(host: Host, config: Json, on: &mut Registrar) -> Result<(), BuildError>;
}

/// Why a plugin could not be built.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BuildError(pub String);

impl BuildError {
    /// An error with this text.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl From<crate::JsonError> for BuildError {
    fn from(error: crate::JsonError) -> Self {
        Self(error.to_string())
    }
}

impl From<std::io::Error> for BuildError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// A [`ProtocolHandler`] behind a pointer.
pub trait DynHandler: Send + Sync {
    /// As [`ProtocolHandler::handle`].
    fn handle(
        self: Arc<Self>,
        connection: Connection,
        auth: AuthContext,
    ) -> BoxFuture<'static, Result<(), HandlerError>>;
}

impl<H: ProtocolHandler> DynHandler for H {
    fn handle(
        self: Arc<Self>,
        connection: Connection,
        auth: AuthContext,
    ) -> BoxFuture<'static, Result<(), HandlerError>> {
        Box::pin(async move { ProtocolHandler::handle(&*self, connection, &auth).await })
    }
}

/// The code of one operation.
#[derive(Clone)]
pub enum OperationCode {
    /// A query or mutation.
    Once(Arc<dyn Operation>),
    /// A subscription.
    Stream(Arc<dyn Subscription>),
}

impl OperationCode {
    fn fits(&self, op_type: OperationType) -> bool {
        matches!(self, Self::Stream(_)) == (op_type == OperationType::Subscription)
    }
}

/// Takes the code for what a manifest declares.
#[derive(Default)]
pub struct Registrar {
    handlers: BTreeMap<String, Arc<dyn DynHandler>>,
    operations: BTreeMap<String, OperationCode>,
    problems: Vec<String>,
}

impl Registrar {
    /// A registrar that holds nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves an ALPN.
    pub fn handler(&mut self, alpn: &str, handler: impl ProtocolHandler) {
        self.shared_handler(alpn, Arc::new(handler));
    }

    /// Serves an ALPN with a handler that serves others too.
    pub fn shared_handler(&mut self, alpn: &str, handler: Arc<dyn DynHandler>) {
        if self.handlers.insert(alpn.to_owned(), handler).is_some() {
            self.problems.push(format!("ALPN `{alpn}` was given two handlers"));
        }
    }

    /// Answers calls of `name` with a function from one Rust type to another.
    /// Input that does not have the first one's shape is refused with
    /// `INVALID_INPUT` before the function runs.
    pub fn operation<I, O, F, Fut>(&mut self, name: &str, function: F)
    where
        I: DeserializeOwned + Send + 'static,
        O: Serialize + 'static,
        F: Fn(OperationContext, I) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, CallError>> + Send + 'static,
    {
        let function = Arc::new(function);
        self.operation_json(name, move |context, input: Json| {
            let function = function.clone();
            async move {
                let input = parse_input(&input)?;
                let output = function(context, input).await?;
                Json::of(&output).map_err(|error| CallError::internal(error.to_string()))
            }
        });
    }

    /// Answers calls of `name` with a function from JSON text to JSON text.
    pub fn operation_json<F, Fut>(&mut self, name: &str, function: F)
    where
        F: Fn(OperationContext, Json) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Json, CallError>> + Send + 'static,
    {
        struct Function<F>(F);
        impl<F, Fut> Operation for Function<F>
        where
            F: Fn(OperationContext, Json) -> Fut + Send + Sync + 'static,
            Fut: Future<Output = Result<Json, CallError>> + Send + 'static,
        {
            fn call(&self, context: OperationContext, input: Json) -> CallFuture {
                Box::pin((self.0)(context, input))
            }
        }
        self.code(name, OperationCode::Once(Arc::new(Function(function))));
    }

    /// Serves subscriptions of `name` with an async function that sends items
    /// and returns at the end. It is dropped where the caller leaves.
    pub fn subscription<I, T, F, Fut>(&mut self, name: &str, function: F)
    where
        I: DeserializeOwned + Send + 'static,
        T: Serialize + 'static,
        F: Fn(OperationContext, I, ItemSink<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), CallError>> + Send + 'static,
    {
        let function = Arc::new(function);
        self.subscription_stream(name, move |context, input: Json| {
            let function = function.clone();
            SinkStream::new(move |sink| async move {
                let input = parse_input(&input)?;
                function(context, input, sink).await
            })
        });
    }

    /// Serves subscriptions of `name` with a stream of JSON text.
    pub fn subscription_stream<F, S>(&mut self, name: &str, function: F)
    where
        F: Fn(OperationContext, Json) -> S + Send + Sync + 'static,
        S: Stream<Item = Result<Json, CallError>> + Send + 'static,
    {
        struct Function<F>(F);
        impl<F, S> Subscription for Function<F>
        where
            F: Fn(OperationContext, Json) -> S + Send + Sync + 'static,
            S: Stream<Item = Result<Json, CallError>> + Send + 'static,
        {
            fn subscribe(&self, context: OperationContext, input: Json) -> CallStream {
                (self.0)(context, input).boxed()
            }
        }
        self.code(name, OperationCode::Stream(Arc::new(Function(function))));
    }

    /// Serves `name` with code that is already behind a pointer.
    pub fn code(&mut self, name: &str, code: OperationCode) {
        if self.operations.insert(name.to_owned(), code).is_some() {
            self.problems.push(format!("operation `{name}` was attached twice"));
        }
    }

    /// Checks that exactly what `manifest` declares has been attached.
    ///
    /// # Errors
    /// Everything that is missing, undeclared or of the wrong kind, in one text.
    pub fn finish(mut self, manifest: Manifest) -> Result<Built, BuildError> {
        self.check(&manifest)?;
        let handlers = manifest.alpns.iter().filter_map(|alpn| self.handlers.remove(alpn));
        let operations =
            manifest.operations.iter().filter_map(|spec| self.operations.remove(&spec.name));
        let (handlers, operations) = (handlers.collect(), operations.collect());
        Ok(Built { manifest, handlers, operations })
    }

    /// As [`Registrar::finish`], which it is the first half of.
    pub(crate) fn check(&self, manifest: &Manifest) -> Result<(), BuildError> {
        let mut problems = self.problems.clone();
        problems.extend(manifest.problems().iter().map(ToString::to_string));
        for alpn in &manifest.alpns {
            if !self.handlers.contains_key(alpn) {
                problems.push(format!("ALPN `{alpn}` is declared but has no handler"));
            }
        }
        for spec in &manifest.operations {
            match self.operations.get(&spec.name) {
                Some(code) if code.fits(spec.op_type) => {}
                Some(_) => problems.push(format!(
                    "operation `{}` is declared a {:?} but its code is of the other kind",
                    spec.name, spec.op_type
                )),
                None => {
                    problems.push(format!("operation `{}` is declared but has no code", spec.name))
                }
            }
        }
        for alpn in self.handlers.keys().filter(|alpn| !manifest.alpns.contains(alpn)) {
            problems.push(format!("ALPN `{alpn}` has a handler but is not declared"));
        }
        let declared = |name: &String| manifest.operations.iter().any(|spec| spec.name == *name);
        for name in self.operations.keys().filter(|name| !declared(name)) {
            problems.push(format!("operation `{name}` has code but is not declared"));
        }
        if problems.is_empty() { Ok(()) } else { Err(BuildError(problems.join("; "))) }
    }

    /// What serves an ALPN.
    #[cfg(target_family = "wasm")]
    pub(crate) fn handler_of(&self, alpn: &str) -> Option<Arc<dyn DynHandler>> {
        self.handlers.get(alpn).cloned()
    }

    /// What answers an operation.
    #[cfg(target_family = "wasm")]
    pub(crate) fn code_of(&self, name: &str) -> Option<&OperationCode> {
        self.operations.get(name)
    }
}

/// A plugin ready to serve: handlers and code in the manifest's order.
pub struct Built {
    /// What the plugin is and serves.
    pub manifest: Manifest,
    /// A handler for each of the manifest's ALPNs.
    pub handlers: Vec<Arc<dyn DynHandler>>,
    /// The code of each of the manifest's operations.
    pub operations: Vec<OperationCode>,
}

impl Built {
    /// Builds a plugin linked into this program.
    ///
    /// # Errors
    /// The plugin's own, or a mismatch between manifest and code.
    pub fn new<P: Plugin>(host: Host, config: Json) -> Result<Self, BuildError> {
        let mut registrar = Registrar::new();
        P::build(host, config, &mut registrar)?;
        registrar.finish(P::manifest())
    }
}

fn parse_input<I: DeserializeOwned>(input: &Json) -> Result<I, CallError> {
    input.to().map_err(|error| CallError::invalid_input(error.to_string()))
}
