//! Local states: what a family keeps at the site between rounds (DESIGN.md §6: user embeddings,
//! personal heads), one file a study, unread by the daemon. Nothing of it leaves the site.
//!
//! `STUDY.local` is the worker's bytes, under SCAFFOLD the site's control variate after them, then what the
//! site knows of both, as [`super::trailer`] writes it (format 1, magic "CLOC").
//!
//! # It moves with the update
//! The next state lies *in* the retained update's file, behind the update's bytes, so that both become
//! durable in one rename, before the update is offered. A roll call that counts the update makes it
//! current: it is copied to `STUDY.local`, replaced atomically and synced, and only then is the
//! update erased. Any other end of the round erases the update and the next state with it.
//!
//! A crash before the copy's rename leaves the old state and the update; after it, the new state and
//! the update. In both cases the update is offered again after the restart and answered with the same
//! roll call, and [`promotion`] says whether the copy is still due. Each next state names the one that
//! it was trained from, so that an update which a power cut brings back later cannot turn the state
//! back. No training starts while an update of the study is unsettled (`crate::session`).
//!
//! # Whose it is
//! A state serves the study of its name alone, and only as long as the signed `[model]` section is the
//! same ([`Study::spec_digest`](consilium_common::study::Study::spec_digest)): a new version of a study
//! with other rounds or another optimizer keeps it, one with another model starts as the site did when
//! it joined, and its first counted round takes the file's place. The control variate is the daemon's own:
//! it serves the round whose plan names the one that it is from, whatever `[model]` says.
//!
//! # Damage
//! A state that is not what was written is set aside with a warning, and the site goes on as when it
//! joined. To refuse the study would keep the site out until a person acts and would bring nothing
//! back; what is lost is learnt again, and the clip bound holds for the updates on the way. A control
//! variate that is lost is told to the coordinator (`control-lost`): the round goes on without this site,
//! and all begin with new ones. A file of a newer release stops the start.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_common::ids::{Digest, Round, StudyId};
use consilium_common::limits::LOCAL_BYTES_MAX;
use consilium_io::IoError;
use serde::{Deserialize, Serialize};

use super::retained::{self, Record};
use super::trailer::{self, Kind, damaged};
use super::{SetAside, StateError, entries};
use crate::session::{ControlBytes, NextLocal, Stamp};

const KIND: Kind = Kind { magic: *b"CLOC", format: 1, name: "local state" };
const EXTENSION: &str = "local";

/// What the site knows of a study's current local state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalState {
    /// Which study.
    pub study: StudyId,
    /// Digest of the signed study under which it was trained.
    pub study_digest: Digest,
    /// Digest of that study's `[model]` section.
    pub spec: Digest,
    /// The round whose update counted.
    pub round: Round,
    /// Digest of the worker's bytes.
    pub digest: Digest,
    /// How many.
    pub bytes: u64,
    /// The control variate that follows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlBytes>,
}

impl LocalState {
    /// Whether a worker has left something in it.
    #[must_use]
    pub fn is_of_worker(&self) -> bool {
        self.bytes > 0 || self.control.is_none()
    }

    /// Its name among the states of its study.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        Stamp { round: self.round, digest: self.digest }
    }
}

/// The folder of current local states.
#[derive(Debug)]
pub struct LocalFolder {
    folder: PathBuf,
    aside: SetAside,
    states: BTreeMap<StudyId, Arc<LocalState>>,
}

