//! What is remembered of senders, in bounded memory and bounded time.
//!
//! Senders that hold connections or handshakes are kept as long as they do, and
//! the limits on those bound their number. Of all others only so many are
//! remembered: a new one takes the place of whoever is worth least among the next
//! few, so that no decision looks at more than a handful. A site (an IPv6 /48)
//! that shows up with very many networks counts as one sender, or its owner could
//! crowd everybody else out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use indexmap::IndexMap;

use super::{AdmissionLimits, MINUTE, Origin};

/// Senders remembered that hold nothing.
pub(super) const REMEMBERED: usize = 16_384;
/// Those of them that are looked at to find a place for a new one.
const LOOKED_AT: usize = 8;
/// Networks of one site that count each for itself.
pub(super) const NETWORKS_PER_SITE: u32 = 256;

/// Who counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sender {
    Address(Ipv4Addr),
    /// The upper 64 bits of an IPv6 address.
    Network(u64),
    /// The upper 48 bits of the addresses of many networks.
    Site(u64),
    Key([u8; 32]),
}

fn site_of(network: u64) -> u64 {
    network >> 16
}

/// What is known of a sender.
pub(super) struct Record {
    pub(super) tokens: f64,
    refilled: Duration,
    pub(super) concurrent: u32,
    /// Handshakes under way of proven addresses.
    pub(super) half_open: u32,
    /// Whether it has ever shown that packets to it arrive.
    pub(super) proven: bool,
    failures: u32,
    /// Start of the minute that `failures` counts.
    failing_since: Duration,
    pub(super) refused_until: Duration,
}

impl Record {
    fn new(now: Duration, limits: &AdmissionLimits) -> Self {
        Self {
            tokens: f64::from(limits.burst_per_prefix),
            refilled: now,
            concurrent: 0,
            half_open: 0,
            proven: false,
            failures: 0,
            failing_since: now,
            refused_until: Duration::ZERO,
        }
    }

    pub(super) fn refill(&mut self, now: Duration, limits: &AdmissionLimits) {
        let passed = now.saturating_sub(self.refilled).as_secs_f64();
        let burst = f64::from(limits.burst_per_prefix);
        self.tokens = (self.tokens + passed * limits.rate_per_prefix).min(burst);
        self.refilled = now;
    }

    pub(super) fn count_failure(&mut self, now: Duration, limits: &AdmissionLimits) {
        if self.failing_since + MINUTE <= now {
            self.failing_since = now;
            self.failures = 0;
        }
        self.failures += 1;
        if self.failures >= limits.failed_authentications {
            self.refused_until = now + limits.refusal;
            self.failures = 0;
        }
    }

    fn is_busy(&self) -> bool {
        self.concurrent > 0 || self.half_open > 0
    }

    /// What is lost with it: nothing, a guess, or something that a real sender
    /// has done.
    fn worth(&mut self, now: Duration, limits: &AdmissionLimits) -> Worth {
        self.refill(now, limits);
        if self.refused_until > now {
            Worth::Refused
        } else if self.failures > 0 && self.failing_since + MINUTE > now {
            Worth::Failing
        } else if self.tokens >= f64::from(limits.burst_per_prefix) - 1.0 {
            Worth::Nothing
        } else if self.proven {
            Worth::Proven
        } else {
            Worth::Unproven
        }
    }
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    Nothing,
    Unproven,
    Proven,
    Failing,
    Refused,
}

/// The senders.
#[derive(Default)]
pub(super) struct Senders {
    busy: HashMap<Sender, Record>,
    idle: IndexMap<Sender, Record>,
    /// How many networks of each site are known.
    sites: HashMap<u64, u32>,
    /// Where the search for a place went on to last time.
    hand: usize,
}

