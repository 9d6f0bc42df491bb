//! A withdrawal from a person's word to the coordinator's log: in the ledger first, then kept, then sent until
//! the coordinator says that its log has it.

use std::sync::Arc;

use consilium_common::audit::withdrawal::{check_ranges, in_words};
use consilium_common::ids::{Digest, Version};
use consilium_common::time::WallMillis;
use consilium_common::wire::messages::Withdrawal;
use tokio::sync::oneshot;

use super::shared::{Shared, blocking};
use super::{Driver, Event};
use crate::control_socket::Reply;
use crate::ledger::entry::Withdrew;
use crate::ledger::{Ledger, LedgerError};
use crate::state::{StateError, StateFolder};

/// Why a withdrawal was not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WithdrawError {
    /// Not one that can be sent.
    #[error("it cannot be reported: {0}")]
    Versions(#[from] consilium_common::audit::withdrawal::VersionsError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Makes a withdrawal durable at the site.
///
/// # Errors
/// It names versions that no study has, or the disk refused.
pub(crate) fn keep(
    ledger: &Ledger,
    state: &mut StateFolder,
    (withdrawal, by): (&Withdrawal, &str),
    at: WallMillis,
) -> Result<(), WithdrawError> {
    // What the newest version is, the coordinator knows.
    check_ranges(&withdrawal.versions, Version(u64::MAX))?;
    let Withdrawal { id, study, versions, remedy } = withdrawal.clone();
    let entry = Withdrew { id, study, versions: in_words(&versions), remedy, by: by.to_owned() };
    ledger.record(entry, at)?;
    Ok(state.withdrawals.keep(withdrawal.clone())?)
}

impl Driver {
    /// A person reports a withdrawal.
    pub(super) fn withdraw(&self, withdrawal: Withdrawal, by: String, to: oneshot::Sender<Reply>) {
        let (shared, events) = (Arc::clone(&self.shared), self.events.clone());
        self.tasks.spawn(async move {
            let at = shared.clock.wall();
            let kept = withdrawal.clone();
            let done = blocking(move || {
                keep(&shared.ledger, &mut shared.state(), (&kept, &by), at)
                    .map_err(|error| error.to_string())
            });
            let message = match done.await {
                Ok(Ok(())) => {
                    // The session says it, then the person hears.
                    let event = Event::Withdrawn { withdrawal, to };
                    let _stopping = events.send(event).await;
                    return;
                }
                Ok(Err(message)) => message,
                Err(fault) => fault.detail,
            };
            let _gone = to.send(Reply::Failed { message });
        });
    }

    /// The coordinator's log has it.
    pub(super) fn reported(&self, id: Digest) {
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            match blocking(move || erase(&shared, id)).await {
                Ok(Ok(())) => {
                    tracing::info!(withdrawal = %id.short(), "the coordinator's log has it")
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "a withdrawal is said again at the next start")
                }
                Err(fault) => tracing::warn!("{}", fault.detail),
            }
        });
    }
}

fn erase(shared: &Shared, id: Digest) -> Result<(), StateError> {
    shared.state().withdrawals.erase(id)
}
