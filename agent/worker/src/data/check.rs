//! `check`: the site's records against the study's data contract, before anything trains.
//!
//! What makes training impossible is an error (files, shapes, labels, too few records); what a
//! person should know is a finding: support of each class, blank images, exact duplicates.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use consilium_common::study::Study;
use consilium_common::worker::{FailureCode, Outcome};

use super::select::{Picks, Selection};
use super::{Images, Role, read};
use crate::failure::Failure;
use crate::protocol::Link;

/// A site with fewer training records than the study asks for does not train.
pub(crate) fn enough(study: &Study, train: usize) -> Result<(), Failure> {
    let need = study.data.min_examples.max(1);
    if train as u64 >= need {
        return Ok(());
    }
    let message = format!("{train} training records, the study needs at least {need}");
    Err(Failure::new(FailureCode::TooFewExamples, message))
}

/// Reads every record and says what was found.
pub(crate) fn check(
    study: &Study,
    images: Images<'_>,
    selection: &Selection,
    link: &mut Link,
) -> Result<Outcome, Failure> {
    let mut seen = Seen::default();
    read(images, selection, link, &mut |role, record| {
        seen.look_at(role, record);
        Ok(())
    })?;
    let examples = selection.train.as_ref().map_or(0, |train| train.records.len());
    enough(study, examples)?;
    let of = |picks: Option<&Picks>| -> Vec<usize> {
        picks.map_or(Vec::new(), |picks| picks.labels.iter().copied().map(usize::from).collect())
    };
    let (train, held) = (of(selection.train.as_ref()), of(Some(&selection.holdout)));
    let mut findings = support(study.model.classes(), &train, &held);
    findings.extend(seen.findings("images"));
    Ok(Outcome {
        examples: examples as u64,
        holdout: selection.holdout.records.len() as u64,
        findings,
        ..Outcome::default()
    })
}

/// A line for each class: how many records of it there are. `train` and `held` are their classes.
pub(crate) fn support(classes: &[String], train: &[usize], held: &[usize]) -> Vec<String> {
    let count = |of: &[usize], class: usize| of.iter().filter(|label| **label == class).count();
    let line = |(class, name): (usize, &String)| {
        let (train, holdout) = (count(train, class), count(held, class));
        let none = if train == 0 { ": none to learn from" } else { "" };
        format!("class {name:?}: {train} training records, {holdout} held out{none}")
    };
    classes.iter().enumerate().map(line).collect()
}

/// Records as fingerprints: eight bytes a record.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    train: HashSet<u64>,
    holdout: HashSet<u64>,
    blank: u64,
    repeated: u64,
}

impl Seen {
    /// An image: one of a single colour is noted too.
    fn look_at(&mut self, role: Role, record: &[u8]) {
        if record.first().is_some_and(|first| record.iter().all(|byte| byte == first)) {
            self.blank += 1;
        }
        self.note(role, record);
    }

    /// Any record, by what must not be there twice.
    pub(crate) fn note(&mut self, role: Role, record: impl Hash) {
        let mut hasher = DefaultHasher::new();
        record.hash(&mut hasher);
        let prints = match role {
            Role::Train => &mut self.train,
            Role::Holdout => &mut self.holdout,
        };
        if !prints.insert(hasher.finish()) {
            self.repeated += 1;
        }
    }

    /// A line for each kind of trouble; `what` are the records.
    pub(crate) fn findings(&self, what: &str) -> Vec<String> {
        let shared = self.train.intersection(&self.holdout).count() as u64;
        [
            (self.blank, "of one colour: nothing can be learnt from them"),
            (self.repeated, "that are exact duplicates of another one"),
            (shared, "held out that are trained on too: accuracy will look too good"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, said)| format!("{count} {what} {said}"))
        .collect()
    }
}
