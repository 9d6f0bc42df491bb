//! The program `consilium`: reads the command line, sets up the log of the program, ends with the
//! exit code.

#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use consilium_coordinator::cli::{self, Cli, LogFormat};
use consilium_io::lossy;
use tracing_subscriber::EnvFilter;

const LOG_VARIABLE: &str = "CONSILIUM_LOG";

fn main() -> ExitCode {
    consilium_io::memory::return_what_is_freed();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return no_command(&error),
    };
    log_to_stderr(cli.log_format, cli.serves());
    match cli::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            say(&failure);
            ExitCode::from(failure.exit.code())
        }
    }
}

/// Help that was asked for, or what is wrong with the command line.
fn no_command(error: &clap::Error) -> ExitCode {
    // Nowhere to complain if the terminal is gone.
    let _gone = error.print();
    if let Some(hint) = cli::hint(error) {
        lossy::tell(&format!("\n{hint}"));
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn say(failure: &cli::Failure) {
    lossy::tell(&format!("consilium: {failure}"));
}

/// Warnings by default; what the coordinator does, when it serves.
fn log_to_stderr(format: LogFormat, serves: bool) {
    let usual = if serves { "info" } else { "warn" };
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new(usual));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(lossy::log_lines);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
