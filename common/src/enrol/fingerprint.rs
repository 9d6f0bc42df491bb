//! What an operator and a site's admin read to each other before a request is approved.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::Digest;

/// The first 128 bits of a request's BLAKE3 digest, as eight groups of four hexadecimal digits: to
/// find another request with the same ones takes 2^128 trials.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// Of the request with this digest.
    #[must_use]
    pub fn of(request: Digest) -> Self {
        let mut head = [0; 16];
        head.iter_mut().zip(request.0).for_each(|(to, from)| *to = from);
        Self(head)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<String> = self.0.chunks(2).map(hex::encode).collect();
        f.pad(&groups.join("-"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = String;

    /// Dashes, spaces and capital digits are as people write them.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).collect();
        let mut bytes = [0; 16];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| {
            let shown: String = text.chars().take(80).collect();
            format!("{shown:?} is not a fingerprint: expected eight groups of four digits 0-9 a-f")
        })?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_people_write_it() {
        let fingerprint = Fingerprint::of(Digest::of(b"request"));
        let text = fingerprint.to_string();
        assert_eq!(text.len(), 8 * 4 + 7);
        assert_eq!(text.parse(), Ok(fingerprint));
        assert_eq!(text.to_uppercase().replace('-', " ").parse(), Ok(fingerprint));
        let last = if text.ends_with('0') { "1" } else { "0" };
        let other: Fingerprint = format!("{}{last}", &text[..text.len() - 1]).parse().unwrap();
        assert_ne!(other, fingerprint);
        for bad in ["", "12", &text[1..], &format!("{text}0"), &text.replace('-', "g")] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }
}
