//! `consilium serve`: the coordinator.

use std::path::PathBuf;

use clap::Args;

use super::{Exit, Failure};
use crate::app::{self, AppError};
use crate::config::Config;

/// `consilium serve`
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

pub(super) fn run(args: &ServeArgs) -> Result<(), Failure> {
    let config = Config::load(&args.config).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("the system gives no threads: {error}")))?;
    let served = runtime.block_on(app::serve(config, app::signals()));
    served.map_err(|error| {
        let refused = matches!(error, AppError::Roster(_) | AppError::TwoRosters(_));
        let exit = if refused { Exit::Refused } else { Exit::Failed };
        Failure { exit, message: error.to_string() }
    })
}
