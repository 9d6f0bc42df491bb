//! The JSON documents that the coordinator answers operators, auditors and researchers with. Field names
//! are stable: scripts and dashboards read them.
//!
//! `server/answers`, `member_requests` and `proposals` fill them, `cli` prints them as tables or hands them on with `--json`.

mod members;
mod plan;
mod proposals;

use std::collections::BTreeMap;

use consilium_common::audit::record::Completion;
use consilium_common::ids::{Digest, Round, SiteId, StudyId, Version};
use consilium_common::study::governance::Approval;
use consilium_common::study::sections::Metric;
use consilium_common::time::WallMillis;
use consilium_common::update::groups::GroupRow;
use consilium_common::update::operating_point::OperatingPoint;
use consilium_common::wire::messages::{RunState, TaskKind};
use consilium_common::wire::reject::Code;
use serde::{Deserialize, Serialize};

use crate::round::Affect;

pub use members::{
    ApplicantLine, InvitationLine, InviteDocument, MembersDocument, ProposalDocument,
    RevocationLine, RevokeDocument, RosterSignDocument, SiteLine,
};
pub use plan::{PlanDocument, PlanSite};
pub use proposals::{StudyProposalDocument, StudyProposalLine, StudyProposalsDocument};

/// Answer to `status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusDocument {
    /// The coordinator itself.
    pub coordinator: CoordinatorStatus,
    /// Every study, or the one asked for.
    pub studies: Vec<StudyStatus>,
}

/// The coordinator itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoordinatorStatus {
    /// Program and version.
    pub program: String,
    /// Where it listens.
    pub address: String,
    /// The consortium's name.
    pub consortium: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Its calendar clock.
    pub wall: WallMillis,
    /// Records in the log.
    pub log_records: u64,
    /// Sites in the roster.
    pub sites: usize,
    /// Which roster is in force.
    pub roster_version: u64,
    /// Sites connected now.
    pub connected: usize,
    /// When its certificate ends, in words.
    pub certificate: String,
    /// Sites in quarantine, whatever studies they take part in.
    pub quarantined: Vec<QuarantinedSite>,
}

/// A site that was put out for a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedSite {
    /// Its name.
    pub site: SiteId,
    /// What it did.
    pub code: Code,
    /// In a sentence.
    pub detail: String,
    /// How often, less what was forgiven.
    pub strikes: u32,
    /// Milliseconds until it may come back.
    pub remaining_ms: u64,
}

/// One study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudyStatus {
    /// Its name.
    pub study: StudyId,
    /// Version of the study file.
    pub study_version: u64,
    /// Digest of the signed study.
    pub digest: Digest,
    /// Whether rounds run.
    pub state: RunState,
    /// Why it is complete, if it is: `rounds` or `early-stopping`.
    pub completion: Option<Completion>,
    /// `idle`, `inviting`, `training`, `aggregating`, `closing`.
    pub phase: String,
    /// The round under way, or the last one.
    pub round: Round,
    /// What the round under way asks.
    pub task: Option<TaskKind>,
    /// The newest version.
    pub version: Version,
    /// Its digest.
    pub model: Digest,
    /// Versions after which the study is complete.
    pub rounds_goal: u64,
    /// The metric that scores are of.
    pub metric: Metric,
    /// The best of the versions that were scored; of equals the earlier.
    pub best: Option<BestStatus>,
    /// Milliseconds until uploads close.
    pub remaining_ms: Option<u64>,
    /// What is being waited for, a sentence each.
    pub waiting_for: Vec<String>,
    /// Why no round begins although the study runs: `approval-expired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Code>,
    /// How the study's approval stands, if it names an end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// Each site of the roster.
    pub sites: Vec<SiteStatus>,
    /// The newest versions, oldest first.
    pub versions: Vec<VersionStatus>,
    /// The newest rounds, oldest first.
    pub rounds: Vec<RoundStatus>,
    /// Withdrawals of consent that sites have reported.
    #[serde(default)]
    pub withdrawals: usize,
}

/// The best version of a study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BestStatus {
    /// Its number.
    pub version: Version,
    /// Its digest.
    pub model: Digest,
    /// The study's metric of it, over the hold-outs of the sites that counted.
    pub score: f64,
}

/// One site in one study.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteStatus {
    /// Its name.
    pub site: SiteId,
    /// Whether it is connected.
    pub connected: bool,
    /// Its state in the round, or its answer to the study, in a word; `quarantined` if it is.
    pub state: String,
    /// What it is doing.
    pub phase: Option<String>,
    /// Units done in this phase.
    pub done: u64,
    /// Of how many; 0 if unknown.
    pub total: u64,
    /// Why it does not take part, if it does not; what it did, if it is in quarantine.
    pub code: Option<Code>,
    /// Milliseconds until it may come back, if it is in quarantine.
    pub quarantine_ms: Option<u64>,
    /// Milliseconds since anything was heard from it, if ever since the coordinator started.
    pub last_contact_ms_ago: Option<u64>,
    /// Bytes received from it since the coordinator started.
    pub bytes_up: u64,
    /// Bytes sent to it since the coordinator started.
    pub bytes_down: u64,
}

