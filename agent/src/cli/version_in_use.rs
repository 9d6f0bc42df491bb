//! A version of a study and what it needs to be used here: the model's file, the preparation, the
//! site's local state, a device. For `evaluate` and `predict`, which need no daemon and no coordinator.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use consilium_common::ids::{Digest, Round, SiteId, StudyId};
use consilium_common::limits::SAFETENSORS_HEAD_BYTES_MAX;
use consilium_common::study::preparation::PREPARATION_BYTES_MAX;
use consilium_common::study::{Preparation, Study};
use consilium_common::tensor::file::from_safetensors;
use consilium_common::tensor::flat::encode_model;
use consilium_common::tensor::layout::Layout;
use consilium_common::worker::{Outcome, Source, Work};

use super::progress::Bar;
use super::workbench::{Job, Workbench, programs, read_study};
use super::{CONFIG_DEFAULT, Common, Failure};
use crate::config::AgentConfig;
use crate::state::{StateError, local, look_at_local, look_at_studies, look_for_preparation};
use crate::update::task_seed;
use crate::worker::TaskFolder;

/// Options of `evaluate` and `predict`.
#[derive(Debug, Args)]
#[group(id = "version-in-use")]
pub(super) struct Options {
    /// The study: its file, draft or signed, or the name of one that was offered to this site
    #[arg(long, value_name = "STUDY")]
    study: PathBuf,
    /// The version, as `consilium model export` or `train --local --out` writes it
    #[arg(long, value_name = "MODEL.safetensors")]
    model: PathBuf,
    /// What the sites counted together, where the study has that; without it what this site's rounds
    /// used
    #[arg(long, value_name = "FILE")]
    preparation: Option<PathBuf>,
    /// `auto`, `cpu` or `cuda:N`; by default as agent.toml says
    #[arg(long)]
    device: Option<String>,
    /// Threads of the tensor library; by default as agent.toml says
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// The worker's program; by default as agent.toml says, or the one beside this one
    #[arg(long, value_name = "PROGRAM")]
    worker: Option<PathBuf>,
}

/// What is used.
#[derive(Debug)]
pub(super) struct InUse {
    pub(super) study: Study,
    pub(super) layout: Layout,
    pub(super) vector: Vec<f32>,
    pub(super) preparation: Option<Vec<u8>>,
    pub(super) local: Local,
    pub(super) bench: Workbench,
}

/// The site's local state, as far as the family has one.
#[derive(Debug)]
pub(super) enum Local {
    /// The family keeps nothing at the site.
    NotOfFamily,
    /// A copy of it.
    Copied(PathBuf),
    /// Why there is none, in a sentence.
    Missing(String),
}

impl Local {
    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Copied(path) => Some(path),
            Self::NotOfFamily | Self::Missing(_) => None,
        }
    }

    /// What a person should know.
    pub(super) fn note(&self) -> Option<&str> {
        match self {
            Self::Missing(why) => Some(why),
            Self::NotOfFamily | Self::Copied(_) => None,
        }
    }
}

impl InUse {
    /// Has a worker do `work` with it; what it said, and what it left.
    pub(super) async fn run(
        &self,
        work: Work,
        source: &Source,
    ) -> Result<(Outcome, TaskFolder), Failure> {
        let site: SiteId = "local".parse().map_err(Failure::failed)?;
        let bar = Bar::new(self.study.id().to_string());
        // What the rounds did not look at is what is asked for here.
        let source = &Source { validation: None, ..source.clone() };
        let job = Job {
            work,
            study: &self.study,
            source,
            seed: task_seed(self.study.header.seed, Round(0), &site),
            round: 0,
            base: Some(&self.vector),
            local: self.local.path(),
            preparation: self.preparation.as_deref(),
            key: None,
        };
        self.bench.run(job, &mut |moved| bar.moved(&moved)).await.map_err(Failure::failed)
    }

    /// Digest of the model, as the coordinator names it.
    pub(super) fn digest(&self) -> Digest {
        Digest::of(&encode_model(&self.layout, &self.vector))
    }
}

impl Options {
    /// Reads and checks everything. `config` may be absent: then nothing is known of this site.
    pub(super) fn open(&self, config: Option<&AgentConfig>) -> Result<InUse, Failure> {
        let study = find_study(&self.study, config)?;
        let layout = study.layout().map_err(Failure::failed)?;
        let vector = read_model(&self.model, &study, &layout)?;
        let preparation = self.preparation(&study, config)?;
        let site = config.map(|config| &config.site);
        let worker = self.worker.clone().or_else(|| site.and_then(|site| site.worker.clone()));
        let device = self.device.clone().or_else(|| site.map(|site| site.device.clone()));
        let threads = self.threads.or_else(|| site.map(|site| site.threads));
        let device = device.unwrap_or_else(|| "auto".to_owned());
        let bench = Workbench::new(programs(worker)?, device, threads.unwrap_or(1))?;
        let local = local_state(&study, config, &bench)?;
        Ok(InUse { study, layout, vector, preparation, local, bench })
    }

