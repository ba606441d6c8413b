//! Calls by operation, read back from the metrics.
//!
//! There is no second count: the text that Prometheus would read is the source
//! here too. Reading it costs whoever looks, and calls nothing. Two samples make
//! rates and latencies of the time between them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alknet_plugin_api::code;
use parking_lot::Mutex;
use serde::Serialize;

use super::metrics;

/// A sample serves everybody who asks within this time.
const FRESH: Duration = Duration::from_millis(200);

/// What the metrics say at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sample {
    /// When, on the clock of the process; `None` where it was not taken from it.
    pub at: Option<Instant>,
    /// By the operation's name.
    pub operations: BTreeMap<String, Calls>,
    /// Calls that were refused before they started, by code.
    pub refused: BTreeMap<String, u64>,
}

/// The calls of one operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Calls {
    /// That have ended.
    pub count: u64,
    /// Of these, the ones that ended in an error, by code.
    pub errors: BTreeMap<String, u64>,
    /// That have not ended.
    pub in_flight: u64,
    /// The time that those that have ended took together.
    pub seconds: f64,
    /// How many took at most so many seconds, for each bound; those that took
    /// longer are in `count` alone.
    pub buckets: Vec<Bucket>,
}

/// A bound of latency.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bucket {
    /// In seconds.
    pub le: f64,
    /// Calls that took at most that.
    pub count: u64,
}

impl Calls {
    /// The same, without what `before` had counted already.
    pub fn since(&self, before: &Self) -> Self {
        let errors = self.errors.iter().filter_map(|(code, count)| {
            let more = count.saturating_sub(before.errors.get(code).copied().unwrap_or(0));
            (more > 0).then(|| (code.clone(), more))
        });
        let counted = |le: f64| before.buckets.iter().find(|bucket| bucket.le == le);
        let buckets = self.buckets.iter().map(|bucket| Bucket {
            le: bucket.le,
            count: bucket.count.saturating_sub(counted(bucket.le).map_or(0, |one| one.count)),
        });
        Self {
            count: self.count.saturating_sub(before.count),
            errors: errors.collect(),
            in_flight: self.in_flight,
            seconds: (self.seconds - before.seconds).max(0.0),
            buckets: buckets.collect(),
        }
    }

    /// Adds the calls of another operation.
    pub fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.in_flight += other.in_flight;
        self.seconds += other.seconds;
        for (code, count) in &other.errors {
            *self.errors.entry(code.clone()).or_default() += count;
        }
        if self.buckets.is_empty() {
            self.buckets = other.buckets.clone();
            return;
        }
        for (bucket, more) in self.buckets.iter_mut().zip(&other.buckets) {
            bucket.count += more.count;
        }
    }

    /// How many ended in an error. That a caller left is none of the operation's.
    pub fn failed(&self) -> u64 {
        let failed = self.errors.iter().filter(|(code, _)| *code != code::ABORTED);
        failed.map(|(_, count)| count).sum()
    }

    /// The time in seconds within which this share of calls ended, as far as the
    /// bounds tell: even within a bucket, and the last bound for what is beyond it.
    /// `None` without calls.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let total = self.buckets.last().map_or(0, |last| last.count).max(self.count);
        if total == 0 {
            return None;
        }
        let rank = share.clamp(0.0, 1.0) * total as f64;
        let mut below = Bucket { le: 0.0, count: 0 };
        for bucket in &self.buckets {
            if bucket.count as f64 >= rank && bucket.count > below.count {
                let within = (rank - below.count as f64) / (bucket.count - below.count) as f64;
                return Some(below.le + (bucket.le - below.le) * within.max(0.0));
            }
            below = *bucket;
        }
        self.buckets.last().map(|last| last.le)
    }
}

impl Sample {
    /// Reads the metrics' text. Lines of other metrics are passed over.
    pub fn parse(text: &str) -> Self {
        let mut sample = Self::default();
        for line in text.lines().filter(|line| line.starts_with("alknet_call")) {
            // Text that is not what the exporter writes counts nothing.
            let _understood = sample.line(line);
        }
        sample
    }

    fn line(&mut self, line: &str) -> Option<()> {
        let (name, rest) = line.split_once('{')?;
        let (labels, value) = labels(rest)?;
        let label = |name: &str| labels.iter().find(|(label, _)| *label == name).map(|(_, v)| v);
        let value: f64 = value.trim().parse().ok()?;
        let count = value.max(0.0) as u64;
        if name == "alknet_calls_refused_total" {
            self.refused.insert(label("code")?.clone(), count);
            return Some(());
        }
        let calls = self.operations.entry(label("operation")?.clone()).or_default();
        match name {
            "alknet_calls_total" => calls.count = count,
            "alknet_calls_in_flight" => calls.in_flight = count,
            "alknet_call_seconds_sum" => calls.seconds = value,
            "alknet_call_errors_total" => {
                calls.errors.insert(label("code")?.clone(), count);
            }
            "alknet_call_seconds_bucket" => {
                let le: f64 = label("le")?.parse().ok()?;
                if le.is_finite() {
                    calls.buckets.push(Bucket { le, count });
                }
            }
            _ => {}
        }
        Some(())
    }
}

