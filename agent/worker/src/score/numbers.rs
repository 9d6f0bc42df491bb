//! `regress`: total, squared error, absolute error.

use consilium_common::update::words::Metrics;
use tch::{Device, TchError, Tensor};

use super::Fixed;
use crate::failure::Failure;

/// Sums over numbers.
pub(super) struct Numbers {
    total: u64,
    squared: Fixed,
    absolute: Fixed,
}

impl Numbers {
    pub(super) fn new(device: Device) -> Result<Self, TchError> {
        Ok(Self { total: 0, squared: Fixed::new(device)?, absolute: Fixed::new(device)? })
    }

    /// `said` (f64, records) and `labels` (f32, records).
    pub(super) fn add(&mut self, said: &Tensor, labels: &Tensor) -> Result<(), TchError> {
        let error = said.f_sub(labels)?;
        self.squared.add(&error.f_square()?)?;
        self.absolute.add(&error.f_abs()?)?;
        self.total += u64::try_from(error.numel()).unwrap_or(0);
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Metrics, Failure> {
        let mut sums = vec![self.total];
        sums.extend(self.squared.finish()?);
        sums.extend(self.absolute.finish()?);
        Ok(Metrics(sums))
    }
}
