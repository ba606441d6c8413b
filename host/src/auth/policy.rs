//! One snapshot of who may do what.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use alknet_plugin_api::Identity;
use serde::{Deserialize, Serialize};

use super::token;

/// A peer, as the access file declares it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerEntry {
    /// The peer's stable name; it survives key rotation.
    pub peer_id: String,
    /// Its keys: `ed25519:` and 64 lower-case hexadecimal digits, or `SHA256:`
    /// and the digest of an X.509 certificate.
    #[serde(default)]
    pub fingerprints: Vec<String>,
    /// Its token's stored hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_token_hash: Option<String>,
    /// What it may do.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Actions allowed on each type of resource.
    #[serde(default)]
    pub resources: BTreeMap<String, Vec<String>>,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// With `false`, neither keys nor token resolve.
    #[serde(default = "enabled")]
    pub enabled: bool,
}

fn enabled() -> bool {
    true
}

/// An API key, as the access file declares it. It carries no resources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyEntry {
    /// The token's first eight characters; the key's identity.
    pub prefix: String,
    /// The token's stored hash.
    pub hash: String,
    /// What it may do.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// Seconds since the Unix epoch, from which on it no longer resolves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

/// What is wrong with a policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum PolicyError {
    #[error("a peer has an empty peer_id; give it a name")]
    EmptyPeerId,
    #[error("peer_id `{0}` is listed twice; keep one entry, with all its fingerprints")]
    DuplicatePeerId(String),
    #[error("peer_id `{0}` begins with `alk_`, which is kept for API keys; rename the peer")]
    ReservedPeerId(String),
    #[error("fingerprint `{fingerprint}` belongs to both `{first}` and `{second}`; remove one")]
    DuplicateFingerprint { fingerprint: String, first: String, second: String },
    #[error(
        "peer `{peer_id}`: `{fingerprint}` is no fingerprint; write `ed25519:` or `SHA256:` \
         and 64 lower-case hexadecimal digits"
    )]
    Fingerprint { peer_id: String, fingerprint: String },
    #[error("`{owner}`: a token's hash is `sha256:` and 64 lower-case hexadecimal digits")]
    Hash { owner: String },
    #[error("`{first}` and `{second}` have the same token; make a new one for each")]
    DuplicateToken { first: String, second: String },
    #[error("API key prefix `{0}` must be a token's first 8 characters, beginning with `alk_`")]
    Prefix(String),
    #[error("API key prefix `{0}` is listed twice; make a new token")]
    DuplicatePrefix(String),
}

/// An immutable snapshot of peers and API keys, indexed for look-up.
#[derive(Debug, Default)]
pub struct Policy {
    peers: Vec<PeerEntry>,
    api_keys: Vec<ApiKeyEntry>,
    by_fingerprint: HashMap<String, Arc<Identity>>,
    by_token: HashMap<[u8; 32], TokenOwner>,
}

#[derive(Debug)]
struct TokenOwner {
    digest: [u8; 32],
    identity: Arc<Identity>,
    expires_at: Option<Duration>,
}

impl Policy {
    /// Indexes `peers` and `api_keys`. Disabled peers are checked as the others
    /// are, and then resolve to nothing.
    ///
    /// # Errors
    /// Everything that is wrong with the entries.
    pub fn new(
        peers: Vec<PeerEntry>,
        api_keys: Vec<ApiKeyEntry>,
    ) -> Result<Self, Vec<PolicyError>> {
        let mut index = Index::default();
        for peer in &peers {
            index.add_peer(peer);
        }
        for key in &api_keys {
            index.add_key(key);
        }
        if !index.problems.is_empty() {
            return Err(index.problems);
        }
        let Index { by_fingerprint, by_token, .. } = index;
        Ok(Self { peers, api_keys, by_fingerprint, by_token })
    }

    /// Whose key this is.
    pub fn resolve_fingerprint(&self, fingerprint: &str) -> Option<Arc<Identity>> {
        self.by_fingerprint.get(fingerprint).cloned()
    }

    /// Whose token this is at `now`, in time since the Unix epoch.
    pub fn resolve_token(&self, token: &[u8], now: Duration) -> Option<Arc<Identity>> {
        let digest = token::digest(token);
        let owner = self.by_token.get(&digest)?;
        let same = token::same_digest(&owner.digest, &digest);
        let expired = owner.expires_at.is_some_and(|end| now >= end);
        (same && !expired).then(|| owner.identity.clone())
    }

