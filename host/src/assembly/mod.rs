//! From a deployment file to a running node: the one place that knows everybody.
//!
//! 1. [`assemble`] reads `node.toml` and `access.toml`, unlocks the vault,
//!    verifies, opens and builds every plugin, registers its operations, freezes
//!    the registry and locks the vault. It binds nothing: `alknet check` stops
//!    here, and so gives the verdict that a start would.
//! 2. [`Assembled::start`] binds the endpoint. From then on nothing is added:
//!    connections find their handler in a frozen table, calls their operation in
//!    a frozen registry.
//! 3. [`Node::serve`] waits for signals, and drains. Meanwhile a changed
//!    `access.toml` is taken up: peers, keys, limits and log filter, never code.
//!
//! Everything wrong with a deployment is collected and reported at once.

mod confine;
pub mod doctor;
pub mod explain;
#[cfg(feature = "imports")]
mod http_imports;
mod identity;
mod importing;
pub mod install;
mod loading;
mod node;
mod plugins;
mod registering;
mod reload;
mod service;
#[cfg(feature = "tcp")]
mod tcp;
mod vault;
mod watched_file;
mod who;
pub mod why;

use std::sync::Arc;

use alknet_plugin_api::{CallError, Json};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::auth::{PolicyStore, system_unix_time};
use crate::capabilities::Bundle;
use crate::config::{
    AccessConfig, Mode, NodeConfig, NodeDirectory, Place, PluginStanza, Problem, Problems, read_key,
};
use crate::endpoint::NodeKey;
use crate::imports::Peers;
use crate::observe::calls::{AuditSource, Strikes};
use crate::observe::status::PluginStatus;
use crate::operator::Sources;
use crate::plugins::LoadedPlugin;
use crate::registry::{Finding, Registry};
use crate::services::Shared;
use vault::Lender;

pub use confine::{confine, refuse_core_dumps};
pub use importing::ImportPreview;
pub use node::{Node, StartError};
pub use vault::unlock;

/// The files that say what a node is made of and who may do what.
struct Deployment {
    node: NodeConfig,
    access: AccessConfig,
    policy: Arc<PolicyStore>,
}

impl Deployment {
    /// Reads both files. What is wrong goes to `problems`; what could be read in spite of
    /// it counts, and an `access.toml` that is wrong counts as empty, so that the rest can
    /// be looked at too. `None` without a `node.toml`.
    fn load(directory: &NodeDirectory, mode: Mode, problems: &mut Problems) -> Option<Self> {
        let (node, found) = NodeConfig::load_partly(&directory.node_config(), mode);
        problems.extend(found);
        let access = problems.take(AccessConfig::load(&directory.access_config()));
        let access = access.unwrap_or_default();
        let policy = problems.take(access.policy(&directory.access_config()));
        let node = node?;
        problems.extend(access.over(&node.limits));
        if let Some(problem) = identity::problem(&node) {
            problems.push_first(problem);
        }
        let policy = PolicyStore::new(policy.unwrap_or_default(), system_unix_time());
        Some(Self { node, access, policy: Arc::new(policy) })
    }
}

/// The node's own key, out of the vault or of its file. `Ok(None)` where the
/// vault, which would have it, is locked.
fn node_key(config: &NodeConfig, lender: Option<&Lender>) -> Result<Option<NodeKey>, Problem> {
    let seed = match (config.identity_vault, lender) {
        (None, _) => read_key(&config.identity_key, config.identity_place())?,
        (Some(which), Some(lender)) => lender.identity(config, which)?,
        (Some(_), None) => return Ok(None),
    };
    Ok(Some(NodeKey::from_seed(*seed)))
}

/// A node that is complete but for its endpoint.
pub struct Assembled {
    deployment: Deployment,
    key: NodeKey,
    plugins: Vec<LoadedPlugin>,
    /// Plugins that the node starts without, because the file allows it.
    missing: Vec<PluginStatus>,
    /// The ALPNs served of each of `plugins`, in order of preference.
    alpns: Vec<Vec<String>>,
    imports: Vec<importing::Planned>,
    peers: Arc<Peers>,
    registry: Arc<Registry>,
    draining: watch::Sender<bool>,
    sources: Sources,
    strikes: Strikes,
    audit: AuditSource,
    explainer: Arc<why::Explainer>,
}

/// Something that the operator may want to know of a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// One sentence.
    pub what: String,
    /// Where.
    pub place: Place,
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

