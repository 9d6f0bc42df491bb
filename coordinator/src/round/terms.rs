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
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::{ControlPlan, NamedBlob, Plan, TaskKind};

use super::action::Rules;
use super::shape::Shape;

/// The study, and what is computed from it once.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) study: Study,
    pub(super) digest: Digest,
    pub(super) schema: Schema,
    pub(super) shape: Shape,
    pub(super) key: SecretKey,
    base_bytes: u64,
    /// Bytes of SCAFFOLD's c.
    control_bytes: u64,
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
        let schema = Schema::of(&study);
        Ok(Self {
            shape: Shape::of(&study, &layout, &schema),
            schema,
            base_bytes: model_bytes_len(&layout),
            control_bytes: state_bytes_len(&layout, 1),
            study,
            digest,
            key,
        })
    }

    /// Whether the sites count something together before the first round trains.
    pub(super) fn prepares(&self) -> bool {
        self.shape.preparation_len().is_some()
    }

    /// The grid of the updates' `control` section, if the strategy has one.
    pub(super) fn control(&self, task: TaskKind) -> Option<Grid> {
        self.shape.control(task)
    }

    /// The most that one site's update weighs.
    pub(super) fn weight_max(&self, task: TaskKind) -> u64 {
        self.shape.weight_max(task)
    }

    /// What an update for this plan must be.
    pub(super) fn rules(&self, plan: &PlanMade) -> Rules {
        self.shape.rules(plan)
    }

    /// The plan as a site gets it now. `own`: the round that its control variate in c is from.
    pub(super) fn plan_message(
        &self,
        plan: &PlanMade,
        own: Option<Round>,
        remaining: Millis,
    ) -> Plan {
        let bytes = self.control_bytes;
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
                bytes: preparation_bytes_len(self.shape.preparation_len().unwrap_or(0)),
            }),
            control: self.control(plan.task).map(|_| ControlPlan {
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
