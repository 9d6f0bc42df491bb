//! `[data]`: the data contract, what a site must be able to provide, and the repairs that it may
//! make on the way. Names are the study's own; a site says in agent.toml what its files call them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::check::{StudyError, range, word};
use super::{ModelSpec, Objective};
use crate::limits::{CATEGORIES_MAX, COLUMNS_MAX, NAME_BYTES_MAX, SITES_MAX};

/// [`Data::min_site_support`] where a study says nothing: no word and no item is one site's alone.
const SITE_SUPPORT: u32 = 2;

/// `[data]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// Kind of records.
    pub kind: DataKind,
    /// How inputs are scaled.
    pub normalize: Normalize,
    /// A site with fewer training records declines.
    pub min_examples: u64,
    /// The column (or array) with the label or the number to predict.
    pub label: String,
    /// `text`: the column with the document; "text".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// `text`, `ratings`: a word (an item) has a row of its own only if so many sites have it, or all
    /// where there are fewer; 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_site_support: Option<u32>,
    /// `text`: what becomes of a document that stands in the table before, word for word; kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeats: Option<Repeats>,
    /// What files write for a class → the class, where that differs; with `objective = "multilabel"`
    /// also → "", for what stands for none of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub label_codes: BTreeMap<String, String>,
    /// Names the patient: their records stay on one side of a hold-out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patient: Option<String>,
    /// The share of a site's records that may be unreadable; they are left out. 0 to below 1.
    pub tolerance: f64,
    /// `table`: the inputs, in order. `series`: the variables, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<Column>,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            kind: DataKind::Images,
            normalize: Normalize::Unit,
            min_examples: 1,
            label: "label".to_owned(),
            text: None,
            min_site_support: None,
            repeats: None,
            label_codes: BTreeMap::new(),
            patient: None,
            tolerance: 0.0,
            columns: Vec::new(),
        }
    }
}

/// Kind of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataKind {
    /// Pictures with a label.
    Images,
    /// Irregular time series.
    Series,
    /// Documents.
    Text,
    /// User, item, rating.
    Ratings,
    /// Rows of named columns.
    Table,
}

/// How inputs are scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Normalize {
    /// By what the contract says alone: bytes ÷ 255, numbers from `min`–`max` to 0–1.
    Unit,
    /// To mean 0 and variance 1, by constants that the sites compute together before round 1.
    Federated,
}

/// One input: a number within a range, or one of a few words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// Its name in the study.
    pub name: String,
    /// The smallest number that makes sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The largest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// The words, instead of a range: one input each, 1 for the record's word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// What files write → one of `values`, where that differs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub codes: BTreeMap<String, String>,
    /// What becomes of a record without this value.
    #[serde(default)]
    pub missing: Missing,
    /// What becomes of a record whose value is outside the range, or none of the words.
    #[serde(default)]
    pub outside: Outside,
}

/// What becomes of a record that lacks a value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Missing {
    /// It counts as unreadable.
    #[default]
    Refuse,
    /// It is left out, which is counted and shown.
    Drop,
    /// The mean is taken (numbers, with `normalize = "federated"`), or no word (all inputs 0).
    Impute,
}

/// What becomes of a record with a value that the contract does not have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outside {
    /// It counts as unreadable.
    #[default]
    Refuse,
    /// It is left out, which is counted and shown.
    Drop,
    /// The nearest number of the range is taken.
    Clip,
    /// The value counts as missing.
    Missing,
}

/// What becomes of a document that repeats another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Repeats {
    /// Nothing.
    Keep,
    /// It is left out, which is counted and shown.
    Drop,
}

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ColumnKind<'a> {
    /// A number within a range, ends included.
    Number {
        /// Smallest.
        min: f64,
        /// Largest, above `min`.
        max: f64,
    },
    /// One of these words.
    Category(&'a [String]),
}

