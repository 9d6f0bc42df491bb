//! agent.toml: who this site is, which local records serve which study, and the site's own rules.
//! Pure: text and environment come in as arguments, and paths are not looked at.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use consilium_common::config::{self, ConfigError};
use consilium_common::ids::{SiteId, StudyId};
use consilium_common::limits::STUDIES_MAX;
use consilium_common::worker::source::OwnTest;
use consilium_common::worker::{Holdout, Source, SourceKind};
use serde::{Deserialize, Serialize};

use crate::policy::{Policy, PolicyError};

/// Threads of the tensor library at most; beyond this training only gets slower.
const THREADS_MAX: u32 = 1024;

/// agent.toml.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// `[site]`
    pub site: SiteConfig,
    /// `[data.NAME]`: which local records serve the study NAME. Paths never leave the site.
    #[serde(default)]
    pub data: BTreeMap<StudyId, Source>,
    /// `[policy]`; without it every study is refused.
    #[serde(default)]
    pub policy: Option<Policy>,
}

/// `[site]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SiteConfig {
    /// The site's name, as in its certificate.
    pub name: SiteId,
    /// Where the coordinator listens.
    pub coordinator: Endpoint,
    /// Folder of everything that must survive a restart.
    pub state: PathBuf,
    /// Folder of the keys and certificate that `enroll` made; `STATE/identity` if not given.
    #[serde(default)]
    certificates: Option<PathBuf>,
    /// The worker's program; `consilium-worker` beside the agent's own if not given.
    #[serde(default)]
    pub worker: Option<PathBuf>,
    /// Where workers compute: `auto`, `cpu` or `cuda:N`.
    #[serde(default = "auto")]
    pub device: String,
    /// Threads of the tensor library. More threads than free cores make training slower.
    #[serde(default = "one")]
    pub threads: u32,
}

impl SiteConfig {
    /// Folder of the site's certificate, keys and pinned keys.
    #[must_use]
    pub fn certificates(&self) -> PathBuf {
        self.certificates.clone().unwrap_or_else(|| self.state.join("identity"))
    }
}

fn auto() -> String {
    "auto".to_owned()
}

fn one() -> u32 {
    1
}

/// A host name or address with a port, such as `fl.consortium.example:4433` or `[::1]:4433`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// Name or address, without brackets.
    pub host: String,
    /// UDP port.
    pub port: u16,
}

