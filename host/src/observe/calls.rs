//! Metrics and the audit trail of calls.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use alknet_plugin_api::code;
use metrics::{Counter, Gauge, Histogram};
use parking_lot::RwLock;

use super::audit::AuditLog;
use super::recent::Recent;
use crate::registry::{AccessDecided, CallEnded, CallRefused, CallStarted, Recorder};

/// Counts calls for each operation, keeps the last errors and refusals, and writes
/// access decisions to the audit log where the deployment asks for one.
pub struct CallRecorder {
    // Looked up for every call: names are registered once, not rendered again.
    operations: RwLock<HashMap<String, Handles>>,
    refused: RwLock<HashMap<String, Counter>>,
    audit: AuditSource,
    strikes: Strikes,
    recent: Arc<Recent>,
}

/// The audit log, once the node is started, where there is one.
pub type AuditSource = Arc<OnceLock<AuditLog>>;

/// Who is told the number of a connection on which a token did not resolve: the
/// endpoint, once there is one.
pub type Strikes = Arc<OnceLock<Box<dyn Fn(u64) + Send + Sync>>>;

#[derive(Clone)]
struct Handles {
    ended: Counter,
    in_flight: Gauge,
    seconds: Histogram,
}

impl CallRecorder {
    /// A recorder that has heard of nothing, and tells `audit` and `recent` what it
    /// hears.
    pub fn new(audit: AuditSource, strikes: Strikes, recent: Arc<Recent>) -> Self {
        let (operations, refused) = Default::default();
        Self { operations, refused, audit, strikes, recent }
    }

    fn with<R>(&self, operation: &str, plugin: &str, use_it: impl FnOnce(&Handles) -> R) -> R {
        if let Some(handles) = self.operations.read().get(operation) {
            return use_it(handles);
        }
        let labels = [("operation", operation.to_owned()), ("plugin", plugin.to_owned())];
        let handles = Handles {
            ended: metrics::counter!("alknet_calls_total", &labels),
            in_flight: metrics::gauge!("alknet_calls_in_flight", &labels),
            seconds: metrics::histogram!("alknet_call_seconds", &labels),
        };
        let mut operations = self.operations.write();
        use_it(operations.entry(operation.to_owned()).or_insert(handles))
    }
}

impl Recorder for CallRecorder {
    fn call_started(&self, call: &CallStarted<'_>) {
        self.with(call.operation, call.plugin, |handles| handles.in_flight.increment(1.0));
    }

    fn call_ended(&self, call: &CallEnded<'_>) {
        self.with(call.operation, call.plugin, |handles| {
            handles.in_flight.decrement(1.0);
            handles.seconds.record(call.duration.as_secs_f64());
            handles.ended.increment(1);
        });
        if let Some(code) = call.code {
            metrics::counter!(
                "alknet_call_errors_total",
                "operation" => call.operation.to_owned(),
                "plugin" => call.plugin.to_owned(),
                "code" => code.to_owned()
            )
            .increment(1);
            self.recent.call_ended(call);
        }
        let micros = call.duration.as_micros() as u64;
        // An operator wants to see that work stopped when its caller left; other
        // ends are too many to show.
        if call.code == Some(code::ABORTED) {
            tracing::info!(
                operation = call.operation,
                plugin = call.plugin,
                caller = call.caller,
                internal = call.internal,
                micros,
                "call aborted"
            );
        } else {
            tracing::debug!(
                operation = call.operation,
                plugin = call.plugin,
                caller = call.caller,
                origin = call.origin,
                internal = call.internal,
                outcome = call.code.unwrap_or("ok"),
                micros,
                "call ended"
            );
        }
    }

    fn call_refused(&self, call: &CallRefused<'_>) {
        // The operation's name is the caller's invention: no label for it.
        let known = self.refused.read().get(call.code).cloned();
        let counter = known.unwrap_or_else(|| {
            let code = call.code.to_owned();
            let counter = metrics::counter!("alknet_calls_refused_total", "code" => code.clone());
            self.refused.write().entry(code).or_insert(counter).clone()
        });
        counter.increment(1);
        self.recent.call_refused(call);
        if let Some(audit) = self.audit.get() {
            audit.call_refused(call);
        }
        tracing::debug!(
            operation = call.operation,
            caller = call.caller,
            code = call.code,
            internal = call.internal,
            "call refused"
        );
    }

    fn access_decided(&self, decision: &AccessDecided<'_>) {
        self.recent.access_decided(decision);
        if let Some(audit) = self.audit.get() {
            audit.access_decided(decision);
        }
    }

    fn authentication_failed(&self, connection: u64) {
        metrics::counter!("alknet_authentication_failures_total").increment(1);
        tracing::info!(connection, "a token did not resolve");
        self.recent.invalid_token(connection);
        if let Some(audit) = self.audit.get() {
            audit.invalid_token(connection);
        }
        if let Some(strike) = self.strikes.get() {
            strike(connection);
        }
    }
}
