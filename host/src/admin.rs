//! The node's own operations, for its operators: `admin/status`,
//! `admin/plugins`, `admin/metrics`. Each needs the scope `admin`.
//!
//! They are declared and attached like any plugin's, and pass through the same
//! registry, access decision and dispatch.

use std::sync::{Arc, OnceLock};

use alknet_plugin_api::{Built, CallError, Json, Manifest, OperationSpec, Registrar};
use serde_json::json;

use crate::observe::metrics;
use crate::observe::status::NodeStatus;

/// Tells the node's status. Set once the node runs.
pub type StatusSource = Arc<OnceLock<Box<dyn Fn() -> NodeStatus + Send + Sync>>>;

/// The name that these operations are registered under.
pub const NAME: &str = "admin";

/// The operations, answering from `source`.
pub fn operations(source: &StatusSource) -> Built {
    let mut on = Registrar::new();
    let status = source.clone();
    on.operation_json("admin/status", move |_, _| answer(current(&status).map(|s| json!(s))));
    let plugins = source.clone();
    on.operation_json("admin/plugins", move |_, _| {
        answer(current(&plugins).map(|s| json!({ "plugins": s.plugins })))
    });
    on.operation_json("admin/metrics", |_, _| answer(Ok(json!({ "text": metrics::render() }))));
    match on.finish(manifest()) {
        Ok(built) => built,
        Err(error) => unreachable!("the declaration above has code for each operation: {error}"),
    }
}

fn manifest() -> Manifest {
    let query = |name: &str, description: &str, output: serde_json::Value| {
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
}

fn current(source: &StatusSource) -> Result<NodeStatus, CallError> {
    source
        .get()
        .map(|status| status())
        .ok_or_else(|| CallError::internal("the node is still starting").retryable(true))
}

fn answer(
    result: Result<serde_json::Value, CallError>,
) -> std::future::Ready<Result<Json, CallError>> {
    std::future::ready(result.map(Json::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_declared_operation_has_code_and_needs_the_scope_admin() {
        let built = operations(&StatusSource::default());
        assert_eq!(built.operations.len(), 3);
        for spec in &built.manifest.operations {
            assert_eq!(spec.access_control.required_scopes, ["admin"], "{}", spec.name);
        }
    }
}
