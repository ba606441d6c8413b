//! The node's own operations, for its operators: `admin/status`,
//! `admin/plugins`, `admin/metrics`, `admin/reload`, `admin/acl-why`. Each needs the
//! scope `admin`.
//!
//! They are declared and attached like any plugin's, and pass through the same
//! registry, access decision and dispatch.

use std::sync::{Arc, OnceLock};

use alknet_plugin_api::{Built, CallError, Json, Manifest, OperationSpec, Registrar};
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
pub const NAME: &str = "admin";

/// The operations, answering from `sources`.
pub fn operations(sources: &Sources) -> Built {
    let mut on = Registrar::new();
    let status = sources.status.clone();
    on.operation_json("admin/status", move |_, _| answer(current(&status).map(|s| json!(s))));
    let plugins = sources.status.clone();
    on.operation_json("admin/plugins", move |_, _| {
        answer(current(&plugins).map(|s| json!({ "plugins": s.plugins })))
    });
    on.operation_json("admin/metrics", |_, _| answer(Ok(json!({ "text": metrics::render() }))));
    let source = sources.reload.clone();
    on.operation_json("admin/reload", move |_, _| reload(source.clone()));
    let answers = sources.answers.clone();
    on.operation_json("admin/acl-why", move |_, question| {
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
            .tag("admin")
            .scope("admin")
            .input(json!({ "type": "object", "additionalProperties": false }))
            .output(output)
    };
    let object = json!({ "type": "object" });
    Manifest::new(NAME, env!("CARGO_PKG_VERSION"))
        .description("The node's own operations, for its operators")
        .operation(query("admin/status", "The node at this moment", object.clone()))
        .operation(query(
            "admin/plugins",
            "The node's plugins: kind, trust, version, ALPNs, operations",
            object,
        ))
        .operation(query(
            "admin/metrics",
            "The node's metrics in Prometheus text form",
            json!({
                "type": "object",
                "required": ["text"],
                "properties": { "text": { "type": "string" } },
            }),
        ))
        .operation(
            OperationSpec::mutation("admin/reload")
                .description(
                    "Take up access.toml as it is now: peers, API keys, limits, log filter",
                )
                .tag("admin")
                .scope("admin")
                .input(json!({ "type": "object", "additionalProperties": false }))
                .output(json!({ "type": "object" }))
                .error(ACCESS_REFUSED, "The file has mistakes; what was in force stays so"),
        )
        .operation(
            query(
                "admin/acl-why",
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
    use super::*;

    #[test]
    fn every_declared_operation_has_code_and_needs_the_scope_admin() {
        let built = operations(&Sources::default());
        assert_eq!(built.operations.len(), 5);
        for spec in &built.manifest.operations {
            assert_eq!(spec.access_control.required_scopes, ["admin"], "{}", spec.name);
        }
    }
}
