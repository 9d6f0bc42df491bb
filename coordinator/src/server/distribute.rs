//! Fetches: models and study texts by digest, to sites and operators.

use consilium_common::ids::SiteId;
use consilium_io::disk::BlobError;
use consilium_io::net::transfer::{FetchRequest, Pace, Refusal, TransferError};

use super::Server;
use super::intake::{Moved, Way};
use crate::limits::TRANSFER_IDLE_MAX;

/// Serves one fetch. Bytes of an open round's base count in that round.
pub(super) async fn serve(server: &Server, site: Option<&SiteId>, fetch: FetchRequest) {
    let (digest, offset) = (fetch.digest, fetch.offset);
    let source = match server.blobs.source(digest).await {
        Ok(source) => source,
        Err(error) => {
            let missing = matches!(error, TransferError::Blob(BlobError::Missing(_)));
            let refusal = if missing { Refusal::Missing } else { Refusal::Failed };
            tracing::warn!(?digest, site = ?site, %error, "a fetch is refused");
            return fetch.refuse(refusal).await;
        }
    };
    let round = site.zip(server.studies.serving(digest));
    let mut moved = round
        .as_ref()
        .map(|(site, (study, round))| Moved::new(server, study, site, *round, Way::Down));
    if let Some(moved) = &mut moved {
        moved.start(offset);
    }
    let mut progress = |through| {
        if let Some(moved) = &mut moved {
            moved.through(through);
        }
    };
    let mut pace = Pace { idle: TRANSFER_IDLE_MAX, progress: &mut progress };
    if let Err(error) = fetch.serve(&source, &mut pace).await {
        tracing::info!(?digest, site = ?site, %error, "a fetch broke off");
    }
    if let Some(moved) = &mut moved {
        moved.rest().await;
    }
}
