//! Kinds and payloads of the ledger's records. A payload is one JSON object with the time and the name
//! of its kind in it, so that decades from now it can be read without this program.

mod consortium;

use std::collections::BTreeMap;

use consilium_common::audit::withdrawal::Remedy;
use consilium_common::ids::{Digest, Round, SiteId, StudyId};
use consilium_common::signed::PublicKey;
use consilium_common::time::WallMillis;
use consilium_common::wire::messages::TaskKind;
use consilium_common::wire::reject::Code;
use serde::{Deserialize, Serialize};

use crate::policy::Person;

pub use consortium::{Contradicted, HistoryAccepted, RosterAccepted};

macro_rules! entries {
    ($($number:literal $kind:ident($body:ty), $name:literal, $doc:literal;)*) => {
        /// What one record says.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "what")]
        pub enum Entry { $(#[doc = $doc] #[serde(rename = $name)] $kind($body),)* }

        impl Entry {
            /// The kind's number in the ledger.
            #[must_use]
            pub fn kind(&self) -> u16 {
                match self { $(Self::$kind(_) => $number,)* }
            }

            /// The kind's name, for people.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$kind(_) => $name,)* }
            }

            /// The name of the fail points around its writing.
            pub(super) fn fail_point(&self) -> &'static str {
                match self { $(Self::$kind(_) => concat!("ledger-", $name),)* }
            }

            /// Whether this version knows the kind.
            pub(super) fn is_known(kind: u16) -> bool {
                matches!(kind, $($number)|*)
            }
        }

        $(impl From<$body> for Entry {
            fn from(body: $body) -> Self {
                Self::$kind(body)
            }
        })*
    };
}

entries! {
    1 Started(Started), "started", "The daemon began to run.";
    2 Word(Word), "word", "A person at the site said of a study that it may or may not run.";
    3 Study(StudyStands), "study", "What the site says of a study from here on.";
    4 Connected(Connected), "connected", "A connection stands; written before anything is said on it.";
    5 Disconnected(Disconnected), "disconnected", "A connection is over, with what was said on it.";
    6 Fetched(Fetched), "fetched", "Bytes that came in are here whole.";
    7 Made(Made), "made", "An update is durable at the site; written before it is offered.";
    8 Sending(Sending), "sending", "Bytes of an update are about to leave; written before the first does.";
    9 Sent(Sent), "sent", "How far the transfer got.";
    10 Settled(Settled), "settled", "The update's round is over, and the update is erased.";
    11 Renewing(Renewing), "renewing", "The next certificate is about to be asked for; written before it is.";
    12 Contradicted(Contradicted), "contradicted", "The coordinator showed a log that does not go on from the one that this site witnessed.";
    13 HistoryAccepted(HistoryAccepted), "history-accepted", "A person went on with such a log; written before the site does.";
    14 RosterAccepted(RosterAccepted), "roster", "The site goes by another roster; written before it does.";
    40 Withdrew(Withdrew), "withdrew", "A person reported a withdrawal of consent; written before it is sent.";
    41 DataChanged(DataChanged), "data-changed", "A round ran on other data than a person approved.";
}

impl Entry {
    /// The study that it is of, if it is of one.
    #[must_use]
    pub fn study(&self) -> Option<&StudyId> {
        match self {
            Self::Started(_)
            | Self::Connected(_)
            | Self::Disconnected(_)
            | Self::Renewing(_)
            | Self::Contradicted(_)
            | Self::HistoryAccepted(_)
            | Self::RosterAccepted(_) => None,
            Self::Word(Word { study, .. })
            | Self::Study(StudyStands { study, .. })
            | Self::Fetched(Fetched { study, .. })
            | Self::Made(Made { study, .. })
            | Self::Sending(Sending { study, .. })
            | Self::Sent(Sent { study, .. })
            | Self::Settled(Settled { study, .. })
            | Self::Withdrew(Withdrew { study, .. })
            | Self::DataChanged(DataChanged { study, .. }) => Some(study),
        }
    }
}

/// The daemon began to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// This site.
    pub site: SiteId,
    /// Program and version.
    pub agent: String,
    /// The site's key, which signs the ledger's head.
    pub key: PublicKey,
    /// The ledger begins here.
    pub first: bool,
}

/// A person's word on a study.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// Which study.
    pub study: StudyId,
    /// Digest of the signed study.
    pub digest: Digest,
    /// What was said.
    pub said: Person,
    /// Who says so, by their own word.
    pub by: String,
    /// Why.
    pub reason: String,
    /// The account on this machine: its name by its own word, its number as the kernel says.
    pub account: String,
}

/// Whether a study may run at this site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stands {
    /// It may.
    Accepted,
    /// A person has to say so first.
    Waits,
    /// It may not.
    Refused {
        /// As the coordinator hears it.
        code: Code,
    },
}

