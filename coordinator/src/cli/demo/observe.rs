//! Reads the federation as its people would: the coordinator's `status --json` for versions and
//! rounds, each agent's own `status --json` for what only that site may know.

use std::collections::BTreeMap;

use anyhow::Context as _;
use consilium_common::ids::Version;
use consilium_common::wire::messages::RunState;
use serde::Deserialize;

use super::report::{Row, Score};
use crate::document::{StatusDocument, StudyStatus};
use crate::local::Federation;

/// What was seen at one look.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// One row a version, so far.
    pub(super) rows: Vec<Row>,
    /// The newest version.
    pub(super) version: u64,
    /// Its digest.
    pub(super) model: String,
    /// What goes on, in words.
    pub(super) doing: String,
    /// Whether the study is complete.
    pub(super) complete: bool,
}

/// Gathers rows over many looks: daemons show only the newest.
#[derive(Debug)]
pub(super) struct Observer {
    study: &'static str,
    rows: BTreeMap<Version, Row>,
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
    holdout: u64,
    accuracy: Option<f64>,
    loss: Option<f64>,
}

impl Observer {
    pub(super) fn new(study: &'static str) -> Self {
        Self { study, rows: BTreeMap::new() }
    }

    /// Looks once.
    pub(super) fn look(&mut self, federation: &Federation) -> anyhow::Result<Seen> {
        let document: StatusDocument = federation.operator_json(&["status", self.study])?;
        let study = document.studies.into_iter().next().context("the study is not listed")?;
        self.take(&study);
        for index in 0..federation.sites().len() {
            self.take_scores(federation, index)?;
        }
        Ok(Seen {
            rows: self.rows.values().cloned().collect(),
            version: study.version.0,
            model: study.model.to_string(),
            doing: doing(&study),
            complete: study.state == RunState::Complete,
        })
    }

    fn take(&mut self, study: &StudyStatus) {
        for round in &study.rounds {
            let Some(version) = round.version else {
                continue;
            };
            let row = self.rows.entry(version).or_default();
            (row.round, row.version) = (round.round.0, version.0);
            row.seconds = std::time::Duration::from_millis(round.duration_ms).as_secs_f64();
            (row.bytes_up, row.bytes_down) = (round.bytes_up, round.bytes_down);
            row.clipped = round.clipped;
        }
        for version in &study.versions {
            if let Some(row) = self.rows.get_mut(&version.version) {
                (row.accuracy, row.loss) = (version.accuracy, version.loss);
            }
        }
    }

    fn take_scores(&mut self, federation: &Federation, index: usize) -> anyhow::Result<()> {
        let Some(site) = federation.sites().get(index) else {
            return Ok(());
        };
        let status: AgentStatus = federation.agent_json(index, &["status"])?;
        for score in status.scores.into_iter().filter(|score| score.study == self.study) {
            let Some(row) = self.rows.get_mut(&score.version) else {
                continue;
            };
            let name = site.name.to_string();
            if row.sites.iter().all(|known| known.site != name) {
                let (holdout, accuracy, loss) = (score.holdout, score.accuracy, score.loss);
                row.sites.push(Score { site: name, holdout, accuracy, loss });
            }
        }
        Ok(())
    }
}

fn doing(study: &StudyStatus) -> String {
    match study.waiting_for.first() {
        Some(waiting) => format!("{}, waiting for {waiting}", study.phase),
        None => study.phase.clone(),
    }
}
