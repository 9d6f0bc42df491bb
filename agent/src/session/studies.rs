//! Studies that the coordinator offers, and what this site says of each: the policy and the
//! signatures judge (at the edge), a person accepts or refuses, the coordinator hears the answer.

use std::collections::{BTreeMap, BTreeSet};

use consilium_common::ids::{Digest, StudyId};
use consilium_common::limits::STUDIES_MAX;
use consilium_common::time::Millis;
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::{
    Answer, Plan, RunState, StudyAnswer, StudyOffer, StudyState,
};
use consilium_common::wire::reject::Code;

use super::KnownStudy;
use super::action::{Action, ActionId, Decision, Fault, Judged};
use super::outbox::Outbox;
use super::status::StudyStatus;

/// Studies kept in mind: those on offer and those of past years that were decided once.
const KNOWN_MAX: usize = 4 * STUDIES_MAX;
/// A study that could not be fetched or kept is tried again after this, while it is on offer.
const JUDGE_AGAIN: Millis = Millis::from_secs(10);

#[derive(Debug)]
struct Entry {
    study: StudyId,
    version: u64,
    judged: Option<Judged>,
    /// The offer of the present connection.
    offer: Option<StudyOffer>,
    judging: Option<ActionId>,
    judge_again: Option<Millis>,
    state: Option<RunState>,
}

impl Entry {
    fn decision(&self) -> Option<Decision> {
        Some(self.judged.as_ref()?.decision)
    }

    /// A person's word and an acceptance last. What policy or signatures refused is judged again:
    /// the next offer may carry more signatures.
    fn needs_judging(&self) -> bool {
        match self.decision() {
            None => true,
            Some(Decision::Accepted | Decision::NeedsPerson) => false,
            Some(Decision::Refused { code }) => code != Code::RefusedBySite,
        }
    }

