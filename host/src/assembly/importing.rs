//! The imports of the deployment file: what they are called, what they need, and
//! their life beside the node's.

use std::sync::Arc;

use alknet_plugin_api::{Capability, CapabilityKind};

use crate::capabilities::Lent;
use crate::config::{
    AccessConfig, CapabilityGrant, ImportSource, ImportStanza, NodeConfig, Problem, Problems,
};
use crate::endpoint::{Dialer, NodeKey};
use crate::imports::call::{FromCallConfig, IDLE, KEEP_ALIVE, NodeAdapter};
use crate::imports::{ImportPlan, ImportStatus, Importing, OperationAdapter, Peers, Selection};
use crate::observe::terminal::Progress;
use crate::plugins::LoadedPlugin;
use crate::registry::{Registry, RegistryBuilder};

use super::StartError;
use super::vault::Lender;

/// An import whose names are settled.
pub(super) struct Planned {
    stanza: ImportStanza,
    prefix: String,
    /// The peer whose operations they are, for a node's.
    peer: Option<String>,
    /// Asks the source; `None` for a node, which is dialled with the node's key.
    adapter: Option<Arc<dyn OperationAdapter>>,
    credential: Option<Lent>,
}

impl Planned {
    fn selection(&self) -> Selection {
        let ImportStanza { include, exclude, expose, .. } = &self.stanza;
        Selection::new(&self.prefix).include(include).exclude(exclude).expose(expose)
    }

    fn problem(&self, what: String, remedy: &str) -> Problem {
        // A prefix that nobody wrote follows from the name.
        let key = if self.stanza.prefix.is_some() { "prefix" } else { "name" };
        self.stanza.problem(key, what, remedy)
    }
}

/// Settles what every import's operations are called. A peer has the id that
/// access.toml gives its key, or else the import's name.
///
/// # Errors
/// Names that cannot be, credentials that the vault does not have, and files of
/// imports that cannot be used.
pub(super) fn plan(
    config: &NodeConfig,
    access: &AccessConfig,
    lender: Option<&Lender>,
) -> Result<Vec<Planned>, Problems> {
    let mut problems = Problems::new();
    let mut planned: Vec<Planned> = Vec::new();
    for stanza in &config.imports {
        let peer = match &stanza.source {
            ImportSource::Call { address, .. } => {
                let fingerprint = address.key().map(|key| key.to_string());
                let known = access.peers.iter().find(|one| {
                    fingerprint.as_ref().is_some_and(|print| one.fingerprints.contains(print))
                });
                Some(known.map_or_else(|| stanza.name.clone(), |peer| peer.peer_id.clone()))
            }
            _ => None,
        };
        let prefix = match (&stanza.prefix, &peer) {
            (Some(prefix), _) => prefix.clone(),
            (None, Some(peer)) => format!("peer/{peer}"),
            (None, None) => stanza.name.clone(),
        };
        let credential = match (&stanza.credential, lender) {
            (Some(grant), Some(lender)) => {
                problems.take(credential(stanza, grant, lender).map_err(Problems::from))
            }
            // Without a vault, the stanza has been refused already.
            _ => None,
        };
        #[cfg_attr(not(feature = "imports"), allow(unused_mut))]
        let mut one = Planned { stanza: stanza.clone(), prefix, peer, adapter: None, credential };
        problems.extend(unusable(&one));
        #[cfg(feature = "imports")]
        match super::http_imports::adapter(stanza, one.selection(), one.credential.clone()) {
            Ok(adapter) => one.adapter = adapter,
            Err(problem) => problems.push(problem),
        }
        problems.extend(planned.iter().filter_map(|other| collision(other, &one)));
        planned.push(one);
    }
    problems.into_result(planned)
}

/// What an import's requests carry.
fn credential(
    stanza: &ImportStanza,
    grant: &CapabilityGrant,
    lender: &Lender,
) -> Result<Lent, Problem> {
    let mut grant = grant.clone();
    if matches!(stanza.source, ImportSource::Call { .. }) {
        // A node is shown the token in the request itself, not in a header.
        (grant.kind, grant.reveal) = (CapabilityKind::Bytes, true);
    }
    lender.lend(&grant)
}

fn unusable(one: &Planned) -> Option<Problem> {
    let byte_ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
    if one.prefix.bytes().all(byte_ok) {
        return None;
    }
    let id = one.peer.as_deref().unwrap_or_default();
    Some(one.problem(
        format!("the id `{id}`, which access.toml gives this node, cannot stand in a name"),
        "write a `prefix` of letters, digits, `.`, `_`, `-` and `/`",
    ))
}

fn collision(first: &Planned, second: &Planned) -> Option<Problem> {
    let below = |one: &str, other: &str| format!("{one}/").starts_with(&format!("{other}/"));
    if first.peer.is_some() && first.peer == second.peer {
        return Some(second.stanza.problem(
            "address",
            format!("`{}` imports from this node already", first.stanza.name),
            "keep one stanza for a node, with everything that is wanted of it",
        ));
    }
    (below(&first.prefix, &second.prefix) || below(&second.prefix, &first.prefix)).then(|| {
        second.problem(
            format!(
                "the prefixes `{}` of `{}` and `{}` of `{}` lie in one another",
                first.prefix, first.stanza.name, second.prefix, second.stanza.name
            ),
            "give each import a `prefix` of its own",
        )
    })
}

