//! Pauses between attempts, ever longer and never quite the same.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);

/// How long to wait before the next attempt.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// The next pause: about twice the last one, half a minute at most. Chance
    /// makes it up to a half shorter, so that many nodes that lost the same peer
    /// do not come back together.
    pub(crate) fn pause(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(LONGEST);
        let mut random = [0; 2];
        // Without randomness the pause is merely the longest.
        let fraction = match getrandom::fill(&mut random) {
            Ok(()) => f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX),
            Err(_) => 0.0,
        };
        full.mul_f64(1.0 - fraction / 2.0)
    }

    /// The source has proven itself: the next pause is short again.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_begin_anew() {
        let mut backoff = Backoff::new();
        for n in 0..20 {
            let full = (FIRST * 2u32.saturating_pow(n)).min(LONGEST);
            let pause = backoff.pause();
            assert!(pause <= full && pause >= full / 2, "{n}: {pause:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }
}
