//! The records of a log one after the other, as the coordinator folds them at its start, and beside that
//! everything that a start takes on trust: whose signatures they bear, and whether plans, receipts and roll
//! calls say the same.

use std::collections::{BTreeMap, BTreeSet};

use consilium_certs::consortium::Consortium;
use consilium_certs::roster::Roster;
use consilium_common::audit::record::{
    PlanMade, Proposed, Retrained, RosterSet, RoundEnded, StudySubmitted, TrainingBegun,
};
use consilium_common::audit::{Receipt, Record, RollCall};
use consilium_common::ids::{Digest, StudyId, Version};
use consilium_common::limits::STUDIES_MAX;
use consilium_common::signed::{Document, PublicKey, Signed};
use consilium_common::study::Study;
use consilium_common::update::words::Schema;
use consilium_io::disk::RecordRef;

use super::folder::Kept;
use super::members;
use super::recompute::{Recompute, Said};
use super::rounds::{self, Known};
use super::verdict::{At, Check, Verdict};
use crate::round::{History, Shape};

const LATER: &str = "of a kind that a later version writes";
const BROKE_OFF: &str = "after a record that does not fit those before it";
const UNSOUND: &str = "their roll calls do not hold";
const NO_MODELS: &str = "the export has no models: `consilium audit export --models` brings them";

/// The fold, and what it has come to so far.
pub(super) struct Story<'a> {
    pinned: &'a Consortium,
    operators: Vec<PublicKey>,
    history: History,
    roster: Option<Roster>,
    known: BTreeMap<StudyId, Known>,
    /// Each study's models, by version.
    models: BTreeMap<StudyId, Vec<Digest>>,
    /// Studies of which a record did not fit: what follows of them would only say so again.
    broken: BTreeSet<StudyId>,
    recompute: Option<Recompute>,
    at: At,
    verdict: Verdict,
}

impl<'a> Story<'a> {
    pub(super) fn new(pinned: &'a Consortium, kept: Option<&Kept>, verdict: Verdict) -> Self {
        Self {
            pinned,
            operators: pinned.operator_keys(),
            history: History::new(),
            roster: None,
            known: BTreeMap::new(),
            models: BTreeMap::new(),
            broken: BTreeSet::new(),
            recompute: kept.map(Recompute::new),
            at: At { record: 0, offset: 0 },
            verdict,
        }
    }

    pub(super) fn end(self) -> Verdict {
        self.verdict
    }

    /// Takes the next record.
    pub(super) fn take(&mut self, at: &RecordRef<'_>) {
        self.at = At { record: at.index, offset: at.offset };
        let record = match Record::decode(at.kind, at.payload) {
            Ok(Some(record)) => record,
            Ok(None) => return self.verdict.missing(Check::Order, LATER),
            Err(error) => return self.wrong(Check::Order, error.to_string()),
        };
        match &record {
            Record::Roster(set) => self.roster(set, &record),
            Record::StudySubmitted(submitted) => self.submitted(submitted, &record),
            Record::StudyState(set) => self.follow(&set.study, &record),
            Record::Plan(plan) => self.plan(plan, &record),
            Record::Training(training) => self.training(training, &record),
            Record::Receipt(given) => self.receipt(&given.signed, &record),
            Record::RollCall(ended) => self.roll_call(ended, &record),
            Record::Withdrawal(withdrawn) => self.follow(&withdrawn.study, &record),
            Record::Retrained(retrained) => self.gone_back(retrained, &record),
            Record::Proposal(proposed) => self.proposed(proposed, &record),
            Record::Command(_) | Record::Refusal(_) => self.verdict.right(Check::Order, 1),
            Record::Invitation(_)
            | Record::EnrolRequest(_)
            | Record::Approval(_)
            | Record::Certificate(_)
            | Record::Revocation(_)
            | Record::RosterSignature(_) => self.member(&record),
        }
    }

    fn wrong(&mut self, check: Check, what: String) {
        self.verdict.fault(check, Some(self.at), what);
    }

    /// One look at a record: right, or what is wrong with it.
    fn looked(&mut self, check: Check, told: Vec<String>) {
        self.verdict.right(check, u64::from(told.is_empty()));
        for what in told {
            self.wrong(check, what);
        }
    }

