//! What researchers have proposed and nobody has submitted yet: part of the fold over the log's records.

use std::collections::BTreeMap;
use std::sync::Arc;

use consilium_common::audit::record::Proposed;
use consilium_common::ids::{OperatorId, StudyId};
use consilium_common::time::WallMillis;

use super::{History, HistoryError};
use crate::limits::{PROPOSAL_LENGTH, PROPOSALS_EACH_MAX, PROPOSALS_MAX};

/// Each researcher's newest proposal of each study. Shared: a history is copied to try a record on it.
pub(super) type Proposals = BTreeMap<(StudyId, OperatorId), Arc<Proposed>>;

impl History {
    /// The proposals that are open at `now`, by study and researcher: younger than [`PROPOSAL_LENGTH`], and
    /// no study of that name has been submitted in that version or a later one.
    pub fn proposals(&self, now: WallMillis) -> impl Iterator<Item = &Arc<Proposed>> {
        self.proposals.values().filter(move |proposed| self.is_open(proposed, now))
    }

    fn is_open(&self, proposed: &Proposed, now: WallMillis) -> bool {
        let known = self.study(&proposed.study).map(|known| known.study.header.version);
        now < proposal_over(proposed) && known.is_none_or(|version| version < proposed.version)
    }

    /// A proposal takes the place of the same researcher's earlier one of that study.
    pub(super) fn propose(&mut self, proposed: &Proposed) -> Result<(), HistoryError> {
        let (study, by) = (&proposed.study, &proposed.by);
        if let Some(header) = self.study(study).map(|known| &known.study.header) {
            if !header.researchers.contains(by) {
                return Err(HistoryError::NotListed { study: study.clone(), by: by.clone() });
            }
            if proposed.version <= header.version {
                let known = header.version;
                return Err(HistoryError::OldStudyVersion { study: study.clone(), known });
            }
        }
        let key = |proposed: &Proposed| (proposed.study.clone(), proposed.by.clone());
        let open = self.proposals(proposed.at).map(|other| (key(other), Arc::clone(other)));
        let mut open: Proposals = open.collect();
        open.insert(key(proposed), Arc::new(proposed.clone()));
        if open.keys().filter(|(_, other)| other == by).count() > PROPOSALS_EACH_MAX {
            return Err(HistoryError::TooManyProposals(by.clone()));
        }
        if open.len() > PROPOSALS_MAX {
            return Err(HistoryError::ProposalsFull);
        }
        self.proposals = open;
        Ok(())
    }
}

/// When a proposal is over, if nobody submits it before.
#[must_use]
pub fn proposal_over(proposed: &Proposed) -> WallMillis {
    WallMillis(proposed.at.0.saturating_add(PROPOSAL_LENGTH.0))
}

#[cfg(test)]
mod tests {
    use consilium_common::audit::Record;
    use consilium_common::audit::record::StudySubmitted;
    use consilium_common::signed::{SecretKey, Signed};
    use consilium_common::study::Study;

    use super::*;

    /// A study that lists these.
    fn text(study: &str, version: u64, researchers: &[&str]) -> Vec<u8> {
        let draft = format!(
            "[study]\nname = \"{study}\"\nversion = {version}\nresearchers = {researchers:?}\n\
             [model]\nfamily = \"synthetic\"\nparameters = 4\n[aggregation]\nclip_norm = 1.0\n\
             [privacy]\nmode = \"inspectable\"\n"
        );
        let study = Study::read(&draft, "draft").unwrap().resolve().unwrap();
        study.to_text().unwrap().into_bytes()
    }

    fn submitted(study: &str, version: u64, researchers: &[&str]) -> Record {
        let key = SecretKey::from_seed(&[9; 32]);
        let signed = Signed::sign(text(study, version, researchers), &key);
        Record::StudySubmitted(StudySubmitted { signed, by: "ada".to_owned() })
    }

