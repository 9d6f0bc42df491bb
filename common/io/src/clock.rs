//! The one place that reads the system's clocks. Everything else takes `now` as an argument or a
//! [`Clock`], so that tests decide what time it is.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use consilium_common::time::{Clock, Millis, WallMillis};

/// The system's monotonic and calendar clocks.
#[derive(Debug, Clone)]
pub struct SystemClock {
    opened: Instant,
}

impl SystemClock {
    /// Opens the clock: [`Clock::now`] counts from here.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one Clock on the system's clocks")]
    pub fn open() -> Self {
        Self { opened: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Millis {
        Millis(u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// A calendar set before 1970 reads as 1970: the skew check at Welcome will refuse it.
    #[expect(clippy::disallowed_methods, reason = "the one Clock on the system's clocks")]
    fn wall(&self) -> WallMillis {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallMillis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_starts_near_zero_and_never_goes_back() {
        let clock = SystemClock::open();
        let first = clock.now();
        assert!(first < Millis::from_secs(10), "{first}");
        assert!(clock.now() >= first);
        let january_2025 = WallMillis(1_735_689_600_000);
        assert!(clock.wall() > january_2025, "the calendar of this machine is set");
    }
}
