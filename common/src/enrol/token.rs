//! The invitation that a site enrols with: one line of text for a person to copy.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::ids::{ConsortiumId, Digest, SiteId};
use crate::limits::{TEXT_BYTES_MAX, TOKEN_TEXT_BYTES_MAX};
use crate::wire::codec;

const PREFIX: &str = "consilium-token-1-";
/// Bytes of a checksum: a token with a mistyped or lost digit is told from one that is not known.
const CHECK_BYTES: usize = 4;

/// What makes a token worth something: 256 bits from the operating system. The coordinator keeps its
/// hash alone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// From random bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// By which the coordinator knows it: BLAKE3(`consilium/token/1` ‖ secret).
    #[must_use]
    pub fn hash(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"consilium/token/1").update(&self.0);
        Digest(*hasher.finalize().as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(not shown)")
    }
}

/// All that a site needs to find the coordinator, to know it for the right one, and to be let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Whose member the site becomes.
    pub consortium: ConsortiumId,
    /// As which site.
    pub site: SiteId,
    /// Where the coordinator listens: HOST:PORT.
    pub coordinator: String,
    /// SHA-256 of the root certificate (DER): the coordinator's chain must end there.
    pub root: [u8; 32],
    /// Works once.
    pub secret: Secret,
}

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else.
    #[error(
        "this is not a token: expected one line that begins with {PREFIX}, as `consilium site \
         invite` prints it"
    )]
    Form,
    /// Digits were lost or changed.
    #[error("the token was not copied whole: its checksum does not fit. Copy the line again")]
    Damaged,
}

impl fmt::Display for Token {
    /// The line that a person copies: it holds the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = codec::encode(self).map_err(|_| fmt::Error)?;
        let check = checksum(&bytes);
        bytes.extend_from_slice(&check);
        write!(f, "{PREFIX}{}", hex::encode(&bytes))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Form)?;
        if digits.len() > TOKEN_TEXT_BYTES_MAX {
            return Err(TokenError::Form);
        }
        let bytes = hex::decode(digits).map_err(|_| TokenError::Damaged)?;
        let (body, check) =
            bytes.split_at_checked(bytes.len().saturating_sub(CHECK_BYTES)).unwrap_or_default();
        if check != checksum(body) {
            return Err(TokenError::Damaged);
        }
        let token: Self = codec::decode(body).map_err(|_| TokenError::Damaged)?;
        if token.coordinator.len() > TEXT_BYTES_MAX { Err(TokenError::Form) } else { Ok(token) }
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    crc32c::crc32c(bytes).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            consortium: "thorax".parse().unwrap(),
            site: "st-mary".parse().unwrap(),
            coordinator: "fl.example:443".to_owned(),
            root: [3; 32],
            secret: Secret::new([9; 32]),
        }
    }

    #[test]
    fn a_token_survives_its_text_and_a_changed_digit_is_noticed() {
        let text = token().to_string();
        assert_eq!(format!(" {text}\n").parse(), Ok(token()));
        for at in PREFIX.len()..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(other.parse::<Token>(), Err(TokenError::Damaged), "digit {at}");
        }
        for short in [&text[..text.len() - 2], &text[..PREFIX.len()]] {
            assert_eq!(short.parse::<Token>(), Err(TokenError::Damaged));
        }
        for other in ["", "consilium", &text[1..]] {
            assert_eq!(other.parse::<Token>(), Err(TokenError::Form));
        }
    }

    #[test]
    fn the_secret_is_not_printed_by_mistake_and_its_hash_is_its_own() {
        assert!(!format!("{:?}", token()).contains("9, 9"));
        assert_ne!(Secret::new([9; 32]).hash(), Secret::new([8; 32]).hash());
        assert_ne!(Secret::new([9; 32]).hash(), Digest::of(&[9; 32]));
    }
}
