//! `run`, and how the other commands reach the daemon that it starts.

use std::path::Path;

use super::{Common, Failure};
use crate::app::{self, AppError};
use crate::control_socket::client::{AskError, ask};
use crate::control_socket::{Reply, Request};
use crate::state::StateError;

/// Runs the daemon.
pub(super) async fn run(common: &Common) -> Result<(), Failure> {
    let config = common.load()?;
    let read = || common.load().map_err(|failure| failure.to_string());
    app::run(config, read).await.map_err(|error| match error {
        // Neither heals by trying again: systemd should not.
        AppError::State(StateError::Lock(_)) => Failure::Refused(error.to_string()),
        // Coordinator and CA may be away: trying again helps.
        AppError::NotRenewed { .. }
        | AppError::State(_)
        | AppError::Ledger(_)
        | AppError::Witness(_)
        | AppError::Roster(_)
        | AppError::Socket { .. }
        | AppError::System(_) => Failure::failed(error),
        AppError::Bundle(_)
        | AppError::NotEnrolled { .. }
        | AppError::NotApproved
        | AppError::Rules(_)
        | AppError::OtherSite { .. } => Failure::Usage(error.to_string()),
    })
}

/// Asks the daemon of this state folder; a refusal is a failure.
pub(super) async fn asked(state: &Path, request: &Request) -> Result<Reply, Failure> {
    let reply = ask(&app::control_socket(state), request).await;
    let reply = reply.map_err(|error| match error {
        AskError::NotRunning(_) => Failure::Unreachable(error.to_string()),
        AskError::Forbidden(_) => Failure::Refused(error.to_string()),
        AskError::Answer(_) => Failure::failed(error),
    })?;
    match reply {
        Reply::Refused { message } => Err(Failure::Refused(message)),
        Reply::Failed { message } => Err(Failure::Failed(message)),
        reply @ (Reply::Status(_)
        | Reply::StudyList { .. }
        | Reply::StudyShow(_)
        | Reply::StudyDecided(_)
        | Reply::WitnessAccepted(_)
        | Reply::Roster(_)
        | Reply::Withdrawn) => Ok(reply),
    }
}

/// A reply to another question than was asked.
pub(super) fn unexpected() -> Failure {
    Failure::Failed(
        "the agent answered another question: is it of the same release as this program?"
            .to_owned(),
    )
}