impl serde::Serialize for Note {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut object = serializer.serialize_struct("Note", 4)?;
        object.serialize_field("what", &self.what)?;
        object.serialize_field("file", &self.place.file().display().to_string())?;
        let line = self.place.line();
        object.serialize_field("line", &(line > 0).then_some(line))?;
        object.serialize_field("column", &(line > 0).then_some(self.place.column()))?;
        object.end()
    }
}

impl std::fmt::Debug for Assembled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assembled").field("alpns", &self.alpns).finish_non_exhaustive()
    }
}

/// Builds everything that the files in `directory` ask for, and binds nothing.
/// Plugins' tasks run on `runtime`. Loading blocks: call it off the runtime's
/// own threads.
///
/// # Errors
/// Everything that is wrong with the files and the plugins.
pub fn assemble(
    directory: &NodeDirectory,
    mode: Mode,
    runtime: &Handle,
) -> Result<Assembled, Problems> {
    let mut problems = Problems::default();
    let Some(deployment) = Deployment::load(directory, mode, &mut problems) else {
        return Err(problems);
    };
    let lender = problems.take(Lender::open(&deployment.node).map_err(Problems::from)).flatten();
    let key = match node_key(&deployment.node, lender.as_ref()) {
        Ok(key) => key,
        Err(problem) => {
            problems.push_first(problem);
            None
        }
    };
    let (draining, drained) = watch::channel(false);
    let shared = Shared::new(runtime.clone(), drained);
    let Some(mut loader) =
        problems.take(loading::Loader::new(&deployment.node, mode, shared.clone()))
    else {
        return Err(problems);
    };

    let mut plugins = Vec::new();
    let mut stanzas: Vec<&PluginStanza> = Vec::new();
    let mut missing = Vec::new();
    let mut alpns = Vec::new();
    let mut bundles = Vec::new();
    for stanza in &deployment.node.plugins {
        let bundle = match &lender {
            Some(lender) => problems.take(lender.bundle(stanza)),
            // Nothing to lend, or a locked vault, which is a problem already.
            None => stanza.capabilities.is_empty().then(Bundle::default),
        };
        let known = stanzas.iter().any(|known| known.name == stanza.name);
        let Some(bundle) = bundle.filter(|_| loader.admits(stanza) && !known) else {
            problems.extend(loader.verify(stanza));
            continue;
        };
        match loader.load(stanza, &bundle) {
            Ok(loading::Loaded::Ready(plugin)) => {
                alpns.push(
                    stanza.alpn.clone().unwrap_or_else(|| plugin.built.manifest.alpns.clone()),
                );
                plugins.push(*plugin);
                stanzas.push(stanza);
                bundles.push(bundle);
            }
            Ok(loading::Loaded::Missing(status)) => missing.push(*status),
            Err(more) => problems.extend(more),
        }
    }
    problems.extend(registering::duplicate_alpns(&stanzas, &alpns));
    #[cfg(feature = "tcp")]
    if let Some(tcp) = &deployment.node.tcp {
        problems.extend(tcp::problems(tcp, &served(&alpns, &missing)));
    }

    let imports = importing::plan(&deployment.node, &deployment.access, lender.as_ref());
    let imports = problems.take(imports).unwrap_or_default();
    // Nothing more is taken out of the vault from here on.
    drop(lender);
    let peers = Arc::<Peers>::default();
    let sources = Sources::default();
    let strikes = Strikes::default();
    let granted: Vec<_> = stanzas.iter().copied().zip(&bundles).collect();
    let audit = AuditSource::default();
    let (registry, found) = registering::registry(
        (&deployment.node, &deployment.access.limits),
        runtime,
        &granted,
        &plugins,
        &sources,
        (&strikes, &audit),
        |builder| importing::register(builder, &deployment.node, &imports, &plugins, &peers),
    );
    problems.extend(found);
    if let Some(registry) = registry.as_ref().filter(|_| !problems.is_empty()) {
        let loaded: Vec<_> = stanzas.iter().map(|stanza| stanza.name.as_str()).collect();
        problems.extend(beside(&deployment.node, registry, &loaded));
    }
    problems.into_result(())?;
    // Without problems there is one.
    let registry = registry.ok_or_else(Problems::default)?;
    let key = key.ok_or_else(Problems::default)?;
    let policy = deployment.policy.clone();
    shared.open(Arc::new(registering::NodeServices::new(&registry, policy.clone())));
    let explainer = Arc::new(why::Explainer::new(
        registry.clone(),
        policy,
        system_unix_time(),
        &deployment.node.plugins,
        deployment.access.entry_places().clone(),
    ));
    let asked = explainer.clone();
    let _first = sources.matrix.set(Box::new(move |part| {
        let part = part.to().map_err(|error| CallError::invalid_input(error.to_string()))?;
        let matrix = asked.matrix(&part);
        Json::of(&matrix).map_err(|error| CallError::internal(error.to_string()))
    }));
    let asked = explainer.clone();
    // Set once: a node is assembled once.
    let _first = sources.answers.set(Box::new(move |question| {
        let question =
            question.to().map_err(|error| CallError::invalid_input(error.to_string()))?;
        let answer = asked.answer(&question)?;
        Json::of(&answer).map_err(|error| CallError::internal(error.to_string()))
    }));
    Ok(Assembled {
        deployment,
        key,
        plugins,
        missing,
        alpns,
        imports,
        peers,
        registry,
        draining,
        sources,
        strikes,
        audit,
        explainer,
    })
}