    fn preparation(
        &self,
        study: &Study,
        config: Option<&AgentConfig>,
    ) -> Result<Option<Vec<u8>>, Failure> {
        if let Some(path) = &self.preparation {
            let what = format!("preparation of {}", study.id());
            let bytes = read_bounded(path, PREPARATION_BYTES_MAX, &what)?;
            let told = |error| Failure::Usage(format!("{}: {error}", path.display()));
            Preparation::read(&bytes, study).map_err(told)?;
            return Ok(Some(bytes));
        }
        if study.preparation_len().is_none() {
            return Ok(None);
        }
        let state = config.map(|config| config.site.state.as_path());
        let found = state.map(|state| look_for_preparation(state, study)).transpose();
        found.map_err(Failure::failed)?.flatten().map(Some).ok_or_else(|| {
            Failure::Usage(format!(
                "study {} works with what its sites counted together, and this site's rounds have \
                 left none of it here: give the file with --preparation",
                study.id()
            ))
        })
    }
}

fn local_state(
    study: &Study,
    config: Option<&AgentConfig>,
    bench: &Workbench,
) -> Result<Local, Failure> {
    if !study.model.keeps_local_state() && study.training.local.is_empty() {
        return Ok(Local::NotOfFamily);
    }
    let missing = |why: &str| Ok(Local::Missing(format!("{why} of study {}", study.id())));
    let Some(config) = config else {
        return missing("without agent.toml there is no local state");
    };
    let spec = study.to_text().and_then(|text| Study::spec_digest(text.as_bytes()));
    let spec = spec.map_err(Failure::failed)?;
    let to = bench.local_copy();
    // The daemon may put the next one in its place between the look and the copy: once.
    for attempt in 0..2 {
        let found = look_at_local(&config.site.state, study.id()).map_err(Failure::failed)?;
        let Some((path, state)) = found.filter(|(_, state)| state.is_of_worker()) else {
            return missing("this site has no local state");
        };
        if state.spec != spec {
            return missing("this site's local state belongs to another [model] section");
        }
        match local::copy(&path, &state, &to) {
            Ok(()) => return Ok(Local::Copied(to)),
            Err(StateError::Damaged { .. }) if attempt == 0 => {}
            Err(error) => return Err(Failure::failed(error)),
        }
    }
    missing("the daemon is changing this site's local state")
}

/// Reads a version's file. Memory follows the study's layout, not the file.
fn read_model(path: &Path, study: &Study, layout: &Layout) -> Result<Vec<f32>, Failure> {
    let bytes_max = 4 * layout.len() as u64 + SAFETENSORS_HEAD_BYTES_MAX as u64;
    let bytes = read_bounded(path, bytes_max, &format!("model of {}", study.id()))?;
    from_safetensors(&bytes, layout).map_err(|error| {
        let place = path.display();
        Failure::Usage(format!("{place} is no version of this study: {error}"))
    })
}

/// A file, or else a study that was offered to this site.
pub(super) fn find_study(study: &Path, config: Option<&AgentConfig>) -> Result<Study, Failure> {
    let name = study.to_str().and_then(|name| name.parse::<StudyId>().ok());
    let (Some(name), Some(config), false) = (name, config, study.exists()) else {
        return read_study(study);
    };
    let known = look_at_studies(&config.site.state).map_err(Failure::failed)?;
    let newest = known
        .iter()
        .filter(|kept| *kept.study.id() == name)
        .max_by_key(|kept| kept.study.header.version);
    newest.map(|kept| Study::clone(&kept.study)).ok_or_else(|| {
        Failure::Usage(format!(
            "--study {name}: there is no such file, and no study of this name was offered here"
        ))
    })
}

/// Reads a file that is `what`, which has at most `bytes_max` bytes.
fn read_bounded(path: &Path, bytes_max: u64, what: &str) -> Result<Vec<u8>, Failure> {
    let told = |error: &dyn std::fmt::Display| {
        Failure::Usage(format!("{} cannot be read: {error}", path.display()))
    };
    let file = File::open(path).map_err(|error| told(&error))?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(|error| told(&error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(Failure::Usage(format!(
            "{} is no {what} (it is larger than one can be): is it of another study?",
            path.display()
        )));
    }
    Ok(bytes)
}

impl Common {
    /// agent.toml, or nothing where none was named and none lies in its usual place.
    pub(super) fn load_if_there(&self) -> Result<Option<AgentConfig>, Failure> {
        if self.config == Path::new(CONFIG_DEFAULT) && !self.config.exists() {
            return Ok(None);
        }
        self.load().map(Some)
    }
}
