//! The machine's own limits, measured in the same run as what is held against them.

use std::io::Write as _;
use std::path::Path;

use crate::median;
use crate::process::now;

/// Median milliseconds of appending 300 bytes to a file in `folder` and `fdatasync`.
///
/// # Errors
/// The file cannot be written.
pub fn fdatasync_ms(folder: &Path) -> std::io::Result<f64> {
    let mut file = tempfile::tempfile_in(folder)?;
    let mut times = Vec::new();
    for _ in 0..200 {
        file.write_all(&[7; 300])?;
        let start = now();
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(&times))
}
