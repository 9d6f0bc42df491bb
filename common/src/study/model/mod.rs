//! The spec of every built-in family: layout and v0 without libtorch.

pub mod cnn;
mod dense;
pub mod recommender;
pub mod rnn;
pub mod synthetic;
pub mod tabular;
pub mod text;

use serde::{Deserialize, Serialize};

pub use cnn::Cnn;
pub use recommender::Recommender;
pub use rnn::Rnn;
pub use synthetic::Synthetic;
pub use tabular::Tabular;
pub use text::TextClassifier;

use super::{Data, DataKind, StudyError};
use crate::limits::CLASSES_MAX;
use crate::tensor::init::{Init, fill};
use crate::tensor::layout::{Kind, Layout};

/// `[model]`: a family and its sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "toml::Table")]
#[serde(tag = "family", rename_all = "kebab-case")]
pub enum ModelSpec {
    /// Convolutions over images.
    Cnn(Cnn),
    /// Factors of users and items.
    Recommender(Recommender),
    /// Recurrent units over an irregular series.
    Rnn(Rnn),
    /// A trainer without libtorch, with a known optimum.
    Synthetic(Synthetic),
    /// Dense layers over the columns of a table.
    Tabular(Tabular),
    /// Words of documents.
    TextClassifier(TextClassifier),
}

/// What a model predicts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// One of the classes: cross-entropy over logits.
    #[default]
    Classify,
    /// For each class whether it is there, several or none at once: the mean over the classes of the
    /// binary cross-entropy over one logit each.
    Multilabel,
    /// A number: mean squared error.
    Regress,
    /// Which of many comes first: a pairwise loss.
    Rank,
}

impl Objective {
    /// Whether the model has an output for each class.
    #[must_use]
    pub fn has_classes(self) -> bool {
        matches!(self, Self::Classify | Self::Multilabel)
    }

    /// `classify`, which studies over pictures and documents need not say.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Families that are served.
const BUILT: [&str; 6] = ["cnn", "recommender", "rnn", "synthetic", "tabular", "text-classifier"];

/// Families of DESIGN.md §10 that this version does not serve.
const NOT_BUILT: [&str; 3] = ["text-generator", "external", "torchscript"];

impl TryFrom<toml::Table> for ModelSpec {
    type Error = String;

    fn try_from(mut table: toml::Table) -> Result<Self, String> {
        let Some(toml::Value::String(family)) = table.remove("family") else {
            return Err("missing field `family`".to_owned());
        };
        let spec = toml::Value::Table(table);
        let told = |error: toml::de::Error| {
            format!("[model] {}", crate::config::with_nearest(error.message()))
        };
        match family.as_str() {
            "cnn" => spec.try_into().map(Self::Cnn).map_err(told),
            "recommender" => spec.try_into().map(Self::Recommender).map_err(told),
            "rnn" => spec.try_into().map(Self::Rnn).map_err(told),
            "synthetic" => spec.try_into().map(Self::Synthetic).map_err(told),
            "tabular" => spec.try_into().map(Self::Tabular).map_err(told),
            "text-classifier" => {
                let filled = |spec: TextClassifier| Self::TextClassifier(spec.filled());
                spec.try_into().map(filled).map_err(told)
            }
            name if NOT_BUILT.contains(&name) => {
                Err(format!("`model.family = \"{name}\"` is not built yet"))
            }
            name => {
                let hint = crate::config::nearest(name, Self::families())
                    .map(|near| format!("; did you mean `{near}`?"))
                    .unwrap_or_default();
                Err(format!("unknown model family `{name}`{hint}"))
            }
        }
    }
}

/// One tensor of a spec, before it has an offset.
#[derive(Debug, Clone)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) shape: Vec<u32>,
    pub(crate) init: Init,
}

impl Parameter {
    pub(crate) fn new(name: impl Into<String>, shape: impl Into<Vec<u32>>, init: Init) -> Self {
        Self { name: name.into(), shape: shape.into(), init }
    }

    /// How many numbers it has, where a layout could have them.
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().fold(1, |elements, size| elements.saturating_mul(*size as usize))
    }
}

impl ModelSpec {
    pub(super) fn parameters(&self, data: &Data) -> Result<Vec<Parameter>, StudyError> {
        match self {
            Self::Cnn(spec) => spec.parameters(),
            Self::Recommender(spec) => spec.parameters(data),
            Self::Rnn(spec) => spec.parameters(data),
            Self::Synthetic(spec) => spec.parameters(),
            Self::Tabular(spec) => spec.parameters(data),
            Self::TextClassifier(spec) => spec.parameters(),
        }
    }

