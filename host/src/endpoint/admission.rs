//! Admission: who may begin a handshake, and who may stay.
//!
//! Pure code: origins and time are passed in, verdicts come out. Limits count
//! by *prefix* (an IPv4 address, an IPv6 /64), because that is what one sender
//! controls. A datagram's source can be forged until the sender has answered a
//! Retry, so an unvalidated address spends at most half of its prefix's tokens
//! and holds none of its places: a forger can cost a prefix a round trip, and
//! never its access.
//!
//! Every decision takes the same short time, however many senders there are:
//! what is remembered of them is bounded, and the least of it makes room.

mod senders;

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::senders::{Sender, Senders};
use super::key::PublicKey;

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

/// Handshakes that one prefix may have under way while clients must prove their
/// address: few need more, and no handful of senders can take up all there are.
const HALF_OPEN_PER_PREFIX: u32 = 8;

/// Where somebody comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// An address of its own.
    Address(IpAddr),
    /// Through a relay, which has checked that the sender holds this key.
    Relayed(PublicKey),
}

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        Self::Address(address)
    }
}

/// Why somebody who knocks does not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// The sender must prove its address first.
    Retry,
    /// It is turned away.
    Refused(Refusal),
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

/// A handshake under way. It goes back with [`Admission::handshake_over`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Handshake {
    /// Whose it is, where the address was proven.
    of: Option<Sender>,
}

/// A connection's place. It goes back with [`Admission::leave`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Stay(Sender);

const MINUTE: Duration = Duration::from_secs(60);

/// The counts behind the limits.
pub struct Admission {
    limits: AdmissionLimits,
    senders: Senders,
    half_open: u32,
    concurrent: u32,
}

impl Admission {
    /// Nobody is here yet.
    pub fn new(limits: AdmissionLimits) -> Self {
        Self { limits, senders: Senders::default(), half_open: 0, concurrent: 0 }
    }

    /// Changes the limits from the next decision on.
    pub fn set_limits(&mut self, limits: AdmissionLimits) {
        self.limits = limits;
    }

    /// Handshakes under way.
    pub fn half_open(&self) -> u32 {
        self.half_open
    }

    /// Somebody knocks. `validated` says whether the address is proven.
    ///
    /// # Errors
    /// What is in its way. On success [`Admission::handshake_over`] must follow.
    pub fn knock(
        &mut self,
        now: Duration,
        origin: Origin,
        validated: bool,
    ) -> Result<Handshake, Turned> {
        use Turned::{Refused, Retry};
        let limits = &self.limits;
        if self.half_open >= limits.half_open_refuse {
            return Err(Refused(Refusal::HalfOpen));
        }
        if self.concurrent >= limits.concurrent {
            return Err(Refused(Refusal::NodeFull));
        }
        let pressed = self.half_open >= limits.half_open_retry;
        if pressed && !validated {
            return Err(Retry);
        }
        let sender = self.senders.of(origin);
        // Without a place left for strangers, a stranger must be a real one.
        let record = self.senders.record(sender, validated, now, limits).ok_or(Retry)?;
        record.refill(now, limits);
        record.proven |= validated;
        if record.refused_until > now {
            return Err(Refused(Refusal::FailedAuthentications));
        }
        if record.concurrent >= limits.concurrent_per_prefix {
            return Err(Refused(Refusal::PrefixFull));
        }
        if pressed && record.half_open >= HALF_OPEN_PER_PREFIX {
            return Err(Refused(Refusal::HalfOpen));
        }
        let kept = if validated { 0.0 } else { f64::from(limits.burst_per_prefix) / 2.0 };
        if record.tokens - 1.0 < kept {
            return Err(if validated { Refused(Refusal::Rate) } else { Retry });
        }
        record.tokens -= 1.0;
        self.half_open += 1;
        if validated {
            self.senders.hold(sender, now, limits, |record| record.half_open += 1);
        }
        Ok(Handshake { of: validated.then_some(sender) })
    }

    /// A handshake that was accepted has ended, whichever way.
    pub fn handshake_over(&mut self, now: Duration, handshake: Handshake) {
        self.half_open = self.half_open.saturating_sub(1);
        if let Some(sender) = handshake.of {
            self.senders.release(sender, now, &self.limits, |record| {
                record.half_open = record.half_open.saturating_sub(1);
            });
        }
    }

    /// A completed handshake asks to stay; completion has proven its address.
    ///
    /// # Errors
    /// The limit in its way. On success [`Admission::leave`] must follow.
    pub fn stay(&mut self, now: Duration, origin: Origin) -> Result<Stay, Refusal> {
        if self.concurrent >= self.limits.concurrent {
            return Err(Refusal::NodeFull);
        }
        let sender = self.senders.of(origin);
        let places = self.limits.concurrent_per_prefix;
        if self.senders.get(sender).is_some_and(|record| record.concurrent >= places) {
            return Err(Refusal::PrefixFull);
        }
        self.senders.hold(sender, now, &self.limits, |record| record.concurrent += 1);
        self.concurrent += 1;
        Ok(Stay(sender))
    }

    /// A connection that stayed has ended.
    pub fn leave(&mut self, now: Duration, Stay(sender): Stay) {
        self.concurrent = self.concurrent.saturating_sub(1);
        self.senders.release(sender, now, &self.limits, |record| {
            record.concurrent = record.concurrent.saturating_sub(1);
        });
    }

    /// A peer of this origin presented a credential that is none.
    pub fn authentication_failed(&mut self, now: Duration, origin: Origin) {
        let sender = self.senders.of(origin);
        let limits = &self.limits;
        let Some(record) = self.senders.record(sender, true, now, limits) else { return };
        record.count_failure(now, limits);
    }
}

#[cfg(test)]
mod tests;
