//! Answers to people on this machine.

use std::sync::Arc;

use consilium_common::ids::Digest;
use consilium_common::time::WallMillis;
use tokio::sync::oneshot;

use super::shared::{Shared, blocking};
use super::{Driver, Event, study};
use crate::config::AgentConfig;
use crate::control_socket::server::Asked;
use crate::control_socket::{Reply, Request, Which, Word};
use crate::ledger::entry;
use crate::policy::{Person, Policy, Said};
use crate::report::{ApprovalRow, Certificate, PolicyStatus, Status, StudyDetail, StudyRow};
use crate::session::Decision;
use crate::state::{KeptStudy, Studies};

impl Driver {
    /// Answers at once, except what must be durable first.
    pub(super) fn answer(&self, asked: Asked) {
        let Asked { request, uid, reply: to } = asked;
        let rules = self.shared.rules();
        let policy = rules.policy.as_ref();
        let reply = match request {
            Request::Status => Reply::Status(Box::new(self.status())),
            Request::StudyList => Reply::StudyList {
                studies: rows(&self.shared.state().studies, &self.shared.config, policy),
            },
            Request::StudyShow(which) => match find(&self.shared.state().studies, &which) {
                Ok(kept) => {
                    let detail = StudyDetail::of(kept, &self.shared.config, policy);
                    Reply::StudyShow(Box::new(detail))
                }
                Err(message) => Reply::Failed { message },
            },
            Request::Withdraw { withdrawal, by } => return self.withdraw(withdrawal, by, to),
            Request::StudyDecide { which, person, word } => {
                return self.decide(which, person, of_account(word, uid), to);
            }
            Request::WitnessAccept { word } => {
                return self.accept_history(of_account(word, uid), to);
            }
            Request::RosterAccept { version, word } => {
                return self.accept_roster(version, of_account(word, uid), to);
            }
        };
        // The person may have gone.
        let _gone = to.send(reply);
    }

    fn status(&self) -> Status {
        let shared = &self.shared;
        let rules = shared.rules();
        let validity = shared.bundle.credentials.validity;
        let standing = shared.bundle.credentials.standing(shared.clock.wall());
        // A guard in the expression below would live to its end, and the next one wait for it.
        let (folder, approvals) = {
            let state = shared.state();
            (state.folder().to_owned(), approvals(&state.studies, shared.clock.wall()))
        };
        Status {
            pid: std::process::id(),
            coordinator: shared.config.site.coordinator.to_string(),
            state: folder,
            certificate: Certificate {
                until: validity.until,
                standing: standing.to_string(),
                warning: standing.warning().is_some(),
            },
            policy: PolicyStatus::of(rules.policy.as_ref(), &rules.moment, shared.clock.wall()),
            ledger: shared.ledger.status(),
            witness: shared.witness.status(),
            roster: shared.rosters.status(),
            approvals,
            link_trouble: self.link_trouble.clone(),
            session: self.session.status(shared.clock.now()),
        }
    }

    fn decide(&self, which: Which, person: Person, word: Word, to: oneshot::Sender<Reply>) {
        let (shared, events) = (Arc::clone(&self.shared), self.events.clone());
        self.tasks.spawn(async move {
            let at = shared.clock.wall();
            let decided = blocking(move || decide(&shared, &which, person, word, at)).await;
            let decided = decided.unwrap_or_else(|fault| {
                let message = fault.detail;
                Err(Reply::Failed { message })
            });
            match decided {
                // The driver tells the session, then the person.
                Ok((digest, reply)) => {
                    let _stopping = events.send(Event::Decided { digest, reply, to }).await;
                }
                Err(reply) => {
                    let _gone = to.send(reply);
                }
            }
        });
    }
}

/// The name is the person's word, the number the kernel's.
fn of_account(mut word: Word, uid: Option<u32>) -> Word {
    if let Some(uid) = uid {
        word.account = format!("{} (uid {uid})", word.account);
    }
    word
}

