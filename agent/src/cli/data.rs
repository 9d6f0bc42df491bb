//! `data trace`: what became of a patient's records, from the site's own files. `data withdraw`: which versions
//! that affects, to the coordinator. The patient is named in no file, no log, and not even to the daemon.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use consilium_certs::keys;
use consilium_common::audit::withdrawal::{Remedy, VersionRange, in_words, ranges_of};
use consilium_common::ids::{Digest, Round, StudyId, Version};
use consilium_common::time::Clock;
use consilium_common::wire::messages::{TaskKind, Withdrawal};
use consilium_common::worker::Work;
use consilium_common::worker::prints::Prints;
use consilium_io::SystemClock;
use serde::Serialize;

use super::person;
use super::version_in_use::find_study;
use super::workbench::{Job, Workbench, programs};
use super::{Common, Failure, daemon, output};
use crate::config::AgentConfig;
use crate::control_socket::{Reply, Request};
use crate::driver::withdrawing::keep;
use crate::ledger::Ledger;
use crate::state::patients::{Part, RoundUse, Trace};
use crate::state::{StateFolder, look_at_patients, pins};

/// An identifier is some characters; this is for who gives a whole file by mistake.
const PATIENT_BYTES_MAX: usize = 4 << 10;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the rounds and versions that a patient's records went into
    Trace {
        /// The identifier, as the records have it; `-` reads it from standard input, which leaves it in no
        /// list of processes and no history of the shell
        patient: String,
        /// Only of this study
        #[arg(long, value_name = "NAME")]
        study: Option<StudyId>,
    },
    /// Approve a study's data as it is now: `on_change` in its section says what happens when it changes
    Pin(Pin),
    /// Report which versions of a study a patient's withdrawal affects; nothing else is sent
    Withdraw(Withdraw),
}

#[derive(Debug, Args)]
pub(super) struct Pin {
    /// The study: its file, draft or signed, or the name of one that was offered to this site
    study: PathBuf,
    /// Who approves it: a person's name, which stays here
    #[arg(long, value_name = "PERSON", value_parser = person::name)]
    by: String,
}

#[derive(Debug, Args)]
pub(super) struct Withdraw {
    /// The study's name
    study: StudyId,
    /// The identifier, as the records have it; `-` reads it from standard input
    patient: String,
    /// What the site asks for: none (that it is known), retrain (that training goes on from a version before)
    /// or retire (that the versions are not used any more)
    #[arg(long, value_name = "REMEDY")]
    remedy: Remedy,
    /// Who reports it: a person's name, which stays in the site's ledger
    #[arg(long, value_name = "PERSON", value_parser = person::name)]
    by: String,
}

pub(super) async fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Trace { patient, study } => trace(common, patient, study.as_ref()),
        Command::Pin(options) => pin(common, options).await,
        Command::Withdraw(options) => withdraw(common, options).await,
    }
}

/// One round, as it is shown.
#[derive(Debug, Serialize)]
struct Row {
    study: StudyId,
    round: Round,
    task: TaskKind,
    /// Records were trained on, or counted.
    used: bool,
    /// Records scored the base.
    scored: bool,
    base: Version,
    /// The version that the training went into.
    version: Option<Version>,
    /// Whether the site's update is in the sum; none while nobody knows.
    counted: Option<bool>,
}

impl Row {
    fn of((study, round, part): (StudyId, RoundUse, Part)) -> Self {
        let Part { used, scored } = part;
        let version = round.version().filter(|_| used);
        let RoundUse { round, task, base, counted, .. } = round;
        Self { study, round, task, used, scored, base, version, counted }
    }

    /// What the records were there for.
    fn part(&self) -> &'static str {
        match (self.task, self.used, self.scored) {
            (TaskKind::Train, true, false) => "trained on",
            (TaskKind::Train, true, true) => "trained on, scored",
            (TaskKind::Prepare, ..) => "counted",
            (TaskKind::Train | TaskKind::Evaluate, ..) => "scored",
        }
    }
}

#[derive(Debug, Serialize)]
struct Document {
    rounds: Vec<Row>,
    /// Rounds whose records did not say whose they are.
    unknown: Vec<(StudyId, Round)>,
}

