//! What a reload of `access.toml` changes, and whom it takes access from.
//!
//! Pure: two readings of the file go in, a plan comes out. Carrying it out is
//! the assembly's.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::access::AccessConfig;

/// What differs between two readings of `access.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReloadPlan {
    /// Peers, by their `peer_id`.
    pub peers: Changes,
    /// API keys, by their prefix.
    pub api_keys: Changes,
    /// Whether a limit differs.
    pub limits: bool,
    /// Whether the log filter differs.
    pub log: bool,
    /// Whose connections close.
    #[serde(skip)]
    pub lost: Lost,
}

/// Entries that differ, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Those that are new.
    pub added: Vec<String>,
    /// Those that are gone.
    pub removed: Vec<String>,
    /// Those that say something else; one that was disabled is among them.
    pub changed: Vec<String>,
}

/// Credentials and identities that were good before and are not now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Keys that belonged to a peer and now belong to none, or to another.
    pub fingerprints: BTreeSet<String>,
    /// Peers and API keys that are gone or disabled.
    pub identities: BTreeSet<String>,
}

impl ReloadPlan {
    /// What to do to get from `old` to `new`.
    pub fn new(old: &AccessConfig, new: &AccessConfig) -> Self {
        Self {
            peers: Changes::between(
                old.peers.iter().map(|peer| (&*peer.peer_id, peer)),
                new.peers.iter().map(|peer| (&*peer.peer_id, peer)),
            ),
            api_keys: Changes::between(
                old.api_keys.iter().map(|key| (&*key.prefix, key)),
                new.api_keys.iter().map(|key| (&*key.prefix, key)),
            ),
            limits: old.limits != new.limits,
            log: old.log != new.log,
            lost: Lost::between(old, new),
        }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Changes {
    fn between<'a, T: PartialEq + 'a>(
        old: impl Iterator<Item = (&'a str, &'a T)>,
        new: impl Iterator<Item = (&'a str, &'a T)>,
    ) -> Self {
        let (old, new): (BTreeMap<_, _>, BTreeMap<_, _>) = (old.collect(), new.collect());
        let names = |names: Vec<&&str>| names.into_iter().map(|name| (*name).to_owned()).collect();
        let differs = |name: &&&str| new.get(**name).is_some_and(|entry| old[**name] != *entry);
        Self {
            added: names(new.keys().filter(|name| !old.contains_key(**name)).collect()),
            removed: names(old.keys().filter(|name| !new.contains_key(**name)).collect()),
            changed: names(old.keys().filter(differs).collect()),
        }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Lost {
    fn between(old: &AccessConfig, new: &AccessConfig) -> Self {
        let (owners, owners_now) = (owners(old), owners(new));
        let (known, known_now) = (identities(old), identities(new));
        let lost = |(key, owner): &(&&str, &&str)| owners_now.get(**key) != Some(*owner);
        Self {
            fingerprints: owners.iter().filter(lost).map(|(key, _)| (*key).to_owned()).collect(),
            identities: known.difference(&known_now).map(|id| (*id).to_owned()).collect(),
        }
    }

    /// Whether a connection with this proven key, or one whose handler has named
    /// this identity, closes.
    pub fn closes(&self, fingerprint: Option<&str>, identity: Option<&str>) -> bool {
        fingerprint.is_some_and(|fingerprint| self.fingerprints.contains(fingerprint))
            || identity.is_some_and(|identity| self.identities.contains(identity))
    }

    /// Whether nobody loses anything.
    pub fn is_empty(&self) -> bool {
        self.fingerprints.is_empty() && self.identities.is_empty()
    }
}

/// Whose each key is, among the enabled peers.
fn owners(access: &AccessConfig) -> BTreeMap<&str, &str> {
    let enabled = access.peers.iter().filter(|peer| peer.enabled);
    enabled.flat_map(|peer| peer.fingerprints.iter().map(|key| (&**key, &*peer.peer_id))).collect()
}

fn identities(access: &AccessConfig) -> BTreeSet<&str> {
    let peers = access.peers.iter().filter(|peer| peer.enabled).map(|peer| &*peer.peer_id);
    peers.chain(access.api_keys.iter().map(|key| &*key.prefix)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{ApiKeyEntry, PeerEntry};

    fn peer(id: &str, keys: &[&str]) -> PeerEntry {
        PeerEntry {
            peer_id: id.into(),
            fingerprints: keys.iter().map(|key| (*key).to_owned()).collect(),
            enabled: true,
            ..PeerEntry::default()
        }
    }

    fn access(peers: &[PeerEntry]) -> AccessConfig {
        let mut access = AccessConfig::default();
        access.peers = peers.to_vec();
        access
    }

    fn lost(plan: &ReloadPlan) -> (Vec<&str>, Vec<&str>) {
        (
            plan.lost.fingerprints.iter().map(String::as_str).collect(),
            plan.lost.identities.iter().map(String::as_str).collect(),
        )
    }

    #[test]
    fn the_same_file_changes_nothing() {
        let access = access(&[peer("ada", &["1"])]);
        let plan = ReloadPlan::new(&access, &access);
        assert!(plan.is_empty() && plan.lost.is_empty());
    }

    #[test]
    fn k51_a_removed_or_disabled_peer_loses_its_connections() {
        let old = access(&[peer("ada", &["1", "2"]), peer("emil", &["3"]), peer("dora", &["4"])]);
        let mut emil = peer("emil", &["3"]);
        emil.enabled = false;
        let plan = ReloadPlan::new(&old, &access(&[emil, peer("dora", &["4"])]));
        assert_eq!(lost(&plan), (vec!["1", "2", "3"], vec!["ada", "emil"]));
        assert_eq!(plan.peers.removed, ["ada"]);
        assert_eq!(plan.peers.changed, ["emil"]);
        assert!(plan.lost.closes(Some("1"), None) && plan.lost.closes(None, Some("emil")));
        assert!(!plan.lost.closes(Some("4"), Some("dora")) && !plan.lost.closes(None, None));
    }

    #[test]
    fn k33_rotation_closes_the_old_keys_connections_only() {
        let old = access(&[peer("ada", &["1", "2"])]);
        let plan = ReloadPlan::new(&old, &access(&[peer("ada", &["2", "3"])]));
        assert_eq!(lost(&plan), (vec!["1"], vec![]));
        assert_eq!(plan.peers.changed, ["ada"]);
    }

    #[test]
    fn a_key_that_moves_to_another_peer_does_not_keep_the_first_ones_connections() {
        let old = access(&[peer("ada", &["1"]), peer("emil", &[])]);
        let plan = ReloadPlan::new(&old, &access(&[peer("ada", &[]), peer("emil", &["1"])]));
        assert_eq!(lost(&plan), (vec!["1"], vec![]));
    }

    #[test]
    fn what_was_disabled_before_has_nothing_to_lose() {
        let mut ada = peer("ada", &["1"]);
        ada.enabled = false;
        let plan = ReloadPlan::new(&access(&[ada]), &access(&[]));
        assert!(plan.lost.is_empty());
        assert_eq!(plan.peers.removed, ["ada"]);
    }

    #[test]
    fn changed_rights_are_no_loss_of_connections() {
        let mut ada = peer("ada", &["1"]);
        ada.scopes = vec!["admin".into()];
        let plan = ReloadPlan::new(&access(&[ada]), &access(&[peer("ada", &["1"])]));
        assert!(plan.lost.is_empty() && !plan.is_empty());
        assert_eq!(plan.peers.changed, ["ada"]);
    }

    #[test]
    fn limits_log_and_api_keys_count() {
        let key = ApiKeyEntry { prefix: "alk_1234".into(), ..ApiKeyEntry::default() };
        let mut old = access(&[]);
        old.api_keys.push(key);
        old.log = Some("info".into());
        let mut new = access(&[]);
        new.limits.connections = 5;
        let plan = ReloadPlan::new(&old, &new);
        assert_eq!(plan.api_keys.removed, ["alk_1234"]);
        assert_eq!(lost(&plan), (vec![], vec!["alk_1234"]));
        assert!(plan.limits && plan.log);
        assert_eq!(ReloadPlan::new(&new, &old).api_keys.added, ["alk_1234"]);
    }
}
