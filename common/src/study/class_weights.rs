//! `training.class_weights`: how much a record of each class counts in the loss that sites train on. The
//! loss of a batch is Σ w(class of i) · loss(i) ÷ records, so that the sites' losses, weighed by their
//! records, add up to the weighted loss over all records. Scores are not weighted.
//!
//! With `objective = "multilabel"` a weight is that of a class's own records in its binary cross-entropy,
//! those of the others weighing 1.

use serde::{Deserialize, Serialize};

use super::check::{StudyError, range};
use super::{ModelSpec, Objective};

/// A weight for each class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "toml::Value", into = "toml::Value")]
pub enum ClassWeights {
    /// Every class counts as much as any other, over the training records of all sites, which they
    /// count together before the first round: records ÷ (classes · records of the class)
    /// (King & Zeng 2001, section 4.2, for classes that are to be alike). With `multilabel` the records
    /// of a class weigh together as much as the others: others ÷ records of the class.
    Balanced,
    /// These, in the order of the classes.
    Given(Vec<f64>),
}

const WEIGHT_MAX: f64 = 1e6;

impl TryFrom<toml::Value> for ClassWeights {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        if value.as_str() == Some("balanced") {
            return Ok(Self::Balanced);
        }
        let told = |_| "`class_weights` is \"balanced\" or a list of numbers".to_owned();
        value.try_into().map(Self::Given).map_err(told)
    }
}

impl From<ClassWeights> for toml::Value {
    fn from(weights: ClassWeights) -> Self {
        match weights {
            ClassWeights::Balanced => "balanced".into(),
            ClassWeights::Given(weights) => weights.into(),
        }
    }
}

impl ClassWeights {
    pub(super) fn check(&self, model: &ModelSpec) -> Result<(), StudyError> {
        const FIELD: &str = "training.class_weights";
        if !model.objective().is_some_and(Objective::has_classes) {
            return range(FIELD, "given", "this model tells no classes apart: leave it out");
        }
        let Self::Given(weights) = self else { return Ok(()) };
        let (have, need) = (weights.len(), model.classes().len());
        if have != need {
            return range(
                FIELD,
                format!("{have} numbers"),
                &format!("the model has {need} classes"),
            );
        }
        match weights.iter().find(|weight| !(**weight > 0.0 && **weight <= WEIGHT_MAX)) {
            Some(weight) => range(FIELD, weight, "numbers above 0, up to 1e6, are accepted"),
            None => Ok(()),
        }
    }

    /// One weight a class of this objective. `counts`: the training records of each class over all sites
    /// and, of `multilabel`, then all of them, for [`ClassWeights::Balanced`]. `None` if the counts cannot
    /// come from counting.
    #[must_use]
    pub fn of(&self, objective: Objective, counts: &[i64]) -> Option<Vec<f64>> {
        match objective {
            Objective::Multilabel => self.of_labels(counts),
            Objective::Classify | Objective::Regress | Objective::Rank => self.of_classes(counts),
        }
    }

    /// A class that no site has, or that every record has, weighs 1: nothing outweighs anything.
    #[expect(clippy::cast_precision_loss, reason = "counts are below 2^53")]
    fn of_labels(&self, counts: &[i64]) -> Option<Vec<f64>> {
        let Self::Given(weights) = self else {
            let (all, of) = counts.split_last()?;
            let weight = |of: &i64| match (*of, all.checked_sub(*of)?) {
                (of, others) if of < 0 || others < 0 => None,
                (0, _) | (_, 0) => Some(1.0),
                (of, others) => Some(others as f64 / of as f64),
            };
            return of.iter().map(weight).collect();
        };
        Some(weights.clone())
    }

