//! What operators, auditors and researchers are told of the studies that they see, gathered from where it is.

use consilium_common::audit::Outcome;
use consilium_common::ids::{SiteId, StudyId, Version};
use consilium_common::tensor::flat::model_bytes_len;
use consilium_common::update::best::Scored;
use consilium_common::wire::messages::{Answer, RunState};
use consilium_common::wire::reject::Code;

use super::operator_session::Fault;
use super::roles::Sight;
use super::{PROGRAM, Server};
use crate::conduct::Term;
use crate::document::{
    BestStatus, CoordinatorStatus, ModelListDocument, ModelShowDocument, PlanDocument, PlanSite,
    QuarantinedSite, ReportDocument, SiteStatus, StatusDocument, StudyLine, StudyListDocument,
    StudyShowDocument, StudyStatus, VersionStatus,
};
use crate::driver::{Event, Handle};
use crate::limits::ROUNDS_SHOWN_MAX;
use crate::round;
use crate::round::status::PhaseName;

/// The studies that are seen.
fn seen(server: &Server, sight: &Sight) -> Vec<Handle> {
    let all = server.studies.all().into_iter();
    all.filter(|study| sight.sees(study.study())).collect()
}

/// A study that is seen. One that is not is answered as one that is not there.
pub(super) fn find(server: &Server, sight: &Sight, study: &StudyId) -> Result<Handle, Fault> {
    let found = server.studies.get(study).filter(|found| sight.sees(found.study()));
    found.ok_or_else(|| {
        let known: Vec<String> =
            seen(server, sight).iter().map(|study| study.id().to_string()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Fault::refused(format!("there is no study {study} here (known: {known})"))
    })
}

pub(super) async fn status(
    server: &Server,
    sight: &Sight,
    study: Option<&StudyId>,
) -> Result<StatusDocument, Fault> {
    let handles = match study {
        Some(study) => vec![find(server, sight, study)?],
        None => seen(server, sight),
    };
    let mut studies = Vec::with_capacity(handles.len());
    for handle in handles {
        studies.push(study_status(server, &handle).await?);
    }
    Ok(StatusDocument { coordinator: coordinator(server, sight), studies })
}

fn coordinator(server: &Server, sight: &Sight) -> CoordinatorStatus {
    let (wall, members) = (server.clock.wall(), server.membership.members());
    let quarantined = match sight {
        Sight::All => server.sites.guard().terms().into_iter().map(quarantined).collect(),
        // What a site did is for those who run the consortium; each own study shows its sites' state.
        Sight::Own(_) => Vec::new(),
    };
    CoordinatorStatus {
        program: PROGRAM.to_owned(),
        address: server.address.to_string(),
        consortium: server.consortium.name.to_string(),
        uptime_seconds: server.clock.now().since(server.started).0 / 1000,
        wall,
        log_records: server.store.records(),
        sites: members.roster().sites().count(),
        roster_version: members.roster().version(),
        connected: server.sites.connected(),
        certificate: server.certificate.words(),
        quarantined,
    }
}

fn quarantined((site, term): (SiteId, Term)) -> QuarantinedSite {
    let Term { code, detail, strikes, left } = term;
    QuarantinedSite { site, code, detail, strikes, remaining_ms: left.0 }
}

async fn study_status(server: &Server, handle: &Handle) -> Result<StudyStatus, Fault> {
    let asked = handle.ask(|answer| Event::Status { answer }).await;
    let now = asked.map_err(Fault::failed)?;
    let sites = now.sites.iter().map(|site| site_status(server, handle.id(), site)).collect();
    let best = best(server, handle, now.best).await?;
    let view = handle.view();
    let newest: Vec<_> = view.summary.versions().rev().take(ROUNDS_SHOWN_MAX).collect();
    let head = view.summary.head();
    let open = now.phase != PhaseName::Idle;
    let expired = now.approval.is_some_and(|approval| approval.has_expired());
    let held = expired && !open && now.state == RunState::Running;
    let last = view.summary.rounds().next_back().map(|round| round.round);
    Ok(StudyStatus {
        study: handle.id().clone(),
        study_version: handle.study().header.version,
        digest: handle.digest(),
        state: now.state,
        completion: view.completion,
        phase: phase_word(now.phase).to_owned(),
        round: if open { now.round } else { last.unwrap_or_default() },
        task: open.then_some(now.task),
        version: head.version,
        model: head.model,
        rounds_goal: view.summary.goal(handle.study().training.rounds),
        metric: handle.study().evaluation.metric,
        best,
        remaining_ms: now.remaining_ms,
        waiting_for: now.waiting_for,
        held: held.then_some(Code::ApprovalExpired),
        approval: now.approval,
        sites,
        versions: newest.into_iter().rev().cloned().collect(),
        rounds: view.summary.rounds().cloned().collect(),
        withdrawals: view.summary.affected().len(),
    })
}

/// The best version with its model.
async fn best(
    server: &Server,
    handle: &Handle,
    best: Option<Scored>,
) -> Result<Option<BestStatus>, Fault> {
    let Some(Scored { version, score }) = best else {
        return Ok(None);
    };
    let found = version_status(server, handle, version).await?;
    Ok(found.map(|found| BestStatus { version, model: found.model, score }))
}

fn phase_word(phase: PhaseName) -> &'static str {
    match phase {
        PhaseName::Idle => "idle",
        PhaseName::Inviting => "inviting",
        PhaseName::Training => "training",
        PhaseName::Aggregating => "aggregating",
        PhaseName::Closing => "closing",
    }
}