fn decide(
    shared: &Shared,
    which: &Which,
    person: Person,
    word: Word,
    at: WallMillis,
) -> Result<(Digest, Reply), Reply> {
    let failed = |message| Reply::Failed { message };
    let kept = find(&shared.state().studies, which).cloned().map_err(failed)?;
    let judged = study::judged(shared, &kept, at);
    if let (Person::Accepted, Decision::Refused { code }) = (person, judged.decision)
        && code != consilium_common::wire::reject::Code::RefusedBySite
    {
        return Err(Reply::Refused {
            message: format!("{} cannot be accepted: {}", study::name(&kept), judged.why),
        });
    }
    tracing::info!(study = study::name(&kept), ?person, by = word.by, "a person decided");
    // In the ledger first: an acceptance that is in force stands there.
    let error = |error: &dyn std::fmt::Display| failed(error.to_string());
    shared.ledger.record(ledger_word(&kept, person, &word), at).map_err(|e| error(&e))?;
    let decided = kept.decided.clone().unwrap_or_default().with(person, said(word, at));
    shared.state().studies.decide(kept.digest, decided).map_err(|e| error(&e))?;
    let kept = shared.kept(&kept.digest).unwrap_or(kept);
    study::enter(shared, &kept, &study::judged(shared, &kept, at)).map_err(|e| error(&e))?;
    let row = StudyRow::of(&kept, &shared.config, shared.rules().policy.as_ref());
    Ok((row.digest, Reply::StudyDecided(Box::new(row))))
}

/// A person's word as the ledger keeps it.
pub(crate) fn ledger_word(kept: &KeptStudy, said: Person, word: &Word) -> entry::Word {
    let Word { by, reason, account } = word.clone();
    let (study, digest) = (kept.study.id().clone(), kept.digest);
    entry::Word { study, digest, said, by, reason, account }
}

/// A person's word as the decision keeps it.
pub(crate) fn said(word: Word, at: WallMillis) -> Said {
    let Word { by, reason, account } = word;
    Said { by, reason, account, at }
}

/// Approvals that end soon or have ended, of each study's newest version.
fn approvals(studies: &Studies, wall: WallMillis) -> Vec<ApprovalRow> {
    let row = |kept: &KeptStudy| {
        let approval = kept.study.governance.approval(wall)?;
        approval.notice()?;
        Some(ApprovalRow { study: kept.study.id().clone(), digest: kept.digest, approval })
    };
    studies.newest().filter_map(row).collect()
}

/// Every kept study, in the order of names and versions.
pub(crate) fn rows(
    studies: &Studies,
    config: &AgentConfig,
    policy: Option<&Policy>,
) -> Vec<StudyRow> {
    let row = |kept| StudyRow::of(kept, config, policy);
    let mut rows: Vec<StudyRow> = studies.iter().map(row).collect();
    rows.sort_by(|a, b| (&a.study, a.version).cmp(&(&b.study, b.version)));
    rows
}

/// The one study that a person means, or a sentence why there is none.
pub(crate) fn find<'a>(studies: &'a Studies, which: &Which) -> Result<&'a KeptStudy, String> {
    let Which { study, digest } = which;
    let named: Vec<&KeptStudy> = studies.iter().filter(|kept| kept.study.id() == study).collect();
    let mut fitting =
        named.iter().filter(|kept| kept.digest.to_string().starts_with(digest.as_str()));
    match (fitting.next(), fitting.next()) {
        (Some(kept), None) => Ok(kept),
        (Some(_), Some(_)) => {
            Err(format!("{study} has several versions here: add the digest, {}", list(&named)))
        }
        (None, _) if named.is_empty() => Err(format!(
            "no study {study} is known here: `consilium-agent study list` shows those that are"
        )),
        (None, _) => Err(format!("no {study} has a digest {digest}…: here are {}", list(&named))),
    }
}

fn list(kept: &[&KeptStudy]) -> String {
    let names: Vec<String> = kept.iter().map(|kept| study::name(kept)).collect();
    names.join(", ")
}
