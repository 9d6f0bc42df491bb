//! A record in a sentence, and as a document with everything that is in it.

use std::fmt::Display;

use consilium_certs::roster::Roster;
use consilium_common::audit::record::{
    Command, PlanMade, Proposed, Refusal, Retrained, RosterSet, StudyStateSet, StudySubmitted,
    TrainingBegun, Withdrawn,
};
use consilium_common::audit::withdrawal::in_words;
use consilium_common::audit::{Outcome, Receipt, Record, RollCall, Status};
use consilium_common::ids::{Digest, SiteId, StudyId};
use consilium_common::signed::{Document, Signature, Signed};
use serde::Serialize;
use serde_json::{Value, json};

use super::members;
use super::rounds::task_word;

/// Which study a record is about, if it is about one.
#[must_use]
pub fn study_of(record: &Record) -> Option<StudyId> {
    match record {
        Record::StudySubmitted(submitted) => {
            Some(submitted.signed.parse_unverified().ok()?.id().clone())
        }
        Record::StudyState(set) => Some(set.study.clone()),
        Record::Plan(plan) => Some(plan.study.clone()),
        Record::Training(training) => Some(training.study.clone()),
        Record::Receipt(given) => Some(given.signed.parse_unverified().ok()?.study),
        Record::RollCall(ended) => Some(ended.signed.parse_unverified().ok()?.study),
        Record::Withdrawal(withdrawn) => Some(withdrawn.study.clone()),
        Record::Retrained(retrained) => Some(retrained.study.clone()),
        Record::Proposal(proposed) => Some(proposed.study.clone()),
        Record::Roster(_) | Record::Command(_) | Record::Refusal(_) => None,
        Record::Invitation(_)
        | Record::EnrolRequest(_)
        | Record::Approval(_)
        | Record::Certificate(_)
        | Record::Revocation(_)
        | Record::RosterSignature(_) => None,
    }
}

