//! The gate through which an update's bytes leave: nothing passes that the ledger does not hold.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use consilium_io::net::transfer::Gate;

use super::shared::{Shared, blocking};
use super::study;
use crate::ledger::LedgerError;
use crate::ledger::entry::{Sending, Sent};
use crate::session::{Decision, Fault};
use crate::state::Record;

/// Writes each range of an update into the ledger before its first byte goes.
#[derive(Debug)]
pub(super) struct Recorded {
    shared: Arc<Shared>,
    update: Arc<Record>,
    /// The record of the range that is under way.
    sending: Option<u64>,
}

impl Recorded {
    pub(super) fn new(shared: Arc<Shared>, update: Arc<Record>) -> Self {
        Self { shared, update, sending: None }
    }

    /// The transfer is over, with so many of the update's bytes handed to the connection. That the
    /// ledger cannot be told is no loss: what was about to leave stands in it.
    pub(super) async fn ended(&self, through: u64, trouble: Option<&Fault>) {
        let Some(sending) = self.sending else {
            return;
        };
        let sent = Sent {
            sending,
            study: self.update.study.clone(),
            round: self.update.round,
            through,
            stored: trouble.is_none(),
            trouble: trouble.map(|fault| fault.detail.clone()),
        };
        let shared = Arc::clone(&self.shared);
        let recorded = blocking(move || shared.ledger.record(sent, shared.clock.wall())).await;
        if let Ok(Err(error)) = recorded {
            tracing::warn!(%error, "how far a transfer got is not in the ledger");
        }
    }
}

#[async_trait]
impl Gate for Recorded {
    async fn pass(&mut self, offset: u64, bytes: u64) -> Result<(), String> {
        let (shared, update) = (Arc::clone(&self.shared), Arc::clone(&self.update));
        let recorded = blocking(move || enter(&shared, &update, (offset, bytes))).await;
        let recorded = recorded.unwrap_or_else(|fault| Err(fault.detail))?;
        self.sending = Some(recorded);
        Ok(())
    }

    fn throttles(&self) -> bool {
        self.shared.throttles_uploads()
    }

    fn delay(&self, bytes: u64) -> Duration {
        self.shared.upload_delay(bytes)
    }
}

/// Writes the range, if the site accepts the study at this moment, by its own policy and clock.
fn enter(shared: &Shared, update: &Record, (offset, bytes): (u64, u64)) -> Result<u64, String> {
    let wall = shared.clock.wall();
    let study = &update.study;
    let kept = shared.kept(&update.study_digest);
    let kept = kept.ok_or_else(|| format!("study {study} is not kept at this site"))?;
    let judged = study::judged(shared, &kept, wall);
    if judged.decision != Decision::Accepted {
        return Err(judged.why);
    }
    let record = || -> Result<u64, LedgerError> {
        study::enter(shared, &kept, &judged)?;
        let accepted = shared.ledger.accepted(study, &update.study_digest)?;
        let sending = Sending {
            study: study.clone(),
            study_digest: update.study_digest,
            accepted,
            round: update.round,
            digest: update.digest,
            size: update.bytes,
            offset,
            bytes,
        };
        shared.ledger.record(sending, wall)
    };
    record().map_err(|error| error.to_string())
}
