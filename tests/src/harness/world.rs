//! A federation in a folder of its own, and waiting for what it does.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_certs::consortium::Consortium;
use consilium_common::config;
use consilium_common::ids::SiteId;
use consilium_common::signed::PublicKey;
use consilium_common::tensor::file::from_safetensors;
use consilium_common::worker::Source;
use consilium_coordinator::document::StatusDocument;
use consilium_coordinator::local::{Federation, Policy, Process, SiteSpec};
use tempfile::TempDir;

use super::reference::{self, Reference};
use super::{Daemon, Draft, History, Hostile, Said, consilium, programs, wait_for};

/// Names of the sites; the first is the one that gets killed.
const NAMES: [&str; 4] = ["charite", "mayo", "karolinska", "tokyo"];
/// Lines of each log that a failed test shows.
const LINES_SHOWN: usize = 25;

/// A federation whose files go with the test, unless it fails.
#[derive(Debug)]
pub struct World {
    /// Its processes and commands.
    pub federation: Federation,
    folder: Option<TempDir>,
    log_key: PublicKey,
}

impl World {
    /// Four synthetic sites of different sizes, each with data for every one of `studies`, that
    /// accept studies within their policy. Nothing runs yet.
    #[must_use]
    pub fn new(studies: &[&str]) -> Self {
        Self::with(NAMES.len(), studies, Policy::Within)
    }

    /// So many sites under a policy.
    #[must_use]
    pub fn with(sites: usize, studies: &[&str], policy: Policy) -> Self {
        let site = |index: usize| {
            let section = section(index, sites);
            let data = studies.iter().map(|study| ((*study).to_owned(), section.clone()));
            SiteSpec { name: name(index), data: data.collect() }
        };
        Self::of((0..sites).map(site).collect(), policy)
    }

    /// These sites under a policy.
    #[must_use]
    pub fn of(sites: Vec<SiteSpec>, policy: Policy) -> Self {
        let folder = TempDir::with_prefix("consilium-e2e-").unwrap();
        let root = folder.path().join("consortium");
        let federation = Federation::create(&root, programs(), sites, policy).unwrap();
        let facts = root.join("ca/issued/coordinator/consortium.toml");
        let log_key = Consortium::load(&facts).unwrap().coordinator_log_key;
        Self { federation, folder: Some(folder), log_key }
    }

    /// Everything runs.
    #[must_use]
    pub fn started(mut self) -> Self {
        self.federation.start().unwrap();
        self
    }

    /// Starts one daemon with variables of its own.
    ///
    /// # Errors
    /// It went before it was ready.
    pub fn start(
        &mut self,
        daemon: Daemon,
        environment: &[(&str, OsString)],
    ) -> Result<(), consilium_coordinator::local::LocalError> {
        let own = environment.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        self.federation.set_environment(own.collect());
        let started = match daemon {
            Daemon::Coordinator => self.federation.start_coordinator(),
            Daemon::Agent(site) => self.federation.start_agent(site),
        };
        self.federation.set_environment(Vec::new());
        started
    }

    /// A running daemon.
    pub fn process(&mut self, daemon: Daemon) -> &mut Process {
        let process = match daemon {
            Daemon::Coordinator => self.federation.coordinator(),
            Daemon::Agent(site) => self.federation.agent(site),
        };
        process.unwrap_or_else(|| panic!("{daemon:?} was not started"))
    }

    /// Signs, submits and starts a study.
    pub fn run(&self, draft: &Draft) {
        self.federation.run_study(draft.name, &draft.text()).unwrap();
    }

    /// What the log says.
    #[must_use]
    pub fn history(&self) -> History {
        History::read(&self.federation.coordinator_state(), self.log_key)
    }

    /// Waits for something to stand in the log.
    pub fn wait<T>(&self, what: &str, seconds: u64, look: impl Fn(&History) -> Option<T>) -> T {
        wait_for(what, seconds, || look(&self.history()))
    }

    /// Waits until a study is complete; its history.
    pub fn complete(&self, study: &str, seconds: u64) -> History {
        self.wait(&format!("{study} to be complete"), seconds, |history| {
            history.is_complete(study).then_some(())
        });
        self.history()
    }

    /// Waits until a study has so many versions.
    pub fn reaches(&self, study: &str, version: u64, seconds: u64) {
        self.wait(&format!("v{version} of {study}"), seconds, |history| {
            (history.version(study) >= version).then_some(())
        });
    }

    /// `status --json` of the coordinator.
    #[must_use]
    pub fn status(&self) -> StatusDocument {
        self.federation.operator_json(&["status"]).unwrap()
    }

