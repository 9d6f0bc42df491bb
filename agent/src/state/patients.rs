//! Whose records each round used: so that a person at the site can say which rounds and versions a patient
//! took part in. Nothing of it leaves, and no patient is named in it.
//!
//! ```text
//! key                 32 random bytes, made once: a patient is a hash under it
//! DIGEST.set          a set of patients (`consilium_common::worker::patients`), named by its BLAKE3
//! STUDY.rounds        JSON: each round that left an update here, whose records it used, and whether it counted
//! ```
//!
//! Rounds share a set while it does not change, so a round costs a line. A round stands here, synced, before
//! its update is retained; that it counted, before the update is erased. All files are 0600. A file that is
//! damaged stops the start: without it a trace would leave out what happened. One that is gone is not missed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use consilium_common::ids::{Digest, Round, StudyId, Version};
use consilium_common::wire::messages::TaskKind;
use consilium_common::worker::Census;
use consilium_common::worker::patients::{
    PATIENT_KEY_BYTES, PATIENTS_BYTES_MAX, PatientHash, PatientSet,
};
use consilium_io::IoError;
use consilium_io::disk::{read_file, replace_private};
use serde::{Deserialize, Serialize};

use super::{StateError, entries};

const KEY: &str = "key";
const ROUNDS: &str = "rounds";
const SET: &str = "set";
const FORMAT: u16 = 2;
/// The one before, without a check value.
const UNCHECKED: u16 = 1;
/// A study's rounds: some 300 bytes each.
const ROUNDS_BYTES_MAX: usize = 256 << 20;

/// Whose records a round used here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoundUse {
    /// Which round.
    pub round: Round,
    /// Digest of the signed study.
    pub study_digest: Digest,
    /// What was asked.
    pub task: TaskKind,
    /// The version that it started from.
    pub base: Version,
    /// The set of patients trained on, or counted; none where the records did not say whose they are, or
    /// only scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Digest>,
    /// The set of patients whose records scored the base, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scored: Option<Digest>,
    /// Whether the update is in the sum, by the signed roll call; none before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<bool>,
}

impl RoundUse {
    /// The version that this site's training went into.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        let made = self.task == TaskKind::Train && self.counted == Some(true);
        made.then(|| self.base.next())
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RoundsFile {
    format: u16,
    study: StudyId,
    rounds: Vec<RoundUse>,
    /// BLAKE3 over study and rounds under the site's key, so that neither changes unseen; none in format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    check: Option<Digest>,
}

impl RoundsFile {
    /// What [`RoundsFile::check`] has to be.
    fn checked(&self, key: &[u8; PATIENT_KEY_BYTES]) -> Result<Digest, serde_json::Error> {
        let key = blake3::derive_key("consilium/patients-rounds/1", key);
        let bytes = serde_json::to_vec(&(&self.study, &self.rounds))?;
        Ok(blake3::keyed_hash(&key, &bytes).into())
    }
}

/// What a patient had to do with a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Records were trained on, or counted.
    pub used: bool,
    /// Records scored the base.
    pub scored: bool,
}

/// The folder.
#[derive(Debug)]
pub struct PatientsFolder {
    folder: PathBuf,
    rounds: BTreeMap<StudyId, BTreeMap<Round, RoundUse>>,
}

impl PatientsFolder {
    /// Reads the folder; makes the key of a new one.
    pub(super) fn load(folder: &Path) -> Result<Self, StateError> {
        let here = Self::look(folder)?;
        let key = here.key_path();
        if key.exists() {
            here.key()?;
        } else if here.rounds.is_empty() {
            let mut bytes = [0; PATIENT_KEY_BYTES];
            getrandom::fill(&mut bytes)
                .map_err(|error| IoError::at("make", &key)(std::io::Error::other(error)))?;
            replace_private(&key, &bytes)?;
        } else {
            return Err(damaged(&key, "it is gone, and without it no patient of a round is known"));
        }
        Ok(here)
    }

    /// The same for who does not own the folder, and changes nothing.
    pub(super) fn look(folder: &Path) -> Result<Self, StateError> {
        let mut here = Self { folder: folder.to_owned(), rounds: BTreeMap::new() };
        let paths = if folder.is_dir() { entries(folder)? } else { Vec::new() };
        for path in paths.iter().filter(|path| path.extension().is_some_and(|end| end == ROUNDS)) {
            let bytes = read_file(path, ROUNDS_BYTES_MAX).map_err(|error| damaged(path, error))?;
            let file: RoundsFile =
                serde_json::from_slice(&bytes).map_err(|error| damaged(path, error))?;
            if file.format > FORMAT {
                let (path, what) = (path.clone(), "list of rounds");
                return Err(StateError::NewerFormat {
                    path,
                    what,
                    have: file.format,
                    known: FORMAT,
                });
            }
            here.hold(path, &file)?;
            let rounds = file.rounds.into_iter().map(|used| (used.round, used)).collect();
            here.rounds.insert(file.study, rounds);
        }
        Ok(here)
    }

    /// Holds a file against its check value. Where the key is gone, that is told first.
    fn hold(&self, path: &Path, file: &RoundsFile) -> Result<(), StateError> {
        if (file.format, file.check) == (UNCHECKED, None) || !self.key_path().exists() {
            return Ok(());
        }
        let need = file.checked(&self.key()?).map_err(|error| damaged(path, error))?;
        if file.format == FORMAT && file.check == Some(need) {
            return Ok(());
        }
        Err(damaged(
            path,
            "it, or the key beside it, is not what was written. Bring the folder back from a copy: without it \
             nobody can say in which versions a patient is",
        ))
    }