fn trace(common: &Common, patient: &str, study: Option<&StudyId>) -> Result<(), Failure> {
    let config = common.load()?;
    let patient = named(patient)?;
    let patients = look_at_patients(&config.site.state).map_err(Failure::failed)?;
    let Trace { rounds, unknown } = patients.trace(&patient).map_err(Failure::failed)?;
    let is_asked = |of: &StudyId| study.is_none_or(|study| study == of);
    let document = Document {
        rounds: rounds.into_iter().filter(|(of, ..)| is_asked(of)).map(Row::of).collect(),
        unknown: unknown.into_iter().filter(|(of, _)| is_asked(of)).collect(),
    };
    if common.json {
        return output::json(&document);
    }
    show(&document);
    Ok(())
}

fn show(document: &Document) {
    if document.rounds.is_empty() && document.unknown.is_empty() {
        output::line("no round of this site used records of a patient of this name");
    } else if document.rounds.is_empty() {
        output::line(
            "no round of this site is known to have used records of a patient of this name",
        );
    } else {
        let mut table = output::table(&["study", "round", "records", "base", "version", "counted"]);
        for row in &document.rounds {
            let version = row.version.map_or_else(|| "–".to_owned(), |v| v.to_string());
            let counted = match row.counted {
                Some(true) => "yes",
                Some(false) => "no",
                None => "not known yet",
            };
            let part = row.part().to_owned();
            let (study, round) = (row.study.to_string(), row.round.to_string());
            table.add_row([study, round, part, row.base.to_string(), version, counted.to_owned()]);
        }
        output::line(table);
    }
    if !document.unknown.is_empty() {
        let (study, round) = match document.unknown.first() {
            Some((study, round)) => (study.to_string(), round.to_string()),
            None => return,
        };
        output::line(format!(
            "of {} rounds it is not known: their records do not say whose they are (the first is {study} \
             round {round}). Where the files have a column that does, name it by `patient` in \
             [data.{study}]; pictures need a table of `labels` with it",
            document.unknown.len()
        ));
    }
}

async fn pin(common: &Common, options: &Pin) -> Result<(), Failure> {
    let config = common.load()?;
    let study = find_study(&options.study, Some(&config))?;
    let name = study.id();
    let source = config.data.get(name).ok_or_else(|| {
        Failure::Usage(format!("agent.toml has no [data.{name}]: there is no data to approve"))
    })?;
    let patients = look_at_patients(&config.site.state).map_err(Failure::failed)?;
    patients.key().map_err(|error| {
        Failure::Failed(format!("the daemon makes the site's key when it first starts: {error}"))
    })?;
    let (site, key) = (&config.site, patients.key_path());
    let bench = Workbench::new(programs(site.worker.clone())?, site.device.clone(), site.threads)?;
    let job = |work| Job {
        work,
        study: &study,
        source,
        seed: 0,
        round: 0,
        base: None,
        local: None,
        preparation: None,
        key: (work == Work::Pin).then_some(&*key),
    };
    let (counts, _) = bench.run(job(Work::Check), &mut |_| {}).await.map_err(Failure::failed)?;
    let (_, files) = bench.run(job(Work::Pin), &mut |_| {}).await.map_err(Failure::failed)?;
    let bytes = std::fs::read(files.prints()).map_err(Failure::failed)?;
    let prints = Prints::read(&bytes).map_err(Failure::failed)?;
    let (records, at) = ((counts.examples, counts.holdout), SystemClock::open().wall());
    let pin = pins::set(&site.state, (name, &options.by), records, &prints, at);
    let pin = pin.map_err(Failure::failed)?;
    if common.json {
        return output::json(&pin);
    }
    output::line(format!(
        "approved by {}: {} training and {} hold-out records of {name} in {} files",
        pin.by, pin.examples, pin.holdout, pin.files
    ));
    if source.on_change.is_none() {
        output::line(format!("[data.{name}] says no `on_change`: nobody looks whether it changes"));
    }
    Ok(())
}

/// What was reported.
#[derive(Debug, Serialize)]
struct Report {
    /// Its name; none where there was nothing to report.
    id: Option<Digest>,
    study: StudyId,
    versions: Vec<VersionRange>,
    remedy: Remedy,
    /// Rounds whose end is not known yet.
    open: Vec<Round>,
    /// Rounds whose records did not say whose they are.
    unknown: Vec<Round>,
}

impl Report {
    /// Nobody can say that the patient is in no version.
    fn is_open_question(&self) -> bool {
        self.versions.is_empty() && !self.unknown.is_empty()
    }
}

