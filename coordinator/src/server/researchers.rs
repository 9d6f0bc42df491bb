//! What is kept in mind of researchers while the coordinator runs: how much each may still make the log grow
//! by, and which models they were shown that are no longer in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use consilium_common::bucket::Bucket;
use consilium_common::ids::{Digest, OperatorId, StudyId};
use consilium_common::time::Millis;

use super::Server;
use super::roles::Sight;
use crate::limits::{MODELS_SHOWN_MAX, RESEARCHER_RECORDS, RESEARCHERS_COUNTED_MAX};

/// One for all researchers.
#[derive(Debug, Default)]
pub(super) struct Researchers(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    records: BTreeMap<OperatorId, Bucket>,
    shown: VecDeque<(OperatorId, StudyId, Digest)>,
}

impl Researchers {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one record more may be written of this researcher's doing.
    pub(super) fn may_write(&self, name: &OperatorId, now: Millis) -> bool {
        let records = &mut self.book().records;
        if records.len() >= RESEARCHERS_COUNTED_MAX && !records.contains_key(name) {
            records.clear();
        }
        let bucket = || Bucket::new(RESEARCHER_RECORDS, now);
        records.entry(name.clone()).or_insert_with(bucket).take(now)
    }

    /// A researcher was shown a version of an own study, to fetch its model next.
    pub(super) fn show(&self, name: &OperatorId, study: &StudyId, model: Digest) {
        let shown = &mut self.book().shown;
        if shown.len() >= MODELS_SHOWN_MAX {
            shown.pop_front();
        }
        shown.push_back((name.clone(), study.clone(), model));
    }

    fn was_shown(&self, name: &OperatorId, study: &StudyId, model: Digest) -> bool {
        let wanted = |(to, of, digest): &(OperatorId, StudyId, Digest)| {
            to == name && of == study && *digest == model
        };
        self.book().shown.iter().any(wanted)
    }
}

/// Whether a blob may be fetched by somebody who sees so much: all by those who see all, else the models of
/// the versions of own studies alone.
pub(super) fn may_fetch(server: &Server, sight: &Sight, blob: Digest) -> bool {
    let Sight::Own(name) = sight else {
        return true;
    };
    let studies = server.studies.all();
    studies.iter().filter(|study| sight.sees(study.study())).any(|study| {
        let known = study.view().summary.versions().any(|version| version.model == blob);
        known || server.researchers.was_shown(name, study.id(), blob)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_researcher_writes_a_few_records_and_then_one_a_minute() {
        let (all, rosa) = (Researchers::default(), "rosa".parse().unwrap());
        let burst = (0..1000).filter(|_| all.may_write(&rosa, Millis::ZERO)).count();
        assert_eq!(burst, 32);
        assert!(all.may_write(&"emmy".parse().unwrap(), Millis::ZERO), "each has their own");
        assert!(all.may_write(&rosa, Millis::from_secs(60)));
        assert!(!all.may_write(&rosa, Millis::from_secs(60)));
        for n in 0..2 * RESEARCHERS_COUNTED_MAX {
            let _may = all.may_write(&format!("r{n}").parse().unwrap(), Millis::ZERO);
        }
        assert!(all.book().records.len() <= RESEARCHERS_COUNTED_MAX);
    }

    #[test]
    fn what_one_was_shown_of_one_study_is_no_others() {
        let all = Researchers::default();
        let (rosa, emmy) = ("rosa".parse().unwrap(), "emmy".parse().unwrap());
        let (demo, other) = ("demo".parse().unwrap(), "other".parse().unwrap());
        let model = |n: usize| Digest::of(&n.to_le_bytes());
        all.show(&rosa, &demo, model(0));
        assert!(all.was_shown(&rosa, &demo, model(0)));
        assert!(!all.was_shown(&emmy, &demo, model(0)) && !all.was_shown(&rosa, &other, model(0)));
        (1..=MODELS_SHOWN_MAX).for_each(|n| all.show(&rosa, &demo, model(n)));
        assert!(!all.was_shown(&rosa, &demo, model(0)), "the oldest made room");
        assert!(all.was_shown(&rosa, &demo, model(1)));
    }
}