impl Senders {
    /// Whom an origin counts for.
    pub(super) fn of(&self, origin: Origin) -> Sender {
        let address = match origin {
            Origin::Relayed(key) => return Sender::Key(key.0),
            Origin::Address(address) => address,
        };
        let network = match address.to_canonical() {
            IpAddr::V4(v4) => return Sender::Address(v4),
            // The upper half fits.
            IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
        };
        let one = Sender::Network(network);
        let crowd = self.sites.get(&site_of(network)).copied().unwrap_or_default();
        if crowd >= NETWORKS_PER_SITE && self.get(one).is_none() {
            return Sender::Site(site_of(network));
        }
        one
    }

    pub(super) fn get(&self, sender: Sender) -> Option<&Record> {
        self.busy.get(&sender).or_else(|| self.idle.get(&sender))
    }

    /// A sender's record, made when it is new. `None` when there is no place for
    /// it: one that has proven its address takes somebody's, any other only one
    /// that is worth nothing.
    pub(super) fn record(
        &mut self,
        sender: Sender,
        validated: bool,
        now: Duration,
        limits: &AdmissionLimits,
    ) -> Option<&mut Record> {
        // Asked for twice, because a borrow that is returned would last.
        if self.busy.contains_key(&sender) {
            return self.busy.get_mut(&sender);
        }
        if !self.idle.contains_key(&sender) {
            let dearest = if validated { Worth::Refused } else { Worth::Nothing };
            self.make_place(now, limits, dearest).then_some(())?;
            self.note_network(sender);
            self.idle.insert(sender, Record::new(now, limits));
        }
        self.idle.get_mut(&sender)
    }

    /// Changes a sender's record so that it holds something.
    pub(super) fn hold(
        &mut self,
        sender: Sender,
        now: Duration,
        limits: &AdmissionLimits,
        change: impl FnOnce(&mut Record),
    ) {
        let idle = self.idle.swap_remove(&sender);
        if idle.is_none() && !self.busy.contains_key(&sender) {
            self.note_network(sender);
        }
        let record = self
            .busy
            .entry(sender)
            .or_insert_with(|| idle.unwrap_or_else(|| Record::new(now, limits)));
        record.proven = true;
        change(record);
    }

    /// Changes the record of a sender that held something, and perhaps does no
    /// more.
    pub(super) fn release(
        &mut self,
        sender: Sender,
        now: Duration,
        limits: &AdmissionLimits,
        change: impl FnOnce(&mut Record),
    ) {
        let Some(record) = self.busy.get_mut(&sender) else { return };
        change(record);
        if !record.is_busy()
            && let Some(record) = self.busy.remove(&sender)
        {
            // Everything idle may make place for it.
            self.make_place(now, limits, Worth::Refused);
            self.idle.insert(sender, record);
        }
    }

    /// Whether there is a place among the idle, after one that is worth no more
    /// than `dearest` may have gone.
    fn make_place(&mut self, now: Duration, limits: &AdmissionLimits, dearest: Worth) -> bool {
        if self.idle.len() < REMEMBERED {
            return true;
        }
        let mut least: Option<(Worth, usize)> = None;
        for _ in 0..LOOKED_AT {
            self.hand = (self.hand + 1) % self.idle.len();
            let Some((_, record)) = self.idle.get_index_mut(self.hand) else { continue };
            let worth = record.worth(now, limits);
            if least.as_ref().is_none_or(|(so_far, _)| worth < *so_far) {
                least = Some((worth, self.hand));
            }
        }
        let Some((_, index)) = least.filter(|(worth, _)| *worth <= dearest) else { return false };
        if let Some((Sender::Network(network), _)) = self.idle.swap_remove_index(index)
            && let Some(known) = self.sites.get_mut(&site_of(network))
        {
            *known -= 1;
            if *known == 0 {
                self.sites.remove(&site_of(network));
            }
        }
        true
    }

    fn note_network(&mut self, sender: Sender) {
        if let Sender::Network(network) = sender {
            *self.sites.entry(site_of(network)).or_default() += 1;
        }
    }

    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.idle.len()
    }

    #[cfg(test)]
    pub(super) fn sites(&self) -> usize {
        self.sites.len()
    }
}
