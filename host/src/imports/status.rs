//! What the node says of its imports.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde::Serialize;

/// An import at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImportStatus {
    /// Its name in the deployment file.
    pub name: String,
    /// `call`, `openapi`, `json-schema` or `mcp`.
    pub kind: String,
    /// Where the operations come from.
    pub source: String,
    /// What their names begin with.
    pub prefix: String,
    /// The peer whose they are, for `call`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// How it stands.
    pub state: ImportState,
    /// Since when, in seconds since the Unix epoch.
    pub since: u64,
    /// The operations that the node has from it now.
    pub operations: Vec<String>,
    /// Those of them that the wire reaches.
    pub exposed: Vec<String>,
    /// Names that are exposed and that the source does not offer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_offered: Vec<String>,
    /// What went wrong last. It stays when the source has come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Seconds until the next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt_seconds: Option<u64>,
}

/// How an import stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ImportState {
    /// The source is being asked.
    Connecting,
    /// The node has its operations.
    Connected,
    /// The source could not be reached or was lost; it is asked again.
    Waiting,
    /// The node stops.
    Closed,
}

/// An import's status, as its task keeps it.
pub(super) struct Board(Mutex<Kept>);

struct Kept {
    status: ImportStatus,
    next_attempt: Option<Instant>,
}

impl Board {
    pub(super) fn new(status: ImportStatus) -> Self {
        Self(Mutex::new(Kept { status, next_attempt: None }))
    }

    /// The status now.
    pub(super) fn read(&self) -> ImportStatus {
        let kept = self.0.lock();
        let mut status = kept.status.clone();
        status.next_attempt_seconds = kept.next_attempt.map(|at| {
            at.saturating_duration_since(Instant::now()).as_millis().div_ceil(1000) as u64
        });
        status
    }

    /// Changes the status; `since` is now if the state is another one than before.
    pub(super) fn change(
        &self,
        state: ImportState,
        next_attempt: Option<Instant>,
        change: impl FnOnce(&mut ImportStatus),
    ) {
        let mut kept = self.0.lock();
        if kept.status.state != state {
            kept.status.state = state;
            kept.status.since = unix_seconds();
        }
        kept.next_attempt = next_attempt;
        change(&mut kept.status);
    }
}

pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