    fn proposed(by: &str, study: &str, version: u64, at: u64) -> Record {
        Record::Proposal(Proposed {
            by: by.parse().unwrap(),
            study: study.parse().unwrap(),
            version,
            text: text(study, version, &[by]),
            at: WallMillis(at),
        })
    }

    fn history(records: &[Record]) -> History {
        let mut history = History::new();
        records.iter().for_each(|record| history.apply(record).unwrap());
        history
    }

    /// The error, and that nothing changes on it.
    fn refused(records: &[Record], bad: &Record) -> HistoryError {
        let mut history = history(records);
        let before = format!("{history:?}");
        let error = history.apply(bad).unwrap_err();
        assert_eq!(format!("{history:?}"), before);
        error
    }

    /// What is open at a time, as study, version and researcher.
    fn open(history: &History, now: u64) -> Vec<String> {
        let line = |p: &Arc<Proposed>| format!("{} {} {}", p.study, p.version, p.by);
        history.proposals(WallMillis(now)).map(line).collect()
    }

    #[test]
    fn a_proposal_is_open_until_its_version_is_submitted_or_it_is_old() {
        let mut all = vec![proposed("rosa", "demo", 1, 10), proposed("emmy", "demo", 2, 20)];
        assert_eq!(open(&history(&all), 30), ["demo 2 emmy", "demo 1 rosa"]);
        let late = 10 + PROPOSAL_LENGTH.0;
        assert_eq!(open(&history(&all), late), ["demo 2 emmy"], "rosa's is over");
        all.push(submitted("demo", 1, &["rosa"]));
        assert_eq!(open(&history(&all), 30), ["demo 2 emmy"]);
        all.push(submitted("demo", 3, &["rosa"]));
        assert_eq!(open(&history(&all), 30), [""; 0], "a later version closes it too");
    }

    #[test]
    fn the_newer_proposal_of_a_study_by_the_same_researcher_replaces_the_older() {
        let all = [proposed("rosa", "demo", 2, 10), proposed("rosa", "demo", 1, 20)];
        assert_eq!(open(&history(&all), 30), ["demo 1 rosa"]);
    }

    #[test]
    fn the_next_version_of_a_study_is_proposed_by_those_it_lists() {
        let known = [submitted("demo", 2, &["rosa"])];
        let error = refused(&known, &proposed("emmy", "demo", 3, 10));
        assert!(matches!(error, HistoryError::NotListed { .. }), "{error}");
        assert!(error.to_string().contains("does not list researcher emmy"), "{error}");
        let error = refused(&known, &proposed("rosa", "demo", 2, 10));
        assert!(matches!(error, HistoryError::OldStudyVersion { known: 2, .. }), "{error}");
        let [known] = known;
        assert_eq!(open(&history(&[known, proposed("rosa", "demo", 3, 10)]), 10), ["demo 3 rosa"]);
    }

    #[test]
    fn open_proposals_are_bounded_for_each_researcher_and_for_all() {
        let own = |by: &str| -> Vec<Record> {
            (0..PROPOSALS_EACH_MAX).map(|n| proposed(by, &format!("s{n}"), 1, 10)).collect()
        };
        let full = own("rosa");
        let error = refused(&full, &proposed("rosa", "more", 1, 10));
        assert!(matches!(error, HistoryError::TooManyProposals(_)), "{error}");
        let mut history = history(&full);
        history.apply(&proposed("rosa", "s3", 2, 11)).unwrap();
        history.apply(&proposed("emmy", "more", 1, 11)).unwrap();
        let later = 10 + PROPOSAL_LENGTH.0;
        history.apply(&proposed("rosa", "more", 1, later)).unwrap();
        assert_eq!(open(&history, later), ["more 1 emmy", "more 1 rosa", "s3 2 rosa"]);

        let many = PROPOSALS_MAX / PROPOSALS_EACH_MAX;
        let all: Vec<Record> = (0..many).flat_map(|n| own(&format!("r{n}"))).collect();
        let error = refused(&all, &proposed("rosa", "more", 1, 10));
        assert!(matches!(error, HistoryError::ProposalsFull), "{error}");
    }
}
