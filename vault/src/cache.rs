//! The derived keys' cache: 64 entries, one hour, least recently used goes first. Time is passed in.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use crate::{DerivationPath, DerivedKey, KeyType};

pub(crate) const CAPACITY: usize = 64;
pub(crate) const TTL: Duration = Duration::from_secs(3600);

struct Entry {
    key: DerivedKey,
    since: Instant,
    used: AtomicU64,
}

/// Looked up through `&self`: the stamp is atomic, so that hits need no exclusive lock.
#[derive(Default)]
pub(crate) struct Cache {
    entries: HashMap<(DerivationPath, KeyType), Entry>,
    clock: AtomicU64,
}

impl Cache {
    pub(crate) fn get(
        &self,
        path: &DerivationPath,
        kind: KeyType,
        now: Instant,
    ) -> Option<DerivedKey> {
        let entry = self.entries.get(&(path.clone(), kind))?;
        if now.saturating_duration_since(entry.since) >= TTL {
            return None;
        }
        entry.used.store(self.tick(), Ordering::Relaxed);
        Some(entry.key.duplicate())
    }

    pub(crate) fn insert(&mut self, path: DerivationPath, key: DerivedKey, now: Instant) {
        self.entries.retain(|_, e| now.saturating_duration_since(e.since) < TTL);
        let slot = (path, key.key_type());
        if self.entries.len() >= CAPACITY && !self.entries.contains_key(&slot) {
            let oldest = self.entries.iter().min_by_key(|(_, e)| e.used.load(Ordering::Relaxed));
            if let Some(oldest) = oldest.map(|(slot, _)| slot.clone()) {
                self.entries.remove(&oldest);
            }
        }
        let used = AtomicU64::new(self.tick());
        self.entries.insert(slot, Entry { key, since: now, used });
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k67_ttl_lru_and_key_types_apart() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let path = |n: u32| DerivationPath::device(n).unwrap();
        let key = |kind| DerivedKey::new(kind, &[7; 32], vec![1]);
        for n in 1..=64 {
            cache.insert(path(n), key(KeyType::Ed25519), now);
        }
        assert!(cache.get(&path(1), KeyType::Ed25519, now).is_some());
        assert!(cache.get(&path(1), KeyType::Secp256k1, now).is_none());
        cache.insert(path(65), key(KeyType::Ed25519), now);
        assert_eq!(cache.entries.len(), CAPACITY);
        assert!(cache.get(&path(1), KeyType::Ed25519, now).is_some(), "recently used stays");
        assert!(cache.get(&path(2), KeyType::Ed25519, now).is_none(), "least recently used goes");
        let last = now + TTL - Duration::from_nanos(1);
        assert!(cache.get(&path(1), KeyType::Ed25519, last).is_some());
        assert!(cache.get(&path(1), KeyType::Ed25519, now + TTL).is_none());
    }
}