impl LocalFolder {
    /// Reads every record; the bytes are verified when a worker is to have them.
    pub(super) fn load(folder: &Path, aside: &SetAside) -> Result<Self, StateError> {
        let states = BTreeMap::new();
        let mut here = Self { folder: folder.to_owned(), aside: aside.clone(), states };
        for path in entries(folder)? {
            match read(&path) {
                Ok(state) => here.insert(state),
                Err(why @ StateError::Damaged { .. }) => {
                    aside.take(&path, &why)?;
                    tracing::warn!("its study goes on as when this site joined it");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(here)
    }

    /// The current state of a study.
    #[must_use]
    pub fn get(&self, study: &StudyId) -> Option<&Arc<LocalState>> {
        self.states.get(study)
    }

    /// Where a study's state lies.
    #[must_use]
    pub fn path_of(&self, study: &StudyId) -> PathBuf {
        self.folder.join(file_name(study))
    }

    /// Remembers a state that [`promote`] has written.
    pub fn insert(&mut self, state: LocalState) {
        self.states.insert(state.study.clone(), Arc::new(state));
    }

    /// Moves a state that turned out to be damaged out of the way: the study has none now.
    ///
    /// # Errors
    /// The file cannot be moved.
    pub fn set_aside(&mut self, study: &StudyId, why: &StateError) -> Result<(), StateError> {
        self.states.remove(study);
        self.aside.take(&self.path_of(study), why)
    }
}

/// What the file of a study's state is called.
pub(super) fn file_name(study: &StudyId) -> String {
    format!("{study}.{EXTENSION}")
}

/// How large a next state the worker left at `path`; none if it left none.
///
/// # Errors
/// It is no file, is over [`LOCAL_BYTES_MAX`], or the system refused.
pub fn left_at(path: &Path) -> io::Result<Option<u64>> {
    let found = match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    let have = found.len();
    if !found.is_file() {
        return Err(io::Error::other("the worker's next local state is not a plain file"));
    }
    if have > LOCAL_BYTES_MAX {
        let text = format!(
            "the worker's next local state has {have} bytes, at most {LOCAL_BYTES_MAX} are kept"
        );
        return Err(io::Error::other(text));
    }
    Ok(Some(have))
}

/// Appends the worker's next state, if it left one at `path`, to a retained update that is being
/// written.
///
/// # Errors
/// As [`left_at`]; it changed meanwhile, or `out` takes no more.
pub fn append(
    path: &Path,
    spec: Digest,
    from: Option<Stamp>,
    out: &mut dyn Write,
) -> io::Result<Option<NextLocal>> {
    let Some(have) = left_at(path)? else {
        return Ok(None);
    };
    let (bytes, digest) = trailer::pass_on(File::open(path)?.take(LOCAL_BYTES_MAX + 1), out)?;
    if bytes != have {
        return Err(io::Error::other("the worker's next local state changes while it is read"));
    }
    Ok(Some(NextLocal { digest, bytes, spec, from, control: None }))
}

/// The same with a control variate, which is there whatever the worker left: `control` writes it. A worker
/// that left no next state has not changed `present`, the copy that it was given, if any.
///
/// # Errors
/// As [`append`], and those of `control`.
pub fn append_with_control(
    [left, present]: [&Path; 2],
    spec: Digest,
    from: Option<Stamp>,
    control: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    out: &mut dyn Write,
) -> io::Result<NextLocal> {
    let path = if left_at(left)?.is_some() { left } else { present };
    let none = NextLocal { digest: Digest::of(&[]), bytes: 0, spec, from, control: None };
    let next = append(path, spec, from, out)?.unwrap_or(none);
    let mut out = Counting { out, hasher: blake3::Hasher::new(), bytes: 0 };
    control(&mut out)?;
    let control = ControlBytes { digest: out.hasher.finalize().into(), bytes: out.bytes };
    Ok(NextLocal { control: Some(control), ..next })
}

/// Passes bytes on, hashes and counts them.
struct Counting<'a> {
    out: &'a mut dyn Write,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Makes the next state in the retained update `update` the current one, at `to`: atomic and synced.
///
/// # Errors
/// `update` is not what was written, carries none, or the disk refused.
pub fn promote(update: &Path, record: &Record, to: &Path) -> Result<LocalState, StateError> {
    let mut opened = retained::open_record(update)?;
    // Not the whole record: a norm that was read back from JSON may differ in its last bit.
    let same = opened.record.digest == record.digest && opened.record.local == record.local;
    let next = record.local.as_ref().filter(|_| same);
    let next = next.ok_or_else(|| damaged(update, "its record is not the one that was written"))?;
    let mut torn = false;
    let written = trailer::write(to, &KIND, |out| {
        torn = opened.pass(record.bytes, next.bytes, out)? != next.digest;
        if let (false, Some(control)) = (torn, next.control) {
            let at = record.bytes + next.bytes;
            torn = opened.pass(at, control.bytes, out)? != control.digest;
        }
        if torn {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok(LocalState {
            study: record.study.clone(),
            study_digest: record.study_digest,
            spec: next.spec,
            round: record.round,
            digest: next.digest,
            bytes: next.bytes,
            control: next.control,
        })
    });
    if torn {
        return Err(damaged(
            update,
            "the local state in it does not have the digest of its record",
        ));
    }
    written
}

/// Opens the control variate of a current state, verified: the file, and where in it the variate begins.
///
/// # Errors
/// The file is not what was written, has none, or the disk refused.
pub fn open_control(path: &Path, state: &LocalState) -> Result<(File, u64), StateError> {
    let mut opened = open(path)?;
    let control = state.control.filter(|_| opened.record == *state);
    let control = control.ok_or_else(|| damaged(path, "it has no control variate any more"))?;
    let found = opened.pass(state.bytes, control.bytes, &mut io::sink());
    if found.map_err(IoError::at("read", path))? != control.digest {
        return Err(damaged(path, "the control variate does not have the digest of its record"));
    }
    Ok((opened.file, state.bytes))
}

/// Copies a current state for a worker, verified on the way. `to` is of no use after an error.
///
/// # Errors
/// The file is not what was written, or the disk refused.
pub fn copy(path: &Path, state: &LocalState, to: &Path) -> Result<(), StateError> {
    let mut opened = open(path)?;
    if opened.record != *state {
        return Err(damaged(path, "its record is not the one that was read at the start"));
    }
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut out = options.open(to).map_err(IoError::at("create", to))?;
    let digest = opened.pass(0, state.bytes, &mut out).map_err(IoError::at("copy", path))?;
    if digest == state.digest {
        Ok(())
    } else {
        Err(damaged(path, "the local state does not have the digest of its record"))
    }
}

/// Reads and verifies a state's record; its bytes are not looked at.
///
/// # Errors
/// Not the file that was written, one of a newer release, or the disk refused.
pub fn read(path: &Path) -> Result<LocalState, StateError> {
    Ok(open(path)?.record)
}

/// Opens a state whose record fits its name and its length.
fn open(path: &Path) -> Result<trailer::Opened<LocalState>, StateError> {
    let opened = trailer::open::<LocalState>(path, &KIND)?;
    let name = file_name(&opened.record.study);
    if path.file_name().is_none_or(|have| *have != *name) {
        return Err(damaged(path, "its record names another study"));
    }
    let control = opened.record.control.map_or(0, |control| control.bytes);
    if opened.record.bytes.checked_add(control) != Some(opened.bytes) {
        return Err(damaged(path, "the local state is not as long as its record says"));
    }
    Ok(opened)
}
