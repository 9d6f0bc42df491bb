//! An update against the rules of its round, while its bytes stream by: header, grid, norm, words.
//! Nothing is added before all of it holds (DESIGN.md §1, P8).

use consilium_common::limits::GRID_MAX;
use consilium_common::update::grid::norm_bound_units;
use consilium_common::update::sections::{HEADER_BYTES, Header};
use consilium_common::update::words::{Schema, Words, WordsError};
use consilium_common::wire::reject::Code;

use crate::round::{Fault, Rules};

impl Rules {
    /// The header that the update must have.
    fn header(&self) -> Header {
        Header {
            round: self.round,
            step_exponent: self.step_exponent,
            study: self.study_digest,
            base: self.base,
            layout: self.layout,
            shared_len: self.shared_len,
            words_len: self.words_len,
        }
    }

    /// Bytes of every update of the round.
    #[must_use]
    pub fn update_bytes_len(&self) -> u64 {
        self.header().update_bytes_len()
    }
}

/// Takes an update's bytes in order, in pieces of any size. Memory: the words, some kilobytes.
#[derive(Debug)]
pub struct Validator<'a> {
    rules: &'a Rules,
    schema: &'a Schema,
    header: Vec<u8>,
    header_holds: bool,
    /// Coordinates seen so far, and their Σ x²: exact, so that no order or chunk changes a verdict.
    coordinates: usize,
    squares: u128,
    words: Vec<u32>,
    /// The bytes of a coordinate or word that the last piece ended in.
    partial: Vec<u8>,
    seen: u64,
}

/// Holds a whole update against the rules.
///
/// # Errors
/// The rule that it breaks.
pub fn validate(rules: &Rules, schema: &Schema, update: &[u8]) -> Result<Words, Fault> {
    let mut validator = Validator::new(rules, schema, update.len() as u64)?;
    validator.feed(update)?;
    validator.finish()
}

impl<'a> Validator<'a> {
    /// For an update of `bytes` bytes in all.
    ///
    /// # Errors
    /// No update of the round has this size.
    pub fn new(rules: &'a Rules, schema: &'a Schema, bytes: u64) -> Result<Self, Fault> {
        let need = rules.update_bytes_len();
        if bytes != need {
            let code = if bytes > need {
                Code::TooLarge
            } else {
                Code::WrongShape
            };
            return fault(
                code,
                format!("the update has {bytes} bytes, {need} expected"),
            );
        }
        Ok(Self {
            rules,
            schema,
            header: Vec::with_capacity(HEADER_BYTES),
            header_holds: false,
            coordinates: 0,
            squares: 0,
            words: Vec::with_capacity(rules.words_len),
            partial: Vec::with_capacity(4),
            seen: 0,
        })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// The first rule that they break; the update is of no more use.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.seen = self.seen.saturating_add(bytes.len() as u64);
        if self.seen > self.rules.update_bytes_len() {
            return fault(Code::TooLarge, "more bytes follow the update".to_owned());
        }
        let missing = HEADER_BYTES - self.header.len();
        let (header, mut body) = bytes.split_at(missing.min(bytes.len()));
        self.header.extend_from_slice(header);
        if self.header.len() < HEADER_BYTES {
            return Ok(());
        }
        self.check_header()?;
        if !self.partial.is_empty() {
            let (first, rest) = body.split_at((4 - self.partial.len()).min(body.len()));
            self.partial.extend_from_slice(first);
            body = rest;
            let partial = std::mem::take(&mut self.partial);
            match <[u8; 4]>::try_from(partial.as_slice()) {
                Ok(word) => self.take(&[word])?,
                Err(_) => self.partial = partial,
            }
        }
        let (whole, ragged) = body.as_chunks::<4>();
        self.take(whole)?;
        self.partial.extend_from_slice(ragged);
        Ok(())
    }

    /// The verdict, once all bytes were fed.
    ///
    /// # Errors
    /// The update ended early, its norm is over the bound, or its words break a rule.
    pub fn finish(self) -> Result<Words, Fault> {
        let need = self.rules.update_bytes_len();
        if self.seen != need {
            let detail = format!("the update ended after {} of {need} bytes", self.seen);
            return fault(Code::WrongShape, detail);
        }
        self.check_norm()?;
        let words = self.schema.decode(&self.words).map_err(words_fault)?;
        let cap = self.rules.max_examples;
        if !(1..=cap).contains(&words.weight) {
            let detail = format!("the weight is {}, 1 to {cap} is accepted", words.weight);
            return fault(Code::WeightOutOfRange, detail);
        }
        Ok(words)
    }

    fn check_header(&mut self) -> Result<(), Fault> {
        if self.header_holds {
            return Ok(());
        }
        let need = self.rules.header();
        let have = Header::decode(&self.header, need.update_bytes_len());
        let have = have.or_else(|error| fault(Code::WrongShape, error.to_string()))?;
        if (have.round, have.study, have.base) != (need.round, need.study, need.base) {
            let detail = format!(
                "the update is for round {}, study {:?}, base {:?}; the plan says {}, {:?}, {:?}",
                have.round, have.study, have.base, need.round, need.study, need.base
            );
            return fault(Code::WrongRound, detail);
        }
        if have != need {
            let detail = format!(
                "the update has layout {:?}, step 2^{}, {} coordinates and {} words; the study has \
                 {:?}, 2^{}, {} and {}",
                have.layout,
                have.step_exponent,
                have.shared_len,
                have.words_len,
                need.layout,
                need.step_exponent,
                need.shared_len,
                need.words_len
            );
            return fault(Code::WrongShape, detail);
        }
        self.header_holds = true;
        Ok(())
    }

    /// Takes whole 4-byte items: coordinates first, then words.
    fn take(&mut self, items: &[[u8; 4]]) -> Result<(), Fault> {
        let left = self.rules.shared_len.saturating_sub(self.coordinates);
        let (units, words) = items.split_at(left.min(items.len()));
        let mut outside = None;
        for (at, unit) in units.iter().enumerate() {
            let size = u64::from(i32::from_le_bytes(*unit).unsigned_abs());
            self.squares += u128::from(size * size);
            if size > u64::from(GRID_MAX.unsigned_abs()) {
                outside = outside.or(Some(at));
            }
        }
        if let Some(at) = outside {
            let at = self.coordinates + at;
            let detail = format!("coordinate {at} lies outside of the grid of ±{GRID_MAX}");
            return fault(Code::OutOfGrid, detail);
        }
        self.coordinates += units.len();
        self.words
            .extend(words.iter().map(|word| u32::from_le_bytes(*word)));
        Ok(())
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "one rounding of an exact sum, the same everywhere; the bound has slack for it"
    )]
    fn check_norm(&self) -> Result<(), Fault> {
        let rules = self.rules;
        let (clip, exponent) = (rules.clip_norm, rules.step_exponent);
        let bound = norm_bound_units(clip, exponent, rules.shared_len);
        let norm = (self.squares as f64).sqrt();
        if norm <= bound {
            return Ok(());
        }
        let detail = format!("the norm is {norm:.0} grid units, the clip bound is {bound:.0}");
        fault(Code::NormTooLarge, detail)
    }
}

fn words_fault(error: WordsError) -> Fault {
    let code = match error {
        WordsError::Count { .. } => Code::WrongShape,
        WordsError::Limb { .. } | WordsError::Flag | WordsError::Contradiction(_) => {
            Code::BadMetrics
        }
    };
    Fault {
        code,
        detail: error.to_string(),
    }
}

fn fault<T>(code: Code, detail: String) -> Result<T, Fault> {
    Err(Fault { code, detail })
}

#[cfg(test)]
mod tests;
