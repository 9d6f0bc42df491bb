//! Series from a .npz file: the array `X` (records × steps × variables, NaN where a variable was not
//! observed) and beside it arrays with one number a record: the label, and whatever the site picks by.
//! agent.toml's `columns` says what a file calls them. Memory follows the site's own records.

use consilium_common::limits::EXAMPLES_MAX;
use consilium_common::study::{Column, ColumnKind, Data, Objective};
use consilium_common::worker::{FailureCode, Holdout, Phase, Source, SourceKind, Where};

use super::RECORDS_PER_STEP;
use super::asked::{Asked, numbered};
use super::contract::{Field, Labelled, Repairs, Trouble, share};
use super::groups::Places;
use super::label::{Label, sets};
use super::picking::{Mark, Parsed, Picking, Records};
use super::read::npz::Array;
use crate::failure::Failure;
use crate::family::Job;
use crate::protocol::Link;

/// The study's name of the array of values.
const VALUES: &str = "X";

/// One record.
#[derive(Debug)]
pub(crate) struct Series {
    /// Steps × variables: shares of the variables' ranges, NaN where nothing was observed.
    pub(crate) values: Vec<f32>,
    pub(crate) label: Label,
}

/// Reads the site's series of `steps` steps.
pub(crate) fn read(
    job: &Job<'_>,
    steps: u32,
    link: &mut Link,
) -> Result<(Records<Series>, Repairs), Failure> {
    let (source, data) = (job.source, &job.study.data);
    let mut values = open_values(source)?;
    let count = expect_shape(source, &values, steps, data)?;
    let beside = Beside::read(job, count)?;
    let ranges = Ranges::of(data);
    let (mut picking, mut repairs) = (Picking::new(job, "records")?, Repairs::default());
    let (mut block, mut number) = (Vec::new(), 0_u32);
    while values.next_rows(RECORDS_PER_STEP.into(), &mut block)? > 0 {
        for record in block.chunks_exact(ranges.len().max(1) * steps as usize) {
            if beside.is_the_sites(number) {
                let parse = || {
                    let label = beside.label(number)?;
                    let values = ranges.shares(record, &mut repairs)?;
                    let class = label.key(beside.labelled.classes.len());
                    Ok(Parsed { record: Series { values, label }, class })
                };
                let (patient, whose) = (beside.patient(number), beside.whose(number));
                let held = beside.is_held(number);
                let groups = beside.groups(number);
                let (patient, whose) = (patient.as_deref(), whose.as_deref());
                let mark = Mark { number, held, patient, whose, groups };
                picking.take(mark, parse, || format!("record {number}"));
            }
            number = number.saturating_add(1);
        }
        link.moved(Phase::Loading, number.into(), count, || Ok(None))?;
    }
    Ok((picking.finish()?, repairs))
}

/// Reads the values of every series of `steps` steps, without labels or picks.
pub(crate) fn ask(
    job: &Job<'_>,
    steps: u32,
    link: &mut Link,
) -> Result<Asked<Vec<Vec<f32>>>, Failure> {
    let (source, data) = (job.source, &job.study.data);
    let mut values = open_values(source)?;
    let count = expect_shape(source, &values, steps, data)?;
    let (ranges, mut repairs) = (Ranges::of(data), Repairs::default());
    let (mut asked, mut block, mut number) = (Asked::none(), Vec::new(), 0_u32);
    while values.next_rows(RECORDS_PER_STEP.into(), &mut block)? > 0 {
        for record in block.chunks_exact(ranges.len().max(1) * steps as usize) {
            asked.take(numbered(number), ranges.shares(record, &mut repairs))?;
            number = number.saturating_add(1);
        }
        link.moved(Phase::Loading, number.into(), count, || Ok(None))?;
    }
    Ok(asked)
}

/// The array of values.
fn open_values(source: &Source) -> Result<Array, Failure> {
    if source.source != SourceKind::Npz {
        let kind = source.source;
        return invalid(format!("source: the rnn family reads npz, not {kind}"));
    }
    Ok(Array::open(&source.path, source.column(VALUES))?)
}

