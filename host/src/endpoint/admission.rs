//! Who may connect: limits overall and for each prefix. Pure: time is passed in.
//!
//! A prefix is one IPv4 address or one IPv6 /64, which is what one customer of a
//! provider usually has. Packets with forged sources can spend only half of a
//! prefix's bucket and do not count as connections, so that they cannot lock the
//! prefix's owner out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// What is admitted.
#[derive(Clone, Debug, PartialEq)]
pub struct AdmissionLimits {
    /// Connections at the same time.
    pub connections: usize,
    /// Connections at the same time from a prefix.
    pub connections_per_prefix: usize,
    /// New connections a second from a prefix, in the long run.
    pub new_per_second: f64,
    /// New connections from a prefix at once.
    pub new_burst: f64,
    /// Unfinished handshakes over which clients must prove their address.
    pub half_open_retry: usize,
    /// Unfinished handshakes over which new ones are refused.
    pub half_open_refuse: usize,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_prefix: 100,
            new_per_second: 20.0,
            new_burst: 50.0,
            half_open_retry: 512,
            half_open_refuse: 2_048,
        }
    }
}

/// What to do with a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on with the handshake.
    Admit,
    /// Let the client prove its address first (QUIC Retry).
    Retry,
    /// Refuse, naming the limit.
    Refuse(&'static str),
}

/// One customer's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix(IpAddr);

impl Prefix {
    /// The prefix of an address.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled: Duration,
    connections: usize,
}

/// Decides about new connections.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    prefixes: HashMap<Prefix, Bucket>,
    connections: usize,
    half_open: usize,
}

/// Prefixes above which those that are at rest are forgotten.
const SWEEP_ABOVE: usize = 4_096;

impl Admission {
    /// Nobody is connected yet.
    pub fn new(limits: AdmissionLimits) -> Self {
        Self { limits, prefixes: HashMap::new(), connections: 0, half_open: 0 }
    }

    /// Decides about a connection from `address`, which has been `validated` when
    /// the client answered a Retry. Admitting counts a handshake as begun.
    pub fn admit(&mut self, address: IpAddr, validated: bool, now: Duration) -> Verdict {
        if self.half_open >= self.limits.half_open_refuse {
            return Verdict::Refuse("too many unfinished handshakes");
        }
        if !validated && self.half_open >= self.limits.half_open_retry {
            return Verdict::Retry;
        }
        if self.connections >= self.limits.connections {
            return Verdict::Refuse("too many connections");
        }
        if self.prefixes.len() > SWEEP_ABOVE {
            self.sweep(now);
        }
        let limits = &self.limits;
        let bucket = self.prefixes.entry(Prefix::of(address)).or_insert(Bucket {
            tokens: limits.new_burst,
            filled: now,
            connections: 0,
        });
        bucket.refill(limits, now);
        if bucket.connections >= limits.connections_per_prefix {
            return Verdict::Refuse("too many connections from one prefix");
        }
        // The other half is kept for those who prove that they are there.
        let reserve = if validated { 0.0 } else { limits.new_burst / 2.0 };
        if bucket.tokens - 1.0 < reserve {
            return match validated {
                true => Verdict::Refuse("too many new connections from one prefix"),
                false => Verdict::Retry,
            };
        }
        bucket.tokens -= 1.0;
        self.half_open += 1;
        Verdict::Admit
    }

    /// A handshake that was admitted has ended: with a connection, or without.
    pub fn handshake_ended(&mut self, address: IpAddr, connected: bool, now: Duration) {
        self.half_open = self.half_open.saturating_sub(1);
        if !connected {
            return;
        }
        self.connections += 1;
        let full = self.limits.new_burst;
        let bucket = self.prefixes.entry(Prefix::of(address));
        bucket.or_insert(Bucket { tokens: full, filled: now, connections: 0 }).connections += 1;
    }

    /// A connection has ended.
    pub fn disconnected(&mut self, address: IpAddr) {
        self.connections = self.connections.saturating_sub(1);
        if let Some(bucket) = self.prefixes.get_mut(&Prefix::of(address)) {
            bucket.connections = bucket.connections.saturating_sub(1);
        }
    }

