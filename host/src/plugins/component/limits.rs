//! How much one component plugin may use.

use crate::budget::{Limits, Resource, Substrate};

/// Limits of one component plugin: the rows of [`TABLE`](crate::budget::TABLE) that the
/// component runtime keeps to, in its own units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentLimits {
    /// Bytes of memory that one instance may hold. An instance that wants more
    /// is stopped.
    pub memory_bytes: u64,
    /// Milliseconds that an instance may compute without waiting for anything
    /// or moving bytes of a stream. It yields to others every 10 ms meanwhile,
    /// and is stopped when they are used up. Counted in steps
    /// of 10.
    pub cpu_slice_ms: u64,
    /// Instances that serve connections at the same time. A connection beyond
    /// is refused.
    pub connection_instances: u32,
    /// Instances that serve calls at the same time. Calls beyond wait.
    pub call_instances: u32,
    /// Streams, contexts and other handles of the host's that one instance may
    /// hold at the same time.
    pub handles: u32,
}

impl Default for ComponentLimits {
    fn default() -> Self {
        Self::from(&Limits::default())
    }
}

impl From<&Limits> for ComponentLimits {
    /// What holds of `limits` for a component, with the table's defaults.
    fn from(limits: &Limits) -> Self {
        let limits = limits.in_force(Substrate::Component);
        let count = |resource| u32::try_from(limits.get(resource).unwrap_or_default());
        Self {
            memory_bytes: limits.get(Resource::Memory).unwrap_or_default(),
            cpu_slice_ms: limits.get(Resource::Cpu).unwrap_or_default(),
            connection_instances: count(Resource::Instances).unwrap_or(u32::MAX),
            call_instances: count(Resource::CallInstances).unwrap_or(u32::MAX),
            handles: count(Resource::Handles).unwrap_or(u32::MAX),
        }
    }
}
