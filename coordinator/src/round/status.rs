//! What screens show of a study. Field names are stable: `status --json` prints this.

use serde::{Deserialize, Serialize};

use consilium_common::ids::{Round, SiteId, StudyId, Version};
use consilium_common::study::governance::Approval;
use consilium_common::time::Millis;
use consilium_common::update::best::Scored;
use consilium_common::wire::messages::{RunState, SitePhase, TaskKind};
use consilium_common::wire::reject::Code;

use super::cohort;
use super::engine::Engine;
use super::open_round::{OpenRound, Phase};
use super::site::{Session, Site, SiteState};

/// A study, now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Which study.
    pub study: StudyId,
    /// Whether rounds run.
    pub state: RunState,
    /// How far the open round is.
    pub phase: PhaseName,
    /// The open round, or the next one.
    pub round: Round,
    /// What that round asks.
    pub task: TaskKind,
    /// The version that it starts from: the newest.
    pub base_version: Version,
    /// The best of the versions that were scored.
    pub best: Option<Scored>,
    /// Until uploads close, milliseconds; only in an open round.
    pub remaining_ms: Option<u64>,
    /// What has to happen for the study to go on, in words; empty when nothing is waited for.
    pub waiting_for: Vec<String>,
    /// How the study's approval stands, if it names an end.
    pub approval: Option<Approval>,
    /// Every site of the roster.
    pub sites: Vec<SiteStatus>,
}

/// How far the open round is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the phases of the module's picture")]
pub enum PhaseName {
    Idle,
    Inviting,
    Training,
    Aggregating,
    /// The roll call is being written.
    Closing,
}

/// One site, now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteStatus {
    /// Which site.
    pub site: SiteId,
    /// It has a live session and has accepted the study.
    pub connected: bool,
    /// In the open round: `invited`, `working`, `offered`, `uploading`, `verifying`, `adding`,
    /// `delivered`, `declined`, `no-answer`, `idle`, `failed`, `refused`, `late`.
    /// Outside of one: `ready`, `declined`, `absent`.
    pub state: String,
    /// What it said last that it does.
    pub phase: Option<SitePhase>,
    /// Units done in that phase.
    pub done: u64,
    /// Of how many; 0 if unknown.
    pub total: u64,
    /// How long ago anything moved, milliseconds; only in a round.
    pub last_progress_ms_ago: Option<u64>,
    /// Why it does not take part, if it does not.
    pub code: Option<Code>,
}

impl Engine {
    /// What screens show at `now`.
    #[must_use]
    pub fn status(&self, now: Millis) -> Status {
        let open = self.open.as_ref();
        let remaining = open.filter(|open| open.is_live() && !open.uploads_closed);
        Status {
            study: self.terms.study.id().clone(),
            state: self.state,
            phase: open.map_or(PhaseName::Idle, |open| name(open.phase)),
            round: open.map_or(self.next_round, |open| open.plan.round),
            task: open.map_or_else(|| self.next_task(), |open| open.plan.task),
            base_version: open.map_or(self.version, |open| open.plan.base_version),
            best: self.best.get(),
            remaining_ms: remaining.map(|open| open.remaining(now).0),
            waiting_for: self.waiting_for(now),
            approval: self.approval(),
            sites: self.roster.iter().map(|site| self.site_status(site, now)).collect(),
        }
    }

    fn approval(&self) -> Option<Approval> {
        self.terms.study.governance.approval(self.wall)
    }

    fn waiting_for(&self, now: Millis) -> Vec<String> {
        let (task, mut waiting) = match &self.open {
            Some(open) => (open.plan.task, waiting_in_round(open)),
            None => (self.next_task(), self.waiting_while_idle(now)),
        };
        let runs = self.open.is_some() || self.state == RunState::Running;
        if task == TaskKind::Prepare && runs && !waiting.is_empty() {
            waiting.insert(
                0,
                "the preparation: no round trains before the sites have counted".to_owned(),
            );
        }
        waiting
    }

