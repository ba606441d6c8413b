use std::net::Ipv6Addr;

use super::Turned::{Refused, Retry};
use super::senders::{NETWORKS_PER_SITE, REMEMBERED};
use super::*;

const T0: Duration = Duration::from_secs(1000);

fn ip(text: &str) -> Origin {
    Origin::Address(text.parse().unwrap())
}

/// The `n`th /64 under a prefix of 32 bits.
fn network(prefix: u32, n: u32) -> Origin {
    let bits = u128::from(prefix) << 96 | u128::from(n) << 64 | 1;
    Origin::Address(IpAddr::V6(Ipv6Addr::from_bits(bits)))
}

fn unbounded_handshakes() -> AdmissionLimits {
    AdmissionLimits { half_open_retry: u32::MAX, half_open_refuse: u32::MAX, ..Default::default() }
}

impl Admission {
    /// Knocks, and is over at once.
    fn visit(&mut self, now: Duration, origin: Origin, validated: bool) -> Result<(), Turned> {
        let handshake = self.knock(now, origin, validated)?;
        self.handshake_over(now, handshake);
        Ok(())
    }
}

#[test]
fn k53_defaults_are_as_written() {
    let limits = AdmissionLimits::default();
    assert_eq!((limits.rate_per_prefix, limits.burst_per_prefix), (20.0, 50));
    assert_eq!((limits.concurrent_per_prefix, limits.concurrent), (100, 10_000));
    assert_eq!((limits.failed_authentications, limits.refusal), (5, MINUTE));
}

#[test]
fn k53_a_prefix_spends_its_burst_and_refills_at_its_rate() {
    let mut admission = Admission::new(AdmissionLimits::default());
    let one = ip("192.0.2.1");
    for _ in 0..50 {
        assert_eq!(admission.visit(T0, one, true), Ok(()));
    }
    assert_eq!(admission.visit(T0, one, true), Err(Refused(Refusal::Rate)));
    assert_eq!(admission.visit(T0, ip("192.0.2.2"), true), Ok(()));
    let later = T0 + Duration::from_millis(100);
    assert_eq!(admission.visit(later, one, true), Ok(()));
    assert_eq!(admission.visit(later, one, true), Ok(()));
    assert_eq!(admission.visit(later, one, true), Err(Refused(Refusal::Rate)));
}

#[test]
fn k53_forged_sources_leave_half_of_a_bucket_and_every_place() {
    let mut admission = Admission::new(AdmissionLimits::default());
    let victim = ip("2001:db8::1");
    for _ in 0..25 {
        assert_eq!(admission.visit(T0, ip("2001:db8::bad"), false), Ok(()));
    }
    for _ in 0..1000 {
        assert_eq!(admission.visit(T0, ip("2001:db8::bad"), false), Err(Retry));
    }
    assert_eq!(admission.visit(T0, victim, true), Ok(()));
    assert!(admission.stay(T0, victim).is_ok());
}

#[test]
fn k53_concurrent_limits_refuse_at_their_value_and_recover() {
    let limits =
        AdmissionLimits { concurrent_per_prefix: 2, concurrent: 3, ..AdmissionLimits::default() };
    let mut admission = Admission::new(limits);
    let (one, two) = (ip("192.0.2.1"), ip("192.0.2.2"));
    let first = admission.stay(T0, one).unwrap();
    let _second = admission.stay(T0, one).unwrap();
    assert_eq!(admission.stay(T0, one), Err(Refusal::PrefixFull));
    assert_eq!(admission.visit(T0, one, true), Err(Refused(Refusal::PrefixFull)));
    let _third = admission.stay(T0, two).unwrap();
    assert_eq!(admission.stay(T0, two), Err(Refusal::NodeFull));
    assert_eq!(admission.visit(T0, two, true), Err(Refused(Refusal::NodeFull)));
    admission.leave(T0, first);
    assert!(admission.stay(T0, one).is_ok());
}

#[test]
fn k53_half_open_handshakes_get_retry_then_refusal() {
    let limits = AdmissionLimits { half_open_retry: 1, half_open_refuse: 2, ..Default::default() };
    let mut admission = Admission::new(limits);
    let one = ip("192.0.2.1");
    let first = admission.knock(T0, one, false).unwrap();
    assert_eq!(admission.visit(T0, one, false), Err(Retry));
    let _second = admission.knock(T0, one, true).unwrap();
    assert_eq!(admission.visit(T0, one, true), Err(Refused(Refusal::HalfOpen)));
    admission.handshake_over(T0, first);
    assert_eq!(admission.visit(T0, one, true), Ok(()));
}

#[test]
fn k53_a_few_senders_do_not_take_up_every_handshake() {
    let limits =
        AdmissionLimits { half_open_retry: 10, half_open_refuse: 100, ..Default::default() };
    let mut admission = Admission::new(limits);
    let hog = ip("192.0.2.1");
    let held: Vec<_> = std::iter::from_fn(|| admission.knock(T0, hog, true).ok()).collect();
    assert_eq!(held.len(), 10, "nobody else wants any, so it may have what there is");
    assert_eq!(admission.visit(T0, hog, true), Err(Refused(Refusal::HalfOpen)));
    assert_eq!(admission.visit(T0, ip("192.0.2.2"), true), Ok(()));
    for handshake in held {
        admission.handshake_over(T0, handshake);
    }
    assert_eq!(admission.half_open(), 0);
    assert_eq!(admission.visit(T0, hog, false), Ok(()));
}

