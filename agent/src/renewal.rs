//! The site's certificate, kept good: at two thirds of its time the next one is asked for, by the site
//! key, beside whatever else goes on. Connections and transfers that stand do not notice.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use consilium_certs::credentials::{Credentials, CredentialsError};
use consilium_certs::enrolling::{EnrollingError, Renewal};
use consilium_certs::validity::{Validity, date};
use consilium_common::enrol::RenewRequest;
use consilium_common::ids::SiteId;
use consilium_common::signed::Signed;
use consilium_common::time::{Clock, Millis, WallMillis};
use consilium_common::wire::enrol::{Answer, Ask};

use crate::driver::Shared;
use crate::ledger::LedgerError;
use crate::ledger::entry::Renewing;
use crate::link::Dialer;
use crate::link::enrol::{AskError, ask};

/// The calendar is looked at again this often: it may be set while we sleep.
const LOOK_INTERVAL: Millis = Millis::from_secs(60);
/// Certificates of tests and of very short lives are looked at more often than that.
const LOOK_INTERVAL_MIN: Millis = Millis::from_secs(1);

/// Why the certificate was not renewed.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// The folder, or what came for it.
    #[error(transparent)]
    Enrolling(#[from] EnrollingError),
    /// No answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// What leaves could not be recorded.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The coordinator or the CA says no.
    #[error("{0}")]
    Refused(String),
    /// A thread died.
    #[error("work at this site broke off: {0}")]
    Died(#[from] tokio::task::JoinError),
}

/// Renews the certificate in `folder` now, whether it is still good or not. `before` hears of the request
/// before it leaves.
///
/// # Errors
/// `before` says no, the coordinator is not reached, or refuses; the old certificate stays.
pub async fn renew(
    folder: &Path,
    site: &SiteId,
    dialer: &Dialer,
    clock: &Arc<dyn Clock>,
    before: impl FnOnce(&Signed<RenewRequest>) -> Result<(), LedgerError>,
) -> Result<Validity, RenewalError> {
    let (place, name, now) = (folder.to_owned(), site.clone(), clock.wall());
    let preparing = move || Renewal::prepare(&place, &name, now);
    let renewal = tokio::task::spawn_blocking(preparing).await??;
    before(renewal.request())?;
    let question = Ask::Renew { signed: renewal.request().clone() };
    match ask(dialer, renewal.pinned(), Arc::clone(clock), &question).await? {
        Answer::Renewed { chain } => {
            let now = clock.wall();
            Ok(tokio::task::spawn_blocking(move || renewal.install(&chain, now)).await??)
        }
        Answer::Refused { message } => Err(RenewalError::Refused(message)),
        Answer::Waiting { .. } | Answer::Granted(_) => Err(AskError::None.into()),
    }
}

/// When the next certificate is asked for: at two thirds of its time (DESIGN.md §8).
#[must_use]
pub fn due(validity: Validity) -> WallMillis {
    let length = validity.until.0.saturating_sub(validity.from.0);
    WallMillis(validity.from.0.saturating_add(length / 3 * 2))
}

/// Looks after the certificate for as long as it is polled.
pub async fn keep(shared: Arc<Shared>) {
    let mut trouble = None;
    loop {
        let (folder, now) = (shared.bundle_folder.clone(), shared.clock.wall());
        let loaded = tokio::task::spawn_blocking(move || Credentials::load(&folder, now)).await;
        let (needed, validity) = match loaded {
            Ok(Ok(ours)) => (due(ours.validity).0 <= now.0, Some(ours.validity)),
            Ok(Err(CredentialsError::Expired { .. })) => (true, None),
            // The dialer says what else is wrong with the files.
            Ok(Err(_)) | Err(_) => (false, None),
        };
        if needed {
            let (site, dialer, clock) = (shared.site(), &shared.dialer, &shared.clock);
            let before = |request: &Signed<RenewRequest>| record(&shared, request);
            match renew(&shared.bundle_folder, site, dialer, clock, before).await {
                Ok(validity) => {
                    trouble = None;
                    tracing::info!(until = date(validity.until), "the certificate is renewed");
                }
                Err(error) => {
                    let text = error.to_string();
                    if trouble.as_ref() != Some(&text) {
                        tracing::warn!("the certificate is not renewed; trying again: {text}");
                    }
                    trouble = Some(text);
                }
            }
        }
        tokio::time::sleep(pause(validity)).await;
    }
}

/// Writes the request into the ledger: a sync that the daemon's other work does not wait for.
fn record(shared: &Shared, request: &Signed<RenewRequest>) -> Result<(), LedgerError> {
    let renewing = Renewing {
        coordinator: shared.config.site.coordinator.to_string(),
        request: request.digest(),
        bytes: request.bytes.len() as u64,
    };
    shared.ledger.record(renewing, shared.clock.wall()).map(drop)
}

/// A hundredth of a certificate's time, within bounds.
fn pause(validity: Option<Validity>) -> Duration {
    let length = validity.map_or(0, |validity| validity.until.0.saturating_sub(validity.from.0));
    Duration::from_millis((length / 100).clamp(LOOK_INTERVAL_MIN.0, LOOK_INTERVAL.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_at_two_thirds_and_looked_at_between_a_second_and_a_minute() {
        let validity =
            |length: u64| Validity { from: WallMillis(1_000), until: WallMillis(1_000 + length) };
        assert_eq!(due(validity(9_000)), WallMillis(7_000));
        assert_eq!(pause(Some(validity(9_000))), Duration::from_secs(1));
        assert_eq!(pause(Some(validity(7 * 24 * 3_600_000))), Duration::from_secs(60));
        assert_eq!(pause(None), Duration::from_secs(1));
    }
}
