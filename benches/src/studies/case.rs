//! A case: a study and the records of its sites, two TOML files below `tests/studies/NAME`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use consilium_common::config;
use consilium_common::study::Study;
use consilium_common::study::sections::Metric;
use consilium_common::study::variants::{Axes, Variant};
use serde::Deserialize;
use toml::{Table, Value};

/// `sites.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sites {
    /// Each is a run of the study.
    pub seeds: Vec<u64>,
    /// What the federation must reach, by metric.
    pub required: BTreeMap<Metric, f64>,
    /// What it should reach.
    pub goal: BTreeMap<Metric, f64>,
    /// The sites' records are alike: then the federation's model should be worse at none of them than
    /// the site's own.
    #[serde(default)]
    pub alike: bool,
    /// What a training without a federation changes in the study: its own best learning rate.
    #[serde(default)]
    alone: Table,
    /// What `--tune` tries: an array of values for each field.
    #[serde(default)]
    tune: Table,
    /// A `[data.STUDY]` section; `{data}` and `{only}` are filled in.
    source: String,
    /// Stands in its place for `--tune`, where the data brings records for validation.
    #[serde(default)]
    validation_source: Option<String>,
    /// Site → its `{only}`.
    pub sites: BTreeMap<String, String>,
}

/// One case.
#[derive(Debug)]
pub struct Case {
    /// Of its folder.
    pub name: String,
    /// `sites.toml`.
    pub sites: Sites,
    study: Table,
    data: PathBuf,
}

/// A study to train on a case's records.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Of the study.
    pub name: String,
    /// TOML.
    pub text: String,
    /// The share of the training records that is scored in the hold-out's place, if one is.
    pub validation: Option<f64>,
}

impl Case {
    /// Every case of `folder`, by name; one of them if `only` names it.
    ///
    /// # Errors
    /// No such case, or files that are none.
    pub fn all(folder: &Path, data: &Path, only: Option<&str>) -> anyhow::Result<Vec<Self>> {
        let entries = folder.read_dir().with_context(|| format!("reading {}", folder.display()))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.path().join("sites.toml").is_file() {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort();
        if let Some(only) = only
            && !names.iter().any(|name| name == only)
        {
            bail!("no case is called `{only}`; there are: {}", names.join(", "));
        }
        let wanted = names.into_iter().filter(|name| only.is_none_or(|only| only == name));
        wanted.map(|name| Self::read(folder, data, name)).collect()
    }

    fn read(folder: &Path, data: &Path, name: String) -> anyhow::Result<Self> {
        let text = |file: &str| {
            let path = folder.join(&name).join(file);
            std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let sites = config::parse(&text("sites.toml")?, "sites.toml")?;
        let study = config::parse(&text("study.toml")?, "study.toml")?;
        Ok(Self { sites, study, data: data.to_owned(), name })
    }

    /// The study with this seed, as the sites train it together.
    ///
    /// # Errors
    /// A file that is no study.
    pub fn federated(&self, seed: u64) -> anyhow::Result<Draft> {
        self.draft(self.study.clone(), seed)
    }

    /// The same, as one process or one site trains it.
    ///
    /// # Errors
    /// A file that is no study.
    pub fn alone(&self, seed: u64) -> anyhow::Result<Draft> {
        self.with(seed, &self.sites.alone)
    }

    /// The study with other values; an empty table takes a section away.
    ///
    /// # Errors
    /// A file that is no study.
    pub fn with(&self, seed: u64, changes: &Table) -> anyhow::Result<Draft> {
        let mut study = self.study.clone();
        merge(&mut study, changes);
        self.draft(study, seed)
    }

    fn draft(&self, mut study: Table, seed: u64) -> anyhow::Result<Draft> {
        let name = format!("{}-{seed}", self.name);
        let header = study.get_mut("study").and_then(Value::as_table_mut);
        let header = header.context("study.toml has no [study]")?;
        header.insert("name".to_owned(), name.clone().into());
        header.insert("seed".to_owned(), i64::try_from(seed)?.into());
        Ok(Draft { name, text: toml::to_string(&study)?, validation: None })
    }

    /// What `--tune` tries; of it the learning rates alone unless `all`.
    ///
    /// # Errors
    /// A table of something else.
    pub fn axes(&self, all: bool) -> anyhow::Result<Axes> {
        let mut axes = Axes::default();
        axes.add_file(&toml::to_string(&self.sites.tune)?, "sites.toml: [tune]")?;
        if !all {
            axes.keep(|field| field == "training.learning_rate");
        }
        Ok(axes)
    }

    /// The section of a site, or of all records with an empty `only`.
    pub fn section(&self, only: &str, draft: &Draft) -> String {
        let data = self.data.display().to_string();
        let filled = |text: &str| text.replace("{data}", &data).replace("{only}", only);
        match (draft.validation, &self.sites.validation_source) {
            (None, _) => filled(&self.sites.source),
            (Some(_), Some(source)) => filled(source),
            (Some(share), None) => {
                format!("{}validation = {share:?}\n", filled(&self.sites.source))
            }
        }
    }
}

impl Draft {
    /// Every combination of `axes`, scored on `share` of the training records.
    ///
    /// # Errors
    /// A combination that is no study.
    pub fn variants(&self, axes: &Axes, share: f64) -> anyhow::Result<Vec<(Variant, Self)>> {
        let drafted = |variant: Variant| {
            let text = Study { initial: None, ..variant.study.clone() }.to_text()?;
            Ok((variant, Self { name: self.name.clone(), text, validation: Some(share) }))
        };
        axes.variants(&self.text, "study.toml")?.into_iter().map(drafted).collect()
    }

    /// The study, read.
    ///
    /// # Errors
    /// No study.
    pub fn study(&self) -> anyhow::Result<Study> {
        Ok(Study::read(&self.text, &self.name)?)
    }
}

/// Takes the values of `from`, table by table; an empty table takes what is there away.
fn merge(into: &mut Table, from: &Table) {
    for (name, value) in from {
        match (into.get_mut(name), value) {
            (_, Value::Table(from)) if from.is_empty() => drop(into.remove(name)),
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            _ => {
                into.insert(name.clone(), value.clone());
            }
        }
    }
}
