//! Folders, files and commands of a consortium on loopback.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use consilium_common::ids::SiteId;
use serde::de::DeserializeOwned;

use super::ports::ClaimedAddress;
use super::process::signal;
use super::{LocalError, Process, Programs, Starting};

/// One site of the federation.
#[derive(Debug, Clone)]
pub struct SiteSpec {
    /// Its name.
    pub name: SiteId,
    /// `[data.STUDY]` sections of its agent.toml: study and the section's lines.
    pub data: Vec<(String, String)>,
}

/// How the sites accept studies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// `accept = "within-policy"`.
    Within,
    /// `accept = "manual"`: a person accepts each study.
    Manual,
}

/// A consortium in one folder: `ca/`, `coordinator/`, `sites/NAME/`, `logs/`.
#[derive(Debug)]
pub struct Federation {
    root: PathBuf,
    programs: Programs,
    address: ClaimedAddress,
    sites: Vec<SiteSpec>,
    coordinator: Option<Process>,
    agents: Vec<Option<Process>>,
    environment: Vec<(String, OsString)>,
}

const OPERATOR: &str = "ada";

impl Federation {
    /// Lays the consortium out below `root`, which must be empty or absent. Nothing runs yet.
    ///
    /// # Errors
    /// A file cannot be written, or a `consilium ca` command fails.
    pub fn create(
        root: &Path,
        programs: Programs,
        sites: Vec<SiteSpec>,
        policy: Policy,
    ) -> Result<Self, LocalError> {
        let agents = sites.iter().map(|_| None).collect();
        let federation = Self {
            root: root.to_owned(),
            programs,
            address: ClaimedAddress::claim()?,
            sites,
            coordinator: None,
            agents,
            environment: Vec::new(),
        };
        federation.make_folder(&federation.logs())?;
        federation.issue_identities()?;
        federation.write_configurations(policy)?;
        Ok(federation)
    }

    /// Adds a variable to the environment of every daemon started from now on.
    pub fn set_environment(&mut self, variables: Vec<(String, OsString)>) {
        self.environment = variables;
    }

    /// The folder of everything.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The binaries it runs.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Where the coordinator listens.
    #[must_use]
    pub fn address(&self) -> &str {
        self.address.as_str()
    }

    /// The sites, in order.
    #[must_use]
    pub fn sites(&self) -> &[SiteSpec] {
        &self.sites
    }

    /// The operator's signing key.
    #[must_use]
    pub fn operator_key(&self) -> PathBuf {
        self.identity("operator", OPERATOR).join("operator.key")
    }

    /// The coordinator's state folder.
    #[must_use]
    pub fn coordinator_state(&self) -> PathBuf {
        self.root.join("coordinator/state")
    }

    /// A site's folder: agent.toml and state.
    #[must_use]
    pub fn site_folder(&self, site: usize) -> PathBuf {
        let name = self.sites.get(site).map_or("unknown", |site| site.name.as_str());
        self.root.join("sites").join(name)
    }

    fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    fn identity(&self, role: &str, name: &str) -> PathBuf {
        self.root.join("ca/issued").join(role).join(name)
    }

    fn make_folder(&self, path: &Path) -> Result<(), LocalError> {
        fs::create_dir_all(path).map_err(LocalError::file("cannot make", path))
    }

    fn issue_identities(&self) -> Result<(), LocalError> {
        let ca = self.root.join("ca").into_os_string();
        let init = ["ca".into(), "init".into(), ca.clone(), "--consortium".into(), "local".into()];
        self.consilium(init)?;
        let run = |words: &[&str]| {
            let mut arguments: Vec<OsString> = vec!["ca".into()];
            arguments.extend(words.iter().map(OsString::from));
            arguments.extend(["--ca".into(), ca.clone()]);
            self.consilium(arguments).map(drop)
        };
        run(&["issue", "operator", OPERATOR])?;
        run(&["issue", "coordinator", "--host", "127.0.0.1"])?;
        for site in &self.sites {
            run(&["issue", "site", site.name.as_str()])?;
        }
        let key = self.operator_key();
        run(&["roster", "sign", "--key", &key.to_string_lossy()])
    }

