//! What the records of a log add up to: a pure fold, from which engines are opened and against which
//! an index can be checked.

mod changes;
mod error;
mod proposals;

use std::collections::{BTreeMap, BTreeSet};

use consilium_common::audit::record::{
    Completion, PlanMade, RosterSet, StudySubmitted, TrainingBegun,
};
use consilium_common::audit::{Outcome, Receipt, Record, RollCall};
use consilium_common::ids::{Digest, Round, SiteId, StudyId, Version};
use consilium_common::limits::STUDIES_MAX;
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::study::Study;
use consilium_common::update::best::Best;
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::{RunState, TaskKind};

pub use error::HistoryError;
use proposals::Proposals;
pub use proposals::proposal_over;

use super::action::Head;
use super::affected::Affected;
use super::controls::Controls;
use super::lineage::Lineage;
use super::resume::{Interrupted, Setup};

/// All that a log says.
#[derive(Debug, Clone, Default)]
pub struct History {
    roster: Option<RosterSet>,
    studies: BTreeMap<StudyId, StudyHistory>,
    proposals: Proposals,
}

/// What a log says of one study.
#[derive(Debug, Clone)]
pub struct StudyHistory {
    /// The newest file of the study.
    pub study: Study,
    /// As it was signed.
    pub signed: Signed<Study>,
    /// Who submitted it.
    pub submitted_by: String,
    /// Whether it runs.
    pub state: RunState,
    /// Who set that state.
    pub state_by: String,
    /// Why it is complete, if it is.
    pub completion: Option<Completion>,
    /// The newest version. v0 is the study's `initial.model`.
    pub head: Head,
    /// The best version that was scored with the study's metric.
    pub best: Best,
    /// The newest version when this file of the study was submitted, or training went back.
    pub begun: Version,
    /// Which version each is built on.
    pub lineage: Lineage,
    /// Under SCAFFOLD: what the head's state is made of.
    pub controls: Controls,
    /// What the roll calls' sums mean.
    schema: Schema,
    /// No round has this number yet.
    pub next_round: Round,
    /// The round that has a plan and no roll call.
    pub interrupted: Option<Interrupted>,
    /// The newest version was scored.
    pub evaluated: bool,
    /// Evaluate rounds of the newest version that were abandoned in a row.
    pub evaluations_abandoned: u32,
    /// Versions that withdrawals affect.
    pub affected: Affected,
}

impl History {
    /// Nothing was written yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next record of the log. On an error nothing changes, so a record can be held
    /// against a clone of the history before it is written.
    ///
    /// # Errors
    /// The record does not fit what was before it.
    pub fn apply(&mut self, record: &Record) -> Result<(), HistoryError> {
        let name = record.name();
        match record {
            Record::Roster(roster) => {
                self.roster = Some(roster.clone());
                Ok(())
            }
            Record::StudySubmitted(submitted) => self.submit(name, submitted),
            Record::StudyState(set) => {
                let study = self.known(name, &set.study)?;
                study.state = set.state;
                study.state_by.clone_from(&set.by);
                study.completion = set.completion;
                Ok(())
            }
            Record::Plan(plan) => self.known(name, &plan.study)?.plan(name, plan),
            Record::Training(training) => {
                self.known(name, &training.study)?.training(name, training)
            }
            Record::Receipt(given) => {
                let receipt = readable(name, &given.signed)?;
                self.known(name, &receipt.study)?.receipt(name, &receipt, &given.signed)
            }
            Record::RollCall(ended) => {
                let roll_call = readable(name, &ended.signed)?;
                self.known(name, &roll_call.study)?.roll_call(name, &roll_call)
            }
            Record::Withdrawal(withdrawn) => {
                self.known(name, &withdrawn.study)?.affected.add(withdrawn);
                Ok(())
            }
            Record::Retrained(retrained) => self.known(name, &retrained.study)?.go_back(retrained),
            Record::Proposal(proposed) => self.propose(proposed),
            // Members are another fold's: `crate::members`.
            Record::Command(_)
            | Record::Refusal(_)
            | Record::Invitation(_)
            | Record::EnrolRequest(_)
            | Record::Approval(_)
            | Record::Certificate(_)
            | Record::Revocation(_)
            | Record::RosterSignature(_) => Ok(()),
        }
    }

