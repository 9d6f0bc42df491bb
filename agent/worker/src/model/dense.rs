//! Dense layers, named as `consilium_common::study::model::dense` names them: `dense1`, `dense2`,
//! …, each followed by ReLU and dropout, then `output`.

use tch::nn::Path;
use tch::{TchError, Tensor};

/// Weight and bias of one layer. Both share their storage with the store's variables.
#[derive(Debug)]
pub(crate) struct Affine {
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
}

impl Affine {
    /// `shape` is the weight's, outputs first.
    pub(crate) fn new(path: &Path<'_>, shape: &[u32]) -> Result<Self, TchError> {
        let shape: Vec<i64> = shape.iter().copied().map(i64::from).collect();
        let (outputs, _) = shape.split_at(1);
        Ok(Self { weight: path.f_zeros("weight", &shape)?, bias: path.f_zeros("bias", outputs)? })
    }

    /// Records × inputs to records × outputs.
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, TchError> {
        x.f_linear(&self.weight, Some(&self.bias))
    }
}

/// Hidden layers and the output.
#[derive(Debug)]
pub(crate) struct Dense {
    hidden: Vec<Affine>,
    output: Affine,
}

impl Dense {
    pub(crate) fn new(
        root: &Path<'_>,
        mut inputs: u32,
        widths: &[u32],
        outputs: u32,
    ) -> Result<Self, TchError> {
        let mut hidden = Vec::with_capacity(widths.len());
        for (i, &width) in (1..).zip(widths) {
            hidden.push(Affine::new(&(root / format!("dense{i}")), &[width, inputs])?);
            inputs = width;
        }
        Ok(Self { hidden, output: Affine::new(&(root / "output"), &[outputs, inputs])? })
    }

    /// Records × inputs to records × outputs; `dropout` is the share of hidden units left out.
    pub(crate) fn forward(&self, x: &Tensor, dropout: f64) -> Result<Tensor, TchError> {
        let mut x = x.shallow_clone();
        for layer in &self.hidden {
            x = layer.forward(&x)?.f_relu_()?;
            if dropout > 0.0 {
                x = x.f_dropout(dropout, true)?;
            }
        }
        self.output.forward(&x)
    }
}
