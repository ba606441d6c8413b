//! Operations that connected peers serve.

use std::sync::Arc;

use alknet_plugin_api::{CallError, PeerRef};

use super::spec::{Entry, ScopedPeerEnv};

/// Knows which peers are attached and what they offer. The transport to them
/// is its own affair: each [`Entry`] carries the code that makes the call.
pub trait PeerSource: Send + Sync + 'static {
    /// The attached peers, in the order in which they were attached.
    fn attached(&self) -> Vec<Arc<str>>;
    /// What `peer_id` offers under `name`, the peer's own name for it.
    fn operation(&self, peer_id: &str, name: &str) -> Option<Arc<Entry>>;
    /// Everything that `peer_id` offers.
    fn operations(&self, peer_id: &str) -> Vec<Arc<Entry>>;
}

/// Finds the operation that a reference to a peer means. A named peer is that
/// peer or nobody; any peer is the first attached one that offers `name`.
pub(crate) fn resolve(
    source: Option<&dyn PeerSource>,
    env: &ScopedPeerEnv,
    peer: &PeerRef,
    name: &str,
) -> Result<Arc<Entry>, CallError> {
    let found = source.and_then(|source| match peer {
        PeerRef::Specific(peer_id) => {
            env.reaches_peer(peer_id, name).then(|| source.operation(peer_id, name)).flatten()
        }
        PeerRef::Any => {
            if !env.allowed_ops.contains(name) {
                return None;
            }
            source.attached().iter().find_map(|peer_id| source.operation(peer_id, name))
        }
    });
    found.ok_or_else(|| {
        CallError::not_found(match peer {
            PeerRef::Specific(peer_id) => format!("peer `{peer_id}` offers no operation `{name}`"),
            PeerRef::Any => format!("no attached peer offers an operation `{name}`"),
        })
    })
}
