//! The node's own operations, for its operators: `node/status`,
//! `node/plugins`, `node/metrics`, `node/acl-why`, which need one of the scopes
//! `admin` and `observe`, and `node/reload`, which needs `admin`.
//!
//! They are declared and attached like any plugin's, and pass through the same
//! registry, access decision and dispatch.

use std::sync::{Arc, OnceLock};

use alknet_plugin_api::{
    AccessControl, Built, CallError, Json, Manifest, OperationSpec, Registrar,
};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use crate::config::Problems;
use crate::observe::metrics;
use crate::observe::status::NodeStatus;

/// Tells the node's status.
pub type StatusSource = OnceLock<Box<dyn Fn() -> NodeStatus + Send + Sync>>;

/// Takes up `access.toml` and tells what has changed, or what is wrong with the
/// file; `None` where the node is stopping.
pub type ReloadSource = OnceLock<Box<dyn Fn() -> Reloading + Send + Sync>>;

/// A reload under way.
pub type Reloading = BoxFuture<'static, Option<Result<Value, Problems>>>;

/// What the operations answer from. Set once the node runs.
#[derive(Clone, Default)]
pub struct Sources {
    /// The node's status.
    pub status: Arc<StatusSource>,
    /// Takes up `access.toml`.
    pub reload: Arc<ReloadSource>,
    /// Answers questions about access. Set once the registry is frozen.
    pub answers: Arc<AnswerSource>,
}

/// The error of a reload that is refused; its details name the problems.
pub const ACCESS_REFUSED: &str = "ACCESS_REFUSED";

/// Answers a question about access; see [`why`](crate::assembly::why).
pub type AnswerSource = OnceLock<Box<dyn Fn(Json) -> Result<Json, CallError> + Send + Sync>>;

/// The name that these operations are registered under.
pub const NAME: &str = "node";

/// The scope that changes the node.
pub const ADMIN: &str = "admin";

/// The scope that looks at the node and changes nothing.
pub const OBSERVE: &str = "observe";

/// The operations, answering from `sources`.
pub fn operations(sources: &Sources) -> Built {
    let mut on = Registrar::new();
    let status = sources.status.clone();
    on.operation_json("node/status", move |_, _| answer(current(&status).map(|s| json!(s))));
    let plugins = sources.status.clone();
    on.operation_json("node/plugins", move |_, _| {
        answer(current(&plugins).map(|s| json!({ "plugins": s.plugins })))
    });
    on.operation_json("node/metrics", |_, _| answer(Ok(json!({ "text": metrics::render() }))));
    let source = sources.reload.clone();
    on.operation_json("node/reload", move |_, _| reload(source.clone()));
    let answers = sources.answers.clone();
    on.operation_json("node/acl-why", move |_, question| {
        std::future::ready(match answers.get() {
            Some(why) => why(question),
            None => Err(starting()),
        })
    });
    match on.finish(manifest()) {
        Ok(built) => built,
        Err(error) => unreachable!("the declaration above has code for each operation: {error}"),
    }
}

fn manifest() -> Manifest {
    let query = |name: &str, description: &str, output: Value| {
        OperationSpec::query(name)
            .description(description)
            .tag(NAME)
            .access(for_observers())
            .input(json!({ "type": "object", "additionalProperties": false }))
            .output(output)
    };
    let object = json!({ "type": "object" });
    Manifest::new(NAME, env!("CARGO_PKG_VERSION"))
        .description("The node's own operations, for its operators")
        .operation(query("node/status", "The node at this moment", object.clone()))
        .operation(query(
            "node/plugins",
            "The node's plugins: kind, trust, version, ALPNs, operations",
            object,
        ))
        .operation(query(
            "node/metrics",
            "The node's metrics in Prometheus text form",
            json!({
                "type": "object",
                "required": ["text"],
                "properties": { "text": { "type": "string" } },
            }),
        ))
        .operation(
            OperationSpec::mutation("node/reload")
                .description(
                    "Take up access.toml as it is now: peers, API keys, limits, log filter",
                )
                .tag(NAME)
                .scope(ADMIN)
                .input(json!({ "type": "object", "additionalProperties": false }))
                .output(json!({ "type": "object" }))
                .error(ACCESS_REFUSED, "The file has mistakes; what was in force stays so"),
        )
        .operation(
            query(
                "node/acl-why",
                "Whether an identity may call an operation, by which rule, and which lines say so",
                json!({
                    "type": "object",
                    "required": ["allowed", "steps"],
                    "properties": {
                        "allowed": { "type": "boolean" },
                        "steps": { "type": "array", "items": { "type": "object" } },
                    },
                }),
            )
            .input(json!({
                "type": "object",
                "required": ["identity", "operation"],
                "properties": {
                    "identity": { "type": "string" },
                    "operation": { "type": "string" },
                    "resource": { "type": "string" },
                    "via": { "type": "string" },
                },
                "additionalProperties": false,
            }))
            .example(json!({ "identity": "anonymous", "operation": "/services/list" })),
        )
}

/// What suffices to read.
fn for_observers() -> AccessControl {
    let either = [ADMIN, OBSERVE].map(str::to_owned).to_vec();
    AccessControl { required_scopes_any: Some(either), ..AccessControl::default() }
}

async fn reload(source: Arc<ReloadSource>) -> Result<Json, CallError> {
    let reloading = source.get().ok_or_else(starting)?;
    match reloading().await {
        Some(Ok(reloaded)) => Ok(reloaded.into()),
        Some(Err(problems)) => {
            let what = "access.toml is refused, and what was in force stays so";
            Err(CallError::new(ACCESS_REFUSED, what).with_details(json!({ "problems": problems })))
        }
        None => Err(CallError::internal("the node is stopping")),
    }
}

fn current(source: &StatusSource) -> Result<NodeStatus, CallError> {
    source.get().map(|status| status()).ok_or_else(starting)
}

fn starting() -> CallError {
    CallError::internal("the node is still starting").retryable(true)
}

fn answer(result: Result<Value, CallError>) -> std::future::Ready<Result<Json, CallError>> {
    std::future::ready(result.map(Json::from))
}

#[cfg(test)]
mod tests {
    use alknet_plugin_api::OperationType;

    use super::*;

    #[test]
    fn every_declared_operation_has_code_and_needs_a_scope() {
        let built = operations(&Sources::default());
        assert_eq!(built.operations.len(), built.manifest.operations.len());
        for spec in &built.manifest.operations {
            let access = &spec.access_control;
            match spec.op_type {
                OperationType::Mutation => assert_eq!(access.required_scopes, [ADMIN]),
                _ => assert_eq!(*access, for_observers(), "{}", spec.name),
            }
        }
    }
}