    /// The roster in force.
    #[must_use]
    pub fn roster(&self) -> Option<&RosterSet> {
        self.roster.as_ref()
    }

    /// One study.
    #[must_use]
    pub fn study(&self, id: &StudyId) -> Option<&StudyHistory> {
        self.studies.get(id)
    }

    /// Every study, by name.
    pub fn studies(&self) -> impl Iterator<Item = &StudyHistory> {
        self.studies.values()
    }

    fn known(
        &mut self,
        record: &'static str,
        id: &StudyId,
    ) -> Result<&mut StudyHistory, HistoryError> {
        let unknown = || HistoryError::UnknownStudy { record, study: id.clone() };
        self.studies.get_mut(id).ok_or_else(unknown)
    }

    fn submit(
        &mut self,
        record: &'static str,
        submitted: &StudySubmitted,
    ) -> Result<(), HistoryError> {
        let study = readable(record, &submitted.signed)?;
        let id = study.id().clone();
        if let Some(known) = self.studies.get_mut(&id) {
            return known.succeed(study, submitted);
        }
        if self.studies.len() >= STUDIES_MAX {
            return Err(HistoryError::TooManyStudies);
        }
        let Some(initial) = study.initial else {
            let why = "it is a draft without [initial]".to_owned();
            return Err(HistoryError::Unreadable { record, why });
        };
        let history = StudyHistory {
            head: Head {
                study: id.clone(),
                version: Version(0),
                model: initial.model,
                strategy_state: None,
                preparation: None,
            },
            best: Best::new(study.evaluation.metric),
            begun: Version(0),
            lineage: Lineage::default(),
            controls: Controls::default(),
            schema: Schema::of(&study),
            study,
            signed: submitted.signed.clone(),
            submitted_by: submitted.by.clone(),
            state: RunState::Submitted,
            state_by: submitted.by.clone(),
            completion: None,
            next_round: Round(1),
            interrupted: None,
            evaluated: false,
            evaluations_abandoned: 0,
            affected: Affected::default(),
        };
        self.studies.insert(id, history);
        Ok(())
    }
}

impl StudyHistory {
    /// Digest of the signed study.
    #[must_use]
    pub fn study_digest(&self) -> Digest {
        self.signed.digest()
    }

    /// What an engine opens with.
    #[must_use]
    pub fn setup(&self, roster: BTreeSet<SiteId>, key: SecretKey) -> Setup {
        Setup {
            study: self.study.clone(),
            study_digest: self.study_digest(),
            state: self.state,
            state_by: self.state_by.clone(),
            version: self.head.version,
            model: self.head.model,
            strategy_state: self.head.strategy_state,
            controls: self.controls.clone(),
            best: self.best,
            begun: self.begun,
            trained: self.lineage.trainings(self.head.version),
            preparation: self.head.preparation,
            evaluated: self.evaluated,
            evaluations_abandoned: self.evaluations_abandoned,
            next_round: self.next_round,
            interrupted: self.interrupted.clone(),
            roster,
            key,
        }
    }

    /// The strategy is SCAFFOLD.
    fn corrects(&self) -> bool {
        self.study.aggregation.control_grid().is_some()
    }

