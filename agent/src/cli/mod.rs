//! What people type. Each command in its own file; here are the words, the exit codes and the way
//! from one to the other.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not reachable, 4 refused.

mod check;
mod daemon;
mod data;
mod enroll;
mod epochs;
mod evaluate;
mod grid;
mod ledger;
mod ledger_words;
mod local;
mod output;
mod person;
mod policy;
mod predict;
mod progress;
mod results;
mod roster;
mod source;
mod status;
mod study;
mod version;
mod version_in_use;
mod witness;
mod workbench;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use consilium_common::limits::CONFIG_BYTES_MAX;
use consilium_io::disk::read_text;
use consilium_io::lossy;
use tracing_subscriber::EnvFilter;

use crate::config::AgentConfig;
use crate::worker::process::SYNTHETIC_COMMAND;
use crate::worker::synthetic;

/// Where agent.toml lies unless said otherwise.
const CONFIG_DEFAULT: &str = "/etc/consilium/agent.toml";
/// Our own words at info, the libraries' warnings.
const LOG_DEFAULT: &str = "warn,consilium_agent=info,consilium_worker=info,consilium_io=info";
/// Threads of the runtime: the daemon waits for others nearly all of the time.
const RUNTIME_THREADS: usize = 2;
/// Threads for disk work and encoding.
const BLOCKING_THREADS: usize = 8;

/// The hospital's agent of a Consilium federation: trains on local records, which never leave.
#[derive(Debug, Parser)]
#[command(name = "consilium-agent", disable_version_flag = true)]
struct Cli {
    /// Print the versions of agent, worker, libtorch and CUDA
    #[arg(short = 'V', long)]
    version: bool,
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// The agent's configuration
    #[arg(long, global = true, default_value = CONFIG_DEFAULT, value_name = "FILE", env = "CONSILIUM_AGENT_CONFIG")]
    config: PathBuf,
    /// Print one JSON document instead of a table
    #[arg(long, global = true)]
    json: bool,
    /// Form of log lines on standard error
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    /// Which log lines, such as `info` or `consilium_agent=debug`
    #[arg(long, global = true, env = "CONSILIUM_LOG", default_value = LOG_DEFAULT, hide_default_value = true, value_name = "FILTER")]
    log: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this site's keys and ask for its certificate, with an operator's token
    Enroll(enroll::Options),
    /// Run the daemon: take part in studies until it is stopped
    Run,
    /// Show connection, studies, tasks and retained updates of the running daemon
    Status(status::Options),
    /// List, read, accept or refuse studies
    #[command(subcommand)]
    Study(study::Command),
    /// Say what this site's rules make of a study
    #[command(subcommand)]
    Policy(policy::Command),
    /// Show, verify or export the site's own record of what it accepted and what left
    #[command(subcommand)]
    Ledger(ledger::Command),
    /// Show what this site has seen of the coordinator's log, or go on with another one
    #[command(subcommand)]
    Witness(witness::Command),
    /// Show who else is in the consortium, or accept the next roster
    #[command(subcommand)]
    Roster(roster::Command),
    /// Approve data, follow patients into rounds and versions, report withdrawals
    #[command(subcommand)]
    Data(data::Command),
    /// Try this site's records against the studies, before anything trains
    Check(check::Options),
    /// Train on local records
    Train(Box<local::Options>),
    /// Score a version on this site's hold-out, or on another one
    Evaluate(Box<evaluate::Options>),
    /// Say what a version makes of records without labels
    Predict(Box<predict::Options>),
    /// The synthetic trainer, as the daemon starts it
    #[command(name = SYNTHETIC_COMMAND, hide = true)]
    SyntheticWorker,
}

/// Why a command did not do what was asked; decides the exit code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Exit code 3.
    #[error("{0}")]
    Unreachable(String),
    /// Exit code 4.
    #[error("{0}")]
    Refused(String),
}

impl Failure {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    fn usage(error: impl std::fmt::Display) -> Self {
        Self::Usage(error.to_string())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Refused(_) => 4,
        }
    }
}

impl Common {
    fn load(&self) -> Result<AgentConfig, Failure> {
        let path = &self.config;
        let text = read_text(path, CONFIG_BYTES_MAX).map_err(Failure::usage)?;
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let origin = path.display().to_string();
        AgentConfig::read(&text, &origin, folder, environment).map_err(Failure::usage)
    }
}

/// Runs the program with these arguments, the first being its name.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.get(1).is_some_and(|word| word == SYNTHETIC_COMMAND) {
        return ExitCode::from(synthetic::run());
    }
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            // Nowhere to complain if the terminal is gone.
            let _gone = error.print();
            return ExitCode::from(code);
        }
    };
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::error(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn start(cli: Cli) -> Result<(), Failure> {
    set_up_log(&cli.common)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .max_blocking_threads(BLOCKING_THREADS)
        .enable_all()
        .build()
        .map_err(Failure::failed)?;
    let Cli { version, common, command } = cli;
    runtime.block_on(async {
        match command {
            _ if version => version::run(&common).await,
            None => Err(Failure::Usage(
                "no command given: `consilium-agent --help` lists them".to_owned(),
            )),
            Some(Command::Enroll(options)) => enroll::run(&common, &options).await,
            Some(Command::Run) => daemon::run(&common).await,
            Some(Command::Status(options)) => status::run(&common, &options).await,
            Some(Command::Study(command)) => study::run(&common, command).await,
            Some(Command::Policy(command)) => policy::run(&common, &command),
            Some(Command::Witness(command)) => witness::run(&common, command).await,
            Some(Command::Roster(command)) => roster::run(&common, command).await,
            Some(Command::Ledger(command)) => ledger::run(&common, &command),
            Some(Command::Data(command)) => data::run(&common, &command).await,
            Some(Command::Check(options)) => check::run(&common, &options).await,
            Some(Command::Train(options)) => local::run(&common, &options).await,
            Some(Command::Evaluate(options)) => evaluate::run(&common, &options).await,
            Some(Command::Predict(options)) => predict::run(&common, &options).await,
            Some(Command::SyntheticWorker) => Ok(()), // taken in `main`, before there is a runtime
        }
    })?;
    output::written()
}

fn set_up_log(common: &Common) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&common.log)
        .map_err(|error| Failure::Usage(format!("--log {:?}: {error}", common.log)))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lossy::log_lines)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    let installed = match common.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    installed.map_err(Failure::failed)
}

#[cfg(test)]
mod tests;
