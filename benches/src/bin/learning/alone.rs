//! Without a federation: one process with all records, and each site with its own, by
//! `consilium-agent train --local`.

use std::process::Command;

use anyhow::{Context as _, bail};
use consilium_coordinator::local::Programs;
use serde::Deserialize;

use crate::case::Case;
use crate::mean;

/// What `train --local --json` answers.
#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(rename = "final")]
    last: Last,
}

#[derive(Debug, Deserialize)]
struct Last {
    score: Option<f64>,
}

/// Who trained → the mean score over seeds.
pub(crate) fn train(case: &Case, programs: &Programs) -> anyhow::Result<Vec<(String, f64)>> {
    let mut who = vec![("all records in one process".to_owned(), String::new())];
    let sites = case.sites.sites.iter();
    who.extend(sites.map(|(site, only)| (format!("{site} alone"), only.clone())));
    who.into_iter().map(|(name, only)| Ok((name, one(case, programs, &only)?))).collect()
}

/// The mean over seeds of training on the records that `only` picks.
fn one(case: &Case, programs: &Programs, only: &str) -> anyhow::Result<f64> {
    let scores: anyhow::Result<Vec<f64>> =
        case.sites.seeds.iter().map(|seed| seeded(case, programs, only, *seed)).collect();
    Ok(mean(&scores?))
}

#[expect(clippy::disallowed_methods, reason = "files of a measurement need not last")]
fn seeded(case: &Case, programs: &Programs, only: &str, seed: u64) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    let (study, agent) = (folder.path().join("study.toml"), folder.path().join("agent.toml"));
    std::fs::write(&study, case.draft(seed)?)?;
    let section = case.section(only);
    let text = format!(
        "[site]\nname = \"local\"\ncoordinator = \"127.0.0.1:1\"\nstate = \"state\"\n\
         [data.{}]\n{section}",
        case.study_name(seed)
    );
    std::fs::write(&agent, text)?;
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
    let answer: Answer = serde_json::from_slice(&output.stdout)?;
    answer.last.score.context("train --local measured nothing")
}
