//! The synthetic trainer's local state: `local = N` counters as little-endian u32, each of the number
//! of rounds in which this site counted. They shift the site's optimum, so that a state that was lost,
//! promoted out of turn or taken from another study shows in the digest of the next model.

use std::io::Write;
use std::path::Path;

use consilium_common::le;
use consilium_common::worker::FailureCode;

use super::{Failure, ResultFile, missing, read_file};

/// Shifts repeat after so many rounds, so that an optimum stays near where it was drawn.
const PERIOD: u32 = 256;

/// A site's optimum at one coordinate after `rounds` rounds in which it counted: at most a quarter
/// above the one that was drawn.
#[must_use]
pub fn shifted(optimum: f32, rounds: u32) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "integers below 2^11")]
    let shift = (rounds % PERIOD) as f32 / (4 * PERIOD) as f32;
    optimum + shift
}

/// N counters that agree.
#[derive(Debug)]
pub(super) struct Counters {
    len: u32,
    rounds: u32,
}

impl Counters {
    /// What the last counted round left; zeros if none did.
    ///
    /// # Errors
    /// Not a state of this study.
    pub(super) fn read(path: Option<&Path>, len: u32) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self { len, rounds: 0 });
        };
        let bytes = read_file(path, 4 * u64::from(len) + 1)?;
        let whole = bytes.len() as u64 == 4 * u64::from(len);
        let mut counters =
            bytes.chunks_exact(4).map(|b| b.try_into().map_or(0, u32::from_le_bytes));
        match counters.next() {
            Some(rounds) if whole && counters.all(|other| other == rounds) => {
                Ok(Self { len, rounds })
            }
            _ => {
                let text = format!("the local state is not {len} counters that agree");
                Err((FailureCode::ModelMismatch, text))
            }
        }
    }

    /// In how many rounds this site counted.
    pub(super) fn rounds(&self) -> u32 {
        self.rounds
    }

    /// The same after this round; a study without counters counts none.
    pub(super) fn next_rounds(&self) -> u32 {
        if self.len == 0 { 0 } else { self.rounds.wrapping_add(1) }
    }

    /// Writes the state after this round; nothing where the study has no counters.
    ///
    /// # Errors
    /// The task names no place for it, or the disk refused.
    pub(super) fn write_next(&self, out: Option<&Path>) -> Result<(), Failure> {
        if self.len == 0 {
            return Ok(());
        }
        let mut next = ResultFile::create(Some(out.ok_or_else(|| missing("local_out"))?))?;
        let (mut bytes, rounds) = (Vec::new(), self.next_rounds());
        le::extend_u32(&mut bytes, &vec![rounds; self.len as usize]);
        next.file.write_all(&bytes).map_err(|error| {
            (FailureCode::Internal, format!("the next local state cannot be written: {error}"))
        })?;
        next.keep()
    }
}
