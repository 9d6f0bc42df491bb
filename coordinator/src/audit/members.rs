//! Records about members: whose signatures they bear, in a sentence, and as a document.

use consilium_certs::consortium::Consortium;
use consilium_common::audit::Record;
use consilium_common::audit::record::{
    Approved, Certified, EnrolAsked, Invited, Revoked, RosterSigned,
};
use consilium_common::enrol::Fingerprint;
use consilium_common::signed::{Document, PublicKey, Signed};
use serde::Serialize;
use serde_json::{Value, json};

/// What is wrong with the signatures of a record about members; `None` if it is about something else.
pub(super) fn faults(record: &Record, pinned: &Consortium) -> Option<Vec<String>> {
    let operators = pinned.operator_keys();
    let told = match record {
        Record::Invitation(_) | Record::Certificate(_) => None,
        Record::EnrolRequest(EnrolAsked { signed, .. }) => match signed.parse_unverified() {
            Ok(request) => fault(signed, &[request.site_key]),
            Err(error) => Some(error.to_string()),
        },
        Record::Approval(Approved { signed, .. }) => fault(signed, &operators),
        Record::Revocation(Revoked { signed, .. }) => fault(signed, &operators),
        // The text is not in the log before it is in force; the key is.
        Record::RosterSignature(RosterSigned { signature, .. }) => {
            let known = operators.iter().any(|key| key.id() == signature.key);
            (!known).then(|| format!("key {} is no operator's", signature.key))
        }
        Record::Roster(_)
        | Record::StudySubmitted(_)
        | Record::StudyState(_)
        | Record::Plan(_)
        | Record::Training(_)
        | Record::Receipt(_)
        | Record::RollCall(_)
        | Record::Command(_)
        | Record::Refusal(_)
        | Record::Withdrawal(_)
        | Record::Retrained(_)
        | Record::Proposal(_) => return None,
    };
    Some(told.into_iter().collect())
}

fn fault<T: Document>(signed: &Signed<T>, by: &[PublicKey]) -> Option<String> {
    signed.verify(by, 1).err().map(|error| error.to_string())
}

/// The record in a sentence, if it is about members.
pub(super) fn sentence(record: &Record) -> Option<String> {
    Some(match record {
        Record::Invitation(Invited { site, by, .. }) => format!("{by} invited {site}"),
        Record::EnrolRequest(EnrolAsked { signed, .. }) => match signed.parse_unverified() {
            Ok(asked) => {
                let fingerprint = Fingerprint::of(signed.digest());
                format!("{} asks for its first certificate: {fingerprint}", asked.site)
            }
            Err(error) => format!("it cannot be read: {error}"),
        },
        Record::Approval(Approved { signed, by }) => match signed.parse_unverified() {
            Ok(word) => format!("{by} approved {}: {}", word.site, Fingerprint::of(word.request)),
            Err(error) => format!("it cannot be read: {error}"),
        },
        Record::Certificate(Certified { site, .. }) => format!("a certificate was made for {site}"),
        Record::Revocation(Revoked { signed, by }) => match signed.parse_unverified() {
            Ok(word) => format!("{by} put {} out: {}", word.site, word.reason),
            Err(error) => format!("it cannot be read: {error}"),
        },
        Record::RosterSignature(RosterSigned { roster, by, .. }) => {
            format!("{by} signed the next roster, {}", roster.short())
        }
        Record::Roster(_)
        | Record::StudySubmitted(_)
        | Record::StudyState(_)
        | Record::Plan(_)
        | Record::Training(_)
        | Record::Receipt(_)
        | Record::RollCall(_)
        | Record::Command(_)
        | Record::Refusal(_)
        | Record::Withdrawal(_)
        | Record::Retrained(_)
        | Record::Proposal(_) => return None,
    })
}

/// Everything that is in the record, if it is about members.
pub(super) fn document(record: &Record) -> Option<Value> {
    Some(match record {
        Record::Invitation(body) => plain(body),
        Record::Certificate(body) => plain(body),
        Record::RosterSignature(body) => plain(body),
        Record::EnrolRequest(EnrolAsked { token, signed }) => {
            with(&json!({ "token": token }), signed)
        }
        Record::Approval(Approved { signed, by }) => with(&json!({ "by": by }), signed),
        Record::Revocation(Revoked { signed, by }) => with(&json!({ "by": by }), signed),
        Record::Roster(_)
        | Record::StudySubmitted(_)
        | Record::StudyState(_)
        | Record::Plan(_)
        | Record::Training(_)
        | Record::Receipt(_)
        | Record::RollCall(_)
        | Record::Command(_)
        | Record::Refusal(_)
        | Record::Withdrawal(_)
        | Record::Retrained(_)
        | Record::Proposal(_) => return None,
    })
}

fn plain(body: &impl Serialize) -> Value {
    serde_json::to_value(body).unwrap_or_default()
}

/// What was signed beside `rest`, and who signed it.
fn with<T: Document + Serialize>(rest: &Value, signed: &Signed<T>) -> Value {
    let document = signed.parse_unverified().ok();
    json!({ "record": rest, "signed": document, "signatures": signed.signatures })
}
