//! The site's local state as a file: the tensors of [`Network::local`](crate::model::Network::local) and
//! those that the study's `training.local` picks, as safetensors, which start where the last counted
//! round left them, are trained with the others and are written for the next. They are in no layout and
//! no result.

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

/// The tensors that stay at the site, by name. They share their storage with the network's.
#[derive(Debug, Default)]
pub(crate) struct Kept(BTreeMap<String, Tensor>);

impl Kept {
    /// All tensors of a store.
    pub(crate) fn of(store: &VarStore) -> Self {
        Self(store.variables().into_iter().collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes one more, whose name must be new.
    pub(crate) fn insert(&mut self, name: &str, tensor: Tensor) -> Result<(), Failure> {
        match self.0.insert(name.to_owned(), tensor) {
            None => Ok(()),
            Some(_) => Err(mismatch(format!("{WHAT} would have two tensors {name}"))),
        }
    }

    /// The tensors of both.
    pub(crate) fn and(mut self, more: &Self) -> Result<Self, Failure> {
        for (name, tensor) in &more.0 {
            self.insert(name, tensor.shallow_clone())?;
        }
        Ok(self)
    }

    /// Fills them from the file, which must hold exactly them, all numbers finite.
    pub(crate) fn read(&self, path: &Path) -> Result<(), Failure> {
        let layout = self.layout()?;
        weights::fill(&self.in_order(), &layout, &weights::read(path, &layout, WHAT)?)
    }

    /// Writes them, whole or not at all, readable by their owner alone.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        let layout = self.layout()?;
        let flat = weights::gather(&self.in_order(), &layout)?;
        weights::all_finite(&flat)?;
        weights::write(path, &layout, &flat, WHAT)
    }

    /// Those that are trained.
    pub(crate) fn trained(&self) -> Vec<Tensor> {
        self.in_order().into_iter().filter(Tensor::requires_grad).collect()
    }

    fn in_order(&self) -> Vec<Tensor> {
        self.0.values().map(Tensor::shallow_clone).collect()
    }

    /// The tensors by name, one after another; within what a site keeps.
    fn layout(&self) -> Result<Layout, Failure> {
        let size = |size: &i64| u32::try_from(*size).unwrap_or(u32::MAX);
        let specs = self.0.iter().map(|(name, tensor)| {
            let shape: Vec<u32> = tensor.size().iter().map(size).collect();
            (name.clone(), shape, Kind::Weight)
        });
        let layout = Layout::new(specs).map_err(|error| mismatch(format!("{WHAT}: {error}")))?;
        let bytes = 4 * layout.len() as u64;
        if bytes <= LOCAL_BYTES_MAX - weights::HEADER_BYTES_MAX {
            return Ok(layout);
        }
        let message = format!("{WHAT} would have {bytes} bytes, a site keeps {LOCAL_BYTES_MAX}");
        Err(mismatch(message))
    }
}

fn mismatch(message: String) -> Failure {
    Failure::new(FailureCode::ModelMismatch, message)
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
        Kept::of(&store(&[("b", 3, 2.5), ("a", 1, -1.0)])).write(&path).unwrap();
        let next = store(&[("a", 1, 0.0), ("b", 3, 0.0)]);
        Kept::of(&next).read(&path).unwrap();
        assert_eq!(["a", "b"].map(|name| halves(&next, name)), [-2, 5]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no file left over");
    }

    #[test]
    fn what_the_family_and_the_study_keep_is_one_state_of_different_names() {
        let [family, study] = [&[("b", 1, 1.0)], &[("a", 2, 2.0)]].map(|tensors| store(tensors));
        let both = Kept::of(&study).and(&Kept::of(&family)).unwrap();
        assert_eq!((both.in_order().len(), both.trained().len()), (2, 2));
        let twice = both.and(&Kept::of(&family)).unwrap_err();
        assert!(twice.message.contains("two tensors b"), "{twice}");
    }

    #[test]
    fn a_file_of_other_tensors_or_without_numbers_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("local");
        let refused = |store: &VarStore| {
            let failure = Kept::of(store).read(&path).unwrap_err();
            assert_eq!(failure.code, FailureCode::ModelMismatch, "{failure}");
            failure.message
        };
        Kept::of(&store(&[("a", 2, 1.0)])).write(&path).unwrap();
        assert!(refused(&store(&[("b", 2, 0.0)])).contains("no tensor b"));
        assert!(refused(&store(&[("a", 3, 0.0)])).contains("[3]"));
        assert!(refused(&store(&[("a", 2, 0.0), ("b", 1, 0.0)])).contains("no tensor b"));
        for text in [&b"rubbish"[..], b""] {
            replace_private(&path, text).unwrap();
            assert!(refused(&store(&[("a", 2, 0.0)])).starts_with("the local state "));
        }
        let bad = store(&[("a", 2, f64::NAN)]);
        let bad = Kept::of(&bad);
        assert_eq!(bad.write(&path).unwrap_err().code, FailureCode::Diverged);
        let layout = bad.layout().unwrap();
        weights::write(&path, &layout, &[1.0, f32::INFINITY], WHAT).unwrap();
        assert!(refused(&store(&[("a", 2, 0.0)])).contains("NaN or infinity"));
    }
}
