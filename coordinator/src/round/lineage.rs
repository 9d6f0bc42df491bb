//! Which version each version is built on: the one before it, but where an operator went back to an earlier
//! one (`study retrain`). A fold of the log's records; pure.

use std::collections::BTreeMap;

use consilium_common::audit::withdrawal::VersionRange;
use consilium_common::ids::Version;

/// The line of every version down to v0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    /// Versions that are an earlier one again, and which.
    again: BTreeMap<Version, Version>,
}

impl Lineage {
    /// `version` is `from`, an earlier one, again.
    pub fn go_back(&mut self, version: Version, from: Version) {
        debug_assert!(from < version, "a version is built on earlier ones");
        self.again.insert(version, from);
    }

    /// How often training went back.
    #[must_use]
    pub fn len(&self) -> usize {
        self.again.len()
    }

    /// Training never went back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.again.is_empty()
    }

    /// The earlier version that this one is again, if it is one.
    #[must_use]
    pub fn again(&self, version: Version) -> Option<Version> {
        self.again.get(&version).copied()
    }

    /// The version whose round made this one's model; v0 for that.
    #[must_use]
    pub fn origin(&self, version: Version) -> Version {
        std::iter::successors(Some(version), |version| self.again(*version))
            .last()
            .unwrap_or(version)
    }

    /// The version and all that it is built on, the newest range first.
    pub fn of(&self, version: Version) -> impl Iterator<Item = VersionRange> {
        let range = |last| match self.again.range(..=last).next_back() {
            Some((first, _)) => VersionRange { first: *first, last },
            None => VersionRange { first: Version(0), last },
        };
        std::iter::successors(Some(range(version)), move |newer| {
            Some(range(self.again(newer.first)?))
        })
    }

    /// How many rounds of training are in the version: its number, without the versions that it is not
    /// built on and the steps back.
    #[must_use]
    pub fn trainings(&self, version: Version) -> u64 {
        self.of(version).map(|range| range.last.0 - range.first.0).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// v6 is v3 again, v8 is v6 again, v10 is v1 again.
    fn lineage() -> Lineage {
        let mut lineage = Lineage::default();
        for (version, from) in [(6, 3), (8, 6), (10, 1)] {
            lineage.go_back(Version(version), Version(from));
        }
        lineage
    }

    fn line(of: &Lineage, version: u64) -> Vec<(u64, u64)> {
        of.of(Version(version)).map(|range| (range.first.0, range.last.0)).collect()
    }

    #[test]
    fn a_version_is_built_on_those_before_it_but_where_training_went_back() {
        assert_eq!(line(&Lineage::default(), 7), [(0, 7)]);
        let lineage = lineage();
        assert_eq!(line(&lineage, 5), [(0, 5)]);
        assert_eq!(line(&lineage, 7), [(6, 7), (0, 3)]);
        assert_eq!(line(&lineage, 9), [(8, 9), (6, 6), (0, 3)]);
        assert_eq!(line(&lineage, 12), [(10, 12), (0, 1)]);
    }

    #[test]
    fn its_model_was_made_by_the_round_of_the_version_that_it_is_again() {
        let lineage = lineage();
        let origin = |version| lineage.origin(Version(version)).0;
        assert_eq!([5, 6, 7, 8, 10].map(origin), [5, 3, 7, 3, 1]);
        assert_eq!(Lineage::default().origin(Version(0)), Version(0));
    }

    #[test]
    fn rounds_of_training_are_those_of_its_line() {
        let lineage = lineage();
        let trainings = |version| lineage.trainings(Version(version));
        assert_eq!([0, 5, 6, 7, 8, 9, 10, 12].map(trainings), [0, 5, 3, 4, 3, 4, 1, 3]);
    }
}
