//! The signed record of a round: who was invited, who counted and with what weight, who did not and
//! why, and what came of it. Each round ends with one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, Round, SiteId, StudyId, Version};
use crate::signed::Document;
use crate::time::Millis;
use crate::wire::messages::TaskKind;
use crate::wire::reject::Code;

/// Signed as its JSON bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollCall {
    /// 1.
    pub format: u32,
    /// Which study.
    pub study: StudyId,
    /// Digest of the signed study.
    pub study_digest: Digest,
    /// Which round.
    pub round: Round,
    /// What was asked.
    pub task: TaskKind,
    /// The version that the sites started from and scored.
    pub base_version: Version,
    /// Its digest.
    pub base: Digest,
    /// What came of it.
    pub outcome: Outcome,
    /// Every invited site.
    pub sites: BTreeMap<SiteId, Entry>,
    /// How many counted updates were clipped, in any section.
    pub clipped: u64,
    /// Sums of the base's metrics over the sites that counted.
    pub metrics: BTreeMap<String, u64>,
    /// Bytes of updates and bases that passed.
    pub bytes_up: u64,
    /// Bytes of bases and preparations sent.
    pub bytes_down: u64,
    /// From the plan to the end, without the coordinator's downtime.
    pub duration: Millis,
}

/// What came of a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Outcome {
    /// A new version.
    Committed {
        /// Its number.
        version: Version,
        /// Digest of its model.
        model: Digest,
        /// Digest of the strategy's state after it, if the strategy has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        strategy_state: Option<Digest>,
        /// BLAKE3 of the exact sum (little-endian i64, in the order of the update: `shared`, and
        /// `control` if there is one).
        sum: Digest,
        /// Sum of the weights that counted.
        weight: u64,
    },
    /// The base was scored.
    Evaluated {
        /// Sum of the weights that counted.
        weight: u64,
    },
    /// The sites' counts were added up.
    Prepared {
        /// Digest of the preparation that every later plan names.
        preparation: Digest,
        /// BLAKE3 of the exact sum (little-endian i64, in the order of the update).
        sum: Digest,
    },
    /// Nothing came of it; the next round starts from the same base.
    Abandoned {
        /// In a sentence.
        reason: String,
    },
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Committed { version, .. } => write!(f, "committed {version}"),
            Self::Evaluated { .. } => f.write_str("evaluated"),
            Self::Prepared { .. } => f.write_str("prepared"),
            Self::Abandoned { reason } => write!(f, "abandoned: {reason}"),
        }
    }
}

/// One invited site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Counted or not.
    pub status: Status,
    /// Digest of the update that was receipted, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<Digest>,
}

/// Whether a site counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// Its update is in the sum.
    Counted {
        /// n_i; only in inspectable mode.
        weight: Option<u64>,
    },
    /// It is not.
    Excluded {
        /// Why.
        code: Code,
    },
}

impl RollCall {
    /// The bytes to sign.
    ///
    /// # Errors
    /// A value that JSON cannot hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }

    /// Whether this site's update is in the sum.
    #[must_use]
    pub fn counted(&self, site: &SiteId) -> bool {
        self.sites.get(site).is_some_and(|entry| matches!(entry.status, Status::Counted { .. }))
    }
}

impl Document for RollCall {
    const DOMAIN: &'static str = "consilium/roll-call/1";
    type Error = serde_json::Error;
    fn parse(bytes: &[u8]) -> Result<Self, Self::Error> {
        serde_json::from_slice(bytes)
    }
}
