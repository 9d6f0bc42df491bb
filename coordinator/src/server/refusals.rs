//! Refused peers: said in the log of the program at each time, and in the log of record once per
//! peer and code, so that nobody can fill the disk by knocking.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use consilium_common::audit::Record;
use consilium_common::audit::record::Refusal;
use consilium_common::limits::SITES_MAX;
use consilium_common::wire::reject::Code;

use crate::store::Store;

/// Peers that were refused since the start.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<BTreeSet<(String, Code)>>);

impl Refusals {
    /// Notes that `peer` was refused.
    pub(super) async fn note(&self, store: &dyn Store, peer: String, code: Code, detail: &str) {
        tracing::warn!(%peer, %code, "refused: {detail}");
        self.record(store, peer, code, detail).await;
    }

    /// The same for what the program's log tells elsewhere.
    pub(super) async fn record(&self, store: &dyn Store, peer: String, code: Code, detail: &str) {
        if !self.is_new(&peer, code) {
            return;
        }
        let (code, detail) = (code.to_string(), detail.to_owned());
        let record = Record::Refusal(Refusal { peer, code, detail });
        if let Err(error) = store.append(&record).await {
            tracing::warn!(%error, "the refusal is not in the log");
        }
    }

    fn is_new(&self, peer: &str, code: Code) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.len() < SITES_MAX && known.insert((peer.to_owned(), code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_recorded_once_a_code_and_never_without_bound() {
        let refusals = Refusals::default();
        assert!(refusals.is_new("st-mary", Code::NotInRoster));
        assert!(!refusals.is_new("st-mary", Code::NotInRoster));
        assert!(refusals.is_new("st-mary", Code::WrongRole));
        for n in 0..2 * SITES_MAX {
            refusals.is_new(&format!("site-{n}"), Code::WrongRole);
        }
        assert!(!refusals.is_new("one-more", Code::WrongRole));
    }
}
