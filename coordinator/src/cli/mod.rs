//! `consilium`: the coordinator's and the operators' command line.

mod audit;
mod ca;
pub mod client;
mod demo;
mod exit;
mod model;
pub mod output;
mod plan;
mod proposals;
mod report;
mod roster;
mod rotation;
mod serve;
mod site;
mod status;
mod study;

use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand, ValueEnum};
use consilium_certs::credentials::TLS_PEM;

pub use exit::{Exit, Failure};

/// Federated learning for hospitals: the coordinator, and what operators do with it.
#[derive(Debug, Parser)]
#[command(name = "consilium", version)]
pub struct Cli {
    /// How the program's own log is written (to standard error; CONSILIUM_LOG sets what is).
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    /// Whether it becomes a daemon, whose log people read.
    #[must_use]
    pub fn serves(&self) -> bool {
        matches!(self.command, Command::Serve(_) | Command::Ca(ca::CaCommand::Serve(_)))
    }
}

/// What helps with a command line that is refused: whoever gives commands often sets these once.
#[must_use]
pub fn hint(error: &clap::Error) -> Option<&'static str> {
    let of_connection =
        |name: &String| name.starts_with("--coordinator") || name.starts_with("--identity");
    match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(names)))
            if names.iter().any(of_connection) =>
        {
            Some("or `export CONSILIUM_COORDINATOR=HOST:PORT CONSILIUM_IDENTITY=DIR` once")
        }
        _ => None,
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the coordinator.
    Serve(serve::ServeArgs),
    /// Train MNIST across hospitals on this machine, with real processes.
    Demo(demo::DemoArgs),
    /// Make the consortium's keys and certificates.
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Invite hospitals, approve their requests, put them out.
    #[command(subcommand)]
    Site(site::SiteCommand),
    /// Look at and sign the list of hospitals that take part.
    #[command(subcommand)]
    Roster(roster::RosterCommand),
    /// Propose, sign, submit, run and look at studies.
    #[command(subcommand)]
    Study(study::StudyCommand),
    /// Look at and export models.
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Take the log away, check it offline, read it.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Write what became of a study as one HTML file.
    Report(report::ReportArgs),
    /// What is going on: coordinator, sites, studies, rounds.
    Status(status::StatusArgs),
}

/// How to reach the coordinator, and as whom.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// The coordinator, as HOST:PORT.
    #[arg(long, env = "CONSILIUM_COORDINATOR", value_name = "HOST:PORT")]
    pub coordinator: String,
    /// The bundle folder of the operator, auditor or researcher, from `consilium ca issue`.
    #[arg(long, env = "CONSILIUM_IDENTITY", value_name = "DIR")]
    pub identity: PathBuf,
}

impl Connection {
    /// The bundle's folder. One that is not there is told from a bundle that lacks a file.
    ///
    /// # Errors
    /// There is no such folder, or no certificate in it.
    fn bundle(&self) -> Result<&Path, Failure> {
        if self.identity.join(TLS_PEM).is_file() {
            return Ok(&self.identity);
        }
        Err(Failure::failed(format!(
            "no bundle in {}: --identity or CONSILIUM_IDENTITY names the folder with tls.pem that \
             `consilium ca issue` made",
            self.identity.display()
        )))
    }
}

/// Runs a command to its end.
///
/// # Errors
/// What went wrong, with the exit code it has.
pub fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => {
            demo::run(&args).map_err(|error| Failure::failed(format!("{error:#}")))
        }
        Command::Ca(command) => ca::run(command),
        Command::Site(command) => site::run(command),
        Command::Roster(command) => roster::run(command),
        Command::Study(command) => study::run(command),
        Command::Model(command) => model::run(command),
        Command::Audit(command) => audit::run(command),
        Command::Report(args) => report::run(&args),
        Command::Status(args) => status::run(&args),
    }?;
    output::written()
}

/// A file is replaced as a whole, so what is no file must not stand in its place.
fn refuse_special(path: &Path) -> Result<(), Failure> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.is_file() => Err(Failure::usage(format!(
            "--out {}: there is something that is no ordinary file; name a new one",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// A runtime for commands that talk to a coordinator.
fn on_runtime<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the system gives no event queue: {error}")))?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn who_names_no_coordinator_hears_of_the_variables() {
        // Whatever the environment of the test holds.
        let told = |words: &[&str]| {
            let command = Cli::command().mut_subcommand("status", |status| {
                status.mut_args(|argument| argument.env(None::<&str>))
            });
            hint(&command.try_get_matches_from(words).unwrap_err())
        };
        assert!(told(&["consilium", "status"]).unwrap().contains("CONSILIUM_IDENTITY"));
        assert_eq!(told(&["consilium", "statu"]), None);
        assert_eq!(told(&["consilium", "audit", "verify"]), None);
    }

    #[test]
    fn commands_are_read_as_people_write_them() {
        let base = ["--coordinator", "localhost:4433", "--identity", "ada"];
        for words in [
            vec!["serve", "--config", "consilium.toml"],
            vec!["ca", "init", "ca", "--consortium", "thorax"],
            vec!["ca", "issue", "--ca", "ca", "site", "st-mary", "--out", "bundle"],
            vec!["ca", "issue", "--ca", "ca", "researcher", "rosa"],
            vec!["ca", "issue", "--ca", "ca", "coordinator", "--host", "localhost"],
            vec!["ca", "rotate", "--ca", "ca", "--root", "/mnt/root", "--overlap", "0s", "--again"],
            vec!["ca", "roster", "sign", "--ca", "ca", "--key", "operator.key"],
            vec!["study", "sign", "demo.toml", "--key", "operator.key", "--out", "signed"],
            vec!["study", "sign", "demo.toml", "--key", "operator.key", "--start", "m.safetensors"],
            vec!["audit", "export", "--out", "a", "--state", "state", "--consortium", "c.toml"],
            vec!["audit", "verify", "a", "--consortium", "c.toml", "--also", "old", "--json"],
            vec!["audit", "show", "a", "--study", "demo", "--record", "7"],
        ] {
            Cli::try_parse_from(std::iter::once("consilium").chain(words)).unwrap();
        }
        for words in [
            vec!["study", "submit", "demo.study.toml"],
            vec!["study", "submit", "demo.study.toml", "--start", "m.safetensors"],
            vec!["study", "start", "demo", "--json"],
            vec!["study", "list"],
            vec!["study", "propose", "demo.toml", "--start", "m.safetensors"],
            vec!["study", "proposals", "--json"],
            vec!["study", "proposals", "demo", "--by", "rosa", "--out", "demo.study.toml"],
            vec!["status", "--watch"],
            vec!["status", "demo", "--json"],
            vec!["model", "list", "demo"],
            vec!["report", "demo", "--out", "demo.html"],
            vec!["model", "export", "demo", "--version", "v3", "--out", "m.safetensors"],
            vec!["model", "export", "demo", "--best"],
            vec!["audit", "export", "--out", "a", "--models"],
        ] {
            let words = std::iter::once("consilium").chain(words).chain(base);
            Cli::try_parse_from(words).unwrap();
        }
        assert!(Cli::try_parse_from(["consilium", "study", "start", "No Such Name"]).is_err());
    }
}
