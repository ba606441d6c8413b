//! From a deployment file to a running node: the one place that knows everybody.
//!
//! 1. [`Deployment::load`] reads `node.toml` and `access.toml`.
//! 2. [`assemble`] verifies, opens and builds every plugin, registers its
//!    operations and freezes the registry. It binds nothing: `alknet check` stops
//!    here, and so gives the verdict that a start would.
//! 3. [`Assembled::start`] binds the endpoint. From then on nothing is added:
//!    connections find their handler in a frozen table, calls their operation in
//!    a frozen registry.
//! 4. [`Node::serve`] waits for signals, and drains.
//!
//! Everything wrong with a deployment is collected and reported at once.

mod loading;
mod node;
mod registering;

use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::admin::StatusSource;
use crate::auth::{Policy, PolicyStore, system_unix_time};
use crate::config::{
    AccessConfig, Mode, NodeConfig, NodeDirectory, Place, PluginStanza, Problems,
};
use crate::observe::status::PluginStatus;
use crate::plugins::LoadedPlugin;
use crate::registry::Registry;
use crate::services::Shared;

pub use node::{Node, StartError};

/// The files that say what a node is made of and who may do what.
pub struct Deployment {
    /// `node.toml`.
    pub node: NodeConfig,
    /// `access.toml`.
    pub access: AccessConfig,
    policy: Arc<PolicyStore>,
}

impl Deployment {
    /// Reads both files of a node's directory.
    ///
    /// # Errors
    /// Everything that is wrong with either.
    pub fn load(directory: &NodeDirectory, mode: Mode) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let node = collect(&mut problems, NodeConfig::load(&directory.node_config(), mode));
        let access = collect(&mut problems, AccessConfig::load(&directory.access_config()));
        if let (Some(node), Some(access)) = (&node, &access) {
            problems.extend(access.over(&node.limits));
        }
        let policy = access
            .as_ref()
            .and_then(|access| collect(&mut problems, policy(&directory.access_config(), access)));
        match (node, access, policy) {
            (Some(node), Some(access), Some(policy)) if problems.is_empty() => {
                let policy = Arc::new(PolicyStore::new(policy, system_unix_time()));
                Ok(Self { node, access, policy })
            }
            _ => Err(problems),
        }
    }
}

fn policy(file: &Path, access: &AccessConfig) -> Result<Policy, Problems> {
    Policy::new(access.peers.clone(), access.api_keys.clone()).map_err(|errors| {
        let whole = Place::file_only(file);
        errors
            .iter()
            .map(|error| whole.problem(error.to_string(), "correct the entries in this file"))
            .collect()
    })
}

fn collect<T>(problems: &mut Problems, result: Result<T, Problems>) -> Option<T> {
    result.map_err(|more| problems.extend(more)).ok()
}

/// A node that is complete but for its endpoint.
pub struct Assembled {
    deployment: Deployment,
    plugins: Vec<LoadedPlugin>,
    /// Plugins that the node starts without, because the file allows it.
    missing: Vec<PluginStatus>,
    /// The ALPNs served of each of `plugins`, in order of preference.
    alpns: Vec<Vec<String>>,
    registry: Arc<Registry>,
    draining: watch::Sender<bool>,
    status: StatusSource,
}

impl std::fmt::Debug for Assembled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assembled").field("alpns", &self.alpns).finish_non_exhaustive()
    }
}

/// Builds everything that a deployment asks for, and binds nothing. Plugins'
/// tasks run on `runtime`.
///
/// # Errors
/// Everything that is wrong with the deployment and its plugins.
pub fn assemble(
    deployment: Deployment,
    mode: Mode,
    runtime: &Handle,
) -> Result<Assembled, Problems> {
    let mut problems = Problems::default();
    let (draining, drained) = watch::channel(false);
    let shared = Shared::new(runtime.clone(), drained);
    let mut loader = loading::Loader::new(&deployment.node, mode, shared.clone())?;

    let mut plugins = Vec::new();
    let mut stanzas: Vec<&PluginStanza> = Vec::new();
    let mut missing = Vec::new();
    let mut alpns = Vec::new();
    for stanza in &deployment.node.plugins {
        match loader.load(stanza) {
            Ok(loading::Loaded::Ready(plugin)) => {
                alpns.push(stanza.alpn.clone().unwrap_or_else(|| plugin.built.manifest.alpns.clone()));
                plugins.push(*plugin);
                stanzas.push(stanza);
            }
            Ok(loading::Loaded::Missing(status)) => missing.push(*status),
            Err(more) => problems.extend(more),
        }
    }
    problems.extend(registering::duplicate_alpns(&stanzas, &alpns));

    let status = StatusSource::default();
    let registry = registering::registry(&deployment.node, runtime, &stanzas, &plugins, &status);
    match registry {
        Ok(registry) if problems.is_empty() => {
            let policy = deployment.policy.clone();
            shared.open(Arc::new(registering::NodeServices::new(&registry, policy)));
            Ok(Assembled { deployment, plugins, missing, alpns, registry, draining, status })
        }
        Ok(_) => Err(problems),
        Err(more) => {
            problems.extend(more);
            Err(problems)
        }
    }
}

impl Assembled {
    /// Plugins that the node would start without.
    pub fn missing(&self) -> &[PluginStatus] {
        &self.missing
    }

    /// The registry.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The plugins that are there, as status shows them.
    pub fn plugins(&self) -> Vec<PluginStatus> {
        let ready = self.plugins.iter().zip(&self.alpns);
        let mut list: Vec<_> = ready.map(|(plugin, alpns)| plugin_status(plugin, alpns)).collect();
        list.extend(self.missing.iter().cloned());
        list
    }
}

fn plugin_status(plugin: &LoadedPlugin, alpns: &[String]) -> PluginStatus {
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
        failure: None,
    }
}
