//! The last errors and refusals, for an operator who looks at a running node.
//!
//! They are kept in memory, so many of each: a flood of refusals does not push
//! errors out. Calls that succeed leave nothing here, and a call that was aborted
//! is no error. Like the audit log, an incident holds names, rules and times;
//! never an input, an output or a token.

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use alknet_plugin_api::code;
use parking_lot::Mutex;
use serde::Serialize;

use super::audit::cut;
use crate::registry::access::Denied;
use crate::registry::{AccessDecided, CallEnded, CallRefused};

/// Incidents of each kind that are kept.
pub const KEPT: usize = 256;

/// What kind of incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A call that had started failed.
    Error,
    /// A call was refused before it started, or a token stands for nobody.
    Refusal,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Incident {
    /// Its number; later ones have greater numbers.
    pub seq: u64,
    /// When, in milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// What kind.
    pub kind: Kind,
    /// The error's code.
    pub code: String,
    /// The operation; the caller's invention where there is no such operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Who serves it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// Whose rights counted; `None` for nobody's.
    pub caller: Option<String>,
    /// Whether another operation made the call.
    pub internal: bool,
    /// The rule that refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The connection that the token came on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<u64>,
    /// How long the call ran, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micros: Option<u64>,
}

impl Incident {
    fn new(kind: Kind, code: &str) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            seq: 0,
            unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            kind,
            code: cut(code).to_owned(),
            operation: None,
            plugin: None,
            caller: None,
            internal: false,
            rule: None,
            connection: None,
            micros: None,
        }
    }
}

/// The incidents that are kept.
#[derive(Debug, Default)]
pub struct Recent(Mutex<Rings>);

#[derive(Debug, Default)]
struct Rings {
    last: u64,
    errors: VecDeque<Incident>,
    refusals: VecDeque<Incident>,
}

impl Recent {
    /// Those numbered above `after`, of `kind` alone where there is one, newest
    /// first and at most `limit`.
    pub fn after(&self, after: u64, kind: Option<Kind>, limit: usize) -> Vec<Incident> {
        let rings = self.0.lock();
        let of = |kind: Kind| match kind {
            Kind::Error => &rings.errors,
            Kind::Refusal => &rings.refusals,
        };
        let kinds = [Kind::Error, Kind::Refusal].into_iter();
        let wanted = kinds.filter(|one| kind.is_none_or(|kind| kind == *one)).flat_map(of);
        let mut found: Vec<_> = wanted.filter(|one| one.seq > after).cloned().collect();
        drop(rings);
        found.sort_unstable_by_key(|one| std::cmp::Reverse(one.seq));
        found.truncate(limit);
        found
    }

    pub(super) fn call_ended(&self, call: &CallEnded<'_>) {
        let Some(code) = call.code.filter(|code| *code != code::ABORTED) else { return };
        self.push(Incident {
            operation: Some(cut(call.operation).to_owned()),
            plugin: Some(call.plugin.to_owned()),
            caller: call.caller.map(str::to_owned),
            internal: call.internal,
            micros: Some(u64::try_from(call.duration.as_micros()).unwrap_or(u64::MAX)),
            ..Incident::new(Kind::Error, code)
        });
    }

    pub(super) fn access_decided(&self, decision: &AccessDecided<'_>) {
        let Err(rule) = decision.decision else { return };
        // The refusal of the call tells of that one: it is its input's mistake.
        if *rule == Denied::MissingResourceId {
            return;
        }
        self.push(Incident {
            operation: Some(cut(decision.operation).to_owned()),
            caller: decision.subject.map(|subject| subject.id.clone()),
            internal: decision.internal,
            rule: Some(rule.to_string()),
            ..Incident::new(Kind::Refusal, code::FORBIDDEN)
        });
    }

