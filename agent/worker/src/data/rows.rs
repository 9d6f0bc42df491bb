//! Rows of a table, and what the family makes of each. Memory follows what the family keeps of the
//! site's own rows.

use std::path::Path;

use consilium_common::study::DataKind;
use consilium_common::worker::source::OwnTest;
use consilium_common::worker::{FailureCode, Holdout, Phase, Source, SourceKind};

use super::RECORDS_PER_STEP;
use super::asked::{Asked, numbered};
use super::contract::{Field, Trouble};
use super::groups::Places;
use super::picking::{Mark, Picking};
pub(crate) use super::picking::{Parsed, Records as Rows};
use super::read::table::{Row, Table, TableError, TableOptions};
use super::read::value::Missing;
use super::users::Of;
use crate::failure::Failure;
use crate::family::Job;
use crate::protocol::Link;

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
    mut parse: impl FnMut(&[Field<'_>]) -> Result<Parsed<T>, Trouble>,
    of: impl Fn(&T) -> Option<Of>,
) -> Result<Rows<T>, Failure> {
    let source = job.source;
    let missing = source.format.missing.clone().map_or_else(Missing::default, Missing::of);
    let groupings = job.study.groupings();
    let mut picking = Picking::new(job, "rows")?;
    for (file, path) in files(job)? {
        let mut table = open(source, path)?;
        let place = Standing::find(&table, path, job, columns)?;
        let (mut row, mut number) = (Row::default(), 0_u32);
        while table.next_row(&mut row)? {
            let text = |at: usize| row.get(at).unwrap_or_default();
            let is = |pick: &(usize, String)| text(pick.0) == pick.1;
            if place.only.as_ref().is_none_or(is) {
                let values = fields(&table, &row, &place.groups, &missing);
                let fields = fields(&table, &row, &place.columns, &missing);
                let mark = Mark {
                    number,
                    held: file == File::Test || place.held.as_ref().is_some_and(is),
                    patient: place.patient.map(text),
                    whose: place.whose.map(text),
                    groups: Places::read(&groupings, &values),
                };
                let which = if file == File::Test { " of the test file" } else { "" };
                let line = || format!("line {}{which}", row.line());
                picking.take(mark, || parse(&fields), line);
            }
            if number.is_multiple_of(RECORDS_PER_STEP) {
                link.moved(Phase::Loading, number.into(), 0, || Ok(None))?;
            }
            number = number.saturating_add(1);
        }
    }
    picking.finish_of(of)
}

/// Reads every row of the source's file without labels or picks. `columns` as in [`read`].
pub(crate) fn ask<T>(
    job: &Job<'_>,
    columns: &[&str],
    link: &mut Link,
    mut parse: impl FnMut(&[Field<'_>]) -> Result<T, Trouble>,
) -> Result<Asked<Vec<T>>, Failure> {
    let (source, path) = (job.source, table_of(job)?);
    let missing = source.format.missing.clone().map_or_else(Missing::default, Missing::of);
    let mut table = open(source, path)?;
    let find = |name: &&str| column(&table, path, source.column(name));
    let places: Vec<usize> = columns.iter().map(find).collect::<Result<_, _>>()?;
    let (mut asked, mut row, mut number) = (Asked::none(), Row::default(), 0_u32);
    while table.next_row(&mut row)? {
        let record = parse(&fields(&table, &row, &places, &missing));
        let record = record.map_err(|trouble| match trouble {
            Trouble::Unreadable(why) => Trouble::Unreadable(format!("line {}: {why}", row.line())),
            Trouble::Dropped => trouble,
        });
        asked.take(numbered(number), record)?;
        if number.is_multiple_of(RECORDS_PER_STEP) {
            link.moved(Phase::Loading, number.into(), 0, || Ok(None))?;
        }
        number = number.saturating_add(1);
    }
    Ok(asked)
}

fn fields<'r>(table: &Table, row: &'r Row, places: &[usize], missing: &Missing) -> Vec<Field<'r>> {
    let field = |&at: &usize| {
        let text = row.get(at).unwrap_or_default().trim();
        Field { text, missing: missing.is(text), number: table.number(text) }
    };
    places.iter().map(field).collect()
}

/// What a file of the source is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum File {
    /// The holdout is taken from it.
    Main,
    /// All of it is held out.
    Test,
}