async fn withdraw(common: &Common, options: &Withdraw) -> Result<(), Failure> {
    let config = common.load()?;
    let Withdraw { study, patient, remedy, by } = options;
    let patient = named(patient)?;
    let patients = look_at_patients(&config.site.state).map_err(Failure::failed)?;
    let trace = patients.trace(&patient).map_err(Failure::failed)?;
    let trained = trace.rounds.iter().filter(|(of, _, part)| of == study && part.used);
    let open = |round: &RoundUse| round.counted.is_none() && round.task == TaskKind::Train;
    let mut report = Report {
        id: None,
        study: study.clone(),
        versions: ranges_of(trained.clone().filter_map(|(_, round, _)| round.version())),
        remedy: *remedy,
        open: trained
            .filter(|(_, round, _)| open(round))
            .map(|(_, round, _)| round.round)
            .collect(),
        unknown: trace.unknown.iter().filter(|(of, _)| of == study).map(|(_, at)| *at).collect(),
    };
    if !report.versions.is_empty() {
        let mut id = [0; 32];
        getrandom::fill(&mut id).map_err(Failure::failed)?;
        let id = Digest(id);
        let versions = report.versions.clone();
        let withdrawal = Withdrawal { id, study: study.clone(), versions, remedy: *remedy };
        report_to(&config, withdrawal, by).await?;
        report.id = Some(id);
    }
    if common.json {
        output::json(&report)?;
    } else {
        show_report(&report);
    }
    if report.is_open_question() {
        let told = "whether the patient is in a version is not known: nothing is reported";
        return Err(Failure::Failed(told.to_owned()));
    }
    Ok(())
}

/// Through the daemon, or beside it while none runs: it reports when one does.
async fn report_to(config: &AgentConfig, withdrawal: Withdrawal, by: &str) -> Result<(), Failure> {
    let request = Request::Withdraw { withdrawal: withdrawal.clone(), by: by.to_owned() };
    match daemon::asked(&config.site.state, &request).await {
        Ok(Reply::Withdrawn) => Ok(()),
        Ok(_) => Err(daemon::unexpected()),
        Err(Failure::Unreachable(_)) => {
            let mut state = StateFolder::open(&config.site.state).map_err(Failure::failed)?;
            let key = keys::load(&config.site.certificates().join("site.key"));
            let key = key.map_err(Failure::failed)?;
            let ledger = Ledger::open(&state.ledger(), &config.site.name, &key);
            let ledger = ledger.map_err(Failure::failed)?;
            let at = SystemClock::open().wall();
            keep(&ledger, &mut state, (&withdrawal, by), at).map_err(Failure::failed)
        }
        Err(failure) => Err(failure),
    }
}

fn show_report(report: &Report) {
    let Report { id, study, versions, remedy, open, unknown } = report;
    if let Some(first) = unknown.first() {
        output::line(format!(
            "of {} rounds of {study} it is not known whose records they used (the first is round {first}). If \
             the patient may be among them, tell the consortium's operators",
            unknown.len()
        ));
    }
    match id {
        None if report.is_open_question() => return,
        None => output::line(format!(
            "no version of {study} was trained on records of a patient of this name: nothing is reported"
        )),
        Some(_) => output::line(format!(
            "reported: {} of {study}, and so every version after; remedy: {remedy}",
            in_words(versions)
        )),
    }
    if !open.is_empty() {
        let rounds: Vec<String> = open.iter().map(ToString::to_string).collect();
        output::line(format!(
            "the end of round {} is not known yet: if it counts, report this again",
            rounds.join(", ")
        ));
    }
    output::line(format!(
        "the patient's records go on being used until the file that `exclude` in [data.{study}] names lists \
         the patient"
    ));
}

/// The patient, from the command line or standard input.
fn named(patient: &str) -> Result<String, Failure> {
    let mut text = patient.to_owned();
    if patient == "-" {
        if std::io::stdin().is_terminal() {
            output::note("the patient's identifier, then Ctrl-D:");
        }
        text.clear();
        let bound = PATIENT_BYTES_MAX as u64 + 1;
        std::io::stdin().take(bound).read_to_string(&mut text).map_err(Failure::failed)?;
    }
    let text = text.trim();
    if text.is_empty() || text.len() > PATIENT_BYTES_MAX || text.lines().count() > 1 {
        let told = "give one patient's identifier, as the records have it";
        return Err(Failure::Usage(told.to_owned()));
    }
    Ok(text.to_owned())
}
