//! `[evaluation] groups`: for whom a version is scored apart. The study alone says which groups there
//! are, so that every site has the same sums; which of them a site fills is the site's affair.
//!
//! An entry names a column and its groups: `"sex"` (a column of the contract with `values`),
//! `"sex:F,M"` (words), `"sex:F=0,M=1"` (words, and what files write for them) or `"age:18,40,65"` (where
//! to cut: below 18, 18 to below 40, 40 to below 65, from 65). A record whose value is none of these is
//! in no group of that column.

use std::collections::BTreeMap;

use super::check::{StudyError, range, word};
use super::{Column, ColumnKind, Data, ModelSpec, Study};
use crate::limits::{GROUPS_MAX, METRIC_NAMES_BYTES_MAX, NAME_BYTES_MAX, WORDS_MAX};
use crate::update::words::Schema;

const FIELD: &str = "evaluation.groups";

/// One entry of `[evaluation] groups`.
#[derive(Debug, Clone, PartialEq)]
pub struct Grouping {
    /// The study's name of the column, or of the array beside a series.
    pub column: String,
    values: Values,
}

#[derive(Debug, Clone, PartialEq)]
enum Values {
    Words {
        names: Vec<String>,
        /// What files write → one of `names`.
        codes: BTreeMap<String, String>,
    },
    /// Ascending.
    Cuts(Vec<f64>),
}

impl Grouping {
    /// Names of the groups, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        match &self.values {
            Values::Words { names, .. } => names.clone(),
            Values::Cuts(cuts) => {
                let first = cuts.first().map(|cut| format!("below {cut}"));
                let last = cuts.last().map(|cut| format!("from {cut}"));
                let between = cuts.windows(2).filter_map(|pair| match pair {
                    [low, high] => Some(format!("{low} to {high}")),
                    _ => None,
                });
                first.into_iter().chain(between).chain(last).collect()
            }
        }
    }

    /// Whether numbers decide, not words.
    #[must_use]
    pub fn is_by_number(&self) -> bool {
        matches!(self.values, Values::Cuts(_))
    }

    /// The group of a record with this value, if it is in one. `number` is the text as a number, if it
    /// is one.
    #[must_use]
    pub fn place_of(&self, text: &str, number: Option<f64>) -> Option<usize> {
        match &self.values {
            Values::Words { names, codes } => {
                let name = codes.get(text).map_or(text, String::as_str);
                names.iter().position(|known| known == name)
            }
            Values::Cuts(cuts) => {
                let number = number.filter(|number| !number.is_nan())?;
                Some(cuts.iter().filter(|cut| **cut <= number).count())
            }
        }
    }

    fn parse(entry: &str, data: &Data) -> Result<Self, StudyError> {
        let refuse = |need: &str| range(FIELD, word(&entry), need);
        let declared = |name: &str| data.columns.iter().find(|column| column.name == name);
        let Some((column, list)) = entry.rsplit_once(':').filter(|_| declared(entry).is_none())
        else {
            let words = declared(entry).map(|column| (column.kind(), &column.codes));
            return match words {
                Some((ColumnKind::Category(names), codes)) => {
                    let values = Values::Words { names: names.to_vec(), codes: codes.clone() };
                    Ok(Self { column: entry.to_owned(), values })
                }
                Some((ColumnKind::Number { .. }, _)) => {
                    refuse("a number: say where to cut, as in \"age:18,40,65\"")
                }
                None => refuse(
                    "no column of the contract with `values`: list them, as in \"sex:F,M\" or \
                     \"age:18,40,65\"",
                ),
            };
        };
        let column = column.trim();
        let items: Vec<&str> = list.split(',').map(str::trim).collect();
        let cuts: Option<Vec<f64>> = items
            .iter()
            .map(|item| item.parse().ok().filter(|cut: &f64| cut.is_finite()))
            .collect();
        let kind = declared(column).map(Column::kind);
        let values = match (cuts, kind) {
            (Some(_), Some(ColumnKind::Category(_))) => {
                return refuse("a column of words is not cut by numbers");
            }
            (Some(cuts), _) if cuts.is_sorted_by(|a, b| a < b) => Values::Cuts(cuts),
            (Some(_), _) => return refuse("numbers to cut at must ascend"),
            (None, Some(ColumnKind::Number { .. })) => {
                return refuse("a number: say where to cut, as in \"age:18,40,65\"");
            }
            (None, _) => Self::words(&items),
        };
        if let (Values::Words { names, .. }, Some(ColumnKind::Category(known))) = (&values, kind)
            && names.iter().any(|name| !known.contains(name))
        {
            return refuse("the column of the contract has no such value");
        }
        let values = values.with_codes_of(declared(column));
        Ok(Self { column: column.to_owned(), values })
    }

    fn words(items: &[&str]) -> Values {
        let mut codes = BTreeMap::new();
        let mut names = Vec::new();
        for item in items {
            let name = match item.split_once('=') {
                Some((name, code)) => {
                    codes.insert(code.trim().to_owned(), name.trim().to_owned());
                    name.trim()
                }
                None => *item,
            };
            names.push(name.to_owned());
        }
        Values::Words { names, codes }
    }

    fn check(&self, entry: &str) -> Result<(), StudyError> {
        let refuse = |need: &str| range(FIELD, word(&entry), need);
        let names = self.names();
        let fits = |name: &String| (1..=NAME_BYTES_MAX).contains(&name.len());
        if !fits(&self.column) || !names.iter().all(fits) {
            return refuse("a column and its groups have names of 1 to 63 bytes");
        }
        let mut sorted = names;
        sorted.sort();
        if sorted.windows(2).any(|pair| pair.first() == pair.last()) {
            return refuse("a group stands there twice");
        }
        Ok(())
    }
}

