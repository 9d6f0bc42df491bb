//! trained − base, its norm, and the scale that clips it.

use crate::tensor::layout::Layout;

/// Why a trained model gives no update.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// Vectors of other lengths than the layout.
    #[error("trained model has {have} parameters, the layout {need}")]
    Length {
        /// Parameters given.
        have: usize,
        /// Parameters of the layout.
        need: usize,
    },
    /// NaN or infinity.
    #[error("the trained model is not finite at parameter {0}: training diverged")]
    NotFinite(usize),
}

/// The delta over the layout's weights, in order; its length is `layout.weights_len()`.
///
/// # Errors
/// Lengths that do not fit, or a value that is not finite.
pub fn delta(layout: &Layout, base: &[f32], trained: &[f32]) -> Result<Vec<f32>, DeltaError> {
    let need = layout.len();
    if let Some(have) = [base.len(), trained.len()].into_iter().find(|&have| have != need) {
        return Err(DeltaError::Length { have, need });
    }
    let mut delta = Vec::with_capacity(layout.weights_len());
    for range in layout.weights() {
        let start = range.start;
        let trained = trained.get(range.clone()).unwrap_or_default();
        let base = base.get(range).unwrap_or_default();
        extend_delta(&mut delta, start, base, trained)?;
    }
    Ok(delta)
}

/// Appends trained − base of one piece of the vector, which starts at parameter `at`. Both have the
/// same length.
///
/// # Errors
/// A value that is not finite.
pub fn extend_delta(
    delta: &mut Vec<f32>,
    at: usize,
    base: &[f32],
    trained: &[f32],
) -> Result<(), DeltaError> {
    let before = delta.len();
    delta.extend(trained.iter().zip(base).map(|(t, b)| t - b));
    let added = delta.get(before..).unwrap_or_default();
    match added.iter().position(|x| !x.is_finite()) {
        Some(position) => Err(DeltaError::NotFinite(at + position)),
        None => Ok(()),
    }
}

/// The L2 norm of a vector that comes in pieces, summed in f64 in order.
#[derive(Debug, Clone, Copy, Default)]
pub struct Norm {
    squares: f64,
}

impl Norm {
    /// Takes the next piece.
    pub fn add(&mut self, values: &[f32]) {
        for &x in values {
            self.squares += f64::from(x) * f64::from(x);
        }
    }

    /// ‖x‖₂ of all pieces.
    #[must_use]
    pub fn l2(self) -> f64 {
        self.squares.sqrt()
    }
}

/// The L2 norm of `values`; see [`Norm`].
#[must_use]
pub fn l2_norm(values: &[f32]) -> f64 {
    let mut norm = Norm::default();
    norm.add(values);
    norm.l2()
}

/// The factor that brings a vector of this norm within `clip_norm`, 1 if it is within already.
/// Clipping is by the global norm: Δ · min(1, C/‖Δ‖₂) (Abadi et al. 2016, alg. 1).
#[must_use]
pub fn clip_scale(norm: f64, clip_norm: f64) -> f64 {
    if norm > clip_norm { clip_norm / norm } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::layout::Kind;

    fn layout() -> Layout {
        let frozen = ("fixed".to_owned(), vec![1], Kind::Frozen);
        let weight = |name: &str| (name.to_owned(), vec![2], Kind::Weight);
        Layout::new([weight("a"), frozen, weight("b")]).unwrap()
    }

    #[test]
    fn frozen_tensors_are_not_in_the_delta() {
        let trained = [2.0, 2.0, 9.0, 4.0, 5.0];
        assert_eq!(delta(&layout(), &[1.0; 5], &trained).unwrap(), [1.0, 1.0, 3.0, 4.0]);
    }

    #[test]
    fn what_is_not_finite_names_its_parameter() {
        let trained = [1.0, 1.0, 1.0, f32::NAN, 1.0];
        assert_eq!(delta(&layout(), &[0.0; 5], &trained), Err(DeltaError::NotFinite(3)));
        let overflow = delta(&layout(), &[f32::MIN; 5], &[f32::MAX; 5]);
        assert_eq!(overflow, Err(DeltaError::NotFinite(0)));
        let short = delta(&layout(), &[0.0; 5], &[0.0; 4]);
        assert_eq!(short, Err(DeltaError::Length { have: 4, need: 5 }));
    }

    #[test]
    fn clipping_is_by_the_norm_of_all_of_it() {
        assert!((l2_norm(&[3.0, 4.0]) - 5.0).abs() < 1e-12);
        assert!((clip_scale(5.0, 10.0) - 1.0).abs() < 1e-12);
        assert!((clip_scale(5.0, 1.0) - 0.2).abs() < 1e-12);
    }
}
