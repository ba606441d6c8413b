//! Who owns which resource.
//!
//! A plugin's stanza says which types of resources it keeps (`owns`). Ownership
//! decides about these types, and static resource lists about all others. Where
//! the owners are kept is behind [`OwnershipStore`]; [`MemoryOwnership`] forgets
//! them with the process.

use std::collections::{BTreeSet, HashMap};

use alknet_plugin_api::{CallError, CallFuture, Identity, Json, OwnershipRequest};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use parking_lot::RwLock;

use super::call::Call;

/// Answers the access decision's questions about ownership. Its word is final for
/// the types that it keeps: static resource lists are not consulted.
///
/// Decisions do not wait: whoever keeps owners elsewhere answers from a copy.
pub trait OwnershipProvider: Send + Sync + 'static {
    /// Whether ownership decides about resources of this type.
    fn keeps(&self, resource_type: &str) -> bool;
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

/// Takes down who created which resource. What a future has resolved to is seen
/// by every decision from then on.
pub trait OwnershipStore: OwnershipProvider {
    /// `identity` owns the resource from now on. `false` where somebody owned it
    /// before: the first owner stays.
    fn record(
        &self,
        identity: &str,
        resource_type: &str,
        id: &str,
    ) -> BoxFuture<'static, Result<bool, OwnershipError>>;
    /// The resource is gone, or its owner loses it. `false` where nobody owned it.
    fn revoke(
        &self,
        resource_type: &str,
        id: &str,
    ) -> BoxFuture<'static, Result<bool, OwnershipError>>;
    /// The ids of this type that `identity` owns, sorted.
    fn owned(
        &self,
        identity: &str,
        resource_type: &str,
    ) -> BoxFuture<'static, Result<Vec<String>, OwnershipError>>;
}

/// Why an owner could not be taken down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OwnershipError {
    /// The store cannot be written.
    #[error("owners cannot be kept: {0}; see to the disk, then call again")]
    Store(String),
}

impl From<OwnershipError> for CallError {
    fn from(error: OwnershipError) -> Self {
        // The cause may name the operator's paths; the log has it.
        tracing::error!(%error, "ownership");
        Self::internal("owners cannot be kept at the moment").retryable(true)
    }
}

/// Owners in memory, indexed both ways. An owner may do anything to what it owns.
#[derive(Debug, Default)]
pub struct Owners {
    /// Resource type, then id, to owner.
    owners: HashMap<String, HashMap<String, String>>,
    /// Resource type, then owner, to ids.
    owned: HashMap<String, HashMap<String, BTreeSet<String>>>,
    len: usize,
}

impl Owners {
    /// Who owns this.
    pub fn owner(&self, resource_type: &str, id: &str) -> Option<&str> {
        self.owners.get(resource_type)?.get(id).map(String::as_str)
    }

    /// Whether `identity` owns anything of this type.
    pub fn owns_any(&self, identity: &str, resource_type: &str) -> bool {
        self.owned.get(resource_type).is_some_and(|owned| owned.contains_key(identity))
    }

    /// What `identity` owns of this type, sorted.
    pub fn owned(&self, identity: &str, resource_type: &str) -> Vec<String> {
        let ids = self.owned.get(resource_type).and_then(|owned| owned.get(identity));
        ids.into_iter().flatten().cloned().collect()
    }

    /// See [`OwnershipStore::record`].
    pub fn record(&mut self, identity: &str, resource_type: &str, id: &str) -> bool {
        let owners = self.owners.entry(resource_type.to_owned()).or_default();
        if owners.contains_key(id) {
            return false;
        }
        owners.insert(id.to_owned(), identity.to_owned());
        let owned = self.owned.entry(resource_type.to_owned()).or_default();
        owned.entry(identity.to_owned()).or_default().insert(id.to_owned());
        self.len += 1;
        true
    }

    /// See [`OwnershipStore::revoke`].
    pub fn revoke(&mut self, resource_type: &str, id: &str) -> bool {
        let Some(owner) = self.owners.get_mut(resource_type).and_then(|owners| owners.remove(id))
        else {
            return false;
        };
        if let Some(owned) = self.owned.get_mut(resource_type)
            && let Some(ids) = owned.get_mut(&owner)
        {
            ids.remove(id);
            if ids.is_empty() {
                owned.remove(&owner);
            }
        }
        self.len -= 1;
        true
    }