impl Values {
    /// With the codes that the contract has for a column of words.
    fn with_codes_of(self, column: Option<&Column>) -> Self {
        match (self, column) {
            (Self::Words { names, mut codes }, Some(column)) => {
                for (code, name) in &column.codes {
                    codes.entry(code.clone()).or_insert_with(|| name.clone());
                }
                Self::Words { names, codes }
            }
            (values, _) => values,
        }
    }
}

impl Study {
    /// The columns by whose groups versions are scored apart; those of a study that was read are sound.
    #[must_use]
    pub fn groupings(&self) -> Vec<Grouping> {
        let entries = self.evaluation.groups.iter();
        entries.filter_map(|entry| Grouping::parse(entry, &self.data).ok()).collect()
    }

    /// Groups that can be read.
    pub(super) fn check_groups(&self) -> Result<(), StudyError> {
        let entries = &self.evaluation.groups;
        if entries.is_empty() {
            return Ok(());
        }
        if let ModelSpec::Synthetic(_) = self.model {
            let need = "the synthetic trainer reads no records: leave it out";
            return range(FIELD, "given", need);
        }
        let mut columns: Vec<String> = Vec::new();
        let mut groups = 0;
        for entry in entries {
            let grouping = Grouping::parse(entry, &self.data)?;
            grouping.check(entry)?;
            if columns.contains(&grouping.column) {
                return range(FIELD, word(entry), "a column stands there twice");
            }
            groups += grouping.names().len();
            columns.push(grouping.column);
        }
        if groups > GROUPS_MAX {
            let need = format!("at most {GROUPS_MAX} groups together are accepted");
            return range(FIELD, groups, &need);
        }
        Ok(())
    }

    /// Sums that fit an update and a roll call.
    pub(super) fn check_sums(&self) -> Result<(), StudyError> {
        let schema = Schema::of(self);
        let bytes: usize = schema.names().iter().map(|name| name.len() + SUM_TEXT_BYTES).sum();
        if schema.words_len() <= WORDS_MAX && bytes <= METRIC_NAMES_BYTES_MAX {
            return Ok(());
        }
        let groups = schema.groups().len();
        if groups == 0 {
            let have = format!("{} with `metric = \"auc\"`", schema.classes());
            let need =
                "a roll call does not hold so many histograms: take fewer, or another metric";
            return range("model.classes", have, need);
        }
        let have = format!("{groups} groups of {} sums each", schema.sums_each());
        range(FIELD, have, "take fewer groups or classes, or another metric than auc")
    }
}

