//! Which of a file's records are this site's, which are held out, and what is said of those that cannot
//! be read: the same for every kind of file whose records are parsed one by one.

use std::collections::BTreeMap;

use consilium_common::worker::source::{OfUser, OwnTest};
use consilium_common::worker::{FailureCode, Holdout};

use super::contract::Trouble;
use super::groups::{self, Member, Places};
use super::select::check_part;
use super::split::{deal, hold_out, validate};
use super::users::{self, Of};
use crate::failure::Failure;
use crate::family::Job;

/// Records that are named one by one where they cannot be read; of the others there is a count.
const NAMED_MAX: usize = 20;

/// What a family makes of a record, and its class where it has one.
pub(crate) struct Parsed<T> {
    pub(crate) record: T,
    pub(crate) class: Option<usize>,
}

/// What the file says of a record beside what the family makes of it.
pub(crate) struct Mark<'a> {
    /// Its place in the file, from 0.
    pub(crate) number: u32,
    /// Whether it has the value of `holdout = { column, equals }`.
    pub(crate) held: bool,
    /// Whose it is, where the study asks.
    pub(crate) patient: Option<&'a str>,
    /// Whose it is, where the site asks.
    pub(crate) whose: Option<&'a str>,
    /// Its groups.
    pub(crate) groups: Places,
}

/// A site's records.
#[derive(Debug)]
pub(crate) struct Records<T> {
    pub(crate) train: Vec<T>,
    pub(crate) holdout: Vec<T>,
    /// Groups and patient of each of `holdout`.
    pub(crate) members: Vec<Member>,
    /// What a person should know, a line each.
    pub(crate) findings: Vec<String>,
}

/// Records on their way in: those of the site, in the file's order.
pub(crate) struct Picking<'a, T> {
    job: &'a Job<'a>,
    /// What records are called: rows, records.
    what: &'static str,
    /// Records of the site, readable or not.
    seen: u64,
    /// None in the place of a record that was not read: what is dealt and held out of the others must not
    /// follow from who opted out.
    records: Vec<Option<T>>,
    /// Records that were not read.
    excluded: u64,
    /// The patient of each record, as the site counts them; empty where it does not.
    whose: Vec<u32>,
    classes: Vec<u8>,
    /// Whether each of `records` is held out by its place or by what it says.
    held: Vec<bool>,
    /// Every so-manieth record of the file is held out.
    every: Option<u32>,
    /// The patient of each record, as a number.
    patients: Vec<u32>,
    known_patients: BTreeMap<String, u32>,
    /// The groups of each record.
    groups: Vec<Places>,
    unreadable: u64,
    named: Vec<String>,
}

impl<'a, T> Picking<'a, T> {
    pub(crate) fn new(job: &'a Job<'a>, what: &'static str) -> Result<Self, Failure> {
        if let Some(part) = &job.source.part {
            check_part(part)?;
        }
        Ok(Self {
            job,
            what,
            seen: 0,
            records: Vec::new(),
            excluded: 0,
            whose: Vec::new(),
            classes: Vec::new(),
            held: Vec::new(),
            every: match &job.source.holdout {
                Holdout::Every(every) => Some(every.every),
                Holdout::Fraction(_) | Holdout::Own(_) | Holdout::Where(_) | Holdout::OfUser(_) => {
                    None
                }
            },
            patients: Vec::new(),
            known_patients: BTreeMap::new(),
            groups: Vec::new(),
            unreadable: 0,
            named: Vec::new(),
        })
    }

    /// Takes one of the site's records, which `parse` reads, unless its patient is excluded: then nothing of
    /// it is read. `place` names it in its file.
    pub(crate) fn take(
        &mut self,
        mark: Mark<'_>,
        parse: impl FnOnce() -> Result<Parsed<T>, Trouble>,
        place: impl Fn() -> String,
    ) {
        let take_part = self.job.patients.map_or(Ok(true), |all| all.take_part(mark.whose));
        let parsed = match take_part {
            Ok(true) => parse(),
            Ok(false) => {
                self.excluded += 1;
                return self.push(mark, None, 0);
            }
            Err(trouble) => Err(trouble),
        };
        self.seen += 1;
        match parsed {
            Ok(Parsed { record, class }) => {
                let class = class.and_then(|class| u8::try_from(class).ok()).unwrap_or(0);
                self.push(mark, Some(record), class);
            }
            Err(Trouble::Dropped) => {}
            Err(Trouble::Unreadable(why)) => {
                self.unreadable += 1;
                if self.named.len() < NAMED_MAX {
                    self.named.push(format!("{}: {why}: left out", place()));
                }
            }
        }
    }

