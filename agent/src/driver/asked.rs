//! Answers to people on this machine.

use std::sync::Arc;

use consilium_common::ids::Digest;
use consilium_common::time::WallMillis;
use tokio::sync::oneshot;

use super::shared::{Shared, blocking};
use super::{Driver, Event, study};
use crate::control_socket::server::Asked;
use crate::control_socket::{Reply, Request, Which};
use crate::policy::Person;
use crate::report::{Certificate, PolicyStatus, Status, StudyDetail, StudyRow};
use crate::session::Decision;
use crate::state::{Decided, KeptStudy, Studies};

impl Driver {
    /// Answers at once, except what must be durable first.
    pub(super) fn answer(&self, asked: Asked) {
        let Asked { request, uid, reply: to } = asked;
        let reply = match request {
            Request::Status => Reply::Status(Box::new(self.status())),
            Request::StudyList => Reply::StudyList {
                studies: rows(&self.shared.state().studies, |name| self.has_data(name)),
            },
            Request::StudyShow(which) => match find(&self.shared.state().studies, &which) {
                Ok(kept) => {
                    let has_data = self.has_data(kept);
                    Reply::StudyShow(Box::new(StudyDetail::of(kept, has_data)))
                }
                Err(message) => Reply::Failed { message },
            },
            Request::StudyDecide { which, person, by } => {
                // The name is the person's word, the number the kernel's.
                let by = uid.map_or_else(|| by.clone(), |uid| format!("{by} (uid {uid})"));
                return self.decide(which, person, by, to);
            }
        };
        // The person may have gone.
        let _gone = to.send(reply);
    }

    fn has_data(&self, kept: &KeptStudy) -> bool {
        self.shared.config.data.contains_key(kept.study.id())
    }

    fn status(&self) -> Status {
        let shared = &self.shared;
        let rules = shared.rules();
        let validity = shared.bundle.credentials.validity;
        let standing = shared.bundle.credentials.standing(shared.clock.wall());
        Status {
            pid: std::process::id(),
            coordinator: shared.config.site.coordinator.to_string(),
            state: shared.state().folder().to_owned(),
            certificate: Certificate {
                until: validity.until,
                standing: standing.to_string(),
                warning: standing.warning().is_some(),
            },
            policy: PolicyStatus::of(rules.policy.as_ref(), &rules.moment, shared.clock.wall()),
            link_trouble: self.link_trouble.clone(),
            session: self.session.status(shared.clock.now()),
        }
    }

    fn decide(&self, which: Which, person: Person, by: String, to: oneshot::Sender<Reply>) {
        let (shared, events) = (Arc::clone(&self.shared), self.events.clone());
        self.tasks.spawn(async move {
            let at = shared.clock.wall();
            let decided = blocking(move || decide(&shared, &which, person, by, at)).await;
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

fn decide(
    shared: &Shared,
    which: &Which,
    person: Person,
    by: String,
    at: WallMillis,
) -> Result<(Digest, Reply), Reply> {
    let failed = |message| Reply::Failed { message };
    let kept = find(&shared.state().studies, which).cloned().map_err(failed)?;
    let judged = study::judged(shared, &kept);
    if let (Person::Accepted, Decision::Refused { code }) = (person, judged.decision)
        && code != consilium_common::wire::reject::Code::RefusedBySite
    {
        return Err(Reply::Refused {
            message: format!("{} cannot be accepted: {}", study::name(&kept), judged.why),
        });
    }
    let mut state = shared.state();
    let decided = Decided { person, at, by };
    tracing::info!(study = study::name(&kept), ?person, by = decided.by, "a person decided");
    state.studies.decide(kept.digest, decided).map_err(|error| failed(error.to_string()))?;
    let kept = state.studies.get(&kept.digest).unwrap_or(&kept);
    let has_data = shared.config.data.contains_key(kept.study.id());
    let row = StudyRow::of(kept, has_data);
    Ok((row.digest, Reply::StudyDecided(Box::new(row))))
}

/// Every kept study, in the order of names and versions.
pub(crate) fn rows(studies: &Studies, has_data: impl Fn(&KeptStudy) -> bool) -> Vec<StudyRow> {
    let mut rows: Vec<StudyRow> =
        studies.iter().map(|kept| StudyRow::of(kept, has_data(kept))).collect();
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
