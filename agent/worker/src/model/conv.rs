//! One layer of the `cnn` family, named as `consilium_common::study::model::cnn` names it: a convolution
//! with GroupNorm or without, or a residual block; ReLU; max-pool.

use consilium_common::study::model::cnn::Conv;
use tch::nn::Path;
use tch::{TchError, Tensor};

/// Added to a group's variance (Wu & He 2018, eq. 2): PyTorch's default.
const EPSILON: f64 = 1e-5;

/// A layer with its pool.
#[derive(Debug)]
pub(crate) struct Layer {
    first: Convolution,
    residual: Option<Residual>,
    pool: i64,
}

/// What a residual block has beside its first convolution.
#[derive(Debug)]
struct Residual {
    second: Convolution,
    /// Where the channels differ.
    skip: Option<Convolution>,
}

#[derive(Debug)]
struct Convolution {
    weight: Tensor,
    after: After,
    padding: i64,
}

/// What a convolution's sums have more.
#[derive(Debug)]
enum After {
    Bias(Tensor),
    Norm { groups: i64, weight: Tensor, bias: Tensor },
}

impl Layer {
    /// The layer in place `i`, counted from 1, over so many channels.
    pub(crate) fn new(
        root: &Path<'_>,
        i: usize,
        spec: &Conv,
        channels: u32,
    ) -> Result<Self, TchError> {
        let pool = i64::from(spec.pool);
        let whole = |channels| Shape { channels, kernel: spec.kernel, padding: spec.padding };
        if !spec.residual {
            let paths = [root / format!("conv{i}"), root / format!("norm{i}")];
            let first = Convolution::new(&paths, spec, whole(channels))?;
            return Ok(Self { first, residual: None, pool });
        }
        let block = root / format!("block{i}");
        let convolution = |names: [&str; 2], shape| {
            Convolution::new(&names.map(|name| &block / name), spec, shape)
        };
        let first = convolution(["conv1", "norm1"], whole(channels))?;
        let second = convolution(["conv2", "norm2"], whole(spec.filters))?;
        let narrow = Shape { channels, kernel: 1, padding: 0 };
        let differ = channels != spec.filters;
        let skip = differ.then(|| convolution(["skip", "skip_norm"], narrow)).transpose()?;
        Ok(Self { first, residual: Some(Residual { second, skip }), pool })
    }

    /// Records × channels × height × width to the same of its own sizes.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let mut y = self.first.forward(x)?;
        if let Some(Residual { second, skip }) = &self.residual {
            y = second.forward(&y.f_relu_()?)?;
            y = match skip {
                Some(skip) => y.f_add(&skip.forward(x)?)?,
                None => y.f_add(x)?,
            };
        }
        let y = y.f_relu_()?;
        match self.pool {
            1 => Ok(y),
            pool => y.f_max_pool2d([pool, pool], [pool, pool], [0, 0], [1, 1], false),
        }
    }
}

/// Sizes of a convolution that differ within a block.
struct Shape {
    channels: u32,
    kernel: u32,
    padding: u32,
}

impl Convolution {
    /// `paths`: of the convolution, and of its GroupNorm.
    fn new(paths: &[Path<'_>; 2], spec: &Conv, shape: Shape) -> Result<Self, TchError> {
        let [conv, norm] = paths;
        let filters = i64::from(spec.filters);
        let kernel = i64::from(shape.kernel);
        let sizes = [filters, i64::from(shape.channels), kernel, kernel];
        let weight = conv.f_zeros("weight", &sizes)?;
        let after = match i64::from(spec.norm) {
            0 => After::Bias(conv.f_zeros("bias", &[filters])?),
            groups => After::Norm {
                groups,
                weight: norm.f_zeros("weight", &[filters])?,
                bias: norm.f_zeros("bias", &[filters])?,
            },
        };
        Ok(Self { weight, after, padding: shape.padding.into() })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let padding = [self.padding, self.padding];
        let sums = |bias| x.f_conv2d(&self.weight, bias, [1, 1], padding, [1, 1], 1);
        match &self.after {
            After::Bias(bias) => sums(Some(bias)),
            After::Norm { groups, weight, bias } => {
                let sums = sums(None::<&Tensor>)?;
                sums.f_group_norm(*groups, Some(weight), Some(bias), EPSILON, true)
            }
        }
    }
}