/// The labels of a line after its opening brace, and what is behind the closing one.
fn labels(mut rest: &str) -> Option<(Vec<(&str, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        if let Some(value) = rest.strip_prefix('}') {
            return Some((labels, value));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut characters = quoted.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at + 1,
                (_, '\\') => match characters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((name.trim_start_matches(','), value));
        rest = quoted.get(end..)?;
    }
}

/// Takes samples, one for all who ask at about the same time.
#[derive(Debug, Default)]
pub struct Sampler(Mutex<Option<Arc<Sample>>>);

impl Sampler {
    /// A sample of this moment, or one that is a fifth of a second old at most.
    pub fn take(&self) -> Arc<Sample> {
        let mut last = self.0.lock();
        let now = Instant::now();
        let fresh = |at: Instant| now.saturating_duration_since(at) < FRESH;
        if let Some(sample) = last.as_ref().filter(|sample| sample.at.is_some_and(fresh)) {
            return sample.clone();
        }
        let sample = Arc::new(Sample { at: Some(now), ..Sample::parse(&metrics::render()) });
        *last = Some(sample.clone());
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
# TYPE alknet_calls_total counter
alknet_calls_total{operation="notes/find",plugin="notes"} 10
alknet_calls_total{operation="a/b",plugin="x"} 1
alknet_call_errors_total{operation="notes/find",plugin="notes",code="odd \"one\\n\""} 3
alknet_call_errors_total{operation="notes/find",plugin="notes",code="ABORTED"} 1
alknet_calls_refused_total{code="NOT_FOUND"} 4
alknet_calls_in_flight{operation="notes/find",plugin="notes"} 2
alknet_call_seconds_bucket{operation="notes/find",plugin="notes",le="0.001"} 5
alknet_call_seconds_bucket{operation="notes/find",plugin="notes",le="0.01"} 9
alknet_call_seconds_bucket{operation="notes/find",plugin="notes",le="+Inf"} 10
alknet_call_seconds_sum{operation="notes/find",plugin="notes"} 12.5
alknet_call_seconds_count{operation="notes/find",plugin="notes"} 10
alknet_calls_total{broken
other_total{operation="notes/find"} 99
"#;

    #[test]
    fn the_metrics_own_text_is_read_back() {
        let sample = Sample::parse(TEXT);
        let calls = &sample.operations["notes/find"];
        assert_eq!((calls.count, calls.in_flight, calls.seconds), (10, 2, 12.5));
        assert_eq!(calls.errors["odd \"one\\n\""], 3);
        assert_eq!(calls.failed(), 3);
        assert_eq!(calls.buckets.len(), 2);
        assert_eq!(sample.refused["NOT_FOUND"], 4);
        assert_eq!(sample.operations["a/b"].count, 1);
    }

    #[test]
    fn the_exporters_text_of_a_real_recorder_is_read_back() {
        // The names are the recorder's own; a change there must show here.
        use crate::observe::calls::CallRecorder;
        use crate::registry::{CallEnded, CallStarted, Recorder};
        metrics::init();
        let recorder = CallRecorder::new(Arc::default(), Arc::default(), Arc::default());
        let (operation, plugin) = ("sample/real", "sample");
        for code in [None, Some("FULL"), None] {
            recorder.call_started(&CallStarted { operation, plugin, internal: false });
            recorder.call_ended(&CallEnded {
                operation,
                plugin,
                internal: false,
                code,
                duration: Duration::from_millis(2),
                caller: None,
                origin: None,
            });
        }
        recorder.call_started(&CallStarted { operation, plugin, internal: false });
        let sample = Sampler::default().take();
        let calls = &sample.operations[operation];
        assert_eq!((calls.count, calls.in_flight, calls.errors["FULL"]), (3, 1, 1));
        let median = calls.quantile(0.5).unwrap();
        assert!((0.001..=0.002_5).contains(&median), "{median}");
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let calls = &Sample::parse(TEXT).operations["notes/find"];
        assert_eq!(calls.quantile(0.5), Some(0.001));
        assert_eq!(calls.quantile(0.25), Some(0.000_5));
        let p90 = calls.quantile(0.9).unwrap();
        assert!((p90 - 0.01).abs() < 1e-12, "{p90}");
        assert_eq!(calls.quantile(0.99), Some(0.01), "the last bound, for what is beyond it");
        assert_eq!(Calls::default().quantile(0.5), None);
    }

    #[test]
    fn what_was_counted_before_is_left_out() {
        let now = &Sample::parse(TEXT).operations["notes/find"];
        let mut before = now.clone();
        before.count = 8;
        before.errors.clear();
        before.buckets[0].count = 4;
        before.seconds = 12.0;
        let between = now.since(&before);
        assert_eq!((between.count, between.failed(), between.seconds), (2, 3, 0.5));
        assert_eq!(between.buckets[0].count, 1);
        assert_eq!(between.buckets[1].count, 0);
        assert_eq!(now.since(now).quantile(0.5), None);
    }

    #[test]
    fn operations_add_up() {
        let one = &Sample::parse(TEXT).operations["notes/find"];
        let mut both = Calls::default();
        both.add(one);
        both.add(one);
        assert_eq!((both.count, both.in_flight, both.failed()), (20, 4, 6));
        assert_eq!(both.buckets[1].count, 18);
    }
}
