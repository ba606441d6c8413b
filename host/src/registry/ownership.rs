//! Who owns which resource.

use std::collections::{HashMap, HashSet};

use alknet_plugin_api::Identity;
use parking_lot::RwLock;

/// Answers the access decision's questions about ownership. Where one is wired,
/// its word is final and static resource lists are not consulted.
pub trait OwnershipProvider: Send + Sync + 'static {
    /// Whether `identity` may do `action` (anything, without one) to this resource.
    fn owns(
        &self,
        identity: &Identity,
        resource_type: &str,
        id: &str,
        action: Option<&str>,
    ) -> bool;
    /// Whether `identity` owns any resource of this type.
    fn owns_any(&self, identity: &Identity, resource_type: &str) -> bool;
}

/// Takes down who created which resource.
pub trait OwnershipStore: OwnershipProvider {
    /// `identity` now owns the resource. `false` where somebody owned it before:
    /// the first owner stays.
    fn record(&self, identity: &str, resource_type: &str, id: &str) -> bool;
    /// The resource is gone, or its owner loses it.
    fn revoke(&self, resource_type: &str, id: &str);
    /// The ids of this type that `identity` owns, in no particular order.
    fn owned(&self, identity: &str, resource_type: &str) -> Vec<String>;
}

/// Ownership kept in memory, for the life of the process. An owner may do
/// anything to what it owns.
#[derive(Debug, Default)]
pub struct MemoryOwnership {
    tables: RwLock<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    /// Resource type, then id, to owner.
    owners: HashMap<String, HashMap<String, String>>,
    /// Resource type, then owner, to ids.
    owned: HashMap<String, HashMap<String, HashSet<String>>>,
}

impl OwnershipProvider for MemoryOwnership {
    fn owns(&self, identity: &Identity, resource_type: &str, id: &str, _: Option<&str>) -> bool {
        let tables = self.tables.read();
        let owner = tables.owners.get(resource_type).and_then(|owners| owners.get(id));
        owner.is_some_and(|owner| *owner == identity.id)
    }

    fn owns_any(&self, identity: &Identity, resource_type: &str) -> bool {
        let tables = self.tables.read();
        tables.owned.get(resource_type).is_some_and(|owned| owned.contains_key(&identity.id))
    }
}

impl OwnershipStore for MemoryOwnership {
    fn record(&self, identity: &str, resource_type: &str, id: &str) -> bool {
        let mut tables = self.tables.write();
        let owners = tables.owners.entry(resource_type.to_owned()).or_default();
        if owners.contains_key(id) {
            return false;
        }
        owners.insert(id.to_owned(), identity.to_owned());
        let owned = tables.owned.entry(resource_type.to_owned()).or_default();
        owned.entry(identity.to_owned()).or_default().insert(id.to_owned());
        true
    }

    fn revoke(&self, resource_type: &str, id: &str) {
        let mut tables = self.tables.write();
        let owner = tables.owners.get_mut(resource_type).and_then(|owners| owners.remove(id));
        if let (Some(owner), Some(owned)) = (owner, tables.owned.get_mut(resource_type))
            && let Some(ids) = owned.get_mut(&owner)
        {
            ids.remove(id);
            if ids.is_empty() {
                owned.remove(&owner);
            }
        }
    }

    fn owned(&self, identity: &str, resource_type: &str) -> Vec<String> {
        let tables = self.tables.read();
        let ids = tables.owned.get(resource_type).and_then(|owned| owned.get(identity));
        ids.map(|ids| ids.iter().cloned().collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_owner_stays_until_revoked() {
        let store = MemoryOwnership::default();
        let dora = Identity { id: "dora".into(), ..Identity::default() };
        let emil = Identity { id: "emil".into(), ..Identity::default() };
        assert!(store.record("dora", "note", "n1"));
        assert!(!store.record("emil", "note", "n1"));
        assert!(store.owns(&dora, "note", "n1", Some("read")));
        assert!(!store.owns(&emil, "note", "n1", None));
        assert_eq!(store.owned("dora", "note"), ["n1"]);
        store.revoke("note", "n1");
        assert!(!store.owns_any(&dora, "note"));
        assert!(store.record("emil", "note", "n1"));
        assert!(store.owns_any(&emil, "note"));
    }
}
