//! Resolving credentials to identities, afresh for each request.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alknet_plugin_api::Identity;
use arc_swap::ArcSwap;

use super::policy::Policy;

/// Tells whose a credential is. Any bytes are a valid argument.
pub trait IdentityProvider: Send + Sync + 'static {
    /// The identity that a proven key belongs to.
    fn resolve_from_fingerprint(&self, fingerprint: &str) -> Option<Arc<Identity>>;
    /// The identity that a bearer token belongs to.
    fn resolve_from_token(&self, token: &[u8]) -> Option<Arc<Identity>>;
}

/// A source of the time since the Unix epoch.
pub type UnixTime = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The system's clock; the epoch itself where the clock stands before it.
pub fn system_unix_time() -> UnixTime {
    Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The policy in force.
pub struct PolicyStore {
    policy: ArcSwap<Policy>,
    time: UnixTime,
}

impl PolicyStore {
    /// Starts with `policy`; `time` decides about the expiry of API keys.
    pub fn new(policy: Policy, time: UnixTime) -> Self {
        Self { policy: ArcSwap::from_pointee(policy), time }
    }

    /// The policy in force now. A decision uses one snapshot throughout.
    pub fn load(&self) -> Arc<Policy> {
        self.policy.load_full()
    }

    /// Puts another policy in force and returns the one before.
    pub fn replace(&self, policy: Policy) -> Arc<Policy> {
        self.policy.swap(Arc::new(policy))
    }
}

impl IdentityProvider for PolicyStore {
    fn resolve_from_fingerprint(&self, fingerprint: &str) -> Option<Arc<Identity>> {
        self.policy.load().resolve_fingerprint(fingerprint)
    }

    fn resolve_from_token(&self, token: &[u8]) -> Option<Arc<Identity>> {
        self.policy.load().resolve_token(token, (self.time)())
    }
}
