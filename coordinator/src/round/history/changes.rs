//! What operators change between rounds: the study's next file, and the version that training goes on from.

use consilium_common::audit::record::{Retrained, StudySubmitted};
use consilium_common::ids::Version;
use consilium_common::study::Study;
use consilium_common::update::best::Best;
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::RunState;

use super::{HistoryError, StudyHistory};
use crate::limits::RETRAININGS_MAX;

impl StudyHistory {
    /// A changed file of the same study: rounds and versions go on counting, and an operator starts
    /// it again. The preparation stays in force if the sites would count the same, else they count
    /// anew.
    pub(super) fn succeed(
        &mut self,
        study: Study,
        submitted: &StudySubmitted,
    ) -> Result<(), HistoryError> {
        let (id, known) = (study.id().clone(), self.study.header.version);
        if study.header.version <= known {
            return Err(HistoryError::OldStudyVersion { study: id, known });
        }
        let layout = |study: &Study| study.initial.map(|initial| initial.layout);
        if layout(&study) != layout(&self.study) {
            return Err(HistoryError::LayoutChanged(id));
        }
        if study.aggregation.strategy != self.study.aggregation.strategy {
            // Another strategy begins anew; its numbers may change on the way.
            self.head.strategy_state = None;
            self.controls.clear();
        }
        if study.preparation_terms() != self.study.preparation_terms() {
            self.head.preparation = None;
        }
        if study.evaluation.metric != self.best.metric() {
            // What the versions were worth by another metric says nothing.
            self.best = Best::new(study.evaluation.metric);
        }
        (self.schema, self.begun) = (Schema::of(&study), self.head.version);
        self.study = study;
        self.signed = submitted.signed.clone();
        self.submitted_by.clone_from(&submitted.by);
        self.state = RunState::Submitted;
        self.state_by.clone_from(&submitted.by);
        self.completion = None;
        self.evaluated = false;
        self.evaluations_abandoned = 0;
        Ok(())
    }

    /// Training goes on from an earlier version, which is the newest one again, when an operator starts it.
    /// Whatever else was learnt since (the strategy's state, which version is best) is left behind. What the
    /// sites counted stays in force, because the version was trained on it; before v0's first round they
    /// count anew.
    pub(super) fn go_back(&mut self, retrained: &Retrained) -> Result<(), HistoryError> {
        let Retrained { study, from, version, model, by } = retrained;
        let refuse =
            |why: String| Err(HistoryError::GoBack { study: study.clone(), from: *from, why });
        let head = self.head.version;
        if let Some(open) = &self.interrupted {
            let round = open.plan.round;
            return refuse(format!(
                "its round {round} is open: pause the study and wait for its end"
            ));
        }
        match self.state {
            RunState::Submitted | RunState::Paused | RunState::Complete => {}
            RunState::Running => return refuse("it is running: pause it first".to_owned()),
            RunState::Stopped => {
                return refuse("it was stopped for good: submit its next version first".to_owned());
            }
        }
        if *from == head {
            return refuse(
                "that is its newest version, from which it goes on in any case".to_owned(),
            );
        }
        if *from > head || *version != head.next() {
            return refuse(format!("its newest version is {head}"));
        }
        if self.lineage.len() >= RETRAININGS_MAX {
            return refuse(format!("it went back {RETRAININGS_MAX} times, which is the most"));
        }
        self.lineage.go_back(*version, *from);
        (self.head.version, self.head.model, self.head.strategy_state) = (*version, *model, None);
        if self.lineage.origin(*from) == Version(0) {
            self.head.preparation = None;
        }
        self.controls.clear();
        (self.best, self.begun) = (Best::new(self.best.metric()), *version);
        (self.evaluated, self.evaluations_abandoned) = (false, 0);
        (self.state, self.completion) = (RunState::Paused, None);
        self.state_by.clone_from(by);
        Ok(())
    }
}
