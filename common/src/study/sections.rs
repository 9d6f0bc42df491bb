//! The sections of a study file, field by field, with their defaults.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::duration;
use crate::ids::{OperatorId, SiteId, StudyId};
use crate::time::Millis;

/// `[study]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Format of this file; 1.
    #[serde(default = "one_u32")]
    pub format: u32,
    /// Name of the study.
    pub name: StudyId,
    /// Counts changed files of this name, from 1.
    #[serde(default = "one_u64")]
    pub version: u64,
    /// One sentence for the sites' data-protection officers.
    #[serde(default)]
    pub purpose: String,
    /// Where all of the study's own randomness starts (v0, order of batches).
    #[serde(default)]
    pub seed: u64,
    /// Researchers who see the study at the coordinator and may propose its next version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub researchers: Vec<OperatorId>,
}

/// `[aggregation]`: from deltas to the next version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aggregation {
    /// Bound C on an update's L2 norm. No default: choose it from `train --local --report-norms`.
    pub clip_norm: f64,
    /// How deltas become the next model.
    #[serde(default = "fedavg")]
    pub strategy: Strategy,
    /// How deltas become bytes.
    #[serde(default = "grid32")]
    pub codec: Codec,
    // Each of these is some strategies' and filled in for these ([`super::strategy`]): a study that
    // was read has those of its strategy, and no other.
    /// η, the server's step size: 1 for `fedavg`, `fedprox` and `fedavgm`, 0.01 for `fedadam`,
    /// `fedyogi` and `fedadagrad`, whose steps do not shrink with the mean delta.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_learning_rate: Option<f64>,
    /// β of `fedavgm`: 0.9.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// β₁ of the adaptive strategies: 0.9, but 0 for `fedadagrad` (Reddi et al. 2021, section 5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta1: Option<f64>,
    /// β₂ of `fedadam` and `fedyogi`: 0.99.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta2: Option<f64>,
    /// τ, how adaptive the adaptive strategies are (smaller is more): 1e-3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tau: Option<f64>,
    /// μ of `fedprox`, which has no default: the weight of ½‖w − base‖² in the loss at the sites.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proximal_mu: Option<f64>,
    /// Bound on the L2 norm of what `scaffold` changes a site's control variate by in a round, which
    /// has no default: choose it from `train --local --report-norms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_clip_norm: Option<f64>,
}

/// How deltas become the next model. The server's half of each is [`super::ServerOptimizer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the field's own names")]
pub enum Strategy {
    /// McMahan et al. 2017.
    Fedavg,
    /// Li et al. 2020: FedAvg, but the sites' loss holds them near the base.
    Fedprox,
    /// Hsu et al. 2019.
    Fedavgm,
    /// Reddi et al. 2021, algorithm 2, as the two below.
    Fedadam,
    Fedyogi,
    Fedadagrad,
    /// Karimireddy et al. 2020: sites correct their steps by how their gradients differ from all
    /// sites' (`update::control`).
    Scaffold,
    TrimmedMean,
    Median,
    MultiKrum,
    Rfa,
}

/// How deltas become bytes (DESIGN.md §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the vocabulary of DESIGN.md §6")]
pub enum Codec {
    Grid32,
    Bf16,
    Int8,
    Topk,
    Ring32,
    Ring24,
    Ring16,
}

/// `[cohort]`: who takes part, and how long a round waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cohort {
    /// A round starts with, and commits with, at least so many sites.
    pub min_sites: u32,
    /// Sites without which no round starts.
    pub required: Vec<SiteId>,
    /// A site's weight is capped here.
    pub max_examples: u64,
    /// Uploads close so long after the plan was sent.
    #[serde(with = "duration")]
    pub deadline: Millis,
    /// A site that owes something and shows no progress for so long is idle.
    #[serde(with = "duration")]
    pub idle_timeout: Millis,
}

impl Default for Cohort {
    fn default() -> Self {
        Self {
            min_sites: 2,
            required: Vec::new(),
            max_examples: 1_000_000,
            deadline: Millis::from_secs(2 * 3600),
            idle_timeout: Millis::from_secs(60),
        }
    }
}

/// `[privacy]`: who sees what (PRIVACY.md §1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Privacy {
    /// Mode.
    pub mode: Mode,
    /// Smallest cohort whose sum may be seen, in private mode.
    pub min_cohort: u32,
}

impl Default for Privacy {
    fn default() -> Self {
        Self { mode: Mode::Private, min_cohort: 5 }
    }
}

/// Who sees an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Nobody but the site: the coordinator sees sums.
    Private,
    /// The coordinator sees and checks every update.
    Inspectable,
    /// Sums of groups.
    Grouped,
}

/// `[evaluation]`: what is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// The metric that decides which version is best.
    pub metric: Metric,
    /// Who sees a site's metrics.
    pub share: Share,
    /// Of two classes the second is said from this probability on; without it from one half, as the
    /// likelier of both. Above 0, below 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// For whom versions are scored apart ([`super::groups`]).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self { metric: Metric::Accuracy, share: Share::Sum, threshold: None, groups: Vec::new() }
    }
}

/// The metric that decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Correct ÷ total.
    Accuracy,
    /// Mean cross-entropy, smaller is better.
    Loss,
    /// Area under the ROC curve: of the second of two classes, or the mean over all classes.
    Auc,
    /// Root of the mean squared error, smaller is better.
    Rmse,
    /// Share of held-out choices among the ten first of 100 (HR@10).
    Hr,
    /// The same, worth less further down (NDCG@10).
    Ndcg,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Accuracy, Self::Loss, Self::Auc, Self::Rmse, Self::Hr, Self::Ndcg];

    /// Whether `score` is better than `than`; equal ones are not.
    #[must_use]
    pub fn is_better(self, score: f64, than: f64) -> bool {
        match self {
            Self::Accuracy | Self::Auc | Self::Hr | Self::Ndcg => score > than,
            Self::Loss | Self::Rmse => score < than,
        }
    }

    /// As people write it; [`fmt::Display`] gives the word of a study's file.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::Loss => "loss",
            Self::Auc => "AUC",
            Self::Rmse => "RMSE",
            Self::Hr => "HR@10",
            Self::Ndcg => "NDCG@10",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Accuracy => "accuracy",
            Self::Loss => "loss",
            Self::Auc => "auc",
            Self::Rmse => "rmse",
            Self::Hr => "hr",
            Self::Ndcg => "ndcg",
        })
    }
}

/// Who sees a site's metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Share {
    /// Sums over the cohort.
    Sum,
    /// Each site's own, with its consent.
    PerSite,
}

fn one_u32() -> u32 {
    1
}

fn one_u64() -> u64 {
    1
}

fn fedavg() -> Strategy {
    Strategy::Fedavg
}

fn grid32() -> Codec {
    Codec::Grid32
}
