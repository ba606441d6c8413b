//! Plugins as the node's status shows them: what they are, what they may use and
//! what they are granted.

use std::sync::Arc;
use std::time::Duration;

use super::Note;
use crate::budget::{Limit, MAX_INSTANCE_MEMORY, Meter, Resource, Substrate, Unit};
use crate::config::{CapabilityGrant, Isolation, PluginStanza, Sandbox};
use crate::observe::status::{LentCapability, PluginGrants, PluginStatus};
use crate::plugins::process::{FileAccess, Launch};
use crate::plugins::{Kind, LoadedPlugin};

/// A plugin that is there, with the stanza that it comes from.
pub(super) fn status(
    plugin: &LoadedPlugin,
    alpns: &[String],
    stanza: Option<&PluginStanza>,
) -> PluginStatus {
    let manifest = &plugin.built.manifest;
    PluginStatus {
        name: plugin.name.clone(),
        kind: plugin.kind.name().to_owned(),
        trust: plugin.kind.trust().to_owned(),
        version: manifest.version.clone(),
        api: format!("{}.{}", manifest.api.0, manifest.api.1),
        alpns: alpns.to_vec(),
        operations: manifest.operations.iter().map(|spec| spec.name.clone()).collect(),
        load_time: plugin.load_time,
        artifact: plugin.path.clone(),
        sha256: hex::encode(plugin.sha256),
        limits: plugin.meter.status(),
        usage: plugin.meter.usage(),
        grants: stanza.map(grants).unwrap_or_default(),
        failure: None,
        meter: plugin.meter.clone(),
    }
}

/// A plugin that the node starts without.
pub(super) fn missing(stanza: &PluginStanza, failure: String) -> PluginStatus {
    let kind = match (stanza.kind, stanza.isolation) {
        (Some(Kind::Component), _) => Kind::Component,
        (_, Isolation::Process) => Kind::Isolated,
        _ => Kind::Native,
    };
    let meter = meter(kind, stanza);
    PluginStatus {
        name: stanza.name.clone(),
        kind: kind.name().to_owned(),
        trust: kind.trust().to_owned(),
        version: String::new(),
        api: String::new(),
        alpns: stanza.alpn.clone().unwrap_or_default(),
        operations: Vec::new(),
        load_time: std::time::Duration::ZERO,
        artifact: stanza.artifact.clone(),
        sha256: stanza.sha256.map(|digest| digest.to_string()).unwrap_or_default(),
        limits: meter.status(),
        usage: meter.usage(),
        grants: grants(stanza),
        failure: Some(failure),
        meter,
    }
}

/// What counts a plugin that is made of this, with the limits of its stanza.
pub(super) fn meter(kind: Kind, stanza: &PluginStanza) -> Arc<Meter> {
    Meter::new(stanza.name.as_str(), substrate(kind, stanza.isolation), stanza.limits.values)
}

/// How a plugin's own process is started, and what it is held to.
pub(super) fn launch(meter: &Meter, stanza: &PluginStanza, sandbox: &Sandbox) -> Launch {
    let (default, limits) = (Launch::new(&stanza.name), meter.limits());
    Launch {
        memory_bytes: limits.get(Resource::Memory).unwrap_or(default.memory_bytes),
        patience: limits.get(Resource::Cpu).map_or(default.patience, Duration::from_millis),
        files: sandbox.files.then(|| FileAccess {
            read: sandbox.read.clone(),
            write: sandbox.write.clone(),
            required: sandbox.required,
        }),
        ..default
    }
}

/// How a plugin that is made of this runs.
pub(super) fn substrate(kind: Kind, isolation: Isolation) -> Substrate {
    match (kind, isolation) {
        (Kind::Component, _) => Substrate::Component,
        (Kind::Isolated, _) | (_, Isolation::Process) => Substrate::Process,
        (Kind::Native, Isolation::None) => Substrate::Native,
    }
}

/// The limits of a stanza that have no effect, or not the whole, on what its plugin is
/// made of.
pub(super) fn unenforceable(kind: Kind, stanza: &PluginStanza) -> Vec<Note> {
    let substrate = substrate(kind, stanza.isolation);
    let note = |(row, why): (&Limit, &str)| {
        let remedy = match substrate {
            Substrate::Native if row.hold(Substrate::Process).is_enforced() => {
                "; build it as a component, or give it a process with `isolation = \"process\"`"
            }
            Substrate::Native => "; build it as a component",
            _ => "",
        };
        Note {
            what: format!(
                "`{}` of plugin `{}` is not enforceable: {why}{remedy}",
                row.key, stanza.name
            ),
            place: stanza.limits.place(row.key).clone(),
        }
    };
    let mut notes: Vec<_> = stanza.limits.values.unenforceable(substrate).map(note).collect();
    let memory = stanza.limits.values.get(Resource::Memory);
    if substrate == Substrate::Component && memory.is_some_and(|bytes| bytes > MAX_INSTANCE_MEMORY)
    {
        let most = Unit::Bytes.show(MAX_INSTANCE_MEMORY);
        let what =
            format!("`memory` of plugin `{}` is more than an instance can have", stanza.name);
        notes.push(Note {
            what: format!("{what}; it gets {most}"),
            place: stanza.limits.place("memory").clone(),
        });
    }
    notes
}

fn grants(stanza: &PluginStanza) -> PluginGrants {
    let authority = stanza.authority.clone();
    let lent = |(name, grant): (&String, &CapabilityGrant)| LentCapability {
        name: name.clone(),
        kind: grant.kind,
        reveal: grant.reveal,
        operations: grant.operations.clone(),
    };
    PluginGrants {
        authority: authority.as_ref().map(|authority| authority.label.clone()),
        scopes: authority.as_ref().map(|one| one.scopes.clone()).unwrap_or_default(),
        resources: authority.map(|authority| authority.resources).unwrap_or_default(),
        reach: stanza.reach.clone(),
        capabilities: stanza.capabilities.iter().map(lent).collect(),
        outbound: stanza.outbound.clone(),
        owns: stanza.owns.clone(),
        expose: stanza.expose.clone(),
        hide: stanza.hide.clone(),
        gateway: stanza.gateway,
        required: stanza.required,
    }
}
