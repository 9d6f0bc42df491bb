//! The names of things, as types: a string or number that got here was parsed, and stays valid.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::NAME_BYTES_MAX;

/// Why a name or a digest was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The name breaks the rule for sites, studies and people.
    #[error(
        "{what} name {name:?} is not valid: use 1 to {NAME_BYTES_MAX} of a-z, 0-9 and '-', \
         starting with a letter or digit"
    )]
    Name {
        /// Which kind of name.
        what: &'static str,
        /// The text as given (cut to a printable length).
        name: String,
    },
    /// Not 64 hexadecimal digits.
    #[error("{0:?} is not a digest: expected 64 hexadecimal digits")]
    Digest(String),
    /// Neither `7` nor `v7`.
    #[error("{0:?} is not a version: expected a number such as 7 or v7")]
    Version(String),
}

/// True for 1–63 bytes of `a-z 0-9 -`, the first not a dash: safe in paths, URIs, SANs and logs.
fn is_name(text: &str) -> bool {
    let safe = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && !text.starts_with('-')
        && text.as_bytes().iter().all(safe)
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                if is_name(text) {
                    return Ok(Self(text.to_owned()));
                }
                let name = text.chars().take(NAME_BYTES_MAX + 1).collect();
                Err(IdError::Name { what: $what, name })
            }
        }

        impl TryFrom<String> for $type {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// A hospital taking part; it has one agent identity.
    SiteId, "site"
);
name_type!(
    /// The name of a study. A changed file is the next version of the same `StudyId`.
    StudyId, "study"
);
name_type!(
    /// The consortium that a certificate, a roster or a study belongs to.
    ConsortiumId, "consortium"
);
name_type!(
    /// A person or program with a certificate of their own: an operator, who signs and commands on the
    /// consortium's behalf, an auditor or a researcher.
    OperatorId, "operator"
);

/// Counts attempts of a study. Never repeats and never resets, also across study versions.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Round(pub u64);

impl Round {
    /// The round after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts commits of a study: v0 is the initial model.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Version(pub u64);

impl Version {
    /// The version after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("v{}", self.0))
    }
}

impl FromStr for Version {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let digits = text.strip_prefix('v').unwrap_or(text);
        digits.parse().map(Self).map_err(|_| IdError::Version(text.to_owned()))
    }
}

/// A BLAKE3 digest (32 bytes): the name of a blob, a study, a model, a layout.
/// Hexadecimal in text formats, raw bytes on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Digest(#[serde(with = "crate::hex_array")] pub [u8; 32]);

impl Digest {
    /// BLAKE3 of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The first 12 hexadecimal digits: enough for a person to tell two apart.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = hex::encode(self.0);
        text.truncate(12);
        text
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| IdError::Digest(text.chars().take(70).collect()))?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_paths_and_uris() {
        for good in ["a", "st-mary", "0ward", &"x".repeat(63)] {
            assert_eq!(good.parse::<SiteId>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "St-Mary", "a/b", "..", "a b", "ä", &"x".repeat(64)] {
            assert!(bad.parse::<SiteId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn digests_and_versions_survive_text() {
        let digest = Digest::of(b"x");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert!("abc".parse::<Digest>().is_err());
        assert_eq!("v7".parse::<Version>().unwrap(), Version(7));
        assert_eq!("7".parse::<Version>().unwrap().to_string(), "v7");
    }
}
