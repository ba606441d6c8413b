//! Putting a registry together, and freezing it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use alknet_plugin_api::OperationType;
use arc_swap::ArcSwap;

use super::clock::{Clock, Spawner};
use super::discovery;
use super::limits::Limits;
use super::overlay::SessionOverlaySource;
use super::ownership::OwnershipStore;
use super::peers::PeerSource;
use super::record::Recorder;
use super::spec::{
    CompositionAuthority, Entry, HandlerRegistration, ScopedPeerEnv, Where, authority_problem,
};
use super::{Grant, Registry};

/// Names that the node's own tiers use; no core operation may claim them.
pub(crate) const RESERVED_PREFIXES: [&str; 2] = ["session/", "peer/"];

/// What is wrong with what was registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum RegistryError {
    #[error("operation `{name}` is registered by both `{first}` and `{second}`; load only one")]
    Duplicate { name: String, first: String, second: String },
    #[error("{at}: {cause}")]
    Spec { at: Where, cause: alknet_plugin_api::ManifestError },
    #[error(
        "{at} is declared a {op_type:?}, but its code is of the other kind; rebuild the plugin"
    )]
    Kind { at: Where, op_type: OperationType },
    #[error("{at}: {what} is no usable JSON Schema: {cause}")]
    Schema { at: Where, what: String, cause: String },
    #[error("{at} is internal and cannot be made external; remove it from `expose`")]
    Widening { at: Where },
    #[error("{at} is imported and cannot compose; remove its authority and reach")]
    ImportComposes { at: Where },
    #[error("{at}: the prefix `{prefix}` belongs to the node; rename the operation")]
    ReservedPrefix { at: Where, prefix: String },
    #[error(
        "the authority of `{plugin}` contains `promote`, which only people may hold; remove it"
    )]
    Promote { plugin: String },
    #[error("the grants of plugin `{0}` are given twice; keep one stanza")]
    DuplicateGrant(String),
    #[error("operation `{name}` of `{plugin}` has the name of a core operation; change the prefix")]
    Shadows { name: String, plugin: String },
}

/// Collects registrations. Problems show when it is frozen, all at once.
pub struct RegistryBuilder {
    registrations: Vec<HandlerRegistration>,
    grants: Vec<(Arc<str>, Option<CompositionAuthority>, ScopedPeerEnv)>,
    limited: BTreeSet<Arc<str>>,
    reserved: Vec<String>,
    import_prefixes: Vec<String>,
    list_peers: bool,
    clock: Arc<dyn Clock>,
    spawner: Arc<dyn Spawner>,
    limits: Limits,
    ownership: Option<Arc<dyn OwnershipStore>>,
    recorder: Option<Arc<dyn Recorder>>,
    peers: Option<Arc<dyn PeerSource>>,
    sessions: Option<Arc<dyn SessionOverlaySource>>,
}

impl RegistryBuilder {
    /// A registry that will live on this clock and spawn here.
    pub fn new(clock: Arc<dyn Clock>, spawner: Arc<dyn Spawner>) -> Self {
        Self {
            registrations: Vec::new(),
            grants: Vec::new(),
            limited: BTreeSet::new(),
            reserved: RESERVED_PREFIXES.map(str::to_owned).to_vec(),
            import_prefixes: Vec::new(),
            list_peers: false,
            clock,
            spawner,
            limits: Limits::default(),
            ownership: None,
            recorder: None,
            peers: None,
            sessions: None,
        }
    }

    /// Adds an operation to the core tier.
    pub fn register(&mut self, registration: HandlerRegistration) -> &mut Self {
        self.registrations.push(registration);
        self
    }

    /// Grants a plugin composition outside any call; see
    /// [`Registry::plugin_env`].
    pub fn grant(
        &mut self,
        plugin: impl Into<Arc<str>>,
        authority: Option<CompositionAuthority>,
        scoped_env: ScopedPeerEnv,
    ) -> &mut Self {
        self.grants.push((plugin.into(), authority, scoped_env));
        self
    }

    /// Says that a plugin's code runs in instances that must not be polled within
    /// one another; see [`HandlerRegistration::limited`].
    pub fn limited(&mut self, plugin: impl Into<Arc<str>>) -> &mut Self {
        self.limited.insert(plugin.into());
        self
    }

