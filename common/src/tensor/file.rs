//! safetensors: how a model enters and leaves, and how it reaches the worker.

use std::collections::HashMap;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::le;
use crate::limits::SAFETENSORS_HEAD_BYTES_MAX;
use crate::tensor::layout::{Layout, Tensor};

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
    /// The file ends early, or goes on behind its tensors.
    #[error("the file has {have} bytes, {need} expected")]
    Length {
        /// Bytes given.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
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

/// The bytes before the vector of a safetensors file whose tensors lie in layout order, names and
/// shapes as PyTorch would have them: this head and the vector's bytes are the whole file.
///
/// # Errors
/// A layout that the format cannot hold.
pub fn safetensors_head<S: std::hash::BuildHasher>(
    layout: &Layout,
    metadata: HashMap<String, String, S>,
) -> Result<Vec<u8>, FileError> {
    let format = |error: &dyn std::fmt::Display| FileError::Format(error.to_string());
    let info = |tensor: &Tensor| TensorInfo {
        dtype: Dtype::F32,
        shape: shape_of(tensor),
        data_offsets: (4 * tensor.offset, 4 * (tensor.offset + tensor.len)),
    };
    let tensors = layout.tensors().iter().map(|tensor| (tensor.name.clone(), info(tensor)));
    let metadata: HashMap<String, String> = metadata.into_iter().collect();
    let metadata = (!metadata.is_empty()).then_some(metadata);
    let metadata = Metadata::new(metadata, tensors.collect()).map_err(|e| format(&e))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|e| format(&e))?;
    // Tensors start at multiples of 8 bytes; blanks fill the gap (safetensors, "Format").
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut head = (json.len() as u64).to_le_bytes().to_vec();
    head.extend(json);
    Ok(head)
}

/// Writes `vector` in `layout` as safetensors.
///
/// # Errors
/// `vector` has another length than the layout.
pub fn to_safetensors<S: std::hash::BuildHasher>(
    layout: &Layout,
    vector: &[f32],
    metadata: HashMap<String, String, S>,
) -> Result<Vec<u8>, FileError> {
    let (have, need) = (vector.len(), layout.len());
    if have != need {
        return Err(FileError::Length { have: 4 * have as u64, need: 4 * need as u64 });
    }
    let mut file = safetensors_head(layout, metadata)?;
    file.reserve_exact(4 * vector.len());
    le::extend_f32(&mut file, vector);
    Ok(file)
}

/// Where the tensors of a layout lie in a safetensors file that has exactly them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places(Vec<u64>);

impl Places {
    /// Bytes of the head of a file that starts with `length`: these 8 and what they speak of.
    ///
    /// # Errors
    /// A head of more than [`SAFETENSORS_HEAD_BYTES_MAX`].
    pub fn head_bytes(length: [u8; 8]) -> Result<usize, FileError> {
        let json = u64::from_le_bytes(length);
        let head = usize::try_from(json).ok().and_then(|json| json.checked_add(length.len()));
        head.filter(|&head| head <= SAFETENSORS_HEAD_BYTES_MAX).ok_or_else(|| {
            let max = SAFETENSORS_HEAD_BYTES_MAX;
            FileError::Format(format!("its header claims {json} bytes, at most {max} are read"))
        })
    }

    /// Reads the head of a file of `total` bytes.
    ///
    /// # Errors
    /// Not safetensors; tensors missing, unknown or of another shape or type; another length.
    pub fn read(head: &[u8], total: u64, layout: &Layout) -> Result<Self, FileError> {
        let json = head.get(8..).unwrap_or_default();
        let file: Metadata = serde_json::from_slice(json)
            .map_err(|error| FileError::Format(format!("its header: {error}")))?;
        let start = head.len() as u64;
        let need = start + file.data_len() as u64;
        if total != need {
            return Err(FileError::Length { have: total, need });
        }
        let mut places = Vec::with_capacity(layout.tensors().len());
        for tensor in layout.tensors() {
            let name = &tensor.name;
            let info = file.info(name).ok_or_else(|| FileError::Missing(name.clone()))?;
            let shape = shape_of(tensor);
            if info.dtype != Dtype::F32 || info.shape != shape {
                let have = format!("{:?} {:?}", info.dtype, info.shape);
                let need = format!("F32 {shape:?}");
                return Err(FileError::Shape { name: name.clone(), have, need });
            }
            places.push(start + info.data_offsets.0 as u64);
        }
        // The layout's names are all there and all different: one more is a stranger.
        let known = |name: &String| layout.tensors().iter().any(|tensor| tensor.name == *name);
        let names = file.offset_keys();
        if names.len() > places.len()
            && let Some(unknown) = names.into_iter().find(|name| !known(name))
        {
            return Err(FileError::Unknown(unknown));
        }
        Ok(Self(places))
    }

    /// Where in the file each tensor of the layout starts, in the layout's order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().copied()
    }
}

/// Reads a safetensors file that must hold exactly the tensors of `layout`.
///
/// # Errors
/// See [`Places::read`].
pub fn from_safetensors(bytes: &[u8], layout: &Layout) -> Result<Vec<f32>, FileError> {
    let short = || FileError::Format("it is shorter than its header".to_owned());
    let length = bytes.first_chunk().ok_or_else(short)?;
    let head = bytes.get(..Places::head_bytes(*length)?).ok_or_else(short)?;
    let places = Places::read(head, bytes.len() as u64, layout)?;
    let mut vector = Vec::with_capacity(layout.len());
    for (tensor, place) in layout.tensors().iter().zip(places.iter()) {
        let start = usize::try_from(place).map_err(|_| short())?;
        let data = bytes.get(start..start + 4 * tensor.len).ok_or_else(short)?;
        vector.extend(le::f32s(data));
    }
    Ok(vector)
}

fn shape_of(tensor: &Tensor) -> Vec<usize> {
    tensor.shape.iter().map(|&d| d as usize).collect()
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
        assert!(matches!(from_safetensors(&[0xff; 64], &one), Err(FileError::Format(_))));
        let short = bytes.split_last().unwrap().1;
        assert!(matches!(from_safetensors(short, &one), Err(FileError::Length { .. })));
    }

    /// What other programs write: tensors in another order than the layout's, metadata beside them.
    #[test]
    fn tensors_are_found_wherever_they_lie() {
        let info = |shape: &[usize], data_offsets| TensorInfo {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            data_offsets,
        };
        let tensors = vec![
            ("a.bias".to_owned(), info(&[2], (0, 8))),
            ("z.weight".to_owned(), info(&[2, 2], (8, 24))),
        ];
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let json = serde_json::to_vec(&Metadata::new(Some(metadata), tensors).unwrap()).unwrap();
        let mut file = (json.len() as u64).to_le_bytes().to_vec();
        file.extend(json);
        le::extend_f32(&mut file, &[5.0, 6.0, 1.0, 2.0, 3.0, 4.0]);
        let vector = from_safetensors(&file, &layout(&[2, 2])).unwrap();
        assert_eq!(vector, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }

    #[test]
    fn the_reference_library_reads_what_we_write() {
        let layout = layout(&[2, 2]);
        let bytes =
            to_safetensors(&layout, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], HashMap::new()).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let bias = file.tensor("a.bias").unwrap();
        assert_eq!((bias.shape(), bias.data()[3]), (&[2_usize][..], 5.0_f32.to_le_bytes()[3]));
    }
}
