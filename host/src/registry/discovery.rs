//! `services/list`, `services/schema` and `services/list-peers`: what the
//! caller may call, by the same decision as the call itself; and
//! `services/whoami`: whom that decision is about.

use std::collections::BTreeMap;
use std::sync::Arc;

use alknet_plugin_api::{
    CallError, CallFuture, Identity, Json, OperationSpec, OperationSummary, Visibility,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Registry;
use super::access::Resource;
use super::call::Call;
use super::dispatch::bare_name;
use super::spec::{Code, Entry, HandlerRegistration, HostCall, HostOperation};

/// Who registers these operations.
const NODE: &str = "alknet";

/// The peer id under which a node lists its own operations.
const LOCAL: &str = "local";

/// The names that the registry itself takes.
pub(crate) fn names() -> Vec<String> {
    registrations(true).into_iter().map(|registration| registration.spec.name).collect()
}

pub(super) fn registrations(with_peers: bool) -> Vec<HandlerRegistration> {
    let operations = json!({ "type": "array", "items": OperationSummary::schema() });
    let list = OperationSpec::query("services/list")
        .description("The operations that the caller may call; their full declarations with `full`")
        .tag("discovery")
        .input(json!({ "properties": { "full": { "type": "boolean" } } }))
        .output(json!({
            "type": "object",
            "required": ["operations"],
            "properties": { "operations": operations },
        }));
    let schema = OperationSpec::query("services/schema")
        .description("The full declaration of one operation that the caller may call")
        .tag("discovery")
        .input(json!({
            "type": "object",
            "required": ["name"],
            "properties": { "name": { "type": "string" } },
        }))
        .example(json!({ "name": "services/list" }))
        .output(json!({ "type": "object" }));
    let list_peers = OperationSpec::query("services/list-peers")
        .description("The operations that the caller may call, by the peer that serves them")
        .tag("discovery")
        .output(json!({
            "type": "object",
            "required": ["peers"],
            "properties": { "peers": { "type": "array", "items": {
                "type": "object",
                "required": ["peer_id", "operations"],
                "properties": { "peer_id": { "type": "string" }, "operations": operations },
            } } },
        }));
    let whoami = OperationSpec::query("services/whoami")
        .description("The identity that the caller's key or token stands for; null for a stranger")
        .tag("discovery")
        .output(json!({
            "type": "object",
            "required": ["identity"],
            "properties": { "identity": {
                "type": ["object", "null"],
                "required": ["id", "scopes", "resources"],
                "properties": {
                    "id": { "type": "string" },
                    "scopes": { "type": "array", "items": { "type": "string" } },
                    "resources": { "type": "object" },
                },
            } },
        }));
    let mut all = vec![
        host_operation(list, |call, input| Ok(list_operations(&call.0, &input))),
        host_operation(schema, |call, input| describe(&call.0, &input)),
        host_operation(whoami, |call, _| Ok(identity(&call.0))),
    ];
    if with_peers {
        all.push(host_operation(list_peers, |call, _| Ok(list_by_peer(&call.0))));
    }
    all
}

fn host_operation<F>(spec: OperationSpec, function: F) -> HandlerRegistration
where
    F: Fn(HostCall, Json) -> Result<Json, CallError> + Send + Sync + 'static,
{
    struct Function<F>(F);
    impl<F> HostOperation for Function<F>
    where
        F: Fn(HostCall, Json) -> Result<Json, CallError> + Send + Sync + 'static,
    {
        fn call(&self, call: HostCall, input: Json) -> CallFuture {
            let answer = (self.0)(call, input);
            Box::pin(std::future::ready(answer))
        }
    }
    HandlerRegistration::new(spec, Code::Host(Arc::new(Function(function))), NODE)
}

/// What the wire shows to `subject`.
fn visible(registry: &Registry, entry: &Entry, subject: Option<&Identity>) -> bool {
    entry.spec.visibility == Visibility::External && allowed(registry, entry, subject)
}

fn allowed(registry: &Registry, entry: &Entry, subject: Option<&Identity>) -> bool {
    let resource = match entry.spec.resource_id_path {
        Some(_) => Resource::Unknown,
        None => Resource::Undeclared,
    };
    registry.decide(entry, subject, resource).is_ok()
}

/// What this discovery call's caller may call: on the wire, External operations
/// that its identity passes; composed, what its parent may invoke.
fn callable(call: &Arc<Call>) -> Vec<Arc<Entry>> {
    let registry = &call.registry;
    let subject = call.identity.as_deref();
    let Some(parent) = &call.parent else {
        let mut entries: Vec<_> = registry.sorted.to_vec();
        entries.extend(registry.imports.sorted());
        entries.retain(|entry| visible(registry, entry, subject));
        return entries;
    };
    let names = parent.scoped_env().map(|env| &env.allowed_ops);
    names
        .into_iter()
        .flatten()
        .filter_map(|name| registry.in_reach(parent, name))
        .filter(|entry| allowed(registry, entry, subject))
        .collect()
}

/// Every field stands, also the empty ones.
fn identity(call: &Call) -> Json {
    let identity = call.identity.as_deref().map(|identity| {
        json!({
            "id": identity.id, "scopes": identity.scopes, "resources": identity.resources,
        })
    });
    json!({ "identity": identity }).into()
}

fn summaries(entries: &[Arc<Entry>]) -> Vec<&Json> {
    entries.iter().map(|entry| &entry.summary).collect()
}

fn list_operations(call: &Arc<Call>, input: &Json) -> Json {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Input {
        full: bool,
    }
    // The input may be anything but an object with another `full`.
    let full = matches!(input.to(), Ok(Input { full: true }));
    let entries = callable(call);
    let shown = match full {
        true => entries.iter().map(|entry| &entry.description).collect(),
        false => summaries(&entries),
    };
    array_in("operations", shown)
}

/// Puts JSON texts together without parsing them again.
fn array_in(key: &str, items: Vec<&Json>) -> Json {
    let size: usize = items.iter().map(|item| item.as_bytes().len() + 1).sum();
    let mut text = Vec::with_capacity(size + key.len() + 8);
    text.extend_from_slice(format!("{{\"{key}\":[").as_bytes());
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            text.push(b',');
        }
        text.extend_from_slice(item.as_bytes());
    }
    text.extend_from_slice(b"]}");
    Json::from_checked(text)
}

