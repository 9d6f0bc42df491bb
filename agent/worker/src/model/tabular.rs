//! `tabular`: dense layers over the columns of a table.

use consilium_common::study::model::Tabular;
use consilium_common::study::{Data, Objective};
use tch::nn::VarStore;
use tch::{Device, TchError, Tensor};

use super::dense::Dense;
use super::{Mode, Network, only};
use crate::failure::Failure;

/// The stack.
#[derive(Debug)]
pub(crate) struct Perceptron {
    store: VarStore,
    layers: Dense,
    dropout: f64,
    objective: Objective,
}

impl Perceptron {
    pub(crate) fn new(spec: &Tabular, data: &Data, device: Device) -> Result<Self, Failure> {
        let store = VarStore::new(device);
        let inputs = u32::try_from(data.inputs()).unwrap_or(u32::MAX);
        let layers = Dense::new(&store.root(), inputs, &spec.hidden, spec.outputs())?;
        Ok(Self { store, layers, dropout: spec.dropout, objective: spec.objective })
    }
}

impl Network for Perceptron {
    fn store(&self) -> &VarStore {
        &self.store
    }

    /// Inputs (f32, records × inputs) to logits (records × classes) or numbers (records).
    fn forward(&self, inputs: &[Tensor], mode: Mode) -> Result<Tensor, TchError> {
        let outputs = self.layers.forward(only(inputs)?, mode.dropout(self.dropout))?;
        match self.objective {
            Objective::Classify | Objective::Multilabel => Ok(outputs),
            Objective::Regress | Objective::Rank => outputs.f_squeeze_dim(1),
        }
    }
}
