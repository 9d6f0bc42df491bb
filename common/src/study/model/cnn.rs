//! `cnn`: a stack over images. The defaults are the design's worked example:
//! Conv2D 32 3×3 ReLU → MaxPool 2 → Flatten → Dense 128 ReLU → Dense (classes).
//!
//! Each layer is a convolution (stride 1) → GroupNorm, where it has groups (Wu & He 2018) → ReLU, or a
//! residual block; then a pool of p, which takes p×p, stride p, rounding down. A residual block is
//! ReLU(x' + f(x)), f being convolution → GroupNorm → ReLU → convolution → GroupNorm, and x' being x, or
//! a 1×1 convolution of it with GroupNorm where the channels differ (He et al. 2016, figure 2 and
//! equation 2, with GroupNorm for their batch normalisation: no statistic of a batch travels or stays).
//! Flatten is channel-major (PyTorch's order); `global_pool` takes each channel's mean instead.
//!
//! Names: `conv1.weight`, `conv1.bias`; with GroupNorm `norm1.weight` and `norm1.bias`, which stands for
//! the convolution's; `block1.conv1.weight`, `block1.norm1.weight`, …,
//! `block1.skip.weight`, `block1.skip_norm.weight`, … of a residual block in the first place.
//!
//! Pixels go in as shares of the largest byte; with `data.normalize = "federated"` each channel is then
//! brought to the mean 0 and deviation 1 that it has over the training pictures of all sites.
//!
//! v0: a convolution with GroupNorm is He uniform, one without Glorot uniform, as are dense layers;
//! GroupNorm scales by 1, all else is 0.

use serde::{Deserialize, Serialize};

use super::{ModelSpec, Objective, Parameter, StudyError, dense};
use crate::limits::PARAMETERS_MAX;
use crate::study::check::word;
use crate::study::counts::MOMENTS_UNITS;
use crate::study::{Data, Normalize};
use crate::tensor::init::Init;

/// A stack of convolutions and dense layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cnn {
    /// What is predicted: `classify` or `multilabel`.
    #[serde(default, skip_serializing_if = "Objective::is_default")]
    pub objective: Objective,
    /// Size of one image.
    pub input: Image,
    /// Labels in the order of the outputs.
    pub classes: Vec<String>,
    /// Convolutions or residual blocks, each with a pool behind it.
    #[serde(default = "default_conv")]
    pub conv: Vec<Conv>,
    /// Whether each channel's mean over what is left of the image goes on, and not all of it.
    #[serde(default)]
    pub global_pool: bool,
    /// Widths of the hidden dense layers, each followed by ReLU.
    #[serde(default = "default_dense")]
    pub dense: Vec<u32>,
    /// Share of what each dense layer and the output read that is left out of a training step. 0 to
    /// below 1.
    #[serde(default)]
    pub dropout: f64,
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

/// One convolution, or residual block, with its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv {
    /// Output channels.
    pub filters: u32,
    /// Edge of the square kernel.
    #[serde(default = "three")]
    pub kernel: u32,
    /// Pixels of 0 around the image: 1 keeps its size under a kernel of 3.
    #[serde(default)]
    pub padding: u32,
    /// Groups of channels that GroupNorm brings to mean 0 and variance 1; 0 is no GroupNorm.
    #[serde(default)]
    pub norm: u32,
    /// Whether this is a residual block of two convolutions.
    #[serde(default)]
    pub residual: bool,
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
    vec![Conv { filters: 32, kernel: 3, padding: 0, norm: 0, residual: false, pool: 2 }]
}

fn default_dense() -> Vec<u32> {
    vec![128]
}

impl Conv {
    /// Pixels of an image's side of so many behind the pool; `None` where nothing is left.
    fn side(&self, side: u32) -> Option<u32> {
        let padded = u64::from(side) + 2 * u64::from(self.padding) + 1;
        let convolved = padded.checked_sub(self.kernel.into())?;
        let pooled = convolved.checked_div(self.pool.into())?;
        u32::try_from(pooled).ok().filter(|pooled| *pooled > 0)
    }

    fn check(&self) -> Result<(), StudyError> {
        let refuse = |field: &str, have: u32, need: &str| {
            let need = format!("{field} = {have}: {need}");
            Err(ModelSpec::refuse("model.conv", "not a layer", &need))
        };
        for (field, have) in
            [("filters", self.filters), ("kernel", self.kernel), ("pool", self.pool)]
        {
            if have == 0 || u64::from(have) > PARAMETERS_MAX {
                return refuse(field, have, "sizes start at 1");
            }
        }
        if self.padding >= self.kernel {
            return refuse("padding", self.padding, "it must be below `kernel`");
        }
        if self.norm > 0 && !self.filters.is_multiple_of(self.norm) {
            let need = format!("the {} filters do not divide into so many groups", self.filters);
            return refuse("norm", self.norm, &need);
        }
        if !self.residual {
            return Ok(());
        }
        if self.norm == 0 {
            return refuse("norm", 0, "a residual block needs groups, such as `norm = 8`");
        }
        if self.kernel != 2 * self.padding + 1 {
            let need = "a residual block keeps the image's size: `kernel = 3` with `padding = 1`";
            return refuse("padding", self.padding, need);
        }
        Ok(())
    }