    fn push(&mut self, mark: Mark<'_>, record: Option<T>, class: u8) {
        let is_read = record.is_some();
        self.records.push(record);
        self.classes.push(class);
        let by_number = self.every.is_some_and(|every| mark.number.is_multiple_of(every));
        self.held.push(by_number || mark.held);
        self.groups.push(mark.groups);
        if let Some(patient) = mark.patient {
            let next = u32::try_from(self.known_patients.len()).unwrap_or(u32::MAX);
            let known = self.known_patients.entry(patient.to_owned());
            self.patients.push(*known.or_insert(next));
        }
        if let (Some(all), Some(patient)) = (self.job.patients, mark.whose) {
            self.whose.push(if is_read { all.number_of(patient) } else { 0 });
        }
    }

    /// Deals, holds out, and holds what could not be read against the study's tolerance.
    pub(crate) fn finish(self) -> Result<Records<T>, Failure> {
        self.finish_of(|_| None)
    }

    /// The same where records are users': parts are dealt and hold-outs taken by whom each is `of`.
    pub(crate) fn finish_of(
        mut self,
        of: impl Fn(&T) -> Option<Of>,
    ) -> Result<Records<T>, Failure> {
        self.within_tolerance()?;
        let of = self.users(of);
        let (train, held) = match self.job.source.validation {
            None => self.split(&of)?,
            Some(fraction) => self.validate(self.split(&of)?.0, &of, fraction),
        };
        let is_read =
            |number: &u32| self.records.get(*number as usize).is_some_and(Option::is_some);
        let train: Vec<u32> = train.into_iter().filter(is_read).collect();
        let held: Vec<u32> = held.into_iter().filter(is_read).collect();
        if let Some(all) = self.job.patients {
            let whose = |number: &u32| self.whose.get(*number as usize).copied();
            all.used(train.iter().filter_map(whose), held.iter().filter_map(whose));
        }
        let mut findings = std::mem::take(&mut self.named);
        findings.extend(self.job.patients.and_then(|all| all.finding(self.excluded, self.what)));
        if self.unreadable > findings.len() as u64 {
            let more = self.unreadable - findings.len() as u64;
            findings.push(format!("and {more} more {} that cannot be read", self.what));
        }
        let mut member = |number: &u32| Member {
            places: self.groups.get_mut(*number as usize).map(std::mem::take).unwrap_or_default(),
            patient: self.patients.get(*number as usize).copied(),
        };
        let members: Vec<Member> = held.iter().map(&mut member).collect();
        findings.extend(groups::findings(self.job.study, members.iter()));
        let mut records = self.records;
        let mut pick = |numbers: Vec<u32>| -> Vec<T> {
            let at = |number| records.get_mut(number as usize).and_then(Option::take);
            numbers.into_iter().filter_map(at).collect()
        };
        let (train, holdout) = (pick(train), pick(held));
        Ok(Records { train, holdout, members, findings })
    }