/// What the site says of a study.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyStands {
    /// Which study.
    pub study: StudyId,
    /// Version of the study file.
    pub version: u64,
    /// Digest of the signed study.
    pub digest: Digest,
    /// Accepted, waiting, or refused.
    pub stands: Stands,
    /// By whom or by which rule, in a sentence.
    pub why: String,
}

/// A connection stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// The coordinator, as agent.toml names it.
    pub coordinator: String,
    /// The address that answered.
    pub address: String,
}

/// The next certificate is about to be asked for, on a connection of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewing {
    /// The coordinator, as agent.toml names it.
    pub coordinator: String,
    /// BLAKE3 of the request: consortium, site, time and a public key, signed by the site key.
    pub request: Digest,
    /// Its size.
    pub bytes: u64,
}

/// A connection is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disconnected {
    /// The record of its beginning.
    pub connection: u64,
    /// Why it ended.
    pub reason: String,
    /// Control messages that were queued for it, by kind. None of them can carry a record.
    pub said: BTreeMap<String, Traffic>,
}

/// Messages of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// How many.
    pub messages: u64,
    /// Their frames' bytes.
    pub bytes: u64,
}

/// What was fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// A signed study.
    Study,
    /// A version of the model: a round's base.
    Base,
    /// What the sites counted together.
    Preparation,
    /// SCAFFOLD's c.
    Control,
}

/// Bytes that came in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetched {
    /// Which study.
    pub study: StudyId,
    /// For which round; none for a study.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<Round>,
    /// What it is.
    pub part: Part,
    /// Its digest, verified.
    pub digest: Digest,
    /// How many bytes.
    pub bytes: u64,
}

/// An update is durable at the site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// Which study.
    pub study: StudyId,
    /// Digest of the signed study.
    pub study_digest: Digest,
    /// Which round.
    pub round: Round,
    /// What the plan asked for; unknown if the agent died before it wrote this, and found the update at
    /// its next start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskKind>,
    /// Digest of the version that it starts from; unknown likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Digest>,
    /// Digest of the update's bytes.
    pub digest: Digest,
    /// How many bytes.
    pub bytes: u64,
    /// Records that it was made from, capped as the study says.
    pub weight: u64,
}

/// Bytes of an update are about to leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sending {
    /// Which study.
    pub study: StudyId,
    /// Digest of the signed study that allows it.
    pub study_digest: Digest,
    /// The record by which the site accepted that study.
    pub accepted: u64,
    /// Which round.
    pub round: Round,
    /// Digest of the whole update.
    pub digest: Digest,
    /// Bytes of the whole update.
    pub size: u64,
    /// First byte of the range.
    pub offset: u64,
    /// Bytes of the range.
    pub bytes: u64,
}

/// How far a transfer got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The record of its beginning.
    pub sending: u64,
    /// Which study.
    pub study: StudyId,
    /// Which round.
    pub round: Round,
    /// Bytes of the update, counted from its start, that were handed to the connection; what was in
    /// flight when it broke may not have arrived.
    pub through: u64,
    /// The coordinator says that it has the whole update, verified.
    pub stored: bool,
    /// Why it broke off, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// An update's round is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// Which study.
    pub study: StudyId,
    /// Which round.
    pub round: Round,
    /// Whether the update is in the sum, by the signed roll call.
    pub counted: bool,
}

/// A withdrawal is about to be reported. Whose it is stands nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrew {
    /// The report's name, random.
    pub id: Digest,
    /// Which study.
    pub study: StudyId,
    /// Versions that the records went into, in words.
    pub versions: String,
    /// What the site asks for.
    pub remedy: Remedy,
    /// Who reports it, by their own word.
    pub by: String,
}

/// How the site's files differ from those that were approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataChanged {
    /// Which study.
    pub study: StudyId,
    /// The round that runs all the same.
    pub round: Round,
    /// Files with other bytes.
    pub changed: u64,
    /// New files.
    pub added: u64,
    /// Files that are gone.
    pub missing: u64,
}

/// One record: its time and what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// This site's calendar clock. It stands in the payload too, so that the tree covers it.
    pub at: WallMillis,
    /// What.
    #[serde(flatten)]
    pub entry: Entry,
}

impl Line {
    /// The payload.
    ///
    /// # Errors
    /// A value that JSON cannot hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Reads a payload.
    ///
    /// # Errors
    /// Not one of this kind; in words.
    pub fn read(kind: u16, payload: &[u8]) -> Result<Self, String> {
        if !Entry::is_known(kind) {
            return Err(format!(
                "its kind {kind} is not known here: start the version that wrote it, or a newer one"
            ));
        }
        let line: Self = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
        if line.entry.kind() != kind {
            return Err(format!("its payload is of another kind: {}", line.entry.name()));
        }
        Ok(line)
    }
}

#[cfg(test)]
pub(super) mod tests;
