//! Histograms of scores on the device.

use consilium_common::update::measures::{BINS_PER_NAT, SCORE_BINS};
use tch::{Kind, TchError, Tensor};

#[expect(clippy::cast_possible_wrap, reason = "256")]
pub(super) const BINS: i64 = SCORE_BINS as i64;

/// `measures::score_bin` of each of these log-odds (f64; i64).
pub(super) fn bin(log_odds: &Tensor) -> Result<Tensor, TchError> {
    let bin = log_odds.f_mul_scalar(BINS_PER_NAT)?.f_floor()?.f_add_scalar(BINS / 2)?;
    let bin = bin.f_nan_to_num(0.0, None, None)?;
    bin.f_clamp(0, BINS - 1)?.f_to_kind(Kind::Int64)
}

/// Adds one to the cell of each record.
pub(super) fn count(cells: &mut Tensor, of_records: &Tensor) -> Result<(), TchError> {
    let counts = of_records.f_bincount::<Tensor>(None, cells.size().iter().product())?;
    let _ = cells.f_add_(&counts)?;
    Ok(())
}
