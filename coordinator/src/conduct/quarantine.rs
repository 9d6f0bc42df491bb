//! Sites that may not come back yet: what they did, how often, and for how long.
//!
//! A *strike* is what no agent does by accident; a *fault* may happen to an honest site (a failing
//! disk, a dying link) and becomes a strike when it repeats. Each strike doubles the time; good
//! behaviour takes strikes back, one at a time. In memory only: a restart of the coordinator
//! forgives.

use std::collections::BTreeMap;
use std::fmt;

use consilium_common::bucket::Bucket;
use consilium_common::ids::SiteId;
use consilium_common::limits::TEXT_BYTES_MAX;
use consilium_common::time::Millis;
use consilium_common::wire::reject::Code;

use crate::limits::{FAULTS, QUARANTINE_FIRST, QUARANTINE_FORGIVE, QUARANTINE_LONGEST};

/// A quarantine that is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// What the site did.
    pub code: Code,
    /// In a sentence.
    pub detail: String,
    /// How often it had to be put out, less what was forgiven.
    pub strikes: u32,
    /// It may not come back before this has passed.
    pub left: Millis,
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { code, detail, strikes, left } = self;
        write!(f, "{code}: {detail} (strike {strikes}, may come back in {left})")
    }
}

/// What is known of a site that misbehaved.
#[derive(Debug, Clone)]
struct Standing {
    strikes: u32,
    until: Millis,
    code: Code,
    detail: String,
    faults: Bucket,
}

impl Standing {
    /// Strikes that good behaviour since the last term has not taken back.
    fn strikes_at(&self, now: Millis) -> u32 {
        let forgiven = now.since(self.until).0 / QUARANTINE_FORGIVE.0;
        self.strikes.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
    }

    fn term(&self, now: Millis) -> Option<Term> {
        (now < self.until).then(|| Term {
            code: self.code,
            detail: self.detail.clone(),
            strikes: self.strikes,
            left: self.until.since(now),
        })
    }
}

/// The quarantine of all sites. It holds sites of the roster only, so it is bounded by it.
#[derive(Debug, Default)]
pub struct Quarantine {
    sites: BTreeMap<SiteId, Standing>,
}

impl Quarantine {
    /// Puts a site out. Returns the term, or `None` if one runs already: what came before it is
    /// paid for with it.
    pub fn strike(&mut self, site: &SiteId, code: Code, detail: &str, now: Millis) -> Option<Term> {
        let standing = self.standing(site, now);
        if now < standing.until {
            return None;
        }
        standing.strikes = standing.strikes_at(now).saturating_add(1);
        standing.until = now + length(standing.strikes);
        standing.code = code;
        standing.detail.clear();
        standing.detail.push_str(detail);
        standing.detail.truncate(detail.floor_char_boundary(TEXT_BYTES_MAX));
        standing.term(now)
    }

    /// Notes what happens to honest sites too; a strike once it has happened too often.
    pub fn fault(&mut self, site: &SiteId, code: Code, detail: &str, now: Millis) -> Option<Term> {
        if self.standing(site, now).faults.take(now) {
            return None;
        }
        self.strike(site, code, detail, now)
    }

    /// The site's term, if one runs.
    #[must_use]
    pub fn term(&self, site: &SiteId, now: Millis) -> Option<Term> {
        self.sites.get(site)?.term(now)
    }

    /// Every term that runs, by site.
    #[must_use]
    pub fn terms(&self, now: Millis) -> Vec<(SiteId, Term)> {
        let running = self.sites.iter();
        running.filter_map(|(site, known)| Some((site.clone(), known.term(now)?))).collect()
    }

    fn standing(&mut self, site: &SiteId, now: Millis) -> &mut Standing {
        self.sites.entry(site.clone()).or_insert_with(|| Standing {
            strikes: 0,
            until: Millis::ZERO,
            code: Code::Quarantined,
            detail: String::new(),
            faults: Bucket::new(FAULTS, now),
        })
    }
}

