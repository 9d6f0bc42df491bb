//! The coordinator's log, read as an auditor would: record by record, every signature verified.
//! It can be read while the coordinator runs.

use std::collections::BTreeMap;
use std::path::Path;

use consilium_common::audit::record::Withdrawn;
use consilium_common::audit::{Outcome, Record, RollCall, Status};
use consilium_common::ids::{Digest, Round, SiteId, StudyId};
use consilium_common::signed::PublicKey;
use consilium_common::wire::messages::{RunState, TaskKind};
use consilium_io::disk::Log;

/// All that the log says of studies.
#[derive(Debug, Default)]
pub struct History {
    /// Roll calls in order, of all studies.
    pub roll_calls: Vec<RollCall>,
    /// Every change of a study's state.
    pub states: Vec<(StudyId, RunState)>,
    /// Refused peers and updates: who, code, detail.
    pub refusals: Vec<(String, String, String)>,
    /// Operators' commands and what came of them.
    pub commands: Vec<(String, String)>,
    /// Withdrawals that sites reported.
    pub withdrawals: Vec<Withdrawn>,
    /// Digests of receipts, by study, round and site.
    pub receipts: BTreeMap<(StudyId, Round, SiteId), Digest>,
}

impl History {
    /// Reads the log below a state folder; an empty history if there is none yet.
    #[must_use]
    pub fn read(state: &Path, log_key: PublicKey) -> Self {
        let mut history = Self::default();
        let path = state.join("log");
        if !path.exists() {
            return history;
        }
        let known = [log_key];
        Log::read(&path, 0, |record| {
            match Record::decode(record.kind, record.payload)? {
                Some(Record::RollCall(ended)) => {
                    history.roll_calls.push(ended.signed.verify(&known, 1)?);
                }
                Some(Record::Withdrawal(withdrawn)) => history.withdrawals.push(withdrawn),
                Some(Record::StudyState(set)) => history.states.push((set.study, set.state)),
                Some(Record::Refusal(refusal)) => {
                    history.refusals.push((refusal.peer, refusal.code, refusal.detail));
                }
                Some(Record::Command(command)) => {
                    history.commands.push((command.command, command.outcome));
                }
                Some(Record::Receipt(given)) => {
                    let receipt = given.signed.verify(&known, 1)?;
                    let key = (receipt.study, receipt.round, receipt.site);
                    let earlier = history.receipts.insert(key.clone(), receipt.update);
                    let same = earlier.is_none_or(|earlier| earlier == receipt.update);
                    assert!(same, "two digests were receipted for {key:?}");
                }
                Some(
                    Record::Roster(_)
                    | Record::StudySubmitted(_)
                    | Record::Plan(_)
                    | Record::Training(_)
                    | Record::Invitation(_)
                    | Record::EnrolRequest(_)
                    | Record::Approval(_)
                    | Record::Certificate(_)
                    | Record::Revocation(_)
                    | Record::RosterSignature(_)
                    | Record::Retrained(_)
                    | Record::Proposal(_),
                )
                | None => {}
            }
            Ok(())
        })
        .unwrap();
        history
    }

    /// The roll calls of one study, in order.
    #[must_use]
    pub fn of(&self, study: &str) -> Vec<&RollCall> {
        self.roll_calls.iter().filter(|call| call.study.as_str() == study).collect()
    }

    /// How many versions a study has beyond v0.
    #[must_use]
    pub fn version(&self, study: &str) -> u64 {
        self.models(study).len() as u64
    }

    /// The digest of each version from v1 on.
    #[must_use]
    pub fn models(&self, study: &str) -> Vec<Digest> {
        let model = |call: &&RollCall| match call.outcome {
            Outcome::Committed { model, .. } => Some(model),
            Outcome::Evaluated { .. } | Outcome::Prepared { .. } | Outcome::Abandoned { .. } => {
                None
            }
        };
        self.of(study).iter().filter_map(model).collect()
    }

    /// The study's state, if it ever had one.
    #[must_use]
    pub fn state(&self, study: &str) -> Option<RunState> {
        let of_study =
            |(name, state): &(StudyId, RunState)| (name.as_str() == study).then_some(*state);
        self.states.iter().rev().find_map(of_study)
    }

    /// Whether all rounds are done.
    #[must_use]
    pub fn is_complete(&self, study: &str) -> bool {
        self.state(study) == Some(RunState::Complete)
    }

    /// No round was lost, and all of these sites counted in every one: the preparation of a study that
    /// has one, `rounds` committed ones and the evaluation of the last version.
    pub fn assert_everybody_counted(&self, study: &str, sites: usize, rounds: u64) {
        let calls = self.of(study);
        let first = calls.first().map(|call| call.task);
        let prepared = u64::from(first == Some(TaskKind::Prepare));
        for (number, call) in (1..).zip(&calls) {
            assert_eq!(call.round, Round(number), "{study}: rounds follow one another: {call:#?}");
            let counted = |site: &SiteId| matches!(call.sites[site].status, Status::Counted { .. });
            let all = call.sites.keys().filter(|site| counted(site)).count();
            assert_eq!((all, call.sites.len()), (sites, sites), "{study}: {call:#?}");
            let expected = match number {
                _ if number <= prepared => TaskKind::Prepare,
                _ if number <= prepared + rounds => TaskKind::Train,
                _ => TaskKind::Evaluate,
            };
            assert_eq!(call.task, expected, "{study}: {call:#?}");
            let outcome_fits = match call.outcome {
                Outcome::Committed { version, .. } => {
                    expected == TaskKind::Train && version.0 + prepared == number
                }
                Outcome::Evaluated { .. } => expected == TaskKind::Evaluate,
                Outcome::Prepared { .. } => expected == TaskKind::Prepare,
                Outcome::Abandoned { .. } => false,
            };
            assert!(outcome_fits, "{study}: {call:#?}");
        }
        let all = prepared + rounds + 1;
        assert_eq!(calls.len() as u64, all, "{study}: rounds and one evaluation");
    }
}