/// One version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionStatus {
    /// Its number.
    pub version: Version,
    /// Its digest.
    pub model: Digest,
    /// The round that made it; absent for v0.
    pub round: Option<Round>,
    /// When it was committed.
    pub wall: Option<WallMillis>,
    /// Correct ÷ total over the hold-outs, once the next round has scored it.
    pub accuracy: Option<f64>,
    /// Mean loss in nats, once scored.
    pub loss: Option<f64>,
    /// The study's own metric, once scored.
    pub score: Option<f64>,
    /// The integer sums behind them over all records, without the histograms of scores.
    pub metrics: BTreeMap<String, u64>,
    /// Of two classes where AUC decides: the best threshold on the hold-outs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operating_point: Option<OperatingPoint>,
    /// The study's own measure for each of its groups, once scored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupRow>,
    /// The earlier version that it is again, where training went back to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Version>,
    /// What withdrawals of consent say of it: absent where none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affected: Option<Affect>,
}

/// One round, from its roll call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundStatus {
    /// Its number.
    pub round: Round,
    /// What was asked.
    pub task: TaskKind,
    /// `committed`, `evaluated`, `prepared` or `abandoned`.
    pub outcome: String,
    /// Why it was abandoned.
    pub reason: Option<String>,
    /// The version that the sites started from.
    pub base_version: Version,
    /// The version that came of it.
    pub version: Option<Version>,
    /// When its roll call was written.
    pub wall: WallMillis,
    /// From the plan to the roll call.
    pub duration_ms: u64,
    /// Updates received.
    pub bytes_up: u64,
    /// Bases and preparations sent.
    pub bytes_down: u64,
    /// Updates that were clipped at their site.
    pub clipped: u64,
    /// Sites that counted, with their weight where the mode shows it.
    pub counted: BTreeMap<SiteId, Option<u64>>,
    /// Sites that did not count, and why.
    pub excluded: BTreeMap<SiteId, Code>,
}

/// Answer to `study submit`, `start`, `pause` and `stop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandDocument {
    /// Which study.
    pub study: StudyId,
    /// Digest of the signed study.
    pub digest: Digest,
    /// Its state now.
    pub state: RunState,
    /// What people should know of its approval by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

/// Answer to `study retrain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetrainDocument {
    /// Which study.
    pub study: StudyId,
    /// The version from which training goes on.
    pub from: Version,
    /// The number under which it is the newest.
    pub version: Version,
    /// Its digest.
    pub model: Digest,
    /// The study's state now.
    pub state: RunState,
}

/// Answer to the offer of a v0 that a study was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitialDocument {
    /// Which study.
    pub study: StudyId,
    /// The model's digest.
    pub model: Digest,
    /// Bytes of the model's file.
    pub bytes: u64,
    /// It is not here yet, and is taken now.
    pub wanted: bool,
}

/// Answer to `study list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyListDocument {
    /// A line each.
    pub studies: Vec<StudyLine>,
}

/// One study in a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyLine {
    /// Its name.
    pub study: StudyId,
    /// Version of the study file.
    pub study_version: u64,
    /// Digest of the signed study.
    pub digest: Digest,
    /// Whether rounds run.
    pub state: RunState,
    /// The newest version.
    pub version: Version,
    /// Versions after which it is complete.
    pub rounds_goal: u64,
    /// What it is for.
    pub purpose: String,
}

/// Answer to `study show`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudyShowDocument {
    /// Its state.
    pub status: StudyStatus,
    /// The signed text.
    pub text: String,
    /// Key ids of those who signed.
    pub signed_by: Vec<String>,
}

/// Answer to `report`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReportDocument {
    /// The consortium's name.
    pub consortium: String,
    /// The coordinator's calendar clock.
    pub wall: WallMillis,
    /// The study with its text and its newest rounds.
    pub study: StudyShowDocument,
    /// Versions, oldest first.
    pub versions: Vec<VersionStatus>,
    /// All sums of the newest version that was scored.
    pub scored: Option<ScoredSums>,
}

/// What the sites measured of one version, over all that counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScoredSums {
    /// Which.
    pub version: Version,
    /// Sums by name, with the histograms of scores; those that are missing are 0.
    pub sums: BTreeMap<String, u64>,
}

/// Answer to `model list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelListDocument {
    /// Which study.
    pub study: StudyId,
    /// Versions, oldest first.
    pub versions: Vec<VersionStatus>,
    /// The best of those that were scored.
    pub best: Option<Version>,
}

/// Answer to `model show`; what `model export` needs to fetch and check the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelShowDocument {
    /// Which study.
    pub study: StudyId,
    /// The version.
    pub version: VersionStatus,
    /// Digest of the signed study.
    pub study_digest: Digest,
    /// Digest of the layout.
    pub layout: Digest,
    /// Bytes of the model's file.
    pub bytes: u64,
    /// The signed study's text: the layout follows from it.
    pub study_text: String,
}

/// Answer to `audit export`: what to fetch, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditExportDocument {
    /// The signed checkpoint, as a file has it.
    pub checkpoint: String,
    /// BLAKE3 of the log's bytes up to it; fetches by this name are answered for a while.
    pub digest: Digest,
    /// How many bytes.
    pub bytes: u64,
}
