//! The roster: site → site key, versioned, signed by the operators. Membership comes from it alone:
//! a certificate opens a connection, the roster lets a site into a cohort.
//!
//! ```toml
//! format = 1
//! consortium = "thorax"
//! version = 3
//!
//! [sites]
//! st-mary = "ed25519:…"
//! ```

use std::collections::BTreeMap;

use consilium_common::ids::{ConsortiumId, SiteId};
use consilium_common::limits::SITES_MAX;
use consilium_common::signed::{Document, PublicKey, Signed, SignedError};
use serde::{Deserialize, Serialize};

use crate::consortium::Consortium;

/// Its name in the CA's folder and at the coordinator; the signatures are in `roster.sig`.
pub const ROSTER_FILE: &str = "roster.toml";
const FORMAT: u32 = 1;

/// Who belongs to the consortium, and the key of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roster {
    format: u32,
    consortium: ConsortiumId,
    version: u64,
    sites: BTreeMap<SiteId, PublicKey>,
}

/// Why a roster was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// Not the expected text; a name that stands twice is refused here too.
    #[error("not a roster: {0}")]
    Malformed(String),
    /// Written by a later release.
    #[error("the roster has format {0}, this release reads {FORMAT}: update Consilium here")]
    Format(u32),
    /// More sites than a coordinator serves.
    #[error("the roster has {0} sites, at most {SITES_MAX} are possible")]
    TooManySites(usize),
    /// One key would count as two sites.
    #[error("sites {0} and {1} have the same key: each needs its own")]
    SharedKey(SiteId, SiteId),
    /// A site's key is long-lived; a new one is a new site or a deliberate removal first.
    #[error("site {0} is in the roster with another key: remove it first if its key was lost")]
    OtherKey(SiteId),
    /// Too few operators signed it, or somebody changed it.
    #[error("the roster is refused: {0}")]
    Signatures(#[from] SignedError),
    /// The operators sign for more than one consortium, and this roster is the other's.
    #[error("the roster is of consortium {theirs}, and this is {ours}")]
    OtherConsortium {
        /// The roster's.
        theirs: ConsortiumId,
        /// The one expected.
        ours: ConsortiumId,
    },
}

impl Roster {
    /// A roster without sites, version 1.
    #[must_use]
    pub fn new(consortium: ConsortiumId) -> Self {
        Self { format: FORMAT, consortium, version: 1, sites: BTreeMap::new() }
    }

    /// The roster in `signed`, if enough of the consortium's operators signed it and it is the
    /// consortium's.
    ///
    /// # Errors
    /// [`RosterError::Signatures`] or [`RosterError::OtherConsortium`].
    pub fn verified(signed: &Signed<Self>, by: &Consortium) -> Result<Self, RosterError> {
        let roster = signed.verify(&by.operator_keys(), by.operators_needed)?;
        if roster.consortium == by.name {
            return Ok(roster);
        }
        Err(RosterError::OtherConsortium { theirs: roster.consortium, ours: by.name.clone() })
    }

    /// Whose roster it is.
    #[must_use]
    pub fn consortium(&self) -> &ConsortiumId {
        &self.consortium
    }

    /// Grows with each change: a peer that knows a later one refuses an earlier one.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The key of `site`, if it belongs.
    #[must_use]
    pub fn site_key(&self, site: &SiteId) -> Option<&PublicKey> {
        self.sites.get(site)
    }

    /// Whether `site` belongs.
    #[must_use]
    pub fn contains(&self, site: &SiteId) -> bool {
        self.sites.contains_key(site)
    }

    /// All sites in the order of their names.
    pub fn sites(&self) -> impl Iterator<Item = (&SiteId, &PublicKey)> {
        self.sites.iter()
    }

    /// The next version, with one site more; the same roster if it has the site with this key.
    ///
    /// # Errors
    /// The site has another key, another site has this key, or there are too many sites.
    pub fn with_site(&self, site: &SiteId, key: PublicKey) -> Result<Self, RosterError> {
        match self.site_key(site) {
            Some(known) if *known == key => return Ok(self.clone()),
            Some(_) => return Err(RosterError::OtherKey(site.clone())),
            None => {}
        }
        let mut next = self.clone();
        next.version = self.version.saturating_add(1);
        next.sites.insert(site.clone(), key);
        next.checked()
    }

    /// The next version, without `site`.
    #[must_use]
    pub fn without_site(&self, site: &SiteId) -> Self {
        let mut next = self.clone();
        if next.sites.remove(site).is_some() {
            next.version = self.version.saturating_add(1);
        }
        next
    }

    /// The same sites under another version.
    #[must_use]
    pub fn with_version(self, version: u64) -> Self {
        Self { version, ..self }
    }

    /// Its text: fields and sites in a fixed order, so that one roster has one text.
    ///
    /// # Errors
    /// [`RosterError::Malformed`] if a version does not fit TOML's integers.
    pub fn to_toml(&self) -> Result<Vec<u8>, RosterError> {
        toml::to_string(self)
            .map(String::into_bytes)
            .map_err(|error| RosterError::Malformed(error.to_string()))
    }

    fn checked(self) -> Result<Self, RosterError> {
        if self.format != FORMAT {
            return Err(RosterError::Format(self.format));
        }
        if self.sites.len() > SITES_MAX {
            return Err(RosterError::TooManySites(self.sites.len()));
        }
        let mut owners = BTreeMap::new();
        for (site, key) in &self.sites {
            if let Some(other) = owners.insert(key, site) {
                return Err(RosterError::SharedKey(other.clone(), site.clone()));
            }
        }
        Ok(self)
    }
}