    fn write_configurations(&self, policy: Policy) -> Result<(), LocalError> {
        let coordinator = self.root.join("coordinator");
        self.make_folder(&coordinator)?;
        let text = format!(
            "[coordinator]\nlisten = {:?}\nstate = {:?}\ncertificates = {:?}\nroster = {:?}\n",
            self.address(),
            self.coordinator_state(),
            self.root.join("ca/issued/coordinator"),
            self.root.join("ca/roster.toml"),
        );
        write(&coordinator.join("consilium.toml"), &text)?;
        for index in 0..self.sites.len() {
            let folder = self.site_folder(index);
            self.make_folder(&folder)?;
            write(&folder.join("agent.toml"), &self.agent_toml(index, policy))?;
        }
        Ok(())
    }

    fn agent_toml(&self, index: usize, policy: Policy) -> String {
        let Some(site) = self.sites.get(index) else {
            return String::new();
        };
        let accept = match policy {
            Policy::Within => "within-policy",
            Policy::Manual => "manual",
        };
        let studies: Vec<&str> = site.data.iter().map(|(study, _)| study.as_str()).collect();
        let mut text = format!(
            "[site]\nname = {:?}\ncoordinator = {:?}\nstate = {:?}\ncertificates = {:?}\n\
             worker = {:?}\n\n[policy]\naccept = {accept:?}\nstudies = {studies:?}\n\
             modes = [\"inspectable\"]\noperators = [{:?}]\n",
            site.name.as_str(),
            self.address(),
            self.site_folder(index).join("state"),
            self.identity("site", site.name.as_str()),
            self.programs.worker,
            self.identity("operator", OPERATOR).join("operator.pub"),
        );
        for (study, section) in &site.data {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n[data.{study}]\n{section}\n");
        }
        text
    }

