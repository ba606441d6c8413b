//! How much one component plugin may use.

use serde::{Deserialize, Serialize};

/// Limits of one component plugin, from its entry in the deployment file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ComponentLimits {
    /// Bytes of memory that one instance may hold. An instance that wants more
    /// is stopped. 64 MiB unless given.
    pub memory_bytes: u64,
    /// Milliseconds that an instance may compute without waiting for anything
    /// or moving bytes of a stream. It yields to others every 10 ms meanwhile,
    /// and is stopped when they are used up. 1,000 unless given; counted in
    /// steps of 10.
    pub cpu_slice_ms: u64,
    /// Instances that serve connections at the same time. A connection beyond
    /// is refused. 512 unless given.
    pub connection_instances: u32,
    /// Instances that serve calls at the same time. Calls beyond wait. 16 unless
    /// given.
    pub call_instances: u32,
    /// Streams, contexts and other handles of the host's that one instance may
    /// hold at the same time. 16,384 unless given.
    pub handles: u32,
}

impl Default for ComponentLimits {
    fn default() -> Self {
        Self {
            memory_bytes: 64 << 20,
            cpu_slice_ms: 1_000,
            connection_instances: 512,
            call_instances: 16,
            handles: 16_384,
        }
    }
}
