//! `cnn`: the stack that `consilium_common::study::model::cnn` describes, with the same names and
//! shapes. Convolution (stride 1, no padding) → ReLU → max-pool, …, flatten, dense → ReLU, …, output.

use consilium_common::study::StudyError;
use consilium_common::study::model::Cnn;
use consilium_common::worker::FailureCode;
use tch::nn::{Path, VarStore};
use tch::{Device, TchError, Tensor};

use crate::failure::Failure;

/// A network whose parameters lie in a [`VarStore`], zero until weights are loaded.
#[derive(Debug)]
pub(crate) struct Network {
    store: VarStore,
    convolutions: Vec<(Affine, i64)>,
    dense: Vec<Affine>,
    output: Affine,
}

/// Weight and bias of one layer. Both share their storage with the store's variables.
#[derive(Debug)]
struct Affine {
    weight: Tensor,
    bias: Tensor,
}

impl Affine {
    /// `shape` is the weight's, outputs first.
    fn new(path: &Path<'_>, shape: &[u32]) -> Result<Self, TchError> {
        let shape: Vec<i64> = shape.iter().copied().map(i64::from).collect();
        let (outputs, _) = shape.split_at(1);
        Ok(Self { weight: path.f_zeros("weight", &shape)?, bias: path.f_zeros("bias", outputs)? })
    }
}

impl From<StudyError> for Failure {
    fn from(error: StudyError) -> Self {
        Self::new(FailureCode::ModelMismatch, error.to_string())
    }
}

impl Network {
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
        let mut inputs = spec.features()?;
        let mut dense = Vec::with_capacity(spec.dense.len());
        for (i, &width) in (1..).zip(&spec.dense) {
            dense.push(Affine::new(&(&root / format!("dense{i}")), &[width, inputs])?);
            inputs = width;
        }
        let outputs = u32::try_from(spec.classes.len()).unwrap_or(u32::MAX);
        let output = Affine::new(&(&root / "output"), &[outputs, inputs])?;
        Ok(Self { store, convolutions, dense, output })
    }

    pub(crate) fn store(&self) -> &VarStore {
        &self.store
    }

    /// Images (records × channels × height × width, f32) to logits (records × classes).
    pub(crate) fn forward(&self, images: &Tensor) -> Result<Tensor, TchError> {
        let mut x = images.shallow_clone();
        for (Affine { weight, bias }, pool) in &self.convolutions {
            x = x.f_conv2d(weight, Some(bias), [1, 1], [0, 0], [1, 1], 1)?.f_relu_()?;
            if *pool > 1 {
                x = x.f_max_pool2d([*pool, *pool], [*pool, *pool], [0, 0], [1, 1], false)?;
            }
        }
        x = x.f_flatten(1, -1)?;
        for Affine { weight, bias } in &self.dense {
            x = x.f_linear(weight, Some(bias))?.f_relu_()?;
        }
        x.f_linear(&self.output.weight, Some(&self.output.bias))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{flatten, load, variables};
    use consilium_common::study::ModelSpec;
    use consilium_common::study::model::cnn::{Conv, Image};

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
            let network = Network::new(&spec, Device::Cpu).unwrap();
            let layout = ModelSpec::Cnn(spec).layout().unwrap();
            variables(network.store(), &layout).unwrap();
        }
    }

    #[test]
    fn another_layout_is_told_by_the_tensor() {
        let [one, deeper, ..] = specs();
        let network = Network::new(&one, Device::Cpu).unwrap();
        let told = |spec| {
            let layout = ModelSpec::Cnn(spec).layout().unwrap();
            variables(network.store(), &layout).unwrap_err().message
        };
        assert_eq!(told(deeper), "this worker's model has no tensor conv2.weight");
        assert_eq!(
            told(spec(&[(5, 3, 2)], &[])),
            "tensor output.weight is [3, 7] in this worker, [3, 240] in the study"
        );
        let mut shorter = spec(&[(5, 3, 2)], &[]);
        shorter.dense = Vec::new();
        let network = Network::new(&shorter, Device::Cpu).unwrap();
        let layout = ModelSpec::Cnn(one).layout().unwrap();
        variables(network.store(), &layout).unwrap_err();
    }

    #[test]
    fn weights_go_in_and_out_unchanged() {
        for spec in specs() {
            let network = Network::new(&spec, Device::Cpu).unwrap();
            let model = ModelSpec::Cnn(spec);
            let layout = model.layout().unwrap();
            let flat = model.initial(5).unwrap();
            load(network.store(), &layout, &flat).unwrap();
            assert_eq!(flatten(network.store(), &layout).unwrap(), flat);
        }
    }

    #[test]
    fn the_forward_pass_is_the_families() {
        // One 3×3 kernel of ones, one pool: by hand on a ramp.
        let mut spec = spec(&[(1, 3, 2)], &[]);
        spec.input = Image { channels: 1, height: 4, width: 5 };
        let network = Network::new(&spec, Device::Cpu).unwrap();
        let layout = ModelSpec::Cnn(spec).layout().unwrap();
        let flat: Vec<f32> =
            [1.0; 9].into_iter().chain([-1.0, 1.0, 2.0, -1.0, 0.5, 0.0, 0.0]).collect();
        load(network.store(), &layout, &flat).unwrap();
        let ramp: Vec<f32> = (0..20_u8).map(f32::from).collect();
        let images = Tensor::from_slice(&ramp).view([1, 1, 4, 5]);
        let logits: Vec<f32> =
            tch::no_grad(|| network.forward(&images).unwrap()).view(-1).try_into().unwrap();
        // The largest sum under the pool: rows 1–3, columns 1–3 of the ramp give 9 · 12 = 108.
        assert_eq!(logits, [107.5, 214.0, -107.0]);
    }
}
