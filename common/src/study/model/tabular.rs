//! `tabular`: logistic or linear regression (no hidden layer) or a multilayer perceptron over the
//! columns of the data contract, in its order: [dense → ReLU → dropout] × n → output.

use serde::{Deserialize, Serialize};

use super::dense;
use super::{ModelSpec, Objective, Parameter, StudyError};
use crate::study::check::word;
use crate::study::counts::MOMENTS_UNITS;
use crate::study::{Data, Normalize};
use crate::tensor::init::Init;

/// A stack of dense layers over columns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tabular {
    /// What is predicted.
    #[serde(default)]
    pub objective: Objective,
    /// `classify`, `multilabel`: the labels, in the order of the outputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// Widths of the hidden layers; none is a regression.
    #[serde(default)]
    pub hidden: Vec<u32>,
    /// Share of each hidden layer's units left out of a training step. 0 to below 1.
    #[serde(default)]
    pub dropout: f64,
}

impl Tabular {
    /// Units of the output layer.
    #[must_use]
    pub fn outputs(&self) -> u32 {
        match self.objective {
            Objective::Classify | Objective::Multilabel => {
                u32::try_from(self.classes.len()).unwrap_or(u32::MAX)
            }
            Objective::Regress | Objective::Rank => 1,
        }
    }

    /// Sums that the sites count together: the moments of every number column, in order.
    pub(in crate::study) fn preparation_len(&self, data: &Data) -> Option<usize> {
        let sums = MOMENTS_UNITS * data.numbers().count();
        (data.normalize == Normalize::Federated && sums > 0).then_some(sums)
    }

    /// What decides which rows count, and with which numbers.
    pub(in crate::study) fn describe_counts(&self, data: &Data) -> String {
        let classes = self.classes.iter().map(|class| format!("class {}\n", word(class)));
        let objective = format!("objective {}\n", word(&self.objective));
        std::iter::once(objective).chain(classes).chain([data.describe()]).collect()
    }

    pub(super) fn parameters(&self, data: &Data) -> Result<Vec<Parameter>, StudyError> {
        super::check_objective(self.objective, &self.classes)?;
        super::check_share("model.dropout", self.dropout)?;
        let inputs = u32::try_from(data.inputs()).unwrap_or(u32::MAX);
        if inputs == 0 {
            let need = "the tabular family needs at least one column";
            return Err(ModelSpec::refuse("data.columns", "empty", need));
        }
        dense::check(&self.hidden, "model.hidden")?;
        let mut parameters = dense::parameters(inputs, &self.hidden, self.outputs());
        if self.hidden.is_empty() {
            // A regression's loss is convex: a draw to start from would only leave its noise behind.
            parameters.iter_mut().for_each(|parameter| parameter.init = Init::Zeros);
        }
        Ok(parameters)
    }
}
