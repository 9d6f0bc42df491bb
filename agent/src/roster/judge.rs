//! Whether a roster that the coordinator shows can follow the one that this site goes by, and what it changes.
//! Pure.

use std::fmt;

use consilium_certs::consortium::Consortium;
use consilium_certs::roster::{Roster, RosterError};
use consilium_common::ids::SiteId;
use consilium_common::signed::Signed;
use serde::{Deserialize, Serialize};

use super::Kept;

/// Why a roster is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// Too few operators signed it, or it is another consortium's.
    #[error("the coordinator shows a roster that does not hold: {0}")]
    Unsigned(#[from] RosterError),
    /// It is older than the one that this site goes by.
    #[error(
        "the coordinator shows roster version {told}, this site goes by version {known}: was the \
         coordinator brought back from an older copy?"
    )]
    Older {
        /// As shown.
        told: u64,
        /// As kept.
        known: u64,
    },
    /// Operators signed two of one version.
    #[error(
        "the coordinator shows another roster of version {0} than the one that this site goes by, and both \
         are signed by the operators: ask them"
    )]
    Two(u64),
}

/// What a roster changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Sites that come.
    pub added: Vec<SiteId>,
    /// Sites that go.
    pub removed: Vec<SiteId>,
    /// Sites with another key than before.
    pub other_key: Vec<SiteId>,
}

impl Change {
    /// From one roster to the next; from none all come.
    #[must_use]
    pub fn between(before: Option<&Roster>, after: &Roster) -> Self {
        let mut change = Self::default();
        for (site, key) in after.sites() {
            match before.and_then(|before| before.site_key(site)) {
                None => change.added.push(site.clone()),
                Some(known) if known != key => change.other_key.push(site.clone()),
                Some(_) => {}
            }
        }
        let gone = before.into_iter().flat_map(Roster::sites).map(|(site, _)| site);
        change.removed = gone.filter(|site| !after.contains(site)).cloned().collect();
        change
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("with ", &self.added),
            ("without ", &self.removed),
            ("with another key for ", &self.other_key),
        ];
        let parts = parts.into_iter().filter(|(_, sites)| !sites.is_empty());
        let words: Vec<String> = parts
            .map(|(word, sites)| {
                let names: Vec<&str> = sites.iter().map(SiteId::as_str).collect();
                format!("{word}{}", names.join(", "))
            })
            .collect();
        if words.is_empty() {
            f.write_str("with the same sites")
        } else {
            f.write_str(&words.join("; "))
        }
    }
}

/// The roster in `told`, if it can follow `kept` or is that one again.
///
/// # Errors
/// One variant of [`Doubt`] per cause.
pub(super) fn judge(
    kept: Option<&Kept>,
    told: &Signed<Roster>,
    consortium: &Consortium,
) -> Result<Roster, Doubt> {
    let roster = Roster::verified(told, consortium)?;
    let Some(kept) = kept else {
        return Ok(roster);
    };
    let (told_version, known) = (roster.version(), kept.roster.version());
    if told_version < known {
        return Err(Doubt::Older { told: told_version, known });
    }
    if told_version == known && told.bytes != kept.signed.bytes {
        return Err(Doubt::Two(known));
    }
    Ok(roster)
}
