//! `synthetic`: a deterministic trainer without libtorch, for protocol tests, chaos and load.
//!
//! Each site pulls the model half of the way towards an optimum of its own: U(−1, 1) per coordinate
//! from the study's seed and the site's data seed. With equal weights the federation therefore
//! converges to the mean of the sites' optima, which a test can compute.
//!
//! With `steps = K` it goes down a quadratic instead: K steps of `training.learning_rate` from w, with the
//! gradient h·(w − optimum) and a curvature h of its own for each coordinate of each site, U(0.1, 1.9).
//! So sites drift apart as real ones do, and the optimum of them all is still known.
//!
//! With `local = N` it keeps N counters at the site as its local state, which must all equal the
//! number of rounds in which the site counted; they shift its optimum, so that a wrong state shows in
//! the model's digest.
//!
//! With `prepare = N` the sites first count N sums together, each from its own seeds, and none trains
//! without them.

use serde::{Deserialize, Serialize};

use super::{ModelSpec, Parameter, StudyError};
use crate::limits::{PARAMETERS_MAX, PREPARATION_SUMS_MAX};
use crate::tensor::init::Init;

/// Sizes of the synthetic trainer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Synthetic {
    /// Length of the model's one tensor.
    pub parameters: u32,
    /// Batches that a round reports as progress.
    #[serde(default = "one")]
    pub batches: u32,
    /// How long one batch takes, milliseconds.
    #[serde(default)]
    pub batch_ms: u32,
    /// Counters kept at the site as local state.
    #[serde(default)]
    pub local: u32,
    /// Steps down a quadratic; 0 for half of the way to the optimum.
    #[serde(default)]
    pub steps: u32,
    /// Integer sums that the sites count together before the first round trains; 0 for none.
    #[serde(default)]
    pub prepare: u32,
}

/// Counters of the local state: 16 MiB, enough to see what a large one costs.
const LOCAL_MAX: u32 = 1 << 22;
/// Steps of a round: enough to drift, and done in a moment.
const STEPS_MAX: u32 = 10_000;

fn one() -> u32 {
    1
}

impl Synthetic {
    pub(super) fn parameters(&self) -> Result<Vec<Parameter>, StudyError> {
        if self.parameters == 0 || u64::from(self.parameters) > PARAMETERS_MAX {
            let need = format!("1 to {PARAMETERS_MAX} is accepted");
            return Err(ModelSpec::refuse("model.parameters", self.parameters, &need));
        }
        if self.local > LOCAL_MAX {
            let need = format!("at most {LOCAL_MAX} is accepted");
            return Err(ModelSpec::refuse("model.local", self.local, &need));
        }
        if self.steps > STEPS_MAX {
            let need = format!("at most {STEPS_MAX} is accepted");
            return Err(ModelSpec::refuse("model.steps", self.steps, &need));
        }
        if self.prepare as usize > PREPARATION_SUMS_MAX {
            let need = format!("0 to {PREPARATION_SUMS_MAX} is accepted");
            return Err(ModelSpec::refuse("model.prepare", self.prepare, &need));
        }
        Ok(vec![Parameter::new("parameters", [self.parameters], Init::Zeros)])
    }
}