    /// Keeps an import's prefix out of the core tier. What is below it comes and
    /// goes, so that a reach may name it before it is there.
    pub fn reserve(&mut self, prefix: &str) -> &mut Self {
        let prefix = format!("{}/", prefix.trim_end_matches('/'));
        self.reserved.push(prefix.clone());
        self.import_prefixes.push(prefix);
        self
    }

    /// Serves `services/list-peers` too.
    pub fn list_peers(&mut self) -> &mut Self {
        self.list_peers = true;
        self
    }

    /// The limits to begin with.
    pub fn limits(&mut self, limits: Limits) -> &mut Self {
        self.limits = limits;
        self
    }

    /// Asks `ownership` about resources of the types that it keeps, for which
    /// static resource lists no longer count, and lets handlers record owners.
    pub fn ownership(&mut self, ownership: Arc<dyn OwnershipStore>) -> &mut Self {
        self.ownership = Some(ownership);
        self
    }

    /// Tells `recorder` of calls and access decisions.
    pub fn recorder(&mut self, recorder: Arc<dyn Recorder>) -> &mut Self {
        self.recorder = Some(recorder);
        self
    }

    /// Reaches operations of attached peers.
    pub fn peers(&mut self, peers: Arc<dyn PeerSource>) -> &mut Self {
        self.peers = Some(peers);
        self
    }

    /// Adds the session tier.
    pub fn sessions(&mut self, sessions: Arc<dyn SessionOverlaySource>) -> &mut Self {
        self.sessions = Some(sessions);
        self
    }

    /// Checks everything and makes the registry. Core operations never change
    /// afterwards.
    ///
    /// # Errors
    /// Every problem of every registration.
    pub fn freeze(mut self) -> Result<Arc<Registry>, Vec<RegistryError>> {
        let mut problems = Vec::new();
        self.registrations.extend(discovery::registrations(self.list_peers));
        let mut owners: HashMap<String, Arc<str>> = HashMap::new();
        let mut core = BTreeMap::new();
        for registration in self.registrations {
            let (name, plugin) = (registration.spec.name.clone(), registration.plugin.clone());
            if let Some(prefix) = self.reserved.iter().find(|prefix| name.starts_with(*prefix)) {
                problems.push(RegistryError::ReservedPrefix {
                    at: Where { operation: name.clone(), plugin: plugin.to_string() },
                    prefix: prefix.clone(),
                });
            }
            if let Some(first) = owners.get(&name) {
                problems.push(RegistryError::Duplicate {
                    name: name.clone(),
                    first: first.to_string(),
                    second: plugin.to_string(),
                });
            } else {
                owners.insert(name.clone(), plugin);
            }
            match Entry::compile(registration) {
                Ok(entry) => drop(core.insert(name, Arc::new(entry))),
                Err(more) => problems.extend(more),
            }
        }
        let mut grants = HashMap::new();
        for (plugin, authority, scoped_env) in self.grants {
            if let Some(authority) = &authority {
                problems.extend(authority_problem(authority, &plugin));
            }
            let authority = authority.map(|authority| Arc::new(authority.identity()));
            let limited = self.limited.contains(&plugin);
            let grant = Arc::new(Grant { authority, scoped_env, limited });
            if grants.insert(plugin.clone(), grant).is_some() {
                problems.push(RegistryError::DuplicateGrant(plugin.to_string()));
            }
        }
        // One stanza grants all of a plugin's operations: say it once.
        let mut seen = Vec::new();
        problems.retain(|problem| {
            let first = !seen.contains(problem);
            seen.push(problem.clone());
            first
        });
        if !problems.is_empty() {
            return Err(problems);
        }
        let by_name = core.iter().map(|(name, entry)| (name.clone(), entry.clone())).collect();
        Ok(Arc::new(Registry {
            core: by_name,
            sorted: core.into_values().collect(),
            grants,
            clock: self.clock,
            spawner: self.spawner,
            limits: ArcSwap::from_pointee(self.limits),
            rates: Default::default(),
            identity_calls: Default::default(),
            gateways: Default::default(),
            ownership: self.ownership,
            recorder: self.recorder,
            peers: self.peers,
            sessions: self.sessions,
            imports: Default::default(),
            import_prefixes: self.import_prefixes,
        }))
    }
}
