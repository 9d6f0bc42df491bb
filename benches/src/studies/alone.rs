//! Without a federation: one process with all records, or one site with its own, by
//! `consilium-agent train --local`.

use std::process::Command;

use anyhow::{Context as _, bail};
use consilium_common::study::sections::Metric;
use consilium_common::update::intervals::Measure;
use consilium_common::update::operating_point::OperatingPoint;
use consilium_coordinator::local::Programs;
use serde::Deserialize;

use super::case::{Case, Draft};
use super::scored::Scored;

/// What `train --local --json` answers.
#[derive(Debug, Deserialize)]
struct Answer {
    epochs: Vec<Epoch>,
    #[serde(rename = "final")]
    last: Last,
}

#[derive(Debug, Deserialize)]
struct Epoch {
    examples: u64,
    seconds: f64,
    train_seconds: f64,
}

#[derive(Debug, Deserialize)]
struct Last {
    measures: Vec<Measure>,
    operating_point: Option<OperatingPoint>,
}

/// How fast records went through the passes over them.
#[derive(Debug, Clone, Copy)]
pub struct Speed {
    /// Records to train on.
    pub records: u64,
    /// What a round's passes took, without start, loading, scoring and saving.
    pub seconds: f64,
}

/// Trains on the records that `only` picks.
///
/// # Errors
/// A program that cannot be started or says no.
pub fn train(
    case: &Case,
    programs: &Programs,
    draft: &Draft,
    only: &str,
) -> anyhow::Result<Scored> {
    let answer = answer(case, programs, draft, only)?;
    let value = |metric: Metric| {
        let of = answer.last.measures.iter().find(|measure| measure.name.title() == metric.title());
        Some((metric, of?.value))
    };
    Ok(Scored {
        values: Metric::ALL.into_iter().filter_map(value).collect(),
        operating_point: answer.last.operating_point,
        seconds: answer.epochs.iter().map(|epoch| epoch.seconds).sum(),
        ..Scored::default()
    })
}

/// The same, of a study of one round, for its speed.
///
/// # Errors
/// A program that cannot be started or says no.
pub fn speed(case: &Case, programs: &Programs, draft: &Draft) -> anyhow::Result<Speed> {
    let answer = answer(case, programs, draft, "")?;
    let [round] = answer.epochs.as_slice() else {
        bail!("the study has {} rounds, not one", answer.epochs.len());
    };
    Ok(Speed { records: round.examples, seconds: round.train_seconds })
}

#[expect(clippy::disallowed_methods, reason = "files of a measurement need not last")]
fn answer(case: &Case, programs: &Programs, draft: &Draft, only: &str) -> anyhow::Result<Answer> {
    let folder = tempfile::tempdir()?;
    let (study, agent) = (folder.path().join("study.toml"), folder.path().join("agent.toml"));
    std::fs::write(&study, &draft.text)?;
    let section = case.section(only, draft);
    let site = "[site]\nname = \"local\"\ncoordinator = \"127.0.0.1:1\"\nstate = \"state\"\n";
    std::fs::write(&agent, format!("{site}[data.{}]\n{section}", draft.name))?;
    let output = Command::new(&programs.agent)
        .args(["train", "--local", "--json", "--study"])
        .arg(&study)
        .arg("--config")
        .arg(&agent)
        .output()
        .context("starting consilium-agent train --local")?;
    if !output.status.success() {
        bail!("train --local: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
