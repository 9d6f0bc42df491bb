//! Models as people have them: safetensors files that hold exactly the tensors of a layout.

use std::path::{Path, PathBuf};

use consilium_common::limits::SAFETENSORS_HEAD_BYTES_MAX;
use consilium_common::tensor::file::{FileError, from_safetensors};
use consilium_common::tensor::layout::Layout;

use super::text::{TextError, read_file};

/// Why a file is not a model of a layout.
#[derive(Debug, thiserror::Error)]
pub enum ModelFileError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] TextError),
    /// Not safetensors, or other tensors.
    #[error("{}: {source}", path.display())]
    Tensors {
        /// The path as given.
        path: PathBuf,
        /// What is wrong.
        source: FileError,
    },
    /// Nothing can start from it.
    #[error("{} holds NaN or infinity", path.display())]
    NotFinite {
        /// The path as given.
        path: PathBuf,
    },
}

/// Reads the vector of a model, in the order of the layout; all of its numbers are finite.
///
/// # Errors
/// One variant of [`ModelFileError`] per cause.
pub fn read_safetensors(path: &Path, layout: &Layout) -> Result<Vec<f32>, ModelFileError> {
    let bytes = read_file(path, SAFETENSORS_HEAD_BYTES_MAX + 4 * layout.len())?;
    let vector = from_safetensors(&bytes, layout)
        .map_err(|source| ModelFileError::Tensors { path: path.to_owned(), source })?;
    if vector.iter().all(|x| x.is_finite()) {
        Ok(vector)
    } else {
        Err(ModelFileError::NotFinite { path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use consilium_common::tensor::file::to_safetensors;
    use consilium_common::tensor::layout::Kind;

    use super::*;
    use crate::disk::replace;

    #[test]
    fn a_model_of_the_layout_is_read_and_any_other_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.safetensors");
        let layout = |len| Layout::new([("a".to_owned(), vec![len], Kind::Weight)]).unwrap();
        let put = |vector: &[f32]| {
            let none = HashMap::<String, String>::new();
            replace(&path, &to_safetensors(&layout(2), vector, none).unwrap()).unwrap();
        };
        assert!(matches!(read_safetensors(&path, &layout(2)), Err(ModelFileError::File(_))));
        put(&[1.5, -2.0]);
        assert_eq!(read_safetensors(&path, &layout(2)).unwrap(), [1.5, -2.0]);
        let other = read_safetensors(&path, &layout(3)).unwrap_err().to_string();
        assert!(other.contains("m.safetensors: tensor a is"), "{other}");
        put(&[1.5, f32::INFINITY]);
        assert!(matches!(
            read_safetensors(&path, &layout(2)),
            Err(ModelFileError::NotFinite { .. })
        ));
    }
}
