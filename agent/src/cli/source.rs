//! Which records: a section of agent.toml by name, or options that say the same.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use consilium_common::ids::StudyId;
use consilium_common::worker::source::{OfUser, OwnTest};
use consilium_common::worker::{Holdout, Part, Source, SourceKind, Split};

use super::{Common, Failure};

/// `--data NAME` or nothing, or `--source KIND --path PATH …`.
#[derive(Debug, Args)]
#[group(id = "records")]
pub(super) struct Options {
    /// The records of [data.NAME] in agent.toml; without it those of the study's own name
    #[arg(long, value_name = "NAME", conflicts_with = "source")]
    data: Option<StudyId>,
    /// Kind of files, where agent.toml is not asked
    #[arg(long, value_enum)]
    source: Option<Kind>,
    /// File or folder with the records
    #[arg(long, requires = "source")]
    path: Option<PathBuf>,
    /// A table with the columns `file` and label, for `--source text` and `--source image-folder`
    #[arg(long, value_name = "FILE", requires = "source")]
    labels: Option<PathBuf>,
    /// Records kept for scoring, also instead of those that agent.toml says: `test` or `val` (the
    /// source's own files), `last` (of each user's ratings), or a fraction such as 0.2
    #[arg(long, value_parser = holdout)]
    holdout: Option<Holdout>,
    /// A table's file of records kept for scoring, with `--holdout test`
    #[arg(long, value_name = "FILE", requires = "holdout")]
    test_path: Option<PathBuf>,
    /// Take part INDEX of OF, counted from 0
    #[arg(long, requires = "source", value_name = "INDEX/OF", value_parser = part)]
    part: Option<(u32, u32)>,
    /// How records are dealt to parts: `iid` or `dirichlet:0.3`
    #[arg(long, requires = "part", default_value = "iid")]
    split: Split,
    /// Seed of the deal
    #[arg(long, requires = "part", default_value_t = 0)]
    part_seed: u64,
    /// Records that a synthetic source claims
    #[arg(long, requires = "source")]
    examples: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// A folder of IDX files, as MNIST comes in
    Idx,
    /// A table as text, its first line naming the columns; agent.toml can say more of it
    Csv,
    /// The same with tabs between fields
    Tsv,
    /// A .npz file: train_images, train_labels and so on, as MedMNIST comes in; or X and labels of series
    Npz,
    /// A folder of PNG and JPEG files with a sub-folder for each class, or with a table of labels
    ImageFolder,
    /// A folder of .txt files with a sub-folder for each class, or with a table of labels
    Text,
    /// No records: the synthetic trainer
    Synthetic,
}

fn holdout(text: &str) -> Result<Holdout, String> {
    match text {
        "test" => return Ok(Holdout::Own(OwnTest::Test)),
        "val" => return Ok(Holdout::Own(OwnTest::Val)),
        "last" => return Ok(Holdout::OfUser(OfUser::Last)),
        _ => {}
    }
    text.parse()
        .ok()
        .filter(|fraction| (0.0..1.0).contains(fraction))
        .map(Holdout::Fraction)
        .ok_or_else(|| "write `test`, `val`, `last`, or a fraction from 0 to below 1".to_owned())
}

fn part(text: &str) -> Result<(u32, u32), String> {
    text.split_once('/')
        .and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)))
        .filter(|(index, of)| index < of)
        .ok_or_else(|| "write INDEX/OF, such as 0/4 for the first of four parts".to_owned())
}

impl Options {
    /// The records that are meant for `study`.
    pub(super) fn resolve(&self, common: &Common, study: &StudyId) -> Result<Source, Failure> {
        if self.source.is_none() {
            let name = self.data.as_ref().unwrap_or(study);
            let config = common.load()?;
            let section = config.data.get(name).cloned().ok_or_else(|| {
                let file = common.config.display();
                Failure::Usage(format!("{file} has no [data.{name}]: add it, or use --source"))
            });
            return Ok(self.held_out(section?));
        }
        let part = self.part.map(|(index, of)| Part {
            of,
            index,
            split: self.split,
            seed: self.part_seed,
        });
        let source = match self.source {
            Some(Kind::Synthetic) => SourceKind::Synthetic,
            Some(Kind::Csv) => SourceKind::Csv,
            Some(Kind::Tsv) => SourceKind::Tsv,
            Some(Kind::Npz) => SourceKind::Npz,
            Some(Kind::ImageFolder) => SourceKind::ImageFolder,
            Some(Kind::Text) => SourceKind::Text,
            Some(Kind::Idx) | None => SourceKind::Idx,
        };
        if source != SourceKind::Synthetic && self.path.is_none() {
            return Err(Failure::Usage("--source needs --path, the file or folder".to_owned()));
        }
        let path = self.path.clone().unwrap_or_default();
        let may_be_listed = matches!(source, SourceKind::Text | SourceKind::ImageFolder);
        if self.labels.is_some() && !may_be_listed {
            let told = "--labels names the table of labels of --source text or image-folder";
            return Err(Failure::Usage(told.to_owned()));
        }
        let (labels, examples) = (self.labels.clone(), self.examples);
        let source = Source { part, labels, examples, ..Source::new(source, path) };
        Ok(self.held_out(source))
    }

    /// What the options say of the hold-out goes before what the section says.
    fn held_out(&self, source: Source) -> Source {
        let Some(holdout) = self.holdout.clone() else {
            return source;
        };
        let of_table = source.test_path.filter(|_| holdout == Holdout::Own(OwnTest::Test));
        Source { holdout, test_path: self.test_path.clone().or(of_table), ..source }
    }
}
