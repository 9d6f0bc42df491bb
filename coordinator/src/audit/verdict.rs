//! What an audit says: for each check how much was looked at, what is wrong and where, and what could not
//! be checked and why.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::FAULTS_TOLD_MAX;

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Its number, from 0.
    pub record: u64,
    /// Its first byte in the log's file.
    pub offset: u64,
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// The checkpoint is the consortium's and signed by the pinned log key.
    Checkpoint,
    /// Records are whole and as they were written.
    Frames,
    /// They are those that the checkpoint was signed over.
    Tree,
    /// Each record is readable and fits those before it.
    Order,
    /// Rosters are signed by enough of the operators.
    Rosters,
    /// Requests are signed by the site, approvals and revocations by an operator.
    Members,
    /// Studies are signed by enough of the operators.
    Studies,
    /// Rounds start from what is in force, with sites of the roster.
    Plans,
    /// Receipts are signed, by invited sites, one a round.
    Receipts,
    /// Roll calls are signed and say what plan and receipts say.
    RollCalls,
    /// Models are what their names say, and v0 is what the study says.
    Models,
    /// Rounds lead to the sums and versions that their roll calls name.
    Sums,
}

impl Check {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 12] = [
        Self::Checkpoint,
        Self::Frames,
        Self::Tree,
        Self::Order,
        Self::Rosters,
        Self::Members,
        Self::Studies,
        Self::Plans,
        Self::Receipts,
        Self::RollCalls,
        Self::Models,
        Self::Sums,
    ];

    /// What it is, for people.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint signed by the pinned log key",
            Self::Frames => "records whole, checksums right",
            Self::Tree => "records under the checkpoint's root",
            Self::Order => "records readable, each fits those before",
            Self::Rosters => "rosters signed by the operators needed",
            Self::Members => "requests, approvals, revocations signed",
            Self::Studies => "studies signed by the operators needed",
            Self::Plans => "plans: base, roster, rule of the cohort",
            Self::Receipts => "receipts signed, one a site and round",
            Self::RollCalls => "roll calls signed, as plan and receipts say",
            Self::Models => "models as their digests say",
            Self::Sums => "rounds recomputed from retained updates",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Checkpoint => "checkpoint",
            Self::Frames => "frames",
            Self::Tree => "tree",
            Self::Order => "order",
            Self::Rosters => "rosters",
            Self::Members => "members",
            Self::Studies => "studies",
            Self::Plans => "plans",
            Self::Receipts => "receipts",
            Self::RollCalls => "roll-calls",
            Self::Models => "models",
            Self::Sums => "sums",
        })
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// By which check.
    pub check: Check,
    /// Which record, counted from 0; none where it is no single one.
    pub record: Option<u64>,
    /// Its first byte in the log's file.
    pub offset: Option<u64>,
    /// In a sentence.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(record), Some(offset)) = (self.record, self.offset) {
            write!(f, "record {record} at byte {offset}: ")?;
        }
        write!(f, "{}: {}", self.check, self.what)
    }
}

/// What one check came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Count {
    /// Looked at and right.
    pub right: u64,
    /// Faults.
    pub wrong: u64,
    /// Not looked at: how many, by the reason.
    pub missing: BTreeMap<&'static str, u64>,
}

/// What an audit says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    counts: BTreeMap<Check, Count>,
    faults: Vec<Fault>,
}

impl Verdict {
    /// Something was looked at and is right.
    pub(super) fn right(&mut self, check: Check, many: u64) {
        self.counts.entry(check).or_default().right += many;
    }

    /// Something could not be looked at.
    pub(super) fn missing(&mut self, check: Check, why: &'static str) {
        *self.counts.entry(check).or_default().missing.entry(why).or_default() += 1;
    }

    /// Something is wrong.
    pub(super) fn fault(&mut self, check: Check, at: Option<At>, what: String) {
        self.counts.entry(check).or_default().wrong += 1;
        if self.faults.len() < FAULTS_TOLD_MAX {
            let (record, offset) = (at.map(|at| at.record), at.map(|at| at.offset));
            self.faults.push(Fault { check, record, offset, what });
        }
    }

    /// Nothing is wrong with what was looked at.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    /// The first [`FAULTS_TOLD_MAX`] faults.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// How many there are.
    #[must_use]
    pub fn faults_in_all(&self) -> u64 {
        self.counts.values().map(|count| count.wrong).sum()
    }

    /// What a check came to.
    #[must_use]
    pub fn count(&self, check: Check) -> Count {
        self.counts.get(&check).cloned().unwrap_or_default()
    }
}
