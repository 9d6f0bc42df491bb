//! What people see of the agent: the documents behind `status --json` and `study … --json`. Field
//! names are stable.

use std::path::PathBuf;

use consilium_common::ids::{Digest, StudyId};
use consilium_common::signed::KeyId;
use consilium_common::study::Mode;
use consilium_common::time::WallMillis;
use serde::{Deserialize, Serialize};

use crate::policy::Person;
use crate::session;
use crate::state::{Decided, KeptStudy};

/// One study in a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyRow {
    /// Its name.
    pub study: StudyId,
    /// Counts changed files of this name.
    pub version: u64,
    /// Names these exact bytes.
    pub digest: Digest,
    /// What a person decided; absent while nobody has.
    pub decided: Option<Decided>,
    /// Model family.
    pub family: String,
    /// Who sees updates.
    pub mode: Mode,
    /// Committed versions after which it is complete.
    pub rounds: u64,
    /// Whether `[data.NAME]` names records for it.
    pub has_data: bool,
    /// One sentence for data-protection officers.
    pub purpose: String,
}

impl StudyRow {
    /// The row of a known study.
    #[must_use]
    pub fn of(known: &KeptStudy, has_data: bool) -> Self {
        let study = &known.study;
        Self {
            study: study.id().clone(),
            version: study.header.version,
            digest: known.digest,
            decided: known.decided.clone(),
            family: study.model.family().to_owned(),
            mode: study.privacy.mode,
            rounds: study.training.rounds,
            has_data,
            purpose: study.header.purpose.clone(),
        }
    }

    /// `accepted`, `refused` or `undecided`.
    #[must_use]
    pub fn decision(&self) -> &'static str {
        match self.decided.as_ref().map(|decided| decided.person) {
            Some(Person::Accepted) => "accepted",
            Some(Person::Refused) => "refused",
            None => "undecided",
        }
    }
}

/// One study with all there is to read before deciding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyDetail {
    /// The line.
    #[serde(flatten)]
    pub row: StudyRow,
    /// Who signed.
    pub signed_by: Vec<KeyId>,
    /// The signed text.
    pub text: String,
}

impl StudyDetail {
    /// All of a known study.
    #[must_use]
    pub fn of(known: &KeptStudy, has_data: bool) -> Self {
        Self {
            row: StudyRow::of(known, has_data),
            signed_by: known.signed.signatures.iter().map(|s| s.key).collect(),
            text: String::from_utf8_lossy(&known.signed.bytes).into_owned(),
        }
    }
}

/// How everything is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Process id of the daemon.
    pub pid: u32,
    /// Where the coordinator is, as agent.toml says.
    pub coordinator: String,
    /// The state folder.
    pub state: PathBuf,
    /// How the certificate stands.
    pub certificate: Certificate,
    /// Why the last attempt to connect failed, or the last connection ended.
    pub link_trouble: Option<String>,
    /// Connection, studies, tasks, retained updates, roll calls and scores.
    #[serde(flatten)]
    pub session: session::Status,
}

/// How the site's certificate stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// `notAfter`.
    pub until: WallMillis,
    /// In words.
    pub standing: String,
    /// Whether somebody should act.
    pub warning: bool,
}