    /// The sites' data, by name.
    #[must_use]
    pub fn sections(&self) -> BTreeMap<SiteId, String> {
        let first = |site: &SiteSpec| (site.name.clone(), site.data[0].1.clone());
        self.federation.sites().iter().map(first).collect()
    }

    /// Holds every version of the study against the reference; the last version's vector.
    #[must_use]
    pub fn assert_reference(&self, draft: &Draft, history: &History) -> Vec<f32> {
        let mut reference = Reference::new(draft.study(), &self.sections());
        reference.follow(&history.of(draft.name));
        reference.vector().to_vec()
    }

    /// The newest version, by way of `model export`.
    #[must_use]
    pub fn export(&self, draft: &Draft) -> Vec<f32> {
        let file = self.root().join(format!("{}.safetensors", draft.name));
        let words = ["model", "export", draft.name, "--out"].map(OsString::from);
        self.federation.operator(words, Some(&file)).unwrap();
        let bytes = fs::read(&file).unwrap();
        from_safetensors(&bytes, &draft.study().layout().unwrap()).unwrap()
    }

    /// A site that has an identity and is no agent; it could train honestly, in a study without local
    /// state.
    #[must_use]
    pub fn hostile(&self, site: usize, draft: &Draft) -> Hostile {
        assert_eq!(draft.local, 0, "a hostile site keeps no state");
        let (id, study) = (name(site), draft.study());
        let bundle = self.root().join("ca/issued/site").join(id.as_str());
        let mut hostile = Hostile::new(self.federation.address(), &bundle, study.clone());
        let source: Source = config::parse(&self.sections()[&id], "data").unwrap();
        hostile.train = Arc::new(move |plan, base| {
            let zero = vec![0.0; base.len()];
            let start = reference::Start {
                base: &base,
                version: plan.base_version.next(),
                counted: 0,
                common: zero.clone(),
                own: zero,
            };
            let units = start.deliver(&study, &source, plan.round, &id).units;
            (units, reference::weight(&source))
        });
        hostile
    }

    /// The folder of everything.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.federation.root()
    }

    /// A site's agent.toml.
    #[must_use]
    pub fn agent_toml(&self, site: usize) -> PathBuf {
        self.federation.site_folder(site).join("agent.toml")
    }

    /// Rewrites a text file of the federation.
    pub fn edit(&self, path: &Path, change: impl FnOnce(&str) -> String) {
        let text = fs::read_to_string(path).unwrap();
        let changed = change(&text);
        assert_ne!(text, changed, "the edit of {} found nothing to change", path.display());
        fs::write(path, changed).unwrap();
    }

    /// Sends a site to another address than the coordinator's own.
    pub fn route(&self, site: usize, address: SocketAddr) {
        let (own, through) = (self.federation.address(), address.to_string());
        self.edit(&self.agent_toml(site), |text| text.replace(own, &through));
    }

    /// An operator's command, to its end whatever that is.
    #[must_use]
    pub fn operator(&self, words: &[&str]) -> Said {
        let identity = self.root().join("ca/issued/operator/ada");
        let mut arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
        arguments.extend(["--coordinator".into(), self.federation.address().into()]);
        arguments.extend(["--identity".into(), identity.into()]);
        consilium(self.federation.programs(), &arguments)
    }

    /// What a daemon has written so far.
    #[must_use]
    pub fn log_of(&self, name: &str) -> String {
        let path = self.root().join("logs").join(format!("{name}.log"));
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Ends everything in good order.
    pub fn stop(mut self) {
        self.federation.stop().unwrap();
    }
}

impl Drop for World {
    /// A failed test shows the ends of the logs and keeps its files.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        if let Some(folder) = self.folder.take() {
            eprintln!("the files of this federation stay in {}", folder.keep().display());
        }
        let logs = fs::read_dir(self.root().join("logs")).into_iter().flatten();
        for path in logs.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.extension().is_some_and(|extension| extension == "log") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let end = &lines[lines.len().saturating_sub(LINES_SHOWN)..];
                eprintln!("--- end of {}\n{}", path.display(), end.join("\n"));
            }
        }
    }
}

/// The name of a site.
#[must_use]
pub fn name(index: usize) -> SiteId {
    let known = NAMES.get(index).map(|name| (*name).to_owned());
    known.unwrap_or_else(|| format!("clinic-{}", index + 1)).parse().unwrap()
}

/// The `[data]` section of a site: sizes and optima differ.
#[must_use]
pub fn section(index: usize, sites: usize) -> String {
    let examples = 100 + 30 * index;
    format!(
        "source = \"synthetic\"\nexamples = {examples}\n\
         part = {{ of = {sites}, index = {index}, split = \"iid\", seed = 1 }}\n"
    )
}
