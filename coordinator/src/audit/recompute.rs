//! Rounds once more, from the updates that the coordinator retained: with the code with which it made them
//! (`compute`, `aggregate`). What comes out is compared by its digest; nothing is written.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use consilium_common::audit::record::PlanMade;
use consilium_common::audit::{Outcome, RollCall, Status};
use consilium_common::ids::{Digest, SiteId, StudyId};
use consilium_common::study::Study;
use consilium_common::update::words::Words;
use consilium_common::wire::messages::TaskKind;
use consilium_io::disk::{BlobError, Blobs};

use super::folder::Kept;
use super::rounds::Known;
use super::verdict::{At, Check, Verdict};
use crate::aggregate::Members;
use crate::compute::Compute;
use crate::round::StudyHistory;
use crate::stage::Stage;
use crate::store::files::Files;
use crate::store::{Bulk, ReadBlob, WriteBlob};

const NOT_HERE: &str = "not in the export: the coordinator does not have them, or they came later";
const NO_UPDATES: &str = "updates are not in the export: the coordinator did not retain them";
const NO_BASE: &str = "the model or state that they start from is not in the export";

/// What came of one round.
pub(super) enum Said {
    /// Sum, metrics and version are those of the roll call.
    Right,
    /// There is nothing to compute.
    Nothing,
    /// It cannot be computed from what is here.
    Missing(&'static str),
    /// It comes out otherwise.
    Wrong(String),
}

/// The blobs of an export, and what each study computes with.
pub(super) struct Recompute {
    blobs: Blobs,
    updates: Blobs,
    updates_folder: PathBuf,
    models: Arc<Models>,
    computes: BTreeMap<StudyId, (Digest, Compute)>,
}

impl Recompute {
    pub(super) fn new(kept: &Kept) -> Self {
        Self {
            blobs: Blobs::look_at(&kept.blobs),
            updates: Blobs::look_at(&kept.updates),
            updates_folder: kept.updates.clone(),
            models: Arc::new(Models(Files::look_at(&kept.blobs))),
            computes: BTreeMap::new(),
        }
    }

    /// v0 of a study: it follows from spec and seed, or operators signed its digest.
    pub(super) fn initial(&self, study: &Study, at: At, verdict: &mut Verdict) {
        let Some(initial) = study.initial else { return };
        if !initial.given {
            match study.initial_model().map(|model| Digest::of(&model)) {
                Ok(model) if model == initial.model => {}
                Ok(model) => {
                    let named = initial.model;
                    let what = format!("v0 is {named}, spec and seed give {model}");
                    verdict.fault(Check::Models, Some(at), what);
                }
                Err(error) => verdict.fault(Check::Models, Some(at), error.to_string()),
            }
        }
        self.blob("v0", initial.model, at, verdict);
    }

    /// What a round committed.
    pub(super) fn versions(&self, call: &RollCall, at: At, verdict: &mut Verdict) {
        match call.outcome {
            Outcome::Committed { model, strategy_state, .. } => {
                self.blob("model", model, at, verdict);
                if let Some(state) = strategy_state {
                    self.blob("strategy state", state, at, verdict);
                }
            }
            Outcome::Prepared { preparation, .. } => {
                self.blob("preparation", preparation, at, verdict);
            }
            Outcome::Evaluated { .. } | Outcome::Abandoned { .. } => {}
        }
    }

    fn blob(&self, what: &str, digest: Digest, at: At, verdict: &mut Verdict) {
        match self.blobs.verify(digest) {
            Ok(()) => verdict.right(Check::Models, 1),
            Err(BlobError::Missing(_)) => verdict.missing(Check::Models, NOT_HERE),
            Err(error) => verdict.fault(Check::Models, Some(at), format!("{what}: {error}")),
        }
    }

    /// One round, before its roll call is added to the history.
    pub(super) fn round(
        &mut self,
        study: (&StudyHistory, &Known),
        plan: &PlanMade,
        call: &RollCall,
    ) -> Said {
        if matches!(call.outcome, Outcome::Abandoned { .. }) {
            return Said::Nothing;
        }
        let counted = counted(call);
        if !counted.iter().all(|(_, _, update)| self.updates.contains(*update)) {
            return Said::Missing(NO_UPDATES);
        }
        let state = study.0.head.strategy_state;
        let needs = [Some(call.base), state].into_iter().flatten();
        let makes = matches!(call.outcome, Outcome::Committed { .. });
        if makes && !needs.into_iter().all(|blob| self.blobs.contains(blob)) {
            return Said::Missing(NO_BASE);
        }
        let compute = match self.compute_of(study.0) {
            Ok(compute) => compute,
            Err(what) => return Said::Wrong(what),
        };
        let result = recompute(&compute, study, plan, (call, &counted));
        compute.forget();
        result.map_or_else(Said::Wrong, |()| Said::Right)
    }

