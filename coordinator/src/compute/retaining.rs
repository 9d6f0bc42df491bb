//! Keeping the updates that a round counted, for whoever recomputes it later.

use consilium_common::ids::Digest;
use consilium_io::disk::BlobError;

use crate::store::{Bulk, WriteBlob};

/// An accepted update on its way to where it is retained. Rounds do not wait for evidence: what cannot be
/// written is missing later, and said now.
pub(super) struct Retaining(Option<Box<dyn WriteBlob>>);

impl Retaining {
    pub(super) fn begin(retained: Option<&dyn Bulk>) -> Self {
        let begun = retained.map(|retained| retained.create());
        Self(begun.transpose().map_err(not_retained).ok().flatten())
    }

    pub(super) fn write(&mut self, chunk: &[u8]) {
        if let Some(Err(error)) = self.0.as_mut().map(|blob| blob.write(chunk)) {
            not_retained(error);
            self.0 = None;
        }
    }

    pub(super) fn finish(self, update: Digest) {
        match self.0.map(WriteBlob::finish) {
            Some(Ok(kept)) if kept != update => {
                tracing::warn!(
                    ?update,
                    ?kept,
                    "an update was retained with other content than it came"
                );
            }
            Some(Err(error)) => not_retained(error),
            Some(Ok(_)) | None => {}
        }
    }
}

fn not_retained(error: BlobError) {
    tracing::warn!(%error, "an update is not retained: auditors cannot recompute its round");
}
