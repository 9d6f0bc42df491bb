//! How long a certificate is good, and how to say so on a status screen.

use std::fmt;

use consilium_common::limits::CLOCK_SKEW_MAX;
use consilium_common::time::{Millis, WallMillis};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;

use crate::identity::IdentityError;

/// One day.
pub const DAY: Millis = Millis::from_secs(24 * 60 * 60);

/// The calendar is looked at again this often: it may be set while we sleep.
const LOOK_INTERVAL: Millis = Millis::from_secs(60);
/// Certificates of tests and of very short lives are looked at more often than that.
const LOOK_INTERVAL_MIN: Millis = Millis::from_secs(1);

/// From when to when a certificate is good, both included. X.509 counts whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// `notBefore`.
    pub from: WallMillis,
    /// `notAfter`.
    pub until: WallMillis,
}

/// How a certificate stands at some moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It starts later: a clock is wrong.
    NotYetValid {
        /// Until it starts.
        starts_in: Millis,
    },
    /// Good, with at least a third of its time left.
    Valid {
        /// Until it ends.
        left: Millis,
    },
    /// Good, with less than a third of its time left: renew it.
    Ending {
        /// Until it ends.
        left: Millis,
    },
    /// Over.
    Expired {
        /// Since it ended.
        since: Millis,
    },
}

impl Validity {
    /// `length` from `now`, and backdated by the clock skew that peers allow each other, so that a
    /// machine whose clock is behind can use the certificate at once.
    #[must_use]
    pub fn starting(now: WallMillis, length: Millis) -> Self {
        Self {
            from: WallMillis(now.0.saturating_sub(CLOCK_SKEW_MAX.0)),
            until: WallMillis(now.0.saturating_add(length.0)),
        }
    }

    /// Reads it from a certificate.
    ///
    /// # Errors
    /// The bytes are not a certificate.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|error| IdentityError::NotACertificate(error.to_string()))?;
        let millis = |seconds: i64| {
            WallMillis(u64::try_from(seconds).unwrap_or_default().saturating_mul(1000))
        };
        let validity = parsed.validity();
        Ok(Self {
            from: millis(validity.not_before.timestamp()),
            until: millis(validity.not_after.timestamp()),
        })
    }

    /// How it stands at `now`.
    #[must_use]
    pub fn standing(&self, now: WallMillis) -> Standing {
        let (from, until, now) = (Millis(self.from.0), Millis(self.until.0), Millis(now.0));
        if now < from {
            return Standing::NotYetValid { starts_in: from - now };
        }
        if now > until {
            return Standing::Expired { since: now - until };
        }
        let left = until - now;
        if left.0 < (until - from).0 / 3 {
            Standing::Ending { left }
        } else {
            Standing::Valid { left }
        }
    }

    /// When the next certificate is asked for: at two thirds of its time (DESIGN.md §8).
    #[must_use]
    pub fn due(&self) -> WallMillis {
        WallMillis(self.from.0.saturating_add(self.length().0 / 3 * 2))
    }

    /// How often whoever renews it looks at the calendar: a hundredth of its time, within bounds.
    #[must_use]
    pub fn look_interval(&self) -> Millis {
        Millis((self.length().0 / 100).clamp(LOOK_INTERVAL_MIN.0, LOOK_INTERVAL.0))
    }

    fn length(&self) -> Millis {
        Millis(self.until.0.saturating_sub(self.from.0))
    }

    /// Time left at `now`; zero when it is over.
    #[must_use]
    pub fn expires_in(&self, now: WallMillis) -> Millis {
        Millis(self.until.0.saturating_sub(now.0))
    }
}

impl Standing {
    /// What to warn of, if anything.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::Valid { .. } => None,
            Self::NotYetValid { .. } | Self::Ending { .. } | Self::Expired { .. } => {
                Some(self.to_string())
            }
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotYetValid { starts_in } => {
                write!(f, "valid only in {}: check the clock", Span(*starts_in))
            }
            Self::Valid { left } => write!(f, "valid for {}", Span(*left)),
            Self::Ending { left } => write!(f, "expires in {}: renew it", Span(*left)),
            Self::Expired { since } => write!(f, "expired {} ago: renew it", Span(*since)),
        }
    }
}

/// A span of time in its two largest units, such as `6 d 3 h`.
struct Span(Millis);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.0 / 1000;
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
        match (days, hours) {
            (0, 0) => write!(f, "{minutes} min {} s", seconds % 60),
            (0, _) => write!(f, "{hours} h {minutes} min"),
            _ => write!(f, "{days} d {hours} h"),
        }
    }
}

/// The calendar's moment of `wall`, whole seconds; nothing outside the years 1970–9999.
pub(crate) fn calendar(wall: WallMillis) -> Option<OffsetDateTime> {
    let seconds = i64::try_from(wall.0 / 1000).ok()?;
    OffsetDateTime::from_unix_timestamp(seconds).ok()
}

/// Such as `2026-11-23 20:15 UTC`.
pub fn date(wall: WallMillis) -> String {
    let Some(at) = calendar(wall) else {
        return format!("{} ms since 1970", wall.0);
    };
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", at.hour(), at.minute())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallMillis = WallMillis(1_764_000_000_000);

    fn later(by: Millis) -> WallMillis {
        WallMillis(NOW.0 + by.0)
    }

    #[test]
    fn under_a_third_left_is_a_warning() {
        let week = Validity::starting(NOW, Millis(7 * DAY.0));
        assert_eq!(week.standing(NOW), Standing::Valid { left: Millis(7 * DAY.0) });
        assert_eq!(week.standing(later(Millis(4 * DAY.0))).warning(), None);
        let ending = week.standing(later(Millis(5 * DAY.0)));
        assert_eq!(ending.warning().unwrap(), "expires in 2 d 0 h: renew it");
        let over = week.standing(later(Millis(7 * DAY.0 + 90_000)));
        assert_eq!(over.to_string(), "expired 1 min 30 s ago: renew it");
        let early = week.standing(WallMillis(NOW.0 - 2 * 3_600_000 - CLOCK_SKEW_MAX.0));
        assert_eq!(early.to_string(), "valid only in 2 h 0 min: check the clock");
    }

    #[test]
    fn a_clock_behind_by_the_allowed_skew_can_use_it_at_once() {
        let week = Validity::starting(NOW, Millis(7 * DAY.0));
        let behind = WallMillis(NOW.0 - CLOCK_SKEW_MAX.0);
        assert!(matches!(week.standing(behind), Standing::Valid { .. }));
        assert_eq!(week.expires_in(later(Millis(8 * DAY.0))), Millis::ZERO);
    }

    #[test]
    fn it_is_due_at_two_thirds_and_looked_at_between_a_second_and_a_minute() {
        let validity =
            |length: u64| Validity { from: WallMillis(1_000), until: WallMillis(1_000 + length) };
        assert_eq!(validity(9_000).due(), WallMillis(7_000));
        assert_eq!(validity(9_000).look_interval(), Millis::from_secs(1));
        assert_eq!(validity(7 * DAY.0).look_interval(), Millis::from_secs(60));
    }

    #[test]
    fn dates_are_written_for_people() {
        assert_eq!(date(NOW), "2025-11-24 16:00 UTC");
        assert_eq!(date(WallMillis(u64::MAX)), format!("{} ms since 1970", u64::MAX));
    }
}