fn invalid<T>(message: String) -> Result<T, Failure> {
    Err(Failure::new(FailureCode::DataInvalid, message))
}

/// How many records there are, each of the study's shape.
fn expect_shape(source: &Source, values: &Array, steps: u32, data: &Data) -> Result<u64, Failure> {
    let variables = data.columns.len() as u64;
    match *values.shape() {
        [count, s, v] if count <= EXAMPLES_MAX && s == u64::from(steps) && v == variables => {
            Ok(count)
        }
        ref shape => invalid(format!(
            "{}, array {:?} has shape {shape:?}: records × {steps} × {variables} was expected (the \
             study's `model.steps` and variables), of at most {EXAMPLES_MAX} records",
            source.path.display(),
            source.column(VALUES)
        )),
    }
}

/// The range of each variable, in its order.
struct Ranges<'a>(Vec<(&'a Column, (f64, f64))>);

impl<'a> Ranges<'a> {
    /// The bounds are rounded as the values are: a maximum of 7.3 holds a 7.3 that was read as f32.
    fn of(data: &'a Data) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "rounding is what is asked for")]
        let rounded = |bound: f64| f64::from(bound as f32);
        let range = |column: &'a Column| match column.kind() {
            ColumnKind::Number { min, max } => (column, (rounded(min), rounded(max))),
            // A study whose variable is a word has no layout.
            ColumnKind::Category(_) => (column, (0.0, 0.0)),
        };
        Self(data.columns.iter().map(range).collect())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    /// The record's values as shares; NaN stays.
    fn shares(&self, record: &[f32], repairs: &mut Repairs) -> Result<Vec<f32>, Trouble> {
        let mut shares = Vec::with_capacity(record.len());
        for step in record.chunks_exact(self.len().max(1)) {
            for (value, (column, range)) in step.iter().zip(&self.0) {
                shares.push(if value.is_nan() {
                    f32::NAN
                } else {
                    share(column, *range, f64::from(*value), repairs)?.unwrap_or(f32::NAN)
                });
            }
        }
        Ok(shares)
    }
}

