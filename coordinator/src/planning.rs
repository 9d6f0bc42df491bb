//! When rounds of a study can begin, by the hours that sites publish. Pure: minute by minute over some days, who
//! is open, and whether that makes a cohort. What is under way when hours end is carried to its end, so only
//! beginnings are planned.

use std::collections::{BTreeMap, BTreeSet};

use consilium_common::hours::{Hours, Window};
use consilium_common::ids::SiteId;
use consilium_common::limits::HOURS_BYTES_MAX;
use consilium_common::time::WallMillis;
use consilium_common::wire::messages::Published;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// How far ahead is planned at most.
pub const DAYS_MAX: u16 = 31;
const MINUTE: u64 = 60_000;
const MINUTES_OF_A_DAY: u64 = 24 * 60;
/// How a site without hours is written.
const ANY_TIME: &str = "any time";

/// When a site takes plans on.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Open {
    /// It does not say.
    #[default]
    Unknown,
    /// At any time.
    AnyTime,
    /// In these hours.
    Daily(Window),
    /// Never: it does not take part in the study.
    Never,
}

impl Open {
    /// What a site published.
    ///
    /// # Errors
    /// Not hours, or of a time zone that is not known here; in a sentence.
    pub fn of(published: &Published) -> Result<Self, String> {
        match published {
            Published::Nothing => Ok(Self::Unknown),
            Published::AnyTime => Ok(Self::AnyTime),
            Published::Daily(text) => Self::daily(text),
        }
    }

    fn daily(text: &str) -> Result<Self, String> {
        if text.len() > HOURS_BYTES_MAX {
            return Err(format!(
                "hours of {} bytes, at most {HOURS_BYTES_MAX} are read",
                text.len()
            ));
        }
        let hours: Hours = text.parse()?;
        let zone = TimeZone::get(hours.zone())
            .map_err(|_| format!("no time zone {:?} is known at the coordinator", hours.zone()))?;
        Ok(Self::Daily(Window::new(hours, zone)))
    }

    /// As [`Open::text`] wrote it; an absent one is unknown.
    ///
    /// # Errors
    /// As [`Open::of`].
    pub fn read(text: Option<&str>) -> Result<Self, String> {
        match text {
            None => Ok(Self::Unknown),
            Some(ANY_TIME) => Ok(Self::AnyTime),
            Some(text) => Self::daily(text),
        }
    }

    /// The hours as they are written, if they are known.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Unknown | Self::Never => None,
            Self::AnyTime => Some(ANY_TIME.to_owned()),
            Self::Daily(window) => Some(window.hours().to_string()),
        }
    }

    fn is_open(&self, wall: WallMillis, unknown: bool) -> bool {
        match self {
            Self::Unknown => unknown,
            Self::AnyTime => true,
            Self::Daily(window) => window.is_open(wall),
            Self::Never => false,
        }
    }

    /// Each of these once, and which of them every site has: a thousand sites have a few dozen hours.
    fn distinct<'a>(sites: impl Iterator<Item = &'a Self>) -> (Vec<&'a Self>, Vec<usize>) {
        let mut all: Vec<&Self> = Vec::new();
        let of_sites = sites.map(|open| {
            all.iter().position(|known| *known == open).unwrap_or_else(|| {
                all.push(open);
                all.len() - 1
            })
        });
        let of_sites = of_sites.collect();
        (all, of_sites)
    }
}

/// What makes a cohort.
#[derive(Debug, Clone)]
pub struct Rule<'a> {
    /// So many sites.
    pub min_sites: usize,
    /// These among them.
    pub required: &'a BTreeSet<SiteId>,
}

impl Rule<'_> {
    fn is_met(&self, open: &BTreeSet<SiteId>) -> bool {
        open.len() >= self.min_sites && self.required.is_subset(open)
    }

    /// How near it is: required sites first.
    fn nearness(&self, open: &BTreeSet<SiteId>) -> (usize, usize) {
        (self.required.intersection(open).count(), open.len())
    }
}

/// Minutes in which the same sites are open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// From this minute.
    pub from: WallMillis,
    /// Until before this one.
    pub to: WallMillis,
    /// Who is open.
    pub open: BTreeSet<SiteId>,
}

/// What the hours come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlook {
    /// When rounds can begin, in order.
    pub spans: Vec<Span>,
    /// Where they cannot: the first span that comes nearest to the rule.
    pub closest: Option<Span>,
}