impl FromStr for Endpoint {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || {
            format!("{text:?} is not an endpoint: write host:port, such as \"fl.example.org:4433\"")
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(refuse)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(refuse)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let valid = match bare {
            Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.chars().all(plain),
        };
        if !valid {
            return Err(refuse());
        }
        let host = bare.unwrap_or(host).to_owned();
        Ok(Self { host, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl TryFrom<String> for Endpoint {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

/// Why the daemon does not start with this agent.toml.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AgentConfigError {
    /// Not the TOML of an agent.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A policy that cannot be kept.
    #[error("{origin}: {error}")]
    Policy {
        /// The file.
        origin: String,
        /// What is wrong with it.
        error: PolicyError,
    },
    /// A value that makes no sense.
    #[error("{origin}: `{field}` is {have}: {need}")]
    Range {
        /// The file.
        origin: String,
        /// Section and field.
        field: String,
        /// What was given.
        have: String,
        /// What is accepted.
        need: &'static str,
    },
}

impl AgentConfig {
    /// Reads agent.toml. Relative paths are taken from `folder`, that of the file. Variables
    /// `CONSILIUM_SECTION__KEY` of `environment` go over the file.
    ///
    /// # Errors
    /// Unknown, missing or senseless values, and a policy that cannot be kept; `origin` names the
    /// file.
    pub fn read(
        text: &str,
        origin: &str,
        folder: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, AgentConfigError> {
        let mut config: Self = config::parse_with_environment(text, origin, environment)?;
        config.check(origin)?;
        config.anchor(folder);
        Ok(config)
    }

    fn check(&self, origin: &str) -> Result<(), AgentConfigError> {
        if let Some(policy) = &self.policy {
            let origin = origin.to_owned();
            let named = |error| AgentConfigError::Policy { origin, error };
            policy.check().map_err(named)?;
        }
        self.out_of_range().map_or(Ok(()), |(field, have, need)| {
            let origin = origin.to_owned();
            Err(AgentConfigError::Range { origin, field, have, need })
        })
    }

    /// The first value that makes no sense: field, value, what is accepted.
    fn out_of_range(&self) -> Option<(String, String, &'static str)> {
        let site = &self.site;
        let cuda = |device: &str| device.strip_prefix("cuda:").map(str::parse::<u32>);
        if !matches!(site.device.as_str(), "auto" | "cpu")
            && !matches!(cuda(&site.device), Some(Ok(_)))
        {
            let have = format!("{:?}", site.device);
            return Some(("site.device".into(), have, "write \"auto\", \"cpu\" or \"cuda:0\""));
        }
        if !(1..=THREADS_MAX).contains(&site.threads) {
            let have = site.threads.to_string();
            return Some(("site.threads".into(), have, "1 to 1024 is accepted"));
        }
        if self.data.len() > STUDIES_MAX {
            let have = format!("{} sections", self.data.len());
            return Some(("data".into(), have, "at most 64 are read"));
        }
        self.data.iter().find_map(|(study, source)| {
            let (field, have, need) = senseless(source)?;
            Some((format!("data.{study}.{field}"), have, need))
        })
    }

    /// Takes relative paths from the folder of the file.
    fn anchor(&mut self, folder: &Path) {
        let site = &mut self.site;
        let paths = std::iter::once(&mut site.state)
            .chain(&mut site.certificates)
            .chain(&mut site.worker)
            .chain(self.data.values_mut().flat_map(|source| {
                let tables = source.test_path.iter_mut().chain(&mut source.labels);
                let tables = tables.chain(&mut source.exclude);
                std::iter::once(&mut source.path).chain(tables)
            }))
            .chain(self.policy.iter_mut().flat_map(|policy| &mut policy.operators));
        for path in paths {
            if !path.as_os_str().is_empty() {
                *path = folder.join(&*path);
            }
        }
    }
}

/// What is wrong with a source: field, value, what is accepted.
fn senseless(source: &Source) -> Option<(&'static str, String, &'static str)> {
    if let Holdout::Fraction(fraction) = source.holdout
        && !(0.0..1.0).contains(&fraction)
    {
        let need = "a fraction from 0 to below 1, \"test\" or \"val\"";
        return Some(("holdout", fraction.to_string(), need));
    }
    if let Some(share) = source.validation
        && !(share > 0.0 && share < 1.0)
    {
        return Some(("validation", share.to_string(), "a share above 0 and below 1"));
    }
    if let Holdout::Every(every) = &source.holdout
        && every.every < 2
    {
        return Some(("holdout.every", every.every.to_string(), "2 or more is accepted"));
    }
    if !matches!(source.format.decimal, '.' | ',') {
        let have = format!("{:?}", source.format.decimal);
        return Some(("format.decimal", have, "write \".\" or \",\""));
    }
    if let Some(part) = &source.part
        && part.index >= part.of
    {
        let have = format!("{} of {}", part.index, part.of);
        return Some(("part", have, "`index` counts from 0 and stays below `of`"));
    }
    if let Some(told) = senseless_of_patients(source) {
        return Some(told);
    }
    if source.on_change.is_some() && source.source == SourceKind::Synthetic {
        let need = "a synthetic source has no files that could change";
        return Some(("on_change", "given".to_owned(), need));
    }
    let tells_test = source.test_path.is_some();
    let may_be_listed = matches!(source.source, SourceKind::Text | SourceKind::ImageFolder);
    if source.labels.is_some() && !may_be_listed {
        let need = "it names the table of labels of a text or image-folder source";
        return Some(("labels", "given".to_owned(), need));
    }
    let is_table =
        matches!(source.source, SourceKind::Csv | SourceKind::Tsv) || source.labels.is_some();
    let needs_test = is_table && source.holdout == Holdout::Own(OwnTest::Test);
    if tells_test != needs_test {
        let have = if tells_test { "given" } else { "missing" };
        let need = "it names the test file of a csv or tsv source, or the test labels of a text or \
                    image-folder source with `labels`, with `holdout = \"test\"`";
        return Some(("test_path", have.to_owned(), need));
    }
    let named = !source.path.as_os_str().is_empty();
    match source.source {
        SourceKind::Idx | SourceKind::ImageFolder | SourceKind::Text if !named => {
            Some(("path", "missing".into(), "name the folder of the files"))
        }
        SourceKind::Npz | SourceKind::Csv | SourceKind::Tsv if !named => {
            Some(("path", "missing".into(), "name the file"))
        }
        SourceKind::Idx
        | SourceKind::ImageFolder
        | SourceKind::Npz
        | SourceKind::Csv
        | SourceKind::Tsv
        | SourceKind::Text
        | SourceKind::Synthetic => None,
    }
}

/// What is wrong with what is said of patients.
fn senseless_of_patients(source: &Source) -> Option<(&'static str, String, &'static str)> {
    let nameless = matches!(source.source, SourceKind::Synthetic | SourceKind::Idx);
    if source.exclude.is_some() && nameless {
        let need =
            "records of this source do not say whose they are: nobody can be excluded from it";
        return Some(("exclude", "given".to_owned(), need));
    }
    if source.patient.is_some() && nameless {
        let need =
            "records of this source never say whose they are: pictures need a table of `labels`";
        return Some(("patient", "given".to_owned(), need));
    }
    None
}

#[cfg(test)]
mod tests;
