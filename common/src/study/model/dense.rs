//! Dense layers, which most families end in: `dense1`, `dense2`, …, `output`, each a weight
//! (outputs × inputs) and a bias.

use super::{ModelSpec, Parameter, StudyError};
use crate::limits::PARAMETERS_MAX;
use crate::tensor::init::Init;

const LAYERS_MAX: usize = 64;

/// Widths that make sense.
pub(super) fn check(widths: &[u32], field: &'static str) -> Result<(), StudyError> {
    if widths.len() > LAYERS_MAX {
        return Err(ModelSpec::refuse(field, widths.len(), "at most 64 layers are accepted"));
    }
    match widths.iter().find(|width| **width == 0 || u64::from(**width) > PARAMETERS_MAX) {
        Some(width) => Err(ModelSpec::refuse(field, width, "sizes start at 1")),
        None => Ok(()),
    }
}

/// `hidden` layers and the output over `inputs` features.
pub(super) fn parameters(mut inputs: u32, hidden: &[u32], outputs: u32) -> Vec<Parameter> {
    let named = hidden.iter().enumerate().map(|(i, &width)| (format!("dense{}", i + 1), width));
    let mut parameters = Vec::with_capacity(2 * hidden.len() + 2);
    for (name, width) in named.chain([("output".to_owned(), outputs)]) {
        let init = Init::GlorotUniform { fan_in: inputs, fan_out: width };
        parameters.push(Parameter::new(format!("{name}.weight"), [width, inputs], init));
        parameters.push(Parameter::new(format!("{name}.bias"), [width], Init::Zeros));
        inputs = width;
    }
    parameters
}