/// What the engine knows of a site, with what the connection knows.
fn site_status(server: &Server, study: &StudyId, site: &round::status::SiteStatus) -> SiteStatus {
    let contact = server.sites.contact(&site.site).unwrap_or_default();
    let now = server.clock.now();
    // A site that declined the study is not in the engine's eyes; its code tells why.
    let declined = contact.answers.get(study).and_then(|answer| match answer {
        Answer::Accepted => None,
        Answer::Declined { code, .. } => Some(*code),
    });
    let term = server.sites.guard().term(&site.site);
    let state = match (&*site.state, contact.connected, declined) {
        _ if term.is_some() => "quarantined",
        ("absent", true, Some(_)) => "declined",
        ("absent", true, None) => "connected",
        // What it was doing goes on when it is back.
        ("invited" | "working", false, _) => "away",
        (state, _, _) => state,
    };
    let did = term.as_ref().map(|term| term.code);
    SiteStatus {
        site: site.site.clone(),
        connected: contact.connected,
        state: state.to_owned(),
        phase: site.phase.map(|phase| site_phase_word(phase).to_owned()),
        done: site.done,
        total: site.total,
        code: did.or(site.code).or(declined),
        quarantine_ms: term.map(|term| term.left.0),
        last_contact_ms_ago: contact.last.map(|last| now.since(last).0),
        bytes_up: contact.traffic.received,
        bytes_down: contact.traffic.sent,
    }
}

fn site_phase_word(phase: consilium_common::wire::messages::SitePhase) -> &'static str {
    use consilium_common::wire::messages::SitePhase;
    match phase {
        SitePhase::Queued => "queued",
        SitePhase::Fetching => "fetching",
        SitePhase::Loading => "loading",
        SitePhase::Scoring => "scoring",
        SitePhase::Training => "training",
        SitePhase::Encoding => "encoding",
        SitePhase::Uploading => "uploading",
    }
}

pub(super) fn study_list(server: &Server, sight: &Sight) -> StudyListDocument {
    let line = |handle: &Handle| {
        let (study, view) = (handle.study(), handle.view());
        StudyLine {
            study: study.id().clone(),
            study_version: study.header.version,
            digest: handle.digest(),
            state: view.state,
            version: view.summary.head().version,
            rounds_goal: view.summary.goal(study.training.rounds),
            purpose: study.header.purpose.clone(),
        }
    };
    StudyListDocument { studies: seen(server, sight).iter().map(line).collect() }
}

pub(super) async fn study_show(
    server: &Server,
    sight: &Sight,
    study: &StudyId,
) -> Result<StudyShowDocument, Fault> {
    let handle = find(server, sight, study)?;
    let signatures = &handle.offer().signatures;
    Ok(StudyShowDocument {
        status: study_status(server, &handle).await?,
        text: study_text(server, &handle).await?,
        signed_by: signatures.iter().map(|signature| signature.key.to_string()).collect(),
    })
}

