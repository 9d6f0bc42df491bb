//! Networks: each beside its layout in `consilium_common::study::model`, with the same names and
//! shapes.

pub(crate) mod cnn;
pub(crate) mod conv;
pub(crate) mod dense;
pub(crate) mod recommender;
pub(crate) mod rnn;
pub(crate) mod tabular;
pub(crate) mod text;
pub(crate) mod users;

use consilium_common::random::Generator;
use consilium_common::study::StudyError;
use consilium_common::worker::FailureCode;
use tch::nn::VarStore;
use tch::{TchError, Tensor};

use crate::failure::Failure;

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A training step: dropout and augmentation act.
    Train,
    /// Scoring: nothing is random.
    Score,
}

impl Mode {
    /// A share of units to leave out, where that is done.
    pub(crate) fn dropout(self, share: f64) -> f64 {
        match self {
            Self::Train => share,
            Self::Score => 0.0,
        }
    }
}

/// Parameters in a [`VarStore`], and what they make of records.
pub(crate) trait Network {
    /// The parameters that travel, named as in the study's layout.
    fn store(&self) -> &VarStore;

    /// The parameters that stay at the site (DESIGN.md §6, "Kinds"): f32, trained with the others, read
    /// from and written to the task's local state.
    fn local(&self) -> Option<&VarStore> {
        None
    }

    /// What a training step makes of a batch's inputs first: something drawn anew each time.
    fn draw(&self, inputs: Vec<Tensor>, _: &mut Generator) -> Result<Vec<Tensor>, TchError> {
        Ok(inputs)
    }

    /// What a training step's loss has more, for inputs that were drawn: a number.
    fn penalty(&self, _inputs: &[Tensor]) -> Result<Option<Tensor>, TchError> {
        Ok(None)
    }

    /// The inputs of a [`crate::data::dataset::Batch`] to one row of outputs a record: logits
    /// (records × classes), or numbers (records).
    fn forward(&self, inputs: &[Tensor], mode: Mode) -> Result<Tensor, TchError>;
}

/// The input of a family that has one.
pub(crate) fn only(inputs: &[Tensor]) -> Result<&Tensor, TchError> {
    let told = || TchError::Shape("the loader gave no input".to_owned());
    inputs.first().ok_or_else(told)
}

impl From<StudyError> for Failure {
    fn from(error: StudyError) -> Self {
        Self::new(FailureCode::ModelMismatch, error.to_string())
    }
}
