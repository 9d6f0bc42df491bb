//! Fetches by digest: models and study texts, to sites and operators; the log and retained updates, to
//! operators and auditors. What researchers may fetch is decided before ([`super::researchers`]).

use consilium_common::ids::{Digest, Round, SiteId};
use consilium_common::wire::reject::Code;
use consilium_io::disk::BlobError;
use consilium_io::net::transfer::{FetchRequest, Pace, Refusal, Source, TransferError};

use super::Server;
use super::blobs::in_vain;
use super::broken::Broken;
use super::intake::{Moved, Way};
use super::pace::{Through, TooSlow};
use crate::conduct::RoundBlob;
use crate::driver::Handle;
use crate::limits::{TRANSFER_BYTES_MIN, TRANSFER_IDLE_MAX};

/// Serves one fetch. Bytes of an open round's blobs count in that round; a site gets no more of it, and
/// of anything else, than its share.
pub(super) async fn serve(
    server: &Server,
    site: Option<&SiteId>,
    fetch: FetchRequest,
) -> Result<(), Broken> {
    let (digest, offset) = (fetch.digest, fetch.offset);
    let source = match find(server, site, digest).await {
        Ok(source) => source,
        Err(error) => {
            let missing = matches!(error, TransferError::Blob(BlobError::Missing(_)));
            let refusal = if missing { Refusal::Missing } else { Refusal::Failed };
            tracing::debug!(?digest, site = ?site, %error, "a fetch is refused");
            fetch.refuse(refusal).await;
            return site.map_or(Ok(()), |site| in_vain(server, site));
        }
    };
    let Some(site) = site else {
        return to_operator(digest, &source, fetch).await;
    };
    let open = server.studies.serving(digest);
    let of = open.as_ref().map(|(study, round, part)| RoundBlob {
        study: study.id().clone(),
        round: *round,
        part: *part,
    });
    let (guard, length) = (server.sites.guard(), source.length());
    let wanted = length.saturating_sub(offset);
    if !guard.may_fetch(site, of.as_ref(), length, wanted) {
        tracing::debug!(?digest, %site, "fetched often enough");
        fetch.refuse(Refusal::Code(Code::Flood)).await;
        return in_vain(server, site);
    }
    let through = Through::default();
    through.set(offset);
    let open = open.map(|(study, round, _)| (study, round));
    let served = to_site(server, site, open.as_ref(), &source, fetch, &through).await;
    let sent = through.get().saturating_sub(offset);
    guard.not_fetched(site, of.as_ref(), wanted.saturating_sub(sent));
    served
}

/// What may be fetched under this name. Roll calls tell sites the digests of one another's updates, so
/// those must never be found for a site.
async fn find(
    server: &Server,
    site: Option<&SiteId>,
    digest: Digest,
) -> Result<Source, TransferError> {
    if let Some(log) = server.exports.get(digest).filter(|_| site.is_none()) {
        return Ok(log);
    }
    let retained = server.retained.as_ref().filter(|_| site.is_none());
    match (server.blobs.source(digest).await, retained) {
        (Err(TransferError::Blob(BlobError::Missing(_))), Some(retained)) => {
            retained.source(digest).await
        }
        (found, _) => found,
    }
}

async fn to_site(
    server: &Server,
    site: &SiteId,
    open: Option<&(Handle, Round)>,
    source: &Source,
    fetch: FetchRequest,
    whole: &Through,
) -> Result<(), Broken> {
    let digest = fetch.digest;
    let mut moved = open.map(|(study, round)| Moved::new(server, study, site, *round, Way::Down));
    if let Some(moved) = &mut moved {
        moved.start(fetch.offset);
    }
    let mut progress = |through| {
        whole.set(through);
        if let Some(moved) = &mut moved {
            moved.through(through);
        }
    };
    let mut pace = Pace { idle: TRANSFER_IDLE_MAX, progress: &mut progress };
    let served = tokio::select! {
        served = fetch.serve(source, &mut pace) => match served {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::debug!(?digest, %site, %error, "a fetch broke off");
                in_vain(server, site)
            }
        },
        slow = whole.too_slow() => match slow {
            TooSlow::Trickled => Err(Broken::fault(Code::Idle, format!(
                "it took fewer than {TRANSFER_BYTES_MIN} bytes of a fetch in {} s",
                TRANSFER_IDLE_MAX.as_secs()
            ))),
            TooSlow::Stalled => in_vain(server, site),
        },
    };
    if let Some(moved) = &mut moved {
        moved.rest().await;
    }
    served
}

async fn to_operator(digest: Digest, source: &Source, fetch: FetchRequest) -> Result<(), Broken> {
    let mut pace = Pace { idle: TRANSFER_IDLE_MAX, progress: &mut |_| {} };
    if let Err(error) = fetch.serve(source, &mut pace).await {
        tracing::info!(?digest, %error, "a fetch broke off");
    }
    Ok(())
}
