//! `cnn`: the stack that `consilium_common::study::model::cnn` describes, with the same names and
//! shapes. Layers of convolutions, each with its pool; flatten, or each channel's mean; dense → ReLU, …,
//! output.

use consilium_common::random::Generator;
use consilium_common::study::Augment;
use consilium_common::study::counts::Standard;
use consilium_common::study::model::Cnn;
use tch::nn::VarStore;
use tch::{Device, Kind, TchError, Tensor};

use super::conv::Layer;
use super::dense::Dense;
use super::{Mode, Network, only};
use crate::data::augment::augment;
use crate::failure::Failure;

/// The largest byte.
pub(crate) const BYTE: f64 = 255.0;

/// The stack.
#[derive(Debug)]
pub(crate) struct Convolutions {
    store: VarStore,
    layers: Vec<Layer>,
    global_pool: bool,
    head: Dense,
    dropout: f64,
    augment: Option<Augment>,
    /// Factor and shift of each channel's bytes, where they are standardised.
    scale: Option<(Tensor, Tensor)>,
}

impl Convolutions {
    /// Builds the layers of `spec` on `device`; `augment` is how training changes pictures, `standards`
    /// are each channel's.
    pub(crate) fn new(
        spec: &Cnn,
        augment: Option<Augment>,
        standards: Option<&[Standard]>,
        device: Device,
    ) -> Result<Self, Failure> {
        let store = VarStore::new(device);
        let root = store.root();
        let mut layers = Vec::with_capacity(spec.conv.len());
        let mut channels = spec.input.channels;
        for (i, conv) in (1..).zip(&spec.conv) {
            layers.push(Layer::new(&root, i, conv, channels)?);
            channels = conv.filters;
        }
        let outputs = u32::try_from(spec.classes.len()).unwrap_or(u32::MAX);
        let head = Dense::new(&root, spec.features()?, &spec.dense, outputs)?;
        let (global_pool, dropout) = (spec.global_pool, spec.dropout);
        let scale = standards.map(|standards| scale(standards, device)).transpose()?;
        Ok(Self { store, layers, global_pool, head, dropout, augment, scale })
    }
}

/// What a byte is multiplied by, and what is then added, to be standardised: each
/// 1 × channels × 1 × 1.
fn scale(standards: &[Standard], device: Device) -> Result<(Tensor, Tensor), TchError> {
    let of_channels = |values: &[f64]| {
        let values = Tensor::f_from_slice(values)?.f_to_kind(Kind::Float)?;
        values.f_view([1, -1, 1, 1])?.f_to_device(device)
    };
    let pairs = standards.iter().map(|standard| standard.after(None));
    let (factors, shifts): (Vec<f64>, Vec<f64>) =
        pairs.map(|(factor, shift)| (factor / BYTE, shift)).unzip();
    Ok((of_channels(&factors)?, of_channels(&shifts)?))
}

impl Network for Convolutions {
    fn store(&self) -> &VarStore {
        &self.store
    }

    fn draw(
        &self,
        inputs: Vec<Tensor>,
        generator: &mut Generator,
    ) -> Result<Vec<Tensor>, TchError> {
        match &self.augment {
            Some(spec) => Ok(vec![augment(spec, only(&inputs)?, generator)?]),
            None => Ok(inputs),
        }
    }

