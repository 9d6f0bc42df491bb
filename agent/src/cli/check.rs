//! `check`: this site's records against the studies, through the worker, before anything trains.

use std::path::PathBuf;

use clap::Args;
use consilium_common::ids::StudyId;
use consilium_common::study::Study;
use consilium_common::worker::{FailureCode, Source, Work};
use serde::Serialize;

use super::workbench::{Job, Workbench, programs, read_study};
use super::{Common, Failure, output};
use crate::config::AgentConfig;
use crate::state::look_at_studies;
use crate::worker::WorkerFault;

/// Options of `check`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// A study's file, draft or signed; without it every study that was offered to this site
    #[arg(value_name = "STUDY.toml")]
    study: Option<PathBuf>,
}

/// What came of one check.
#[derive(Debug, Serialize)]
struct Row {
    study: StudyId,
    path: PathBuf,
    ok: bool,
    /// Training records.
    examples: Option<u64>,
    /// Hold-out records.
    holdout: Option<u64>,
    /// Stable code, if it failed by the records.
    code: Option<&'static str>,
    /// In a sentence, if it failed.
    message: Option<String>,
    findings: Vec<String>,
}

pub(super) async fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let config = common.load()?;
    let studies = studies(common, &config, options)?;
    let site = &config.site;
    let programs = programs(site.worker.clone())?;
    let bench = Workbench::new(programs, site.device.clone(), site.threads)?;
    let mut rows = Vec::new();
    for study in &studies {
        let row = match config.data.get(study.id()) {
            Some(source) => check(&bench, study, source).await,
            None => no_data(study),
        };
        if !common.json {
            show(&row);
        }
        rows.push(row);
    }
    if common.json {
        output::json(&rows)?;
    }
    match rows.iter().filter(|row| !row.ok).count() {
        0 => Ok(()),
        failed => Err(Failure::Failed(format!("{failed} of {} checks failed", rows.len()))),
    }
}

fn studies(
    common: &Common,
    config: &AgentConfig,
    options: &Options,
) -> Result<Vec<Study>, Failure> {
    if let Some(path) = &options.study {
        return Ok(vec![read_study(path)?]);
    }
    let known = look_at_studies(&config.site.state).map_err(Failure::failed)?;
    let studies: Vec<Study> = known
        .iter()
        .filter(|kept| config.data.contains_key(kept.study.id()))
        .map(|kept| Study::clone(&kept.study))
        .collect();
    if studies.is_empty() {
        let file = common.config.display();
        return Err(Failure::Failed(format!(
            "no study with a [data] section in {file} has been offered yet: check a file with \
             `consilium-agent check STUDY.toml`"
        )));
    }
    Ok(studies)
}

async fn check(bench: &Workbench, study: &Study, source: &Source) -> Row {
    let job = Job {
        work: Work::Check,
        study,
        source,
        seed: 0,
        round: 0,
        base: None,
        local: None,
        preparation: None,
        key: None,
    };
    let mut row = Row { path: source.path.clone(), ..no_data(study) };
    match bench.run(job, &mut |_| {}).await {
        Ok((outcome, _)) => {
            row.ok = true;
            row.code = None;
            row.message = None;
            row.examples = Some(outcome.examples);
            row.holdout = Some(outcome.holdout);
            row.findings = outcome.findings;
        }
        Err(fault) => {
            row.code = code(&fault);
            row.message = Some(fault.to_string());
        }
    }
    row
}

fn code(fault: &WorkerFault) -> Option<&'static str> {
    match fault {
        WorkerFault::Failed { code, .. } => Some(code.as_str()),
        WorkerFault::Start { .. }
        | WorkerFault::Died { .. }
        | WorkerFault::Closed
        | WorkerFault::Hung(_)
        | WorkerFault::LongLine
        | WorkerFault::Protocol(_)
        | WorkerFault::Version { .. }
        | WorkerFault::Stopped
        | WorkerFault::Folder { .. } => None,
    }
}

fn no_data(study: &Study) -> Row {
    let name = study.id();
    Row {
        study: name.clone(),
        path: PathBuf::new(),
        ok: false,
        examples: None,
        holdout: None,
        code: Some(FailureCode::DataMissing.as_str()),
        message: Some(format!("agent.toml has no [data.{name}]: add it with `source` and `path`")),
        findings: Vec::new(),
    }
}

fn show(row: &Row) {
    let count = |count: Option<u64>| count.unwrap_or(0);
    match &row.message {
        None => output::line(format!(
            "{}: ok, {} training and {} hold-out records in {}",
            row.study,
            count(row.examples),
            count(row.holdout),
            row.path.display()
        )),
        Some(message) => output::line(format!("{}: {message}", row.study)),
    }
    for finding in &row.findings {
        output::line(format!("  {finding}"));
    }
}
