//! Whose records a task used, without a name: sets of patients, each patient a keyed hash. The key stays at
//! the site, so a set says nothing to who does not have it, and to who has it only of patients whom they name.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::limits::EXAMPLES_MAX;

/// What a file with a set of patients begins with.
const MAGIC: &[u8; 20] = b"consilium/patients/1";
/// Bytes of a patient's hash: two of a site's patients share one with a chance of 2^-76 at most.
pub const PATIENT_BYTES: usize = 16;
/// The largest file of a set: a patient has a record at least.
pub const PATIENTS_BYTES_MAX: u64 = MAGIC.len() as u64 + PATIENT_BYTES as u64 * EXAMPLES_MAX;
/// Bytes of the site's key.
pub const PATIENT_KEY_BYTES: usize = 32;

/// Where a worker leaves whose records it used. Nothing is left where the records name no patient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// A file with the [`PATIENT_KEY_BYTES`] bytes of the site's key.
    pub key: PathBuf,
    /// Where the set of patients goes whose records were trained on, or counted ([`PatientSet`]).
    pub used: PathBuf,
    /// And of those whose records scored the base.
    pub scored: PathBuf,
}

/// A patient, to who has the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PatientHash(pub [u8; PATIENT_BYTES]);

impl PatientHash {
    /// BLAKE3, keyed, of the identifier as the files have it, without spaces around it.
    #[must_use]
    pub fn of(key: &[u8; PATIENT_KEY_BYTES], patient: &str) -> Self {
        let hash = blake3::keyed_hash(key, patient.trim().as_bytes());
        let mut bytes = [0; PATIENT_BYTES];
        bytes.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
        Self(bytes)
    }
}

/// Why a file is no set of patients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatientSetError {
    /// Another kind of file.
    #[error("it does not begin as a set of patients does")]
    Magic,
    /// Cut off.
    #[error("its length is that of no set of patients")]
    Length,
    /// Twice the same, or in another order.
    #[error("its patients are not in ascending order, each once")]
    Order,
}

/// Patients, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatientSet(pub BTreeSet<PatientHash>);

impl PatientSet {
    /// The file: the magic, then the hashes in ascending order. Equal sets are equal files.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let hashes = self.0.iter().flat_map(|patient| patient.0);
        MAGIC.iter().copied().chain(hashes).collect()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// One variant of [`PatientSetError`] per cause.
    pub fn read(bytes: &[u8]) -> Result<Self, PatientSetError> {
        let hashes = bytes.strip_prefix(MAGIC).ok_or(PatientSetError::Magic)?;
        let (hashes, rest) = hashes.as_chunks::<PATIENT_BYTES>();
        if !rest.is_empty() {
            return Err(PatientSetError::Length);
        }
        if !hashes.is_sorted_by(|one, next| one < next) {
            return Err(PatientSetError::Order);
        }
        Ok(Self(hashes.iter().copied().map(PatientHash).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_survives_its_file_and_every_other_file_is_none() {
        let of = |key: u8, patient: &str| PatientHash::of(&[key; PATIENT_KEY_BYTES], patient);
        let set = PatientSet(["p-1", "p-2", " p-1 "].map(|patient| of(7, patient)).into());
        assert_eq!(set.0.len(), 2, "spaces around an identifier are none of it");
        assert_ne!(of(7, "p-1"), of(8, "p-1"), "to who has another key it is somebody else");
        let bytes = set.to_bytes();
        assert_eq!(PatientSet::read(&bytes), Ok(set));
        assert_eq!(PatientSet::read(&PatientSet::default().to_bytes()), Ok(PatientSet::default()));
        assert_eq!(PatientSet::read(b"consilium/model/1"), Err(PatientSetError::Magic));
        let cut = bytes.split_last().map(|(_, rest)| rest).unwrap();
        assert_eq!(PatientSet::read(cut), Err(PatientSetError::Length));
        let (magic, hashes) = bytes.split_at(MAGIC.len());
        let twice = [magic, hashes, hashes].concat();
        assert_eq!(PatientSet::read(&twice), Err(PatientSetError::Order));
    }
}
