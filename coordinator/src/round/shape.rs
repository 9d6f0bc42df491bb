//! What every update of a study must be: sections, grids and weights, from the signed study alone. The
//! engine holds updates against it, and so does whoever audits them later.

use consilium_common::audit::record::PlanMade;
use consilium_common::ids::Digest;
use consilium_common::study::Study;
use consilium_common::tensor::layout::Layout;
use consilium_common::update::control::Grid;
use consilium_common::update::grid::{COUNT_STEP_EXPONENT, step_exponent};
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::TaskKind;

use super::action::Rules;

/// Computed once from a study.
#[derive(Debug, Clone)]
pub struct Shape {
    layout: Digest,
    weights_len: usize,
    words_len: usize,
    step_exponent: i32,
    clip_norm: f64,
    max_examples: u64,
    /// Sums that the sites count before the first round, if any.
    preparation_len: Option<usize>,
    /// Under SCAFFOLD: the grid of Δc.
    control: Option<Grid>,
}

impl Shape {
    /// Of a study, which has this layout and measures by this schema.
    #[must_use]
    pub fn of(study: &Study, layout: &Layout, schema: &Schema) -> Self {
        Self {
            layout: layout.digest(),
            weights_len: layout.weights_len(),
            words_len: schema.words_len(),
            step_exponent: step_exponent(study.aggregation.clip_norm),
            clip_norm: study.aggregation.clip_norm,
            max_examples: study.cohort.max_examples,
            preparation_len: study.preparation_len(),
            control: study.aggregation.control_grid(),
        }
    }

    /// The step of a delta's grid is 2^this.
    #[must_use]
    pub fn step_exponent(&self) -> i32 {
        self.step_exponent
    }

    /// Sums that the sites count before the first round trains, if any.
    #[must_use]
    pub fn preparation_len(&self) -> Option<usize> {
        self.preparation_len
    }

    /// The grid of the updates' `control` section, if they have one.
    #[must_use]
    pub fn control(&self, task: TaskKind) -> Option<Grid> {
        self.control.filter(|_| task == TaskKind::Train)
    }

    /// The most that one site's update weighs.
    #[must_use]
    pub fn weight_max(&self, task: TaskKind) -> u64 {
        match task {
            TaskKind::Train | TaskKind::Evaluate => self.max_examples,
            TaskKind::Prepare => 1,
        }
    }

    /// What an update for this plan must be.
    #[must_use]
    pub fn rules(&self, plan: &PlanMade) -> Rules {
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
            words_len: self.words_len,
            step_exponent: match plan.task {
                TaskKind::Train | TaskKind::Evaluate => self.step_exponent,
                TaskKind::Prepare => COUNT_STEP_EXPONENT,
            },
            clip_norm: self.clip_norm,
            max_examples: self.weight_max(plan.task),
        }
    }
}
