//! A site's blob streams: each served on its own, a few of either kind at a time. Whoever opens
//! streams faster than an agent has use for waits.

use std::sync::Arc;
use std::time::Duration;

use consilium_common::ids::SiteId;
use consilium_common::limits::BLOB_STREAMS_MAX;
use consilium_common::wire::reject::Code;
use consilium_io::net::transfer::{self, Incoming, TransferError};
use consilium_io::net::{Carrier, CarrierError, Stream, StreamKind};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::broken::{Blame, Broken};
use super::{Server, distribute, intake};
use crate::conduct::Deed;
use crate::limits::{TRANSFER_IDLE_MAX, TRANSFERS_PER_SITE_MAX};

/// What is served at once.
#[derive(Debug)]
struct Places {
    fetches: Semaphore,
    pushes: Semaphore,
}

/// Serves the streams that a site opens, until its connection ends or it breaks the protocol.
pub(super) async fn serve(
    server: &Arc<Server>,
    carrier: &dyn Carrier,
    site: &SiteId,
) -> Result<(), Broken> {
    let places = Arc::new(Places {
        fetches: Semaphore::new(TRANSFERS_PER_SITE_MAX),
        pushes: Semaphore::new(TRANSFERS_PER_SITE_MAX),
    });
    let mut streams: JoinSet<Result<(), Broken>> = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = carrier.accept(), if streams.len() < BLOB_STREAMS_MAX as usize => stream,
            Some(served) = streams.join_next() => match served {
                // A transfer that failed by the site's fault ends no session, until it is one too many.
                Ok(Err(fault)) if fault.blame == Blame::Fault => {
                    if server.sites.blame(site, &fault, Some(carrier)) {
                        return Ok(());
                    }
                    continue;
                }
                Ok(Err(broken)) => return Err(broken),
                Ok(Ok(())) => continue,
                Err(error) => return Err(Broken::new(Code::CoordinatorFault, error)),
            },
        };
        let stream = match stream {
            Ok(stream) => stream,
            Err(CarrierError::Stream(flood)) => return Err(Broken::strike(Code::Flood, flood)),
            Err(CarrierError::Closed(_)) => return Ok(()),
        };
        match stream.kind {
            StreamKind::Blob => {}
            StreamKind::Control => {
                return Err(Broken::strike(Code::Unexpected, "a second control stream"));
            }
            StreamKind::Request => {
                let detail = "a stream of a kind that operators open";
                return Err(Broken::strike(Code::Unexpected, detail));
            }
        }
        let delay = server.sites.guard().stream_delay(site);
        if delay.0 > 0 {
            tokio::time::sleep(Duration::from_millis(delay.0)).await;
        }
        let (server, site) = (Arc::clone(server), site.clone());
        let places = Arc::clone(&places);
        streams.spawn(async move { serve_one(&server, &site, stream, &places).await });
    }
}

async fn serve_one(
    server: &Server,
    site: &SiteId,
    stream: Stream,
    places: &Places,
) -> Result<(), Broken> {
    // The semaphores are never closed; were they, the transfer would go on without a place.
    let served = match transfer::receive(stream, TRANSFER_IDLE_MAX).await {
        Ok(Incoming::Push(push)) => {
            let _place = places.pushes.acquire().await.ok();
            intake::take(server, site, push).await
        }
        Ok(Incoming::Fetch(fetch)) => {
            let _place = places.fetches.acquire().await.ok();
            distribute::serve(server, Some(site), fetch).await
        }
        Err(error @ TransferError::Protocol(_)) => Err(Broken::strike(Code::Malformed, error)),
        Err(error @ TransferError::TooLarge { .. }) => Err(Broken::strike(Code::TooLarge, error)),
        Err(error) => {
            tracing::debug!(%site, %error, "a blob stream broke off");
            in_vain(server, site)
        }
    };
    server.sites.heard(site);
    served
}

/// What the site sent or asked for led to nothing: it happens, but not all the time.
pub(super) fn in_vain(server: &Server, site: &SiteId) -> Result<(), Broken> {
    match server.sites.guard().allows(site, Deed::Vain) {
        true => Ok(()),
        false => Err(Broken::flood(Deed::Vain)),
    }
}
