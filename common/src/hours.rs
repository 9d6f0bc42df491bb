//! `hours = "20:00-06:00 Europe/Berlin"`: when plans are taken on. Times are those of the clocks on
//! the wall there, so the days on which they are moved are an hour longer or shorter.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;

use crate::time::{Millis, WallMillis};

const MINUTES_OF_A_DAY: u16 = 24 * 60;
const MINUTE: u64 = 60_000;
/// Minutes in which every window opens: a day, and the days that a zone can leave out or in which a
/// change of its clocks can swallow a short window.
const SEARCH_MINUTES: u64 = 4 * 24 * 60;

/// Daily hours with their zone, as they were written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Hours {
    /// Minute of the day from which it is open, included.
    from: u16,
    /// Minute of the day until which it is open, excluded; before `from` it is one of the next day.
    to: u16,
    zone: String,
}

impl FromStr for Hours {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!(
                "{text:?} are no hours: write them as \"20:00-06:00 Europe/Berlin\", with the time \
                 zone of the clocks that are meant"
            )
        };
        let (times, zone) = text.split_once(' ').ok_or_else(refuse)?;
        let (from, to) = times.split_once('-').ok_or_else(refuse)?;
        let (from, to) = (minute(from).ok_or_else(refuse)?, minute(to).ok_or_else(refuse)?);
        let zone = zone.trim();
        if zone.is_empty() || from == MINUTES_OF_A_DAY {
            return Err(refuse());
        }
        if from == to {
            return Err(format!(
                "{text:?} begin when they end: write \"00:00-24:00\" for the whole day"
            ));
        }
        Ok(Self { from, to, zone: zone.to_owned() })
    }
}

impl TryFrom<String> for Hours {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(f, "{}-{} {}", clock(self.from), clock(self.to), self.zone)
    }
}

/// `HH:MM`, up to 24:00.
fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let is_number = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number(hour) || !is_number(minute) {
        return None;
    }
    let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
    let of_day = hour * 60 + minute;
    (minute < 60 && of_day <= MINUTES_OF_A_DAY).then_some(of_day)
}

impl Hours {
    /// The name of the time zone.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone
    }

    fn has(&self, minute: u16) -> bool {
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }
}

/// Hours with the rules of their zone, which the edge has read.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    hours: Hours,
    zone: TimeZone,
}

/// The next time at which it opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// From now.
    pub after: Millis,
    /// As people there say it.
    pub at: String,
}

impl Window {
    /// These hours in their zone.
    #[must_use]
    pub fn new(hours: Hours, zone: TimeZone) -> Self {
        Self { hours, zone }
    }

    /// The hours as they were written.
    #[must_use]
    pub fn hours(&self) -> &Hours {
        &self.hours
    }

    /// None if it is open at `wall`, else when it opens next: the first minute whose time of day is
    /// within the hours, whatever the clocks there did meanwhile.
    #[must_use]
    pub fn closed(&self, wall: WallMillis) -> Option<Opening> {
        if self.is_open(wall) {
            return None;
        }
        let next = wall.0 - wall.0 % MINUTE;
        let mut minutes = (1..=SEARCH_MINUTES).map(|n| WallMillis(next.saturating_add(n * MINUTE)));
        let opens = minutes.find(|at| self.is_open(*at));
        // A window that does not open for days is asked about again then.
        let opens =
            opens.unwrap_or_else(|| WallMillis(next.saturating_add(SEARCH_MINUTES * MINUTE)));
        Some(Opening { after: Millis(opens.0.saturating_sub(wall.0)), at: self.show(opens) })
    }

    /// Whether it is open at `wall`.
    #[must_use]
    pub fn is_open(&self, wall: WallMillis) -> bool {
        // A clock beyond the calendar's end is no time at which anything runs.
        timestamp(wall).is_some_and(|at| {
            let local = self.zone.to_datetime(at);
            let (hour, minute) = (local.hour().unsigned_abs(), local.minute().unsigned_abs());
            self.hours.has(u16::from(hour) * 60 + u16::from(minute))
        })
    }

    fn show(&self, wall: WallMillis) -> String {
        let shown = timestamp(wall).map(|at| {
            let local = self.zone.to_datetime(at);
            let date = local.date();
            format!(
                "{:?} {date} {:02}:{:02} {}",
                date.weekday(),
                local.hour(),
                local.minute(),
                self.hours.zone
            )
        });
        shown.unwrap_or_else(|| self.hours.to_string())
    }
}

