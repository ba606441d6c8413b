//! Operations: specs, the access decision, dispatch, composition and cancellation.
//!
//! ```text
//! wire ──► Gateway ─┐                     ┌─► access::decide
//!                   ├─► dispatch checks ──┤
//! OperationEnv ─────┘         │           └─► schema::Check
//!                             ▼
//!                     Running (one handler) ──► cancel::Node (its place in the tree)
//! ```
//!
//! A [`RegistryBuilder`] collects what plugins declare and what the deployment
//! file grants, and [freezes](RegistryBuilder::freeze) it into a [`Registry`].
//! Calls come in through a [`Gateway`](alknet_plugin_api::Gateway), one for each
//! connection, or from an operation's own env; both take the same steps.
//!
//! Everything here is pure: no sockets, no plugin technology, time and tasks
//! from a [`Clock`] and a [`Spawner`]. A call runs while its caller polls it.
//! The registry itself spawns only what has to outlive its caller.

use std::collections::HashMap;
use std::sync::Arc;

use alknet_plugin_api::Identity;
use arc_swap::ArcSwap;

pub mod access;
mod audit;
mod builder;
mod call;
mod cancel;
mod clock;
mod discovery;
mod dispatch;
mod env;
mod explain;
mod gateway;
mod limits;
mod overlay;
mod ownership;
mod peers;
mod record;
mod relay;
mod running;
mod schema;
mod spec;
mod sync;

#[cfg(test)]
mod tests;

pub use audit::Finding;
pub(crate) use builder::RESERVED_PREFIXES;
pub use builder::{RegistryBuilder, RegistryError};
pub use clock::{Clock, Spawner, TokioClock, TokioSpawner};
pub(crate) use discovery::names as discovery_names;
pub(crate) use dispatch::bare_name;
pub use explain::{Explanation, Verdict};
pub use gateway::CallerScope;
pub use limits::{Limits, RateLimit};
pub use overlay::{Overlay, SessionOverlaySource};
pub use ownership::{MemoryOwnership, Owners, OwnershipError, OwnershipProvider, OwnershipStore};
pub use peers::PeerSource;
pub use record::{AccessDecided, CallEnded, CallRefused, CallStarted, Recorder};
pub use schema::Violation;
pub use spec::{
    Code, CompositionAuthority, Entry, HandlerRegistration, HostCall, HostOperation,
    HostSubscription, Provenance, ScopedPeerEnv, Where,
};

/// Every operation that the node serves. The core tier never changes.
pub struct Registry {
    core: HashMap<String, Arc<Entry>>,
    /// The core, by name.
    sorted: Vec<Arc<Entry>>,
    grants: HashMap<Arc<str>, Arc<Grant>>,
    clock: Arc<dyn Clock>,
    spawner: Arc<dyn Spawner>,
    limits: ArcSwap<Limits>,
    rates: limits::RateBuckets,
    identity_calls: Arc<limits::IdentityCalls>,
    gateways: gateway::Gateways,
    ownership: Option<Arc<dyn OwnershipStore>>,
    recorder: Option<Arc<dyn Recorder>>,
    peers: Option<Arc<dyn PeerSource>>,
    sessions: Option<Arc<dyn SessionOverlaySource>>,
    imports: overlay::Imports,
    /// What names of imported operations begin with.
    import_prefixes: Vec<String>,
}

/// What a plugin may compose outside any call.
#[derive(Debug, Default)]
pub(crate) struct Grant {
    authority: Option<Arc<Identity>>,
    scoped_env: ScopedPeerEnv,
    /// As [`HandlerRegistration::limited`].
    limited: bool,
}

impl Registry {
    /// The core operations, in the order of their names.
    pub fn operations(&self) -> &[Arc<Entry>] {
        &self.sorted
    }

    /// The operations of all imports as they are now, in the order of their names.
    pub fn imported(&self) -> Vec<Arc<Entry>> {
        self.imports.sorted()
    }

    /// A core or imported operation, whatever its visibility.
    pub fn operation(&self, name: &str) -> Option<Arc<Entry>> {
        self.core.get(name).cloned().or_else(|| self.imports.get(name))
    }

    /// The clock that its calls live on.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Calls in flight by the number of the connection that they came on; without
    /// the connections that have none.
    pub fn calls_in_flight(&self) -> HashMap<u64, usize> {
        self.gateways.calls()
    }

    /// The limits in force.
    pub fn limits(&self) -> Arc<Limits> {
        self.limits.load_full()
    }

    /// Puts other limits in force, for calls made from now on.
    pub fn set_limits(&self, limits: Limits) {
        self.limits.store(Arc::new(limits));
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("operations", &self.core.len()).finish_non_exhaustive()
    }
}
