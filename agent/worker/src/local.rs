//! The site's local state as a file: the tensors of [`Network::local`](crate::model::Network::local) as
//! safetensors, which start where the last counted round left them, are trained with the others and
//! are written for the next. They are in no layout and no result.

use std::collections::BTreeMap;
use std::path::Path;

use consilium_common::limits::LOCAL_BYTES_MAX;
use consilium_common::tensor::layout::{Kind, Layout};
use consilium_common::worker::FailureCode;
use tch::Tensor;
use tch::nn::VarStore;

use crate::failure::Failure;
use crate::weights;

const WHAT: &str = "the local state";

/// Fills `store` from the file, which must hold exactly its tensors, all numbers finite.
pub(crate) fn read(path: &Path, store: &VarStore) -> Result<(), Failure> {
    let layout = layout(store)?;
    weights::load(store, &layout, &weights::read(path, &layout, WHAT)?)
}

/// Writes the tensors of `store`, whole or not at all, readable by their owner alone.
pub(crate) fn write(path: &Path, store: &VarStore) -> Result<(), Failure> {
    let layout = layout(store)?;
    let flat = weights::flatten(store, &layout)?;
    weights::all_finite(&flat)?;
    weights::write(path, &layout, &flat, WHAT)
}

/// The tensors that are trained, by name.
pub(crate) fn trained(store: &VarStore) -> Vec<Tensor> {
    sorted(store).into_values().filter(Tensor::requires_grad).collect()
}

fn sorted(store: &VarStore) -> BTreeMap<String, Tensor> {
    store.variables().into_iter().collect()
}

/// The tensors by name, one after another; within what a site keeps.
fn layout(store: &VarStore) -> Result<Layout, Failure> {
    let mismatch = |message: String| Failure::new(FailureCode::ModelMismatch, message);
    let size = |size: &i64| u32::try_from(*size).unwrap_or(u32::MAX);
    let specs = sorted(store).into_iter().map(|(name, tensor)| {
        (name, tensor.size().iter().map(size).collect::<Vec<u32>>(), Kind::Weight)
    });
    let layout = Layout::new(specs).map_err(|error| mismatch(format!("{WHAT}: {error}")))?;
    let bytes = 4 * layout.len() as u64;
    if bytes <= LOCAL_BYTES_MAX - weights::HEADER_BYTES_MAX {
        return Ok(layout);
    }
    let message = format!("{WHAT} would have {bytes} bytes, a site keeps {LOCAL_BYTES_MAX}");
    Err(mismatch(message))
}

#[cfg(test)]
mod tests {
    use consilium_io::disk::replace::replace_private;
    use tch::{Device, no_grad};

    use super::*;

    fn store(tensors: &[(&str, i64, f64)]) -> VarStore {
        let store = VarStore::new(Device::Cpu);
        for (name, len, value) in tensors {
            let mut tensor = store.root().zeros(name, &[*len]);
            let _ = no_grad(|| tensor.fill_(*value));
        }
        store
    }

    fn halves(store: &VarStore, name: &str) -> i64 {
        (&store.variables()[name] * 2).int64_value(&[0])
    }

    #[test]
    fn what_was_kept_is_what_the_next_round_starts_from() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("local");
        write(&path, &store(&[("b", 3, 2.5), ("a", 1, -1.0)])).unwrap();
        let next = store(&[("a", 1, 0.0), ("b", 3, 0.0)]);
        read(&path, &next).unwrap();
        assert_eq!(["a", "b"].map(|name| halves(&next, name)), [-2, 5]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no file left over");
    }

    #[test]
    fn a_file_of_other_tensors_or_without_numbers_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("local");
        let refused = |store: &VarStore| {
            let failure = read(&path, store).unwrap_err();
            assert_eq!(failure.code, FailureCode::ModelMismatch, "{failure}");
            failure.message
        };
        write(&path, &store(&[("a", 2, 1.0)])).unwrap();
        assert!(refused(&store(&[("b", 2, 0.0)])).contains("no tensor b"));
        assert!(refused(&store(&[("a", 3, 0.0)])).contains("[3]"));
        assert!(refused(&store(&[("a", 2, 0.0), ("b", 1, 0.0)])).contains("no tensor b"));
        for text in [&b"rubbish"[..], b""] {
            replace_private(&path, text).unwrap();
            assert!(refused(&store(&[("a", 2, 0.0)])).starts_with("the local state "));
        }
        let bad = store(&[("a", 2, f64::NAN)]);
        assert_eq!(write(&path, &bad).unwrap_err().code, FailureCode::Diverged);
        let layout = layout(&bad).unwrap();
        weights::write(&path, &layout, &[1.0, f32::INFINITY], WHAT).unwrap();
        assert!(refused(&store(&[("a", 2, 0.0)])).contains("NaN or infinity"));
    }
}
