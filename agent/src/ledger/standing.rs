//! What the ledger says last of each study: a fold of its records. It answers why bytes may leave, and
//! whether what is to be said was said already.

use std::collections::BTreeMap;

use consilium_common::ids::{Digest, Round, StudyId};
use consilium_common::limits::LEDGER_STUDIES_MAX;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Stands, StudyStands};

/// The last word on each study, by its digest, and the updates whose rounds are not over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Standing {
    studies: BTreeMap<Digest, Last>,
    updates: BTreeMap<Digest, (StudyId, Round)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Last {
    record: u64,
    stands: Stands,
    why: String,
}

impl Standing {
    /// Takes in one record.
    pub(super) fn apply(&mut self, record: u64, entry: &Entry) {
        match entry {
            Entry::Study(said) => {
                let last = Last { record, stands: said.stands, why: said.why.clone() };
                self.studies.insert(said.digest, last);
                self.forget_studies();
            }
            Entry::Made(made) => {
                self.updates.insert(made.digest, (made.study.clone(), made.round));
            }
            Entry::Settled(settled) => {
                let of = |(study, round): &(StudyId, Round)| {
                    *study == settled.study && *round == settled.round
                };
                self.updates.retain(|_, update| !of(update));
            }
            Entry::Started(_)
            | Entry::Word(_)
            | Entry::Connected(_)
            | Entry::Disconnected(_)
            | Entry::Renewing(_)
            | Entry::Contradicted(_)
            | Entry::HistoryAccepted(_)
            | Entry::RosterAccepted(_)
            | Entry::Withdrew(_)
            | Entry::DataChanged(_)
            | Entry::Fetched(_)
            | Entry::Sending(_)
            | Entry::Sent(_) => {}
        }
    }

    fn forget_studies(&mut self) {
        while self.studies.len() > LEDGER_STUDIES_MAX {
            let oldest = self.studies.iter().min_by_key(|(_, last)| last.record);
            let Some(digest) = oldest.map(|(digest, _)| *digest) else {
                return;
            };
            self.studies.remove(&digest);
        }
    }

    /// Whether this update was made, and its round is not over.
    pub(super) fn has_made(&self, update: &Digest) -> bool {
        self.updates.contains_key(update)
    }

    /// The record by which the site accepted the study, unless it has said otherwise since.
    pub(super) fn accepted(&self, study: &Digest) -> Option<u64> {
        let last = self.studies.get(study).filter(|last| last.stands == Stands::Accepted)?;
        Some(last.record)
    }

    /// Whether this was the last word already.
    pub(super) fn says(&self, said: &StudyStands) -> bool {
        let last = self.studies.get(&said.digest);
        last.is_some_and(|last| last.stands == said.stands && last.why == said.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_common::wire::reject::Code;

    fn said(digest: u64, stands: Stands) -> Entry {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&digest.to_le_bytes());
        let study = "mnist".parse().unwrap();
        let why = "as it is".to_owned();
        StudyStands { study, version: 1, digest: Digest(bytes), stands, why }.into()
    }

    fn digest(entry: &Entry) -> Digest {
        let Entry::Study(said) = entry else { panic!("{entry:?}") };
        said.digest
    }

    #[test]
    fn the_last_word_on_a_study_counts() {
        let mut standing = Standing::default();
        let yes = said(1, Stands::Accepted);
        standing.apply(4, &yes);
        assert_eq!(standing.accepted(&digest(&yes)), Some(4));
        let no = said(1, Stands::Refused { code: Code::RefusedBySite });
        standing.apply(5, &no);
        assert_eq!(standing.accepted(&digest(&yes)), None);
        let (Entry::Study(no), Entry::Study(yes)) = (no, yes) else { panic!() };
        assert!(standing.says(&no) && !standing.says(&yes));
    }

    #[test]
    fn an_update_is_kept_in_mind_until_its_round_is_over() {
        let mut standing = Standing::default();
        let each = super::super::entry::tests::one_of_each();
        let [made, settled] = [&each[6], &each[9]];
        let Entry::Made(update) = made else { panic!() };
        standing.apply(6, made);
        assert!(standing.has_made(&update.digest));
        standing.apply(9, settled);
        assert!(!standing.has_made(&update.digest));
        assert_eq!(standing, Standing::default());
    }

    #[test]
    fn more_studies_than_are_kept_in_mind_push_out_the_oldest() {
        let mut standing = Standing::default();
        for n in 0..=LEDGER_STUDIES_MAX as u64 {
            standing.apply(n, &said(n, Stands::Accepted));
        }
        assert_eq!(standing.studies.len(), LEDGER_STUDIES_MAX);
        assert_eq!(standing.accepted(&digest(&said(0, Stands::Accepted))), None);
        assert_eq!(standing.accepted(&digest(&said(1, Stands::Accepted))), Some(1));
    }
}
