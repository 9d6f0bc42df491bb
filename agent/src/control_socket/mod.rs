//! How people on this machine talk to the running daemon: a Unix socket in the state folder, open
//! to the agent's own user alone (0600 in a folder of 0700). One JSON line each way.

pub mod client;
pub mod server;

use consilium_common::ids::StudyId;
use consilium_common::wire::messages::Withdrawal;
use serde::{Deserialize, Serialize};

use crate::policy::Person;
use crate::report::{Status, StudyDetail, StudyRow};
use crate::roster::RosterStatus;
use crate::witness::WitnessStatus;

/// A request is a line of some hundred bytes.
pub const REQUEST_BYTES_MAX: usize = 16 << 10;
/// A status of many studies, or a study's text.
pub const REPLY_BYTES_MAX: usize = 4 << 20;

/// What people ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Request {
    /// How is everything?
    Status,
    /// Every study in a line.
    StudyList,
    /// One study with its text.
    StudyShow(Which),
    /// Report which versions a withdrawal affects: the patient stays with who asks.
    Withdraw {
        /// What goes to the coordinator.
        withdrawal: Withdrawal,
        /// Who reports it.
        by: String,
    },
    /// Take part, or do not.
    StudyDecide {
        /// Which study.
        which: Which,
        /// What was decided.
        person: Person,
        /// By whom, and why.
        word: Word,
    },
    /// Go on with the log that the coordinator shows, although it is another one.
    WitnessAccept {
        /// By whom, and why.
        word: Word,
    },
    /// Go by the roster that waits.
    RosterAccept {
        /// Its version.
        version: u64,
        /// By whom, and why.
        word: Word,
    },
}

/// Who decides, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// The person.
    pub by: String,
    /// In a sentence.
    pub reason: String,
    /// The account's name on this machine.
    pub account: String,
}

/// A study as people name it: `NAME` or `NAME@DIGEST`, the digest's first digits being enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Which {
    /// Its name.
    pub study: StudyId,
    /// The first digits of its digest; empty if none were given.
    pub digest: String,
}

/// What the daemon answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::StudyList`].
    StudyList {
        /// In the order of names.
        studies: Vec<StudyRow>,
    },
    /// To [`Request::StudyShow`].
    StudyShow(Box<StudyDetail>),
    /// To [`Request::StudyDecide`]: the study as it is now.
    StudyDecided(Box<StudyRow>),
    /// To [`Request::WitnessAccept`]: how the site stands as a witness now.
    WitnessAccepted(WitnessStatus),
    /// To [`Request::RosterAccept`]: the roster that the site goes by now.
    Roster(RosterStatus),
    /// To [`Request::Withdraw`]: it is kept, and on its way.
    Withdrawn,
    /// The request was understood and is not granted (exit code 4).
    Refused {
        /// In a sentence.
        message: String,
    },
    /// It could not be done (exit code 1).
    Failed {
        /// In a sentence.
        message: String,
    },
}
