//! Limits on calls: how long, how many, how often.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use alknet_plugin_api::Identity;

use parking_lot::Mutex;

/// Limits that hold for every call. They can be replaced while the node runs
/// and then hold for calls made from there on.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// For a query or mutation whose caller names no timeout.
    pub default_timeout: Duration,
    /// The longest that a query or mutation may ask for.
    pub max_timeout: Duration,
    /// The longest that a subscription may run; `None` for ever.
    pub max_subscription: Option<Duration>,
    /// Calls in flight on one connection.
    pub in_flight: usize,
    /// Live calls beneath one root call.
    pub live_descendants: usize,
    /// Whether the output of local operations is checked against its schema.
    pub validate_local_output: bool,
    /// Calls in flight of one authenticated identity, over all its connections;
    /// `None` without limit.
    pub in_flight_of_identity: Option<usize>,
    /// Calls for each authenticated identity; `None` without limit.
    pub rate: Option<RateLimit>,
    /// Calls for each end user that a forwarding identity names, besides its own
    /// rate; `None` without limit.
    pub origin_rate: Option<RateLimit>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            default_timeout: Duration::from_secs(30),
            max_timeout: Duration::from_secs(300),
            max_subscription: None,
            in_flight: 256,
            live_descendants: 1024,
            validate_local_output: false,
            in_flight_of_identity: None,
            rate: None,
            origin_rate: None,
        }
    }
}

/// A token bucket's shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Calls that the bucket regains each second; above 0.
    pub per_second: f64,
    /// Calls that it holds when full; at least 1.
    pub burst: f64,
}

/// Buckets are dropped once full again; this many are looked through at a time.
const SWEEP_ABOVE: usize = 1024;

/// A bucket for each identity.
#[derive(Debug, Default)]
pub(crate) struct RateBuckets {
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    by_identity: HashMap<String, Bucket>,
    sweep_at: usize,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Duration,
}

impl Bucket {
    fn refilled(self, limit: RateLimit, now: Duration) -> Self {
        let gained = now.saturating_sub(self.at).as_secs_f64() * limit.per_second;
        Self { tokens: (self.tokens + gained).min(limit.burst), at: now }
    }
}

impl RateBuckets {
    /// Takes one call from `identity`'s bucket.
    ///
    /// # Errors
    /// How long until there is one.
    pub(crate) fn take(
        &self,
        identity: &str,
        limit: RateLimit,
        now: Duration,
    ) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock();
        if buckets.by_identity.len() > buckets.sweep_at.max(SWEEP_ABOVE) {
            buckets
                .by_identity
                .retain(|_, bucket| bucket.refilled(limit, now).tokens < limit.burst);
            buckets.sweep_at = buckets.by_identity.len() * 2;
        }
        let full = Bucket { tokens: limit.burst, at: now };
        let bucket = match buckets.by_identity.get_mut(identity) {
            Some(bucket) => bucket,
            None => buckets.by_identity.entry(identity.to_owned()).or_insert(full),
        };
        *bucket = bucket.refilled(limit, now);
        if bucket.tokens < 1.0 {
            let missing = (1.0 - bucket.tokens) / limit.per_second;
            return Err(Duration::try_from_secs_f64(missing).unwrap_or(Duration::MAX));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

/// The calls in flight of each identity that has any.
#[derive(Debug, Default)]
pub(crate) struct IdentityCalls {
    counts: Mutex<HashMap<String, usize>>,
}

/// One call's place among those of its identity, given back when dropped.
#[derive(Debug)]
pub(crate) struct IdentityPlace {
    calls: Arc<IdentityCalls>,
    identity: Arc<Identity>,
}

impl IdentityCalls {
    /// Takes a place; `None` where `limit` are taken.
    pub(crate) fn enter(
        self: &Arc<Self>,
        identity: &Arc<Identity>,
        limit: usize,
    ) -> Option<IdentityPlace> {
        let mut counts = self.counts.lock();
        match counts.get_mut(&identity.id) {
            Some(count) if *count >= limit => return None,
            Some(count) => *count += 1,
            None => drop(counts.insert(identity.id.clone(), 1)),
        }
        Some(IdentityPlace { calls: self.clone(), identity: identity.clone() })
    }
}

impl Drop for IdentityPlace {
    fn drop(&mut self) {
        let mut counts = self.calls.counts.lock();
        if let Some(count) = counts.get_mut(&self.identity.id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.identity.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let buckets = RateBuckets::default();
        let limit = RateLimit { per_second: 2.0, burst: 3.0 };
        let now = Duration::from_secs(10);
        for _ in 0..3 {
            assert_eq!(buckets.take("dora", limit, now), Ok(()));
        }
        assert_eq!(buckets.take("dora", limit, now), Err(Duration::from_millis(500)));
        assert_eq!(buckets.take("emil", limit, now), Ok(()), "buckets are apart");
        assert_eq!(buckets.take("dora", limit, now + Duration::from_millis(500)), Ok(()));
        assert!(buckets.take("dora", limit, now + Duration::from_millis(500)).is_err());
    }

    #[test]
    fn places_of_an_identity_come_back() {
        let calls = Arc::<IdentityCalls>::default();
        let dora = Arc::new(Identity { id: "dora".into(), ..Identity::default() });
        let emil = Arc::new(Identity { id: "emil".into(), ..Identity::default() });
        let places: Vec<_> = (0..3).map(|_| calls.enter(&dora, 3).unwrap()).collect();
        assert!(calls.enter(&dora, 3).is_none());
        assert!(calls.enter(&emil, 3).is_some(), "identities are apart");
        drop(places);
        assert!(calls.counts.lock().is_empty());
    }

    #[test]
    fn full_buckets_are_forgotten() {
        let buckets = RateBuckets::default();
        let limit = RateLimit { per_second: 1.0, burst: 1.0 };
        for n in 0..10_000_u64 {
            assert!(buckets.take(&n.to_string(), limit, Duration::from_secs(2 * n)).is_ok());
        }
        assert!(buckets.buckets.lock().by_identity.len() <= SWEEP_ABOVE + 1);
    }
}
