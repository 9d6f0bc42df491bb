//! The coordinator's signed word that it *received* an update. The roll call says *counted*.

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, Round, SiteId, StudyId};
use crate::signed::Document;

/// Signed as its JSON bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// 1.
    pub format: u32,
    /// Which study.
    pub study: StudyId,
    /// Digest of the signed study.
    pub study_digest: Digest,
    /// Which round.
    pub round: Round,
    /// From whom.
    pub site: SiteId,
    /// Digest of the update's bytes.
    pub update: Digest,
    /// How many bytes.
    pub bytes: u64,
}

impl Receipt {
    /// The bytes to sign.
    ///
    /// # Errors
    /// A value that JSON cannot hold.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(self)
    }
}

impl Document for Receipt {
    const DOMAIN: &'static str = "consilium/receipt/1";
    type Error = serde_json::Error;
    fn parse(bytes: &[u8]) -> Result<Self, Self::Error> {
        serde_json::from_slice(bytes)
    }
}
