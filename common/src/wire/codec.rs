//! The one place that sets the wire encoding.
//!
//! bincode 2 with a limit on every decode (without one a hostile length aborts the process) and
//! trailing bytes refused. Bulk data never passes here.

use bincode::error::DecodeError;
use serde::{Serialize, de::DeserializeOwned};

use super::frame::{FLAG_MUST_KNOW, Frame};
use crate::limits::FRAME_BODY_BYTES_MAX;

/// Why bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not the message they should be.
    #[error("cannot be decoded: {0}")]
    Decode(String),
    /// More bytes than the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
    /// A message over the limit, or a value the encoding does not know.
    #[error("cannot be encoded: {0}")]
    Encode(String),
    /// Longer than any message.
    #[error("{have} bytes, a message has at most {FRAME_BODY_BYTES_MAX}")]
    TooLong {
        /// Bytes given.
        have: usize,
    },
}

/// Encodes a message.
///
/// # Errors
/// A message over [`FRAME_BODY_BYTES_MAX`].
#[expect(clippy::disallowed_methods, reason = "this module sets the wire encoding")]
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::serde::encode_to_vec(message, bincode::config::standard())
        .map_err(|error| CodecError::Encode(error.to_string()))?;
    let have = bytes.len();
    if have > FRAME_BODY_BYTES_MAX { Err(CodecError::TooLong { have }) } else { Ok(bytes) }
}

/// Encodes a message into a frame of this kind, which the receiver must know.
///
/// # Errors
/// A message over [`FRAME_BODY_BYTES_MAX`].
pub fn frame<T: Serialize>(kind: u16, message: &T) -> Result<Frame, CodecError> {
    Ok(Frame { kind, flags: FLAG_MUST_KNOW, body: encode(message)? })
}

/// Decodes a message that must fill `bytes`.
///
/// # Errors
/// Not the message, over the limit, or with trailing bytes. Never panics, never allocates more than
/// a small multiple of the limit.
#[expect(clippy::disallowed_methods, reason = "this module sets the wire encoding")]
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > FRAME_BODY_BYTES_MAX {
        return Err(CodecError::TooLong { have: bytes.len() });
    }
    let config = bincode::config::standard().with_limit::<FRAME_BODY_BYTES_MAX>();
    let (message, used) = bincode::serde::decode_from_slice(bytes, config)
        .map_err(|error| CodecError::Decode(in_words(error)))?;
    match bytes.len() - used {
        0 => Ok(message),
        trailing => Err(CodecError::Trailing(trailing)),
    }
}

/// bincode prints its errors as Rust values; whoever finds one in a journal reads words.
#[expect(clippy::wildcard_enum_match_arm, reason = "the rest cannot come from these messages")]
fn in_words(error: DecodeError) -> String {
    match error {
        DecodeError::UnexpectedEnd { .. } => "the bytes end before the message does".to_owned(),
        DecodeError::LimitExceeded => "a length in it is over the limit".to_owned(),
        DecodeError::Utf8 { .. } => "a text in it is not UTF-8".to_owned(),
        DecodeError::InvalidBooleanValue(found) => format!("a truth value in it is {found}"),
        DecodeError::Other(words) => words.to_owned(),
        DecodeError::OtherString(words) => words,
        other => other.to_string(),
    }
}