    /// Unfinished handshakes.
    pub fn half_open(&self) -> usize {
        self.half_open
    }

    /// Forgets prefixes without connections whose bucket is full again.
    fn sweep(&mut self, now: Duration) {
        let limits = &self.limits;
        self.prefixes.retain(|_, bucket| {
            bucket.refill(limits, now);
            bucket.connections > 0 || bucket.tokens < limits.new_burst
        });
    }
}

impl Bucket {
    fn refill(&mut self, limits: &AdmissionLimits, now: Duration) {
        let gained = now.saturating_sub(self.filled).as_secs_f64() * limits.new_per_second;
        self.tokens = (self.tokens + gained).min(limits.new_burst);
        self.filled = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_burst_is_admitted_and_regained_and_spoofed_packets_spend_half() {
        let mut admission = Admission::new(AdmissionLimits::default());
        for _ in 0..25 {
            assert_eq!(admission.admit(V4, false, seconds(0)), Verdict::Admit);
        }
        assert_eq!(admission.admit(V4, false, seconds(0)), Verdict::Retry);
        for _ in 0..25 {
            assert_eq!(admission.admit(V4, true, seconds(0)), Verdict::Admit);
        }
        assert!(matches!(admission.admit(V4, true, seconds(0)), Verdict::Refuse(_)));
        for _ in 0..20 {
            assert_eq!(admission.admit(V4, true, seconds(1)), Verdict::Admit);
        }
        assert!(matches!(admission.admit(V4, true, seconds(1)), Verdict::Refuse(_)));
    }

    #[test]
    fn connections_of_one_prefix_are_counted_until_they_end() {
        let limits = AdmissionLimits { connections_per_prefix: 2, ..Default::default() };
        let mut admission = Admission::new(limits);
        for _ in 0..2 {
            assert_eq!(admission.admit(V4, true, seconds(0)), Verdict::Admit);
            admission.handshake_ended(V4, true, seconds(0));
        }
        assert!(matches!(admission.admit(V4, true, seconds(9)), Verdict::Refuse(_)));
        admission.disconnected(V4);
        assert_eq!(admission.admit(V4, true, seconds(9)), Verdict::Admit);
        assert_eq!(admission.half_open(), 1);
    }

    #[test]
    fn pressure_asks_for_proof_and_then_refuses() {
        let limits =
            AdmissionLimits { half_open_retry: 1, half_open_refuse: 2, ..Default::default() };
        let mut admission = Admission::new(limits);
        assert_eq!(admission.admit(V4, false, seconds(0)), Verdict::Admit);
        assert_eq!(admission.admit(V4, false, seconds(0)), Verdict::Retry);
        assert_eq!(admission.admit(V4, true, seconds(0)), Verdict::Admit);
        assert!(matches!(admission.admit(V4, true, seconds(0)), Verdict::Refuse(_)));
        admission.handshake_ended(V4, false, seconds(0));
        assert_eq!(admission.admit(V4, true, seconds(0)), Verdict::Admit);
    }

    #[test]
    fn an_ipv6_customer_is_one_prefix() {
        let one: IpAddr = "2001:db8:1:2::1".parse().unwrap();
        let two: IpAddr = "2001:db8:1:2:ffff::2".parse().unwrap();
        let other: IpAddr = "2001:db8:1:3::1".parse().unwrap();
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(Prefix::of(one), Prefix::of(two));
        assert_ne!(Prefix::of(one), Prefix::of(other));
        assert_eq!(Prefix::of(mapped), Prefix::of(V4));
    }

    #[test]
    fn prefixes_at_rest_are_forgotten() {
        let mut admission = Admission::new(AdmissionLimits::default());
        for n in 0..10_000u32 {
            let address = IpAddr::V4(n.into());
            admission.admit(address, true, seconds(u64::from(n)));
            admission.handshake_ended(address, false, seconds(u64::from(n)));
        }
        assert!(admission.prefixes.len() <= SWEEP_ABOVE + 1);
    }
}
