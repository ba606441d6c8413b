//! A table of closures, for a client that is called back.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use alknet_plugin_api::{
    AbortPolicy, CallError, Gateway, GatewayCall, GatewayEvent, GatewayRequest, Json,
    OperationSpec, OperationSummary,
};
use futures_core::Stream;
use futures_util::{FutureExt, StreamExt, stream};

type Code = Arc<dyn Fn(GatewayRequest) -> GatewayCall + Send + Sync>;

/// Operations that a client serves to the side it dialled. There is no access
/// control, and schemas describe without being enforced: whoever holds the
/// connection may call everything.
#[derive(Default)]
pub struct LocalOperations {
    table: BTreeMap<String, (OperationSpec, Code)>,
}

impl LocalOperations {
    /// A table that holds nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers calls of `spec`'s name with `function`.
    #[must_use]
    pub fn operation<F, Fut>(mut self, spec: OperationSpec, function: F) -> Self
    where
        F: Fn(Json) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Json, CallError>> + Send + 'static,
    {
        let code: Code = Arc::new(move |request| {
            let answer = function(request.input).map(|result| match result {
                Ok(output) => GatewayEvent::Responded(output),
                Err(error) => GatewayEvent::Error(error),
            });
            GatewayCall::new(stream::once(answer))
        });
        self.table.insert(spec.name.clone(), (spec, code));
        self
    }

    /// Serves subscriptions of `spec`'s name with the streams that `function` makes.
    #[must_use]
    pub fn subscription<F, S>(mut self, spec: OperationSpec, function: F) -> Self
    where
        F: Fn(Json) -> S + Send + Sync + 'static,
        S: Stream<Item = Result<Json, CallError>> + Send + 'static,
    {
        let code: Code = Arc::new(move |request| {
            let items = function(request.input).map(|item| match item {
                Ok(item) => GatewayEvent::Responded(item),
                Err(error) => GatewayEvent::Error(error),
            });
            GatewayCall::new(items.chain(stream::iter([GatewayEvent::Completed])))
        });
        self.table.insert(spec.name.clone(), (spec, code));
        self
    }

    fn discover(&self, operation: &str, input: &Json) -> Result<Json, CallError> {
        let shown = |result: Result<Json, alknet_plugin_api::JsonError>| {
            result.map_err(|error| CallError::internal(error.to_string()))
        };
        if operation == "services/list" {
            let all: Vec<_> =
                self.table.values().map(|(spec, _)| OperationSummary::from(spec)).collect();
            return Ok(serde_json::json!({ "operations": all }).into());
        }
        if operation == "services/schema" {
            #[derive(serde::Deserialize)]
            struct Named {
                name: String,
            }
            let named: Named =
                input.to().map_err(|error| CallError::invalid_input(error.to_string()))?;
            let name = named.name.strip_prefix('/').unwrap_or(&named.name);
            if let Some((spec, _)) = self.table.get(name) {
                return shown(Json::of(spec));
            }
            return Err(CallError::not_found(format!("no operation {name}")));
        }
        Err(CallError::not_found(format!("no operation {operation}")))
    }
}

impl Gateway for LocalOperations {
    fn dispatch(&self, request: GatewayRequest) -> GatewayCall {
        let name = request.operation.strip_prefix('/').unwrap_or(&request.operation);
        if let Some((_, code)) = self.table.get(name) {
            return code(request);
        }
        let event = match self.discover(name, &request.input) {
            Ok(output) => GatewayEvent::Responded(output),
            Err(error) => GatewayEvent::Error(error),
        };
        GatewayCall::new(stream::iter([event]))
    }

    /// Dropping the call is all there is to do.
    fn abort(&self, _request_id: &str, _policy: AbortPolicy) {}
}