    fn compute_of(&mut self, study: &StudyHistory) -> Result<Compute, String> {
        let (id, digest) = (study.study.id(), study.study_digest());
        if let Some((_, compute)) = self.computes.get(id).filter(|(known, _)| *known == digest) {
            return Ok(compute.clone());
        }
        let stage = Arc::new(Stage::look_at(&self.updates_folder));
        let models = Arc::<Models>::clone(&self.models);
        let compute =
            Compute::new(&study.study, models, stage, None).map_err(|error| error.to_string())?;
        self.computes.insert(id.clone(), (digest, compute.clone()));
        Ok(compute)
    }
}

/// Site, weight and update of each that counted.
fn counted(call: &RollCall) -> Vec<(&SiteId, u64, Digest)> {
    let counted = call.sites.iter().filter_map(|(site, entry)| match entry.status {
        Status::Counted { weight } => Some((site, weight?, entry.update?)),
        Status::Excluded { .. } => None,
    });
    counted.collect()
}

/// A site that counted: its weight and its update.
type Counted<'a> = (&'a SiteId, u64, Digest);

fn recompute(
    compute: &Compute,
    (study, known): (&StudyHistory, &Known),
    plan: &PlanMade,
    (call, counted): (&RollCall, &[Counted<'_>]),
) -> Result<(), String> {
    let rules = known.shape.rules(plan);
    let mut words = Words::default();
    for (site, weight, update) in counted {
        let told = |fault: crate::round::Fault| {
            format!(
                "the update {update} of {site} would be refused: {}: {}",
                fault.code, fault.detail
            )
        };
        let own = compute.verify(*update, &rules).map_err(told)?;
        if own.weight != *weight {
            return Err(format!("{site} delivered weight {}, and counted {weight}", own.weight));
        }
        if call.task != TaskKind::Evaluate {
            compute.add(*update, *weight, rules.coordinates()).map_err(told)?;
        }
        let sum = words.checked_add(&own);
        words = sum.ok_or_else(|| "the sites' metric sums overflow".to_owned())?;
    }
    match &call.outcome {
        Outcome::Committed { model, strategy_state, sum, weight, .. } => {
            measured(known, call, &words)?;
            let grid = study.study.aggregation.control_grid();
            let sites = counted.iter().map(|(site, ..)| *site);
            let members = grid.map(|grid| Members {
                before: study.controls.len(),
                after: study.controls.len_with(sites),
                step_exponent: grid.step_exponent,
            });
            let scale = (*weight, known.shape.step_exponent());
            let made = compute
                .aggregate(call.base, study.head.strategy_state, scale, members)
                .map_err(|fault| fault.detail)?;
            same("the sum", made.sum, *sum)?;
            same("the model", made.model, *model)?;
            if made.strategy_state != *strategy_state {
                return Err("the strategy's state comes out otherwise".to_owned());
            }
            Ok(())
        }
        Outcome::Evaluated { .. } => measured(known, call, &words),
        Outcome::Prepared { preparation, sum } => {
            let sites = counted.len() as u64;
            let made = compute.prepare(sites).map_err(|fault| fault.detail)?;
            same("the sum", made.sum, *sum)?;
            same("the preparation", made.preparation, *preparation)
        }
        Outcome::Abandoned { .. } => Ok(()),
    }
}

fn measured(known: &Known, call: &RollCall, words: &Words) -> Result<(), String> {
    if words.clipped != call.clipped {
        let (have, said) = (words.clipped, call.clipped);
        return Err(format!("{have} of the updates were clipped, the roll call says {said}"));
    }
    let names = known.schema.names().iter();
    for (at, name) in names.enumerate() {
        let (have, said) = (words.metrics.0.get(at), call.metrics.get(name));
        if have != said {
            return Err(format!(
                "the updates' {name} add up to {have:?}, the roll call says {said:?}"
            ));
        }
    }
    Ok(())
}

fn same(what: &str, made: Digest, said: Digest) -> Result<(), String> {
    if made == said {
        return Ok(());
    }
    Err(format!("{what} comes out as {made}, the roll call says {said}"))
}

/// Models of an export; what is made of them is hashed and let go.
#[derive(Debug)]
struct Models(Files);

impl Bulk for Models {
    fn open(&self, digest: Digest) -> Result<Box<dyn ReadBlob>, BlobError> {
        self.0.open(digest)
    }

    fn create(&self) -> Result<Box<dyn WriteBlob>, BlobError> {
        Ok(Box::new(Hashing(blake3::Hasher::new())))
    }
}

struct Hashing(blake3::Hasher);

impl WriteBlob for Hashing {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.0.update(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Digest, BlobError> {
        Ok(self.0.finalize().into())
    }
}
