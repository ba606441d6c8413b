//! The gateway's description, OpenAPI 3.1, as the caller may use it.
//!
//! It shows the five endpoints, and in them every operation that the caller may
//! call: the same listing that a search shows, by the same decision as a call.

use alknet_plugin_api::{OperationSpec, OperationSummary, OperationType};
use axum::extract::{Extension, State};
use axum::response::Response;
use serde_json::{Map, Value, json};

use crate::caller::Caller;
use crate::problem::Problem;
use crate::routes::{Node, json_response};

pub(crate) async fn document(
    State(node): State<Node>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    match caller.specs().await {
        Ok(specs) => Ok(json_response(describe(&specs, node.batch_calls).into())),
        Err(error) => Err(caller.problem("services/list", error).await),
    }
}

fn describe(specs: &[OperationSpec], batch_calls: usize) -> Value {
    let is =
        |kind| move |spec: &&OperationSpec| (spec.op_type == OperationType::Subscription) == kind;
    let calls: Vec<_> = specs.iter().filter(is(false)).collect();
    let subscriptions: Vec<_> = specs.iter().filter(is(true)).collect();
    let request = alternatives(&calls, request);
    let output = alternatives(&calls, |spec| schema(spec, "output", &spec.output_schema));
    let input = alternatives(&subscriptions, |spec| schema(spec, "input", &spec.input_schema));
    let items = alternatives(&subscriptions, |spec| schema(spec, "item", &spec.output_schema));
    let names: Vec<_> = subscriptions.iter().map(|spec| &spec.name).collect();
    let operation = match names.is_empty() {
        true => json!({ "type": "string" }),
        false => json!({ "enum": names }),
    };
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "alknet gateway",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The operations that this caller may call",
        },
        "servers": [{ "url": "/" }],
        "security": [{}, { "bearer": [] }],
        "paths": {
            "/search": { "get": endpoint("search", "Finds operations by name, description and tags", json!([
                query("q", "Words that all must occur", false, json!({ "type": "string" })),
                query("limit", "How many to show", false, json!({ "type": "integer", "minimum": 0, "maximum": usize::MAX })),
            ]), reference("Found")) },
            "/schema": { "get": endpoint("schema", "Shows one operation's declaration", json!([
                query("name", "The operation", true, json!({ "type": "string" })),
            ]), json!({ "type": "object" })) },
            "/call": { "post": with_body(
                endpoint("call", "Calls a query or mutation", json!([timeout()]), output),
                reference("Request"),
            ) },
            "/batch": { "post": with_body(
                endpoint("batch", "Makes calls side by side", json!([timeout()]), reference("Results")),
                json!({
                    "type": "object",
                    "required": ["calls"],
                    "additionalProperties": false,
                    "properties": { "calls": {
                        "type": "array", "items": reference("Call"), "maxItems": batch_calls,
                    } },
                }),
            ) },
            "/subscribe": { "get": {
                "operationId": "subscribe",
                "summary": "Subscribes; each event's data is an item, and the last event is \
                            `completed` or `failed`",
                "parameters": [
                    query("operation", "The subscription", true, operation),
                    {
                        "name": "input", "in": "query",
                        "description": "Its input as JSON; {} without it",
                        "content": { "application/json": { "schema": input } },
                    },
                    timeout(),
                ],
                "responses": {
                    "200": {
                        "description": "The items",
                        "content": { "text/event-stream": {
                            "schema": { "type": "string" }, "x-item-schema": items,
                        } },
                    },
                    "default": { "$ref": "#/components/responses/Problem" },
                },
            } },
        },
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "responses": { "Problem": {
                "description": "Why there is no other answer",
                "content": { "application/problem+json": { "schema": reference("Problem") } },
            } },
            "schemas": { "Call": any_call(), "Request": request, "Found": found(), "Problem": problem(), "Results": results() },
        },
    })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn endpoint(id: &str, summary: &str, parameters: Value, output: Value) -> Value {
    json!({
        "operationId": id,
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": {
                "description": "The answer",
                "content": { "application/json": { "schema": output } },
            },
            "default": { "$ref": "#/components/responses/Problem" },
        },
    })
}

fn with_body(mut endpoint: Value, schema: Value) -> Value {
    endpoint["requestBody"] =
        json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    endpoint
}

fn query(name: &str, description: &str, required: bool, schema: Value) -> Value {
    json!({
        "name": name, "in": "query", "description": description, "required": required,
        "schema": schema,
    })
}

fn timeout() -> Value {
    json!({
        "name": crate::gate::TIMEOUT.as_str(), "in": "header", "required": false,
        "description": "Milliseconds that the call may take",
        "schema": { "type": "integer", "minimum": 0, "maximum": u64::MAX },
    })
}

/// One of the operations; nothing where there is none.
fn alternatives(specs: &[&OperationSpec], of: impl Fn(&OperationSpec) -> Value) -> Value {
    match specs {
        [] => json!(false),
        specs => json!({ "anyOf": specs.iter().map(|spec| of(spec)).collect::<Vec<_>>() }),
    }
}

fn request(spec: &OperationSpec) -> Value {
    json!({
        "title": spec.name,
        "description": spec.description,
        "type": "object",
        "required": ["operation", "input"],
        "additionalProperties": false,
        "properties": {
            "operation": { "const": spec.name },
            "input": schema(spec, "input", &spec.input_schema),
        },
    })
}

/// A call of a batch, which answers also those that it cannot make.
fn any_call() -> Value {
    json!({
        "type": "object",
        "description": "A call as `/call` takes it; one that fails leaves the others alone",
        "required": ["operation", "input"],
        "additionalProperties": false,
        "properties": { "operation": { "type": "string" }, "input": {} },
    })
}

/// A schema of an operation, as a resource of its own: references in it keep
/// meaning its own definitions.
fn schema(spec: &OperationSpec, part: &str, schema: &Value) -> Value {
    let Value::Object(members) = schema else { return schema.clone() };
    let mut own = Map::new();
    own.insert("$id".into(), format!("urn:alknet:{}:{part}", spec.name).into());
    own.extend(members.clone());
    own.entry("title").or_insert_with(|| spec.name.clone().into());
    own.into()
}

fn found() -> Value {
    json!({
        "type": "object",
        "required": ["operations", "total"],
        "properties": {
            "total": { "type": "integer" },
            "operations": { "type": "array", "items": OperationSummary::schema() },
        },
    })
}

fn problem() -> Value {
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail", "code", "retryable"],
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "code": { "type": "string", "description": "What to decide by" },
            "retryable": { "type": "boolean" },
            "details": {},
        },
    })
}

fn results() -> Value {
    json!({
        "type": "object",
        "required": ["results"],
        "properties": { "results": { "type": "array", "items": { "oneOf": [
            { "type": "object", "required": ["output"], "properties": { "output": {} } },
            { "type": "object", "required": ["error"], "properties": { "error": reference("Problem") } },
        ] } } },
    })
}