    /// Whose each record is, where records are users'. One that was not read is nobody's that the others
    /// know: it is the only one of a user of its own.
    fn users(&self, of: impl Fn(&T) -> Option<Of>) -> Vec<Of> {
        let known: Vec<Option<Of>> =
            self.records.iter().map(|r| r.as_ref().and_then(&of)).collect();
        let mut next = known.iter().flatten().map(|of| of.user.saturating_add(1)).max();
        let mut nobody = || {
            let user = next?;
            next = user.checked_add(1);
            Some(Of { user, at: 0.0 })
        };
        known.into_iter().filter_map(|of| of.or_else(&mut nobody)).collect()
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of records, for a share")]
    fn within_tolerance(&self) -> Result<(), Failure> {
        let tolerance = self.job.study.data.tolerance;
        if self.unreadable as f64 <= tolerance * self.seen as f64 {
            return Ok(());
        }
        let message = format!(
            "{}: {} of {} {} cannot be read, the study's `data.tolerance` is {tolerance}; first {}",
            self.job.source.path.display(),
            self.unreadable,
            self.seen,
            self.what,
            self.named.first().map_or("none", String::as_str)
        );
        Err(Failure::new(FailureCode::DataInvalid, message))
    }

    /// Numbers of the records to train on and of those held out, each ascending.
    fn split(&self, of: &[Of]) -> Result<(Vec<u32>, Vec<u32>), Failure> {
        let classes = self.classes.iter().copied().max().map_or(1, |most| usize::from(most) + 1);
        let dealt = |file: &str, numbers: Vec<u32>| match &self.job.source.part {
            None => numbers,
            Some(part) if !of.is_empty() => users::deal_to(part, of, numbers),
            Some(part) => {
                let class = |&number: &u32| self.classes.get(number as usize).copied();
                let labels: Vec<u8> = numbers.iter().filter_map(class).collect();
                let picked = deal(part, file, &labels, classes);
                let at = |place: u32| numbers.get(place as usize).copied();
                picked.into_iter().filter_map(at).collect()
            }
        };
        let all = 0..u32::try_from(self.records.len()).unwrap_or(u32::MAX);
        match &self.job.source.holdout {
            Holdout::Fraction(fraction) if (0.0..1.0).contains(fraction) => {
                let seed = self.job.study.header.seed;
                let mine = dealt("train", all.collect());
                Ok(self.apart(mine, |all| hold_out(all, *fraction, seed)))
            }
            Holdout::Own(_) if self.job.source.test_path.is_none() => no_test_files(),
            Holdout::Where(_) | Holdout::Every(_) | Holdout::Own(OwnTest::Test) => {
                let is_held = |number: &u32| self.held.get(*number as usize) == Some(&true);
                let (held, train) = all.partition(is_held);
                Ok((dealt("train", train), dealt("test", held)))
            }
            Holdout::OfUser(OfUser::Last) if !of.is_empty() => {
                Ok(users::last(of, &dealt("train", all.collect())))
            }
            Holdout::OfUser(OfUser::Last) => {
                let message = "`holdout = \"last\"` is for ratings: these records are no users'";
                Err(Failure::new(FailureCode::DataInvalid, message))
            }
            Holdout::Fraction(_) | Holdout::Own(OwnTest::Val) => no_test_files(),
        }
    }

    /// Of the records to train on those for validation, in the way of the hold-out.
    fn validate(&self, train: Vec<u32>, of: &[Of], fraction: f64) -> (Vec<u32>, Vec<u32>) {
        let seed = self.job.study.header.seed;
        match &self.job.source.holdout {
            Holdout::OfUser(OfUser::Last) => users::last(of, &train),
            Holdout::Fraction(_) | Holdout::Own(_) | Holdout::Where(_) | Holdout::Every(_) => {
                self.apart(train, |all| validate(all, fraction, seed))
            }
        }
    }

    /// Splits records, or patients with all of their records.
    fn apart(
        &self,
        mine: Vec<u32>,
        split: impl Fn(Vec<u32>) -> (Vec<u32>, Vec<u32>),
    ) -> (Vec<u32>, Vec<u32>) {
        if self.patients.is_empty() {
            return split(mine);
        }
        let patient = |number: &u32| self.patients.get(*number as usize).copied().unwrap_or(0);
        let mut patients: Vec<u32> = mine.iter().map(patient).collect();
        patients.sort_unstable();
        patients.dedup();
        let (_, held) = split(patients);
        mine.iter().partition(|number| held.binary_search(&patient(number)).is_err())
    }
}

fn no_test_files<T>() -> Result<T, Failure> {
    let message = "holdout: this source has no such files: write a fraction, { column = \"split\", \
                   equals = \"test\" }, { every = 5 }, or \"test\" with a table's `test_path`";
    Err(Failure::new(FailureCode::DataInvalid, message))
}
