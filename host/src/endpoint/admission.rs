//! Admission: who may begin a handshake, and who may stay.
//!
//! Pure code: addresses and time are passed in, verdicts come out. Limits count
//! by *prefix* (an IPv4 address, an IPv6 /64), because that is what one sender
//! controls. A datagram's source can be forged until the sender has answered a
//! Retry, so an unvalidated address spends at most half of its prefix's tokens
//! and holds none of its places: a forger can cost a prefix a round trip, and
//! never its access.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The limits. All can change while the node runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdmissionLimits {
    /// New connections a second for a prefix, in the long run. Default 20.
    pub rate_per_prefix: f64,
    /// New connections at once for a prefix. Default 50.
    pub burst_per_prefix: u32,
    /// Concurrent connections of a prefix. Default 100.
    pub concurrent_per_prefix: u32,
    /// Concurrent connections of the node. Default 10,000.
    pub concurrent: u32,
    /// Failed authentications a minute, after which a prefix is refused for
    /// `refusal`. Default 5.
    pub failed_authentications: u32,
    /// For how long a prefix with too many failures is refused. Default 1 minute.
    pub refusal: Duration,
    /// Handshakes under way above which unvalidated addresses get a Retry.
    /// Default 512.
    pub half_open_retry: u32,
    /// Handshakes under way above which everybody is refused. Default 2,048.
    pub half_open_refuse: u32,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self {
            rate_per_prefix: 20.0,
            burst_per_prefix: 50,
            concurrent_per_prefix: 100,
            concurrent: 10_000,
            failed_authentications: 5,
            refusal: MINUTE,
            half_open_retry: 512,
            half_open_refuse: 2_048,
        }
    }
}

/// What to do with somebody who knocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Begin the handshake; [`Admission::handshake_over`] must follow.
    Accept,
    /// Have the sender prove its address first.
    Retry,
    /// Turn it away.
    Refuse(Refusal),
}

/// Which limit turned somebody away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The prefix opens connections too fast.
    Rate,
    /// The prefix holds as many connections as it may.
    PrefixFull,
    /// The node holds as many connections as it may.
    NodeFull,
    /// Too many handshakes are under way.
    HalfOpen,
    /// The prefix failed to authenticate too often.
    FailedAuthentications,
}

impl Refusal {
    /// The limit's name in logs and metrics.
    pub fn text(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::PrefixFull => "prefix full",
            Self::NodeFull => "node full",
            Self::HalfOpen => "half-open",
            Self::FailedAuthentications => "failed authentications",
        }
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// Prefixes remembered at most. Beyond it a stranger must prove its address, so
/// that forged sources cannot fill the memory.
const REMEMBERED: usize = 16_384;

struct Prefix {
    tokens: f64,
    refilled: Duration,
    concurrent: u32,
    failures: u32,
    /// Start of the minute that `failures` counts.
    failing_since: Duration,
    refused_until: Duration,
}

impl Prefix {
    fn refill(&mut self, now: Duration, limits: &AdmissionLimits) {
        let passed = now.saturating_sub(self.refilled).as_secs_f64();
        let burst = f64::from(limits.burst_per_prefix);
        self.tokens = (self.tokens + passed * limits.rate_per_prefix).min(burst);
        self.refilled = now;
    }

    fn forgettable(&self, now: Duration, limits: &AdmissionLimits) -> bool {
        self.concurrent == 0
            && self.refused_until <= now
            && self.failing_since + MINUTE <= now
            && self.tokens >= f64::from(limits.burst_per_prefix) - 1.0
    }
}

/// The counts behind the limits.
pub struct Admission {
    limits: AdmissionLimits,
    prefixes: HashMap<IpAddr, Prefix>,
    half_open: u32,
    concurrent: u32,
}

impl Admission {
    /// Nobody is here yet.
    pub fn new(limits: AdmissionLimits) -> Self {
        Self { limits, prefixes: HashMap::new(), half_open: 0, concurrent: 0 }
    }

    /// Changes the limits from the next decision on.
    pub fn set_limits(&mut self, limits: AdmissionLimits) {
        self.limits = limits;
    }

