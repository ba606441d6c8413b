//! The effective deployment as `alknet check --explain` prints it.

use serde_json::json;

use super::failure::Failure;
use super::output::visible;
use super::{Output, Table};
use crate::assembly::explain::{Effective, Operation, Plugin, Reach, Secret, everybody};
use crate::budget::LimitStatus;

/// Callers that are named in a cell, before the rest is counted.
const NAMED: usize = 6;

/// Prints it: the node, where it listens, who is known, then one block a plugin.
pub(super) fn print(effective: &Effective, output: &Output) -> Result<(), Failure> {
    node(effective, output)?;
    section(output, "listeners", &listeners(effective))?;
    section(output, "identities", &identities(effective))?;
    for one in &effective.plugins {
        plugin(one, output)?;
    }
    section(output, "the node's own operations", &operations(&effective.own_operations))?;
    if !effective.imports.is_empty() {
        section(output, "imports, not contacted", &imports(effective))?;
    }
    output.line("")
}

/// A table below its name.
fn section(output: &Output, name: &str, table: &Table) -> Result<(), Failure> {
    output.line("")?;
    output.line(&output.heading(name))?;
    output.line(&indented(&output.rendered(table)))
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

/// A name and its value, of a block.
fn field(output: &Output, name: &str, value: &str) -> Result<(), Failure> {
    output.line(&format!("  {name:10} {}", visible(value)))
}

fn node(effective: &Effective, output: &Output) -> Result<(), Failure> {
    let node = &effective.node;
    let kind = if node.development { "development node" } else { "node" };
    output.line(&output.heading(&format!("{kind} {}", node.key)))?;
    field(output, "file", &node.file.display().to_string())?;
    let keys: Vec<_> = node.trusted_plugin_keys.iter().map(ToString::to_string).collect();
    let publishers = match keys.is_empty() {
        true => "any plugin whose digest is pinned".to_owned(),
        false => format!("plugins signed by {}", keys.join(" or ")),
    };
    field(output, "takes", &publishers)?;
    let files = match node.sandboxed {
        true => "its own, and what [sandbox] lists",
        false => "whatever its user may read and write",
    };
    field(output, "files", files)?;
    let limits = &effective.limits;
    let mut bounds = vec![
        format!("{} connections", limits.connections),
        format!("{} calls each", limits.calls_per_connection),
        format!("{} calls below a call", limits.descendants_per_call),
    ];
    bounds.extend(limits.calls_per_identity.map(|count| format!("{count} calls of an identity")));
    bounds.extend(limits.calls_per_second.map(|rate| format!("{rate} calls a second of each")));
    field(output, "limits", &bounds.join(", "))
}

fn listeners(effective: &Effective) -> Table {
    let mut table = Table::new(["transport", "address", "ALPNs"]);
    for listener in &effective.listeners {
        table.row([listener.transport, &listener.address, &listener.alpns.join(", ")]);
    }
    table
}

fn identities(effective: &Effective) -> Table {
    let mut table = Table::new(["id", "kind", "counts", "scopes", "may call"]);
    for one in &effective.identities {
        let active = if one.active { "yes" } else { "no" };
        let count = format!("{} operations", one.operations);
        table.row([&*one.id, one.kind, active, &one.scopes.join(", "), &count]);
    }
    table
}

fn plugin(plugin: &Plugin, output: &Output) -> Result<(), Failure> {
    output.line("")?;
    output.line(&output.heading(&format!("plugin {} {}", plugin.name, plugin.version)))?;
    if let Some(why) = &plugin.missing {
        output.line(&format!("  {:10} {}", "missing", output.alarming(first_line(why))))?;
    }
    let trust = match &*plugin.trust {
        "native" => output.alarming("native: it can do whatever the daemon's process can"),
        "isolated" => visible("isolated: it can do whatever its own process can"),
        "confined" => visible("confined: it sees only what it is given"),
        other => visible(other),
    };
    output.line(&format!("  {:10} {trust}", "trust"))?;
    field(output, "artifact", &plugin.artifact.display().to_string())?;
    let pinned = if plugin.pinned { "pinned" } else { "not pinned" };
    let signed = if plugin.signed { ", signed" } else { "" };
    field(output, "sha256", &format!("{} ({pinned}{signed})", plugin.sha256))?;
    field(output, "ALPNs", &or(plugin.alpns.join(", "), "none"))?;
    if plugin.gateway {
        field(output, "gateway", "it makes calls on behalf of its peers, with their rights")?;
    }
    field(output, "authority", &authority(plugin))?;
    many(output, "reach", plugin.reach.iter().map(reach))?;
    many(output, "secrets", plugin.secrets.iter().map(secret))?;
    field(output, "outbound", &or(plugin.outbound.join(", "), "none by the host"))?;
    if !plugin.owns.is_empty() {
        field(output, "owns", &plugin.owns.join(", "))?;
    }
    field(output, "limits", &limits(plugin))?;
    match plugin.operations.is_empty() {
        true => field(output, "operations", "none"),
        false => output.line(&indented(&output.rendered(&operations(&plugin.operations)))),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn or(text: String, empty: &str) -> String {
    if text.is_empty() { empty.to_owned() } else { text }
}

/// A field of several lines.
fn many(output: &Output, name: &str, lines: impl Iterator<Item = String>) -> Result<(), Failure> {
    let mut lines = lines.peekable();
    if lines.peek().is_none() {
        return field(output, name, "none");
    }
    lines
        .enumerate()
        .try_for_each(|(at, line)| field(output, if at == 0 { name } else { "" }, &line))
}

fn authority(plugin: &Plugin) -> String {
    let Some(authority) = &plugin.authority else {
        return "none: by itself it calls as nobody".to_owned();
    };
    let resources = authority.resources.iter();
    let resources = resources.map(|(kind, actions)| format!("{} on {kind}", actions.join(", ")));
    let rights: Vec<_> = authority.scopes.iter().cloned().chain(resources).collect();
    format!("{}: {}", authority.label, or(rights.join("; "), "no scopes"))
}

fn reach(reach: &Reach) -> String {
    let by = match &reach.served_by {
        Some(plugin) => format!("of {plugin}"),
        None => "served by nobody".to_owned(),
    };
    let verdict = match reach.allowed {
        Some(true) => "allowed",
        Some(false) => "refused",
        None => "unknown",
    };
    format!("/{} {by}: {verdict}, {}", reach.operation, reach.rule)
}

fn secret(secret: &Secret) -> String {
    let kind = json!(secret.kind);
    let kind = kind.as_str().unwrap_or_default();
    let seen = if secret.reveal { ", which the plugin sees" } else { "" };
    let of = match secret.operations.is_empty() {
        true => String::new(),
        false => format!(", for {}", secret.operations.join(", ")),
    };
    format!("{} ({kind}) from {}{seen}{of}", secret.name, secret.source)
}

fn limits(plugin: &Plugin) -> String {
    let set = |enforced: bool| {
        let those = plugin.limits.iter().filter(|limit| limit.enforced == enforced);
        let shown =
            |limit: &LimitStatus| Some(format!("{} {}", limit.name, limit.unit.show(limit.limit?)));
        those.filter_map(shown).collect::<Vec<_>>().join(", ")
    };
    match (set(true), set(false)) {
        (held, loose) if held.is_empty() && loose.is_empty() => "none".to_owned(),
        (held, loose) if loose.is_empty() => held,
        (held, loose) if held.is_empty() => format!("nothing enforces {loose}"),
        (held, loose) => format!("{held}; nothing enforces {loose}"),
    }
}

fn operations(operations: &[Operation]) -> Table {
    let mut table = Table::new(["operation", "type", "it", "who may call it"]);
    for operation in operations {
        let op_type = json!(operation.op_type);
        let op_type = op_type.as_str().unwrap_or_default();
        table.row([&*format!("/{}", operation.name), op_type, &operation.asks, &who(operation)]);
    }
    table
}

fn who(operation: &Operation) -> String {
    let mut who = match (json!(operation.visibility) == "internal", &operation.callers[..]) {
        (true, _) => "nobody from the wire".to_owned(),
        (false, callers) if everybody(callers) => "everybody".to_owned(),
        (false, []) => "nobody".to_owned(),
        (false, callers) if callers.len() > NAMED => {
            format!("{} and {} more", callers[..NAMED].join(", "), callers.len() - NAMED)
        }
        (false, callers) => callers.join(", "),
    };
    if !operation.composed_by.is_empty() {
        who = format!("{who}; plugins: {}", operation.composed_by.join(", "));
    }
    who
}

fn imports(effective: &Effective) -> Table {
    let mut table = Table::new(["import", "from", "as", "on the wire", "scopes", "credential"]);
    for import in &effective.imports {
        let of = &import.preview;
        let exposed = or(of.exposed.join(", "), "nothing");
        let credential = import.credential.as_ref().map(secret).unwrap_or_default();
        let names = format!("/{}/…", of.prefix);
        table.row([
            &*of.name,
            &of.source,
            &names,
            &exposed,
            &import.scopes.join(", "),
            &credential,
        ]);
    }
    table
}