    pub(super) fn call_refused(&self, call: &CallRefused<'_>) {
        // What the access decision and a token's look-up refuse is told by them. A
        // caller that left before its call began is no incident.
        if matches!(call.code, code::FORBIDDEN | code::ABORTED | "") {
            return;
        }
        self.push(Incident {
            operation: Some(cut(call.operation).to_owned()),
            caller: call.caller.map(str::to_owned),
            internal: call.internal,
            ..Incident::new(Kind::Refusal, call.code)
        });
    }

    pub(super) fn invalid_token(&self, connection: u64) {
        self.push(Incident {
            rule: Some("the token stands for nobody".to_owned()),
            connection: Some(connection),
            ..Incident::new(Kind::Refusal, code::FORBIDDEN)
        });
    }

    fn push(&self, incident: Incident) {
        self.0.lock().push(incident);
    }
}

impl Rings {
    fn push(&mut self, mut incident: Incident) {
        self.last += 1;
        incident.seq = self.last;
        let ring = match incident.kind {
            Kind::Error => &mut self.errors,
            Kind::Refusal => &mut self.refusals,
        };
        if ring.len() == KEPT {
            ring.pop_front();
        }
        ring.push_back(incident);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ended(recent: &Recent, code: Option<&str>) {
        recent.call_ended(&CallEnded {
            operation: "notes/find",
            plugin: "notes",
            internal: false,
            code,
            duration: Duration::from_micros(12),
            caller: Some("dora"),
            origin: None,
        });
    }

    fn refused(recent: &Recent, code: &str, operation: &str) {
        recent.call_refused(&CallRefused { operation, code, internal: false, caller: None });
    }

    #[test]
    fn errors_are_kept_and_successes_and_aborts_are_not() {
        let recent = Recent::default();
        ended(&recent, None);
        ended(&recent, Some(code::ABORTED));
        assert_eq!(recent.after(0, None, KEPT), []);
        ended(&recent, Some("NOTES_FULL"));
        let found = recent.after(0, None, KEPT);
        assert_eq!(found.len(), 1);
        assert_eq!((&*found[0].code, found[0].micros), ("NOTES_FULL", Some(12)));
        assert_eq!(found[0].caller.as_deref(), Some("dora"));
    }

    #[test]
    fn a_refusal_is_told_once_with_its_rule() {
        let recent = Recent::default();
        let denied = |rule| {
            recent.access_decided(&AccessDecided {
                request_id: None,
                operation: "notes/find",
                subject: None,
                origin: None,
                forwarded_for: &[],
                internal: false,
                decision: &Err(rule),
            });
        };
        denied(Denied::AuthenticationRequired);
        refused(&recent, code::FORBIDDEN, "notes/find");
        let found = recent.after(0, None, KEPT);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].rule.as_deref(), Some("authentication required"));
        denied(Denied::MissingResourceId);
        refused(&recent, code::INVALID_INPUT, "notes/find");
        assert_eq!(recent.after(found[0].seq, None, KEPT).len(), 1);
    }

    #[test]
    fn a_flood_of_refusals_leaves_errors_alone_and_is_bounded() {
        let recent = Recent::default();
        ended(&recent, Some(code::INTERNAL));
        for n in 0..3 * KEPT {
            refused(&recent, code::NOT_FOUND, &format!("{n}{}", "x".repeat(10_000)));
        }
        let found = recent.after(0, None, usize::MAX);
        assert_eq!(found.len(), KEPT + 1);
        assert!(found.windows(2).all(|pair| pair[0].seq > pair[1].seq), "newest first");
        assert!(found.iter().all(|one| one.operation.as_ref().unwrap().len() <= 256));
        assert_eq!(recent.after(0, Some(Kind::Error), KEPT).len(), 1);
        assert_eq!(recent.after(0, None, 3).len(), 3);
        assert_eq!(recent.after(found[1].seq, None, KEPT), found[..1]);
    }

    #[test]
    fn a_wrong_token_shows_by_its_connection_alone() {
        let recent = Recent::default();
        recent.invalid_token(7);
        let found = recent.after(0, Some(Kind::Refusal), KEPT);
        assert_eq!((found[0].connection, &found[0].operation), (Some(7), &None));
    }
}
