//! What the sites of a study count together before its first round trains: fixed-length integer sums
//! on the way of every update, added up and kept as one blob, the *preparation*, which every later
//! plan names by digest (DESIGN.md §10). Words, items and raw values stay at the site: only sums leave.
//!
//! ```text
//! "consilium/preparation/1" · terms 32 · sites that counted u32 · sums i64 each     (little-endian)
//! ```
//! `terms` is the digest of what the sums follow from ([`Study::preparation_terms`]). So a preparation
//! of another study, or of one that counts something else, is refused by whoever reads it; and the
//! next version of a study keeps the one that it has exactly as long as it would count the same.

use super::check::word;
use super::vocabulary::VOCABULARY_UNITS;
use super::{ClassWeights, ModelSpec, Objective, Study, catalogue};
use crate::ids::{Digest, StudyId};
use crate::limits::{GRID_MAX, PREPARATION_SUMS_MAX, SITES_MAX};

const DOMAIN: &[u8; 23] = b"consilium/preparation/1";
/// Bytes before the sums.
const HEADER_BYTES: usize = DOMAIN.len() + 32 + 4;
const SUM_BYTES: usize = 8;
/// Bytes of the largest preparation.
pub const PREPARATION_BYTES_MAX: u64 = preparation_bytes_len(PREPARATION_SUMS_MAX);

/// Bytes of a preparation of so many sums.
#[must_use]
pub const fn preparation_bytes_len(sums: usize) -> u64 {
    HEADER_BYTES as u64 + SUM_BYTES as u64 * sums as u64
}

/// What the sites counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preparation {
    /// What the sums follow from; [`Study::preparation_terms`].
    pub terms: Digest,
    /// Sites that counted, each once.
    pub sites: u32,
    /// Σ over these sites, in the study's order.
    pub sums: Vec<i64>,
}

/// Why bytes are not the preparation of a study.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreparationError {
    /// Shorter than a header, or other first bytes.
    #[error("this is not a preparation: it does not start with `consilium/preparation/1`")]
    Magic,
    /// Not a whole number of sums, none, or more than any has.
    #[error(
        "a preparation has 1 to {PREPARATION_SUMS_MAX} sums of {SUM_BYTES} bytes, this has {0} \
         bytes of them"
    )]
    Claim(usize),
    /// Nobody counted, or more than any roster has.
    #[error("the preparation is of {0} sites, 1 to {SITES_MAX} can have counted")]
    Sites(u32),
    /// A sum that so many sites cannot have.
    #[error("sum {index} of the preparation is {have}, which {sites} sites cannot reach")]
    Sum {
        /// Which one.
        index: usize,
        /// Its value.
        have: i64,
        /// Sites that counted.
        sites: u32,
    },
    /// The study prepares nothing.
    #[error("study {0} prepares nothing")]
    Nothing(StudyId),
    /// Of a study that counts something else.
    #[error("the preparation is of terms {have:?}, the study has {need:?}")]
    Terms {
        /// In the preparation.
        have: Digest,
        /// Of the study.
        need: Digest,
    },
    /// Another number of sums.
    #[error("the preparation has {have} sums, the study counts {need}")]
    Length {
        /// In the preparation.
        have: usize,
        /// Of the study.
        need: usize,
    },
}

impl Study {
    /// How many integer sums the sites count together before the first round trains; `None` where
    /// there is nothing to prepare.
    #[must_use]
    pub fn preparation_len(&self) -> Option<usize> {
        match (self.family_sums(), self.class_sums()) {
            (None, 0) => None,
            (family, classes) => Some(family.unwrap_or(0).saturating_add(classes)),
        }
    }

    /// Sums that the family counts, which come first; `None` where it has nothing to count.
    #[must_use]
    pub fn family_sums(&self) -> Option<usize> {
        match &self.model {
            ModelSpec::Synthetic(spec) => Some(spec.prepare as usize).filter(|sums| *sums > 0),
            ModelSpec::Recommender(spec) => Some(catalogue::units_len(spec.objective)),
            ModelSpec::Rnn(spec) => spec.preparation_len(&self.data),
            ModelSpec::Tabular(spec) => spec.preparation_len(&self.data),
            ModelSpec::TextClassifier(_) => Some(VOCABULARY_UNITS),
            ModelSpec::Cnn(spec) => spec.preparation_len(&self.data),
        }
    }

    /// Sums that come last: the training records of each class, where the loss weighs them by their
    /// share; where a record may have several, then all of them.
    #[must_use]
    pub fn class_sums(&self) -> usize {
        match self.training.class_weights {
            Some(ClassWeights::Balanced) => {
                let and_all = self.model.objective() == Some(Objective::Multilabel);
                self.model.classes().len() + usize::from(and_all)
            }
            Some(ClassWeights::Given(_)) | None => 0,
        }
    }