    /// Where the key lies.
    #[must_use]
    pub fn key_path(&self) -> PathBuf {
        self.folder.join(KEY)
    }

    /// The key under which patients are hashed.
    ///
    /// # Errors
    /// It is not there, or was damaged.
    pub fn key(&self) -> Result<[u8; PATIENT_KEY_BYTES], StateError> {
        let path = self.key_path();
        let bytes = read_file(&path, PATIENT_KEY_BYTES).map_err(|error| damaged(&path, error))?;
        bytes.try_into().map_err(|_| damaged(&path, "it is not as long as the key was"))
    }

    /// Takes the sets that a worker left, and remembers the round: synced when this returns. A round that
    /// is done again is written anew.
    ///
    /// # Errors
    /// What the worker left is no set, or the disk refused.
    pub fn begin(
        &mut self,
        study: &StudyId,
        round: RoundUse,
        left: &Census,
    ) -> Result<(), StateError> {
        let used = self.adopt(&left.used)?;
        let scored = self.adopt(&left.scored)?;
        let used = RoundUse { used, scored, ..round };
        self.rounds.entry(study.clone()).or_default().insert(used.round, used);
        self.write(study)
    }

    /// The round's fate is known: synced when this returns.
    ///
    /// # Errors
    /// The disk refused.
    pub fn settle(
        &mut self,
        study: &StudyId,
        round: Round,
        counted: bool,
    ) -> Result<(), StateError> {
        let rounds = self.rounds.get_mut(study);
        let Some(used) = rounds.and_then(|rounds| rounds.get_mut(&round)) else {
            return Ok(());
        };
        if used.counted == Some(counted) {
            return Ok(());
        }
        used.counted = Some(counted);
        self.write(study)
    }

    /// Every study that rounds are known of, with them in their order.
    pub fn studies(&self) -> impl Iterator<Item = (&StudyId, impl Iterator<Item = &RoundUse>)> {
        self.rounds.iter().map(|(study, rounds)| (study, rounds.values()))
    }

    /// The rounds in which a patient's records were used, each with how; and the rounds of which that cannot
    /// be said, because the records did not say whose they are.
    ///
    /// # Errors
    /// The key or a set is not what was written.
    pub fn trace(&self, patient: &str) -> Result<Trace, StateError> {
        let mut trace = Trace::default();
        if self.rounds.is_empty() {
            return Ok(trace);
        }
        let hash = PatientHash::of(&self.key()?, patient);
        let mut sets: BTreeMap<Digest, bool> = BTreeMap::new();
        let mut is_in = |set: Option<Digest>| -> Result<bool, StateError> {
            let Some(digest) = set else { return Ok(false) };
            if let Some(known) = sets.get(&digest) {
                return Ok(*known);
            }
            let found = self.set(digest)?.0.contains(&hash);
            sets.insert(digest, found);
            Ok(found)
        };
        for (study, rounds) in self.studies() {
            for round in rounds {
                if round.used.is_none() && round.scored.is_none() {
                    trace.unknown.push((study.clone(), round.round));
                    continue;
                }
                let part = Part { used: is_in(round.used)?, scored: is_in(round.scored)? };
                if part.used || part.scored {
                    trace.rounds.push((study.clone(), round.clone(), part));
                }
            }
        }
        Ok(trace)
    }

    fn set(&self, digest: Digest) -> Result<PatientSet, StateError> {
        let path = self.set_path(digest);
        let bytes = read_set(&path)?;
        if Digest::of(&bytes) != digest {
            return Err(damaged(&path, "it does not have the digest of its name"));
        }
        PatientSet::read(&bytes).map_err(|error| damaged(&path, error))
    }

    fn set_path(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{digest}.{SET}"))
    }

    /// Keeps a set that a worker left at `path`, if it left one.
    fn adopt(&self, path: &Path) -> Result<Option<Digest>, StateError> {
        if !path.exists() {
            return Ok(None);
        }
        let bytes = read_set(path)?;
        PatientSet::read(&bytes).map_err(|error| damaged(path, error))?;
        let digest = Digest::of(&bytes);
        let to = self.set_path(digest);
        if !to.exists() {
            replace_private(&to, &bytes)?;
        }
        Ok(Some(digest))
    }

    fn write(&self, study: &StudyId) -> Result<(), StateError> {
        let path = self.folder.join(format!("{study}.{ROUNDS}"));
        let rounds = self.rounds.get(study).into_iter().flat_map(BTreeMap::values);
        let unwritable = |error: serde_json::Error| StateError::Unwritable {
            path: path.clone(),
            reason: error.to_string(),
        };
        let (study, rounds) = (study.clone(), rounds.cloned().collect());
        let mut file = RoundsFile { format: FORMAT, study, rounds, check: None };
        file.check = Some(file.checked(&self.key()?).map_err(unwritable)?);
        let bytes = serde_json::to_vec(&file).map_err(unwritable)?;
        Ok(replace_private(&path, &bytes)?)
    }
}

/// What the site knows of one patient's part in its rounds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// Rounds that used the patient's records, by study and number.
    pub rounds: Vec<(StudyId, RoundUse, Part)>,
    /// Rounds of which nobody can say.
    pub unknown: Vec<(StudyId, Round)>,
}

fn read_set(path: &Path) -> Result<Vec<u8>, StateError> {
    let have = fs::metadata(path).map_err(IoError::at("read", path))?.len();
    if have > PATIENTS_BYTES_MAX {
        return Err(damaged(path, "it is larger than any set of patients"));
    }
    fs::read(path).map_err(|error| IoError::at("read", path)(error).into())
}

fn damaged(path: &Path, reason: impl std::fmt::Display) -> StateError {
    StateError::Damaged { path: path.to_owned(), reason: reason.to_string() }
}
