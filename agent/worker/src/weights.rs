//! A network's variables ↔ the flat vector of the study's layout ↔ safetensors files.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use consilium_common::study::tensors::LocalTensor;
use consilium_common::tensor::file::{from_safetensors, to_safetensors};
use consilium_common::tensor::layout::Layout;
use consilium_common::worker::FailureCode;
use consilium_io::disk::replace::replace_private;
use tch::nn::VarStore;
use tch::{Tensor, no_grad};

use crate::failure::Failure;
use crate::local::Kept;

/// A safetensors header at most: names and shapes of 4,096 tensors.
pub(crate) const HEADER_BYTES_MAX: u64 = 4 << 20;

fn mismatch(message: String) -> Failure {
    Failure::new(FailureCode::ModelMismatch, message)
}

/// The store's variables in the order of `layout`, and those that the study keeps at each site, as
/// they start: together exactly all.
pub(crate) fn sort_out(
    store: &VarStore,
    layout: &Layout,
    local: &[LocalTensor],
) -> Result<(Vec<Tensor>, Kept), Failure> {
    let mut named = store.variables();
    let mut take = |name: &str, shape: &[u32]| {
        let Some(variable) = named.remove(name) else {
            return Err(mismatch(format!("this worker's model has no tensor {name}")));
        };
        let need: Vec<i64> = shape.iter().copied().map(i64::from).collect();
        if variable.size() != need {
            let have = variable.size();
            let message =
                format!("tensor {name} is {have:?} in this worker, {need:?} in the study");
            return Err(mismatch(message));
        }
        Ok(variable)
    };
    let (mut shared, mut kept) = (Vec::new(), Kept::default());
    for tensor in layout.tensors() {
        shared.push(take(&tensor.name, &tensor.shape)?);
    }
    for LocalTensor { name, shape, values } in local {
        let variable = take(name, shape)?;
        copy(values, &variable)?;
        kept.insert(name, variable)?;
    }
    match named.into_keys().min() {
        None => Ok((shared, kept)),
        Some(name) => Err(mismatch(format!("the study's layout has no tensor {name}"))),
    }
}

fn copy(values: &[f32], variable: &Tensor) -> Result<(), Failure> {
    let values = Tensor::f_from_slice(values)?.f_view(variable.size().as_slice())?;
    no_grad(|| variable.shallow_clone().f_copy_(&values))?;
    Ok(())
}

/// Copies `flat` into the variables of `layout`, in its order. `flat` must be of its length.
pub(crate) fn fill(variables: &[Tensor], layout: &Layout, flat: &[f32]) -> Result<(), Failure> {
    for (tensor, variable) in layout.tensors().iter().zip(variables) {
        copy(flat.get(tensor.offset..tensor.offset + tensor.len).unwrap_or_default(), variable)?;
    }
    Ok(())
}

/// The variables of `layout`, in its order, as one vector.
pub(crate) fn gather(variables: &[Tensor], layout: &Layout) -> Result<Vec<f32>, Failure> {
    let mut flat = vec![0.0; layout.len()];
    for (tensor, variable) in layout.tensors().iter().zip(variables) {
        if let Some(values) = flat.get_mut(tensor.offset..tensor.offset + tensor.len) {
            variable.f_detach()?.f_contiguous()?.f_copy_data(values, tensor.len)?;
        }
    }
    Ok(flat)
}

/// Reads a file of exactly these tensors, all of their numbers finite; `what` it is, for errors.
pub(crate) fn read(path: &Path, layout: &Layout, what: &str) -> Result<Vec<f32>, Failure> {
    let at = |error: &dyn std::fmt::Display| format!("{what} {}: {error}", path.display());
    let broken = |error: std::io::Error| Failure::new(FailureCode::Internal, at(&error));
    let bound = HEADER_BYTES_MAX + 4 * layout.len() as u64;
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(broken)?;
    file.take(bound).read_to_end(&mut bytes).map_err(broken)?;
    let flat = from_safetensors(&bytes, layout).map_err(|error| mismatch(at(&error)))?;
    if flat.iter().all(|x| x.is_finite()) {
        Ok(flat)
    } else {
        Err(mismatch(at(&"it holds NaN or infinity")))
    }
}

/// Numbers that training left, none of them NaN or infinite.
pub(crate) fn all_finite(flat: &[f32]) -> Result<(), Failure> {
    if flat.iter().all(|x| x.is_finite()) {
        return Ok(());
    }
    let message = "a weight became NaN or infinite: lower training.learning_rate";
    Err(Failure::new(FailureCode::Diverged, message))
}

/// Writes what was trained, readable by its owner alone: a model with its base tells what the site has
/// learnt. `what` it is, for errors.
pub(crate) fn write(path: &Path, layout: &Layout, flat: &[f32], what: &str) -> Result<(), Failure> {
    let internal = |error: &dyn std::fmt::Display| {
        Failure::new(FailureCode::Internal, format!("saving {what}: {error}"))
    };
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = to_safetensors(layout, flat, metadata).map_err(|error| internal(&error))?;
    replace_private(path, &bytes).map_err(|error| internal(&error))
}

/// The store's variables of a study that keeps none at the sites.
#[cfg(test)]
pub(crate) fn variables(store: &VarStore, layout: &Layout) -> Result<Vec<Tensor>, Failure> {
    Ok(sort_out(store, layout, &[])?.0)
}

/// Fills them.
#[cfg(test)]
pub(crate) fn load(store: &VarStore, layout: &Layout, flat: &[f32]) -> Result<(), Failure> {
    fill(&variables(store, layout)?, layout, flat)
}

/// Reads them.
#[cfg(test)]
pub(crate) fn flatten(store: &VarStore, layout: &Layout) -> Result<Vec<f32>, Failure> {
    gather(&variables(store, layout)?, layout)
}
