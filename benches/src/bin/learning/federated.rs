//! The federation of a case: its seeds as studies side by side, each site an agent of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use consilium_common::ids::Version;
use consilium_common::time::Clock as _;
use consilium_common::wire::messages::RunState;
use consilium_coordinator::document::{StatusDocument, StudyStatus};
use consilium_coordinator::local::{Federation, Policy, Programs, SiteSpec};
use consilium_io::SystemClock;
use serde::Deserialize;

use crate::case::Case;
use crate::mean;

/// What came of it.
pub(crate) struct Federated {
    /// The last version's score over all hold-outs, one a seed.
    pub(crate) scores: Vec<f64>,
    /// The same version's accuracy, where it tells classes apart.
    pub(crate) accuracies: Vec<f64>,
    /// Site → the same on its own hold-out, mean over seeds.
    pub(crate) sites: BTreeMap<String, f64>,
    pub(crate) seconds: f64,
}

/// The part of an agent's `status --json` that is read here.
#[derive(Debug, Deserialize)]
struct AgentStatus {
    scores: Vec<AgentScore>,
}

#[derive(Debug, Deserialize)]
struct AgentScore {
    study: String,
    version: Version,
    score: Option<f64>,
}

/// Runs every seed to its end.
pub(crate) fn train(case: &Case, programs: Programs, folder: &Path) -> anyhow::Result<Federated> {
    let studies: Vec<String> = case.sites.seeds.iter().map(|seed| case.study_name(*seed)).collect();
    let spec = |(name, only): (&String, &String)| -> anyhow::Result<SiteSpec> {
        let section = case.section(only);
        let data = studies.iter().map(|study| (study.clone(), section.clone())).collect();
        Ok(SiteSpec { name: name.parse()?, data })
    };
    let sites = case.sites.sites.iter().map(spec).collect::<anyhow::Result<_>>()?;
    let root = folder.canonicalize()?.join("consortium");
    let mut federation = Federation::create(&root, programs, sites, Policy::Within)?;
    federation.start()?;
    let clock = SystemClock::open();
    for (study, seed) in studies.iter().zip(&case.sites.seeds) {
        federation.run_study(study, &case.draft(*seed)?)?;
    }
    let last = until_complete(&federation)?;
    let seconds = clock.now().as_secs_f64();
    let ends = || studies.iter().filter_map(|study| last.get(study));
    let scores: Option<Vec<f64>> = ends().map(|end| end.score).collect();
    let scores = scores.context("a study ended without a score of its last version")?;
    let accuracies = ends().filter_map(|end| end.accuracy).collect();
    let mut by_site = BTreeMap::new();
    for (index, site) in federation.sites().iter().enumerate() {
        let status: AgentStatus = federation.agent_json(index, &["status"])?;
        let is_last = |score: &&AgentScore| {
            last.get(&score.study).is_some_and(|end| end.version == score.version)
        };
        let own: Vec<f64> =
            status.scores.iter().filter(is_last).filter_map(|score| score.score).collect();
        by_site.insert(site.name.to_string(), mean(&own));
    }
    federation.stop()?;
    Ok(Federated { scores, accuracies, sites: by_site, seconds })
}

/// A study's last version and what it was worth.
struct End {
    version: Version,
    score: Option<f64>,
    accuracy: Option<f64>,
}

#[expect(clippy::disallowed_methods, reason = "a program that waits; no runtime runs here")]
fn until_complete(federation: &Federation) -> anyhow::Result<BTreeMap<String, End>> {
    loop {
        let status: StatusDocument = federation.operator_json(&["status"])?;
        if status.studies.iter().any(|study| study.state == RunState::Stopped) {
            bail!("a study was stopped");
        }
        if status.studies.iter().all(|study| study.state == RunState::Complete) {
            let end = |study: &StudyStatus| {
                let last = study.versions.last();
                let score = last.and_then(|version| version.score);
                let accuracy = last.and_then(|version| version.accuracy);
                (study.study.to_string(), End { version: study.version, score, accuracy })
            };
            return Ok(status.studies.iter().map(end).collect());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}
