//! Registering what plugins declare, and freezing it.

use std::collections::HashMap;
use std::sync::Arc;

use alknet_plugin_api::{Built, Connection, Gateway, Identity, Manifest, OperationEnv, Visibility};
use tokio::runtime::Handle;

use crate::auth::{IdentityProvider, PolicyStore};
use crate::capabilities::Bundle;
use crate::config::{
    AccessLimits, CallRate, NodeConfig, NodeLimits, Place, PluginStanza, Problem, Problems,
    state_folder,
};
use crate::observe::calls::{AuditSource, CallRecorder, Strikes};
use crate::operator::{self, Sources};
use crate::ownership::{self, FileOwnership};
use crate::plugins::{Kind, LoadedPlugin};
use crate::registry::{
    CallerScope, CompositionAuthority, HandlerRegistration, Limits, RateLimit, Registry,
    RegistryBuilder, RegistryError, ScopedPeerEnv, TokioClock, TokioSpawner,
};
use crate::services::Services;

/// ALPNs that more than one plugin would serve.
pub(super) fn duplicate_alpns(stanzas: &[&PluginStanza], alpns: &[Vec<String>]) -> Problems {
    let mut owners: HashMap<&str, &PluginStanza> = HashMap::new();
    let mut problems = Problems::default();
    for (stanza, alpns) in stanzas.iter().zip(alpns) {
        for alpn in alpns {
            if let Some(first) = owners.insert(alpn, stanza)
                // What both name has been found in the file already.
                && (first.alpn.is_none() || stanza.alpn.is_none())
            {
                problems.push(stanza.problem(
                    "alpn",
                    format!(
                        "ALPN `{alpn}` is served by both `{}` and `{}`",
                        first.name, stanza.name
                    ),
                    "leave it out of the `alpn` list of one of them",
                ));
            }
        }
    }
    problems
}

/// Freezes the operations of all plugins, and the node's own, into a registry. There may
/// be one in spite of problems, to be looked at.
pub(super) fn registry(
    (config, access): (&NodeConfig, &AccessLimits),
    runtime: &Handle,
    granted: &[(&PluginStanza, &Bundle)],
    plugins: &[LoadedPlugin],
    sources: &Sources,
    (strikes, audit): (&Strikes, &AuditSource),
    import: impl FnOnce(&mut RegistryBuilder) -> Problems,
) -> (Option<Arc<Registry>>, Problems) {
    let clock = Arc::new(TokioClock::new());
    let mut builder = RegistryBuilder::new(clock, Arc::new(TokioSpawner(runtime.clone())));
    builder.recorder(Arc::new(CallRecorder::new(
        audit.clone(),
        strikes.clone(),
        sources.recent.clone(),
    )));
    let mut problems = Problems::default();
    if let Some(ownership) = problems.take(ownership(config, runtime)) {
        builder.ownership(Arc::new(ownership));
    }
    builder.limits(call_limits(&config.limits, access));
    register(&mut builder, operator::NAME, &operator::operations(sources), None);
    for ((stanza, bundle), plugin) in granted.iter().zip(plugins) {
        register(&mut builder, &stanza.name, &plugin.built, Some((plugin, stanza, bundle)));
        builder.grant(stanza.name.as_str(), authority(stanza), reach(stanza));
        if plugin.kind == Kind::Component {
            builder.limited(stanza.name.as_str());
        }
    }
    let unhidden = granted
        .iter()
        .zip(plugins)
        .flat_map(|((stanza, _), plugin)| unknown(stanza, &plugin.built.manifest));
    problems.extend(unhidden);
    problems.extend(import(&mut builder));
    match builder.freeze() {
        Ok(registry) => (Some(registry), problems),
        Err(errors) => {
            problems.extend(errors.iter().map(|error| place(config, granted, error)));
            (None, problems)
        }
    }
}

/// The limits on calls that the two files ask for.
pub(super) fn call_limits(node: &NodeLimits, access: &AccessLimits) -> Limits {
    Limits {
        in_flight: node.calls_per_connection as usize,
        live_descendants: node.descendants_per_call as usize,
        in_flight_of_identity: access.calls_per_identity.map(|limit| limit as usize),
        rate: access.calls.map(rate),
        origin_rate: access.origin_calls.map(rate),
        ..Limits::default()
    }
}

fn rate(calls: CallRate) -> RateLimit {
    RateLimit { per_second: f64::from(calls.per_second), burst: f64::from(calls.burst) }
}

/// The owners of the resources that plugins keep; of no type where none keeps any.
fn ownership(config: &NodeConfig, runtime: &Handle) -> Result<FileOwnership, Problems> {
    let types = config.plugins.iter().flat_map(|stanza| stanza.owns.iter().cloned()).collect();
    let path = state_folder(&config.file).join(ownership::FILE_NAME);
    FileOwnership::open(&path, types, runtime.clone()).map_err(|error| {
        let remedy = "restore the file from a backup, or correct it: decisions depend on it";
        Problems::from(Place::file_only(&path).problem(error.to_string(), remedy))
    })
}