fn describe(call: &Arc<Call>, input: &Json) -> Result<Json, CallError> {
    #[derive(Deserialize)]
    struct Input {
        name: String,
    }
    let Input { name } = input.to().map_err(|error| CallError::invalid_input(error.to_string()))?;
    let name = bare_name(&name);
    let registry = &call.registry;
    let entry = match &call.parent {
        None => registry.on_wire(name),
        Some(parent) => registry.in_reach(parent, name),
    };
    entry
        .filter(|entry| allowed(registry, entry, call.identity.as_deref()))
        .map(|entry| entry.description.clone())
        .ok_or_else(|| CallError::not_found(format!("there is no operation `{name}`")))
}

fn list_by_peer(call: &Arc<Call>) -> Json {
    let registry = &call.registry;
    let subject = call.identity.as_deref();
    let mut peers: BTreeMap<usize, (Arc<str>, Vec<Arc<Entry>>)> = BTreeMap::new();
    peers.insert(0, (LOCAL.into(), callable(call)));
    if let Some(source) = &registry.peers {
        for (i, peer_id) in source.attached().into_iter().enumerate() {
            let mut entries = source.operations(&peer_id);
            entries.retain(|entry| match &call.parent {
                None => visible(registry, entry, subject),
                Some(parent) => {
                    let reaches = parent
                        .scoped_env()
                        .is_some_and(|env| env.reaches_peer(&peer_id, &entry.spec.name));
                    reaches && allowed(registry, entry, subject)
                }
            });
            peers.insert(i + 1, (peer_id, entries));
        }
    }
    let peers: Vec<Value> = peers
        .into_values()
        .map(
            |(peer_id, entries)| json!({ "peer_id": &*peer_id, "operations": summaries(&entries) }),
        )
        .collect();
    json!({ "peers": peers }).into()
}
