//! A case: a study and the records of its sites, two TOML files below `tests/studies/NAME`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use consilium_common::config;
use consilium_common::study::Study;
use serde::Deserialize;

/// `sites.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sites {
    /// Each is a run of the study.
    pub(crate) seeds: Vec<u64>,
    /// What the federation must reach, in the study's metric.
    pub(crate) required: f64,
    /// What it should reach.
    pub(crate) goal: f64,
    /// What the share of records told apart must reach, where the metric is another.
    pub(crate) accuracy: Option<f64>,
    /// A `[data.STUDY]` section; `{data}` and `{only}` are filled in.
    source: String,
    /// Site → its `{only}`.
    pub(crate) sites: BTreeMap<String, String>,
}

/// One case.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) sites: Sites,
    draft: toml::Table,
    data: PathBuf,
}

impl Case {
    /// Every case of `folder`, by name; one of them if `only` names it.
    pub(crate) fn all(folder: &Path, data: &Path, only: Option<&str>) -> anyhow::Result<Vec<Self>> {
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
        let draft = config::parse(&text("study.toml")?, "study.toml")?;
        Ok(Self { sites, draft, data: data.to_owned(), name })
    }

    /// The name of the study with this seed.
    pub(crate) fn study_name(&self, seed: u64) -> String {
        format!("{}-{seed}", self.name)
    }

    /// The draft with this seed, as text.
    pub(crate) fn draft(&self, seed: u64) -> anyhow::Result<String> {
        let mut draft = self.draft.clone();
        let header = draft.get_mut("study").and_then(toml::Value::as_table_mut);
        let header = header.context("study.toml has no [study]")?;
        header.insert("name".to_owned(), self.study_name(seed).into());
        header.insert("seed".to_owned(), i64::try_from(seed)?.into());
        Ok(toml::to_string(&draft)?)
    }

    /// The same, read.
    pub(crate) fn study(&self, seed: u64) -> anyhow::Result<Study> {
        Ok(Study::read(&self.draft(seed)?, &self.name)?)
    }

    /// The section of a site, or of all records with an empty `only`.
    pub(crate) fn section(&self, only: &str) -> String {
        let data = self.data.display().to_string();
        self.sites.source.replace("{data}", &data).replace("{only}", only)
    }
}