impl Column {
    /// What it holds. A column that was checked has a range or words, never both.
    #[must_use]
    pub fn kind(&self) -> ColumnKind<'_> {
        match (self.min, self.max) {
            (Some(min), Some(max)) => ColumnKind::Number { min, max },
            _ => ColumnKind::Category(&self.values),
        }
    }

    /// How many inputs it makes.
    #[must_use]
    pub fn width(&self) -> usize {
        match self.kind() {
            ColumnKind::Number { .. } => 1,
            ColumnKind::Category(values) => values.len(),
        }
    }

    fn check(&self, normalize: Normalize) -> Result<(), StudyError> {
        let refuse = |need: &str| {
            let need = format!("column {:?}: {need}", self.name);
            range("data.columns", "not one that can be read", &need)
        };
        let finite = |bound: Option<f64>| bound.is_none_or(f64::is_finite);
        let has_range = self.min.is_some() && self.max.is_some();
        if !(1..=NAME_BYTES_MAX).contains(&self.name.len()) {
            return refuse("a name of 1 to 63 bytes is needed");
        }
        if !finite(self.min) || !finite(self.max) || (has_range && self.min >= self.max) {
            return refuse("`min` must be below `max`, both finite");
        }
        let has_half = self.min.is_some() != self.max.is_some();
        if has_half || has_range != self.values.is_empty() {
            return refuse("give it `min` and `max` (a number) or `values` (words), not both");
        }
        if self.values.len() > CATEGORIES_MAX || has_repeats(&self.values) {
            return refuse("its values are too many, or one stands there twice");
        }
        if self.codes.values().any(|value| !self.values.contains(value)) {
            return refuse("`codes` map what files write to one of `values`");
        }
        if has_range && self.missing == Missing::Impute && normalize != Normalize::Federated {
            return refuse("`missing = \"impute\"` takes the mean of `normalize = \"federated\"`");
        }
        if !has_range && self.outside == Outside::Clip {
            return refuse("`outside = \"clip\"` is for numbers");
        }
        Ok(())
    }
}

