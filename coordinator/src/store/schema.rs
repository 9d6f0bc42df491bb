//! Names in the state folder, and keys of the index. The log, the blobs and the index each carry
//! their own format number; an unknown one stops the start.
//!
//! ```text
//! STATE/lock          held while a coordinator runs
//! STATE/log           the truth                                  (consilium_io::disk::log)
//! STATE/checkpoint    signed head of the log
//! STATE/index/        sled: offsets into the log; made again at will
//! STATE/blobs/        models and study texts, by digest
//! STATE/stage/        updates on their way in: a cache
//! STATE/updates/      updates that were accepted, if the configuration says that they are retained
//! ```
//!
//! | index key | value |
//! |---|---|
//! | `format` | format of the index, u32 LE |
//! | `indexed` | records u64, bytes of the log u64, both LE, root of the tree 32 |
//! | `r` study 0x00 round u64 BE | offset of the round's roll call, u64 LE |
//! | `v` study 0x00 version u64 BE | offset of the roll call that committed it, u64 LE |
//! | `s` study digest 32 | offset of the submission, u64 LE |

use consilium_common::audit::{Outcome, Record};
use consilium_common::ids::{Digest, Round, StudyId, Version};

/// The log's file.
pub const LOG: &str = "log";
/// The signed checkpoint's file.
pub const CHECKPOINT: &str = "checkpoint";
/// The index's folder.
pub const INDEX: &str = "index";
/// The blobs' folder.
pub const BLOBS: &str = "blobs";
/// The staged updates' folder.
pub const STAGE: &str = "stage";
/// The retained updates' folder. Apart from the blobs, which any site may fetch by digest.
pub const UPDATES: &str = "updates";

/// Format of the index.
pub(super) const INDEX_FORMAT: u32 = 1;
pub(super) const KEY_FORMAT: &[u8] = b"format";
pub(super) const KEY_INDEXED: &[u8] = b"indexed";

/// A key of the index; its value is an offset in the log.
pub(super) type Key = Vec<u8>;

fn numbered(tag: u8, study: &StudyId, number: u64) -> Key {
    let mut key = Vec::with_capacity(study.as_str().len() + 10);
    key.push(tag);
    key.extend_from_slice(study.as_str().as_bytes());
    key.push(0);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// Where to find the roll call of a round.
pub(super) fn round_key(study: &StudyId, round: Round) -> Key {
    numbered(b'r', study, round.0)
}

/// Where to find the roll call that committed a version.
pub(super) fn version_key(study: &StudyId, version: Version) -> Key {
    numbered(b'v', study, version.0)
}

/// Where to find a submitted study.
pub(super) fn study_key(digest: Digest) -> Key {
    let mut key = vec![b's'];
    key.extend_from_slice(&digest.0);
    key
}

/// The keys under which a record is found again.
pub(super) fn keys_of(record: &Record) -> Vec<Key> {
    match record {
        Record::StudySubmitted(submitted) => vec![study_key(submitted.signed.digest())],
        Record::RollCall(ended) => {
            let Ok(call) = ended.signed.parse_unverified() else {
                return Vec::new();
            };
            let mut keys = vec![round_key(&call.study, call.round)];
            if let Outcome::Committed { version, .. } = call.outcome {
                keys.push(version_key(&call.study, version));
            }
            keys
        }
        Record::Roster(_)
        | Record::StudyState(_)
        | Record::Plan(_)
        | Record::Training(_)
        | Record::Receipt(_)
        | Record::Command(_)
        | Record::Refusal(_)
        | Record::Invitation(_)
        | Record::EnrolRequest(_)
        | Record::Approval(_)
        | Record::Certificate(_)
        | Record::Revocation(_)
        | Record::RosterSignature(_)
        | Record::Withdrawal(_)
        | Record::Retrained(_)
        | Record::Proposal(_) => Vec::new(),
    }
}