/// Keeps the imports' prefixes out of the core, and lets composition name peers.
pub(super) fn register(
    builder: &mut RegistryBuilder,
    config: &NodeConfig,
    planned: &[Planned],
    plugins: &[LoadedPlugin],
    peers: &Arc<Peers>,
) -> Problems {
    let mut problems = Problems::new();
    for one in planned {
        let prefix = format!("{}/", one.prefix);
        let claims = |plugin: &&LoadedPlugin| {
            plugin.built.manifest.operations.iter().any(|spec| spec.name.starts_with(&prefix))
        };
        match plugins.iter().find(claims) {
            Some(plugin) => problems.push(one.problem(
                format!("plugin `{}` has operations that begin with `{prefix}`", plugin.name),
                "choose another `prefix`: an import takes the place of no plugin's operations",
            )),
            None => {
                builder.reserve(&one.prefix);
            }
        }
    }
    builder.peers(peers.clone());
    if config.list_peers {
        builder.list_peers();
    }
    problems
}

/// The imports of a node that runs.
pub(super) struct Imports(Vec<Importing>);

impl Imports {
    /// Begins to import, with `key` as the node's own.
    ///
    /// # Errors
    /// No connection can be made at all.
    pub(super) fn start(
        planned: Vec<Planned>,
        key: &NodeKey,
        registry: &Arc<Registry>,
        peers: &Arc<Peers>,
    ) -> Result<Self, StartError> {
        let mut imports = Vec::with_capacity(planned.len());
        for one in planned {
            let adapter = adapter(&one, key)?;
            let plan = ImportPlan {
                kind: one.stanza.source.kind(),
                source: one.stanza.source.place(),
                selection: one.selection(),
                scopes: one.stanza.scopes,
                timeout: one.stanza.timeout,
                required: one.stanza.required,
                name: one.stanza.name,
                peer: one.peer,
                adapter,
            };
            imports.push(Importing::start(plan, registry.clone(), peers.clone()));
        }
        Ok(Self(imports))
    }

    pub(super) fn status(&self) -> Vec<ImportStatus> {
        self.0.iter().map(Importing::status).collect()
    }

    /// Waits for the imports without which the node must not start.
    ///
    /// # Errors
    /// The first that cannot be made.
    pub(super) async fn required(&self) -> Result<(), StartError> {
        for import in self.0.iter().filter(|import| import.is_required()) {
            let _shown = Progress::begin(format!("waiting for the import {}", import.name()));
            import.first_attempt().await.map_err(StartError::Import)?;
        }
        Ok(())
    }

    /// Lets go of all sources.
    pub(super) async fn close(&self) {
        futures_util::future::join_all(self.0.iter().map(Importing::close)).await;
    }
}

fn adapter(one: &Planned, key: &NodeKey) -> Result<Arc<dyn OperationAdapter>, StartError> {
    if let Some(adapter) = &one.adapter {
        return Ok(adapter.clone());
    }
    match &one.stanza.source {
        ImportSource::Call { address, withhold_origin } => {
            let dialer = Dialer::new(Some(key))?.with_times(KEEP_ALIVE, IDLE);
            let config = FromCallConfig {
                import: one.stanza.name.as_str().into(),
                peer: one.peer.as_deref().unwrap_or(&one.stanza.name).into(),
                selection: one.selection(),
                withhold_origin: *withhold_origin,
                credential: one.credential.as_ref().map(Capability::from),
                timeout: one.stanza.timeout,
            };
            Ok(Arc::new(NodeAdapter::new(config, address.clone(), Arc::new(dialer))))
        }
        // The configuration refuses kinds that are not built in.
        other => Err(StartError::Import(format!(
            "imports of kind `{}` are not built into this binary",
            other.kind()
        ))),
    }
}

/// An import as `alknet check` shows it, which contacts nobody.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ImportPreview {
    /// Its name.
    pub name: String,
    /// The word for its kind.
    pub kind: &'static str,
    /// Where its operations come from.
    pub source: String,
    /// What their names begin with.
    pub prefix: String,
    /// The peer whose they are, for a node's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Names that the wire reaches.
    pub exposed: Vec<String>,
    /// Whether the node does not start without it.
    pub required: bool,
}

impl From<&Planned> for ImportPreview {
    fn from(planned: &Planned) -> Self {
        let Planned { stanza, prefix, peer, .. } = planned;
        Self {
            name: stanza.name.clone(),
            kind: stanza.source.kind(),
            source: stanza.source.place(),
            prefix: prefix.clone(),
            peer: peer.clone(),
            exposed: stanza.expose.iter().map(|name| format!("{prefix}/{name}")).collect(),
            required: stanza.required,
        }
    }
}