    fn site_status(&self, id: &SiteId, now: Millis) -> SiteStatus {
        let session = self.sessions.get(id).cloned().unwrap_or_default();
        let part = self.open.as_ref().and_then(|open| open.sites.get(id));
        let progress = part.and_then(|part| part.progress);
        let (state, code) = match part {
            Some(part) => (part.state.word(), out_code(part)),
            None => session_word(&session, now),
        };
        SiteStatus {
            site: id.clone(),
            connected: session.connected,
            state: state.to_owned(),
            phase: progress.map(|(phase, _, _)| phase),
            done: progress.map_or(0, |(_, done, _)| done),
            total: progress.map_or(0, |(_, _, total)| total),
            last_progress_ms_ago: part.map(|part| now.since(part.moved).0),
            code,
        }
    }

    fn waiting_while_idle(&self, now: Millis) -> Vec<String> {
        match self.state {
            RunState::Submitted => return vec!["an operator to start the study".to_owned()],
            RunState::Paused => return vec!["an operator to start the study again".to_owned()],
            RunState::Stopped | RunState::Complete => return Vec::new(),
            RunState::Running => {}
        }
        if let Some(approval) = self.approval().filter(Approval::has_expired) {
            let notice = approval.notice().unwrap_or_default();
            return vec![format!("{}: {notice}", Code::ApprovalExpired)];
        }
        let ready = self.ready_sites();
        let mut waiting = cohort::missing(&self.terms.study.cohort, &ready, "ready");
        if !waiting.is_empty() {
            let not_ready = self.roster.iter().filter(|site| !ready.contains(*site));
            waiting.extend(not_ready.map(|site| self.why_not_ready(site, now)));
        }
        if self.attempts.not_before > now {
            let (wait, failed) = (self.attempts.not_before - now, self.attempts.abandoned);
            waiting.push(format!("the next attempt in {wait}: {failed} abandoned in a row"));
        }
        waiting
    }

    fn why_not_ready(&self, site: &SiteId, now: Millis) -> String {
        let session = self.sessions.get(site).filter(|session| session.connected);
        match session.and_then(|session| session.declined) {
            Some((until, code)) => format!("{site}: {code}, asked again in {}", until - now),
            None => format!("{site} to connect and accept the study"),
        }
    }
}

fn name(phase: Phase) -> PhaseName {
    match phase {
        Phase::Planning | Phase::Inviting => PhaseName::Inviting,
        Phase::Training => PhaseName::Training,
        Phase::Aggregating => PhaseName::Aggregating,
        Phase::Closing => PhaseName::Closing,
    }
}

fn waiting_in_round(open: &OpenRound) -> Vec<String> {
    match open.phase {
        Phase::Planning => vec!["the plan to be written".to_owned()],
        Phase::Aggregating => vec![match open.plan.task {
            TaskKind::Train | TaskKind::Evaluate => "the next model to be made".to_owned(),
            TaskKind::Prepare => "the counts to be added up".to_owned(),
        }],
        Phase::Closing => vec!["the roll call to be written".to_owned()],
        Phase::Inviting | Phase::Training => {
            let sites = open.sites.iter();
            sites.filter_map(|(id, site)| Some(format!("{id}: {}", owed(site)?))).collect()
        }
    }
}

/// What a site's part lacks, in words; `None` if nothing more will come of it.
fn owed(site: &Site) -> Option<&'static str> {
    match site.state {
        SiteState::Invited => Some("its answer to the plan"),
        SiteState::Working => Some("its update"),
        SiteState::Wanted => Some("the upload of its update"),
        SiteState::Looking | SiteState::Verifying => Some("its update to be verified"),
        SiteState::Adding { .. } => Some("its update to be added and receipted"),
        SiteState::Delivered | SiteState::Out(_) => None,
    }
}

fn out_code(site: &Site) -> Option<Code> {
    match site.state {
        SiteState::Out(why) => Some(why.code()),
        SiteState::Invited
        | SiteState::Working
        | SiteState::Looking
        | SiteState::Wanted
        | SiteState::Verifying
        | SiteState::Adding { .. }
        | SiteState::Delivered => None,
    }
}

fn session_word(session: &Session, now: Millis) -> (&'static str, Option<Code>) {
    if session.is_ready(now) {
        ("ready", None)
    } else if session.connected {
        ("declined", session.declined.map(|(_, code)| code))
    } else {
        ("absent", None)
    }
}