/// What a sum takes in a roll call beside its name: quotes, colon, comma and the digits of 2^40.
const SUM_TEXT_BYTES: usize = 17;

#[cfg(test)]
mod tests {
    use super::*;

    fn study(groups: &str) -> Result<Study, StudyError> {
        with("metric = \"accuracy\"", groups)
    }

    fn with(metric: &str, groups: &str) -> Result<Study, StudyError> {
        let text = format!(
            "[study]\nname = \"a\"\n[model]\nfamily = \"tabular\"\nclasses = [\"n\", \"y\"]\n\
             [data]\nkind = \"table\"\ncolumns = [{{ name = \"age\", min = 0, max = 120 }}, \
             {{ name = \"sex\", values = [\"F\", \"M\"], codes = {{ \"2\" = \"F\" }} }}]\n\
             [evaluation]\n{metric}\ngroups = {groups}\n\
             [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n"
        );
        Study::read(&text, "a.toml")
    }

    fn grouping(entry: &str) -> Grouping {
        study(&format!("[\"{entry}\"]")).unwrap().groupings().remove(0)
    }

    #[test]
    fn a_column_of_words_has_its_own_groups_and_its_own_codes() {
        let sex = grouping("sex");
        assert_eq!(sex.names(), ["F", "M"]);
        let of = |text: &str| sex.place_of(text, text.parse().ok());
        assert_eq!(["F", "M", "2", "x", ""].map(of), [Some(0), Some(1), Some(0), None, None]);
        // Some of them, with the same codes.
        let women = grouping("sex:F");
        assert_eq!((women.names().len(), women.place_of("2", None)), (1, Some(0)));
    }

    #[test]
    fn words_of_any_other_column_are_listed_with_what_files_write() {
        let ward = grouping("ward: icu = 1, other = 2");
        assert_eq!(
            (ward.column.as_str(), ward.names()),
            ("ward", vec!["icu".into(), "other".into()])
        );
        assert_eq!(
            ["1", "2", "icu", "3"].map(|text| ward.place_of(text, None)),
            [Some(0), Some(1), Some(0), None]
        );
    }

    #[test]
    fn numbers_are_cut_with_the_lower_end_in() {
        let age = grouping("age:18,40.5");
        assert_eq!(age.names(), ["below 18", "18 to 40.5", "from 40.5"]);
        let of = |number: f64| age.place_of("", Some(number));
        assert_eq!([17.9, 18.0, 40.4, 40.5, 1e9].map(of), [0, 1, 1, 2, 2].map(Some));
        assert_eq!((of(f64::NAN), age.place_of("old", None)), (None, None));
    }

    #[test]
    fn groups_that_cannot_be_are_refused_with_what_to_write() {
        for (groups, said) in [
            ("[\"age\"]", "where to cut"),
            ("[\"age:old,young\"]", "where to cut"),
            ("[\"ward\"]", "list them"),
            ("[\"age:40,18\"]", "ascend"),
            ("[\"age:40,40\"]", "ascend"),
            ("[\"sex:1,2\"]", "not cut by numbers"),
            ("[\"sex:F,X\"]", "no such value"),
            ("[\"ward:a,a\"]", "twice"),
            ("[\"ward:a,\"]", "1 to 63 bytes"),
            ("[\":a\"]", "1 to 63 bytes"),
            ("[\"sex\", \"sex:F\"]", "twice"),
            ("[\"a\\u202eb:c\"]", "direction"),
        ] {
            let error = study(groups).unwrap_err().to_string();
            assert!(error.contains(said), "{groups}: {error}");
        }
        let many: Vec<String> = (0..=GROUPS_MAX).map(|group| group.to_string()).collect();
        let error = study(&format!("[\"ward:w,{}\"]", many.join(",w"))).unwrap_err().to_string();
        assert!(error.contains("at most"), "{error}");
        let (metric, groups) = ("metric = \"auc\"", many[..GROUPS_MAX - 1].join(","));
        let error = with(metric, &format!("[\"age:{groups}\"]")).unwrap_err().to_string();
        assert!(error.contains("fewer groups"), "{error}");
        assert!(with(metric, "[\"sex\", \"age:18,40,65\"]").is_ok());
    }
}