#[test]
fn k53_failed_authentications_cost_a_minute() {
    let mut admission = Admission::new(AdmissionLimits::default());
    let one = ip("192.0.2.1");
    assert_eq!(admission.visit(T0, one, true), Ok(()));
    for _ in 0..4 {
        admission.authentication_failed(T0, one);
    }
    assert_eq!(admission.visit(T0, one, true), Ok(()));
    admission.authentication_failed(T0, one);
    let refused = Err(Refused(Refusal::FailedAuthentications));
    assert_eq!(admission.visit(T0, one, true), refused);
    assert_eq!(admission.visit(T0 + MINUTE - Duration::from_millis(1), one, true), refused);
    assert_eq!(admission.visit(T0 + MINUTE, one, true), Ok(()));
}

#[test]
fn k53_changed_limits_hold_from_the_next_decision_on() {
    let mut admission = Admission::new(AdmissionLimits::default());
    let one = ip("192.0.2.1");
    assert_eq!(admission.visit(T0, one, true), Ok(()));
    admission.set_limits(AdmissionLimits { burst_per_prefix: 1, ..Default::default() });
    assert_eq!(admission.visit(T0, one, true), Ok(()));
    assert_eq!(admission.visit(T0, one, true), Err(Refused(Refusal::Rate)));
}

#[test]
fn k53_who_comes_through_a_relay_counts_by_its_key() {
    let mut admission = Admission::new(AdmissionLimits::default());
    let key = |n| Origin::Relayed(PublicKey([n; 32]));
    for _ in 0..50 {
        assert_eq!(admission.visit(T0, key(1), true), Ok(()));
    }
    assert_eq!(admission.visit(T0, key(1), true), Err(Refused(Refusal::Rate)));
    assert_eq!(admission.visit(T0, key(2), true), Ok(()));
}

/// Two knocks each, so that there is something to remember.
fn flood(admission: &mut Admission, sources: impl Iterator<Item = Origin>, validated: bool) {
    for source in sources {
        let _whatever = admission.visit(T0, source, validated);
        let _whatever = admission.visit(T0, source, validated);
    }
}

#[test]
fn k53_forged_sources_fill_a_bounded_memory_and_shut_nobody_out() {
    let mut admission = Admission::new(unbounded_handshakes());
    // One network each of very many sites.
    let forged = (0..REMEMBERED as u32 + 1000).map(|n| network(0x2001_0db8 + (n >> 16), n << 16));
    flood(&mut admission, forged, false);
    assert_eq!(admission.senders.idle(), REMEMBERED);
    let newcomer = ip("192.0.2.1");
    assert_eq!(admission.visit(T0, newcomer, false), Err(Retry), "it must prove its address");
    assert_eq!(admission.visit(T0, newcomer, true), Ok(()));
    assert_eq!(admission.visit(T0, newcomer, true), Ok(()), "and is remembered");
    assert_eq!(admission.senders.idle(), REMEMBERED);
    // Once their buckets are full again, the forged ones are worth nothing.
    assert_eq!(admission.visit(T0 + MINUTE, ip("192.0.2.2"), false), Ok(()));
    assert_eq!(admission.senders.idle(), REMEMBERED);
}

#[test]
fn k53_one_site_does_not_crowd_the_others_out() {
    let mut admission = Admission::new(unbounded_handshakes());
    let neighbour = ip("2001:db9::1");
    for _ in 0..50 {
        assert_eq!(admission.visit(T0, neighbour, true), Ok(()));
    }
    // A /48 has 65,536 networks.
    flood(&mut admission, (0..65_536).map(|n| network(0x2001_0db8, n)), true);
    assert_eq!(admission.senders.idle(), NETWORKS_PER_SITE as usize + 2);
    assert_eq!(admission.senders.sites(), 2);
    assert_eq!(admission.visit(T0, neighbour, true), Err(Refused(Refusal::Rate)), "not forgotten");
    assert_eq!(
        admission.visit(T0, network(0x2001_0db8, 99_999 & 0xffff), true),
        Err(Refused(Refusal::Rate)),
        "what is left of the site shares one bucket"
    );
}

#[test]
fn k53_who_holds_a_connection_is_never_forgotten() {
    let mut admission = Admission::new(unbounded_handshakes());
    let resident = ip("192.0.2.1");
    let stay = admission.stay(T0, resident).unwrap();
    for _ in 0..5 {
        admission.authentication_failed(T0, ip("192.0.2.2"));
    }
    let proven = (0..2 * REMEMBERED as u32).map(|n| network(0x2001_0db8 + (n >> 16), n << 16));
    flood(&mut admission, proven, true);
    assert_eq!(
        admission.visit(T0, ip("192.0.2.2"), true),
        Err(Refused(Refusal::FailedAuthentications)),
        "a refusal goes last"
    );
    admission.leave(T0, stay);
    assert_eq!(admission.senders.idle(), REMEMBERED);
}
