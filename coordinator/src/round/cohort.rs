//! Who makes a cohort: the study's rule, who is invited, and how long to wait after a failure.

use std::collections::BTreeSet;

use consilium_common::ids::{Round, SiteId};
use consilium_common::limits::WEIGHT_SUM_MAX;
use consilium_common::study::Cohort;
use consilium_common::time::Millis;

/// Wait after the first abandoned round; doubled by each further one, up to the idle timeout.
const BACKOFF_FIRST: Millis = Millis::from_secs(1);

/// What `sites` lack to be a cohort, in words; empty if the rule is met. `what` says what the sites
/// are: `ready`, `accepted`.
pub(super) fn missing(rule: &Cohort, sites: &BTreeSet<SiteId>, what: &str) -> Vec<String> {
    let mut missing = Vec::new();
    let (have, need) = (sites.len(), rule.min_sites as usize);
    if have < need {
        missing.push(format!("{have} of at least {need} sites {what}"));
    }
    for site in rule.required.iter().filter(|site| !sites.contains(*site)) {
        missing.push(format!("required site {site} not {what}"));
    }
    missing
}

/// Who is invited: every ready site, as long as the sum of the weights they may send, each at most
/// `weight_max`, stays below [`WEIGHT_SUM_MAX`]. Required sites come first; the others by name, starting one further each
/// round, so that none is left out for ever.
pub(super) fn invited(
    rule: &Cohort,
    weight_max: u64,
    ready: &BTreeSet<SiteId>,
    round: Round,
) -> Vec<SiteId> {
    let places = (WEIGHT_SUM_MAX - 1) / weight_max.max(1);
    let places = usize::try_from(places).unwrap_or(usize::MAX);
    let (mut invited, others): (Vec<&SiteId>, Vec<&SiteId>) =
        ready.iter().partition(|site| rule.required.contains(site));
    if invited.len() + others.len() <= places {
        return ready.iter().cloned().collect();
    }
    let start = usize::try_from(round.0 % others.len().max(1) as u64).unwrap_or(0);
    invited.extend(others.iter().cycle().skip(start).take(others.len()));
    invited.truncate(places);
    let mut invited: Vec<SiteId> = invited.into_iter().cloned().collect();
    invited.sort();
    invited
}

/// How long to wait after so many abandoned rounds in a row.
pub(super) fn backoff(abandoned: u32, idle_timeout: Millis) -> Millis {
    let doublings = abandoned.saturating_sub(1).min(32);
    let wait = BACKOFF_FIRST.0.saturating_mul(1 << doublings);
    Millis(wait.min(idle_timeout.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(names: &[&str]) -> BTreeSet<SiteId> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn the_rule_names_whoever_is_missing() {
        let rule =
            Cohort { min_sites: 2, required: vec!["b".parse().unwrap()], ..Cohort::default() };
        assert!(missing(&rule, &sites(&["a", "b"]), "ready").is_empty());
        assert_eq!(
            missing(&rule, &sites(&["a"]), "ready"),
            ["1 of at least 2 sites ready", "required site b not ready"]
        );
    }

    #[test]
    fn no_more_are_invited_than_the_sum_of_weights_can_hold_and_the_others_come_next() {
        let rule = Cohort {
            max_examples: WEIGHT_SUM_MAX / 3,
            required: vec!["c".parse().unwrap()],
            ..Cohort::default()
        };
        let ready = sites(&["a", "b", "c", "d"]);
        let at = |round| {
            let invited = invited(&rule, rule.max_examples, &ready, Round(round));
            assert!(invited.len() as u64 * rule.max_examples < WEIGHT_SUM_MAX);
            invited.iter().map(SiteId::to_string).collect::<String>()
        };
        assert_eq!([at(0), at(1), at(2), at(3)], ["abc", "bcd", "acd", "abc"]);
        let all = invited(&Cohort::default(), 1_000_000, &ready, Round(5));
        assert_eq!(all.len(), 4);
        let counting = invited(&rule, 1, &ready, Round(0));
        assert_eq!(counting.len(), 4, "weights of 1 leave room for everybody");
    }

    #[test]
    fn the_wait_doubles_up_to_the_idle_timeout() {
        let waits = [1, 2, 3, 6, 7, 99].map(|n| backoff(n, Millis::from_secs(60)).0);
        assert_eq!(waits, [1_000, 2_000, 4_000, 32_000, 60_000, 60_000]);
        assert_eq!(backoff(1, Millis(300)), Millis(300));
    }
}
