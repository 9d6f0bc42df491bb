//! What people see of the agent: the documents behind `status --json` and `study … --json`. Field
//! names are stable.

use std::path::PathBuf;

use consilium_common::ids::{Digest, StudyId};
use consilium_common::signed::KeyId;
use consilium_common::study::Mode;
use consilium_common::study::governance::{Approval, Governance};
use consilium_common::time::{Millis, WallMillis};
use serde::{Deserialize, Serialize};

use crate::config::AgentConfig;
use crate::ledger::LedgerStatus;
use crate::policy::{Decided, Moment, Policy};
use crate::roster::RosterStatus;
use crate::session;
use crate::state::KeptStudy;
use crate::witness::WitnessStatus;

/// One study in a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyRow {
    /// Its name.
    pub study: StudyId,
    /// Counts changed files of this name.
    pub version: u64,
    /// Names these exact bytes.
    pub digest: Digest,
    /// What people decided; absent while nobody has.
    pub decided: Option<Decided>,
    /// How many different people must accept it, where people accept.
    pub approvers_needed: usize,
    /// Model family.
    pub family: String,
    /// Who sees updates.
    pub mode: Mode,
    /// Committed versions after which it is complete.
    pub rounds: u64,
    /// Whether `[data.NAME]` names records for it.
    pub has_data: bool,
    /// On what ground it runs, as its operators signed.
    pub governance: Governance,
    /// One sentence for data-protection officers.
    pub purpose: String,
}

impl StudyRow {
    /// The row of a known study, under the `policy` that is in force.
    #[must_use]
    pub fn of(known: &KeptStudy, config: &AgentConfig, policy: Option<&Policy>) -> Self {
        let study = &known.study;
        Self {
            study: study.id().clone(),
            version: study.header.version,
            digest: known.digest,
            decided: known.decided.clone(),
            approvers_needed: policy.map_or(1, Policy::approvers_needed),
            family: study.model.family().to_owned(),
            mode: study.privacy.mode,
            rounds: study.training.rounds,
            has_data: config.data.contains_key(study.id()),
            governance: study.governance.clone(),
            purpose: study.header.purpose.clone(),
        }
    }

    /// `accepted`, `refused`, `undecided`, or how many people of how many have accepted it.
    #[must_use]
    pub fn decision(&self) -> String {
        let needed = self.approvers_needed;
        match &self.decided {
            Some(decided) if decided.refused.is_some() => "refused".to_owned(),
            Some(decided) if decided.is_accepted(needed) => "accepted".to_owned(),
            Some(decided) if !decided.accepted.is_empty() => {
                format!("accepted by {} of {needed}", decided.accepted.len())
            }
            Some(_) | None => "undecided".to_owned(),
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
    pub fn of(known: &KeptStudy, config: &AgentConfig, policy: Option<&Policy>) -> Self {
        Self {
            row: StudyRow::of(known, config, policy),
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
    /// The rules of the moment, as they are in force.
    pub policy: PolicyStatus,
    /// The site's own record.
    pub ledger: LedgerStatus,
    /// What it has seen of the coordinator's log.
    pub witness: WitnessStatus,
    /// The roster that it goes by, and the one that waits.
    pub roster: RosterStatus,
    /// Approvals that end within a month or have ended, of studies that are accepted or were.
    pub approvals: Vec<ApprovalRow>,
    /// Why the last attempt to connect failed, or the last connection ended.
    pub link_trouble: Option<String>,
    /// Connection, studies, tasks, retained updates, roll calls and scores.
    #[serde(flatten)]
    pub session: session::Status,
}

/// A study's approval that somebody should see to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRow {
    /// Which study.
    pub study: StudyId,
    /// Digest of the signed study.
    pub digest: Digest,
    /// How the approval stands.
    #[serde(flatten)]
    pub approval: Approval,
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

/// The rules of the moment: what plans and uploads are held to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// `hours`, as written.
    pub hours: Option<String>,
    /// When they begin again, as people there say it; none while plans are taken on.
    pub opens: Option<String>,
    /// How long until then.
    pub opens_in_ms: Option<Millis>,
    /// `slots`, as written.
    pub slots: Option<u32>,
    /// `upload_mbit_s`, as written.
    pub upload_mbit_s: Option<f64>,
}

impl PolicyStatus {
    /// Of these rules at `wall`.
    #[must_use]
    pub fn of(policy: Option<&Policy>, moment: &Moment, wall: WallMillis) -> Self {
        let window = moment.window.as_ref();
        let closed = window.and_then(|window| window.closed(wall));
        Self {
            hours: window.map(|window| window.hours().to_string()),
            opens_in_ms: closed.as_ref().map(|opening| opening.after),
            opens: closed.map(|opening| opening.at),
            slots: policy.and_then(|policy| policy.slots),
            upload_mbit_s: policy.and_then(|policy| policy.upload_mbit_s),
        }
    }

    /// A line for each rule that there is.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let hours = self.hours.as_ref().map(|hours| match &self.opens {
            None => format!("hours {hours}: open"),
            Some(opens) => format!("hours {hours}: closed until {opens}"),
        });
        let slots = self.slots.map(|slots| format!("slots {slots}: plans beyond are declined"));
        let upload = self.upload_mbit_s.map(|rate| format!("uploads at most {rate} Mbit/s"));
        [hours, slots, upload].into_iter().flatten().collect()
    }
}
