//! Who may call what: every identity of `access.toml` against every operation that
//! the wire reaches, each by the decision that a call would meet.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::why::{ANONYMOUS, Explainer};
use crate::registry::bare_name;

/// Identities in one answer, unless the question says how many.
const IDENTITIES: usize = 100;

/// Which part of the matrix.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Part {
    /// Identities that are passed over.
    pub offset: usize,
    /// Identities that are shown.
    pub limit: usize,
    /// Operations whose names begin with this.
    pub prefix: String,
}

impl Default for Part {
    fn default() -> Self {
        Self { offset: 0, limit: IDENTITIES, prefix: String::new() }
    }
}

/// Who may call what.
#[derive(Clone, Debug, Serialize)]
pub struct Matrix {
    /// The operations that the wire reaches: the columns.
    pub operations: Vec<String>,
    /// Nobody first, then peers and API keys in the file's order: the rows.
    pub identities: Vec<Row>,
    /// How many identities there are, shown or not.
    pub total: usize,
    /// What the rows' numbers mean.
    pub rules: Vec<Rule>,
}

/// One identity. No secret is in it, and no hash of one.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// By which `node/acl-why` knows it.
    pub id: String,
    /// `anonymous`, `peer` or `api_key`.
    pub kind: &'static str,
    /// Its name for people, or what it is for.
    pub name: String,
    /// The keys that it proves.
    pub fingerprints: Vec<String>,
    /// Whether it has a token.
    pub token: bool,
    /// What it holds.
    pub scopes: Vec<String>,
    /// Whether it counts: no disabled peer, no expired key.
    pub active: bool,
    /// Seconds since the Unix epoch, from which on it does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// For each operation, the number of its rule.
    pub decisions: Vec<usize>,
}

/// An outcome and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Rule {
    /// Whether the call would be admitted.
    pub allowed: bool,
    /// The error's code that the caller would see.
    pub code: Option<String>,
    /// The rule that decides.
    pub rule: String,
}

impl Explainer {
    /// The part of the matrix that is asked for.
    pub fn matrix(&self, part: &Part) -> Matrix {
        let prefix = bare_name(&part.prefix);
        let mut operations = self.on_the_wire();
        operations.retain(|name| name.starts_with(prefix));
        let mut rows = self.rows();
        let total = rows.len();
        let shown = rows.drain(..).skip(part.offset).take(part.limit);
        let mut rules = Vec::new();
        let mut numbers: HashMap<Rule, usize> = HashMap::new();
        let identities = shown.map(|mut row| {
            let outcomes = self.outcomes(&row.id, &operations);
            row.decisions = outcomes
                .into_iter()
                .map(|rule| {
                    *numbers.entry(rule).or_insert_with_key(|rule| {
                        rules.push(rule.clone());
                        rules.len() - 1
                    })
                })
                .collect();
            row
        });
        let identities = identities.collect();
        Matrix { operations, identities, total, rules }
    }

    fn rows(&self) -> Vec<Row> {
        let policy = self.policy();
        let nobody = Row {
            id: ANONYMOUS.to_owned(),
            kind: "anonymous",
            name: "a caller without a known key and without a token".to_owned(),
            fingerprints: Vec::new(),
            token: false,
            scopes: Vec::new(),
            active: true,
            expires_at: None,
            decisions: Vec::new(),
        };
        let peers = policy.peers().iter().map(|peer| Row {
            id: peer.peer_id.clone(),
            kind: "peer",
            name: peer.display_name.clone().unwrap_or_default(),
            fingerprints: peer.fingerprints.clone(),
            token: peer.auth_token_hash.is_some(),
            scopes: peer.scopes.clone(),
            active: peer.enabled,
            ..nobody.clone()
        });
        let keys = policy.api_keys().iter().map(|key| Row {
            id: key.prefix.clone(),
            kind: "api_key",
            name: key.description.clone(),
            token: true,
            scopes: key.scopes.clone(),
            active: !self.expired(key),
            expires_at: key.expires_at,
            ..nobody.clone()
        });
        std::iter::once(nobody.clone()).chain(peers).chain(keys).collect()
    }
}
