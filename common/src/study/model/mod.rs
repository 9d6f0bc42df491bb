//! The spec of every built-in family: layout and v0 without libtorch.

pub mod cnn;
pub mod synthetic;

use serde::{Deserialize, Serialize};

pub use cnn::Cnn;
pub use synthetic::Synthetic;

use super::StudyError;
use crate::tensor::init::{Init, fill};
use crate::tensor::layout::{Kind, Layout};

/// `[model]`: a family and its sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "toml::Table")]
#[serde(tag = "family", rename_all = "kebab-case")]
pub enum ModelSpec {
    /// Convolutions over images.
    Cnn(Cnn),
    /// A trainer without libtorch, with a known optimum.
    Synthetic(Synthetic),
}

/// Families of DESIGN.md §10 that this version does not serve.
const NOT_BUILT: [&str; 7] = [
    "rnn",
    "text-classifier",
    "text-generator",
    "recommender",
    "tabular",
    "external",
    "torchscript",
];

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
            "synthetic" => spec.try_into().map(Self::Synthetic).map_err(told),
            name if NOT_BUILT.contains(&name) => {
                Err(format!("`model.family = \"{name}\"` is not built yet"))
            }
            name => {
                let known = ["cnn", "synthetic"].into_iter().chain(NOT_BUILT);
                let hint = crate::config::nearest(name, known)
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
}

impl ModelSpec {
    fn parameters(&self) -> Result<Vec<Parameter>, StudyError> {
        match self {
            Self::Cnn(spec) => spec.parameters(),
            Self::Synthetic(spec) => spec.parameters(),
        }
    }

    /// The family's name.
    #[must_use]
    pub fn family(&self) -> &'static str {
        match self {
            Self::Cnn(_) => "cnn",
            Self::Synthetic(_) => "synthetic",
        }
    }

    /// The labels that the model tells apart, in order of its outputs.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        match self {
            Self::Cnn(spec) => &spec.classes,
            Self::Synthetic(_) => &[],
        }
    }

    /// The layout.
    ///
    /// # Errors
    /// Sizes that fit no model.
    pub fn layout(&self) -> Result<Layout, StudyError> {
        let specs = self.parameters()?;
        Ok(Layout::new(specs.into_iter().map(|p| (p.name, p.shape, Kind::Weight)))?)
    }

    /// v0's vector, in the order of the layout.
    ///
    /// # Errors
    /// Sizes that fit no model.
    pub fn initial(&self, seed: u64) -> Result<Vec<f32>, StudyError> {
        let layout = self.layout()?;
        let mut vector = vec![0.0; layout.len()];
        for (tensor, parameter) in layout.tensors().iter().zip(self.parameters()?) {
            let range = tensor.offset..tensor.offset + tensor.len;
            if let Some(values) = vector.get_mut(range) {
                fill(parameter.init, &tensor.name, seed, values);
            }
        }
        Ok(vector)
    }
}
