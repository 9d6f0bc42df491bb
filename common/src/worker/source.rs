//! Which local records serve a study: `[data.NAME]` of agent.toml, handed to the worker as it is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where records lie, and which of them are for training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Kind of files.
    pub source: SourceKind,
    /// File or folder; empty for `synthetic`.
    #[serde(default)]
    pub path: PathBuf,
    /// Records kept for scoring.
    #[serde(default)]
    pub holdout: Holdout,
    /// Take one part of the records, dealt without copies (tests and demonstrations).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// `synthetic` alone: how many records to claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples: Option<u64>,
}

/// Kind of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// A folder with train-images-idx3-ubyte, train-labels-idx1-ubyte and, for `holdout = "test"`,
    /// the two t10k files (for `"val"` those of that name); each plain or `.gz`.
    Idx,
    /// A .npz file with arrays train_images, train_labels and, for `holdout = "test"` or `"val"`,
    /// those with these words, as MedMNIST has them.
    Npz,
    /// A folder with a sub-folder for each class, named as the study names it, of PNG and JPEG files;
    /// they are brought to the study's size.
    ImageFolder,
    /// No files: the synthetic trainer.
    Synthetic,
}

/// Records kept for scoring: a fraction of the training files, or the source's own test or
/// validation files.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Holdout {
    /// This fraction of the records, chosen by seed; 0 to below 1.
    Fraction(f64),
    /// The source's own files of this name.
    Own(OwnTest),
}

impl Default for Holdout {
    fn default() -> Self {
        Self::Fraction(0.2)
    }
}

/// The word `test` or `val`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OwnTest {
    /// The source's own test files.
    Test,
    /// The source's own validation files.
    Val,
}

/// One of `of` disjoint parts of the records. Training and test files are dealt alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// How many parts.
    pub of: u32,
    /// Which one, from 0.
    pub index: u32,
    /// How records are dealt.
    pub split: Split,
    /// Seed of the deal; the same at every site.
    pub seed: u64,
}

/// How records are dealt to parts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Split {
    /// Shuffled, then dealt in equal shares.
    Iid,
    /// Shares of each class drawn from a symmetric Dirichlet distribution with this concentration
    /// (Hsu, Qi & Brown 2019). Small values make sites differ.
    Dirichlet(f64),
}

impl FromStr for Split {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "iid" {
            return Ok(Self::Iid);
        }
        text.strip_prefix("dirichlet:")
            .and_then(|alpha| alpha.parse().ok())
            .filter(|alpha: &f64| (0.01..=1e6).contains(alpha))
            .map(Self::Dirichlet)
            .ok_or_else(|| format!("split {text:?}: write \"iid\" or \"dirichlet:0.3\""))
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iid => f.write_str("iid"),
            Self::Dirichlet(alpha) => write!(f, "dirichlet:{alpha}"),
        }
    }
}

impl TryFrom<String> for Split {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Split> for String {
    fn from(split: Split) -> Self {
        split.to_string()
    }
}