    /// Digest of what the sums follow from: the study's name and seed, and all that its family reads
    /// while it counts. `None` where there is nothing to prepare.
    #[must_use]
    pub fn preparation_terms(&self) -> Option<Digest> {
        Some(Digest::of(self.describe_preparation()?.as_bytes()))
    }

    /// The text behind the digest. It is written out line by line, not by the study's own encoding:
    /// a field that a later release adds to studies does not end the preparations of running ones.
    fn describe_preparation(&self) -> Option<String> {
        let sums = self.preparation_len()?;
        let (name, seed, family) = (self.id(), self.header.seed, self.model.family());
        let counted = match &self.model {
            // The sites' own seeds are not the study's.
            ModelSpec::Synthetic(_) => String::new(),
            ModelSpec::Recommender(spec) => spec.describe_counts(&self.data),
            ModelSpec::Rnn(spec) => spec.describe_counts(&self.data),
            ModelSpec::Tabular(spec) => spec.describe_counts(&self.data),
            ModelSpec::TextClassifier(spec) => spec.describe_counts(&self.data),
            ModelSpec::Cnn(spec) => spec.describe_counts(&self.data),
        };
        let classes = self.describe_classes();
        let several = match self.model.objective() {
            Some(Objective::Multilabel) => "several labels\n",
            Some(Objective::Classify | Objective::Regress | Objective::Rank) | None => "",
        };
        Some(format!(
            "consilium/preparation-terms/1\nstudy {name}\nseed {seed}\nfamily {family}\nsums {sums}\n\
             {several}{counted}{classes}"
        ))
    }

    /// What the counts of classes follow from, where there are any.
    fn describe_classes(&self) -> String {
        if self.class_sums() == 0 {
            return String::new();
        }
        let lines = self.model.classes().iter().map(|class| format!("counts {}\n", word(class)));
        lines.chain([self.data.describe()]).collect()
    }
}

impl Preparation {
    /// The family's own sums, and the records of each class where the study counts them.
    #[must_use]
    pub fn parts(&self, study: &Study) -> (&[i64], &[i64]) {
        let family = self.sums.len().saturating_sub(study.class_sums());
        self.sums.split_at_checked(family).unwrap_or_default()
    }

    /// The bytes; their BLAKE3 is the preparation's digest and the name of its blob.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + SUM_BYTES * self.sums.len());
        bytes.extend_from_slice(DOMAIN);
        bytes.extend_from_slice(&self.terms.0);
        bytes.extend_from_slice(&self.sites.to_le_bytes());
        for sum in &self.sums {
            bytes.extend_from_slice(&sum.to_le_bytes());
        }
        bytes
    }

    /// Reads a preparation of any study.
    ///
    /// # Errors
    /// One variant per way of being malformed.
    pub fn decode(bytes: &[u8]) -> Result<Self, PreparationError> {
        let rest = bytes.strip_prefix(DOMAIN).ok_or(PreparationError::Magic)?;
        let (terms, rest) = rest.split_first_chunk().ok_or(PreparationError::Magic)?;
        let (sites, rest) = rest.split_first_chunk().ok_or(PreparationError::Magic)?;
        let sites = u32::from_le_bytes(*sites);
        if !(1..=SITES_MAX).contains(&(sites as usize)) {
            return Err(PreparationError::Sites(sites));
        }
        let (words, ragged) = rest.as_chunks::<SUM_BYTES>();
        if !ragged.is_empty() || !(1..=PREPARATION_SUMS_MAX).contains(&words.len()) {
            return Err(PreparationError::Claim(rest.len()));
        }
        let sums: Vec<i64> = words.iter().map(|word| i64::from_le_bytes(*word)).collect();
        let bound = u64::from(sites) * u64::from(GRID_MAX.unsigned_abs());
        let outside = sums.iter().enumerate().find(|(_, sum)| sum.unsigned_abs() > bound);
        if let Some((index, &have)) = outside {
            return Err(PreparationError::Sum { index, have, sites });
        }
        Ok(Self { terms: Digest(*terms), sites, sums })
    }

    /// Reads the preparation of `study`.
    ///
    /// # Errors
    /// Malformed, or of a study that counts something else.
    pub fn read(bytes: &[u8], study: &Study) -> Result<Self, PreparationError> {
        let nothing = || PreparationError::Nothing(study.id().clone());
        let need = study.preparation_terms().ok_or_else(nothing)?;
        let preparation = Self::decode(bytes)?;
        let have = preparation.terms;
        if have != need {
            return Err(PreparationError::Terms { have, need });
        }
        let (have, need) = (preparation.sums.len(), study.preparation_len().unwrap_or(0));
        if have != need {
            return Err(PreparationError::Length { have, need });
        }
        Ok(preparation)
    }
}

#[cfg(test)]
mod tests;