/// What stands beside the values: one number a record in each array.
struct Beside<'a> {
    labelled: Labelled<'a>,
    labels: Labels,
    only: Option<(Vec<i64>, &'a str)>,
    held: Option<(Vec<i64>, &'a str)>,
    patients: Option<Vec<i64>>,
    whose: Option<Vec<i64>>,
    /// The groups of every record, a column after another.
    groups: Vec<Vec<Option<usize>>>,
}

enum Labels {
    Classes(Vec<i64>),
    /// `None` where a record has other numbers than 0 and 1.
    Sets(Vec<Option<u64>>),
    Numbers(Vec<f32>),
}

impl<'a> Beside<'a> {
    fn read(job: &Job<'a>, count: u64) -> Result<Self, Failure> {
        let (source, data) = (job.source, &job.study.data);
        let labelled = Labelled::of(job.study, source);
        let integers = |name: &str| {
            let mut numbers = Vec::new();
            open_beside(source, name, count)?.next_rows_i64(EXAMPLES_MAX, &mut numbers)?;
            Ok::<_, Failure>(numbers)
        };
        let picked =
            |pick: &'a Where| Ok::<_, Failure>((integers(&pick.column)?, pick.equals.as_str()));
        let label = source.column(&data.label);
        let labels = match labelled.objective {
            Objective::Classify => Labels::Classes(integers(label)?),
            Objective::Multilabel => {
                let classes = labelled.classes.len();
                Labels::Sets(sets(&source.path, label, classes, Some(count))?)
            }
            Objective::Regress | Objective::Rank => {
                let mut numbers = Vec::new();
                open_beside(source, label, count)?.next_rows(EXAMPLES_MAX, &mut numbers)?;
                Labels::Numbers(numbers)
            }
        };
        let held = match &source.holdout {
            Holdout::Where(held) => Some(picked(held)).transpose()?,
            Holdout::Fraction(_) | Holdout::Own(_) | Holdout::Every(_) | Holdout::OfUser(_) => None,
        };
        let patient = data.patient.as_deref().map(|name| source.column(name));
        Ok(Self {
            labelled,
            labels,
            only: source.only.as_ref().map(picked).transpose()?,
            held,
            patients: patient.map(integers).transpose()?,
            whose: job.patients.map(|all| integers(all.column())).transpose()?,
            groups: groups(job, count)?,
        })
    }

    fn is(&self, pick: &(Vec<i64>, &str), number: u32) -> bool {
        let value = pick.0.get(number as usize);
        value.is_some_and(|value| value.to_string() == pick.1)
    }

    fn is_the_sites(&self, number: u32) -> bool {
        self.only.as_ref().is_none_or(|pick| self.is(pick, number))
    }

    fn is_held(&self, number: u32) -> bool {
        self.held.as_ref().is_some_and(|pick| self.is(pick, number))
    }

    fn patient(&self, number: u32) -> Option<String> {
        self.patients.as_ref()?.get(number as usize).map(i64::to_string)
    }

    fn whose(&self, number: u32) -> Option<String> {
        self.whose.as_ref()?.get(number as usize).map(i64::to_string)
    }

    fn groups(&self, number: u32) -> Places {
        let place = |column: &Vec<Option<usize>>| column.get(number as usize).copied().flatten();
        Places::of(self.groups.iter().map(place))
    }

    fn label(&self, number: u32) -> Result<Label, Trouble> {
        let name = &self.labelled.data.label;
        match &self.labels {
            Labels::Classes(written) => {
                let text = written.get(number as usize).map(i64::to_string).unwrap_or_default();
                let field = Field { text: &text, missing: text.is_empty(), number: None };
                self.labelled.read(field)
            }
            Labels::Sets(sets) => {
                let told = || Trouble::Unreadable(format!("the label {name:?} is not 0s and 1s"));
                sets.get(number as usize).copied().flatten().map(Label::Set).ok_or_else(told)
            }
            Labels::Numbers(numbers) => {
                let number = numbers.get(number as usize).copied().unwrap_or(f32::NAN);
                if number.is_finite() {
                    return Ok(Label::Number(f64::from(number)));
                }
                Err(Trouble::Unreadable(format!("the label {name:?} is no number")))
            }
        }
    }
}

/// The groups of every record in each of the study's columns, from the arrays of these names.
fn groups(job: &Job<'_>, count: u64) -> Result<Vec<Vec<Option<usize>>>, Failure> {
    let groupings = job.study.groupings();
    let places = groupings.iter().map(|grouping| -> Result<Vec<Option<usize>>, Failure> {
        let mut array = open_beside(job.source, job.source.column(&grouping.column), count)?;
        if grouping.is_by_number() {
            let mut numbers = Vec::new();
            array.next_rows(EXAMPLES_MAX, &mut numbers)?;
            let place = |number: f32| grouping.place_of("", Some(f64::from(number)));
            return Ok(numbers.into_iter().map(place).collect());
        }
        let mut numbers = Vec::new();
        array.next_rows_i64(EXAMPLES_MAX, &mut numbers)?;
        let place = |number: i64| grouping.place_of(&number.to_string(), None);
        Ok(numbers.into_iter().map(place).collect())
    });
    places.collect()
}

/// An array with one number for each of `count` records.
fn open_beside(source: &Source, name: &str, count: u64) -> Result<Array, Failure> {
    let array = Array::open(&source.path, name)?;
    match *array.shape() {
        [records] | [records, 1] if records == count => Ok(array),
        ref shape => invalid(format!(
            "{}, array {name:?} has shape {shape:?}: one number for each of {count} records was \
             expected",
            source.path.display()
        )),
    }
}
