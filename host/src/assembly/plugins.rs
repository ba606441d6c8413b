//! Plugins as the node's status shows them: what they are, what they may use and
//! what they are granted.

use crate::config::{CapabilityGrant, Isolation, PluginStanza, Sandbox};
use crate::observe::status::{LentCapability, PluginBudget, PluginGrants, PluginStatus};
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
        limits: stanza.and_then(|stanza| budget(plugin.kind, stanza)),
        grants: stanza.map(grants).unwrap_or_default(),
        failure: None,
    }
}

/// A plugin that the node starts without.
pub(super) fn missing(stanza: &PluginStanza, failure: String) -> PluginStatus {
    let kind = match (stanza.kind, stanza.isolation) {
        (Some(Kind::Component), _) => Kind::Component,
        (_, Isolation::Process) => Kind::Isolated,
        _ => Kind::Native,
    };
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
        limits: budget(kind, stanza),
        grants: grants(stanza),
        failure: Some(failure),
    }
}

/// How a plugin's own process is started, and what it is held to.
pub(super) fn launch(stanza: &PluginStanza, sandbox: &Sandbox) -> Launch {
    let default = Launch::new(&stanza.name);
    Launch {
        memory_bytes: stanza.limits.memory.unwrap_or(default.memory_bytes),
        patience: stanza.limits.cpu.unwrap_or(default.patience),
        files: sandbox.files.then(|| FileAccess {
            read: sandbox.read.clone(),
            write: sandbox.write.clone(),
            required: sandbox.required,
        }),
        ..default
    }
}

/// What a component is held to.
#[cfg(feature = "components")]
pub(super) fn component_limits(
    stanza: &PluginStanza,
) -> crate::plugins::component::ComponentLimits {
    let default = crate::plugins::component::ComponentLimits::default();
    crate::plugins::component::ComponentLimits {
        memory_bytes: stanza.limits.memory.unwrap_or(default.memory_bytes),
        cpu_slice_ms: stanza
            .limits
            .cpu
            .map_or(default.cpu_slice_ms, |time| time.as_millis().try_into().unwrap_or(u64::MAX)),
        connection_instances: stanza.limits.instances.unwrap_or(default.connection_instances),
        ..default
    }
}

#[cfg(feature = "components")]
fn budget(kind: Kind, stanza: &PluginStanza) -> Option<PluginBudget> {
    let limits = component_limits(stanza);
    (kind == Kind::Component).then_some(PluginBudget {
        memory_bytes: limits.memory_bytes,
        cpu_ms: limits.cpu_slice_ms,
        connection_instances: limits.connection_instances,
        call_instances: limits.call_instances,
        handles: limits.handles,
    })
}

#[cfg(not(feature = "components"))]
fn budget(_: Kind, _: &PluginStanza) -> Option<PluginBudget> {
    None
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
