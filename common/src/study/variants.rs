//! Variations of a study, to be tried against one another: every combination of the values that a
//! person names for some fields.
//!
//! A field with its values is written `training.learning_rate=1e-3,3e-3` or, for several, as a TOML
//! file in the study's own shape with an array of values in place of each value.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{Study, StudyError};
use crate::config::{self, ConfigError};
use crate::limits::VARIANTS_MAX;

/// Sections whose fields may vary: what a study is called, who takes part and how it is measured is
/// the same for all that are compared.
const SECTIONS: [&str; 4] = ["model", "data", "training", "aggregation"];

/// Why there are no variants.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum VariantError {
    /// Not a field with values.
    #[error(
        "{0:?} is no field with values: write `training.learning_rate=1e-3,3e-3`, or name a file"
    )]
    Axis(String),
    /// No TOML.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A field of a file that has no values.
    #[error("`{0}` needs an array of the values to try")]
    Values(String),
    /// A field that is the same for all.
    #[error("`{0}` cannot vary: name fields of [model], [data], [training] or [aggregation]")]
    Field(String),
    /// A field that stands there twice.
    #[error("`{0}` stands there twice")]
    Twice(String),
    /// A path through something that is no section.
    #[error("`{0}` is no field of this study: a part of it is a value, not a section")]
    Path(String),
    /// More than anybody waits for.
    #[error("these are {0} combinations, at most {VARIANTS_MAX} are tried")]
    TooMany(usize),
    /// A combination that is no study.
    #[error("with {values}: {source}")]
    Study {
        /// The combination.
        values: String,
        /// What is wrong.
        source: StudyError,
    },
}

/// Fields with the values to try.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Axes(BTreeMap<String, Vec<Value>>);

/// One combination.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    /// The fields that vary with their values, as TOML writes them.
    pub values: BTreeMap<String, String>,
    /// The study with these values, resolved.
    pub study: Study,
}

impl Axes {
    /// Takes one field: `training.optimizer=adam,sgd`. Words need no quotes.
    ///
    /// # Errors
    /// See [`VariantError`].
    pub fn add(&mut self, text: &str) -> Result<(), VariantError> {
        let wrong = || VariantError::Axis(text.to_owned());
        let (field, values) = text.split_once('=').ok_or_else(wrong)?;
        let array = config::parse::<Table>(&format!("x = [{values}]"), text).ok();
        let array = array.and_then(|mut table| table.remove("x"));
        let values = match array {
            Some(Value::Array(values)) => values,
            _ => values.split(',').map(|word| Value::String(word.trim().to_owned())).collect(),
        };
        if values.is_empty() || values.contains(&Value::String(String::new())) {
            return Err(wrong());
        }
        self.insert(field.trim().to_owned(), values)
    }

    /// Takes all fields of a file's text.
    ///
    /// # Errors
    /// See [`VariantError`].
    pub fn add_file(&mut self, text: &str, origin: &str) -> Result<(), VariantError> {
        self.add_table("", config::parse(text, origin)?)
    }

    fn add_table(&mut self, path: &str, table: Table) -> Result<(), VariantError> {
        for (name, value) in table {
            let field = if path.is_empty() { name } else { format!("{path}.{name}") };
            match value {
                Value::Table(table) => self.add_table(&field, table)?,
                Value::Array(values) if !values.is_empty() => self.insert(field, values)?,
                Value::Array(_)
                | Value::String(_)
                | Value::Integer(_)
                | Value::Float(_)
                | Value::Boolean(_)
                | Value::Datetime(_) => return Err(VariantError::Values(field)),
            }
        }
        Ok(())
    }

    fn insert(&mut self, field: String, values: Vec<Value>) -> Result<(), VariantError> {
        let section = field.split_once('.').map(|(section, _)| section);
        if !section.is_some_and(|section| SECTIONS.contains(&section)) {
            return Err(VariantError::Field(field));
        }
        match self.0.contains_key(&field) {
            true => Err(VariantError::Twice(field)),
            false => {
                self.0.insert(field, values);
                Ok(())
            }
        }
    }

    /// Leaves the fields that `is_wanted` names.
    pub fn keep(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.0.retain(|field, _| is_wanted(field));
    }

    /// The fields, sorted.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Every combination over a study's text, draft or resolved; the last field varies fastest.
    ///
    /// # Errors
    /// See [`VariantError`].
    pub fn variants(&self, study: &str, origin: &str) -> Result<Vec<Variant>, VariantError> {
        let all = self.0.values().fold(1_usize, |all, values| all.saturating_mul(values.len()));
        if all > VARIANTS_MAX {
            return Err(VariantError::TooMany(all));
        }
        let mut base: Table = config::parse(study, origin)?;
        // Each combination has a v0 of its own.
        base.remove("initial");
        (0..all).map(|number| self.variant(&base, number, origin)).collect()
    }

