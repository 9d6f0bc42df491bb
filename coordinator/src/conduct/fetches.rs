//! Bytes that a site may fetch. A round's blobs (its base, its preparation, SCAFFOLD's c) go to each site once,
//! and once more after faults; a site that fetches without end takes no more than that from the others.

use std::collections::BTreeMap;

use consilium_common::bucket::Bucket;
use consilium_common::ids::{Round, StudyId};
use consilium_common::time::Millis;

use crate::limits::{BASE_FETCHES_MAX, OTHER_FETCH_BYTES, SMALL_FETCH_BYTES};

/// Which of an open round's blobs is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The model that the round starts from.
    Base,
    /// What the study's sites counted.
    Preparation,
    /// What the sites' steps are corrected by.
    Control,
}

/// A blob of an open round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundBlob {
    /// Whose round.
    pub study: StudyId,
    /// Which one.
    pub round: Round,
    /// Which of its blobs.
    pub part: Part,
}

/// What one site may fetch.
#[derive(Debug)]
pub struct Fetches {
    /// Bytes left for each blob of each study's open round. Bounded by the number of studies.
    served: BTreeMap<(StudyId, Part), (Round, u64)>,
    /// Everything else: texts of studies, blobs of rounds that are over.
    others: Bucket,
}

impl Fetches {
    pub(super) fn new(now: Millis) -> Self {
        Self { served: BTreeMap::new(), others: Bucket::new(OTHER_FETCH_BYTES, now) }
    }

    /// Whether `bytes` of a blob of `length` bytes may be fetched: one of an open round, or another.
    /// They count as fetched until some are given back.
    pub fn reserve(
        &mut self,
        of: Option<&RoundBlob>,
        length: u64,
        bytes: u64,
        now: Millis,
    ) -> bool {
        let Some(RoundBlob { study, round, part }) = of else {
            return self.others.draw(bytes, now);
        };
        let fresh = (*round, length.saturating_mul(BASE_FETCHES_MAX).max(SMALL_FETCH_BYTES));
        let entry = self.served.entry((study.clone(), *part)).or_insert(fresh);
        if entry.0 != *round {
            *entry = fresh;
        }
        let fits = bytes <= entry.1;
        if fits {
            entry.1 -= bytes;
        }
        fits
    }

    /// So many of the reserved bytes were not sent.
    pub fn give_back(&mut self, of: Option<&RoundBlob>, bytes: u64) {
        let Some(RoundBlob { study, round, part }) = of else {
            return self.others.give_back(bytes);
        };
        if let Some((known, left)) = self.served.get_mut(&(study.clone(), *part))
            && known == round
        {
            *left = left.saturating_add(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: u64 = 100 << 20;

    fn blob(round: u64, part: Part) -> Option<RoundBlob> {
        Some(RoundBlob { study: "thorax".parse().unwrap(), round: Round(round), part })
    }

    fn base(round: u64) -> Option<RoundBlob> {
        blob(round, Part::Base)
    }

    #[test]
    fn a_base_is_fetched_twice_a_round_and_what_broke_off_counts_as_far_as_it_came() {
        let mut fetches = Fetches::new(Millis(0));
        let mut fetch =
            |round, bytes| fetches.reserve(base(round).as_ref(), LENGTH, bytes, Millis(0));
        assert!(fetch(1, LENGTH) && fetch(1, LENGTH));
        assert!(!fetch(1, 1), "a third time is a flood");
        assert!(fetch(2, LENGTH), "the next round is another base");
        fetches.give_back(base(2).as_ref(), LENGTH - 10);
        fetches.give_back(base(1).as_ref(), LENGTH);
        assert!(fetches.reserve(base(2).as_ref(), LENGTH, LENGTH, Millis(0)));
        assert!(fetches.reserve(base(2).as_ref(), LENGTH, LENGTH - 10, Millis(0)));
        assert!(!fetches.reserve(base(2).as_ref(), LENGTH, 1, Millis(0)));
    }

    #[test]
    fn small_bases_may_be_fetched_more_often() {
        let mut fetches = Fetches::new(Millis(0));
        let often =
            (0..1_000).take_while(|_| fetches.reserve(base(1).as_ref(), 4_000, 4_000, Millis(0)));
        assert_eq!(often.count() as u64, SMALL_FETCH_BYTES / 4_000);
    }

    #[test]
    fn a_small_preparation_takes_nothing_from_its_rounds_large_base() {
        let mut fetches = Fetches::new(Millis(0));
        let preparation = blob(1, Part::Preparation);
        assert!(fetches.reserve(preparation.as_ref(), 4_000, 4_000, Millis(0)));
        for _ in 0..2 {
            assert!(fetches.reserve(base(1).as_ref(), LENGTH, LENGTH, Millis(0)));
        }
        assert!(!fetches.reserve(base(1).as_ref(), LENGTH, 1, Millis(0)));
        assert!(fetches.reserve(preparation.as_ref(), 4_000, 4_000, Millis(0)));
    }

    #[test]
    fn other_blobs_share_one_rate() {
        let mut fetches = Fetches::new(Millis(0));
        assert!(fetches.reserve(None, LENGTH, LENGTH, Millis(0)), "however large the first is");
        assert!(!fetches.reserve(None, 1, 1, Millis(10_000)));
        assert!(fetches.reserve(None, 1, 1, Millis(100_000)));
    }
}
