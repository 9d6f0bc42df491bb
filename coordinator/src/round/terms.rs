//! What follows from the signed study and stays the same as long as the engine lives.

use consilium_common::audit::Receipt;
use consilium_common::audit::record::PlanMade;
use consilium_common::ids::{Digest, Round, SiteId};
use consilium_common::limits::WEIGHT_SUM_MAX;
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::study::preparation::preparation_bytes_len;
use consilium_common::study::{Study, StudyError};
use consilium_common::tensor::flat::model_bytes_len;
use consilium_common::tensor::state::state_bytes_len;
use consilium_common::time::Millis;
use consilium_common::update::control::Grid;
use consilium_common::update::grid::{COUNT_STEP_EXPONENT, step_exponent};
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::{ControlPlan, NamedBlob, Plan, TaskKind};

use super::action::Rules;

/// The study, and what is computed from it once.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) study: Study,
    pub(super) digest: Digest,
    pub(super) schema: Schema,
    pub(super) step_exponent: i32,
    pub(super) key: SecretKey,
    layout: Digest,
    weights_len: usize,
    base_bytes: u64,
    /// Sums that the sites count before the first round, if any.
    preparation_len: Option<usize>,
    /// Under SCAFFOLD: the grid of Δc, and the bytes of c.
    control: Option<(Grid, u64)>,
}

impl Terms {
    pub(super) fn new(study: Study, digest: Digest, key: SecretKey) -> Result<Self, StudyError> {
        let layout = study.layout()?;
        let required = study.cohort.required.len() as u64;
        if required.saturating_mul(study.cohort.max_examples) >= WEIGHT_SUM_MAX {
            return Err(StudyError::Range {
                field: "cohort.max_examples",
                have: study.cohort.max_examples.to_string(),
                need: format!("times the required sites it must stay below {WEIGHT_SUM_MAX}"),
            });
        }
        Ok(Self {
            schema: Schema::of(&study),
            step_exponent: step_exponent(study.aggregation.clip_norm),
            layout: layout.digest(),
            weights_len: layout.weights_len(),
            base_bytes: model_bytes_len(&layout),
            preparation_len: study.preparation_len(),
            control: study
                .aggregation
                .control_grid()
                .map(|grid| (grid, state_bytes_len(&layout, 1))),
            study,
            digest,
            key,
        })
    }

    /// Whether the sites count something together before the first round trains.
    pub(super) fn prepares(&self) -> bool {
        self.preparation_len.is_some()
    }

    /// The grid of the updates' `control` section, if the strategy has one.
    pub(super) fn control(&self, task: TaskKind) -> Option<Grid> {
        self.control.filter(|_| task == TaskKind::Train).map(|(grid, _)| grid)
    }

    /// The most that one site's update weighs.
    pub(super) fn weight_max(&self, task: TaskKind) -> u64 {
        match task {
            TaskKind::Train | TaskKind::Evaluate => self.study.cohort.max_examples,
            TaskKind::Prepare => 1,
        }
    }

    /// What an update for this plan must be.
    pub(super) fn rules(&self, plan: &PlanMade) -> Rules {
        Rules {
            study_digest: plan.study_digest,
            round: plan.round,
            task: plan.task,
            base: plan.base,
            layout: self.layout,
            shared_len: match plan.task {
                TaskKind::Train => self.weights_len,
                TaskKind::Evaluate => 0,
                TaskKind::Prepare => self.preparation_len.unwrap_or(0),
            },
            control: self.control(plan.task),
            words_len: self.schema.words_len(),
            step_exponent: match plan.task {
                TaskKind::Train | TaskKind::Evaluate => self.step_exponent,
                TaskKind::Prepare => COUNT_STEP_EXPONENT,
            },
            clip_norm: self.study.aggregation.clip_norm,
            max_examples: self.weight_max(plan.task),
        }
    }

    /// The plan as a site gets it now. `own`: the round that its control variate in c is from.
    pub(super) fn plan_message(
        &self,
        plan: &PlanMade,
        own: Option<Round>,
        remaining: Millis,
    ) -> Plan {
        let control = self.control.filter(|_| plan.task == TaskKind::Train);
        Plan {
            study: plan.study.clone(),
            study_digest: plan.study_digest,
            round: plan.round,
            task: plan.task,
            base_version: plan.base_version,
            base: plan.base,
            base_bytes: self.base_bytes,
            preparation: plan.preparation.map(|digest| NamedBlob {
                digest,
                bytes: preparation_bytes_len(self.preparation_len.unwrap_or(0)),
            }),
            control: control.map(|(_, bytes)| ControlPlan {
                common: plan.control.map(|digest| NamedBlob { digest, bytes }),
                own,
            }),
            remaining,
        }
    }

    /// The signed receipt for an update.
    pub(super) fn receipt(
        &self,
        plan: &PlanMade,
        site: &SiteId,
        update: Digest,
    ) -> Signed<Receipt> {
        let receipt = Receipt {
            format: 1,
            study: plan.study.clone(),
            study_digest: plan.study_digest,
            round: plan.round,
            site: site.clone(),
            update,
            bytes: self.rules(plan).update_bytes_len(),
        };
        // Names, digests and numbers: JSON holds them all.
        let bytes = receipt.to_bytes().expect("a receipt is JSON");
        Signed::sign(bytes, &self.key)
    }
}