    /// The tensors of the layer in place `i`, counted from 1, over so many channels.
    fn parameters(&self, i: usize, channels: u32) -> Vec<Parameter> {
        let (norm, filters, kernel) = (self.norm > 0, self.filters, self.kernel);
        if !self.residual {
            let names = [format!("conv{i}"), format!("norm{i}")];
            return convolution(names, norm, [filters, channels, kernel]);
        }
        let names = |conv: &str, norm: &str| [conv, norm].map(|name| format!("block{i}.{name}"));
        let convolution =
            |names, channels, kernel| convolution(names, norm, [filters, channels, kernel]);
        let mut parameters = convolution(names("conv1", "norm1"), channels, kernel);
        parameters.extend(convolution(names("conv2", "norm2"), filters, kernel));
        if channels != filters {
            parameters.extend(convolution(names("skip", "skip_norm"), channels, 1));
        }
        parameters
    }
}

/// One convolution with its bias, or its GroupNorm; `names` are theirs, sizes are filters, channels,
/// kernel.
fn convolution(names: [String; 2], norm: bool, sizes: [u32; 3]) -> Vec<Parameter> {
    let [filters, channels, kernel] = sizes;
    let [conv, group_norm] = names;
    let area = kernel.saturating_mul(kernel);
    let fan_in = channels.saturating_mul(area);
    let init = if norm {
        Init::HeUniform { fan_in }
    } else {
        Init::GlorotUniform { fan_in, fan_out: filters.saturating_mul(area) }
    };
    let shape = [filters, channels, kernel, kernel];
    let mut parameters = vec![Parameter::new(format!("{conv}.weight"), shape, init)];
    let last = if norm {
        parameters.push(Parameter::new(format!("{group_norm}.weight"), [filters], Init::Ones));
        group_norm
    } else {
        conv
    };
    parameters.push(Parameter::new(format!("{last}.bias"), [filters], Init::Zeros));
    parameters
}

impl Cnn {
    /// Sums that the sites count together: the moments of each channel's pixels.
    pub(in crate::study) fn preparation_len(&self, data: &Data) -> Option<usize> {
        let sums = MOMENTS_UNITS * self.input.channels as usize;
        (data.normalize == Normalize::Federated).then_some(sums)
    }

    /// What decides which pixels count; nothing where none do.
    pub(in crate::study) fn describe_counts(&self, data: &Data) -> String {
        if self.preparation_len(data).is_none() {
            return String::new();
        }
        let Image { channels, height, width } = self.input;
        let objective = word(&self.objective);
        let classes = self.classes.iter().map(|class| format!("class {}\n", word(class)));
        let head = format!("objective {objective}\npixels {channels}x{height}x{width}\n");
        std::iter::once(head).chain(classes).chain([data.describe()]).collect()
    }

    /// Elements of the features behind the last pool.
    ///
    /// # Errors
    /// A kernel or pool larger than what it is laid on.
    pub fn features(&self) -> Result<u32, StudyError> {
        let Image { mut channels, mut height, mut width } = self.input;
        for conv in &self.conv {
            let (Some(h), Some(w)) = (conv.side(height), conv.side(width)) else {
                let have = format!("kernel {}, pool {}", conv.kernel, conv.pool);
                let need = format!("it does not fit on {height}×{width}");
                return Err(ModelSpec::refuse("model.conv", have, &need));
            };
            (channels, height, width) = (conv.filters, h, w);
        }
        if self.global_pool {
            return Ok(channels);
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
        super::check_labels(self.objective, &self.classes)?;
        super::check_share("model.dropout", self.dropout)?;
        dense::check(&self.dense, "model.dense")?;
        if self.conv.len() > LAYERS_MAX {
            let have = self.conv.len();
            return Err(ModelSpec::refuse("model.conv", have, "at most 64 layers are accepted"));
        }
        self.conv.iter().try_for_each(Conv::check)
    }

    pub(super) fn parameters(&self) -> Result<Vec<Parameter>, StudyError> {
        self.check()?;
        let mut parameters = Vec::new();
        let mut channels = self.input.channels;
        for (i, conv) in (1..).zip(&self.conv) {
            parameters.extend(conv.parameters(i, channels));
            channels = conv.filters;
        }
        let outputs = u32::try_from(self.classes.len()).unwrap_or(u32::MAX);
        parameters.extend(dense::parameters(self.features()?, &self.dense, outputs));
        Ok(parameters)
    }
}

#[cfg(test)]
mod tests {
    use crate::study::Study;