    /// Images (0 to 255, records × channels × height × width) to logits (records × classes).
    fn forward(&self, inputs: &[Tensor], mode: Mode) -> Result<Tensor, TchError> {
        let bytes = only(inputs)?.f_to_kind(Kind::Float)?;
        let mut x = match &self.scale {
            None => bytes.f_div_scalar(BYTE)?,
            Some((factor, shift)) => bytes.f_mul(factor)?.f_add(shift)?,
        };
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        let mut features = if self.global_pool {
            x.f_mean_dim([2_i64, 3].as_slice(), false, Kind::Float)?
        } else {
            x.f_flatten(1, -1)?
        };
        let dropout = mode.dropout(self.dropout);
        if dropout > 0.0 {
            features = features.f_dropout(dropout, true)?;
        }
        self.head.forward(&features, dropout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{flatten, load, variables};
    use consilium_common::study::model::cnn::{Conv, Image};
    use consilium_common::study::{Data, ModelSpec, Objective};

    fn spec(conv: &[(u32, u32, u32)], dense: &[u32]) -> Cnn {
        let plain = |&(filters, kernel, pool): &(u32, u32, u32)| Conv {
            filters,
            kernel,
            padding: 0,
            norm: 0,
            residual: false,
            pool,
        };
        Cnn {
            objective: Objective::Classify,
            input: Image { channels: 2, height: 19, width: 14 },
            classes: vec!["a".to_owned(), "b".to_owned(), "c".to_owned()],
            conv: conv.iter().map(plain).collect(),
            global_pool: false,
            dense: dense.to_vec(),
            dropout: 0.0,
        }
    }

    /// A stem, a residual block of as many channels, and one of more.
    fn resnet() -> Cnn {
        let mut resnet = spec(&[(4, 3, 1), (4, 3, 2), (6, 3, 1)], &[]);
        for conv in &mut resnet.conv {
            (conv.padding, conv.norm, conv.residual) = (1, 2, true);
        }
        resnet.conv[0].residual = false;
        Cnn { global_pool: true, dropout: 0.5, ..resnet }
    }

    fn specs() -> [Cnn; 5] {
        [
            spec(&[(5, 3, 2)], &[7]),
            spec(&[(5, 3, 2), (4, 2, 1), (3, 1, 3)], &[9, 8]),
            spec(&[], &[]),
            spec(&[(1, 4, 4)], &[]),
            resnet(),
        ]
    }

    fn loaded(spec: Cnn, flat: &[f32]) -> Convolutions {
        let network = Convolutions::new(&spec, None, None, Device::Cpu).unwrap();
        let layout = ModelSpec::Cnn(spec).layout(&Data::default()).unwrap();
        load(network.store(), &layout, flat).unwrap();
        network
    }

    fn logits(network: &Convolutions, images: &Tensor, mode: Mode) -> Vec<f32> {
        let images = [images.shallow_clone()];
        tch::no_grad(|| network.forward(&images, mode).unwrap()).view(-1).try_into().unwrap()
    }

    #[test]
    fn names_and_shapes_are_those_of_the_studys_layout() {
        for spec in specs() {
            let network = Convolutions::new(&spec, None, None, Device::Cpu).unwrap();
            let layout = ModelSpec::Cnn(spec).layout(&Data::default()).unwrap();
            variables(network.store(), &layout).unwrap();
        }
    }

    #[test]
    fn another_layout_is_told_by_the_tensor() {
        let [one, deeper, ..] = specs();
        let network = Convolutions::new(&one, None, None, Device::Cpu).unwrap();
        let told = |spec| {
            let layout = ModelSpec::Cnn(spec).layout(&Data::default()).unwrap();
            variables(network.store(), &layout).unwrap_err().message
        };
        assert_eq!(told(deeper), "this worker's model has no tensor conv2.weight");
        assert_eq!(
            told(spec(&[(5, 3, 2)], &[])),
            "tensor output.weight is [3, 7] in this worker, [3, 240] in the study"
        );
        let mut shorter = spec(&[(5, 3, 2)], &[]);
        shorter.dense = Vec::new();
        let network = Convolutions::new(&shorter, None, None, Device::Cpu).unwrap();
        let layout = ModelSpec::Cnn(one).layout(&Data::default()).unwrap();
        variables(network.store(), &layout).unwrap_err();
    }

    #[test]
    fn weights_go_in_and_out_unchanged() {
        for spec in specs() {
            let network = Convolutions::new(&spec, None, None, Device::Cpu).unwrap();
            let model = ModelSpec::Cnn(spec);
            let layout = model.layout(&Data::default()).unwrap();
            let flat = model.initial(&Data::default(), 5).unwrap();
            load(network.store(), &layout, &flat).unwrap();
            assert_eq!(flatten(network.store(), &layout).unwrap(), flat);
        }
    }

    #[test]
    fn the_forward_pass_is_the_families() {
        // One 3×3 kernel of 255s over bytes ÷ 255, one pool: by hand on a ramp.
        let mut spec = spec(&[(1, 3, 2)], &[]);
        spec.input = Image { channels: 1, height: 4, width: 5 };
        let flat: Vec<f32> =
            [255.0; 9].into_iter().chain([-1.0, 1.0, 2.0, -1.0, 0.5, 0.0, 0.0]).collect();
        let network = loaded(spec, &flat);
        let ramp: Vec<u8> = (0..20).collect();
        let logits = logits(&network, &Tensor::from_slice(&ramp).view([1, 1, 4, 5]), Mode::Score);
        // The largest sum under the pool: rows 1–3, columns 1–3 of the ramp give 9 · 12 = 108.
        let near = logits.iter().zip([107.5, 214.0, -107.0]).all(|(a, b)| (a - b).abs() < 1e-3);
        assert!(near, "{logits:?}");
    }

    type Plane = [[f64; 2]; 2];

    /// ReLU(x' + norm2(conv2(ReLU(norm1(conv1 x))))) written out in f64 for one-pixel kernels, where
    /// each convolution is a matrix.
    #[test]
    fn a_residual_block_is_the_papers() {
        let mut spec = spec(&[(2, 1, 1)], &[]);
        spec.input = Image { channels: 1, height: 1, width: 2 };
        (spec.conv[0].norm, spec.conv[0].residual, spec.global_pool) = (1, true, true);
        // conv1, norm1 (scale, shift), conv2 (2×2), norm2, skip, skip_norm; the output copies.
        let block = [2.0, -1.0, 1.0, 0.5, 0.1, -0.2, 1.0, 0.5, -1.0, 3.0, 1.5, 1.0, 0.0, 0.3];
        let rest = [0.7, -0.4, 1.0, 2.0, 0.2, 0.1, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0];
        let flat: Vec<f32> = block.into_iter().chain(rest).collect();
        let network = loaded(spec, &flat);
        let pixels = [0.2_f64, 1.0];
        let images = Tensor::from_slice(&[51_u8, 255]).view([1, 1, 1, 2]);
        // Channels × pixels; one group, so mean and variance are over all four.
        let norm = |x: Plane, scale: [f64; 2], shift: [f64; 2]| -> Plane {
            let mean = x.as_flattened().iter().sum::<f64>() / 4.0;
            let variance = x.as_flattened().iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 4.0;
            let deviation = (variance + 1e-5).sqrt();
            [0, 1].map(|c| x[c].map(|x| (x - mean) / deviation * scale[c] + shift[c]))
        };
        let first = norm([2.0, -1.0].map(|w| pixels.map(|x| w * x)), [1.0, 0.5], [0.1, -0.2]);
        let first = first.map(|channel| channel.map(|x| x.max(0.0)));
        let mixed = [[1.0, 0.5], [-1.0, 3.0]]
            .map(|w| [0, 1].map(|pixel| w[0] * first[0][pixel] + w[1] * first[1][pixel]));
        let second = norm(mixed, [1.5, 1.0], [0.0, 0.3]);
        let skip = norm([0.7, -0.4].map(|w| pixels.map(|x| w * x)), [1.0, 2.0], [0.2, 0.1]);
        let mean = [0, 1].map(|channel: usize| {
            let sum = |pixel: usize| (second[channel][pixel] + skip[channel][pixel]).max(0.0);
            f64::midpoint(sum(0), sum(1))
        });
        let have = logits(&network, &images, Mode::Score);
        for (have, need) in have.iter().zip([mean[0], mean[1], mean[0] + mean[1]]) {
            assert!((f64::from(*have) - need).abs() < 1e-4, "{have} {need}");
        }
    }

    #[test]
    fn dropout_acts_in_training_and_not_in_scoring() {
        let spec = resnet();
        let flat = ModelSpec::Cnn(spec.clone()).initial(&Data::default(), 5).unwrap();
        let network = loaded(spec, &flat);
        let bytes: Vec<u8> = (0..2 * 19 * 14_u32).map(|i| (i * i % 251) as u8).collect();
        let images = Tensor::from_slice(&bytes).view([1, 2, 19, 14]);
        let told = |mode| logits(&network, &images, mode);
        assert_eq!(told(Mode::Score), told(Mode::Score));
        let drawn: Vec<_> = (0..8).map(|_| told(Mode::Train)).collect();
        assert!(drawn.iter().any(|other| *other != drawn[0]), "{drawn:?}");
    }
}
