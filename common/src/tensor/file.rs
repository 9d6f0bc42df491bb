//! safetensors: how a model enters and leaves, and how it reaches the worker.

use std::collections::HashMap;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use crate::tensor::flat::decode_f32;
use crate::tensor::layout::Layout;

/// Why a safetensors file does not hold this model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Not safetensors.
    #[error("not a safetensors file: {0}")]
    Format(String),
    /// A tensor of the layout is missing.
    #[error("the file has no tensor {0}; the layout needs it")]
    Missing(String),
    /// A tensor that the layout does not have.
    #[error("the file has a tensor {0} that the layout does not know")]
    Unknown(String),
    /// Another shape or element type.
    #[error("tensor {name} is {have} in the file, {need} in the layout")]
    Shape {
        /// Which tensor.
        name: String,
        /// In the file.
        have: String,
        /// In the layout.
        need: String,
    },
}

/// Writes `vector` in `layout` as safetensors, names and shapes as PyTorch would have them.
///
/// # Errors
/// `vector` has another length than the layout.
pub fn to_safetensors<S: std::hash::BuildHasher>(
    layout: &Layout,
    vector: &[f32],
    metadata: HashMap<String, String, S>,
) -> Result<Vec<u8>, FileError> {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut views = Vec::with_capacity(layout.tensors().len());
    for tensor in layout.tensors() {
        let range = 4 * tensor.offset..4 * (tensor.offset + tensor.len);
        let data = bytes.get(range).ok_or_else(|| FileError::Missing(tensor.name.clone()))?;
        let shape = tensor.shape.iter().map(|&d| d as usize).collect();
        let view = TensorView::new(Dtype::F32, shape, data)
            .map_err(|error| FileError::Format(error.to_string()))?;
        views.push((tensor.name.as_str(), view));
    }
    let metadata: HashMap<String, String> = metadata.into_iter().collect();
    let metadata = (!metadata.is_empty()).then_some(metadata);
    safetensors::serialize(views, metadata).map_err(|error| FileError::Format(error.to_string()))
}

/// Reads a safetensors file that must hold exactly the tensors of `layout`.
///
/// # Errors
/// Not safetensors; tensors missing, unknown or of another shape or type.
pub fn from_safetensors(bytes: &[u8], layout: &Layout) -> Result<Vec<f32>, FileError> {
    let file =
        SafeTensors::deserialize(bytes).map_err(|error| FileError::Format(error.to_string()))?;
    for name in file.names() {
        if !layout.tensors().iter().any(|tensor| tensor.name == *name) {
            return Err(FileError::Unknown(name.to_owned()));
        }
    }
    let mut vector = Vec::with_capacity(layout.len());
    for tensor in layout.tensors() {
        let name = &tensor.name;
        let view = file.tensor(name).map_err(|_| FileError::Missing(name.clone()))?;
        let shape: Vec<usize> = tensor.shape.iter().map(|&d| d as usize).collect();
        if view.dtype() != Dtype::F32 || view.shape() != shape {
            let have = format!("{:?} {:?}", view.dtype(), view.shape());
            let need = format!("F32 {shape:?}");
            return Err(FileError::Shape { name: name.clone(), have, need });
        }
        vector.extend(decode_f32(view.data()));
    }
    Ok(vector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::layout::Kind;

    fn layout(shape: &[u32]) -> Layout {
        let spec = |name: &str, shape: &[u32]| (name.to_owned(), shape.to_vec(), Kind::Weight);
        Layout::new([spec("z.weight", shape), spec("a.bias", &[2])]).unwrap()
    }

    #[test]
    fn a_model_survives_safetensors_in_layout_order() {
        let layout = layout(&[2, 2]);
        let vector = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let bytes = to_safetensors(&layout, &vector, HashMap::new()).unwrap();
        assert_eq!(from_safetensors(&bytes, &layout).unwrap(), vector);
    }

    #[test]
    fn other_models_are_refused_by_tensor_name() {
        let bytes = to_safetensors(&layout(&[4]), &[0.0; 6], HashMap::new()).unwrap();
        let error = from_safetensors(&bytes, &layout(&[2, 2])).unwrap_err();
        assert!(matches!(error, FileError::Shape { ref name, .. } if name == "z.weight"));
        let one = Layout::new([("a.bias".to_owned(), vec![2], Kind::Weight)]).unwrap();
        assert_eq!(from_safetensors(&bytes, &one), Err(FileError::Unknown("z.weight".into())));
        let bytes = to_safetensors(&one, &[0.0; 2], HashMap::new()).unwrap();
        let error = from_safetensors(&bytes, &layout(&[4])).unwrap_err();
        assert_eq!(error, FileError::Missing("z.weight".into()));
        assert!(matches!(from_safetensors(b"junk", &one), Err(FileError::Format(_))));
    }
}
