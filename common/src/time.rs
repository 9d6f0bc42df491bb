//! Time as the cores see it: a number that somebody else read from a clock.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Milliseconds of monotonic time since the program's clock was opened. Also used for durations.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// Zero.
    pub const ZERO: Self = Self(0);

    /// Whole seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// The time since `earlier`, or zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// Seconds, for people.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "display only")]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }
}

impl Add for Millis {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Millis {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.since(other)
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s", self.as_secs_f64())
    }
}

/// Milliseconds since 1970-01-01T00:00Z. For people and records; no decision of the protocol but
/// the skew check at Welcome rests on it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct WallMillis(pub u64);

/// A day of the calendar, as files write it: `2027-03-31`. Its hours are those of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "DateForm", into = "String")]
pub struct Date {
    /// Days since 1970-01-01.
    days: u64,
}

/// TOML has dates of its own: both ways of writing one are read.
#[derive(Deserialize)]
#[serde(untagged)]
enum DateForm {
    Text(String),
    Toml(toml::value::Datetime),
    Other(serde::de::IgnoredAny),
}

impl Date {
    /// A day of UTC: no leap seconds, as POSIX counts.
    pub const DAY: Millis = Millis::from_secs(24 * 3600);

    /// The day of this time.
    #[must_use]
    pub fn of(wall: WallMillis) -> Self {
        Self { days: wall.0 / Self::DAY.0 }
    }

    /// The first instant of the day.
    #[must_use]
    pub fn begin(self) -> WallMillis {
        WallMillis(self.days.saturating_mul(Self::DAY.0))
    }

    /// The first instant that is no longer of the day.
    #[must_use]
    pub fn end(self) -> WallMillis {
        WallMillis(self.begin().0.saturating_add(Self::DAY.0))
    }

    /// Year, month and day (Hinnant, "chrono-Compatible Low-Level Date Algorithms",
    /// `civil_from_days`).
    fn civil(self) -> (u64, u64, u64) {
        let days = self.days + 719_468;
        let (era, of_era) = (days / 146_097, days % 146_097);
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let shifted = (5 * of_year + 2) / 153;
        let day = of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        (year + era * 400 + u64::from(month <= 2), month, day)
    }

    /// `days_from_civil` of the same; `None` before 1970 and for days that no month has.
    fn from_civil(year: u64, month: u64, day: u64) -> Option<Self> {
        if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || day == 0 {
            return None;
        }
        let year_of = year - u64::from(month <= 2);
        let (era, of_era) = (year_of / 400, year_of % 400);
        let shifted = if month > 2 { month - 3 } else { month + 9 };
        let of_year = (153 * shifted + 2) / 5 + day - 1;
        let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
        let date = Self { days: days.checked_sub(719_468)? };
        (date.civil() == (year, month, day)).then_some(date)
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.civil();
        f.pad(&format!("{year:04}-{month:02}-{day:02}"))
    }
}

impl FromStr for Date {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |range: std::ops::Range<usize>| {
            let digits = text.get(range)?;
            digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
        };
        let dashes = text.len() == 10 && text.get(4..5) == Some("-") && text.get(7..8) == Some("-");
        let parts = dashes.then(|| Some((number(0..4)?, number(5..7)?, number(8..10)?))).flatten();
        parts.and_then(|(year, month, day)| Self::from_civil(year, month, day)).ok_or_else(|| {
            let text: String = text.chars().take(40).collect();
            format!("{text:?} is not a date: write a day such as \"2027-03-31\"")
        })
    }
}

impl TryFrom<DateForm> for Date {
    type Error = String;
    fn try_from(form: DateForm) -> Result<Self, String> {
        match form {
            DateForm::Text(text) => text.parse(),
            DateForm::Toml(datetime) => datetime.to_string().parse(),
            DateForm::Other(_) => Err("not a date: write a day such as \"2027-03-31\"".to_owned()),
        }
    }
}

impl From<Date> for String {
    fn from(date: Date) -> Self {
        date.to_string()
    }
}

/// Where the edges read time. The one implementation on the system's clocks is in `consilium-io`.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Monotonic time since the clock was opened.
    fn now(&self) -> Millis;
    /// The calendar's time.
    fn wall(&self) -> WallMillis;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_four_centuries_survives_its_text_and_follows_the_one_before() {
        let mut date: Date = "1970-01-01".parse().unwrap();
        assert_eq!(date.begin(), WallMillis(0));
        for _ in 0..146_097 {
            assert_eq!(date.to_string().parse::<Date>(), Ok(date));
            let next = Date::of(date.end());
            assert!(next > date);
            date = next;
        }
        assert_eq!(
            date.to_string(),
            "2370-01-01",
            "the Gregorian calendar repeats after 400 years"
        );
        assert_eq!("2027-03-31".parse::<Date>().unwrap().begin().0, 1_806_451_200_000);
    }

    #[test]
    fn what_is_no_day_is_refused() {
        for bad in [
            "",
            "2027",
            "2027-3-31",
            "2027-13-01",
            "2027-00-10",
            "2027-02-29",
            "2027-04-31",
            "1969-12-31",
            "2027-03-31 ",
            "2027/03/31",
            "+027-03-31",
            "2027-03-3é",
        ] {
            assert!(bad.parse::<Date>().unwrap_err().contains("write a day such as"), "{bad}");
        }
        assert!("2028-02-29".parse::<Date>().is_ok());
    }
}