    /// A class that no site has weighs 0, and is none of the classes that are to be alike.
    #[expect(clippy::cast_precision_loss, reason = "counts are below 2^53")]
    fn of_classes(&self, counts: &[i64]) -> Option<Vec<f64>> {
        let Self::Given(weights) = self else {
            let counts: Option<Vec<u64>> =
                counts.iter().map(|count| u64::try_from(*count).ok()).collect();
            let counts = counts?;
            let all: u64 = counts.iter().sum();
            let classes = counts.iter().filter(|count| **count > 0).count().max(1);
            let share = all as f64 / classes as f64;
            let weight = |count: u64| if count == 0 { 0.0 } else { share / count as f64 };
            return Some(counts.into_iter().map(weight).collect());
        };
        Some(weights.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::Study;

    fn study(model: &str, training: &str) -> Result<Study, String> {
        let text = format!(
            "[study]\nname = \"ward\"\n[model]\nfamily = {model}\n[training]\n{training}\n\
             [data]\nkind = \"table\"\ncolumns = [{{ name = \"age\", min = 0, max = 100 }}]\n\
             [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n[evaluation]\n\
             metric = \"loss\"\n"
        );
        Study::read(&text, "ward.toml").map_err(|error| error.to_string())
    }

    const CLASSES: &str = "\"tabular\"\nclasses = [\"n\", \"y\"]";

    #[test]
    fn a_word_or_a_list_goes_through_the_signed_text() {
        for (written, read) in [
            ("\"balanced\"", ClassWeights::Balanced),
            ("[1, 3.5]", ClassWeights::Given(vec![1.0, 3.5])),
        ] {
            let study = study(CLASSES, &format!("class_weights = {written}")).unwrap();
            assert_eq!(study.training.class_weights, Some(read));
            let text = study.resolve().unwrap().to_text().unwrap();
            let back = Study::read(&text, "signed").unwrap();
            assert_eq!(back.to_text().unwrap(), text);
            assert!(text.contains("class_weights = "), "{text}");
        }
    }

    #[test]
    fn what_weighs_no_classes_is_told() {
        for (model, weights, said) in [
            (CLASSES, "[1]", "`training.class_weights` is 1 numbers: the model has 2 classes"),
            (CLASSES, "[1, 0]", "`training.class_weights` is 0: numbers above 0"),
            (CLASSES, "[1, nan]", "`training.class_weights` is NaN"),
            (CLASSES, "[1, 2e6]", "`training.class_weights` is 2000000"),
            (CLASSES, "\"even\"", "`class_weights` is \"balanced\" or a list of numbers"),
            (CLASSES, "[\"a\", \"b\"]", "`class_weights` is \"balanced\" or a list of numbers"),
            (CLASSES, "2.0", "`class_weights` is \"balanced\" or a list of numbers"),
            (
                "\"tabular\"\nobjective = \"regress\"",
                "\"balanced\"",
                "this model tells no classes apart: leave it out",
            ),
        ] {
            let error = study(model, &format!("class_weights = {weights}")).unwrap_err();
            assert!(error.contains(said), "{weights}: {error}");
        }
    }

    #[test]
    fn balanced_classes_weigh_alike_and_a_record_weighs_one_on_average() {
        let counts = [300, 90, 10, 0];
        let of = |weights: ClassWeights, counts: &[i64]| weights.of(Objective::Classify, counts);
        let weights = of(ClassWeights::Balanced, &counts.map(i64::from)).unwrap();
        let of_class: Vec<f64> =
            counts.iter().zip(&weights).map(|(n, w)| f64::from(*n) * w).collect();
        for of_class in &of_class[..3] {
            assert!((of_class - 400.0 / 3.0).abs() < 1e-9, "{weights:?}");
        }
        assert!(of_class[3].abs() < 1e-12, "nobody has it: {of_class:?}");
        assert!((of_class.iter().sum::<f64>() - 400.0).abs() < 1e-9);
        assert_eq!(of(ClassWeights::Balanced, &[0, 0]), Some(vec![0.0, 0.0]));
        assert_eq!(of(ClassWeights::Balanced, &[3, -1]), None);
        assert_eq!(of(ClassWeights::Given(vec![1.0, 2.0]), &[]), Some(vec![1.0, 2.0]));
    }

    #[test]
    fn of_several_labels_at_once_each_weighs_as_much_as_its_absence() {
        let of = |weights: ClassWeights, counts: &[i64]| weights.of(Objective::Multilabel, counts);
        let weights = of(ClassWeights::Balanced, &[10, 40, 0, 50, 50]).unwrap();
        assert_eq!(weights, [4.0, 0.25, 1.0, 1.0]);
        for torn in [&[11, 10][..], &[-1, 10], &[]] {
            assert_eq!(of(ClassWeights::Balanced, torn), None, "{torn:?}");
        }
        assert_eq!(of(ClassWeights::Given(vec![3.0]), &[]), Some(vec![3.0]));
        let model = "\"tabular\"\nobjective = \"multilabel\"\nclasses = [\"a\"]";
        let read = study(model, "class_weights = \"balanced\"").unwrap();
        assert_eq!((read.class_sums(), read.preparation_len()), (2, Some(2)));
    }
}
