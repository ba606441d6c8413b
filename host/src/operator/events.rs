//! `node/events`: the node at work, again and again.
//!
//! An item tells of the time since the one before it. It is made when its consumer
//! is ready for it, so a slow one gets fewer items, each about a longer time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alknet_plugin_api::{CallError, ItemSink, OperationType, Registrar};
use serde::{Deserialize, Serialize};

use super::{Live, Sources, TOO_MANY_WATCHERS, starting};
use crate::observe::metrics;
use crate::observe::recent::{Incident, Recent};
use crate::observe::sample::{Calls, Sample};

/// Subscriptions at a time.
const WATCHERS: usize = 32;

/// Operations in one item, the busiest first.
const BUSIEST: usize = 200;

/// Incidents in one item, the newest first.
const INCIDENTS: usize = 100;

#[derive(Clone, Copy, Deserialize)]
#[serde(default)]
struct Watch {
    interval_ms: u64,
}

impl Default for Watch {
    fn default() -> Self {
        Self { interval_ms: 1_000 }
    }
}

/// The node in the time since the last item.
#[derive(Debug, Serialize)]
struct Item {
    unix_ms: u64,
    uptime_seconds: u64,
    /// The time that rates and latencies are about; 0 in the first item, which has
    /// none.
    seconds: f64,
    connections: usize,
    resident_bytes: Option<u64>,
    in_flight: u64,
    calls_per_second: f64,
    errors_per_second: f64,
    refusals_per_second: f64,
    p50: Option<f64>,
    p99: Option<f64>,
    /// Those that were called or are being called.
    operations: BTreeMap<String, Busy>,
    incidents: Vec<Incident>,
}

/// One operation in that time.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Busy {
    calls_per_second: f64,
    errors_per_second: f64,
    in_flight: u64,
    /// Nothing of a subscription, which lasts as long as its consumer wants.
    p50: Option<f64>,
    p99: Option<f64>,
}

/// What the metrics say of the time between two samples.
#[derive(Debug, Default)]
struct Between {
    seconds: f64,
    all: Calls,
    /// Those that answer: a subscription lasts as long as its consumer wants.
    answered: Calls,
    refused: u64,
    /// Each with whether it answers.
    by_operation: BTreeMap<String, (Calls, bool)>,
}

pub(super) fn attach(on: &mut Registrar, sources: &Sources) {
    let watchers = Arc::<AtomicUsize>::default();
    let sources = sources.clone();
    on.subscription("node/events", move |_, watch: Watch, mut items: ItemSink<Item>| {
        let (sources, place) = (sources.clone(), Place::take(&watchers));
        async move {
            let _place = place.ok_or_else(|| {
                let text = format!("{WATCHERS} subscriptions watch the node already; end one");
                CallError::new(TOO_MANY_WATCHERS, text).retryable(true)
            })?;
            let live = sources.live.get().ok_or_else(starting)?;
            let interval = Duration::from_millis(watch.interval_ms);
            let clock = live.registry.clock();
            let mut before = None;
            let mut told = 0;
            let mut due = clock.now();
            loop {
                let sample = sources.sampler.take();
                let item = item(live, &sources.recent, before.as_deref(), &sample, told);
                told = item.incidents.first().map_or(told, |newest| newest.seq);
                before = Some(sample);
                items.send(&item).await?;
                // One that was late is not followed by two at once.
                due = (due + interval).max(clock.now());
                clock.sleep_until(due).await;
            }
        }
    });
}

