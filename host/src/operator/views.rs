//! Queries about the running node: `node/plugins`, `node/connections`,
//! `node/operations`, `node/recent`.

use std::future::ready;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alknet_plugin_api::{CallError, OperationSpec, Registrar};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Live, Sources, current, starting};
use crate::auth::IdentityProvider;
use crate::endpoint::ConnectionRecord;
use crate::observe::recent::{KEPT, Kind};
use crate::observe::sample::{Calls, Sample};
use crate::registry::{Entry, Limits, bare_name};

/// Connections in one answer, unless the question says how many.
const CONNECTIONS: usize = 500;

pub(super) fn attach(on: &mut Registrar, sources: &Sources) {
    let from = sources.clone();
    on.operation("node/plugins", move |_, _: Nothing| ready(plugins(&from)));
    let from = sources.clone();
    on.operation("node/connections", move |_, page| ready(connections(&from, &page)));
    let from = sources.clone();
    on.operation("node/operations", move |_, wanted| ready(operations(&from, &wanted)));
    let from = sources.clone();
    on.operation("node/recent", move |_, wanted: Wanted| {
        let limit = wanted.limit.unwrap_or(KEPT);
        let found = from.recent.after(wanted.after, wanted.kind, limit);
        ready(Ok::<_, CallError>(json!({ "incidents": found })))
    });
}

#[derive(Deserialize)]
struct Nothing {}

fn live(sources: &Sources) -> Result<&Live, CallError> {
    sources.live.get().ok_or_else(starting)
}

fn plugins(sources: &Sources) -> Result<Value, CallError> {
    let plugins = current(&sources.status)?.plugins;
    let limits = live(sources)?.registry.limits();
    Ok(json!({ "plugins": plugins, "call_limits": call_limits(&limits) }))
}

/// What holds for the calls of all plugins.
fn call_limits(limits: &Limits) -> Value {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    json!({
        "default_timeout_ms": ms(limits.default_timeout),
        "max_timeout_ms": ms(limits.max_timeout),
        "max_subscription_ms": limits.max_subscription.map(ms),
        "in_flight_per_connection": limits.in_flight,
        "in_flight_per_identity": limits.in_flight_of_identity,
        "calls_per_second": limits.rate.map(|rate| rate.per_second),
        "live_descendants": limits.live_descendants,
    })
}

/// Which connections.
#[derive(Deserialize)]
#[serde(default)]
struct Page {
    offset: usize,
    limit: usize,
}

impl Default for Page {
    fn default() -> Self {
        Self { offset: 0, limit: CONNECTIONS }
    }
}

fn connections(sources: &Sources, page: &Page) -> Result<Value, CallError> {
    let live = live(sources)?;
    let records = (live.connections)();
    let calls = live.registry.calls_in_flight();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let now = u64::try_from(now).unwrap_or(u64::MAX);
    let shown = records.iter().skip(page.offset).take(page.limit).map(|record| {
        let mut shown = json!(record);
        shown["identity"] = identity(live, record).into();
        shown["age_seconds"] = (now.saturating_sub(record.since_unix_ms) / 1000).into();
        shown["calls_in_flight"] = calls.get(&record.id).copied().unwrap_or(0).into();
        shown
    });
    Ok(json!({ "connections": shown.collect::<Vec<_>>(), "total": records.len() }))
}

/// Who it is: as its plugin has named it, or as the policy knows its key now.
fn identity(live: &Live, record: &ConnectionRecord) -> Option<String> {
    let known = || live.policy.resolve_from_fingerprint(record.peer.as_deref()?);
    record.identity.clone().or_else(|| known().map(|identity| identity.id.clone()))
}

/// Which operations.
#[derive(Deserialize)]
#[serde(default)]
struct Filter {
    prefix: String,
    plugin: Option<String>,
    buckets: bool,
}

impl Default for Filter {
    fn default() -> Self {
        Self { prefix: String::new(), plugin: None, buckets: true }
    }
}

fn operations(sources: &Sources, filter: &Filter) -> Result<Value, CallError> {
    let live = live(sources)?;
    let imported = live.registry.imported();
    let prefix = bare_name(&filter.prefix);
    let wanted = |entry: &Entry| {
        let by_plugin = filter.plugin.as_ref().is_none_or(|plugin| **plugin == **entry.plugin());
        by_plugin && entry.spec().name.starts_with(prefix)
    };
    let entries = live.registry.operations().iter().chain(&imported);
    let sample = sources.sampler.take();
    let shown = entries
        .filter(|entry| wanted(entry))
        .map(|entry| operation(entry, &sample, filter.buckets))
        .collect::<Vec<_>>();
    Ok(json!({ "operations": shown, "refused": sample.refused }))
}

fn operation(entry: &Entry, sample: &Sample, buckets: bool) -> Value {
    let OperationSpec { name, op_type, visibility, description, tags, access_control, .. } =
        entry.spec();
    let calls = sample.operations.get(name).cloned().unwrap_or_default();
    json!({
        "name": name,
        "plugin": &**entry.plugin(),
        "op_type": op_type,
        "visibility": visibility,
        "provenance": entry.provenance(),
        "description": description,
        "tags": tags,
        "access": access_control,
        "calls": shown_calls(&calls, buckets),
    })
}

/// Counts and latencies as operators see them, in seconds.
fn shown_calls(calls: &Calls, buckets: bool) -> Value {
    let mean = (calls.count > 0).then(|| calls.seconds / calls.count as f64);
    let mut shown = json!({
        "count": calls.count,
        "errors": calls.errors,
        "in_flight": calls.in_flight,
        "mean": mean,
        "p50": calls.quantile(0.5),
        "p90": calls.quantile(0.9),
        "p99": calls.quantile(0.99),
    });
    if buckets {
        shown["buckets"] = json!(calls.buckets);
    }
    shown
}

/// Which incidents.
#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    after: u64,
    kind: Option<Kind>,
    limit: Option<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_that_nobody_has_called_has_no_latency() {
        let shown = shown_calls(&Calls::default(), false);
        assert_eq!((&shown["count"], &shown["p99"]), (&json!(0), &Value::Null));
        assert_eq!(shown["mean"], Value::Null);
        assert!(shown.get("buckets").is_none());
    }
}
