//! `status`: the running daemon on one screen.

use std::time::Duration;

use clap::Args;

use super::{Common, Failure, daemon, output, roster, witness};
use crate::control_socket::{Reply, Request};
use crate::report::Status;
use crate::session::{ConnectionState, Decision, DeclinedStatus, TaskStatus};

/// Between two looks of `--watch`.
const WATCH_PAUSE: Duration = Duration::from_secs(1);

/// Options of `status`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Show it again every second until interrupted
    #[arg(long)]
    watch: bool,
}

pub(super) async fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let config = common.load()?;
    loop {
        let reply = daemon::asked(&config.site.state, &Request::Status).await?;
        let Reply::Status(status) = reply else {
            return Err(daemon::unexpected());
        };
        if options.watch && !common.json {
            output::clear();
        }
        if common.json {
            output::json(&status)?;
        } else {
            show(&status);
        }
        if !options.watch || !output::is_taken() {
            return Ok(());
        }
        tokio::time::sleep(WATCH_PAUSE).await;
    }
}

fn show(status: &Status) {
    let session = &status.session;
    output::line(format!(
        "{} · site {} · process {} · {}",
        session.agent,
        session.site,
        status.pid,
        status.state.display()
    ));
    output::line(format!("coordinator {}: {}", status.coordinator, connection(status)));
    output::line(format!("certificate {}", status.certificate.standing));
    for line in status.policy.lines() {
        output::line(line);
    }
    output::line(ledger(status));
    output::line(witness::in_words(&status.witness));
    output::line(roster::in_words(&status.roster));
    if let Some(objection) = &session.last_objection {
        output::line(format!("last objection: {objection}"));
    }
    if session.withdrawals > 0 {
        let waiting = session.withdrawals;
        output::line(format!("withdrawals that wait for the coordinator: {waiting}"));
    }
    for declined in &session.declined {
        let DeclinedStatus { study, round, code, why, .. } = declined;
        output::line(format!("plan of {study} round {round} declined: {code}: {why}"));
    }
    for row in &status.approvals {
        let notice = row.approval.notice().unwrap_or_default();
        output::line(format!("{}@{}: {notice}", row.study, row.digest.short()));
    }
    show_studies(status);
    show_tasks(status);
    show_retained(status);
    show_rounds(status);
}

fn ledger(status: &Status) -> String {
    let ledger = &status.ledger;
    match &ledger.trouble {
        Some(trouble) => format!("ledger: NOTHING IS SENT: {trouble}"),
        None => format!("ledger: {} records, {}", ledger.records, output::bytes(ledger.bytes)),
    }
}

fn connection(status: &Status) -> String {
    let connection = &status.session.connection;
    let trouble = connection.trouble.as_ref().or(status.link_trouble.as_ref());
    let because = trouble.map(|trouble| format!(" ({trouble})")).unwrap_or_default();
    match connection.state {
        ConnectionState::Connected => {
            let coordinator = connection.coordinator.as_deref().unwrap_or("?");
            format!("connected to {coordinator} for {}", connection.for_ms)
        }
        ConnectionState::Connecting => format!("connecting{because}"),
        ConnectionState::Closing => format!("closing{because}"),
        ConnectionState::Waiting => {
            let wait = connection.next_attempt_in_ms.unwrap_or_default();
            format!("not connected, next attempt in {wait}{because}")
        }
    }
}

fn show_studies(status: &Status) {
    if status.session.studies.is_empty() {
        output::line("\nno study has been offered yet");
        return;
    }
    let mut table = output::table(&["study", "version", "digest", "data", "state", "decision"]);
    for study in &status.session.studies {
        let decision = match (&study.decision, &study.why) {
            (Some(Decision::Refused { code }), Some(why)) => format!("{code}: {why}"),
            (_, Some(why)) => why.clone(),
            (Some(decision), None) => format!("{decision:?}"),
            (None, None) => "being judged".to_owned(),
        };
        let state = match study.state {
            Some(state) if study.offered => format!("{state:?}").to_lowercase(),
            _ if study.offered => "offered".to_owned(),
            _ => "not on offer".to_owned(),
        };
        let data = if study.has_data { "yes" } else { "no" };
        table.add_row([
            study.study.to_string(),
            study.version.to_string(),
            study.digest.short(),
            data.to_owned(),
            state,
            decision,
        ]);
    }
    output::line(format!("\n{table}"));
}

fn show_tasks(status: &Status) {
    if status.session.tasks.is_empty() {
        return;
    }
    let mut table = output::table(&["task", "round", "base", "phase", "progress", "note"]);
    for task in &status.session.tasks {
        table.add_row([
            task.study.to_string(),
            task.round.to_string(),
            task.base_version.to_string(),
            format!("{:?}", task.phase).to_lowercase(),
            progress(task),
            note(task),
        ]);
    }
    output::line(format!("\n{table}"));
}

fn progress(task: &TaskStatus) -> String {
    match task.total {
        0 => task.done.to_string(),
        total => format!("{} / {total}", task.done),
    }
}

fn note(task: &TaskStatus) -> String {
    let waits = task.waits_for.as_ref().map(|what| format!("waits for {what}"));
    let fault = task
        .last_fault
        .as_ref()
        .map(|fault| format!("{} worker starts; {fault}", task.worker_starts));
    [waits, fault].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn show_retained(status: &Status) {
    if status.session.retained.is_empty() {
        return;
    }
    let mut table = output::table(&["retained update", "round", "digest", "size", "state"]);
    for update in &status.session.retained {
        let state = match (update.uploading, update.receipted, &update.last_fault) {
            (true, _, _) => "uploading".to_owned(),
            (false, true, _) => "receipted, waits for the roll call".to_owned(),
            (false, false, Some(fault)) => format!("waits; {fault}"),
            (false, false, None) => "waits for the coordinator".to_owned(),
        };
        table.add_row([
            update.study.to_string(),
            update.round.to_string(),
            update.digest.short(),
            output::bytes(update.bytes),
            state,
        ]);
    }
    output::line(format!("\n{table}"));
}

fn show_rounds(status: &Status) {
    let session = &status.session;
    if session.roll_calls.is_empty() && session.scores.is_empty() {
        return;
    }
    let mut table =
        output::table(&["last roll call", "round", "this site", "version", "accuracy", "loss"]);
    for call in &session.roll_calls {
        let counted = match call.code {
            _ if call.counted => "counted".to_owned(),
            Some(code) => format!("not counted: {code}"),
            None => "not invited".to_owned(),
        };
        let score = session.scores.iter().rev().find(|score| score.study == call.study);
        table.add_row([
            call.study.to_string(),
            call.round.to_string(),
            counted,
            score.map_or_else(|| "–".to_owned(), |score| score.version.to_string()),
            output::percent(score.and_then(|score| score.accuracy)),
            output::decimal(score.and_then(|score| score.loss)),
        ]);
    }
    output::line(format!("\n{table}"));
}