    /// Somebody knocks. `validated` says whether the address is proven.
    pub fn knock(&mut self, now: Duration, address: IpAddr, validated: bool) -> Verdict {
        use Verdict::{Accept, Refuse, Retry};
        if self.half_open >= self.limits.half_open_refuse {
            return Refuse(Refusal::HalfOpen);
        }
        if self.concurrent >= self.limits.concurrent {
            return Refuse(Refusal::NodeFull);
        }
        if !validated && self.half_open >= self.limits.half_open_retry {
            return Retry;
        }
        let key = prefix_of(address);
        if self.prefixes.len() >= REMEMBERED && !self.prefixes.contains_key(&key) {
            self.forget(now);
            if self.prefixes.len() >= REMEMBERED {
                return if validated { Refuse(Refusal::NodeFull) } else { Retry };
            }
        }
        let limits = &self.limits;
        let prefix = self.prefixes.entry(key).or_insert_with(|| Prefix {
            tokens: f64::from(limits.burst_per_prefix),
            refilled: now,
            concurrent: 0,
            failures: 0,
            failing_since: now,
            refused_until: Duration::ZERO,
        });
        prefix.refill(now, limits);
        if prefix.refused_until > now {
            return Refuse(Refusal::FailedAuthentications);
        }
        if prefix.concurrent >= limits.concurrent_per_prefix {
            return Refuse(Refusal::PrefixFull);
        }
        let kept = if validated { 0.0 } else { f64::from(limits.burst_per_prefix) / 2.0 };
        if prefix.tokens - 1.0 < kept {
            return if validated { Refuse(Refusal::Rate) } else { Retry };
        }
        prefix.tokens -= 1.0;
        self.half_open += 1;
        Accept
    }

    /// A handshake that was accepted has ended, whichever way.
    pub fn handshake_over(&mut self) {
        self.half_open = self.half_open.saturating_sub(1);
    }

    /// A completed handshake asks to stay; completion has proven its address.
    ///
    /// # Errors
    /// The limit in its way. On success [`Admission::leave`] must follow.
    pub fn stay(&mut self, now: Duration, address: IpAddr) -> Result<(), Refusal> {
        if self.concurrent >= self.limits.concurrent {
            return Err(Refusal::NodeFull);
        }
        let burst = f64::from(self.limits.burst_per_prefix);
        let prefix = self.prefixes.entry(prefix_of(address)).or_insert(Prefix {
            tokens: burst,
            refilled: now,
            concurrent: 0,
            failures: 0,
            failing_since: now,
            refused_until: Duration::ZERO,
        });
        if prefix.concurrent >= self.limits.concurrent_per_prefix {
            return Err(Refusal::PrefixFull);
        }
        prefix.concurrent += 1;
        self.concurrent += 1;
        Ok(())
    }

    /// A connection that stayed has ended.
    pub fn leave(&mut self, address: IpAddr) {
        self.concurrent = self.concurrent.saturating_sub(1);
        if let Some(prefix) = self.prefixes.get_mut(&prefix_of(address)) {
            prefix.concurrent = prefix.concurrent.saturating_sub(1);
        }
    }

    /// A peer of this address presented a credential that is none.
    pub fn authentication_failed(&mut self, now: Duration, address: IpAddr) {
        let Some(prefix) = self.prefixes.get_mut(&prefix_of(address)) else { return };
        if prefix.failing_since + MINUTE <= now {
            prefix.failing_since = now;
            prefix.failures = 0;
        }
        prefix.failures += 1;
        if prefix.failures >= self.limits.failed_authentications {
            prefix.refused_until = now + self.limits.refusal;
            prefix.failures = 0;
        }
    }

