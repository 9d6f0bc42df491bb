//! Which versions of a study a withdrawal affects: those that the patient's records went into, and all that
//! are built on one of them ([`Lineage`]). A fold of the log's records; pure.

use std::collections::{BTreeMap, BTreeSet};

use consilium_common::audit::record::Withdrawn;
use consilium_common::audit::withdrawal::{Remedy, VersionRange, merged};
use consilium_common::ids::{Digest, SiteId, Version};
use serde::{Deserialize, Serialize};

use super::lineage::Lineage;

/// What withdrawals say of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affect {
    /// Withdrawn records went into this very version; else into one that it is built on.
    pub directly: bool,
    /// The most that any site asks for.
    pub remedy: Remedy,
}

/// All withdrawals of a study.
#[derive(Debug, Clone, Default)]
pub struct Affected {
    known: BTreeSet<(SiteId, Digest)>,
    /// Versions that withdrawn records went into, by what was asked for. Merged: memory follows the
    /// versions, not the reports.
    direct: BTreeMap<Remedy, Vec<VersionRange>>,
}

impl Affected {
    /// How many were reported.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whether this report of a site stands in the log.
    #[must_use]
    pub fn knows(&self, site: &SiteId, id: Digest) -> bool {
        self.known.contains(&(site.clone(), id))
    }

    /// Takes the next withdrawal of the log.
    pub fn add(&mut self, withdrawn: &Withdrawn) {
        self.known.insert((withdrawn.site.clone(), withdrawn.id));
        let known = self.direct.entry(withdrawn.remedy).or_default();
        *known = merged(known.iter().chain(&withdrawn.versions).copied());
    }

    /// What they say of a version; none if it is not affected. One that is an earlier version again is
    /// what that one is.
    #[must_use]
    pub fn of(&self, version: Version, lineage: &Lineage) -> Option<Affect> {
        let line: Vec<VersionRange> = lineage.of(version).collect();
        let meets = |range: &VersionRange| {
            line.iter().any(|part| part.first <= range.last && range.first <= part.last)
        };
        let asked = self.direct.iter().filter(|(_, ranges)| ranges.iter().any(meets));
        let remedy = asked.map(|(remedy, _)| *remedy).max()?;
        let made = lineage.origin(version);
        let mut direct = self.direct.values().flatten();
        let directly = direct.any(|range| (range.first..=range.last).contains(&made));
        Some(Affect { directly, remedy })
    }
}

#[cfg(test)]
mod tests {
    use consilium_common::audit::withdrawal::ranges_of;

    use super::*;

    fn withdrawn(id: u8, versions: &[u64], remedy: Remedy) -> Withdrawn {
        Withdrawn {
            site: "st-mary".parse().unwrap(),
            id: Digest([id; 32]),
            study: "mnist".parse().unwrap(),
            versions: ranges_of(versions.iter().copied().map(Version)),
            remedy,
        }
    }

    #[test]
    fn every_version_from_the_first_on_is_affected_and_the_most_that_is_asked_holds() {
        let mut all = Affected::default();
        let line = Lineage::default();
        assert_eq!(all.of(Version(3), &line), None);
        all.add(&withdrawn(1, &[2, 3, 6], Remedy::None));
        let affect = |directly, remedy| Some(Affect { directly, remedy });
        let of = |all: &Affected, version| all.of(Version(version), &line);
        assert_eq!(of(&all, 1), None);
        assert_eq!(of(&all, 2), affect(true, Remedy::None));
        assert_eq!(of(&all, 4), affect(false, Remedy::None));
        assert_eq!(of(&all, 6), affect(true, Remedy::None));
        assert_eq!(of(&all, 99), affect(false, Remedy::None));
        all.add(&withdrawn(2, &[4], Remedy::Retire));
        assert_eq!(of(&all, 3), affect(true, Remedy::None));
        assert_eq!(of(&all, 4), affect(true, Remedy::Retire));
        assert_eq!(of(&all, 6), affect(true, Remedy::Retire));
        let site: SiteId = "st-mary".parse().unwrap();
        assert!(all.knows(&site, Digest([2; 32])) && !all.knows(&site, Digest([3; 32])));
    }
    #[test]
    fn a_version_from_which_training_went_back_before_them_is_not_affected() {
        let (mut all, mut line) = (Affected::default(), Lineage::default());
        all.add(&withdrawn(1, &[3, 4], Remedy::Retrain));
        line.go_back(Version(6), Version(2));
        line.go_back(Version(9), Version(4));
        let of = |version| all.of(Version(version), &line);
        let affect = |directly| Some(Affect { directly, remedy: Remedy::Retrain });
        assert_eq!([2, 6, 7, 8].map(of), [None; 4], "v6 is v2 again");
        assert_eq!([5, 10].map(of), [affect(false); 2]);
        assert_eq!(of(9), affect(true), "v9 is v4 again");
    }
}
