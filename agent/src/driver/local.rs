//! A study's local state on its way: to the worker, from the worker into the retained update, and
//! from there into the place of the current one (`crate::state::local`).

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_common::ids::{Digest, Round, StudyId};
use consilium_common::study::Study;
use consilium_common::wire::reject::Code;
use consilium_io::failpoints;

use super::shared::{Shared, blocking};
use super::task::site_fault;
use crate::session::{Fault, NextLocal, Promotion, Stamp, promotion};
use crate::state::{KeptStudy, StateError, local as files};
use crate::update::Encoding;
use crate::worker::TaskFolder;

/// Copies the study's current state to `to` for a worker, if there is one that fits the study; where
/// it is then.
pub(super) async fn give(
    shared: &Arc<Shared>,
    kept: &KeptStudy,
    to: PathBuf,
) -> Result<Option<PathBuf>, Fault> {
    let (shared, kept) = (Arc::clone(shared), kept.clone());
    blocking(move || Ok(try_give(&shared, &kept, &to)?.then_some(to))).await?
}

fn try_give(shared: &Shared, kept: &KeptStudy, to: &Path) -> Result<bool, Fault> {
    let study = kept.study.id();
    let state = shared.state();
    let current = state.local.get(study).filter(|current| current.is_of_worker()).cloned();
    let Some(current) = current else {
        return Ok(false);
    };
    let path = state.local.path_of(study);
    drop(state);
    if current.spec != spec(kept)? {
        tracing::warn!(
            %study, round = %current.round,
            "this site's local state belongs to another [model] section of the study: it starts as \
             when it joined"
        );
        return Ok(false);
    }
    match files::copy(&path, &current, to) {
        Ok(()) => Ok(true),
        Err(why) if is_lost(&path, &why) => {
            shared.state().local.set_aside(study, &why).map_err(site_fault)?;
            // What was copied of it is nothing that a worker was given.
            let _none = std::fs::remove_file(to);
            tracing::warn!(
                %study, round = %current.round,
                "this site's local state is lost ({why}): it goes on as when it joined"
            );
            Ok(false)
        }
        Err(error) => Err(site_fault(error)),
    }
}

/// Whether the bytes that were written to `path` are there no more, as opposed to a disk that refuses
/// now.
pub(super) fn is_lost(path: &Path, why: &StateError) -> bool {
    match why {
        StateError::Damaged { .. } => true,
        StateError::Io(error) => error.source.kind() == ErrorKind::NotFound && error.path == *path,
        StateError::Lock(_)
        | StateError::Blob(_)
        | StateError::Signed(_)
        | StateError::NewerFormat { .. }
        | StateError::Unwritable { .. } => false,
    }
}

/// The next state that a worker left, or none, to be appended to its update.
#[derive(Debug)]
pub(super) struct Left {
    /// Where a worker leaves it, and where what it was given lies.
    places: [PathBuf; 2],
    spec: Digest,
    from: Option<Stamp>,
}

impl Left {
    /// Looks at what is in the worker's folder before anything is written: what is wrong here is the
    /// worker's doing.
    pub(super) fn find(
        shared: &Shared,
        kept: &KeptStudy,
        folder: &TaskFolder,
    ) -> Result<Self, Fault> {
        let places = [folder.local_out(), folder.local()];
        let worker_fault = |error: io::Error| Fault::lasting(Code::WorkerFailed, error.to_string());
        files::left_at(&folder.local_out()).map_err(worker_fault)?;
        let spec = spec(kept)?;
        let from = shared.state().local.get(kept.study.id()).map(|current| current.stamp());
        Ok(Self { places, spec, from })
    }

    /// Writes its bytes behind the update's, and those of the next control variate if there is one.
    pub(super) fn append(
        &self,
        update: &Encoding<'_>,
        out: &mut dyn Write,
    ) -> io::Result<Option<NextLocal>> {
        let places = self.places.each_ref().map(PathBuf::as_path);
        if !update.moves_control() {
            return files::append(places[0], self.spec, self.from, out);
        }
        let control = |out: &mut dyn Write| update.write_next_control(out);
        files::append_with_control(places, self.spec, self.from, control, out).map(Some)
    }
}

fn spec(kept: &KeptStudy) -> Result<Digest, Fault> {
    Study::spec_digest(&kept.signed.bytes).map_err(site_fault)
}

/// An update counted: the state that it carries, if any, becomes current.
pub(super) async fn promote(
    shared: &Arc<Shared>,
    study: &StudyId,
    round: Round,
) -> Result<(), Fault> {
    let (shared, study) = (Arc::clone(shared), study.clone());
    blocking(move || try_promote(&shared, &study, round).map_err(site_fault)).await?
}

fn try_promote(shared: &Shared, study: &StudyId, round: Round) -> Result<(), StateError> {
    let state = shared.state();
    let Some(record) = state.retained.get(study, round).cloned() else {
        return Ok(());
    };
    let Some(next) = &record.local else {
        return Ok(());
    };
    let current = state.local.get(study).map(|current| current.stamp());
    let (update, to) = (state.retained.path_of(study, round), state.local.path_of(study));
    drop(state);
    match promotion(current, round, next) {
        Promotion::Done => return Ok(()),
        Promotion::Stale => {
            tracing::warn!(%study, %round, "an old update came back: the local state stays");
            return Ok(());
        }
        Promotion::Due => {}
    }
    failpoints::before("promote");
    match files::promote(&update, &record, &to) {
        Ok(state) => shared.state().local.insert(state),
        Err(why) if is_lost(&update, &why) => {
            shared.state().retained.set_aside(study, round, &why)?;
            tracing::warn!(
                %study, %round,
                "the local state of an update that counted is lost ({why}): the one before stays"
            );
        }
        Err(error) => return Err(error),
    }
    failpoints::after("promote");
    Ok(())
}