/// How long the n-th strike keeps a site out.
fn length(strikes: u32) -> Millis {
    let doubled = QUARANTINE_FIRST.0.checked_shl(strikes.saturating_sub(1).min(32));
    Millis(doubled.unwrap_or(u64::MAX).min(QUARANTINE_LONGEST.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(name: &str) -> SiteId {
        name.parse().unwrap()
    }

    /// Strikes at `now`; the seconds of its term.
    fn strike(quarantine: &mut Quarantine, now: Millis) -> Option<u64> {
        let term = quarantine.strike(&site("a"), Code::Malformed, "no frame", now)?;
        Some(term.left.0 / 1000)
    }

    #[test]
    fn each_strike_doubles_the_time_up_to_an_hour() {
        let (mut quarantine, mut now) = (Quarantine::default(), Millis(7));
        let mut terms = Vec::new();
        for _ in 0..11 {
            let seconds = strike(&mut quarantine, now).unwrap();
            terms.push(seconds);
            now = now + Millis::from_secs(seconds);
        }
        assert_eq!(terms, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
        for _ in 0..100 {
            assert_eq!(strike(&mut quarantine, now), Some(3600));
            now = now + QUARANTINE_LONGEST;
        }
    }

    #[test]
    fn a_site_in_quarantine_is_not_struck_again_for_what_it_did_before() {
        let mut quarantine = Quarantine::default();
        assert_eq!(strike(&mut quarantine, Millis(0)), Some(10));
        assert_eq!(strike(&mut quarantine, Millis(9_999)), None);
        let term = quarantine.term(&site("a"), Millis(9_000)).unwrap();
        assert_eq!((term.strikes, term.left), (1, Millis(1_000)));
        assert_eq!(term.to_string(), "malformed: no frame (strike 1, may come back in 1.0 s)");
        assert_eq!(quarantine.term(&site("a"), Millis(10_000)), None);
        assert_eq!(quarantine.term(&site("b"), Millis(0)), None);
        assert_eq!(quarantine.terms(Millis(0)).len(), 1);
        assert_eq!(strike(&mut quarantine, Millis(10_000)), Some(20));
    }

    #[test]
    fn an_hour_of_good_behaviour_takes_one_strike_back() {
        let mut quarantine = Quarantine::default();
        strike(&mut quarantine, Millis(0));
        strike(&mut quarantine, Millis(10_000));
        strike(&mut quarantine, Millis(30_000)); // until 70 s
        let almost = Millis(70_000) + QUARANTINE_FORGIVE - Millis(1);
        let mut later = Quarantine { sites: quarantine.sites.clone() };
        assert_eq!(strike(&mut later, almost), Some(80));
        assert_eq!(strike(&mut quarantine, almost + Millis(1)), Some(40));
        let long_after = Millis(QUARANTINE_FORGIVE.0 * 50);
        assert_eq!(strike(&mut quarantine, long_after), Some(10));
    }

    #[test]
    fn faults_are_forgiven_until_they_repeat() {
        let mut quarantine = Quarantine::default();
        let mut fault = |at: u64| {
            let told =
                quarantine.fault(&site("a"), Code::DigestMismatch, "other bytes", Millis(at));
            told.map(|term| term.left)
        };
        assert_eq!((fault(0), fault(1)), (None, None));
        assert_eq!(fault(2), Some(QUARANTINE_FIRST));
        // One is forgotten in a while.
        let later = 400_000;
        assert_eq!(fault(later), None);
        assert!(fault(later + 1).is_some());
    }

    #[test]
    fn what_is_kept_of_a_detail_is_bounded() {
        let mut quarantine = Quarantine::default();
        let detail = "ä".repeat(TEXT_BYTES_MAX);
        let term = quarantine.strike(&site("a"), Code::Flood, &detail, Millis(0)).unwrap();
        assert_eq!(term.detail.len(), TEXT_BYTES_MAX);
    }
}
