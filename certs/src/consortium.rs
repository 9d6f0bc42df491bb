//! What every machine of a consortium pins: its name, the coordinator's log key, and who the
//! operators are and how many of them must sign. `consilium ca issue` writes it into each bundle as
//! `consortium.toml`; from then on it changes only when a person copies a new one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use consilium_common::ids::{ConsortiumId, OperatorId};
use consilium_common::limits::SIGNATURES_MAX;
use consilium_common::signed::PublicKey;
use serde::{Deserialize, Serialize};

use crate::file::{self, FileError, Readers};

/// Its name in a bundle folder.
pub const CONSORTIUM_FILE: &str = "consortium.toml";
const FORMAT: u32 = 1;

/// The pinned facts; see the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consortium {
    format: u32,
    /// Its name.
    #[serde(rename = "consortium")]
    pub name: ConsortiumId,
    /// Verifies receipts, roll calls and log checkpoints.
    pub coordinator_log_key: PublicKey,
    /// How many operators must sign a study or a roster.
    pub operators_needed: usize,
    /// Who they are.
    #[serde(default)]
    pub operators: BTreeMap<OperatorId, PublicKey>,
}

/// Why a `consortium.toml` was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConsortiumError {
    /// The file itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not the expected text.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser said, with the line.
        reason: String,
    },
    /// Written by a later release.
    #[error("{path} has format {have}, this release reads {FORMAT}: update Consilium here")]
    Format {
        /// The file.
        path: PathBuf,
        /// The number it has.
        have: u32,
    },
    /// A number of signatures that cannot be.
    #[error("operators_needed is {0}, expected 1 to {SIGNATURES_MAX}")]
    Needed(usize),
    /// More operators than signatures are ever read.
    #[error("{0} operators, at most {SIGNATURES_MAX} are possible")]
    TooMany(usize),
    /// One person twice would make k of n mean less than it says.
    #[error("operators {0} and {1} have the same key: each needs their own")]
    SharedKey(OperatorId, OperatorId),
    /// Nobody could sign anything yet.
    #[error(
        "{have} of the {need} operators needed are known: run `consilium ca issue operator NAME` \
         for each operator first"
    )]
    TooFewOperators {
        /// Operators with a key.
        have: usize,
        /// Signatures needed.
        need: usize,
    },
}

impl Consortium {
    /// A consortium that has no operators yet.
    ///
    /// # Errors
    /// `operators_needed` is 0 or more than [`SIGNATURES_MAX`].
    pub fn new(
        name: ConsortiumId,
        coordinator_log_key: PublicKey,
        operators_needed: usize,
    ) -> Result<Self, ConsortiumError> {
        let operators = BTreeMap::new();
        let format = FORMAT;
        let new = Self { format, name, coordinator_log_key, operators_needed, operators };
        new.checked()
    }

    /// The same with one operator more, or with that operator's key unchanged.
    ///
    /// # Errors
    /// Another operator has the same key, or there are too many.
    pub fn with_operator(
        &self,
        name: &OperatorId,
        key: PublicKey,
    ) -> Result<Self, ConsortiumError> {
        let mut more = self.clone();
        more.operators.insert(name.clone(), key);
        more.checked()
    }

    /// The operators' keys, for [`consilium_common::signed::Signed::verify`] with
    /// `operators_needed`.
    #[must_use]
    pub fn operator_keys(&self) -> Vec<PublicKey> {
        self.operators.values().copied().collect()
    }

    /// Refuses a consortium in which nothing could be signed yet.
    ///
    /// # Errors
    /// [`ConsortiumError::TooFewOperators`].
    pub fn require_operators(&self) -> Result<(), ConsortiumError> {
        let (have, need) = (self.operators.len(), self.operators_needed);
        if have < need { Err(ConsortiumError::TooFewOperators { have, need }) } else { Ok(()) }
    }

    /// Loads a `consortium.toml`.
    ///
    /// # Errors
    /// The file is missing, malformed or contradicts itself.
    pub fn load(path: &Path) -> Result<Self, ConsortiumError> {
        let read: Self = toml::from_str(&file::read_text(path)?).map_err(|error| {
            ConsortiumError::Malformed { path: path.to_owned(), reason: error.to_string() }
        })?;
        if read.format != FORMAT {
            return Err(ConsortiumError::Format { path: path.to_owned(), have: read.format });
        }
        read.checked()
    }

    /// Writes it to `path`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn store(&self, path: &Path) -> Result<(), ConsortiumError> {
        let text = toml::to_string(self).map_err(|error| ConsortiumError::Malformed {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(file::replace(path, text.as_bytes(), Readers::Everybody)?)
    }

    fn checked(self) -> Result<Self, ConsortiumError> {
        if !(1..=SIGNATURES_MAX).contains(&self.operators_needed) {
            return Err(ConsortiumError::Needed(self.operators_needed));
        }
        if self.operators.len() > SIGNATURES_MAX {
            return Err(ConsortiumError::TooMany(self.operators.len()));
        }
        let mut owners = BTreeMap::new();
        for (name, key) in &self.operators {
            if let Some(other) = owners.insert(key, name) {
                return Err(ConsortiumError::SharedKey(other.clone(), name.clone()));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use consilium_common::signed::SecretKey;

    use super::*;

    fn public(n: u8) -> PublicKey {
        SecretKey::from_seed(&[n; 32]).public()
    }

    fn thorax(needed: usize) -> Result<Consortium, ConsortiumError> {
        Consortium::new("thorax".parse().unwrap(), public(9), needed)
    }

    #[test]
    fn k_operators_must_be_known_before_anything_can_be_signed() {
        let none = thorax(2).unwrap();
        let one = none.with_operator(&"ada".parse().unwrap(), public(1)).unwrap();
        assert!(one.require_operators().unwrap_err().to_string().contains("1 of the 2"));
        let two = one.with_operator(&"bob".parse().unwrap(), public(2)).unwrap();
        two.require_operators().unwrap();
        let shared = two.with_operator(&"eve".parse().unwrap(), public(2)).unwrap_err();
        assert!(matches!(shared, ConsortiumError::SharedKey(..)));
        assert!(matches!(thorax(0), Err(ConsortiumError::Needed(0))));
        assert!(thorax(SIGNATURES_MAX + 1).is_err());
    }

    #[test]
    fn the_file_comes_back_and_strange_ones_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONSORTIUM_FILE);
        let thorax = thorax(1).unwrap().with_operator(&"ada".parse().unwrap(), public(1)).unwrap();
        thorax.store(&path).unwrap();
        assert_eq!(Consortium::load(&path).unwrap(), thorax);
        let text = file::read_text(&path).unwrap();
        for (from, to) in [("format = 1", "format = 2"), ("format", "fromat"), ("ed25519", "x")] {
            file::replace(&path, text.replace(from, to).as_bytes(), Readers::Everybody).unwrap();
            let told = Consortium::load(&path).unwrap_err().to_string();
            assert!(told.contains(CONSORTIUM_FILE), "{told}");
        }
    }
}
