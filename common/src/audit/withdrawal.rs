//! A withdrawal of consent, as it leaves a site: which versions of a study the patient's records went into,
//! and what the site asks for. Nothing in it says whose they were: the name of a report is random, and versions
//! are what the roll calls say of the whole site.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::Version;
use crate::limits::WITHDRAWAL_RANGES_MAX;

/// What a site asks to be done about affected versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remedy {
    /// That it is known.
    None,
    /// That training goes on from a version before them.
    Retrain,
    /// That they are not used any more.
    Retire,
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Retrain => "retrain",
            Self::Retire => "retire",
        })
    }
}

impl FromStr for Remedy {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::None, Self::Retrain, Self::Retire];
        let found = all.into_iter().find(|remedy| remedy.to_string() == text);
        found.ok_or_else(|| format!("{text:?} is no remedy: write none, retrain or retire"))
    }
}

/// Versions that follow one another, both ends among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VersionRange {
    /// The first.
    pub first: Version,
    /// The last.
    pub last: Version,
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first} to {last}") }
    }
}

/// Why versions cannot be those of a withdrawal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionsError {
    /// No version at all.
    #[error("it names no version")]
    None,
    /// More than anybody needs.
    #[error("it names over {WITHDRAWAL_RANGES_MAX} ranges of versions")]
    TooMany,
    /// Not as this program writes them.
    #[error("its versions are not in order, each once, from v1 on")]
    Order,
    /// A version that is not there.
    #[error("it names {have}, the newest version is {newest}")]
    Beyond {
        /// The last one that it names.
        have: Version,
        /// The newest that there is.
        newest: Version,
    },
}

/// These versions as ranges, which lie apart from one another.
#[must_use]
pub fn ranges_of(versions: impl IntoIterator<Item = Version>) -> Vec<VersionRange> {
    let range = |version| VersionRange { first: version, last: version };
    merged(versions.into_iter().map(range))
}

/// The same versions as ranges that lie apart from one another, in order.
#[must_use]
pub fn merged(ranges: impl IntoIterator<Item = VersionRange>) -> Vec<VersionRange> {
    let mut all: Vec<VersionRange> = ranges.into_iter().collect();
    all.sort_unstable();
    let mut merged: Vec<VersionRange> = Vec::new();
    for range in all {
        match merged.last_mut() {
            Some(last) if range.first.0 <= last.last.0.saturating_add(1) => {
                last.last = last.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// Holds ranges against what [`ranges_of`] makes, and against the newest version.
///
/// # Errors
/// One variant of [`VersionsError`] per cause.
pub fn check_ranges(ranges: &[VersionRange], newest: Version) -> Result<(), VersionsError> {
    let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else {
        return Err(VersionsError::None);
    };
    if ranges.len() > WITHDRAWAL_RANGES_MAX {
        return Err(VersionsError::TooMany);
    }
    let apart = ranges.is_sorted_by(|one, next| one.last.0.saturating_add(1) < next.first.0);
    let each = ranges.iter().all(|range| range.first <= range.last);
    if !apart || !each || first.first == Version(0) {
        return Err(VersionsError::Order);
    }
    if last.last > newest {
        return Err(VersionsError::Beyond { have: last.last, newest });
    }
    Ok(())
}

/// Ranges in words.
#[must_use]
pub fn in_words(ranges: &[VersionRange]) -> String {
    let words: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(versions: &[u64]) -> Vec<VersionRange> {
        ranges_of(versions.iter().copied().map(Version))
    }

    #[test]
    fn versions_become_ranges_that_lie_apart() {
        let ranges = of(&[7, 2, 3, 1, 3, 9]);
        assert_eq!(in_words(&ranges), "v1 to v3, v7, v9");
        assert_eq!(check_ranges(&ranges, Version(9)), Ok(()));
        assert_eq!(of(&[]), []);
    }

    #[test]
    fn ranges_that_no_site_makes_are_refused_each_for_its_own_reason() {
        let newest = Version(9);
        let range = |first, last| VersionRange { first: Version(first), last: Version(last) };
        assert_eq!(check_ranges(&[], newest), Err(VersionsError::None));
        for wrong in [
            vec![range(2, 1)],
            vec![range(0, 1)],
            vec![range(1, 2), range(3, 4)],
            vec![range(5, 6), range(1, 2)],
            vec![range(1, u64::MAX), range(1, 2)],
        ] {
            assert_eq!(check_ranges(&wrong, newest), Err(VersionsError::Order), "{wrong:?}");
        }
        let beyond = VersionsError::Beyond { have: Version(10), newest };
        assert_eq!(check_ranges(&[range(3, 10)], newest), Err(beyond));
        let many: Vec<VersionRange> =
            (1..=WITHDRAWAL_RANGES_MAX as u64 + 1).map(|n| range(2 * n, 2 * n)).collect();
        assert_eq!(check_ranges(&many, Version(u64::MAX)), Err(VersionsError::TooMany));
    }

    #[test]
    fn a_remedy_is_one_of_three_words() {
        for remedy in [Remedy::None, Remedy::Retrain, Remedy::Retire] {
            assert_eq!(remedy.to_string().parse(), Ok(remedy));
        }
        assert!("forget".parse::<Remedy>().unwrap_err().contains("retrain"));
    }
}