/// The record in a sentence, fit for a terminal whatever stands in it.
#[must_use]
pub fn sentence(record: &Record) -> String {
    let told = match record {
        Record::Roster(set) => roster(set),
        Record::StudySubmitted(submitted) => submission(submitted),
        Record::StudyState(set) => state(set),
        Record::Plan(made) => plan(made),
        Record::Training(begun) => training(begun),
        Record::Receipt(given) => read(&given.signed, receipt),
        Record::RollCall(ended) => read(&ended.signed, roll_call),
        Record::Withdrawal(withdrawn) => withdrawal(withdrawn),
        Record::Retrained(retrained) => going_back(retrained),
        Record::Proposal(proposed) => proposal(proposed),
        Record::Command(Command { by, command, outcome }) => format!("{by}: {command}: {outcome}"),
        Record::Refusal(Refusal { peer, code, detail }) => format!("{peer}: {code}: {detail}"),
        Record::Invitation(_)
        | Record::EnrolRequest(_)
        | Record::Approval(_)
        | Record::Certificate(_)
        | Record::Revocation(_)
        | Record::RosterSignature(_) => members::sentence(record).unwrap_or_default(),
    };
    told.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn read<T: Document>(signed: &Signed<T>, words: impl FnOnce(&T) -> String) -> String {
    match signed.parse_unverified() {
        Ok(document) => words(&document),
        Err(error) => format!("it cannot be read: {error}"),
    }
}

fn keys(signatures: &[Signature]) -> String {
    let keys: Vec<String> = signatures.iter().map(|signature| signature.key.to_string()).collect();
    if keys.is_empty() { "nobody".to_owned() } else { keys.join(", ") }
}

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn roster(set: &RosterSet) -> String {
    let signed = Signed::<Roster>::from_parts(set.bytes.clone(), set.signatures.clone());
    let by = keys(&set.signatures);
    read(&signed, |roster| {
        let sites = list(roster.sites().map(|(site, _)| site));
        format!("roster version {} in force, signed by {by}: {sites}", roster.version())
    })
}

fn submission(StudySubmitted { signed, by }: &StudySubmitted) -> String {
    let (digest, keys) = (signed.digest(), keys(&signed.signatures));
    read(signed, |study| {
        let (id, version) = (study.id(), study.header.version);
        format!("{by} submitted study {id} version {version} ({digest}), signed by {keys}")
    })
}

fn state(StudyStateSet { study, state, by, completion }: &StudyStateSet) -> String {
    let why = completion.map(|why| format!(" ({why})")).unwrap_or_default();
    format!("study {study} is {state}{why}, by {by}")
}

fn plan(plan: &PlanMade) -> String {
    let PlanMade { study, round, task, base_version, base, invited, .. } = plan;
    let (task, base) = (task_word(*task), base.short());
    format!("{study} round {round}: {task} from {base_version} ({base}), invited {}", list(invited))
}

fn training(TrainingBegun { study, round, accepted, excluded, .. }: &TrainingBegun) -> String {
    let without: Vec<String> =
        excluded.iter().map(|(site, code)| format!("{site} ({code})")).collect();
    let without = if without.is_empty() {
        String::new()
    } else {
        format!(", without {}", without.join(", "))
    };
    format!("{study} round {round}: training begins with {}{without}", list(accepted))
}

fn receipt(Receipt { study, round, site, update, bytes, .. }: &Receipt) -> String {
    format!("{study} round {round}: receipt for update {} of {site}, {bytes} bytes", update.short())
}

fn roll_call(call: &RollCall) -> String {
    let RollCall { study, round, outcome, sites, .. } = call;
    let (mut counted, mut excluded) = (Vec::new(), Vec::new());
    for (site, entry) in sites {
        match entry.status {
            Status::Counted { weight } => counted.push(with(site, weight)),
            Status::Excluded { code } => excluded.push(with(site, Some(code))),
        }
    }
    let made = match outcome {
        Outcome::Committed { model, weight, .. } => {
            format!(" (model {}, weight {weight})", model.short())
        }
        Outcome::Evaluated { weight } => format!(" (weight {weight})"),
        Outcome::Prepared { preparation, .. } => format!(" ({})", preparation.short()),
        Outcome::Abandoned { .. } => String::new(),
    };
    let without =
        if excluded.is_empty() { String::new() } else { format!("; not {}", excluded.join(", ")) };
    format!("{study} round {round}: {outcome}{made}, counted {}{without}", list(counted))
}

fn with(site: &SiteId, what: Option<impl Display>) -> String {
    what.map_or_else(|| site.to_string(), |what| format!("{site} ({what})"))
}

/// Everything that is in a record. What was signed is shown as it was signed, and who signed it.
#[must_use]
pub fn document(record: &Record) -> Value {
    match record {
        Record::Roster(set) => signed_text(&set.bytes, &set.signatures),
        Record::StudySubmitted(StudySubmitted { signed, by }) => {
            let mut document = signed_text(&signed.bytes, &signed.signatures);
            if let Value::Object(fields) = &mut document {
                fields.insert("by".to_owned(), json!(by));
                fields.insert("digest".to_owned(), json!(signed.digest()));
            }
            document
        }
        Record::Receipt(given) => signed_json(&given.signed),
        Record::RollCall(ended) => signed_json(&ended.signed),
        Record::StudyState(body) => plain(body),
        Record::Withdrawal(body) => plain(body),
        Record::Retrained(body) => plain(body),
        Record::Proposal(Proposed { by, study, version, text, at }) => json!({
            "by": by, "study": study, "version": version, "at": at, "digest": Digest::of(text),
            "text": String::from_utf8_lossy(text),
        }),
        Record::Plan(body) => plain(body),
        Record::Training(body) => plain(body),
        Record::Command(body) => plain(body),
        Record::Refusal(body) => plain(body),
        Record::Invitation(_)
        | Record::EnrolRequest(_)
        | Record::Approval(_)
        | Record::Certificate(_)
        | Record::Revocation(_)
        | Record::RosterSignature(_) => members::document(record).unwrap_or_default(),
    }
}

fn withdrawal(Withdrawn { site, study, versions, remedy, .. }: &Withdrawn) -> String {
    let versions = in_words(versions);
    format!(
        "{site}: withdrawn records are in {versions} of {study} and in what follows; remedy: {remedy}"
    )
}

fn going_back(Retrained { study, from, version, model, by }: &Retrained) -> String {
    let model = model.short();
    format!("{study} goes on from {from}, which is {version} now (model {model}), by {by}")
}

fn proposal(Proposed { by, study, version, text, .. }: &Proposed) -> String {
    let digest = Digest::of(text);
    format!("researcher {by} proposed study {study} version {version} ({digest}), signed by nobody")
}

fn plain(body: &impl Serialize) -> Value {
    serde_json::to_value(body).unwrap_or_default()
}

fn signed_text(bytes: &[u8], signatures: &[Signature]) -> Value {
    json!({ "text": String::from_utf8_lossy(bytes), "signatures": signatures })
}

fn signed_json<T>(signed: &Signed<T>) -> Value {
    let document: Value = serde_json::from_slice(&signed.bytes).unwrap_or_default();
    json!({ "signed": document, "signatures": signed.signatures })
}