    /// How many resources have an owner.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Owner, type and id of each, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.owners.iter().flat_map(|(resource_type, owners)| {
            owners.iter().map(move |(id, owner)| (&**owner, &**resource_type, &**id))
        })
    }
}

/// Ownership kept in memory, of every type, for the life of the process.
#[derive(Debug, Default)]
pub struct MemoryOwnership {
    owners: RwLock<Owners>,
}

impl OwnershipProvider for MemoryOwnership {
    fn keeps(&self, _: &str) -> bool {
        true
    }

    fn owns(&self, identity: &Identity, resource_type: &str, id: &str, _: Option<&str>) -> bool {
        self.owners.read().owner(resource_type, id) == Some(&*identity.id)
    }

    fn owns_any(&self, identity: &Identity, resource_type: &str) -> bool {
        self.owners.read().owns_any(&identity.id, resource_type)
    }
}

impl OwnershipStore for MemoryOwnership {
    fn record(
        &self,
        identity: &str,
        resource_type: &str,
        id: &str,
    ) -> BoxFuture<'static, Result<bool, OwnershipError>> {
        ready(Ok(self.owners.write().record(identity, resource_type, id))).boxed()
    }

    fn revoke(
        &self,
        resource_type: &str,
        id: &str,
    ) -> BoxFuture<'static, Result<bool, OwnershipError>> {
        ready(Ok(self.owners.write().revoke(resource_type, id))).boxed()
    }

    fn owned(
        &self,
        identity: &str,
        resource_type: &str,
    ) -> BoxFuture<'static, Result<Vec<String>, OwnershipError>> {
        ready(Ok(self.owners.read().owned(identity, resource_type))).boxed()
    }
}

impl Call {
    /// Answers what the call's handler asks about owners.
    pub(crate) fn ownership(&self, request: OwnershipRequest) -> CallFuture {
        let answer = self.ask_owners(request);
        async move { answer?.await }.boxed()
    }

    fn ask_owners(&self, request: OwnershipRequest) -> Result<CallFuture, CallError> {
        let kind = request.resource_type();
        let granted = self.entry.as_ref().is_some_and(|entry| entry.owns.contains(kind));
        let store = self.registry.ownership.clone().filter(|_| granted).ok_or_else(|| {
            CallError::internal(format!(
                "the plugin does not keep resources of type `{kind}`; grant it with `owns`"
            ))
        })?;
        let identity = self.identity.as_ref();
        Ok(match request {
            OwnershipRequest::Record { resource_type, id } => {
                let owner = identity.ok_or_else(|| {
                    CallError::forbidden("authentication required to own a resource")
                })?;
                answered(store.record(&owner.id, &resource_type, &id))
            }
            OwnershipRequest::Revoke { resource_type, id } => {
                answered(store.revoke(&resource_type, &id))
            }
            OwnershipRequest::Owns { resource_type, id } => {
                let owns = identity.is_some_and(|who| store.owns(who, &resource_type, &id, None));
                answered(ready(Ok(owns)).boxed())
            }
            OwnershipRequest::Owned { resource_type } => match identity {
                Some(owner) => answered(store.owned(&owner.id, &resource_type)),
                None => answered(ready(Ok(Vec::<String>::new())).boxed()),
            },
            _ => return Err(CallError::internal("the plugin is newer than this node; update it")),
        })
    }
}

fn answered<T: serde::Serialize + 'static>(
    answer: BoxFuture<'static, Result<T, OwnershipError>>,
) -> CallFuture {
    async move { Json::of(&answer.await?).map_err(|error| CallError::internal(error.to_string())) }
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_owner_stays_until_revoked() {
        let mut owners = Owners::default();
        assert!(owners.record("dora", "note", "n1"));
        assert!(!owners.record("emil", "note", "n1"));
        assert_eq!(owners.owner("note", "n1"), Some("dora"));
        assert_eq!(owners.owned("dora", "note"), ["n1"]);
        assert!(owners.revoke("note", "n1"));
        assert!(!owners.revoke("note", "n1"));
        assert!(owners.is_empty() && !owners.owns_any("dora", "note"));
        assert!(owners.record("emil", "note", "n1"));
        assert_eq!(owners.iter().collect::<Vec<_>>(), [("emil", "note", "n1")]);
        assert_eq!(owners.len(), 1);
    }
}
