//! The declarations of the node's own operations.

use alknet_plugin_api::{AccessControl, Manifest, OperationSpec};
use serde_json::{Value, json};

use super::{ACCESS_REFUSED, ADMIN, NAME, OBSERVE, TOO_MANY_WATCHERS};
use crate::observe::recent::KEPT;

pub(super) fn manifest() -> Manifest {
    let declared = [
        status(),
        plugins(),
        connections(),
        operations(),
        events(),
        recent(),
        access(),
        acl_why(),
        metrics(),
        reload(),
    ];
    let manifest = Manifest::new(NAME, env!("CARGO_PKG_VERSION"))
        .description("The node's own operations, for its operators");
    declared.into_iter().fold(manifest, Manifest::operation)
}

/// What suffices to read.
fn for_observers(spec: OperationSpec) -> OperationSpec {
    let either = [ADMIN, OBSERVE].map(str::to_owned).to_vec();
    let access = AccessControl { required_scopes_any: Some(either), ..AccessControl::default() };
    spec.tag(NAME).access(access)
}

fn query(name: &str, description: &str) -> OperationSpec {
    for_observers(OperationSpec::query(name)).description(description).input(nothing())
}

fn nothing() -> Value {
    object(&[], json!({}))
}

/// An input: these properties and no others.
fn object(required: &[&str], properties: Value) -> Value {
    json!({
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": false,
    })
}

/// An output: these properties, all of them, and perhaps others.
fn having(properties: Value) -> Value {
    let required: Vec<_> = properties.as_object().into_iter().flatten().map(|(k, _)| k).collect();
    json!({ "type": "object", "required": required, "properties": properties })
}

