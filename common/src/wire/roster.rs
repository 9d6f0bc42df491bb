//! The roster in force, as sites hear it after Welcome and whenever another one comes into force.

use serde::{Deserialize, Serialize};

use crate::signed::Signature;

/// Who belongs to the consortium, signed by its operators (the document type lives with the certificates). A
/// site that does not know this kind goes by the operators' signatures alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterOffer {
    /// The signed bytes.
    pub bytes: Vec<u8>,
    /// Beside it.
    pub signatures: Vec<Signature>,
}
