//! The rules of the moment, which a plan is held against when it comes: the roster, the hours, and whether a
//! slot is free. What is under way is carried to its end.

use consilium_common::hours::Window;
use consilium_common::time::{Millis, WallMillis};
use consilium_common::wire::messages::Published;
use consilium_common::wire::reject::Code;

/// A plan that finds no slot is asked for again after this, where nothing tells when one is free.
pub const BUSY_AGAIN: Millis = Millis::from_secs(60);
/// And never sooner than this.
const BUSY_AGAIN_MIN: Millis = Millis::from_secs(1);
/// A plan that waits for a person is asked for again after this; sooner once the person has decided.
const PERSON_AGAIN: Millis = Millis::from_secs(600);

/// The rules of the moment. Without any, plans are taken on at all times and wait for one another.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Moment {
    /// When plans are taken on.
    pub window: Option<Window>,
    /// Tasks at once, a plan beyond these being declined.
    pub slots: Option<usize>,
    /// What the coordinator is told of that.
    pub published: Published,
    /// Why plans wait for a person's word on the roster, if they do.
    pub roster: Option<String>,
}

/// Why a plan is not taken on now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decline {
    /// For the coordinator.
    pub code: Code,
    /// When it may ask again, from now.
    pub retry_after: Millis,
    /// For the site's people. Never sent.
    pub sentence: String,
}

impl Moment {
    /// Tasks at once.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.unwrap_or(1).max(1)
    }

    /// Whether the site goes by the roster of whoever takes part.
    ///
    /// # Errors
    /// A person has to accept it first.
    pub fn check_roster(&self) -> Result<(), Decline> {
        let Some(sentence) = self.roster.clone() else {
            return Ok(());
        };
        Err(Decline { code: Code::RosterNotAccepted, retry_after: PERSON_AGAIN, sentence })
    }

    /// Whether a plan that comes at `wall` comes outside the hours.
    ///
    /// # Errors
    /// It does, with the next opening.
    pub fn check_hours(&self, wall: WallMillis) -> Result<(), Decline> {
        let Some(window) = &self.window else {
            return Ok(());
        };
        let Some(opening) = window.closed(wall) else {
            return Ok(());
        };
        let (at, hours) = (opening.at, window.hours());
        Err(Decline {
            code: Code::OutsideHours,
            retry_after: opening.after,
            sentence: format!(
                "outside the hours, which begin again on {at}: `hours = \"{hours}\"` in [policy] of \
                 agent.toml"
            ),
        })
    }

    /// Whether a plan finds a slot beside the `others` that run or wait. `free_after` is when the
    /// first of them is likely to be done, if anything tells.
    ///
    /// # Errors
    /// It does not, with the time until then.
    pub fn check_slots(&self, others: usize, free_after: Option<Millis>) -> Result<(), Decline> {
        let Some(slots) = self.slots.filter(|slots| others >= *slots) else {
            return Ok(());
        };
        let retry_after = free_after.unwrap_or(BUSY_AGAIN).max(BUSY_AGAIN_MIN);
        Err(Decline {
            code: Code::Busy,
            retry_after,
            sentence: format!(
                "busy for about {retry_after}: `slots = {slots}` in [policy] of agent.toml are taken"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_a_rule_only_where_they_are_written_down() {
        assert_eq!(Moment::default().check_slots(99, None), Ok(()));
        let two = Moment { slots: Some(2), ..Moment::default() };
        assert_eq!((Moment::default().slots(), two.slots()), (1, 2));
        assert_eq!(two.check_slots(1, None), Ok(()));
        let decline = two.check_slots(2, None).unwrap_err();
        assert_eq!((decline.code, decline.retry_after), (Code::Busy, BUSY_AGAIN));
        let soon = two.check_slots(2, Some(Millis(3))).unwrap_err();
        assert_eq!(soon.retry_after, BUSY_AGAIN_MIN);
        let later = two.check_slots(2, Some(Millis(90_000))).unwrap_err();
        assert_eq!(later.retry_after, Millis(90_000));
        assert!(later.sentence.contains("90.0 s") && later.sentence.contains("slots = 2"));
    }

    #[test]
    fn a_roster_that_waits_for_a_person_is_a_reason() {
        assert_eq!(Moment::default().check_roster(), Ok(()));
        let moment = Moment { roster: Some("why".to_owned()), ..Moment::default() };
        let decline = moment.check_roster().unwrap_err();
        assert_eq!((decline.code, &*decline.sentence), (Code::RosterNotAccepted, "why"));
    }

    #[test]
    fn outside_the_hours_the_next_opening_is_said() {
        assert_eq!(Moment::default().check_hours(WallMillis(0)), Ok(()));
        let hours: consilium_common::hours::Hours = "20:00-06:00 UTC".parse().unwrap();
        let window = Some(Window::new(hours, jiff::tz::TimeZone::UTC));
        let moment = Moment { window, ..Moment::default() };
        assert_eq!(moment.check_hours(WallMillis(0)), Ok(()));
        let noon = WallMillis(12 * 3_600_000);
        let decline = moment.check_hours(noon).unwrap_err();
        assert_eq!(decline.code, Code::OutsideHours);
        assert_eq!(decline.retry_after, Millis(8 * 3_600_000));
        assert!(decline.sentence.contains("Thursday 1970-01-01 20:00 UTC"), "{}", decline.sentence);
    }
}