    /// Starts the coordinator and waits until it is ready.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn start_coordinator(&mut self) -> Result<(), LocalError> {
        let configuration = self.root.join("coordinator/consilium.toml");
        self.coordinator = Some(Process::start(Starting {
            name: "coordinator",
            program: &self.programs.consilium,
            arguments: vec!["serve".into(), "--config".into(), configuration.into()],
            environment: self.environment.clone(),
            folder: &self.logs(),
        })?);
        Ok(())
    }

    /// Starts one agent and waits until its daemon runs.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn start_agent(&mut self, site: usize) -> Result<(), LocalError> {
        let configuration = self.site_folder(site).join("agent.toml");
        let name = self.sites.get(site).map_or("unknown", |site| site.name.as_str());
        let process = Process::start(Starting {
            name,
            program: &self.programs.agent,
            arguments: vec!["run".into(), "--config".into(), configuration.into()],
            environment: self.environment.clone(),
            folder: &self.logs(),
        })?;
        if let Some(slot) = self.agents.get_mut(site) {
            *slot = Some(process);
        }
        Ok(())
    }

    /// Starts the coordinator and every agent.
    ///
    /// # Errors
    /// One of them does not get ready.
    pub fn start(&mut self) -> Result<(), LocalError> {
        self.start_coordinator()?;
        (0..self.sites.len()).try_for_each(|site| self.start_agent(site))
    }

    /// The coordinator's process.
    pub fn coordinator(&mut self) -> Option<&mut Process> {
        self.coordinator.as_mut()
    }

    /// An agent's process.
    pub fn agent(&mut self, site: usize) -> Option<&mut Process> {
        self.agents.get_mut(site).and_then(Option::as_mut)
    }

    /// Ends everything in good order.
    ///
    /// # Errors
    /// A daemon did not end in good order.
    pub fn stop(&mut self) -> Result<(), LocalError> {
        let within = std::time::Duration::from_secs(20);
        let agents = self.agents.iter_mut().filter_map(Option::take);
        let processes: Vec<Process> = agents.chain(self.coordinator.take()).collect();
        for process in &processes {
            signal(process.pid(), "TERM")?;
        }
        for mut process in processes {
            let status = process.wait(within)?;
            if !status.success() {
                return Err(process.not_ready(format!("ended with {status}")));
            }
        }
        Ok(())
    }

    /// Signs a draft, submits and starts it, as an operator would. Returns the resolved file.
    ///
    /// # Errors
    /// A command fails.
    pub fn run_study(&self, name: &str, draft: &str) -> Result<PathBuf, LocalError> {
        let signed = self.sign_study(name, draft)?;
        self.operator(["study", "submit"].map(OsString::from), Some(&signed))?;
        self.operator(["study", "start", name].map(OsString::from), None)?;
        Ok(signed)
    }

    /// Where a signed study lies.
    #[must_use]
    pub fn signed_study(&self, name: &str) -> PathBuf {
        self.root.join("studies").join(format!("{name}.study.toml"))
    }

    /// Signs a draft; returns the resolved file.
    ///
    /// # Errors
    /// The command fails.
    pub fn sign_study(&self, name: &str, draft: &str) -> Result<PathBuf, LocalError> {
        let folder = self.root.join("studies");
        self.make_folder(&folder)?;
        let path = folder.join(format!("{name}.toml"));
        write(&path, draft)?;
        let arguments = ["study".into(), "sign".into(), path.into_os_string()];
        let options = ["--key".into(), self.operator_key().into(), "--out".into()];
        self.consilium(arguments.into_iter().chain(options).chain([folder.into()]))?;
        Ok(self.signed_study(name))
    }

    /// Runs an operator's command against the coordinator; its standard output.
    ///
    /// # Errors
    /// The command fails.
    pub fn operator(
        &self,
        words: impl IntoIterator<Item = OsString>,
        file: Option<&Path>,
    ) -> Result<String, LocalError> {
        let identity = self.identity("operator", OPERATOR);
        let options: [OsString; 4] =
            ["--coordinator".into(), self.address().into(), "--identity".into(), identity.into()];
        let file = file.map(|path| path.as_os_str().to_owned());
        self.consilium(words.into_iter().chain(file).chain(options))
    }

    /// An operator's command with `--json`, read.
    ///
    /// # Errors
    /// The command fails or answers something else.
    pub fn operator_json<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T, LocalError> {
        let words = words.iter().copied().chain(["--json"]).map(OsString::from);
        read_json("consilium", self.operator(words, None)?)
    }

    /// An agent's command with `--json`, read; `--config` is added.
    ///
    /// # Errors
    /// The command fails or answers something else.
    pub fn agent_json<T: DeserializeOwned>(
        &self,
        site: usize,
        words: &[&str],
    ) -> Result<T, LocalError> {
        let configuration = self.site_folder(site).join("agent.toml");
        let options = ["--config".into(), configuration.into_os_string(), "--json".into()];
        let arguments = words.iter().map(OsString::from).chain(options);
        read_json("consilium-agent", output(&self.programs.agent, arguments)?)
    }

    fn consilium(
        &self,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<String, LocalError> {
        output(&self.programs.consilium, arguments)
    }
}

/// Runs a program to its end; its standard output.
fn output(
    program: &Path,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<String, LocalError> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let result = Command::new(program)
        .args(&arguments)
        .output()
        .map_err(LocalError::file("cannot start", program))?;
    if result.status.success() {
        return Ok(String::from_utf8_lossy(&result.stdout).into_owned());
    }
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    Err(LocalError::Command {
        command: format!("{} {}", program.display(), words.join(" ")),
        status: result.status.to_string(),
        output: String::from_utf8_lossy(&result.stderr).trim().to_owned(),
    })
}

fn read_json<T: DeserializeOwned>(command: &str, output: String) -> Result<T, LocalError> {
    serde_json::from_str(&output)
        .map_err(|_| LocalError::Answer { command: command.to_owned(), output })
}

/// Files of a demonstration or test; they are made anew, nothing is lost with them.
#[expect(clippy::disallowed_methods, reason = "a fresh folder, no state to protect")]
fn write(path: &Path, text: &str) -> Result<(), LocalError> {
    fs::write(path, text).map_err(LocalError::file("cannot write", path))
}