    /// The peers, as declared.
    pub fn peers(&self) -> &[PeerEntry] {
        &self.peers
    }

    /// The API keys, as declared.
    pub fn api_keys(&self) -> &[ApiKeyEntry] {
        &self.api_keys
    }

    /// The identity of an enabled peer, or of an API key, by its id. This is for
    /// tools that explain decisions; it authenticates nobody.
    pub fn identity(&self, id: &str) -> Option<Identity> {
        let peer = self.peers.iter().find(|peer| peer.enabled && peer.peer_id == id);
        let key = || self.api_keys.iter().find(|key| key.prefix == id);
        peer.map(peer_identity).or_else(|| key().map(key_identity))
    }
}

#[derive(Default)]
struct Index<'a> {
    problems: Vec<PolicyError>,
    peer_ids: HashMap<&'a str, ()>,
    prefixes: HashMap<&'a str, ()>,
    fingerprints: HashMap<&'a str, &'a str>,
    tokens: HashMap<[u8; 32], &'a str>,
    by_fingerprint: HashMap<String, Arc<Identity>>,
    by_token: HashMap<[u8; 32], TokenOwner>,
}

impl<'a> Index<'a> {
    fn add_peer(&mut self, peer: &'a PeerEntry) {
        let id = &peer.peer_id;
        if id.is_empty() {
            self.problems.push(PolicyError::EmptyPeerId);
        }
        if id.starts_with(token::TOKEN_PREFIX) {
            self.problems.push(PolicyError::ReservedPeerId(id.clone()));
        }
        if self.peer_ids.insert(id, ()).is_some() {
            self.problems.push(PolicyError::DuplicatePeerId(id.clone()));
        }
        let identity = Arc::new(peer_identity(peer));
        for fingerprint in &peer.fingerprints {
            if !is_fingerprint(fingerprint) {
                self.problems.push(PolicyError::Fingerprint {
                    peer_id: id.clone(),
                    fingerprint: fingerprint.clone(),
                });
            }
            if let Some(first) = self.fingerprints.insert(fingerprint, id) {
                self.problems.push(PolicyError::DuplicateFingerprint {
                    fingerprint: fingerprint.clone(),
                    first: first.to_owned(),
                    second: id.clone(),
                });
            }
            if peer.enabled {
                self.by_fingerprint.insert(fingerprint.clone(), identity.clone());
            }
        }
        if let Some(hash) = &peer.auth_token_hash {
            self.add_token(hash, id, identity, None, peer.enabled);
        }
    }

    fn add_key(&mut self, key: &'a ApiKeyEntry) {
        let prefix = &key.prefix;
        let well_formed = prefix.len() == token::VISIBLE_PREFIX_LEN
            && prefix.starts_with(token::TOKEN_PREFIX)
            && prefix.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if !well_formed {
            self.problems.push(PolicyError::Prefix(prefix.clone()));
        }
        if self.prefixes.insert(prefix, ()).is_some() {
            self.problems.push(PolicyError::DuplicatePrefix(prefix.clone()));
        }
        let expires_at = key.expires_at.map(Duration::from_secs);
        self.add_token(&key.hash, prefix, Arc::new(key_identity(key)), expires_at, true);
    }

    fn add_token(
        &mut self,
        hash: &str,
        owner: &'a str,
        identity: Arc<Identity>,
        expires_at: Option<Duration>,
        enabled: bool,
    ) {
        let Some(digest) = token::parse_stored(hash) else {
            self.problems.push(PolicyError::Hash { owner: owner.to_owned() });
            return;
        };
        if let Some(first) = self.tokens.insert(digest, owner) {
            self.problems.push(PolicyError::DuplicateToken {
                first: first.to_owned(),
                second: owner.to_owned(),
            });
        }
        if enabled {
            self.by_token.insert(digest, TokenOwner { digest, identity, expires_at });
        }
    }
}

fn peer_identity(peer: &PeerEntry) -> Identity {
    Identity {
        id: peer.peer_id.clone(),
        scopes: peer.scopes.clone(),
        resources: peer.resources.clone(),
    }
}

fn key_identity(key: &ApiKeyEntry) -> Identity {
    Identity { id: key.prefix.clone(), scopes: key.scopes.clone(), resources: BTreeMap::new() }
}

fn is_fingerprint(text: &str) -> bool {
    let digits = text.strip_prefix("ed25519:").or_else(|| text.strip_prefix("SHA256:"));
    digits.is_some_and(|digits| {
        digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