    /// Adds a record to the fold. One that does not fit ends the story of its study.
    fn follow(&mut self, study: &StudyId, record: &Record) {
        if self.broken.contains(study) {
            return self.verdict.missing(Check::Order, BROKE_OFF);
        }
        match self.history.apply(record) {
            Ok(()) => {
                self.verdict.right(Check::Order, 1);
                self.note_version(study);
            }
            Err(error) => {
                self.wrong(Check::Order, error.to_string());
                if self.broken.len() < STUDIES_MAX {
                    self.broken.insert(study.clone());
                }
            }
        }
    }

    /// Remembers the model of a version that is new.
    fn note_version(&mut self, study: &StudyId) {
        let Some(known) = self.history.study(study) else { return };
        let (version, model) = (known.head.version.0, known.head.model);
        let models = self.models.entry(study.clone()).or_default();
        if models.len() as u64 == version {
            models.push(model);
        }
    }

    /// Training goes on from an earlier version: with that one's model, and no other.
    fn gone_back(&mut self, retrained: &Retrained, record: &Record) {
        let Retrained { study, from, model, .. } = retrained;
        let models = self.models.get(study).filter(|_| !self.broken.contains(study));
        let was = |Version(at): Version| models?.get(usize::try_from(at).ok()?);
        if let Some(was) = was(*from).filter(|was| *was != model) {
            let what = format!("it goes on from {from} with model {model}, which was {was}");
            self.looked(Check::Plans, vec![what]);
        }
        self.follow(study, record);
    }

    fn roster(&mut self, set: &RosterSet, record: &Record) {
        let signed = Signed::<Roster>::from_parts(set.bytes.clone(), set.signatures.clone());
        match Roster::verified(&signed, self.pinned) {
            Ok(roster) => {
                let before = self.roster.as_ref().map_or(0, Roster::version);
                let (version, mut told) = (roster.version(), Vec::new());
                if version < before {
                    told.push(format!("roster version {version} follows version {before}"));
                }
                self.looked(Check::Rosters, told);
                self.roster = Some(roster);
            }
            Err(error) => self.wrong(Check::Rosters, error.to_string()),
        }
        // A roster always fits the fold.
        if self.history.apply(record).is_ok() {
            self.verdict.right(Check::Order, 1);
        }
    }

    /// A record of who belongs: the roster alone decides who takes part.
    fn member(&mut self, record: &Record) {
        if let Some(told) = members::faults(record, self.pinned) {
            self.looked(Check::Members, told);
        }
        self.verdict.right(Check::Order, 1);
    }

    fn submitted(&mut self, submitted: &StudySubmitted, record: &Record) {
        let signed = &submitted.signed;
        let study = signed.verify(&self.operators, self.pinned.operators_needed);
        let study: Study = match study {
            Ok(study) => {
                self.verdict.right(Check::Studies, 1);
                study
            }
            Err(error) => {
                self.wrong(Check::Studies, error.to_string());
                match signed.parse_unverified() {
                    Ok(study) => study,
                    Err(error) => return self.wrong(Check::Order, error.to_string()),
                }
            }
        };
        let id = study.id().clone();
        self.follow(&id, record);
        if self.broken.contains(&id) {
            return;
        }
        match study.layout() {
            Ok(layout) => {
                let schema = Schema::of(&study);
                let shape = Shape::of(&study, &layout, &schema);
                self.known.insert(id, Known { shape, schema });
            }
            Err(error) => return self.wrong(Check::Order, error.to_string()),
        }
        match &mut self.recompute {
            Some(recompute) => recompute.initial(&study, self.at, &mut self.verdict),
            None => self.verdict.missing(Check::Models, NO_MODELS),
        }
    }

    /// A proposal: its text is the study that the record names, and it fits what was submitted before. It
    /// has no consequence, so one that does not fit ends no study's story.
    fn proposed(&mut self, proposed: &Proposed, record: &Record) {
        if self.broken.contains(&proposed.study) {
            return self.verdict.missing(Check::Order, BROKE_OFF);
        }
        let mut told = Vec::new();
        match Study::parse(&proposed.text) {
            Ok(study) => told.extend(not_as_recorded(&study, proposed)),
            Err(error) => told.push(format!("a proposal cannot be read: {error}")),
        }
        told.extend(self.history.apply(record).err().map(|error| error.to_string()));
        self.looked(Check::Order, told);
    }

