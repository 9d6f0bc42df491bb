//! `consilium status`: what is going on.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Args;
use consilium_common::ids::StudyId;
use consilium_common::wire::messages::TaskKind;
use consilium_common::wire::operator::Request;
use consilium_common::wire::reject::Code;

use super::client::Client;
use super::output::{self, Format};
use super::{Connection, Exit, Failure};
use crate::document::{
    BestStatus, QuarantinedSite, RoundStatus, SiteStatus, StatusDocument, StudyStatus,
    VersionStatus,
};
use crate::round::Affect;

/// Versions and rounds of a study on one screen.
const ROWS_MAX: usize = 8;
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Clear the screen and go to its corner (ECMA-48).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// `consilium status`
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Only this study.
    study: Option<StudyId>,
    /// Show it again every second until interrupted.
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

pub(super) fn run(args: &StatusArgs) -> Result<(), Failure> {
    super::on_runtime(async {
        let mut client = Client::connect(&args.connection).await?;
        loop {
            let shown = show(args, &client).await;
            if !args.watch {
                client.close().await;
                return shown;
            }
            if !output::is_taken() {
                return Ok(());
            }
            if let Err(lost) = shown {
                if lost.exit == Exit::Refused {
                    return Err(lost);
                }
                output::line(format_args!("{lost}; connecting again"));
                client = reconnect(&args.connection).await;
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    })
}

async fn show(args: &StatusArgs, client: &Client) -> Result<(), Failure> {
    let document: StatusDocument =
        client.ask(&Request::Status { study: args.study.clone() }).await?;
    let clear = args.watch && !args.format.json && std::io::stdout().is_terminal();
    output::show(args.format, &document, |document| {
        let text = document_text(document);
        if clear { format!("{CLEAR}{text}") } else { text }
    })
}

/// A coordinator that restarts is back in a moment: whoever watches goes on watching.
async fn reconnect(connection: &Connection) -> Client {
    loop {
        match Client::connect(connection).await {
            Ok(client) => return client,
            Err(_) => tokio::time::sleep(WATCH_INTERVAL).await,
        }
    }
}

fn document_text(document: &StatusDocument) -> String {
    let c = &document.coordinator;
    let mut parts = vec![format!(
        "{} of consortium {} on {}, up {}: {} of {} connected, roster version {}, {} in the log\n\
         certificate: {}",
        c.program,
        c.consortium,
        c.address,
        output::span(c.uptime_seconds.saturating_mul(1000)),
        c.connected,
        output::count(c.sites, "site"),
        c.roster_version,
        output::count(usize::try_from(c.log_records).unwrap_or(usize::MAX), "record"),
        c.certificate
    )];
    parts.extend(document.coordinator.quarantined.iter().map(quarantine_text));
    if document.studies.is_empty() {
        parts.push("no studies".to_owned());
    }
    parts.extend(document.studies.iter().map(study_text));
    parts.join("\n\n")
}

/// What an operator has to know of a site that was put out: who, why, how often, how long.
fn quarantine_text(site: &QuarantinedSite) -> String {
    let QuarantinedSite { site, code, detail, strikes, remaining_ms } = site;
    let left = output::span(*remaining_ms);
    format!("site {site} is quarantined for {left} more (strike {strikes}): {code}: {detail}")
}

/// One study: what goes on, its sites, its metrics, its last rounds.
pub(super) fn study_text(study: &StudyStatus) -> String {
    let why = study.completion.map(|why| format!(" ({why})")).unwrap_or_default();
    let mut text = format!(
        "study {}: {}{why}, {} of v{}",
        study.study, study.state, study.version, study.rounds_goal
    );
    if let Some(task) = study.task {
        let task = task_word(task);
        text +=
            &format!(", round {} ({task} from {}): {}", study.round, study.version, study.phase);
    }
    if let Some(remaining) = study.remaining_ms {
        text += &format!(", {} left", output::span(remaining));
    }
    if let Some(BestStatus { version, score, .. }) = &study.best {
        text += &format!("\nbest version {version}: {} {score:.4}", study.metric);
    }
    if study.withdrawals > 0 {
        let reported = output::count(study.withdrawals, "withdrawal");
        text += &format!("\n{reported} reported: the versions below say what they affect");
    }
    let ending = study.approval.filter(|approval| !approval.has_expired());
    if let Some(notice) = ending.and_then(|approval| approval.notice()) {
        text += &format!("\n{notice}");
    }
    if !study.waiting_for.is_empty() {
        text += &format!("\nwaiting for {}", study.waiting_for.join("; "));
    }
    let mut parts = vec![text];
    if !study.sites.is_empty() {
        parts.push(site_table(&study.sites));
    }
    if study.versions.iter().any(|version| version.loss.is_some()) {
        parts.push(version_table(last(&study.versions)));
    }
    let scored = study.versions.iter().rev().find(|version| !version.groups.is_empty());
    parts.extend(scored.map(group_table));
    if !study.rounds.is_empty() {
        parts.push(round_table(last(&study.rounds)));
    }
    parts.join("\n")
}

/// The newest rows: a screen holds no more, `--json` and `model list` have all.
fn last<T>(rows: &[T]) -> &[T] {
    rows.get(rows.len().saturating_sub(ROWS_MAX)..).unwrap_or(rows)
}

fn site_table(sites: &[SiteStatus]) -> String {
    let mut table =
        output::table(&["site", "state", "doing", "progress", "last contact", "up", "down"]);
    for site in sites {
        let state = match site.code {
            Some(code) if let Some(left) = site.quarantine_ms => {
                format!("{} for {} ({code})", site.state, output::span(left))
            }
            Some(Code::NotAccepted) => "waits for the site's decision".to_owned(),
            Some(code) => format!("{} ({code})", site.state),
            None => site.state.clone(),
        };
        table.add_row([
            site.site.to_string(),
            state,
            site.phase.clone().unwrap_or_default(),
            output::bar(site.done, site.total),
            site.last_contact_ms_ago
                .map_or_else(|| "never".to_owned(), |ms| format!("{} ago", output::span(ms))),
            output::bytes(site.bytes_up),
            output::bytes(site.bytes_down),
        ]);
    }
    table.to_string()
}

pub(super) fn version_table(versions: &[VersionStatus]) -> String {
    let mut table =
        output::table(&["version", "score", "accuracy", "loss", "round", "committed", "model", ""]);
    for version in versions {
        table.add_row([
            version.version.to_string(),
            output::number(version.score),
            version
                .accuracy
                .map_or_else(|| "–".to_owned(), |share| format!("{:.2} %", 100.0 * share)),
            output::number(version.loss),
            version.round.map(|round| round.to_string()).unwrap_or_default(),
            version.wall.map(output::date).unwrap_or_default(),
            version.model.short(),
            remark(version),
        ]);
    }
    table.to_string()
}

/// What else is to be known of a version.
fn remark(version: &VersionStatus) -> String {
    let again = version.again.map(|from| format!("{from} again"));
    let affected = version.affected.map(affect_text);
    again.into_iter().chain(affected).collect::<Vec<_>>().join("; ")
}

/// What withdrawals say of a version.
pub(super) fn affect_text(Affect { directly, remedy }: Affect) -> String {
    let how = if directly { "trained on withdrawn records" } else { "built on withdrawn records" };
    format!("{how} (remedy: {remedy})")
}

/// The groups of the newest version that was scored.
fn group_table(version: &VersionStatus) -> String {
    let title = format!("groups of {}", version.version);
    let mut table = output::table(&[&title, "records", "measure", "value", "95 % interval"]);
    for row in &version.groups {
        let measure = row.measure.as_ref();
        table.add_row([
            format!("{} {}", row.column, row.group),
            row.records.to_string(),
            measure.map_or("too few records", |measure| measure.name.title()).to_owned(),
            output::number(measure.map(|measure| measure.value)),
            output::interval(measure.and_then(|measure| measure.interval.as_ref())),
        ]);
    }
    table.to_string()
}

fn round_table(rounds: &[RoundStatus]) -> String {
    let mut table = output::table(&[
        "round", "task", "outcome", "counted", "excluded", "clipped", "took", "up", "down",
    ]);
    for round in rounds {
        let outcome = match (&round.version, &round.reason) {
            (Some(version), _) => format!("{} {version}", round.outcome),
            (None, Some(reason)) => format!("{}: {reason}", round.outcome),
            (None, None) => round.outcome.clone(),
        };
        let excluded = round.excluded.iter().map(|(site, code)| format!("{site}: {code}"));
        let excluded: Vec<String> = excluded.collect();
        table.add_row([
            round.round.to_string(),
            task_word(round.task).to_owned(),
            outcome,
            round.counted.len().to_string(),
            excluded.join("\n"),
            round.clipped.to_string(),
            output::span(round.duration_ms),
            output::bytes(round.bytes_up),
            output::bytes(round.bytes_down),
        ]);
    }
    table.to_string()
}

fn task_word(task: TaskKind) -> &'static str {
    match task {
        TaskKind::Train => "train",
        TaskKind::Evaluate => "evaluate",
        TaskKind::Prepare => "prepare",
    }
}
