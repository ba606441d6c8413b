//! So much in each second, and up to one second's worth at once.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A token bucket that may be overdrawn: what has been used is known only afterwards,
/// and whoever comes next waits until it is paid back.
#[derive(Debug)]
pub struct Bucket {
    per_second: f64,
    level: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    tokens: f64,
    at: Instant,
}

/// No wait is shorter: timers are not finer.
const SHORTEST: Duration = Duration::from_millis(1);

/// The share of a second that is gained before the next turn, so that what waits does
/// not go on byte by byte.
const TURN: f64 = 0.01;

impl Bucket {
    /// A full bucket.
    pub fn new(per_second: u64, now: Instant) -> Self {
        let per_second = per_second as f64;
        Self { per_second, level: Mutex::new(Level { tokens: per_second, at: now }) }
    }

    /// How long to wait before more may be used; `None` for not at all.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let mut level = self.level.lock();
        let gained = now.saturating_duration_since(level.at).as_secs_f64() * self.per_second;
        level.tokens = (level.tokens + gained).min(self.per_second);
        level.at = level.at.max(now);
        if level.tokens > 0.0 {
            return None;
        }
        let wait = TURN - level.tokens / self.per_second;
        Some(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX).max(SHORTEST))
    }

    /// Notes what has been used.
    pub fn spend(&self, used: u64) {
        self.level.lock().tokens -= used as f64;
    }
}
