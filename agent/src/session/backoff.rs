//! How long to wait before the next connection: exponential with full jitter, so that the sites of
//! a consortium do not all come back in the same instant (Brooker, "Exponential Backoff And
//! Jitter", 2015).

use consilium_common::time::Millis;

/// The first attempt after a loss waits at most this.
const FIRST: Millis = Millis(500);
/// No attempt waits longer.
const LONGEST: Millis = Millis::from_secs(60);

/// Counts attempts since the coordinator last said Welcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The wait before the next attempt: uniform in 0 ..= min(60 s, 0.5 s · 2^n), `jitter` being
    /// uniform over all u32.
    pub fn next_wait(&mut self, jitter: u32) -> Millis {
        let doubled = FIRST.0.checked_shl(self.attempts.min(16)).unwrap_or(0);
        let ceiling = doubled.clamp(FIRST.0, LONGEST.0);
        self.attempts = self.attempts.saturating_add(1);
        Millis((u64::from(jitter) * (ceiling + 1)) >> 32)
    }

    /// The coordinator said Welcome.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// Connections lost or refused since the last Welcome.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_a_minute_and_starts_again_after_welcome() {
        let mut backoff = Backoff::default();
        let ceilings: Vec<u64> = (0..10).map(|_| backoff.next_wait(u32::MAX).0).collect();
        assert_eq!(ceilings, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        for _ in 0..1000 {
            assert_eq!(backoff.next_wait(u32::MAX), LONGEST);
        }
        backoff.reset();
        assert_eq!(backoff.next_wait(u32::MAX), FIRST);
    }

    #[test]
    fn the_wait_is_spread_from_zero_to_the_ceiling() {
        assert_eq!(Backoff::default().next_wait(0), Millis::ZERO);
        assert_eq!(Backoff::default().next_wait(1 << 31), Millis(250));
    }
}
