//! `cnn`: the stack that `consilium_common::study::model::cnn` describes, with the same names and
//! shapes. Convolution (stride 1, no padding) → ReLU → max-pool, …, flatten, dense → ReLU, …, output.

use consilium_common::study::model::Cnn;
use tch::nn::VarStore;
use tch::{Device, Kind, TchError, Tensor};

use super::dense::{Affine, Dense};
use super::{Mode, Network, only};
use crate::failure::Failure;

/// The stack.
#[derive(Debug)]
pub(crate) struct Convolutions {
    store: VarStore,
    convolutions: Vec<(Affine, i64)>,
    head: Dense,
}

impl Convolutions {
    /// Builds the layers of `spec` on `device`.
    pub(crate) fn new(spec: &Cnn, device: Device) -> Result<Self, Failure> {
        let store = VarStore::new(device);
        let root = store.root();
        let mut convolutions = Vec::with_capacity(spec.conv.len());
        let mut channels = spec.input.channels;
        for (i, conv) in (1..).zip(&spec.conv) {
            let shape = [conv.filters, channels, conv.kernel, conv.kernel];
            let layer = Affine::new(&(&root / format!("conv{i}")), &shape)?;
            convolutions.push((layer, i64::from(conv.pool)));
            channels = conv.filters;
        }
        let outputs = u32::try_from(spec.classes.len()).unwrap_or(u32::MAX);
        let head = Dense::new(&root, spec.features()?, &spec.dense, outputs)?;
        Ok(Self { store, convolutions, head })
    }
}

impl Network for Convolutions {
    fn store(&self) -> &VarStore {
        &self.store
    }

    /// Images (u8, records × channels × height × width) to logits (records × classes).
    fn forward(&self, inputs: &[Tensor], _mode: Mode) -> Result<Tensor, TchError> {
        let mut x = only(inputs)?.f_to_kind(Kind::Float)?.f_div_scalar_(255.0)?;
        for (Affine { weight, bias }, pool) in &self.convolutions {
            x = x.f_conv2d(weight, Some(bias), [1, 1], [0, 0], [1, 1], 1)?.f_relu_()?;
            if *pool > 1 {
                x = x.f_max_pool2d([*pool, *pool], [*pool, *pool], [0, 0], [1, 1], false)?;
            }
        }
        self.head.forward(&x.f_flatten(1, -1)?, 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{flatten, load, variables};
    use consilium_common::study::model::cnn::{Conv, Image};
    use consilium_common::study::{Data, ModelSpec};

    fn spec(conv: &[(u32, u32, u32)], dense: &[u32]) -> Cnn {
        let conv = conv.iter().map(|&(filters, kernel, pool)| Conv { filters, kernel, pool });
        Cnn {
            input: Image { channels: 2, height: 19, width: 14 },
            classes: vec!["a".to_owned(), "b".to_owned(), "c".to_owned()],
            conv: conv.collect(),
            dense: dense.to_vec(),
        }
    }

    fn specs() -> [Cnn; 4] {
        [
            spec(&[(5, 3, 2)], &[7]),
            spec(&[(5, 3, 2), (4, 2, 1), (3, 1, 3)], &[9, 8]),
            spec(&[], &[]),
            spec(&[(1, 4, 4)], &[]),
        ]
    }

    #[test]
    fn names_and_shapes_are_those_of_the_studys_layout() {
        for spec in specs() {
            let network = Convolutions::new(&spec, Device::Cpu).unwrap();
            let layout = ModelSpec::Cnn(spec).layout(&Data::default()).unwrap();
            variables(network.store(), &layout).unwrap();
        }
    }

    #[test]
    fn another_layout_is_told_by_the_tensor() {
        let [one, deeper, ..] = specs();
        let network = Convolutions::new(&one, Device::Cpu).unwrap();
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
        let network = Convolutions::new(&shorter, Device::Cpu).unwrap();
        let layout = ModelSpec::Cnn(one).layout(&Data::default()).unwrap();
        variables(network.store(), &layout).unwrap_err();
    }

    #[test]
    fn weights_go_in_and_out_unchanged() {
        for spec in specs() {
            let network = Convolutions::new(&spec, Device::Cpu).unwrap();
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
        let network = Convolutions::new(&spec, Device::Cpu).unwrap();
        let layout = ModelSpec::Cnn(spec).layout(&Data::default()).unwrap();
        let flat: Vec<f32> =
            [255.0; 9].into_iter().chain([-1.0, 1.0, 2.0, -1.0, 0.5, 0.0, 0.0]).collect();
        load(network.store(), &layout, &flat).unwrap();
        let ramp: Vec<u8> = (0..20).collect();
        let images = [Tensor::from_slice(&ramp).view([1, 1, 4, 5])];
        let logits: Vec<f32> = tch::no_grad(|| network.forward(&images, Mode::Score).unwrap())
            .view(-1)
            .try_into()
            .unwrap();
        // The largest sum under the pool: rows 1–3, columns 1–3 of the ramp give 9 · 12 = 108.
        let near = logits.iter().zip([107.5, 214.0, -107.0]).all(|(a, b)| (a - b).abs() < 1e-3);
        assert!(near, "{logits:?}");
    }
}
