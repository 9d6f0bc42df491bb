//! Exports of the log: each is fetched on a blob stream after its request, by the digest that was told.
//! Sites get none of it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use consilium_common::audit::Checkpoint;
use consilium_common::ids::Digest;
use consilium_io::net::transfer::Source;

use super::Server;
use super::operator_session::Fault;
use crate::document::AuditExportDocument;
use crate::limits::EXPORTS_MAX;

/// What was exported last, newest at the end.
#[derive(Debug, Default)]
pub(super) struct Exports(Mutex<VecDeque<(Digest, Source)>>);

impl Exports {
    fn add(&self, digest: Digest, source: Source) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(other, _)| *other != digest);
        known.push_back((digest, source));
        if known.len() > EXPORTS_MAX {
            known.pop_front();
        }
    }

    /// The export of this digest, if it is still held.
    pub(super) fn get(&self, digest: Digest) -> Option<Source> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|(name, _)| *name == digest);
        found.map(|(_, source)| source.clone())
    }
}

/// Signs the log's head and holds what it covers for a fetch.
pub(super) async fn export(server: &Server) -> Result<AuditExportDocument, Fault> {
    let exported = server.store.export().await.map_err(Fault::failed)?;
    let file = Checkpoint::to_file(&exported.checkpoint).map_err(Fault::failed)?;
    let checkpoint = String::from_utf8(file).map_err(Fault::failed)?;
    let (digest, bytes) = (exported.digest, exported.source.length());
    server.exports.add(digest, exported.source);
    Ok(AuditExportDocument { checkpoint, digest, bytes })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn the_newest_exports_are_held_and_no_more() {
        let exports = Exports::default();
        let digest = |n: usize| Digest::of(&n.to_le_bytes());
        for n in 0..=EXPORTS_MAX {
            exports.add(digest(n), Source::Bytes(Bytes::from_static(b"log")));
            exports.add(digest(n), Source::Bytes(Bytes::from_static(b"log")));
        }
        assert!(exports.get(digest(0)).is_none());
        assert!((1..=EXPORTS_MAX).all(|n| exports.get(digest(n)).is_some()));
    }
}