impl Assembled {
    /// Plugins that the node would start without.
    pub fn missing(&self) -> &[PluginStatus] {
        &self.missing
    }

    /// What the node would import, from where and under which names.
    pub fn imports(&self) -> Vec<ImportPreview> {
        self.imports.iter().map(ImportPreview::from).collect()
    }

    /// The deployment's static part.
    pub fn config(&self) -> &NodeConfig {
        &self.deployment.node
    }

    /// The registry.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// What can never work, with the line of `node.toml` that it is about. The
    /// node starts all the same.
    pub fn findings(&self) -> Vec<Note> {
        let findings = self.registry.findings();
        let note = |finding: &Finding| Note {
            what: finding.to_string(),
            place: place(&self.deployment.node, finding),
        };
        let limits = self.unenforceable();
        findings.iter().map(note).chain(limits).collect()
    }

    /// The limits of `node.toml` that have no effect, or not the whole.
    fn unenforceable(&self) -> Vec<Note> {
        let stanza = |plugin: &LoadedPlugin| {
            let stanzas = self.deployment.node.plugins.iter();
            let stanza = stanzas.into_iter().find(|stanza| stanza.name == plugin.name)?;
            Some(plugins::unenforceable(plugin.kind, stanza))
        };
        self.plugins.iter().filter_map(stanza).flatten().collect()
    }

    /// Tells who may call what, and why.
    pub fn explainer(&self) -> &Arc<why::Explainer> {
        &self.explainer
    }

    /// The plugins that are there, as status shows them.
    pub fn plugins(&self) -> Vec<PluginStatus> {
        let stanzas = &self.deployment.node.plugins;
        let ready = self.plugins.iter().zip(&self.alpns).map(|(plugin, alpns)| {
            let stanza = stanzas.iter().find(|stanza| stanza.name == plugin.name);
            plugins::status(plugin, alpns, stanza)
        });
        ready.chain(self.missing.iter().cloned()).collect()
    }
}

/// Where a finding belongs.
fn place(config: &NodeConfig, finding: &Finding) -> Place {
    match config.plugins.iter().find(|stanza| stanza.name == finding.plugin()) {
        Some(stanza) => stanza.place(finding.key()).clone(),
        None => Place::file_only(&config.file),
    }
}

/// What is told beside problems: what can never work, as far as the plugins that were
/// loaded show it. What one of the others would serve is not missing.
fn beside(config: &NodeConfig, registry: &Registry, loaded: &[&str]) -> Vec<Problem> {
    let unloaded = |target: &str| {
        let namespace = target.split('/').next().unwrap_or_default();
        let mut plugins = config.plugins.iter().map(|stanza| stanza.name.as_str());
        plugins.any(|name| name == namespace && !loaded.contains(&name))
    };
    let whole = loaded.len() == config.plugins.len();
    let certain = |finding: &Finding| match finding {
        Finding::Unknown { target, .. } => !unloaded(target),
        Finding::Unreachable { .. } => whole,
        _ => true,
    };
    let note = |finding: &Finding| {
        let remedy = "by itself it keeps nothing from starting";
        place(config, finding).problem(finding.to_string(), remedy).into_note()
    };
    registry.findings().iter().filter(|finding| certain(finding)).map(note).collect()
}

/// The ALPNs of plugins that are there and of those that are missing, in order of
/// preference.
#[cfg(feature = "tcp")]
fn served<'a>(alpns: &'a [Vec<String>], missing: &'a [PluginStatus]) -> Vec<&'a str> {
    let missing = missing.iter().flat_map(|plugin| &plugin.alpns);
    alpns.iter().flatten().chain(missing).map(String::as_str).collect()
}