/// A place among the subscriptions, given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(watchers: &Arc<AtomicUsize>) -> Option<Self> {
        let taken = watchers.fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| {
            (taken < WATCHERS).then_some(taken + 1)
        });
        taken.ok().map(|_| Self(watchers.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn item(live: &Live, recent: &Recent, before: Option<&Sample>, sample: &Sample, told: u64) -> Item {
    let answers = |name: &str| {
        let entry = live.registry.operation(name);
        entry.is_none_or(|entry| entry.spec().op_type != OperationType::Subscription)
    };
    let between = Between::of(before, sample, answers);
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Item {
        unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX),
        uptime_seconds: live.started.elapsed().as_secs(),
        seconds: between.seconds,
        connections: (live.connected)(),
        resident_bytes: metrics::resident_bytes(),
        in_flight: between.all.in_flight,
        calls_per_second: between.rate(between.all.count),
        errors_per_second: between.rate(between.all.failed()),
        refusals_per_second: between.rate(between.refused),
        p50: between.answered.quantile(0.5),
        p99: between.answered.quantile(0.99),
        operations: between.busiest(),
        incidents: recent.after(told, None, INCIDENTS),
    }
}

impl Between {
    fn of(before: Option<&Sample>, now: &Sample, answers: impl Fn(&str) -> bool) -> Self {
        let started = before.and_then(|before| before.at);
        let seconds = match (started, now.at) {
            (Some(started), Some(now)) => now.saturating_duration_since(started).as_secs_f64(),
            _ => 0.0,
        };
        let mut between = Self { seconds, ..Self::default() };
        let nothing = Calls::default();
        for (name, calls) in &now.operations {
            let counted = match before {
                Some(before) => before.operations.get(name).unwrap_or(&nothing),
                // The first sample is what later ones are compared with.
                None => calls,
            };
            let calls = calls.since(counted);
            between.all.add(&calls);
            let answers = answers(name);
            if answers {
                between.answered.add(&calls);
            }
            if calls.count > 0 || calls.in_flight > 0 {
                between.by_operation.insert(name.clone(), (calls, answers));
            }
        }
        let refused = |sample: &Sample| sample.refused.values().sum::<u64>();
        between.refused = before.map_or(0, |before| refused(now).saturating_sub(refused(before)));
        between
    }

    fn rate(&self, count: u64) -> f64 {
        match self.seconds > 0.0 {
            true => count as f64 / self.seconds,
            false => 0.0,
        }
    }

    fn busiest(&self) -> BTreeMap<String, Busy> {
        let mut busy: Vec<_> = self.by_operation.iter().collect();
        busy.sort_by_key(|(_, (calls, _))| std::cmp::Reverse((calls.count, calls.in_flight)));
        let shown = busy.into_iter().take(BUSIEST).map(|(name, (calls, answers))| {
            let within = |part| answers.then(|| calls.quantile(part)).flatten();
            let busy = Busy {
                calls_per_second: self.rate(calls.count),
                errors_per_second: self.rate(calls.failed()),
                in_flight: calls.in_flight,
                p50: within(0.5),
                p99: within(0.99),
            };
            (name.clone(), busy)
        });
        shown.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::observe::sample::Bucket;

    fn sample(at: Instant, counts: &[(&str, u64, u64)]) -> Sample {
        let operations = counts.iter().map(|(name, count, failed)| {
            let calls = Calls {
                count: *count,
                errors: BTreeMap::from([("INTERNAL".to_owned(), *failed)]),
                in_flight: 0,
                seconds: 0.0,
                buckets: vec![Bucket { le: 0.1, count: *count }],
            };
            ((*name).to_owned(), calls)
        });
        Sample { at: Some(at), operations: operations.collect(), refused: BTreeMap::new() }
    }

    #[test]
    fn rates_are_of_the_time_between_two_samples() {
        let start = Instant::now();
        let first = sample(start, &[("a/b", 100, 4), ("c/d", 7, 0)]);
        let none = Between::of(None, &first, |_| true);
        assert_eq!((none.seconds, none.all.count, none.busiest().len()), (0.0, 0, 0));
        let later = start + Duration::from_secs(2);
        let mut second = sample(later, &[("a/b", 110, 5), ("c/d", 7, 0), ("e/f", 2, 0)]);
        second.refused.insert("NOT_FOUND".into(), 6);
        let between = Between::of(Some(&first), &second, |name| name != "a/b");
        assert_eq!((between.all.count, between.answered.count), (12, 2));
        assert_eq!(between.rate(between.all.count), 6.0);
        assert_eq!(between.rate(between.all.failed()), 0.5);
        assert_eq!(between.rate(between.refused), 3.0);
        let busy = between.busiest();
        assert_eq!(busy.keys().collect::<Vec<_>>(), ["a/b", "e/f"], "those that were called");
        assert_eq!((busy["a/b"].calls_per_second, busy["a/b"].p50), (5.0, None));
        assert_eq!(busy["e/f"].p50, Some(0.05));
    }

    #[test]
    fn the_busiest_are_shown() {
        let start = Instant::now();
        let names: Vec<_> = (0..2 * BUSIEST).map(|n| format!("n/{n}")).collect();
        let counts: Vec<_> = names.iter().zip(1..).map(|(name, n)| (&**name, n, 0)).collect();
        let none = sample(start, &[]);
        let between =
            Between::of(Some(&none), &sample(start + Duration::from_secs(1), &counts), |_| true);
        let busy = between.busiest();
        assert_eq!(busy.len(), BUSIEST);
        assert!(busy.contains_key(names.last().unwrap()) && !busy.contains_key("n/0"));
    }

    #[test]
    fn watchers_are_limited_and_give_their_places_back() {
        let watchers = Arc::default();
        let places: Vec<_> = (0..WATCHERS).map(|_| Place::take(&watchers).unwrap()).collect();
        assert!(Place::take(&watchers).is_none());
        drop(places);
        assert!(Place::take(&watchers).is_some());
    }
}
