//! `cnn`: a plain stack over images. The defaults are the design's worked example:
//! Conv2D 32 3×3 ReLU → MaxPool 2 → Flatten → Dense 128 ReLU → Dense (classes).
//!
//! Convolutions have stride 1 and no padding; a pool of p takes p×p, stride p, rounding down;
//! flatten is channel-major (PyTorch's order).

use serde::{Deserialize, Serialize};

use super::{ModelSpec, Objective, Parameter, StudyError, dense};
use crate::limits::PARAMETERS_MAX;
use crate::tensor::init::Init;

/// A plain stack of convolutions and dense layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cnn {
    /// Size of one image.
    pub input: Image,
    /// Labels in the order of the outputs.
    pub classes: Vec<String>,
    /// Convolutions, each followed by ReLU and a pool.
    #[serde(default = "default_conv")]
    pub conv: Vec<Conv>,
    /// Widths of the hidden dense layers, each followed by ReLU.
    #[serde(default = "default_dense")]
    pub dense: Vec<u32>,
}

/// Size of one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// 1 for grey, 3 for colour.
    pub channels: u32,
    /// Pixels.
    pub height: u32,
    /// Pixels.
    pub width: u32,
}

/// One convolution with its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv {
    /// Output channels.
    pub filters: u32,
    /// Edge of the square kernel.
    #[serde(default = "three")]
    pub kernel: u32,
    /// Edge of the max-pool behind it; 1 is none.
    #[serde(default = "two")]
    pub pool: u32,
}

const SIDE_MAX: u32 = 8192;
const LAYERS_MAX: usize = 64;

fn three() -> u32 {
    3
}

fn two() -> u32 {
    2
}

fn default_conv() -> Vec<Conv> {
    vec![Conv { filters: 32, kernel: 3, pool: 2 }]
}

fn default_dense() -> Vec<u32> {
    vec![128]
}

impl Cnn {
    /// Elements of the flattened features behind the last pool.
    ///
    /// # Errors
    /// A kernel or pool larger than what it is laid on.
    pub fn features(&self) -> Result<u32, StudyError> {
        let Image { mut channels, mut height, mut width } = self.input;
        for conv in &self.conv {
            let side = |side: u32| {
                let side = (side + 1).checked_sub(conv.kernel)?.checked_div(conv.pool)?;
                (side > 0).then_some(side)
            };
            let (Some(h), Some(w)) = (side(height), side(width)) else {
                let have = format!("kernel {}, pool {}", conv.kernel, conv.pool);
                let need = format!("it does not fit on {height}×{width}");
                return Err(ModelSpec::refuse("model.conv", have, &need));
            };
            (channels, height, width) = (conv.filters, h, w);
        }
        let features = u64::from(channels) * u64::from(height) * u64::from(width);
        u32::try_from(features)
            .map_err(|_| ModelSpec::refuse("model.conv", features, "too many features"))
    }

    fn check(&self) -> Result<(), StudyError> {
        let Image { channels, height, width } = self.input;
        for (field, have) in [
            ("model.input.channels", channels),
            ("model.input.height", height),
            ("model.input.width", width),
        ] {
            if !(1..=SIDE_MAX).contains(&have) {
                return Err(ModelSpec::refuse(field, have, "1 to 8192 is accepted"));
            }
        }
        super::check_objective(Objective::Classify, &self.classes)?;
        dense::check(&self.dense, "model.dense")?;
        if self.conv.len() > LAYERS_MAX {
            let have = self.conv.len();
            return Err(ModelSpec::refuse("model.conv", have, "at most 64 layers are accepted"));
        }
        for size in self.conv.iter().flat_map(|c| [c.filters, c.kernel, c.pool]) {
            if size == 0 || u64::from(size) > PARAMETERS_MAX {
                return Err(ModelSpec::refuse("model.conv", size, "sizes start at 1"));
            }
        }
        Ok(())
    }

    pub(super) fn parameters(&self) -> Result<Vec<Parameter>, StudyError> {
        self.check()?;
        let mut parameters = Vec::new();
        let mut channels = self.input.channels;
        for (i, conv) in self.conv.iter().enumerate() {
            let area = conv.kernel.saturating_mul(conv.kernel);
            let init = Init::GlorotUniform {
                fan_in: channels.saturating_mul(area),
                fan_out: conv.filters.saturating_mul(area),
            };
            let shape = [conv.filters, channels, conv.kernel, conv.kernel];
            parameters.push(Parameter::new(format!("conv{}.weight", i + 1), shape, init));
            let bias = Parameter::new(format!("conv{}.bias", i + 1), [conv.filters], Init::Zeros);
            parameters.push(bias);
            channels = conv.filters;
        }
        let outputs = u32::try_from(self.classes.len()).unwrap_or(u32::MAX);
        parameters.extend(dense::parameters(self.features()?, &self.dense, outputs));
        Ok(parameters)
    }
}