fn register(
    builder: &mut RegistryBuilder,
    name: &str,
    built: &Built,
    granted: Option<(&LoadedPlugin, &PluginStanza, &Bundle)>,
) {
    for (spec, code) in built.manifest.operations.iter().zip(&built.operations) {
        let mut registration = HandlerRegistration::new(spec.clone(), code.clone(), name);
        if let Some((plugin, stanza, bundle)) = granted {
            registration.limited = plugin.kind == Kind::Component;
            registration.meter = Some(plugin.meter.clone());
            registration.capabilities = bundle.of_operation(&spec.name);
            registration.authority = authority(stanza);
            registration.scoped_env = reach(stanza);
            registration.owns = stanza.owns.iter().cloned().collect();
            let named = |list: &[String]| list.contains(&spec.name);
            registration.visibility = match (named(&stanza.hide), named(&stanza.expose)) {
                (true, _) => Some(Visibility::Internal),
                (false, true) => Some(Visibility::External),
                (false, false) => None,
            };
        }
        builder.register(registration);
    }
}

fn authority(stanza: &PluginStanza) -> Option<CompositionAuthority> {
    stanza.authority.as_ref().map(|authority| CompositionAuthority {
        label: authority.label.clone(),
        scopes: authority.scopes.clone(),
        resources: authority.resources.clone(),
    })
}

/// A reach entry names an operation, or one of one peer as `@peer/operation`.
fn reach(stanza: &PluginStanza) -> ScopedPeerEnv {
    let mut env = ScopedPeerEnv::default();
    for entry in &stanza.reach {
        match entry.strip_prefix('@') {
            Some(pinned) => env.peer_pinned.insert(pinned.to_owned()),
            None => env.allowed_ops.insert(entry.trim_start_matches('/').to_owned()),
        };
    }
    env
}

/// Names in `hide` and `expose` that the plugin does not serve.
pub(super) fn unknown(stanza: &PluginStanza, manifest: &Manifest) -> Vec<Problem> {
    let serves = |name: &String| manifest.operations.iter().any(|spec| spec.name == *name);
    let lists = [("hide", &stanza.hide), ("expose", &stanza.expose)];
    let missing = lists.into_iter().flat_map(|(key, names)| {
        names.iter().filter(|name| !serves(name)).map(move |name| {
            stanza.problem(
                key,
                format!("plugin `{}` has no operation `{name}`", stanza.name),
                "see its operations with `alknet plugin inspect`",
            )
        })
    });
    missing.collect()
}

/// Points a registry's error at the stanza of the plugin it is about.
fn place(
    config: &NodeConfig,
    granted: &[(&PluginStanza, &Bundle)],
    error: &RegistryError,
) -> Problem {
    let plugin = match error {
        RegistryError::Duplicate { second, .. } => second,
        RegistryError::Spec { at, .. }
        | RegistryError::Kind { at, .. }
        | RegistryError::Schema { at, .. }
        | RegistryError::Widening { at }
        | RegistryError::ImportComposes { at }
        | RegistryError::ReservedPrefix { at, .. } => &at.plugin,
        RegistryError::Promote { plugin }
        | RegistryError::DuplicateGrant(plugin)
        | RegistryError::Shadows { plugin, .. } => plugin,
    };
    let key = match error {
        RegistryError::Promote { .. } => "authority",
        RegistryError::Widening { .. } => "expose",
        _ => "artifact",
    };
    let remedy = "change the deployment file, or the plugin";
    match granted.iter().find(|(stanza, _)| stanza.name == *plugin) {
        Some((stanza, _)) => stanza.problem(key, error.to_string(), remedy),
        None => crate::config::Place::file_only(&config.file).problem(error.to_string(), remedy),
    }
}

/// The registry and the authentication, as plugins' hosts reach them.
pub(super) struct NodeServices {
    registry: Arc<Registry>,
    policy: Arc<PolicyStore>,
}

impl NodeServices {
    pub(super) fn new(registry: &Arc<Registry>, policy: Arc<PolicyStore>) -> Self {
        Self { registry: registry.clone(), policy }
    }
}

impl Services for NodeServices {
    fn resolve_token(&self, token: &[u8]) -> Option<Identity> {
        self.policy.resolve_from_token(token).map(|identity| (*identity).clone())
    }

    fn resolve_fingerprint(&self, fingerprint: &str) -> Option<Identity> {
        self.policy.resolve_from_fingerprint(fingerprint).map(|identity| (*identity).clone())
    }

    fn env(&self, plugin: &str) -> Arc<dyn OperationEnv> {
        self.registry.plugin_env(plugin)
    }

    fn gateway(&self, plugin: &str, connection: &Connection) -> Arc<dyn Gateway> {
        let scope = CallerScope {
            connection: connection.info().id,
            provider: self.policy.clone(),
            fingerprint: connection.backend().peer_fingerprint(),
        };
        self.registry.gateway(plugin, scope)
    }
}