    fn forget(&mut self, now: Duration) {
        let limits = &self.limits;
        self.prefixes.retain(|_, prefix| {
            prefix.refill(now, limits);
            !prefix.forgettable(now, limits)
        });
    }
}

/// What one sender controls: an IPv4 address, or an IPv6 /64.
fn prefix_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Accept, Refuse, Retry};
    use super::*;

    const T0: Duration = Duration::from_secs(1000);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn k53_defaults_are_as_written() {
        let limits = AdmissionLimits::default();
        assert_eq!((limits.rate_per_prefix, limits.burst_per_prefix), (20.0, 50));
        assert_eq!((limits.concurrent_per_prefix, limits.concurrent), (100, 10_000));
        assert_eq!(limits.failed_authentications, 5);
    }

    #[test]
    fn k53_a_prefix_spends_its_burst_and_refills_at_its_rate() {
        let mut admission = Admission::new(AdmissionLimits::default());
        let one = ip("192.0.2.1");
        for _ in 0..50 {
            assert_eq!(admission.knock(T0, one, true), Accept);
        }
        assert_eq!(admission.knock(T0, one, true), Refuse(Refusal::Rate));
        assert_eq!(admission.knock(T0, ip("192.0.2.2"), true), Accept);
        let later = T0 + Duration::from_millis(100);
        assert_eq!(admission.knock(later, one, true), Accept);
        assert_eq!(admission.knock(later, one, true), Accept);
        assert_eq!(admission.knock(later, one, true), Refuse(Refusal::Rate));
    }

    #[test]
    fn k53_forged_sources_leave_half_of_a_bucket_and_every_place() {
        let mut admission = Admission::new(AdmissionLimits::default());
        let victim = ip("2001:db8::1");
        for _ in 0..25 {
            assert_eq!(admission.knock(T0, ip("2001:db8::bad"), false), Accept);
            admission.handshake_over();
        }
        for _ in 0..1000 {
            assert_eq!(admission.knock(T0, ip("2001:db8::bad"), false), Retry);
        }
        assert_eq!(admission.knock(T0, victim, true), Accept);
        assert_eq!(admission.stay(T0, victim), Ok(()));
    }

    #[test]
    fn k53_concurrent_limits_refuse_at_their_value_and_recover() {
        let limits = AdmissionLimits {
            concurrent_per_prefix: 2,
            concurrent: 3,
            ..AdmissionLimits::default()
        };
        let mut admission = Admission::new(limits);
        let (one, two) = (ip("192.0.2.1"), ip("192.0.2.2"));
        assert_eq!(admission.stay(T0, one), Ok(()));
        assert_eq!(admission.stay(T0, one), Ok(()));
        assert_eq!(admission.stay(T0, one), Err(Refusal::PrefixFull));
        assert_eq!(admission.knock(T0, one, true), Refuse(Refusal::PrefixFull));
        assert_eq!(admission.stay(T0, two), Ok(()));
        assert_eq!(admission.stay(T0, two), Err(Refusal::NodeFull));
        assert_eq!(admission.knock(T0, two, true), Refuse(Refusal::NodeFull));
        admission.leave(one);
        assert_eq!(admission.stay(T0, one), Ok(()));
    }

    #[test]
    fn k53_half_open_handshakes_get_retry_then_refusal() {
        let limits =
            AdmissionLimits { half_open_retry: 1, half_open_refuse: 2, ..Default::default() };
        let mut admission = Admission::new(limits);
        let one = ip("192.0.2.1");
        assert_eq!(admission.knock(T0, one, false), Accept);
        assert_eq!(admission.knock(T0, one, false), Retry);
        assert_eq!(admission.knock(T0, one, true), Accept);
        assert_eq!(admission.knock(T0, one, true), Refuse(Refusal::HalfOpen));
        admission.handshake_over();
        assert_eq!(admission.knock(T0, one, true), Accept);
    }

    #[test]
    fn k53_failed_authentications_cost_a_minute() {
        let mut admission = Admission::new(AdmissionLimits::default());
        let one = ip("192.0.2.1");
        assert_eq!(admission.knock(T0, one, true), Accept);
        for _ in 0..4 {
            admission.authentication_failed(T0, one);
        }
        assert_eq!(admission.knock(T0, one, true), Accept);
        admission.authentication_failed(T0, one);
        assert_eq!(admission.knock(T0, one, true), Refuse(Refusal::FailedAuthentications));
        let almost = T0 + MINUTE - Duration::from_millis(1);
        assert_eq!(admission.knock(almost, one, true), Refuse(Refusal::FailedAuthentications));
        assert_eq!(admission.knock(T0 + MINUTE, one, true), Accept);
    }

    #[test]
    fn memory_is_bounded_against_forged_sources() {
        let mut admission = Admission::new(AdmissionLimits {
            half_open_retry: u32::MAX,
            half_open_refuse: u32::MAX,
            ..Default::default()
        });
        for n in 0..REMEMBERED as u128 + 1000 {
            let source = IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | n << 64));
            // Two tokens gone, so that the entry is worth remembering.
            admission.knock(T0, source, false);
            admission.knock(T0, source, false);
        }
        assert_eq!(admission.prefixes.len(), REMEMBERED);
        assert_eq!(admission.knock(T0, ip("192.0.2.1"), false), Retry);
        assert_eq!(admission.knock(T0 + MINUTE, ip("192.0.2.1"), false), Accept);
        assert_eq!(admission.prefixes.len(), 1);
    }
}
