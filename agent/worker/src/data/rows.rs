//! Rows of a table: which of them are this site's, which are held out, and what the family makes of
//! each. Memory follows what the family keeps of the site's own rows.

use std::collections::BTreeMap;

use consilium_common::worker::source::OfUser;
use consilium_common::worker::{FailureCode, Holdout, Phase, Source, SourceKind};

use super::RECORDS_PER_STEP;
use super::contract::{Field, Trouble};
use super::read::table::{Row, Table, TableError, TableOptions};
use super::read::value::Missing;
use super::select::check_part;
use super::split::{deal, hold_out};
use super::users::{self, Of};
use crate::failure::Failure;
use crate::family::Job;
use crate::protocol::Link;

/// Rows that are named one by one where they cannot be read; of the others there is a count.
const NAMED_MAX: usize = 20;

/// What a family makes of a row: the record, and its class where it has one.
pub(crate) struct Parsed<T> {
    pub(crate) record: T,
    pub(crate) class: Option<usize>,
}

/// A site's records.
#[derive(Debug)]
pub(crate) struct Rows<T> {
    pub(crate) train: Vec<T>,
    pub(crate) holdout: Vec<T>,
    /// What a person should know, a line each.
    pub(crate) findings: Vec<String>,
}

/// Reads the site's rows. `columns` are the study's names of those that `parse` gets, in order.
pub(crate) fn read<T>(
    job: &Job<'_>,
    columns: &[&str],
    link: &mut Link,
    parse: impl FnMut(&[Field<'_>]) -> Result<Parsed<T>, Trouble>,
) -> Result<Rows<T>, Failure> {
    read_of_users(job, columns, link, parse, |_| None)
}

/// The same where records are users': parts are dealt and hold-outs taken by whom a record is `of`.
pub(crate) fn read_of_users<T>(
    job: &Job<'_>,
    columns: &[&str],
    link: &mut Link,
    parse: impl FnMut(&[Field<'_>]) -> Result<Parsed<T>, Trouble>,
    of: impl Fn(&T) -> Option<Of>,
) -> Result<Rows<T>, Failure> {
    let source = job.source;
    if let Some(part) = &source.part {
        check_part(part)?;
    }
    let mut table = open(source)?;
    let place = Places::find(&table, job, columns)?;
    let mut reading = Reading::new(job, parse);
    let (mut row, mut number) = (Row::default(), 0_u32);
    while table.next_row(&mut row)? {
        reading.take(&table, &row, &place, number);
        if number.is_multiple_of(RECORDS_PER_STEP) {
            link.moved(Phase::Loading, number.into(), 0, || Ok(None))?;
        }
        number = number.saturating_add(1);
    }
    let of = reading.records.iter().filter_map(of).collect();
    reading.finish(of)
}

fn open(source: &Source) -> Result<Table, Failure> {
    let format = &source.format;
    let is_tsv = source.source == SourceKind::Tsv;
    let delimiter = if is_tsv { Some('\t') } else { format.delimiter };
    let options = TableOptions {
        encoding: format.encoding,
        delimiter,
        decimal: format.decimal,
        header: format.header,
    };
    Ok(Table::open(&source.path, options)?)
}

/// Where in a row everything stands.
struct Places {
    columns: Vec<usize>,
    only: Option<(usize, String)>,
    held: Option<(usize, String)>,
    patient: Option<usize>,
}

impl Places {
    fn find(table: &Table, job: &Job<'_>, columns: &[&str]) -> Result<Self, Failure> {
        let source = job.source;
        let find = |name: &str| {
            let found = table.columns().iter().position(|have| have == name);
            found.ok_or_else(|| missing_column(table, source, name))
        };
        let picked = |pick: &consilium_common::worker::Where| {
            Ok::<_, Failure>((find(&pick.column)?, pick.equals.clone()))
        };
        let held = match &source.holdout {
            Holdout::Where(held) => Some(picked(held)?),
            Holdout::Fraction(_) | Holdout::Own(_) | Holdout::Every(_) | Holdout::OfUser(_) => None,
        };
        let patient = job.study.data.patient.as_deref();
        Ok(Self {
            columns: columns
                .iter()
                .map(|name| find(source.column(name)))
                .collect::<Result<_, _>>()?,
            only: source.only.as_ref().map(picked).transpose()?,
            held,
            patient: patient.map(|name| find(source.column(name))).transpose()?,
        })
    }
}

fn missing_column(table: &Table, source: &Source, name: &str) -> Failure {
    let have: Vec<&str> = table.columns().iter().map(String::as_str).collect();
    let near = consilium_common::config::nearest(name, have.iter().copied())
        .map(|near| format!("; did you mean {near:?}?"))
        .unwrap_or_default();
    let message = format!(
        "{} has no column {name:?}{near} (agent.toml's `columns` says what a file calls it)",
        source.path.display()
    );
    Failure::new(FailureCode::DataInvalid, message)
}

/// Rows on their way in.
struct Reading<'a, T, P> {
    job: &'a Job<'a>,
    parse: P,
    missing: Missing,
    /// Rows of the site, readable or not.
    rows: u64,
    records: Vec<T>,
    classes: Vec<u8>,
    /// Numbers of the rows in `records` that are held out by what they say.
    held: Vec<bool>,
    /// Every so-manieth row of the file is held out.
    every: Option<u32>,
    /// The patient of each record, as a number.
    patients: Vec<u32>,
    known_patients: BTreeMap<String, u32>,
    unreadable: u64,
    named: Vec<String>,
}

impl<'a, T, P> Reading<'a, T, P>
where
    P: FnMut(&[Field<'_>]) -> Result<Parsed<T>, Trouble>,
{
    fn new(job: &'a Job<'a>, parse: P) -> Self {
        Self {
            job,
            parse,
            missing: job.source.format.missing.clone().map_or_else(Missing::default, Missing::of),
            rows: 0,
            records: Vec::new(),
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
            unreadable: 0,
            named: Vec::new(),
        }
    }

    fn take(&mut self, table: &Table, row: &Row, places: &Places, number: u32) {
        let text = |at: usize| row.get(at).unwrap_or_default();
        let is = |pick: &(usize, String)| text(pick.0) == pick.1;
        if !places.only.as_ref().is_none_or(is) {
            return;
        }
        self.rows += 1;
        let field = |&at: &usize| {
            let text = text(at).trim();
            let missing = self.missing.is(text);
            Field { text, missing, number: table.number(text) }
        };
        let fields: Vec<Field<'_>> = places.columns.iter().map(field).collect();
        match (self.parse)(&fields) {
            Ok(Parsed { record, class }) => {
                self.records.push(record);
                self.classes.push(class.and_then(|class| u8::try_from(class).ok()).unwrap_or(0));
                let by_number = self.every.is_some_and(|every| number.is_multiple_of(every));
                self.held.push(by_number || places.held.as_ref().is_some_and(is));
                if let Some(at) = places.patient {
                    let next = u32::try_from(self.known_patients.len()).unwrap_or(u32::MAX);
                    let known = self.known_patients.entry(text(at).to_owned());
                    self.patients.push(*known.or_insert(next));
                }
            }
            Err(Trouble::Dropped) => {}
            Err(Trouble::Unreadable(why)) => {
                self.unreadable += 1;
                if self.named.len() < NAMED_MAX {
                    self.named.push(format!("line {}: {why}: left out", row.line()));
                }
            }
        }
    }

    /// `of`: whose each record is, or nothing.
    fn finish(mut self, of: Vec<Of>) -> Result<Rows<T>, Failure> {
        self.within_tolerance()?;
        let (train, held) = self.split(&of)?;
        let mut findings = std::mem::take(&mut self.named);
        if self.unreadable > findings.len() as u64 {
            let more = self.unreadable - findings.len() as u64;
            findings.push(format!("and {more} more rows that cannot be read"));
        }
        let mut records: Vec<Option<T>> = self.records.into_iter().map(Some).collect();
        let mut pick = |numbers: Vec<u32>| -> Vec<T> {
            let at = |number| records.get_mut(number as usize).and_then(Option::take);
            numbers.into_iter().filter_map(at).collect()
        };
        let (train, holdout) = (pick(train), pick(held));
        Ok(Rows { train, holdout, findings })
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of rows, for a share")]
    fn within_tolerance(&self) -> Result<(), Failure> {
        let tolerance = self.job.study.data.tolerance;
        if self.unreadable as f64 <= tolerance * self.rows as f64 {
            return Ok(());
        }
        let message = format!(
            "{}: {} of {} rows cannot be read, the study's `data.tolerance` is {tolerance}; first {}",
            self.job.source.path.display(),
            self.unreadable,
            self.rows,
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
                Ok(match self.patients.is_empty() {
                    true => hold_out(mine, *fraction, seed),
                    false => self.hold_out_patients(&mine, *fraction, seed),
                })
            }
            Holdout::Where(_) | Holdout::Every(_) => {
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
            Holdout::Fraction(_) | Holdout::Own(_) => {
                let message = "a table has no test files: write `holdout` as a fraction, as \
                               { column = \"split\", equals = \"test\" } or as { every = 5 }";
                Err(Failure::new(FailureCode::DataInvalid, message))
            }
        }
    }

    /// A fraction of the patients with all of their records.
    fn hold_out_patients(&self, mine: &[u32], fraction: f64, seed: u64) -> (Vec<u32>, Vec<u32>) {
        let patient = |number: &u32| self.patients.get(*number as usize).copied().unwrap_or(0);
        let mut patients: Vec<u32> = mine.iter().map(patient).collect();
        patients.sort_unstable();
        patients.dedup();
        let (_, held) = hold_out(patients, fraction, seed);
        mine.iter().partition(|number| held.binary_search(&patient(number)).is_err())
    }
}

impl From<TableError> for Failure {
    fn from(error: TableError) -> Self {
        Self::new(FailureCode::DataInvalid, error.to_string())
    }
}
