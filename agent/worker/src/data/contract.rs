//! One row of a table against the data contract: numbers within their range, words among the known
//! ones, and the declared repairs, each counted. Pure.

use std::collections::BTreeMap;

use consilium_common::study::{Column, ColumnKind, Data, Missing, Objective, Outside, Study};
use consilium_common::worker::Source;

use super::label::Label;

/// Why a row gives no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It breaks the contract: counted against the tolerance, and named.
    Unreadable(String),
    /// The contract has it left out.
    Dropped,
}

/// How often each declared repair was made, in words.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repairs(BTreeMap<String, u64>);

impl Repairs {
    pub(crate) fn note(&mut self, column: &str, repair: &str) {
        *self.0.entry(format!("column {column:?}: {repair}")).or_default() += 1;
    }

    /// A line each; `what` was repaired: rows, values.
    pub(crate) fn findings(&self, what: &str) -> impl Iterator<Item = String> {
        self.0.iter().map(move |(repair, count)| format!("{repair} in {count} {what}"))
    }
}

/// A field as the file has it: the text, and whether that stands for nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'a> {
    pub(crate) text: &'a str,
    pub(crate) missing: bool,
    /// The number that it is, if it is one.
    pub(crate) number: Option<f64>,
}

/// Appends the column's inputs: a number as the share of its range (NaN where it is to be imputed),
/// a word as 0s and one 1.
pub(crate) fn push_inputs(
    column: &Column,
    field: Field<'_>,
    inputs: &mut Vec<f32>,
    repairs: &mut Repairs,
) -> Result<(), Trouble> {
    let written = if field.missing { Written::Missing } else { read(column, field, repairs)? };
    match (written, column.kind()) {
        (Written::Share(share), _) => inputs.push(share),
        (Written::Word(at), ColumnKind::Category(values)) => {
            inputs.extend((0..values.len()).map(|i| if i == at { 1.0 } else { 0.0 }));
        }
        (Written::Word(_) | Written::Missing, kind) => match column.missing {
            Missing::Refuse => {
                let message = format!("column {:?} is empty", column.name);
                return Err(Trouble::Unreadable(message));
            }
            Missing::Drop => {
                repairs.note(&column.name, "missing, the row left out");
                return Err(Trouble::Dropped);
            }
            Missing::Impute => {
                repairs.note(&column.name, "missing, imputed");
                match kind {
                    ColumnKind::Number { .. } => inputs.push(f32::NAN),
                    ColumnKind::Category(values) => {
                        inputs.extend(std::iter::repeat_n(0.0, values.len()));
                    }
                }
            }
        },
    }
    Ok(())
}

enum Written {
    /// A number, as the share of its range.
    Share(f32),
    /// The word at this place.
    Word(usize),
    Missing,
}

fn read(column: &Column, field: Field<'_>, repairs: &mut Repairs) -> Result<Written, Trouble> {
    match column.kind() {
        ColumnKind::Category(values) => {
            let word = column.codes.get(field.text).map_or(field.text, String::as_str);
            match values.iter().position(|value| value == word) {
                Some(at) => Ok(Written::Word(at)),
                None => {
                    outside(column, "none of the study's words", repairs)?;
                    Ok(Written::Missing)
                }
            }
        }
        ColumnKind::Number { min, max } => {
            let Some(number) = field.number else {
                let message = format!("column {:?} holds no number", column.name);
                return Err(Trouble::Unreadable(message));
            };
            let share = share(column, (min, max), number, repairs)?;
            Ok(share.map_or(Written::Missing, Written::Share))
        }
    }
}

/// A number as the share of its column's range; `None` where it counts as missing.
pub(crate) fn share(
    column: &Column,
    (min, max): (f64, f64),
    number: f64,
    repairs: &mut Repairs,
) -> Result<Option<f32>, Trouble> {
    if !(min..=max).contains(&number) {
        if column.outside == Outside::Clip {
            repairs.note(&column.name, "outside its range, clipped");
            return Ok(Some(if number < min { 0.0 } else { 1.0 }));
        }
        outside(column, "outside the study's range", repairs)?;
        return Ok(None);
    }
    #[expect(clippy::cast_possible_truncation, reason = "a share of a range, 0 to 1")]
    let share = ((number - min) / (max - min)) as f32;
    Ok(Some(share))
}