impl Document for Roster {
    const DOMAIN: &'static str = "consilium/roster/1";
    type Error = RosterError;

    fn parse(bytes: &[u8]) -> Result<Self, RosterError> {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| RosterError::Malformed(error.to_string()))?;
        let read: Self =
            toml::from_str(text).map_err(|error| RosterError::Malformed(error.to_string()))?;
        read.checked()
    }
}

#[cfg(test)]
mod tests {
    use consilium_common::signed::SecretKey;

    use super::*;

    fn key(n: u16) -> SecretKey {
        let mut seed = [0; 32];
        seed[..2].copy_from_slice(&n.to_le_bytes());
        SecretKey::from_seed(&seed)
    }

    fn site(name: &str) -> SiteId {
        name.parse().unwrap()
    }

    fn two_sites() -> Roster {
        Roster::new("thorax".parse().unwrap())
            .with_site(&site("st-mary"), key(1).public())
            .and_then(|roster| roster.with_site(&site("charite"), key(2).public()))
            .unwrap()
    }

    #[test]
    fn the_text_is_one_for_one_roster_and_comes_back() {
        let roster = two_sites();
        let text = roster.to_toml().unwrap();
        assert_eq!(Roster::parse(&text).unwrap(), roster);
        let golden = format!(
            "format = 1\nconsortium = \"thorax\"\nversion = 3\n\n[sites]\ncharite = \"{}\"\n\
             st-mary = \"{}\"\n",
            key(2).public(),
            key(1).public()
        );
        assert_eq!(String::from_utf8(text).unwrap(), golden);
        assert_eq!(roster.site_key(&site("st-mary")), Some(&key(1).public()));
        assert!(!roster.contains(&site("elsewhere")));
    }

    #[test]
    fn each_change_is_a_version_and_nothing_else_is() {
        let roster = two_sites();
        let same = roster.with_site(&site("st-mary"), key(1).public()).unwrap();
        assert_eq!(same, roster);
        let less = roster.without_site(&site("st-mary"));
        assert_eq!((less.version(), less.contains(&site("st-mary"))), (4, false));
        assert_eq!(less.without_site(&site("st-mary")), less);
    }

    #[test]
    fn duplicate_names_and_keys_and_too_many_sites_are_refused() {
        let roster = two_sites();
        let shared = roster.with_site(&site("other"), key(1).public());
        assert!(matches!(shared, Err(RosterError::SharedKey(..))));
        let other = roster.with_site(&site("st-mary"), key(3).public());
        assert_eq!(other, Err(RosterError::OtherKey(site("st-mary"))));
        let text = String::from_utf8(roster.to_toml().unwrap()).unwrap();
        let twice = text.replace("charite", "st-mary");
        assert!(matches!(Roster::parse(twice.as_bytes()), Err(RosterError::Malformed(_))));
        let one_key = text.replace(&key(2).public().to_string(), &key(1).public().to_string());
        assert!(matches!(Roster::parse(one_key.as_bytes()), Err(RosterError::SharedKey(..))));
        let mut many = roster;
        for n in 0..SITES_MAX {
            let n = u16::try_from(n).unwrap();
            many.sites.insert(site(&format!("site-{n}")), key(n + 10).public());
        }
        let many = Roster::parse(&many.to_toml().unwrap());
        assert_eq!(many, Err(RosterError::TooManySites(SITES_MAX + 2)));
    }

    #[test]
    fn other_formats_unknown_fields_and_noise_are_refused() {
        let text = String::from_utf8(two_sites().to_toml().unwrap()).unwrap();
        let later = text.replace("format = 1", "format = 2");
        assert_eq!(Roster::parse(later.as_bytes()), Err(RosterError::Format(2)));
        for bad in ["", "\u{0}", "version = 1", &text.replace("[sites]", "x = 1\n[sites]")] {
            assert!(matches!(Roster::parse(bad.as_bytes()), Err(RosterError::Malformed(_))));
        }
        assert!(Roster::parse(&[0xff]).is_err());
    }

    fn consortium(name: &str) -> Consortium {
        let mut consortium = Consortium::new(name.parse().unwrap(), key(100).public(), 2).unwrap();
        for (name, n) in [("ada", 101), ("bob", 102), ("eve", 103)] {
            let name = name.parse().unwrap();
            consortium = consortium.with_operator(&name, key(n).public()).unwrap();
        }
        consortium
    }

    #[test]
    fn a_roster_holds_when_k_of_n_operators_signed_it() {
        let thorax = consortium("thorax");
        let mut signed = Signed::<Roster>::sign(two_sites().to_toml().unwrap(), &key(101));
        let sign = |bytes: &[u8], n| key(n).sign(Roster::DOMAIN, bytes);
        signed.signatures.push(sign(&signed.bytes, 7)); // a stranger's counts for nothing
        let one = Roster::verified(&signed, &thorax).unwrap_err();
        let RosterError::Signatures(SignedError::TooFew { have, need, .. }) = one else {
            panic!("{one}")
        };
        assert_eq!((have, need), (1, 2));
        signed.signatures.push(sign(&signed.bytes, 103));
        assert_eq!(Roster::verified(&signed, &thorax).unwrap(), two_sites());
        let other = Roster::verified(&signed, &consortium("cardio")).unwrap_err();
        assert!(matches!(other, RosterError::OtherConsortium { .. }));
        signed.bytes.push(b'\n');
        let forged = Roster::verified(&signed, &thorax).unwrap_err();
        assert!(matches!(forged, RosterError::Signatures(SignedError::Forged(_))));
    }
}
