//! The receiving end: takes pushes into a folder of blobs. Its peer's newest connection counts, as at
//! the coordinator.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use consilium_io::disk::{Blobs, Durability};
use consilium_io::net::Carrier;
use consilium_io::net::transfer::{Incoming, Pace, PartialSink, Sink as _, receive};

use super::Word;
use crate::ends;

const IDLE: Duration = Duration::from_secs(30);

/// Takes pushes until it is killed.
pub(crate) fn run(identity: &Path, address: SocketAddr, blobs: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let blobs = Blobs::open(blobs)?;
        let listener = ends::listen(identity, address)?;
        let mut newest: Option<Arc<dyn Carrier>> = None;
        loop {
            let handshake = listener.accept().await.context("the listener is gone")?;
            let Ok(carrier) = handshake.finish().await else { continue };
            if let Some(older) = newest.replace(Arc::clone(&carrier)) {
                older.close(0, "another connection took its place");
            }
            let blobs = blobs.clone();
            tokio::spawn(async move {
                // A push that breaks off is what is measured: the next one goes on.
                let _broken = take(&*carrier, &blobs).await;
            });
        }
    })
}

async fn take(carrier: &dyn Carrier, blobs: &Blobs) -> anyhow::Result<()> {
    let Incoming::Push(request) = receive(carrier.accept().await?, IDLE).await? else {
        anyhow::bail!("a push was expected");
    };
    if blobs.contains(request.digest) {
        return Ok(request.already_stored().await?);
    }
    let attempt = u32::from_le_bytes(request.context.as_slice().try_into()?);
    let lasting = Durability::Lasting;
    let mut sink = PartialSink::resume(blobs, request.digest, request.length, lasting).await?;
    Word::Taking(attempt, sink.received()).say();
    let progress = &mut |bytes| Word::Have(attempt, bytes).say();
    Ok(request.take(&mut sink, &mut Pace { idle: IDLE, progress }).await?)
}