fn timestamp(wall: WallMillis) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(wall.0).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(text: &str) -> Window {
        let hours: Hours = text.parse().unwrap();
        let zone = TimeZone::get(hours.zone()).unwrap();
        Window::new(hours, zone)
    }

    fn wall(text: &str) -> WallMillis {
        let at: Timestamp = text.parse().unwrap();
        WallMillis(u64::try_from(at.as_millisecond()).unwrap())
    }

    /// When the window opens, asked at a time in UTC; "open" if it is.
    fn opens(window: &Window, at: &str) -> String {
        window.closed(wall(at)).map_or_else(|| "open".to_owned(), |opening| opening.at)
    }

    #[test]
    fn a_night_begins_on_one_day_and_ends_on_the_next() {
        let night = window("20:00-06:00 Europe/Berlin");
        // In winter Berlin is an hour ahead of UTC, in summer two.
        assert_eq!(opens(&night, "2026-11-27T18:59:59Z"), "Friday 2026-11-27 20:00 Europe/Berlin");
        assert_eq!(opens(&night, "2026-11-27T19:00:00Z"), "open");
        assert_eq!(opens(&night, "2026-11-28T04:59:59Z"), "open");
        assert_eq!(
            opens(&night, "2026-11-28T05:00:00Z"),
            "Saturday 2026-11-28 20:00 Europe/Berlin"
        );
        assert_eq!(opens(&night, "2026-07-01T18:00:00Z"), "open");
        let opening = night.closed(wall("2026-11-27T18:59:59.250Z")).unwrap();
        assert_eq!(opening.after, Millis(750));
        assert_eq!(night.hours().to_string(), "20:00-06:00 Europe/Berlin");
    }

    #[test]
    fn a_day_ends_before_it_began_again() {
        let day = window("08:30-17:00 America/New_York");
        assert_eq!(opens(&day, "2026-11-27T13:30:00Z"), "open");
        assert_eq!(
            opens(&day, "2026-11-27T22:00:00Z"),
            "Saturday 2026-11-28 08:30 America/New_York"
        );
        assert_eq!(opens(&window("00:00-24:00 UTC"), "2026-11-27T22:00:00Z"), "open");
    }

    #[test]
    fn the_days_on_which_clocks_are_moved_have_their_own_length() {
        // 2026-03-29: 02:00 becomes 03:00. 2026-10-25: 03:00 becomes 02:00.
        let night = window("20:00-06:00 Europe/Berlin");
        assert_eq!(opens(&night, "2026-03-29T03:59:00Z"), "open", "06:00 comes an hour earlier");
        assert_eq!(opens(&night, "2026-03-29T04:00:00Z"), "Sunday 2026-03-29 20:00 Europe/Berlin");
        assert_eq!(opens(&night, "2026-10-25T04:59:00Z"), "open", "and here an hour later");
        let small = window("02:30-03:30 Europe/Berlin");
        assert_eq!(opens(&small, "2026-03-29T00:59:00Z"), "Sunday 2026-03-29 03:00 Europe/Berlin");
        assert_eq!(opens(&small, "2026-10-25T00:45:00Z"), "open");
        assert_eq!(opens(&small, "2026-10-25T01:00:00Z"), "Sunday 2026-10-25 02:30 Europe/Berlin");
        let swallowed = window("02:10-02:20 Europe/Berlin");
        assert_eq!(
            opens(&swallowed, "2026-03-28T23:00:00Z"),
            "Monday 2026-03-30 02:10 Europe/Berlin"
        );
    }

    #[test]
    fn a_date_that_a_zone_leaves_out_is_passed_over() {
        // Samoa went from the 29th to the 31st of December 2011.
        let noon = window("12:00-13:00 Pacific/Apia");
        assert_eq!(opens(&noon, "2011-12-29T23:30:00Z"), "Saturday 2011-12-31 12:00 Pacific/Apia");
    }

    #[test]
    fn what_are_no_hours_is_refused_with_what_to_write() {
        for text in [
            "",
            "20:00-06:00",
            "20:00-06:00 ",
            "20-06 Europe/Berlin",
            "8:00-17:00 UTC",
            "20:00 06:00 UTC",
            "20:60-21:00 UTC",
            "20:00-24:01 UTC",
            "24:00-06:00 UTC",
            "+1:00-06:00 UTC",
        ] {
            let error = text.parse::<Hours>().unwrap_err();
            assert!(
                error.contains("write them as \"20:00-06:00 Europe/Berlin\""),
                "{text}: {error}"
            );
        }
        let error = "06:00-06:00 UTC".parse::<Hours>().unwrap_err();
        assert!(error.contains("\"00:00-24:00\" for the whole day"), "{error}");
    }

    #[test]
    fn no_clock_is_beyond_it() {
        let night = window("20:00-06:00 Europe/Berlin");
        assert!(night.closed(WallMillis(u64::MAX)).is_some(), "closed, and nothing overflows");
        assert!(night.closed(WallMillis(0)).is_none(), "01:00 in Berlin");
    }
}