fn list(items: Value) -> Value {
    json!({ "type": "array", "items": items })
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn texts() -> Value {
    list(text())
}

fn count() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn number() -> Value {
    json!({ "type": "number", "minimum": 0 })
}

fn maybe(kind: &str) -> Value {
    json!({ "type": [kind, "null"] })
}

/// Counts of the codes of errors.
fn by_code() -> Value {
    json!({ "type": "object", "additionalProperties": count() })
}

/// Which part of a long list.
fn paged(default: usize, most: usize) -> [(String, Value); 2] {
    [
        ("offset".to_owned(), json!({ "type": "integer", "minimum": 0, "default": 0 })),
        (
            "limit".to_owned(),
            json!({ "type": "integer", "minimum": 1, "maximum": most, "default": default }),
        ),
    ]
}

fn status() -> OperationSpec {
    query("node/status", "The node at this moment").example(json!({})).output(having(json!({
        "node_key": text(),
        "version": text(),
        "addresses": texts(),
        "tcp_addresses": texts(),
        "uptime_seconds": count(),
        "degraded": { "type": "boolean" },
        "plugins": list(json!({ "type": "object" })),
        "imports": list(json!({ "type": "object" })),
        "connections": list(json!({ "type": "object" })),
        "operations": count(),
        "resident_bytes": maybe("integer"),
    })))
}

fn plugins() -> OperationSpec {
    let limit = having(json!({
        "name": text(),
        "unit": { "enum": ["bytes", "milliseconds", "count"] },
        "each": maybe("string"),
        "limit": maybe("integer"),
        "used": maybe("integer"),
        "hits": count(),
        "enforced": { "type": "boolean" },
        "beyond": { "enum": ["refused", "waits", "stopped", "not enforceable"] },
    }));
    let plugin = having(json!({
        "name": text(),
        "kind": { "enum": ["native", "component"] },
        "trust": { "enum": ["native", "isolated", "confined"] },
        "version": text(),
        "alpns": texts(),
        "operations": texts(),
        "sha256": text(),
        "limits": list(limit),
        "usage": { "type": "object" },
        "grants": { "type": "object" },
    }));
    let description = "The node's plugins: what they are, how far they are trusted, what they may \
                       use, what they do use and what they are granted; and the limits on calls, \
                       which hold for all";
    query("node/plugins", description)
        .example(json!({}))
        .output(having(json!({ "plugins": list(plugin), "call_limits": { "type": "object" } })))
}

fn connections() -> OperationSpec {
    let connection = having(json!({
        "id": count(),
        "source": text(),
        "address": maybe("string"),
        "peer": maybe("string"),
        "identity": maybe("string"),
        "alpn": text(),
        "plugin": text(),
        "age_seconds": count(),
        "rtt_us": count(),
        "bytes_sent": count(),
        "bytes_received": count(),
        "streams": count(),
        "calls_in_flight": count(),
    }));
    let input = object(&[], Value::Object(paged(500, 5_000).into_iter().collect()));
    query("node/connections", "Who is connected: by what, as whom, how long, doing how much")
        .input(input)
        .example(json!({}))
        .output(having(json!({ "connections": list(connection), "total": count() })))
}

fn operations() -> OperationSpec {
    let calls = having(json!({
        "count": count(),
        "errors": by_code(),
        "in_flight": count(),
        "mean": maybe("number"),
        "p50": maybe("number"),
        "p90": maybe("number"),
        "p99": maybe("number"),
    }));
    let operation = having(json!({
        "name": text(),
        "plugin": text(),
        "op_type": { "enum": ["query", "mutation", "subscription"] },
        "visibility": { "enum": ["external", "internal"] },
        "provenance": text(),
        "description": text(),
        "tags": texts(),
        "access": { "type": "object" },
        "calls": calls,
    }));
    let description = "Every operation of the node: who serves it, what it asks for, how often it \
                       was called and how long that took, in seconds, since the node's start";
    query("node/operations", description)
        .input(object(
            &[],
            json!({
                "prefix": {
                    "type": "string", "default": "",
                    "description": "Names begin with this",
                },
                "plugin": { "type": "string", "description": "Served by this plugin" },
                "buckets": {
                    "type": "boolean", "default": true,
                    "description": "Whether each has its histogram of latency",
                },
            }),
        ))
        .example(json!({}))
        .example(json!({ "prefix": "node/", "buckets": false }))
        .output(having(json!({ "operations": list(operation), "refused": by_code() })))
}

/// What `node/recent` and `node/events` tell of what went wrong.
fn incident() -> Value {
    json!({
        "type": "object",
        "required": ["seq", "unix_ms", "kind", "code", "caller", "internal"],
        "properties": {
            "seq": count(),
            "unix_ms": count(),
            "kind": { "enum": ["error", "refusal"] },
            "code": text(),
            "operation": text(),
            "plugin": text(),
            "caller": maybe("string"),
            "internal": { "type": "boolean" },
            "rule": text(),
            "connection": count(),
            "micros": count(),
        },
    })
}

fn events() -> OperationSpec {
    let busy = having(json!({
        "calls_per_second": number(),
        "errors_per_second": number(),
        "in_flight": count(),
        "p50": maybe("number"),
        "p99": maybe("number"),
    }));
    let item = having(json!({
        "unix_ms": count(),
        "uptime_seconds": count(),
        "seconds": number(),
        "connections": count(),
        "resident_bytes": maybe("integer"),
        "in_flight": count(),
        "calls_per_second": number(),
        "errors_per_second": number(),
        "refusals_per_second": number(),
        "p50": maybe("number"),
        "p99": maybe("number"),
        "operations": { "type": "object", "additionalProperties": busy },
        "incidents": list(incident()),
    }));
    for_observers(OperationSpec::subscription("node/events"))
        .description(
            "The node at work, at once and then again and again: calls, errors and latencies of \
             the time since the last item, and what went wrong in it",
        )
        .input(object(
            &[],
            json!({
                "interval_ms": {
                    "type": "integer", "minimum": 250, "maximum": 60_000, "default": 1_000,
                    "description": "Milliseconds between items",
                },
            }),
        ))
        .example(json!({}))
        .example(json!({ "interval_ms": 5_000 }))
        .output(item)
        .error(TOO_MANY_WATCHERS, "The node serves no more of these subscriptions at a time")
}

fn recent() -> OperationSpec {
    query("node/recent", "The last errors and refusals that the node remembers, newest first")
        .input(object(
            &[],
            json!({
                "after": {
                    "type": "integer", "minimum": 0, "default": 0,
                    "description": "Only those with a greater `seq`",
                },
                "kind": { "enum": ["error", "refusal"] },
                "limit": {
                    "type": "integer", "minimum": 1, "maximum": 2 * KEPT, "default": KEPT,
                },
            }),
        ))
        .example(json!({}))
        .example(json!({ "kind": "refusal", "limit": 20 }))
        .output(having(json!({ "incidents": list(incident()) })))
}

fn access() -> OperationSpec {
    let identity = having(json!({
        "id": text(),
        "kind": { "enum": ["anonymous", "peer", "api_key"] },
        "name": text(),
        "fingerprints": texts(),
        "token": { "type": "boolean", "description": "Whether it has one" },
        "scopes": texts(),
        "active": { "type": "boolean" },
        "decisions": {
            "description": "For each operation, the index of its rule in `rules`",
            "type": "array", "items": count(),
        },
    }));
    let rule = having(json!({
        "allowed": { "type": "boolean" }, "code": maybe("string"), "rule": text(),
    }));
    let mut input = serde_json::Map::from_iter(paged(100, 1_000));
    let prefix = json!({
        "type": "string", "default": "",
        "description": "Only operations whose names begin with this",
    });
    input.insert("prefix".to_owned(), prefix);
    let description = "Who may call what: identities against the operations that the wire reaches, \
                       each by the decision that a call about any resource would meet";
    query("node/access", description)
        .input(object(&[], Value::Object(input)))
        .example(json!({}))
        .example(json!({ "prefix": "node/" }))
        .output(having(json!({
            "operations": texts(),
            "identities": list(identity),
            "total": count(),
            "rules": list(rule),
        })))
}

fn acl_why() -> OperationSpec {
    let description =
        "Whether an identity may call an operation, by which rule, and which lines say so";
    query("node/acl-why", description)
        .input(object(
            &["identity", "operation"],
            json!({
                "identity": {
                    "type": "string",
                    "description": "A peer's id, a token's first 8 characters, a key's \
                                    fingerprint, or `anonymous`",
                },
                "operation": text(),
                "resource": { "type": "string", "description": "The resource's id; any without" },
                "via": { "type": "string", "description": "The operation that makes the call" },
            }),
        ))
        .example(json!({ "identity": "anonymous", "operation": "/services/list" }))
        .output(having(json!({
            "allowed": { "type": "boolean" }, "steps": list(json!({ "type": "object" })),
        })))
}

fn metrics() -> OperationSpec {
    query("node/metrics", "The node's metrics in Prometheus text form")
        .example(json!({}))
        .output(having(json!({ "text": text() })))
}

fn reload() -> OperationSpec {
    OperationSpec::mutation("node/reload")
        .description("Take up access.toml as it is now: peers, API keys, limits, log filter")
        .tag(NAME)
        .scope(ADMIN)
        .input(nothing())
        .example(json!({}))
        .output(json!({ "type": "object" }))
        .error(ACCESS_REFUSED, "The file has mistakes; what was in force stays so")
}

#[cfg(test)]
mod tests {
    use alknet_plugin_api::OperationType;

    use super::super::{Sources, operations};

    #[test]
    fn k52_what_changes_needs_admin_and_what_reads_admin_or_observe() {
        let built = operations(&Sources::default());
        assert_eq!(built.operations.len(), built.manifest.operations.len());
        for spec in &built.manifest.operations {
            let access = &spec.access_control;
            let any = access.required_scopes_any.as_deref();
            if spec.op_type == OperationType::Mutation {
                assert_eq!((&*access.required_scopes, any), (&["admin".to_owned()][..], None));
            } else {
                let either = ["admin".to_owned(), "observe".to_owned()];
                assert_eq!((&*access.required_scopes, any), (&[][..], Some(&either[..])));
            }
        }
    }

    #[test]
    fn every_declaration_is_complete_and_its_examples_fit() {
        for spec in &operations(&Sources::default()).manifest.operations {
            assert_eq!(spec.problems(), [], "{}", spec.name);
            assert!(!spec.description.is_empty() && !spec.examples.is_empty(), "{}", spec.name);
            let input = jsonschema::validator_for(&spec.input_schema).unwrap();
            for example in &spec.examples {
                assert!(input.is_valid(example), "{}: {example}", spec.name);
            }
            jsonschema::validator_for(&spec.output_schema).unwrap();
            assert_eq!(spec.input_schema["additionalProperties"], false, "{}", spec.name);
        }
    }
}
