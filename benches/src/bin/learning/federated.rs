//! A case as a federation: each site an agent of its own, every process a real one.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use consilium_common::ids::Version;
use consilium_common::study::Study;
use consilium_common::study::sections::Metric;
use consilium_common::time::Clock as _;
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::RunState;
use consilium_coordinator::document::{StatusDocument, VersionStatus};
use consilium_coordinator::local::{Federation, Policy, Programs, SiteSpec};
use consilium_io::SystemClock;
use serde::Deserialize;

use consilium_benches::studies::case::{Case, Draft};
use consilium_benches::studies::scored::Scored;

/// The part of an agent's `status --json` that is read here.
#[derive(Debug, Deserialize)]
struct AgentStatus {
    scores: Vec<AgentScore>,
}

#[derive(Debug, Deserialize)]
struct AgentScore {
    version: Version,
    score: Option<f64>,
}

/// Runs the study to its end.
pub(crate) fn train(case: &Case, programs: &Programs, draft: &Draft) -> anyhow::Result<Scored> {
    let folder = tempfile::Builder::new().prefix(".bench-").tempdir()?;
    let spec = |(name, only): (&String, &String)| -> anyhow::Result<SiteSpec> {
        let data = BTreeMap::from([(draft.name.clone(), case.section(only, draft))]);
        Ok(SiteSpec { name: name.parse()?, data: data.into_iter().collect() })
    };
    let sites = case.sites.sites.iter().map(spec).collect::<anyhow::Result<_>>()?;
    let root = folder.path().canonicalize()?.join("consortium");
    let mut federation = Federation::create(&root, programs.clone(), sites, Policy::Within)?;
    federation.start()?;
    let clock = SystemClock::open();
    federation.run_study(&draft.name, &draft.text)?;
    let last = until_complete(&federation)?;
    let seconds = clock.now().as_secs_f64();
    let mut sites = BTreeMap::new();
    for (index, site) in federation.sites().iter().enumerate() {
        let status: AgentStatus = federation.agent_json(index, &["status"])?;
        let of_last = status.scores.iter().find(|score| score.version == last.version);
        sites.extend(of_last.and_then(|score| Some((site.name.to_string(), score.score?))));
    }
    federation.stop()?;
    let values = values(&draft.study()?, &last);
    let VersionStatus { groups, operating_point, .. } = last;
    Ok(Scored { values, sites, groups, operating_point, seconds })
}

/// The last version.
#[expect(clippy::disallowed_methods, reason = "a program that waits; no runtime runs here")]
fn until_complete(federation: &Federation) -> anyhow::Result<VersionStatus> {
    loop {
        let status: StatusDocument = federation.operator_json(&["status"])?;
        let [study] = status.studies.as_slice() else {
            bail!("the coordinator knows {} studies, not one", status.studies.len());
        };
        match study.state {
            RunState::Stopped => bail!("the study was stopped"),
            RunState::Complete => return study.versions.last().cloned().context("no version"),
            RunState::Submitted | RunState::Running | RunState::Paused => {
                std::thread::sleep(Duration::from_millis(500));
            }
        }
    }
}

/// What the version is worth: the study's own metric, and those that follow from plain sums.
fn values(study: &Study, version: &VersionStatus) -> BTreeMap<Metric, f64> {
    let schema = Schema::of(study);
    let sums = schema.pick(&version.metrics);
    let value = |metric: Metric| match metric {
        metric if metric == study.evaluation.metric => version.score,
        Metric::Accuracy => version.accuracy,
        Metric::Loss => version.loss,
        Metric::Rmse => schema.rmse(&sums),
        Metric::Hr => schema.hit_rate(&sums),
        Metric::Ndcg => schema.ndcg(&sums),
        Metric::Auc => None,
    };
    let value = |metric| Some((metric, value(metric)?));
    Metric::ALL.into_iter().filter_map(value).collect()
}
