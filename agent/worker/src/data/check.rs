//! `check`: the site's records against the study's data contract, before anything trains.
//!
//! What makes training impossible is an error (files, shapes, labels, too few records); what a
//! person should know is a finding: support of each class, blank images, exact duplicates.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use consilium_common::study::Study;
use consilium_common::worker::{FailureCode, Outcome};

use super::label::Label;
use super::select::Selection;
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
    let train = selection.train.iter().flat_map(|train| train.labels.iter());
    let mut findings = support(study.model.classes(), train, selection.holdout.labels.iter());
    findings.extend(seen.findings("images"));
    Ok(Outcome {
        examples: examples as u64,
        holdout: selection.holdout.records.len() as u64,
        findings,
        ..Outcome::default()
    })
}

/// A line for each class: how many records of it there are; and one for those of none, where records
/// may have several. `train` and `held` are their labels.
pub(crate) fn support(
    classes: &[String],
    train: impl Iterator<Item = Label>,
    held: impl Iterator<Item = Label>,
) -> Vec<String> {
    let (train, held) = (Tally::of(train, classes.len()), Tally::of(held, classes.len()));
    let line = |(name, (train, held)): (&String, (&u64, &u64))| {
        let none = if *train == 0 { ": none to learn from" } else { "" };
        format!("class {name:?}: {train} training records, {held} held out{none}")
    };
    let counts = train.classes.iter().zip(&held.classes);
    let none = (train.sets || held.sets).then(|| {
        format!("none of the classes: {} training records, {} held out", train.none, held.none)
    });
    classes.iter().zip(counts).map(line).chain(none).collect()
}

/// How many records are of each class.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) classes: Vec<u64>,
    /// Records of no class.
    pub(crate) none: u64,
    pub(crate) all: u64,
    /// Whether labels are sets of classes.
    sets: bool,
}

impl Tally {
    /// Of these labels, so many classes being told apart.
    pub(crate) fn of(labels: impl Iterator<Item = Label>, classes: usize) -> Self {
        let mut tally = Self { classes: vec![0; classes], none: 0, all: 0, sets: false };
        for label in labels {
            let mut is_any = false;
            for (_, count) in (0..).zip(&mut tally.classes).filter(|(class, _)| label.has(*class)) {
                *count += 1;
                is_any = true;
            }
            tally.none += u64::from(!is_any);
            tally.all += 1;
            tally.sets |= matches!(label, Label::Set(_));
        }
        tally
    }
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
    pub(crate) fn look_at(&mut self, role: Role, record: &[u8]) {
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
