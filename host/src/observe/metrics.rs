//! The node's metrics, in Prometheus text form.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;

/// Upper bounds of latency buckets in seconds: 10 µs to 10 s.
const SECONDS: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

static STATM: OnceLock<Option<File>> = OnceLock::new();

fn open_statm() -> Option<File> {
    File::open("/proc/self/statm").ok()
}

static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Starts collecting. Later calls in one process change nothing.
pub fn init() {
    STATM.get_or_init(open_statm);
    HANDLE.get_or_init(|| {
        PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
            .and_then(PrometheusBuilder::install_recorder)
            .inspect_err(|error| tracing::warn!(%error, "metrics are not collected"))
            .ok()
    });
}

/// Folds samples into histograms. Without it they pile up until the next
/// [`render`].
pub fn upkeep() {
    if let Some(Some(handle)) = HANDLE.get() {
        handle.run_upkeep();
    }
}

/// What brings metrics up to date before they are shown.
static SOURCES: Mutex<Vec<Box<dyn Fn() + Send + Sync>>> = Mutex::new(Vec::new());

/// Calls `source` before metrics are shown: for what is counted elsewhere.
pub fn before_render(source: impl Fn() + Send + Sync + 'static) {
    SOURCES.lock().push(Box::new(source));
}

/// Everything collected so far; empty before [`init`].
pub fn render() -> String {
    SOURCES.lock().iter().for_each(|source| source());
    upkeep();
    match HANDLE.get() {
        Some(Some(handle)) => handle.render(),
        _ => String::new(),
    }
}

/// Resident memory of this process in bytes, as the kernel counts it; `None`
/// where `/proc` is missing.
pub fn resident_bytes() -> Option<u64> {
    // Opened once, at start: a confined process cannot open it later on.
    let mut statm = [0; 128];
    let read = STATM.get_or_init(open_statm).as_ref()?.read_at(&mut statm, 0).ok()?;
    let statm = std::str::from_utf8(&statm[..read]).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}
