//! Blobs over the connection: studies, bases and preparations in, updates out. Each is resumed where an earlier
//! connection, or an earlier process, left it.

use std::time::Duration;

use consilium_common::ids::Digest;
use consilium_common::limits::STUDY_BYTES_MAX;
use consilium_common::wire::codec;
use consilium_common::wire::messages::UpdateContext;
use consilium_common::wire::reject::Code;
use consilium_io::disk::{BlobError, Durability};
use consilium_io::net::Carrier;
use consilium_io::net::transfer::{
    Gate, MemorySink, Pace, PartialSink, Refusal, Source, TransferError, fetch, push_through,
};

use crate::session::Fault;
use crate::state::Cache;

/// Bytes through so far; called from the transfer's task.
pub type Through<'a> = &'a mut (dyn FnMut(u64) + Send);

/// Fetches a study's bytes into memory, verified by digest.
///
/// # Errors
/// Larger than any study, or the transfer failed.
pub async fn fetch_study(
    carrier: &dyn Carrier,
    digest: Digest,
    idle: Duration,
) -> Result<Vec<u8>, TransferError> {
    let mut sink = MemorySink::new(digest, STUDY_BYTES_MAX as u64);
    let progress = &mut |_| {};
    fetch(carrier, &mut sink, &mut Pace { idle, progress }).await?;
    Ok(sink.into_bytes())
}

/// Fetches a base or a preparation into the cache, verified by digest.
///
/// # Errors
/// The transfer failed; what arrived is kept for the next one.
pub async fn fetch_blob(
    carrier: &dyn Carrier,
    cache: &Cache,
    (digest, bytes): (Digest, u64),
    idle: Duration,
    progress: Through<'_>,
) -> Result<(), TransferError> {
    let blobs = cache.blobs();
    let mut sink = PartialSink::resume(blobs, digest, bytes, Durability::Cache).await?;
    fetch(carrier, &mut sink, &mut Pace { idle, progress }).await?;
    Ok(())
}

/// Pushes a retained update, once and as fast as `gate` lets its bytes go; returns when the coordinator has
/// it whole.
///
/// # Errors
/// The transfer failed, or the coordinator refused the update.
pub async fn push_update(
    carrier: &dyn Carrier,
    (digest, source): (Digest, &Source),
    context: &UpdateContext,
    gate: &mut dyn Gate,
    pace: &mut Pace<'_>,
) -> Result<u64, TransferError> {
    let context = codec::encode(context).map_err(|e| TransferError::Protocol(e.to_string()))?;
    push_through(carrier, digest, &context, source, pace, gate).await
}

/// What a failed transfer means for the round.
#[must_use]
pub fn fault(error: &TransferError) -> Fault {
    let detail = error.to_string();
    match error {
        TransferError::Refused(Refusal::Code(code)) => Fault::lasting(*code, detail),
        TransferError::Protocol(_) => Fault::lasting(Code::Malformed, detail),
        TransferError::TooLarge { .. } => Fault::lasting(Code::TooLarge, detail),
        // A ledger that cannot be written now may be writable later.
        TransferError::Held(_) => Fault::passing(Code::SiteFault, detail),
        TransferError::Blob(BlobError::Io(_)) | TransferError::Read(_) => {
            Fault::lasting(Code::SiteFault, detail)
        }
        // The coordinator's disk, bytes that changed on the way, or a connection that broke.
        TransferError::Refused(_) | TransferError::Blob(_) => {
            Fault::passing(Code::CoordinatorFault, detail)
        }
        TransferError::Carrier(_)
        | TransferError::Stream(_)
        | TransferError::Idle(_)
        | TransferError::Cut { .. } => Fault::passing(Code::Idle, detail),
    }
}