    fn plan(&mut self, plan: &PlanMade, record: &Record) {
        let known = self.known.get(&plan.study).filter(|_| !self.broken.contains(&plan.study));
        if let (Some(known), Some(study)) = (known, self.history.study(&plan.study)) {
            let told = rounds::plan(study, known, self.roster.as_ref(), plan);
            self.looked(Check::Plans, told);
        } else {
            self.verdict.missing(Check::Plans, BROKE_OFF);
        }
        self.follow(&plan.study, record);
    }

    fn training(&mut self, training: &TrainingBegun, record: &Record) {
        let open = self.history.study(&training.study).and_then(|study| study.interrupted.as_ref());
        if let Some(open) = open.filter(|open| open.plan.round == training.round) {
            let told = rounds::training(open, training);
            for what in told {
                self.wrong(Check::Plans, what);
            }
        }
        self.follow(&training.study, record);
    }

    fn receipt(&mut self, signed: &Signed<Receipt>, record: &Record) {
        let verified = signed.verify(&[self.pinned.coordinator_log_key], 1);
        let mut told = Vec::new();
        let receipt = match verified {
            Ok(receipt) => receipt,
            Err(error) => {
                told.push(error.to_string());
                match signed.parse_unverified() {
                    Ok(receipt) => receipt,
                    Err(_) => return self.looked(Check::Receipts, told),
                }
            }
        };
        let id = &receipt.study;
        let study = self.history.study(id).filter(|_| !self.broken.contains(id));
        let open = study.and_then(|study| study.interrupted.as_ref());
        let open = open.filter(|open| open.plan.round == receipt.round);
        if let (Some(known), Some(open)) = (self.known.get(id), open) {
            told.extend(rounds::receipt(known, open, &receipt));
        }
        self.looked(Check::Receipts, told);
        self.follow(&receipt.study, record);
    }

    fn roll_call(&mut self, ended: &RoundEnded, record: &Record) {
        let verified = ended.signed.verify(&[self.pinned.coordinator_log_key], 1);
        let mut told = Vec::new();
        let call = match verified {
            Ok(call) => call,
            Err(error) => {
                told.push(error.to_string());
                match ended.signed.parse_unverified() {
                    Ok(call) => call,
                    Err(_) => return self.looked(Check::RollCalls, told),
                }
            }
        };
        self.hold_roll_call(&call, told);
        self.follow(&call.study, record);
    }

    /// Against the plan and the receipts of its round, and its sum against the updates.
    fn hold_roll_call(&mut self, call: &RollCall, mut told: Vec<String>) {
        let id = &call.study;
        let study = self.history.study(id).filter(|_| !self.broken.contains(id));
        let open = study.and_then(|study| study.interrupted.as_ref());
        let open = open.filter(|open| open.plan.round == call.round);
        let (Some(known), Some(study), Some(open)) = (self.known.get(id), study, open) else {
            return self.looked(Check::RollCalls, told);
        };
        told.extend(rounds::roll_call(study, known, open, call));
        let said = match &mut self.recompute {
            _ if !told.is_empty() => Said::Missing(UNSOUND),
            None => Said::Missing(NO_MODELS),
            Some(recompute) => {
                recompute.versions(call, self.at, &mut self.verdict);
                recompute.round((study, known), &open.plan, call)
            }
        };
        self.looked(Check::RollCalls, told);
        match said {
            Said::Right => self.verdict.right(Check::Sums, 1),
            Said::Nothing => {}
            Said::Missing(why) => self.verdict.missing(Check::Sums, why),
            Said::Wrong(what) => self.wrong(Check::Sums, what),
        }
    }
}

/// What a proposal's record says otherwise than its text.
fn not_as_recorded(study: &Study, proposed: &Proposed) -> Option<String> {
    let Proposed { by, study: name, version, .. } = proposed;
    let (id, own) = (study.id(), study.header.version);
    if (id, own) != (name, *version) {
        let told = format!("its text is study {id} version {own}");
        return Some(format!("a proposal of study {name} version {version}: {told}"));
    }
    let lists = study.header.researchers.contains(by);
    (!lists).then(|| format!("a proposal of study {name} by {by}, whom its text does not list"))
}