    /// The family's name.
    #[must_use]
    pub fn family(&self) -> &'static str {
        match self {
            Self::Cnn(_) => "cnn",
            Self::Recommender(_) => "recommender",
            Self::Rnn(_) => "rnn",
            Self::Synthetic(_) => "synthetic",
            Self::Tabular(_) => "tabular",
            Self::TextClassifier(_) => "text-classifier",
        }
    }

    /// The labels that the model tells apart, in order of its outputs.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        match self {
            Self::Cnn(spec) => &spec.classes,
            Self::Recommender(_) | Self::Synthetic(_) => &[],
            Self::Rnn(spec) => &spec.classes,
            Self::Tabular(spec) => &spec.classes,
            Self::TextClassifier(spec) => &spec.classes,
        }
    }

    /// Every family that a study may name, also those that are not built yet.
    pub fn families() -> impl Iterator<Item = &'static str> {
        BUILT.into_iter().chain(NOT_BUILT)
    }

    /// What is predicted; the synthetic trainer predicts nothing.
    #[must_use]
    pub fn objective(&self) -> Option<Objective> {
        match self {
            Self::Cnn(spec) => Some(spec.objective),
            Self::Recommender(spec) => Some(spec.objective),
            Self::Rnn(spec) => Some(spec.objective),
            Self::Synthetic(_) => None,
            Self::Tabular(spec) => Some(spec.objective),
            Self::TextClassifier(spec) => Some(spec.objective),
        }
    }

    /// The kind of records that the family reads; any for the synthetic trainer.
    #[must_use]
    pub fn reads(&self) -> Option<DataKind> {
        match self {
            Self::Cnn(_) => Some(DataKind::Images),
            Self::Recommender(_) => Some(DataKind::Ratings),
            Self::Rnn(_) => Some(DataKind::Series),
            Self::Synthetic(_) => None,
            Self::Tabular(_) => Some(DataKind::Table),
            Self::TextClassifier(_) => Some(DataKind::Text),
        }
    }

    /// Whether the family keeps something at the site that never leaves: its local state.
    #[must_use]
    pub fn keeps_local_state(&self) -> bool {
        match self {
            Self::Recommender(_) => true,
            Self::Rnn(spec) => spec.local_bias,
            Self::Synthetic(spec) => spec.local > 0,
            Self::Cnn(_) | Self::Tabular(_) | Self::TextClassifier(_) => false,
        }
    }

    /// The layout over inputs of this contract, all tensors trained together.
    ///
    /// # Errors
    /// Sizes that fit no model.
    pub fn layout(&self, data: &Data) -> Result<Layout, StudyError> {
        let specs = self.parameters(data)?;
        Ok(Layout::new(specs.into_iter().map(|p| (p.name, p.shape, Kind::Weight)))?)
    }

    /// The values that all of these tensors start with, in order.
    ///
    /// # Errors
    /// Sizes that fit no model.
    pub fn initial(&self, data: &Data, seed: u64) -> Result<Vec<f32>, StudyError> {
        self.layout(data)?;
        Ok(started(&self.parameters(data)?, seed))
    }
}

/// The values that tensors start with, one after another.
pub(super) fn started(tensors: &[Parameter], seed: u64) -> Vec<f32> {
    let mut vector = vec![0.0; tensors.iter().map(Parameter::elements).sum()];
    let mut rest = vector.as_mut_slice();
    for tensor in tensors {
        let (values, behind) = rest.split_at_mut(tensor.elements());
        fill(tensor.init, &tensor.name, seed, values);
        rest = behind;
    }
    vector
}

/// Classes where there must be some, and none where they mean nothing.
fn check_objective(objective: Objective, classes: &[String]) -> Result<(), StudyError> {
    let have = classes.len();
    let refuse = |need: &str| Err(ModelSpec::refuse("model.classes", have, need));
    // Of several labels at once one alone may be asked for.
    let fewest = if objective == Objective::Multilabel { 1 } else { 2 };
    match objective {
        Objective::Classify | Objective::Multilabel if !(fewest..=CLASSES_MAX).contains(&have) => {
            refuse(&format!("{fewest} to {CLASSES_MAX} labels are accepted"))
        }
        Objective::Classify | Objective::Multilabel => {
            let mut sorted = classes.to_vec();
            sorted.sort();
            sorted.dedup();
            if sorted.len() == have { Ok(()) } else { refuse("a label stands there twice") }
        }
        Objective::Regress if have == 0 => Ok(()),
        Objective::Regress => refuse("`objective = \"regress\"` has none"),
        Objective::Rank => {
            let need = "only the recommender family ranks";
            Err(ModelSpec::refuse("model.objective", "\"rank\"", need))
        }
    }
}

/// The same of a family that predicts no numbers.
fn check_labels(objective: Objective, classes: &[String]) -> Result<(), StudyError> {
    if objective == Objective::Regress {
        let need = "this family tells classes apart: \"classify\" or \"multilabel\"";
        return Err(ModelSpec::refuse("model.objective", "\"regress\"", need));
    }
    check_objective(objective, classes)
}

/// A share of something that may be none and is never all.
fn check_share(field: &'static str, share: f64) -> Result<(), StudyError> {
    if (0.0..1.0).contains(&share) {
        Ok(())
    } else {
        Err(ModelSpec::refuse(field, share, "0 to below 1 is accepted"))
    }
}
