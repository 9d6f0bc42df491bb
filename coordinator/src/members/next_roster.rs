//! The next roster: who was approved comes in, who was revoked goes out, and k operators sign its text.

use std::collections::BTreeMap;

use consilium_certs::roster::Roster;
use consilium_common::audit::Record;
use consilium_common::audit::record::{RosterSet, RosterSigned};
use consilium_common::ids::{Digest, SiteId};
use consilium_common::signed::{KeyId, Signature, Signed};

use super::{MemberError, Members};

/// Signatures of one text that have come so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Signatures {
    of: Option<Digest>,
    by: BTreeMap<KeyId, Signature>,
}

impl Signatures {
    pub(super) fn take(&mut self, signed: &RosterSigned) {
        if self.of != Some(signed.roster) {
            *self = Self { of: Some(signed.roster), by: BTreeMap::new() };
        }
        self.by.insert(signed.signature.key, signed.signature.clone());
    }
}

/// The roster that operators are asked to sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// Its text: the bytes to sign.
    pub text: Vec<u8>,
    /// Its version.
    pub version: u64,
    /// Who comes in.
    pub joins: Vec<SiteId>,
    /// Who goes.
    pub leaves: Vec<SiteId>,
    /// Who has signed it.
    pub signatures: Vec<Signature>,
}

impl Members {
    /// What the roster should become, if anything. One state of the log gives one text, so operators who
    /// sign at different times sign the same.
    ///
    /// # Errors
    /// A roster that cannot be: two sites with one key, or too many.
    pub fn proposal(&self) -> Result<Option<Proposal>, MemberError> {
        let (mut next, mut joins, mut leaves) = (self.roster.clone(), Vec::new(), Vec::new());
        for (site, key) in self.roster.sites() {
            let replaced = self.approved_key(site).is_some_and(|approved| approved != *key);
            if replaced || self.revoked.contains_key(key) {
                next = next.without_site(site);
                leaves.push(site.clone());
            }
        }
        for site in self.applicants.keys() {
            if let Some(key) = self.approved_key(site)
                && next.site_key(site) != Some(&key)
            {
                next = next.with_site(site, key)?;
                joins.push(site.clone());
            }
        }
        if joins.is_empty() && leaves.is_empty() {
            return Ok(None);
        }
        let next = next.with_version(self.roster.version().saturating_add(1));
        let text = next.to_toml()?;
        let signatures = match self.signatures.of {
            Some(digest) if digest == Digest::of(&text) => {
                self.signatures.by.values().cloned().collect()
            }
            _ => Vec::new(),
        };
        Ok(Some(Proposal { text, version: next.version(), joins, leaves, signatures }))
    }

    /// An operator's signature of the proposed text: the record of it, or of the roster itself if it is
    /// the last one needed.
    ///
    /// # Errors
    /// Nothing is proposed, something else is, or no operator signed.
    pub fn may_sign(
        &self,
        text: &[u8],
        signature: &Signature,
        by: &str,
    ) -> Result<Record, MemberError> {
        let proposal =
            self.proposal()?.ok_or_else(|| MemberError::NoProposal(self.roster.version()))?;
        if proposal.text != text {
            return Err(MemberError::OtherRoster(proposal.version));
        }
        let one = Signed::<Roster>::from_parts(text.to_vec(), vec![signature.clone()]);
        one.verify(&self.consortium.operator_keys(), 1)?;
        let mut signatures = proposal.signatures;
        signatures.retain(|known| known.key != signature.key);
        signatures.push(signature.clone());
        let all = Signed::<Roster>::from_parts(text.to_vec(), signatures);
        if Roster::verified(&all, &self.consortium).is_ok() {
            return Ok(Record::Roster(RosterSet { bytes: all.bytes, signatures: all.signatures }));
        }
        let (roster, signature) = (all.digest(), signature.clone());
        Ok(Record::RosterSignature(RosterSigned { roster, signature, by: by.to_owned() }))
    }
}