/// What becomes of a value that the contract does not have; `Ok` where it counts as missing.
fn outside(column: &Column, what: &str, repairs: &mut Repairs) -> Result<(), Trouble> {
    match column.outside {
        Outside::Drop => {
            repairs.note(&column.name, &format!("{what}, the row left out"));
            Err(Trouble::Dropped)
        }
        Outside::Missing => {
            repairs.note(&column.name, &format!("{what}, taken as missing"));
            Ok(())
        }
        Outside::Refuse | Outside::Clip => {
            Err(Trouble::Unreadable(format!("column {:?} is {what}", column.name)))
        }
    }
}

/// How a file's labels are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Labelled<'a> {
    pub(crate) data: &'a Data,
    pub(crate) objective: Objective,
    pub(crate) classes: &'a [String],
    /// Between the labels of one record.
    pub(crate) separator: char,
}

impl<'a> Labelled<'a> {
    pub(crate) fn of(study: &'a Study, source: &Source) -> Self {
        Self {
            data: &study.data,
            objective: study.model.objective().unwrap_or_default(),
            classes: study.model.classes(),
            separator: source.format.label_separator,
        }
    }

    /// What the field teaches.
    pub(crate) fn read(&self, field: Field<'_>) -> Result<Label, Trouble> {
        let Self { data, objective, classes, separator } = *self;
        match objective {
            Objective::Classify => class(data, field, classes).map(Label::Class),
            Objective::Multilabel => set(data, field, classes, separator).map(Label::Set),
            Objective::Regress | Objective::Rank => target(data, field).map(Label::Number),
        }
    }
}

/// The class that the label names.
fn class(data: &Data, field: Field<'_>, classes: &[String]) -> Result<usize, Trouble> {
    if field.missing {
        return Err(Trouble::Unreadable(format!("the label {:?} is empty", data.label)));
    }
    let told = || Trouble::Unreadable(format!("the label {:?} is none of the classes", data.label));
    data.class_of(field.text, classes).ok_or_else(told)
}

/// The classes that the label names, several or none of them ([`Data::set_of`]).
fn set(data: &Data, field: Field<'_>, classes: &[String], separator: char) -> Result<u64, Trouble> {
    let told = |what: &str| Trouble::Unreadable(format!("the label {:?} {what}", data.label));
    // Nothing written is none of them; a marker of what is not known is not.
    if field.missing && !field.text.is_empty() {
        return Err(told("is not known"));
    }
    let set = data.set_of(field.text, separator, classes);
    set.ok_or_else(|| told("names what is none of the classes"))
}

/// The number that the label is.
fn target(data: &Data, field: Field<'_>) -> Result<f64, Trouble> {
    let told = || Trouble::Unreadable(format!("the label {:?} holds no number", data.label));
    field.number.filter(|_| !field.missing).ok_or_else(told)
}

#[cfg(test)]
mod tests {
    use consilium_common::worker::SourceKind;

    use super::*;

    fn column(toml: &str) -> Column {
        let text = format!(
            "[study]\nname = \"a\"\n[model]\nfamily = \"tabular\"\nclasses = [\"n\", \"y\"]\n\
             [data]\nkind = \"table\"\ncolumns = [{toml}]\n[aggregation]\nclip_norm = 1.0\n\
             [privacy]\nmode = \"inspectable\"\n"
        );
        let study = Study::read(&text, "a.toml").unwrap();
        study.data.columns[0].clone()
    }

