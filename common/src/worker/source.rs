//! Which local records serve a study: `[data.NAME]` of agent.toml, handed to the worker as it is.

use std::collections::BTreeMap;
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
    /// `csv`, `tsv` and a table of `labels`, with `holdout = "test"`: the table that is kept for scoring,
    /// written as the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_path: Option<PathBuf>,
    /// `text`, `image-folder`: a table with a row for each file: its `file`, by its path within `path`, its
    /// label, and what records are picked and held out by. Without it the sub-folders of `path` are the classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<PathBuf>,
    /// Records kept for scoring.
    #[serde(default)]
    pub holdout: Holdout,
    /// Leave the hold-out to `evaluate`: this share of the training records scores versions in its
    /// place, and is not trained on or counted; the same records in every task of a study. Above 0,
    /// below 1. Who chooses a version or a hyper-parameter by scores needs other records to judge it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<f64>,
    /// Take one part of the records, dealt without copies (tests and demonstrations).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<Part>,
    /// Take the records with this value alone: one department's, one hospital's of a shared file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<Where>,
    /// The study's name of a column → its name in the files, where that differs; files without a
    /// header have "1", "2", …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// The files' column that says whose a record is, where the study names none (`data.patient`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patient: Option<String>,
    /// Patients whose records are not read: a table with that column, or a list with an identifier on each
    /// line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude: Option<PathBuf>,
    /// What happens before a task if the files are not what a person approved (`data pin`); without it nobody
    /// looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_change: Option<OnChange>,
    /// How text files are written.
    #[serde(default, skip_serializing_if = "Format::is_default")]
    pub format: Format,
    /// `synthetic` alone: how many records to claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples: Option<u64>,
}

impl Source {
    /// Every record of `path`, one in five held out.
    #[must_use]
    pub fn new(source: SourceKind, path: PathBuf) -> Self {
        Self {
            source,
            path,
            test_path: None,
            labels: None,
            holdout: Holdout::default(),
            validation: None,
            part: None,
            only: None,
            columns: BTreeMap::new(),
            patient: None,
            exclude: None,
            on_change: None,
            format: Format::default(),
            examples: None,
        }
    }

    /// What the files call the study's column `name`.
    #[must_use]
    pub fn column<'a>(&'a self, name: &'a str) -> &'a str {
        self.columns.get(name).map_or(name, String::as_str)
    }
}

/// What a site does about data that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnChange {
    /// It takes no part until the data is approved again.
    Refuse,
    /// It goes on, and its log and ledger say so.
    Note,
}

/// Records whose `column` (named as in the files) holds exactly `equals`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Where {
    /// Column in the files.
    pub column: String,
    /// The text that it must hold.
    pub equals: String,
}

/// How text files are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Format {
    /// Characters as bytes.
    pub encoding: Encoding,
    /// Between fields; without it by the file's name and first line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<char>,
    /// In numbers: `.` or `,`.
    pub decimal: char,
    /// Whether the first line names the columns.
    pub header: bool,
    /// Between the labels of one record, where it may have several.
    pub label_separator: char,
    /// What stands for "not known", instead of the empty field, `NA`, `NaN`, `null` and `?`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<Vec<String>>,
}

impl Default for Format {
    fn default() -> Self {
        Self {
            encoding: Encoding::Auto,
            delimiter: None,
            decimal: '.',
            header: true,
            label_separator: '|',
            missing: None,
        }
    }
}

impl Format {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// How characters are written as bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// By byte order mark; else UTF-8 where the whole file is valid; else guessed between GB18030
    /// and Windows-1252, and refused where it looks like neither.
    #[default]
    Auto,
    /// With or without a byte order mark.
    #[serde(rename = "utf-8")]
    Utf8,
    /// With a byte order mark.
    #[serde(rename = "utf-16")]
    Utf16,
    /// Mainland China's, with GBK and GB2312 as its subsets.
    Gb18030,
    /// Western Europe's; Latin-1 is a subset but for control characters.
    #[serde(rename = "windows-1252")]
    Windows1252,
}

impl Encoding {
    /// Its name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Utf8 => "UTF-8",
            Self::Utf16 => "UTF-16",
            Self::Gb18030 => "GB18030",
            Self::Windows1252 => "Windows-1252",
        }
    }
}

/// Kind of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// A folder with train-images-idx3-ubyte, train-labels-idx1-ubyte and, for `holdout = "test"`,
    /// the two t10k files (for `"val"` those of that name); each plain or `.gz`.
    Idx,
    /// A table as text, plain or `.gz`; commas, semicolons or tabs between fields.
    Csv,
    /// A table as text with tabs between fields.
    Tsv,
    /// A .npz file. Of images: arrays train_images, train_labels and, for `holdout = "test"` or `"val"`,
    /// those with these words, as MedMNIST has them. Of series: an array X of records × steps ×
    /// variables, NaN for a gap, and arrays of integers with one number a record, named as the label,
    /// the patient and the columns of `only` and `holdout`; `columns` renames X too.
    Npz,
    /// A folder with a sub-folder for each class, named as the study names it, of PNG and JPEG files;
    /// they are brought to the study's size.
    ImageFolder,
    /// A folder of documents, a .txt file each: with a sub-folder for each class, named as the study (or
    /// its `label_codes`) names it, or with a table of `labels`.
    Text,
    /// No files: the synthetic trainer.
    Synthetic,
}

/// As files write it.
impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idx => "idx",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Npz => "npz",
            Self::ImageFolder => "image-folder",
            Self::Text => "text",
            Self::Synthetic => "synthetic",
        })
    }
}

/// Records kept for scoring.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a fraction such as 0.2, \"test\", { column = \"split\", equals = \"test\" }, \
                 { every = 5 } or, of ratings, \"last\""
)]
pub enum Holdout {
    /// This fraction of the records, chosen by seed; 0 to below 1.
    Fraction(f64),
    /// The source's own files of this name.
    Own(OwnTest),
    /// The records of a table with this value.
    Where(Where),
    /// Every so-manieth record of the file, the first one included.
    Every(Every),
    /// Of each user's ratings one.
    OfUser(OfUser),
}

/// `{ every = 5 }`: records 0, 5, 10, … of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Every {
    /// From 2.
    pub every: u32,
}

/// The word `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OfUser {
    /// The last by time; of equal times the last of the file. A user with a single one keeps it.
    Last,
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
    /// Shuffled, then dealt in equal shares; of ratings the users are.
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