    fn variant(&self, base: &Table, number: usize, origin: &str) -> Result<Variant, VariantError> {
        let (mut table, mut values, mut rest) = (base.clone(), BTreeMap::new(), number);
        for (field, all) in self.0.iter().rev() {
            let Some(value) = all.get(rest.checked_rem(all.len()).unwrap_or(0)) else {
                return Err(VariantError::Values(field.clone()));
            };
            rest = rest.checked_div(all.len()).unwrap_or(0);
            set(&mut table, field, value.clone())?;
            values.insert(field.clone(), value.to_string());
        }
        let write = |error: toml::ser::Error| StudyError::Write(error.to_string());
        let study = toml::to_string(&table)
            .map_err(write)
            .and_then(|text| Study::read(&text, origin))
            .and_then(Study::resolve);
        match study {
            Ok(study) => Ok(Variant { values, study }),
            Err(source) => {
                let pairs = values.iter().map(|(field, value)| format!("{field} = {value}"));
                Err(VariantError::Study { values: pairs.collect::<Vec<_>>().join(", "), source })
            }
        }
    }
}

/// Puts a value where a dotted path leads.
fn set(table: &mut Table, path: &str, value: Value) -> Result<(), VariantError> {
    let mut at = table;
    let mut rest = path;
    while let Some((section, deeper)) = rest.split_once('.') {
        let next = at.entry(section).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(next) = next else {
            return Err(VariantError::Path(path.to_owned()));
        };
        (at, rest) = (next, deeper);
    }
    at.insert(rest.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::training::Optimizer;

    const STUDY: &str = "[study]\nname = \"x\"\n[model]\nfamily = \"synthetic\"\nparameters = 4\n\
                         [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n";

    fn axes(texts: &[&str]) -> Result<Axes, VariantError> {
        let mut axes = Axes::default();
        texts.iter().try_for_each(|text| axes.add(text)).map(|()| axes)
    }

    #[test]
    fn every_combination_is_a_study_of_its_own() {
        let axes = axes(&["training.learning_rate=1e-3, 0.01,1", "training.optimizer=adam,sgd"]);
        let variants = axes.unwrap().variants(STUDY, "x.toml").unwrap();
        let have: Vec<_> = variants
            .iter()
            .map(|one| (one.study.training.learning_rate, one.study.training.optimizer))
            .collect();
        let rates = [1e-3, 0.01, 1.0];
        let both = [Optimizer::Adam, Optimizer::Sgd];
        let need: Vec<_> =
            rates.iter().flat_map(|rate| both.iter().map(move |o| (*rate, *o))).collect();
        assert_eq!(have, need);
        assert_eq!(variants[3].values["training.learning_rate"], "0.01");
        assert_eq!(variants[3].values["training.optimizer"], "\"sgd\"");
        assert!(variants.iter().all(|one| one.study.initial.is_some()));
    }

    #[test]
    fn a_file_has_the_studys_shape_and_a_signed_study_varies_too() {
        let mut axes = Axes::default();
        axes.add_file("[training]\nbatch_size = [8, 16]\n[model]\nparameters = [3]\n", "g")
            .unwrap();
        let signed = Study::read(STUDY, "x").unwrap().resolve().unwrap();
        let variants = axes.variants(&signed.to_text().unwrap(), "x").unwrap();
        assert_eq!(axes.fields().collect::<Vec<_>>(), ["model.parameters", "training.batch_size"]);
        let sizes: Vec<_> = variants.iter().map(|one| one.study.training.batch_size).collect();
        assert_eq!(sizes, [8, 16]);
        assert_ne!(variants[0].study.initial, signed.initial, "another model, another v0");
    }

    #[test]
    fn each_mistake_has_its_own_words() {
        assert_eq!(axes(&["learning_rate"]), Err(VariantError::Axis("learning_rate".into())));
        assert!(matches!(axes(&["training.rounds="]), Err(VariantError::Axis(_))));
        let metric = axes(&["evaluation.metric=auc"]).unwrap_err();
        assert_eq!(metric, VariantError::Field("evaluation.metric".into()));
        let twice = axes(&["training.rounds=1", "training.rounds=2"]).unwrap_err();
        assert_eq!(twice, VariantError::Twice("training.rounds".into()));
        let mut file = Axes::default();
        let single = file.add_file("[training]\nrounds = 3\n", "g").unwrap_err();
        assert_eq!(single, VariantError::Values("training.rounds".into()));
        let of = |text: &str| axes(&[text]).unwrap().variants(STUDY, "x").unwrap_err();
        assert_eq!(of("model.family.x=1"), VariantError::Path("model.family.x".into()));
        let many = format!("training.rounds={}", vec!["1"; VARIANTS_MAX + 1].join(","));
        assert_eq!(of(&many), VariantError::TooMany(VARIANTS_MAX + 1));
        let typo = of("training.learning_rat=1").to_string();
        assert!(typo.starts_with("with training.learning_rat = 1: "), "{typo}");
        assert!(typo.contains("did you mean `learning_rate`?"), "{typo}");
        let value = of("training.batch_size=0").to_string();
        assert!(value.contains("`training.batch_size` is 0"), "{value}");
    }
}
