//! `rank`: total, hits, gain. What was chosen comes behind every other item that scores as much or more:
//! ties count against the model, so that one which says the same of all items hits nothing.

use consilium_common::update::measures::{GAINS, RANKS};
use consilium_common::update::words::Metrics;
use consilium_common::worker::FailureCode;
use tch::{Device, Kind, TchError, Tensor};

use super::whole;
use crate::failure::Failure;

/// Sums over records.
pub(super) struct Ranks {
    total: u64,
    /// Worth of each place, 0 behind the last that counts.
    gains: Tensor,
    hits: Tensor,
    gain: Tensor,
    /// Whether every score was a number.
    finite: Tensor,
}

impl Ranks {
    pub(super) fn new(device: Device) -> Result<Self, TchError> {
        let gain = |gain: u64| i64::try_from(gain).unwrap_or(i64::MAX);
        let gains: Vec<i64> = GAINS.into_iter().map(gain).chain([0]).collect();
        let zero = || Tensor::f_zeros([1], (Kind::Int64, device));
        Ok(Self {
            total: 0,
            gains: Tensor::f_from_slice(&gains)?.f_to_device(device)?,
            hits: zero()?,
            gain: zero()?,
            finite: Tensor::f_ones([1], (Kind::Bool, device))?,
        })
    }

    /// `margins` (f64, records × others): how far what was chosen scores above each other item.
    pub(super) fn add(&mut self, margins: &Tensor) -> Result<(), TchError> {
        self.finite = self.finite.f_logical_and(&margins.f_isfinite()?.f_all()?)?;
        let before = margins.f_le(0.0)?.f_sum_dim_intlist(1, false, Kind::Int64)?;
        let place = before.f_clamp(0, i64::try_from(RANKS).unwrap_or(i64::MAX))?;
        let hit = place.f_lt(i64::try_from(RANKS).unwrap_or(i64::MAX))?;
        let _ = self.hits.f_add_(&hit.f_sum(Kind::Int64)?)?;
        let _ = self.gain.f_add_(&self.gains.f_index_select(0, &place)?.f_sum(Kind::Int64)?)?;
        self.total += u64::try_from(place.numel()).unwrap_or(0);
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Metrics, Failure> {
        if self.finite.f_int64_value(&[0])? == 0 {
            let message = "the base gives NaN or infinite scores on the hold-out";
            return Err(Failure::new(FailureCode::Diverged, message));
        }
        let mut sums = vec![self.total];
        sums.extend(whole(&self.hits)?);
        sums.extend(whole(&self.gain)?);
        Ok(Metrics(sums))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(margins: &[f64], others: i64) -> Result<Vec<u64>, Failure> {
        let mut ranks = Ranks::new(Device::Cpu).unwrap();
        ranks.add(&Tensor::from_slice(margins).view([-1, others])).unwrap();
        ranks.finish().map(|metrics| metrics.0)
    }

    #[test]
    fn a_place_is_worth_its_gain_and_ties_count_against_the_model() {
        let place = |behind: usize| {
            (0..12).map(move |other| if other < behind { -1.0 } else { 1.0 }).collect::<Vec<_>>()
        };
        let records: Vec<f64> = [0, 2, 9, 10, 12].into_iter().flat_map(place).collect();
        let gain = GAINS[0] + GAINS[2] + GAINS[9];
        assert_eq!(sums(&records, 12).unwrap(), [5, 3, gain]);
        assert_eq!(sums(&[0.0; 12], 12).unwrap(), [1, 0, 0]);
        assert_eq!(sums(&[1.0, 0.0, 1.0], 3).unwrap(), [1, 1, GAINS[1]]);
    }

    #[test]
    fn scores_that_are_no_numbers_are_told() {
        assert_eq!(sums(&[1.0, f64::NAN], 2).unwrap_err().code, FailureCode::Diverged);
    }
}