/// When rounds can begin in the `days` from `from` on. Sites that do not say when they are open count as open if
/// `unknown`, else as closed.
#[must_use]
pub fn outlook(
    sites: &BTreeMap<SiteId, Open>,
    rule: &Rule<'_>,
    unknown: bool,
    (from, days): (WallMillis, u16),
) -> Outlook {
    let start = from.0 - from.0 % MINUTE;
    let minutes = u64::from(days.min(DAYS_MAX)) * MINUTES_OF_A_DAY;
    let (hours, of_sites) = Open::distinct(sites.values());
    let mut all: Vec<(u64, Vec<bool>)> = Vec::new();
    for minute in 0..minutes {
        let at = start.saturating_add(minute * MINUTE);
        let open: Vec<bool> =
            hours.iter().map(|open| open.is_open(WallMillis(at), unknown)).collect();
        if all.last().is_none_or(|(_, before)| *before != open) {
            all.push((at, open));
        }
    }
    let end = start.saturating_add(minutes * MINUTE);
    let ends = all.iter().skip(1).map(|(at, _)| *at).chain([end]);
    let of = |open: &[bool]| {
        let open_at = |at: &usize| open.get(*at).copied().unwrap_or_default();
        let sites = sites.keys().zip(&of_sites).filter(|(_, at)| open_at(at));
        sites.map(|(site, _)| site.clone()).collect()
    };
    let spans = all.iter().zip(ends).map(|((from, open), to)| Span {
        from: WallMillis(*from),
        to: WallMillis(to),
        open: of(open),
    });
    let spans: Vec<Span> = spans.collect();
    let mut closest: Option<&Span> = None;
    for span in &spans {
        let nearer = |known: &&Span| rule.nearness(&known.open) < rule.nearness(&span.open);
        if closest.is_none() || closest.as_ref().is_some_and(nearer) {
            closest = Some(span);
        }
    }
    let closest = closest.filter(|span| !rule.is_met(&span.open)).cloned();
    let spans = spans.into_iter().filter(|span| rule.is_met(&span.open)).collect();
    Outlook { spans, closest }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Friday 2026-11-27, 12:00 UTC.
    const NOON: WallMillis = WallMillis(1_795_780_800_000);
    const HOUR: u64 = 3_600_000;

    fn sites(of: &[(&str, &str)]) -> BTreeMap<SiteId, Open> {
        let site = |(name, text): &(&str, &str)| {
            let open = match *text {
                "" => Open::Unknown,
                "never" => Open::Never,
                text => Open::read(Some(text)).unwrap(),
            };
            (name.parse().unwrap(), open)
        };
        of.iter().map(site).collect()
    }

    /// Spans of a day from noon on: hours after noon, and how many sites.
    fn day(
        of: &[(&str, &str)],
        min_sites: usize,
        required: &[&str],
        unknown: bool,
    ) -> (Vec<(u64, u64, usize)>, Outlook) {
        let required = required.iter().map(|name| name.parse().unwrap()).collect();
        let rule = Rule { min_sites, required: &required };
        let outlook = outlook(&sites(of), &rule, unknown, (NOON, 1));
        let hours = |wall: WallMillis| (wall.0 - NOON.0) / HOUR;
        let spans = outlook.spans.iter();
        (spans.map(|span| (hours(span.from), hours(span.to), span.open.len())).collect(), outlook)
    }

    #[test]
    fn nights_of_two_zones_meet_where_both_are_open() {
        // Berlin is an hour ahead of UTC in November, New York five behind.
        let two =
            [("charite", "20:00-06:00 Europe/Berlin"), ("mayo", "18:00-23:00 America/New_York")];
        assert_eq!(day(&two, 2, &[], false).0, [(11, 16, 2)]);
        assert_eq!(day(&two, 1, &[], false).0, [(7, 11, 1), (11, 16, 2), (16, 17, 1)]);
        let more = [two[0], two[1], ("ueno", "any time")];
        assert_eq!(day(&more, 2, &[], false).0, [(7, 11, 2), (11, 16, 3), (16, 17, 2)]);
        assert_eq!(day(&more, 2, &["mayo"], false).0, [(11, 16, 3)]);
    }

    #[test]
    fn without_a_common_window_the_nearest_time_tells_who_is_missing() {
        let three = [("a", "08:00-12:00 UTC"), ("b", "11:00-14:00 UTC"), ("c", "20:00-22:00 UTC")];
        let (spans, outlook) = day(&three, 3, &[], false);
        assert_eq!(spans, []);
        let names = |span: &Span| span.open.iter().map(ToString::to_string).collect::<Vec<_>>();
        let closest = outlook.closest.unwrap();
        assert_eq!(names(&closest), ["a", "b"]);
        assert_eq!((closest.from.0 - NOON.0) / HOUR, 23, "tomorrow at eleven");
        // A required site weighs more than many others.
        let closest = day(&three, 2, &["c"], false).1.closest.unwrap();
        assert_eq!(names(&closest), ["c"]);
        assert!(day(&three, 2, &[], false).1.closest.is_none());
    }

    #[test]
    fn who_does_not_say_counts_as_asked_and_who_declines_never() {
        let three = [("a", "12:00-13:00 UTC"), ("b", ""), ("c", "never")];
        assert_eq!(day(&three, 2, &[], false).0, []);
        assert_eq!(day(&three, 2, &[], true).0, [(0, 1, 2)]);
        assert_eq!(day(&three, 3, &[], true).0, []);
    }

    #[test]
    fn what_sites_publish_is_read_with_care() {
        assert_eq!(Open::of(&Published::Nothing), Ok(Open::Unknown));
        assert_eq!(Open::of(&Published::AnyTime), Ok(Open::AnyTime));
        let text = "20:00-06:00 Europe/Berlin";
        let open = Open::of(&Published::Daily(text.to_owned())).unwrap();
        assert_eq!(Open::read(open.text().as_deref()), Ok(open.clone()));
        assert_eq!(open.text().as_deref(), Some(text));
        for (bad, words) in [
            ("at night", "are no hours"),
            ("20:00-06:00 Moon/Base", "no time zone"),
            (&"x".repeat(HOURS_BYTES_MAX + 1), "at most"),
        ] {
            let told = Open::of(&Published::Daily(bad.to_owned())).unwrap_err();
            assert!(told.contains(words), "{told}");
        }
    }

    #[test]
    fn a_month_of_many_sites_is_bounded_and_beyond_it_nothing_is_planned() {
        let many: BTreeMap<SiteId, Open> = (0..64)
            .map(|n| {
                (
                    format!("s{n:02}").parse().unwrap(),
                    Open::read(Some("20:00-06:00 Europe/Berlin")).unwrap(),
                )
            })
            .collect();
        let required = BTreeSet::new();
        let outlook =
            outlook(&many, &Rule { min_sites: 64, required: &required }, false, (NOON, u16::MAX));
        assert_eq!(outlook.spans.len(), usize::from(DAYS_MAX));
    }
}