impl Data {
    /// Inputs that the columns make.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.columns.iter().map(Column::width).sum()
    }

    /// Sites that must have a word, or an item, before it has a row of its own.
    #[must_use]
    pub fn site_support(&self) -> u32 {
        self.min_site_support.unwrap_or(SITE_SUPPORT)
    }

    /// Fills in what this kind of records has and a person left out.
    pub(super) fn fill(&mut self) {
        if matches!(self.kind, DataKind::Text | DataKind::Ratings) {
            self.min_site_support.get_or_insert(SITE_SUPPORT);
        }
        if self.kind == DataKind::Text {
            self.text.get_or_insert_with(|| "text".to_owned());
            self.repeats.get_or_insert(Repeats::Keep);
        }
    }

    /// What files may write for the class at `index` of `classes` is told apart by this.
    #[must_use]
    pub fn class_of(&self, written: &str, classes: &[String]) -> Option<usize> {
        let class = self.label_codes.get(written).map_or(written, String::as_str);
        classes.iter().position(|known| known == class)
    }

    /// Which of `classes` a record has whose labels are written one after another, `separator` between
    /// them: bit k for the class at k. Nothing, and a code for nothing, is none of them; `None` where
    /// a word is neither that nor a class.
    #[must_use]
    pub fn set_of(&self, written: &str, separator: char, classes: &[String]) -> Option<u64> {
        let words = written.split(separator).map(str::trim);
        let is_none =
            |word: &str| self.label_codes.get(word).map_or(word, String::as_str).is_empty();
        let mut known =
            words.filter(|word| !is_none(word)).map(|word| self.class_of(word, classes));
        known.try_fold(0, |set, class| Some(set | 1_u64.checked_shl(u32::try_from(class?).ok()?)?))
    }

    /// The columns that hold numbers, in order, each with the place of its input.
    pub fn numbers(&self) -> impl Iterator<Item = (usize, &Column)> {
        let mut next = 0;
        let placed = self.columns.iter().map(move |column| {
            let place = next;
            next += column.width();
            (place, column)
        });
        placed.filter(|(_, column)| matches!(column.kind(), ColumnKind::Number { .. }))
    }

    /// What decides which of a site's records are trained on and what their inputs are, line by line:
    /// what `Study::preparation_terms` is the digest of. Whether a site takes part at all
    /// (`min_examples`, `tolerance`) is not in it.
    pub(super) fn describe(&self) -> String {
        let mut lines = vec![format!("label {}", word(&self.label))];
        lines.extend(self.patient.iter().map(|patient| format!("patient {}", word(patient))));
        let code =
            |(code, means): (&String, &String)| format!("code {} {}", word(code), word(means));
        lines.extend(self.label_codes.iter().map(code));
        for column in &self.columns {
            let (name, missing, outside) = (word(&column.name), column.missing, column.outside);
            let repairs = format!("missing {} outside {}", word(&missing), word(&outside));
            match column.kind() {
                ColumnKind::Number { min, max } => {
                    lines.push(format!("number {name} from {min} to {max} {repairs}"));
                }
                ColumnKind::Category(values) => {
                    lines.push(format!("words {name} {repairs}"));
                    lines.extend(values.iter().map(|value| format!("word {}", word(value))));
                    lines.extend(column.codes.iter().map(code));
                }
            }
        }
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// Texts of the contract, with their fields: what a person reads on a terminal.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let columns = self.columns.iter().flat_map(|column| {
            let codes = column.codes.iter().flat_map(|(code, value)| [code, value]);
            std::iter::once(&column.name).chain(&column.values).chain(codes)
        });
        let codes = self.label_codes.iter().flat_map(|(code, class)| [code, class]);
        let own = std::iter::once(&self.label).chain(&self.patient).chain(&self.text).chain(codes);
        own.map(|text| ("data.label", text)).chain(columns.map(|text| ("data.columns", text)))
    }

    pub(super) fn check(&self, model: &ModelSpec) -> Result<(), StudyError> {
        if !(0.0..1.0).contains(&self.tolerance) {
            return range("data.tolerance", self.tolerance, "0 to below 1 is accepted");
        }
        self.check_ratings()?;
        if self.columns.len() > COLUMNS_MAX {
            let need = format!("at most {COLUMNS_MAX} are accepted");
            return range("data.columns", self.columns.len(), &need);
        }
        let names: Vec<String> = self.columns.iter().map(|column| column.name.clone()).collect();
        if has_repeats(&names) || names.contains(&self.label) {
            return range("data.columns", "a list", "a name stands there twice, or is the label's");
        }
        self.check_text()?;
        self.check_support()?;
        let may_be_none = model.objective() == Some(Objective::Multilabel);
        let is_known =
            |class: &String| model.classes().contains(class) || (may_be_none && class.is_empty());
        if !self.label_codes.values().all(is_known) {
            let need = "it maps what files write to one of `model.classes`, or of several labels at \
                        once to \"\" for none of them";
            return range("data.label_codes", "a table", need);
        }
        self.columns.iter().try_for_each(|column| column.check(self.normalize))
    }

    /// Documents have their own fields, and only they.
    fn check_text(&self) -> Result<(), StudyError> {
        let is_text = self.kind == DataKind::Text;
        for (field, is_there, of_text) in [
            ("data.text", self.text.is_some(), true),
            ("data.repeats", self.repeats.is_some(), true),
            ("data.columns", !self.columns.is_empty(), false),
        ] {
            if is_there && of_text != is_text {
                return range(field, "given", "this `data.kind` has none: leave it out");
            }
        }
        if self.text.as_ref().is_some_and(|text| *text == self.label || text.is_empty()) {
            return range("data.text", "no column of its own", "name the one with the document");
        }
        Ok(())
    }

    fn check_ratings(&self) -> Result<(), StudyError> {
        if self.kind == DataKind::Ratings && self.label != Self::default().label {
            let need = "ratings have none beside `user`, `item` and `rating`: leave it out";
            return range("data.label", &self.label, need);
        }
        Ok(())
    }

    /// Words and items are what sites support.
    fn check_support(&self) -> Result<(), StudyError> {
        let is_counted = matches!(self.kind, DataKind::Text | DataKind::Ratings);
        let sites = 1..=u32::try_from(SITES_MAX).unwrap_or(u32::MAX);
        match self.min_site_support {
            Some(_) if !is_counted => {
                range("data.min_site_support", "given", "this `data.kind` has none: leave it out")
            }
            Some(have) if !sites.contains(&have) => {
                let need = format!("1 to {SITES_MAX} is accepted");
                range("data.min_site_support", have, &need)
            }
            _ => Ok(()),
        }
    }
}

fn has_repeats(words: &[String]) -> bool {
    let mut sorted: Vec<&String> = words.iter().collect();
    sorted.sort();
    sorted.windows(2).any(|pair| pair.first() == pair.last())
}