    fn field(text: &str) -> Field<'_> {
        Field { text, missing: text.is_empty(), number: text.parse().ok() }
    }

    fn inputs(column: &Column, text: &str) -> Result<Vec<f32>, Trouble> {
        let (mut inputs, mut repairs) = (Vec::new(), Repairs::default());
        push_inputs(column, field(text), &mut inputs, &mut repairs).map(|()| inputs)
    }

    fn is_unreadable(outcome: Result<Vec<f32>, Trouble>, said: &str) -> bool {
        matches!(outcome, Err(Trouble::Unreadable(why)) if why.contains(said))
    }

    #[test]
    fn numbers_become_shares_of_their_range() {
        let age = column("{ name = \"age\", min = 20, max = 120 }");
        assert_eq!(inputs(&age, "70"), Ok(vec![0.5]));
        assert_eq!(inputs(&age, "20"), Ok(vec![0.0]));
        assert!(is_unreadable(inputs(&age, "7"), "outside"));
        assert!(is_unreadable(inputs(&age, "old"), "no number"));
        assert!(is_unreadable(inputs(&age, ""), "is empty"));
    }

    #[test]
    fn words_become_one_of_many_and_codes_are_translated() {
        let sex = column("{ name = \"sex\", values = [\"f\", \"m\"], codes = { \"2\" = \"f\" } }");
        assert_eq!(inputs(&sex, "m"), Ok(vec![0.0, 1.0]));
        assert_eq!(inputs(&sex, "2"), Ok(vec![1.0, 0.0]));
        assert!(is_unreadable(inputs(&sex, "1"), "none of the study's words"));
    }

    #[test]
    fn several_labels_are_read_in_any_order_and_nothing_is_none_of_them() {
        let text = "[study]\nname = \"a\"\n[model]\nfamily = \"tabular\"\n\
                    objective = \"multilabel\"\nclasses = [\"edema\", \"effusion\", \"mass\"]\n\
                    [data]\nkind = \"table\"\ncolumns = [{ name = \"x\", min = 0, max = 1 }]\n\
                    label_codes = { \"No Finding\" = \"\", \"3\" = \"mass\" }\n\
                    [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n";
        let study = Study::read(text, "a.toml").unwrap();
        let mut source = Source::new(SourceKind::Csv, "a.csv".into());
        let read = |source: &Source, text: &str| {
            let missing = ["", "NA"].contains(&text);
            match Labelled::of(&study, source).read(Field { text, missing, number: None }) {
                Ok(Label::Set(set)) => Ok(set),
                Ok(other) => panic!("{other:?}"),
                Err(Trouble::Unreadable(why)) => Err(why),
                Err(Trouble::Dropped) => Err("dropped".to_owned()),
            }
        };
        for (text, set) in [
            ("", 0),
            ("No Finding", 0),
            ("edema", 1),
            ("mass|edema", 5),
            (" effusion | effusion |", 2),
            ("3|effusion", 6),
        ] {
            assert_eq!(read(&source, text), Ok(set), "{text:?}");
        }
        for (text, said) in
            [("NA", "is not known"), ("edema|rash", "none of the classes"), ("edema;mass", "none")]
        {
            assert!(read(&source, text).unwrap_err().contains(said), "{text:?}");
        }
        source.format.label_separator = ';';
        assert_eq!(read(&source, "edema;mass"), Ok(5));
    }

    #[test]
    fn repairs_are_made_as_declared_and_counted() {
        let clip =
            column("{ name = \"x\", min = 0, max = 1, missing = \"drop\", outside = \"clip\" }");
        assert_eq!(inputs(&clip, "9"), Ok(vec![1.0]));
        assert_eq!(inputs(&clip, "-9"), Ok(vec![0.0]));
        assert_eq!(inputs(&clip, ""), Err(Trouble::Dropped));
        let words = column(
            "{ name = \"x\", values = [\"a\"], missing = \"impute\", outside = \"missing\" }",
        );
        let (mut row, mut repairs) = (Vec::new(), Repairs::default());
        push_inputs(&words, field("zebra"), &mut row, &mut repairs).unwrap();
        push_inputs(&words, field(""), &mut row, &mut repairs).unwrap();
        assert_eq!(row, [0.0, 0.0]);
        let said: Vec<String> = repairs.findings("rows").collect();
        assert_eq!(
            said,
            [
                "column \"x\": missing, imputed in 2 rows",
                "column \"x\": none of the study's words, taken as missing in 1 rows"
            ]
        );
    }
}
