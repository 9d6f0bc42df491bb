//! The site's certificate, kept good: at two thirds of its time, or when the coordinator says that its
//! issuing CA is over, the next one is asked for, by the site key, beside whatever else goes on. Connections and transfers that stand do not notice.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use consilium_certs::credentials::{Credentials, CredentialsError};
use consilium_certs::enrolling::EnrollingError;
use consilium_certs::renewing::Renewal;
use consilium_certs::validity::{Validity, date};
use consilium_common::enrol::RenewRequest;
use consilium_common::ids::SiteId;
use consilium_common::signed::Signed;
use consilium_common::time::{Clock, Millis};
use consilium_common::wire::enrol::{Answer, Ask};

use crate::driver::Shared;
use crate::ledger::LedgerError;
use crate::ledger::entry::Renewing;
use crate::link::Dialer;
use crate::link::enrol::{AskError, ask};

/// How soon a certificate that has run out, or cannot be read, is looked at again.
const RETRY: Millis = Millis::from_secs(1);
/// The same if the coordinator asked for the renewal and it failed: perhaps many sites renew just now.
const ASKED_RETRY: Millis = Millis::from_secs(5);

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

/// Looks after the certificate for as long as it is polled.
pub async fn keep(shared: Arc<Shared>) {
    let (mut trouble, mut asked) = (None, false);
    loop {
        let (folder, now) = (shared.bundle_folder.clone(), shared.clock.wall());
        let loaded = tokio::task::spawn_blocking(move || Credentials::load(&folder, now)).await;
        let (needed, validity) = match loaded {
            Ok(Ok(ours)) => (asked || ours.validity.due().0 <= now.0, Some(ours.validity)),
            Ok(Err(CredentialsError::Expired { .. })) => (true, None),
            // The dialer says what else is wrong with the files.
            Ok(Err(_)) | Err(_) => (false, None),
        };
        if needed {
            let (site, dialer, clock) = (shared.site(), &shared.dialer, &shared.clock);
            let before = |request: &Signed<RenewRequest>| record(&shared, request);
            match renew(&shared.bundle_folder, site, dialer, clock, before).await {
                Ok(validity) => {
                    (trouble, asked) = (None, false);
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
        let pause = match validity {
            Some(validity) if !asked => validity.look_interval(),
            Some(_) => ASKED_RETRY,
            None => RETRY,
        };
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(pause.0)) => {}
            () = shared.renew_now.notified() => asked = true,
        }
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