/// Who takes plans on, and when, of all that may take part.
pub(super) fn plan(server: &Server, study: &StudyId) -> Result<PlanDocument, Fault> {
    let handle = find(server, &Sight::All, study)?;
    let cohort = &handle.study().cohort;
    let site = |site: SiteId| {
        let contact = server.sites.contact(&site).unwrap_or_default();
        let declined = match contact.answers.get(study) {
            Some(Answer::Declined { code, .. }) => Some(*code),
            Some(Answer::Accepted) | None => None,
        };
        PlanSite { site, connected: contact.connected, declined, hours: contact.hours.text() }
    };
    Ok(PlanDocument {
        study: study.clone(),
        min_sites: cohort.min_sites,
        required: cohort.required.iter().cloned().collect(),
        wall: server.clock.wall(),
        sites: server.membership.belonging().into_iter().map(site).collect(),
    })
}

/// The study's file as it was signed.
async fn study_text(server: &Server, handle: &Handle) -> Result<String, Fault> {
    let found = server.store.study(handle.digest()).await.map_err(Fault::failed)?;
    let submitted = found.ok_or_else(|| Fault::failed("the study's record was not found"))?;
    String::from_utf8(submitted.signed.bytes).map_err(Fault::failed)
}

pub(super) async fn report(
    server: &Server,
    sight: &Sight,
    study: &StudyId,
) -> Result<ReportDocument, Fault> {
    let shown = study_show(server, sight, study).await?;
    let handle = find(server, sight, study)?;
    let view = handle.view();
    Ok(ReportDocument {
        consortium: server.consortium.name.to_string(),
        wall: server.clock.wall(),
        study: shown,
        versions: view.summary.versions().cloned().collect(),
        scored: view.summary.scored().cloned(),
    })
}

pub(super) async fn model_list(
    server: &Server,
    sight: &Sight,
    study: &StudyId,
) -> Result<ModelListDocument, Fault> {
    let handle = find(server, sight, study)?;
    let asked = handle.ask(|answer| Event::Status { answer }).await;
    let best = asked.map_err(Fault::failed)?.best.map(|best| best.version);
    let versions = handle.view().summary.versions().cloned().collect();
    Ok(ModelListDocument { study: study.clone(), versions, best })
}

pub(super) async fn model_show(
    server: &Server,
    sight: &Sight,
    study: &StudyId,
    version: Option<Version>,
) -> Result<ModelShowDocument, Fault> {
    let handle = find(server, sight, study)?;
    let head = handle.view().summary.head();
    let version = version.unwrap_or(head.version);
    let found = version_status(server, &handle, version).await?;
    let found = found.ok_or_else(|| {
        let newest = head.version;
        Fault::refused(format!("study {study} has no version {version}: its newest is {newest}"))
    })?;
    if let Sight::Own(name) = sight {
        server.researchers.show(name, study, found.model);
    }
    let layout = handle.study().layout().map_err(Fault::failed)?;
    Ok(ModelShowDocument {
        study: study.clone(),
        version: found,
        study_digest: handle.digest(),
        layout: layout.digest(),
        bytes: model_bytes_len(&layout),
        study_text: study_text(server, &handle).await?,
    })
}

/// A version, with its metrics if they are in memory.
async fn version_status(
    server: &Server,
    handle: &Handle,
    version: Version,
) -> Result<Option<VersionStatus>, Fault> {
    let known = handle.view().summary.version(version).cloned();
    match known {
        Some(known) => Ok(Some(known)),
        None => {
            let (made, again, affected) = {
                let summary = &handle.view().summary;
                let lineage = summary.lineage();
                (lineage.origin(version), lineage.again(version), summary.affect(version))
            };
            let found = committed(server, handle.id(), made).await?;
            let round = found.as_ref().and_then(|found| found.round).filter(|_| again.is_none());
            Ok(found.map(|found| VersionStatus { version, round, again, affected, ..found }))
        }
    }
}

/// A version that is no more in memory, from the log.
async fn committed(
    server: &Server,
    study: &StudyId,
    version: Version,
) -> Result<Option<VersionStatus>, Fault> {
    let signed = server.store.version(study, version).await.map_err(Fault::failed)?;
    let Some(signed) = signed else {
        return Ok(None);
    };
    let call = signed.parse_unverified().map_err(Fault::failed)?;
    let Outcome::Committed { version, model, .. } = call.outcome else {
        return Ok(None);
    };
    Ok(Some(VersionStatus {
        version,
        model,
        round: Some(call.round),
        wall: None,
        accuracy: None,
        loss: None,
        score: None,
        metrics: std::collections::BTreeMap::new(),
        operating_point: None,
        groups: Vec::new(),
        again: None,
        affected: None,
    }))
}