/// The table of records, or that of the labels of files.
fn table_of<'a>(job: &Job<'a>) -> Result<&'a Path, Failure> {
    let source = job.source;
    match (source.source, &source.labels) {
        (SourceKind::Csv | SourceKind::Tsv, _) => Ok(&source.path),
        (SourceKind::Text, Some(labels)) if job.study.data.kind == DataKind::Text => Ok(labels),
        (SourceKind::ImageFolder, Some(labels)) if job.study.data.kind == DataKind::Images => {
            Ok(labels)
        }
        (kind, _) => {
            let family = job.study.model.family();
            let message = format!("source: the {family} family reads tables, not {kind}");
            Err(Failure::new(FailureCode::DataInvalid, message))
        }
    }
}

/// The tables of the source.
pub(super) fn tables<'a>(job: &Job<'a>) -> Result<Vec<&'a Path>, Failure> {
    Ok(files(job)?.into_iter().map(|(_, path)| path).collect())
}

fn files<'a>(job: &Job<'a>) -> Result<Vec<(File, &'a Path)>, Failure> {
    let (source, main) = (job.source, (File::Main, table_of(job)?));
    let invalid = |message: &str| Err(Failure::new(FailureCode::DataInvalid, message));
    match (&source.holdout, &source.test_path) {
        (Holdout::Own(OwnTest::Test), Some(test)) => Ok(vec![main, (File::Test, test)]),
        (Holdout::Own(OwnTest::Test), None) => {
            invalid("`holdout = \"test\"` of a table needs its `test_path` in agent.toml")
        }
        (_, Some(_)) => invalid("`test_path` goes with `holdout = \"test\"`"),
        (_, None) => Ok(vec![main]),
    }
}

pub(super) fn open(source: &Source, path: &Path) -> Result<Table, Failure> {
    let format = &source.format;
    let is_tsv = source.source == SourceKind::Tsv;
    let delimiter = if is_tsv { Some('\t') } else { format.delimiter };
    let options = TableOptions {
        encoding: format.encoding,
        delimiter,
        decimal: format.decimal,
        header: format.header,
    };
    Ok(Table::open(path, options)?)
}

/// Where in a row everything stands.
struct Standing {
    columns: Vec<usize>,
    groups: Vec<usize>,
    only: Option<(usize, String)>,
    held: Option<(usize, String)>,
    patient: Option<usize>,
    whose: Option<usize>,
}

impl Standing {
    fn find(table: &Table, path: &Path, job: &Job<'_>, columns: &[&str]) -> Result<Self, Failure> {
        let source = job.source;
        let find = |name: &str| column(table, path, name);
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
            groups: job
                .study
                .groupings()
                .iter()
                .map(|grouping| find(source.column(&grouping.column)))
                .collect::<Result<_, _>>()?,
            only: source.only.as_ref().map(picked).transpose()?,
            held,
            patient: patient.map(|name| find(source.column(name))).transpose()?,
            whose: job.patients.map(|all| find(all.column())).transpose()?,
        })
    }
}

/// Where the column that the file calls `name` stands.
pub(super) fn column(table: &Table, path: &Path, name: &str) -> Result<usize, Failure> {
    let found = table.columns().iter().position(|have| have == name);
    found.ok_or_else(|| missing_column(table, path, name))
}

fn missing_column(table: &Table, path: &Path, name: &str) -> Failure {
    let have: Vec<&str> = table.columns().iter().map(String::as_str).collect();
    let near = consilium_common::config::nearest(name, have.iter().copied())
        .map(|near| format!("; did you mean {near:?}?"))
        .unwrap_or_default();
    let message = format!(
        "{} has no column {name:?}{near} (agent.toml's `columns` says what a file calls it)",
        path.display()
    );
    Failure::new(FailureCode::DataInvalid, message)
}

impl From<TableError> for Failure {
    fn from(error: TableError) -> Self {
        Self::new(FailureCode::DataInvalid, error.to_string())
    }
}