    fn study(model: &str) -> Result<Study, String> {
        let text = format!(
            "[study]\nname = \"xray\"\n[model]\nfamily = \"cnn\"\nclasses = [\"n\", \"y\"]\n\
             input = {{ channels = 1, height = 12, width = 9 }}\n{model}\n[aggregation]\n\
             clip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n"
        );
        Study::read(&text, "xray.toml").map_err(|error| error.to_string())
    }

    const RESNET: &str = "conv = [{ filters = 8, padding = 1, norm = 2 }, { filters = 8, padding = 1, \
                          norm = 4, residual = true, pool = 1 }, { filters = 16, padding = 1, \
                          norm = 4, residual = true }]\nglobal_pool = true\ndense = []";

    #[test]
    fn a_small_group_norm_resnet_has_its_layout() {
        let layout = study(RESNET).unwrap().layout().unwrap().describe();
        let lines: Vec<&str> = layout.lines().skip(1).collect();
        assert_eq!(
            lines,
            [
                "conv1.weight weight f32 8x1x3x3",
                "norm1.weight weight f32 8",
                "norm1.bias weight f32 8",
                "block2.conv1.weight weight f32 8x8x3x3",
                "block2.norm1.weight weight f32 8",
                "block2.norm1.bias weight f32 8",
                "block2.conv2.weight weight f32 8x8x3x3",
                "block2.norm2.weight weight f32 8",
                "block2.norm2.bias weight f32 8",
                "block3.conv1.weight weight f32 16x8x3x3",
                "block3.norm1.weight weight f32 16",
                "block3.norm1.bias weight f32 16",
                "block3.conv2.weight weight f32 16x16x3x3",
                "block3.norm2.weight weight f32 16",
                "block3.norm2.bias weight f32 16",
                "block3.skip.weight weight f32 16x8x1x1",
                "block3.skip_norm.weight weight f32 16",
                "block3.skip_norm.bias weight f32 16",
                "output.weight weight f32 2x16",
                "output.bias weight f32 2",
            ]
        );
    }

    #[test]
    fn what_is_normalised_starts_he_uniform_with_scales_of_one() {
        let study = study(RESNET).unwrap();
        let vector = study.initial_vector().unwrap();
        let layout = study.layout().unwrap();
        let tensor = |name: &str| {
            let tensor = layout.tensors().iter().find(|tensor| tensor.name == name).unwrap();
            &vector[tensor.offset..tensor.offset + tensor.len]
        };
        let bound = (6.0_f32 / (8.0 * 9.0)).sqrt();
        let most = tensor("block3.conv1.weight").iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        assert!(most <= bound && most > 0.95 * bound, "{most} {bound}");
        for name in ["norm1", "block2.norm2", "block3.skip_norm"] {
            assert!(
                tensor(&format!("{name}.weight")).iter().all(|x| (x - 1.0).abs() < 1e-9),
                "{name}"
            );
            assert!(tensor(&format!("{name}.bias")).iter().all(|x| *x == 0.0), "{name}");
        }
    }

    #[test]
    fn padding_and_the_mean_over_the_image_decide_how_many_features_there_are() {
        for (model, width) in [
            ("conv = [{ filters = 3 }]", "3x45"),
            ("conv = [{ filters = 3, padding = 1 }]", "3x72"),
            ("conv = [{ filters = 3, kernel = 5, padding = 2, pool = 1 }]", "3x324"),
            ("conv = [{ filters = 3 }]\nglobal_pool = true", "3x3"),
            ("conv = []\nglobal_pool = true", "3x1"),
        ] {
            let layout = study(&format!("{model}\ndense = [3]")).unwrap().layout().unwrap();
            let described = layout.describe();
            assert!(
                described.contains(&format!("dense1.weight weight f32 {width}\n")),
                "{described}"
            );
        }
    }

    #[test]
    fn layers_that_make_no_sense_are_told_by_their_field() {
        for (layer, said) in [
            ("filters = 0", "filters = 0: sizes start at 1"),
            ("filters = 4, pool = 0", "pool = 0: sizes start at 1"),
            ("filters = 4, padding = 3", "padding = 3: it must be below `kernel`"),
            ("filters = 4, norm = 3", "norm = 3: the 4 filters do not divide into so many groups"),
            ("filters = 4, norm = 8", "norm = 8: the 4 filters do not divide"),
            ("filters = 4, padding = 1, residual = true", "a residual block needs groups"),
            ("filters = 4, norm = 2, residual = true", "keeps the image's size"),
            ("filters = 4, kernel = 13", "it does not fit on 12×9"),
            ("filters = 4, stride = 2", "unknown field"),
        ] {
            let error = study(&format!("conv = [{{ {layer} }}]")).unwrap_err();
            assert!(error.contains(said), "{layer}: {error}");
        }
        assert!(study("dropout = 1.0").unwrap_err().contains("`model.dropout` is 1"));
    }
}