    fn judge(&mut self, offer: StudyOffer, out: &mut Outbox) {
        self.judge_again = None;
        if self.judging.is_none() {
            self.judging = Some(out.ask(|id| Action::JudgeStudy { id, offer }));
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Studies {
    known: BTreeMap<Digest, Entry>,
    /// Names of studies for which agent.toml has data.
    data: BTreeSet<StudyId>,
}

fn answer(digest: Digest, answer: Answer, now: Millis, out: &mut Outbox) {
    out.send(StudyAnswer { digest, answer }, now);
}

impl Studies {
    pub(super) fn new(known: Vec<KnownStudy>, data: BTreeSet<StudyId>) -> Self {
        let entry = |known: KnownStudy| {
            let entry = Entry {
                study: known.study,
                version: known.version,
                judged: Some(known.judged),
                offer: None,
                judging: None,
                judge_again: None,
                state: None,
            };
            (known.digest, entry)
        };
        Self { known: known.into_iter().map(entry).collect(), data }
    }

    /// Digests that this site accepted, as Hello tells them; the newest versions, if there are
    /// more than a coordinator may run.
    pub(super) fn accepted(&self) -> Vec<Digest> {
        let mut accepted: Vec<(&Digest, u64)> = self
            .known
            .iter()
            .filter(|(_, entry)| entry.decision() == Some(Decision::Accepted))
            .map(|(digest, entry)| (digest, entry.version))
            .collect();
        accepted.sort_by_key(|(_, version)| std::cmp::Reverse(*version));
        accepted.truncate(KNOWN_MAX);
        accepted.into_iter().map(|(digest, _)| *digest).collect()
    }

    /// Studies that are known here, and of which no version is accepted.
    pub(super) fn not_accepted(&self) -> BTreeSet<StudyId> {
        let is_accepted = |entry: &&Entry| entry.decision() == Some(Decision::Accepted);
        let accepted: BTreeSet<&StudyId> =
            self.known.values().filter(is_accepted).map(|entry| &entry.study).collect();
        let names = self.known.values().map(|entry| &entry.study);
        names.filter(|study| !accepted.contains(study)).cloned().collect()
    }

    pub(super) fn offered(&mut self, offer: StudyOffer, now: Millis, out: &mut Outbox) {
        let digest = offer.digest;
        if !self.known.contains_key(&digest) && !self.make_room() {
            let code = Code::Busy;
            let retry_after = None;
            return answer(digest, Answer::Declined { code, retry_after }, now, out);
        }
        let entry = self.known.entry(digest).or_insert_with(|| Entry {
            study: offer.study.clone(),
            version: offer.version,
            judged: None,
            offer: None,
            judging: None,
            judge_again: None,
            state: None,
        });
        entry.offer = Some(offer.clone());
        let (study, version) = (offer.study.clone(), offer.version);
        for older in self.known.values_mut() {
            if older.study == study && older.version < version {
                // The coordinator runs the newest file alone.
                (older.offer, older.state, older.judge_again) = (None, None, None);
            }
        }
        let Some(entry) = self.known.get_mut(&digest) else {
            return;
        };
        if entry.needs_judging() {
            entry.judge(offer, out);
        } else if let Some(decision) = entry.decision() {
            answer(digest, decision.answer(), now, out);
        }
    }

    /// Forgets a study that is neither on offer nor being judged, if there are too many: one that is
    /// not accepted, or accepted in a later version too. What people decided is kept by the edge.
    fn make_room(&mut self) -> bool {
        if self.known.len() < KNOWN_MAX {
            return true;
        }
        let succeeded = |entry: &Entry| {
            let mut others = self.known.values();
            others.any(|other| other.study == entry.study && other.version > entry.version)
        };
        let dispensable = |entry: &Entry| {
            let busy = entry.offer.is_some() || entry.judging.is_some();
            !busy && (entry.decision() != Some(Decision::Accepted) || succeeded(entry))
        };
        let found = self.known.iter().find(|(_, entry)| dispensable(entry));
        let digest = found.map(|(digest, _)| *digest);
        digest.is_some_and(|digest| self.known.remove(&digest).is_some())
    }

    pub(super) fn judged(
        &mut self,
        id: ActionId,
        result: Result<Judged, Fault>,
        now: Millis,
        out: &mut Outbox,
    ) {
        let found = self.known.iter_mut().find(|(_, e)| e.judging == Some(id));
        let Some((digest, entry)) = found else {
            return;
        };
        entry.judging = None;
        let said = match result {
            Ok(judged) => {
                let said = judged.decision.answer();
                entry.judged = Some(judged);
                said
            }
            Err(fault) => {
                let retry_after = fault.retryable.then_some(JUDGE_AGAIN);
                entry.judge_again = retry_after.map(|wait| now + wait);
                let code = fault.code;
                Answer::Declined { code, retry_after }
            }
        };
        if entry.offer.is_some() {
            answer(*digest, said, now, out);
        }
    }

    /// A person decided. What the policy or the signatures refuse nobody can accept.
    /// Returns the study's name if it is refused from now on.
    pub(super) fn decided(
        &mut self,
        digest: &Digest,
        judged: Judged,
        now: Millis,
        out: &mut Outbox,
    ) -> Option<StudyId> {
        let entry = self.known.get_mut(digest)?;
        let barred = match entry.judged.as_ref()?.decision {
            Decision::Refused { code } => code != Code::RefusedBySite,
            Decision::Accepted | Decision::NeedsPerson => false,
        };
        if barred {
            return None;
        }
        let decision = judged.decision;
        entry.judged = Some(judged);
        if entry.offer.is_some() {
            answer(*digest, decision.answer(), now, out);
        }
        (decision != Decision::Accepted).then(|| entry.study.clone())
    }

    /// The policy was read again, and this is what it says of the studies that are kept. Those that are
    /// not kept are judged anew while they are on offer. A study of which a plan was `declined` is
    /// accepted once more, so that the coordinator asks again at once. Returns which were accepted and
    /// are not any more, with the code.
    pub(super) fn rejudged(
        &mut self,
        known: Vec<KnownStudy>,
        declined: &BTreeSet<StudyId>,
        now: Millis,
        out: &mut Outbox,
    ) -> Vec<(StudyId, Code)> {
        let mut judged: BTreeMap<Digest, Judged> =
            known.into_iter().map(|known| (known.digest, known.judged)).collect();
        let mut withdrawn = Vec::new();
        for (digest, entry) in &mut self.known {
            let before = entry.decision();
            // What is under way was asked of the policy before this one.
            entry.judging = None;
            entry.judged = judged.remove(digest);
            let after = entry.decision();
            if before == Some(Decision::Accepted) && after != before {
                let code = after.and_then(Decision::code).unwrap_or(Code::NotAccepted);
                withdrawn.push((entry.study.clone(), code));
            }
            let Some(offer) = entry.offer.clone() else {
                continue;
            };
            match after {
                Some(decision) if !entry.needs_judging() => {
                    if after != before || declined.contains(&entry.study) {
                        answer(*digest, decision.answer(), now, out);
                    }
                }
                // The offer's signatures may be more than those that are kept.
                _ => entry.judge(offer, out),
            }
        }
        self.forget_unjudged();
        withdrawn
    }

    /// Offers belong to a connection.
    pub(super) fn disconnected(&mut self) {
        for entry in self.known.values_mut() {
            entry.offer = None;
            entry.judge_again = None;
        }
        self.forget_unjudged();
    }

    /// A study that nobody judged and that is no longer on offer is nothing to remember.
    fn forget_unjudged(&mut self) {
        self.known.retain(|_, entry| entry.judged.is_some() || entry.judging.is_some());
    }

    /// Whether a plan may be taken on: the study it names is accepted here, by digest, and there
    /// is data for it.
    pub(super) fn check(&self, plan: &Plan) -> Result<(), Code> {
        let Some(entry) = self.known.get(&plan.study_digest) else {
            let other = self.known.values().any(|entry| entry.study == plan.study);
            let code = if other { Code::StudyMismatch } else { Code::UnknownStudy };
            return Err(code);
        };
        if entry.study != plan.study {
            return Err(Code::StudyMismatch);
        }
        match entry.decision() {
            None => return Err(Code::NotAccepted),
            Some(decision) => decision.code().map_or(Ok(()), Err)?,
        }
        if self.data.contains(&plan.study) { Ok(()) } else { Err(Code::NoData) }
    }

    pub(super) fn schema(&self, digest: &Digest) -> Option<&Schema> {
        self.known.get(digest)?.judged.as_ref()?.schema.as_ref()
    }

    pub(super) fn knows(&self, study: &StudyId) -> bool {
        self.known.values().any(|entry| entry.study == *study)
    }

    pub(super) fn told_state(&mut self, told: &StudyState) {
        for entry in self.known.values_mut() {
            if entry.study == told.study && entry.offer.is_some() {
                entry.state = Some(told.state);
            }
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Millis, out: &mut Outbox) {
        for entry in self.known.values_mut() {
            let due = entry.judge_again.is_some_and(|at| now >= at);
            if due && let Some(offer) = entry.offer.clone() {
                entry.judge(offer, out);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Millis> {
        self.known.values().filter_map(|e| e.judge_again).min()
    }

    pub(super) fn status(&self) -> Vec<StudyStatus> {
        let row = |(digest, entry): (&Digest, &Entry)| StudyStatus {
            study: entry.study.clone(),
            version: entry.version,
            digest: *digest,
            decision: entry.decision(),
            why: entry.judged.as_ref().map(|judged| judged.why.clone()),
            has_data: self.data.contains(&entry.study),
            offered: entry.offer.is_some(),
            state: entry.state,
        };
        self.known.iter().map(row).collect()
    }
}
