//! The peers whose operations the node has, as composition names them.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::registry::{Entry, PeerSource};

/// Attached peers, in the order in which they were attached.
#[derive(Default)]
pub struct Peers {
    attached: ArcSwap<Vec<Attached>>,
    /// Writers take turns; readers never wait.
    writing: Mutex<()>,
}

#[derive(Clone)]
struct Attached {
    peer_id: Arc<str>,
    /// By the peer's own names.
    operations: Arc<HashMap<String, Arc<Entry>>>,
}

impl Peers {
    /// Attaches a peer with what it offers, by its own names. Whatever it offered
    /// before is replaced, in one step, and it is now the last of the peers.
    pub fn attach(&self, peer_id: &str, operations: impl IntoIterator<Item = Arc<Entry>>) {
        let operations = operations
            .into_iter()
            .map(|entry| (entry.spec().name.clone(), entry))
            .collect::<HashMap<_, _>>();
        let attached = Attached { peer_id: peer_id.into(), operations: Arc::new(operations) };
        self.change(peer_id, Some(attached));
    }

    /// Detaches a peer. Calls under way are left alone.
    pub fn detach(&self, peer_id: &str) {
        self.change(peer_id, None);
    }

    fn change(&self, peer_id: &str, then: Option<Attached>) {
        let _turn = self.writing.lock();
        let mut attached = Vec::clone(&self.attached.load());
        attached.retain(|one| &*one.peer_id != peer_id);
        attached.extend(then);
        self.attached.store(Arc::new(attached));
    }
}

impl PeerSource for Peers {
    fn attached(&self) -> Vec<Arc<str>> {
        self.attached.load().iter().map(|one| one.peer_id.clone()).collect()
    }

    fn operation(&self, peer_id: &str, name: &str) -> Option<Arc<Entry>> {
        let attached = self.attached.load();
        attached.iter().find(|one| &*one.peer_id == peer_id)?.operations.get(name).cloned()
    }

    fn operations(&self, peer_id: &str) -> Vec<Arc<Entry>> {
        let attached = self.attached.load();
        let found = attached.iter().find(|one| &*one.peer_id == peer_id);
        let mut all: Vec<_> =
            found.into_iter().flat_map(|one| one.operations.values().cloned()).collect();
        all.sort_by(|a, b| a.spec().name.cmp(&b.spec().name));
        all
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("attached", &self.attached()).finish()
    }
}