    fn plan(&mut self, record: &'static str, plan: &PlanMade) -> Result<(), HistoryError> {
        if plan.round < self.next_round || self.interrupted.is_some() {
            let need = format!("a roll call, or round {} or later,", self.next_round);
            return Err(self.wrong_round(record, plan.round, need));
        }
        let (have, need) = (plan.preparation, self.head.preparation);
        if have != need {
            let (study, round) = (plan.study.clone(), plan.round);
            return Err(HistoryError::Preparation { study, round, have, need });
        }
        let corrects = self.corrects() && plan.task == TaskKind::Train;
        let (have, need) = (plan.control, self.head.strategy_state.filter(|_| corrects));
        if have != need {
            let (study, round) = (plan.study.clone(), plan.round);
            return Err(HistoryError::Control { study, round, have, need });
        }
        self.next_round = plan.round.next();
        self.interrupted =
            Some(Interrupted { plan: plan.clone(), training: None, receipts: BTreeMap::new() });
        Ok(())
    }

    fn training(
        &mut self,
        record: &'static str,
        training: &TrainingBegun,
    ) -> Result<(), HistoryError> {
        self.open_round(record, training.round)?.training = Some(training.clone());
        Ok(())
    }

    fn receipt(
        &mut self,
        record: &'static str,
        receipt: &Receipt,
        signed: &Signed<Receipt>,
    ) -> Result<(), HistoryError> {
        let open = self.open_round(record, receipt.round)?;
        let before = open.receipts.insert(receipt.site.clone(), signed.clone());
        match before {
            Some(before) if before.bytes != signed.bytes => {
                open.receipts.insert(receipt.site.clone(), before);
                Err(HistoryError::SecondReceipt {
                    study: receipt.study.clone(),
                    round: receipt.round,
                    site: receipt.site.clone(),
                })
            }
            _ => Ok(()),
        }
    }

    fn roll_call(
        &mut self,
        record: &'static str,
        roll_call: &RollCall,
    ) -> Result<(), HistoryError> {
        self.open_round(record, roll_call.round)?;
        let evaluates = roll_call.task == TaskKind::Evaluate;
        let score = || self.schema.score(&self.schema.pick(&roll_call.metrics));
        match &roll_call.outcome {
            Outcome::Committed { version, model, strategy_state, .. } => {
                let need = self.head.version.next();
                if *version != need {
                    return Err(HistoryError::Version {
                        study: roll_call.study.clone(),
                        round: roll_call.round,
                        have: *version,
                        need,
                    });
                }
                self.best.note(self.head.version, score());
                (self.head.version, self.head.model) = (*version, *model);
                self.head.strategy_state = *strategy_state;
                (self.evaluated, self.evaluations_abandoned) = (false, 0);
            }
            Outcome::Evaluated { .. } => {
                self.best.note(self.head.version, score());
                self.evaluated = true;
            }
            Outcome::Prepared { preparation, .. } => self.head.preparation = Some(*preparation),
            Outcome::Abandoned { .. } => self.evaluations_abandoned += u32::from(evaluates),
        }
        if self.corrects() && self.controls.follow(roll_call) {
            self.head.strategy_state = None;
        }
        self.interrupted = None;
        Ok(())
    }

    fn open_round(
        &mut self,
        record: &'static str,
        round: Round,
    ) -> Result<&mut Interrupted, HistoryError> {
        let open = self.interrupted.as_ref().map(|open| open.plan.round);
        if open != Some(round) {
            let need = open.map_or_else(|| "none".to_owned(), |open| format!("round {open}"));
            return Err(self.wrong_round(record, round, need));
        }
        let none = HistoryError::UnknownStudy { record, study: self.head.study.clone() };
        self.interrupted.as_mut().ok_or(none)
    }

    fn wrong_round(&self, record: &'static str, have: Round, need: String) -> HistoryError {
        HistoryError::Round { record, study: self.head.study.clone(), have, need }
    }
}

fn readable<T: consilium_common::signed::Document>(
    record: &'static str,
    signed: &Signed<T>,
) -> Result<T, HistoryError> {
    signed
        .parse_unverified()
        .map_err(|error| HistoryError::Unreadable { record, why: error.to_string() })
}

#[cfg(test)]
mod tests;
