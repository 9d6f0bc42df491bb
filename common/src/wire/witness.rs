//! What makes sites witnesses of the coordinator's log (PRIVACY.md §5): the head that they keep, and that the
//! next one goes on from it.

use serde::{Deserialize, Serialize};

use crate::audit::Checkpoint;
use crate::audit::tree::Hash;
use crate::signed::Signed;

/// The site asks how the log stands, as a witness of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadWanted {
    /// Records under the head that this site keeps.
    pub witnessed: u64,
}

/// The head of the coordinator's log, and that it goes on from the one that a site keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHead {
    /// Signed by the coordinator's log key.
    pub signed: Signed<Checkpoint>,
    /// Consistency with the log's first `witnessed` records (RFC 6962 §2.1.2), lowest hash first; empty
    /// if the log has fewer.
    pub proof: Vec<Hash>,
}
