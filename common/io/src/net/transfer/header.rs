//! The bytes before and after a blob's bytes. Everything is little-endian.
//!
//! ```text
//! fetch   0   1  1
//!         1  32  digest
//!        33   8  offset: bytes that the requester has
//!
//! push    0   1  2
//!         1  32  digest
//!        33   8  length of the blob
//!        41   2  length of the context, at most 256
//!        43   …  context: what the blob is for, to be judged before a byte of it is sent
//!
//! answer  0   2  status: 0, a number of wire::reject::Code, or one of this file
//!         2   8  position: the blob's length (fetch, end of push) or the offset to send from
//! ```

use std::fmt;
use std::time::Duration;

use consilium_common::ids::Digest;
use consilium_common::limits::BLOB_BYTES_MAX;
use consilium_common::wire::reject::Code;
use tokio::io::AsyncReadExt;

use super::TransferError;
use super::chunks::{in_time, write_all};
use crate::net::stream::{RecvHalf, SendHalf};

/// Bytes of a push's context at most: round, study, section; not data.
pub const CONTEXT_BYTES_MAX: usize = 256;

const FETCH: u8 = 1;
const PUSH: u8 = 2;
const GO_ON: u16 = 0;
const MISSING: u16 = 0xff01;
const BAD_OFFSET: u16 = 0xff02;
const FAILED: u16 = 0xff03;
const ANSWER_BYTES: usize = 10;

/// Why a peer does not serve or take a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It has no such blob.
    Missing,
    /// The blob is shorter than the offset that was asked for.
    BadOffset,
    /// Its disk failed, or it gave up.
    Failed,
    /// For a reason of the federation.
    Code(Code),
    /// A number that this version does not know.
    Unknown(u16),
}

impl Refusal {
    /// The number on the wire; never 0.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Missing => MISSING,
            Self::BadOffset => BAD_OFFSET,
            Self::Failed => FAILED,
            Self::Code(code) => code as u16,
            Self::Unknown(number) => number,
        }
    }

    fn from_number(number: u16) -> Self {
        match number {
            MISSING => Self::Missing,
            BAD_OFFSET => Self::BadOffset,
            FAILED => Self::Failed,
            _ => Code::ALL
                .iter()
                .find(|code| **code as u16 == number)
                .map_or(Self::Unknown(number), |code| Self::Code(*code)),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::BadOffset => f.write_str("bad-offset"),
            Self::Failed => f.write_str("failed"),
            Self::Code(code) => code.fmt(f),
            Self::Unknown(number) => write!(f, "code {number}, which this version does not know"),
        }
    }
}

/// What the opener of a blob stream asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Fetch { digest: Digest, offset: u64 },
    Push { digest: Digest, length: u64, context: Vec<u8> },
}

impl Request {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(43 + CONTEXT_BYTES_MAX);
        match self {
            Self::Fetch { digest, offset } => {
                bytes.push(FETCH);
                bytes.extend_from_slice(&digest.0);
                bytes.extend_from_slice(&offset.to_le_bytes());
            }
            Self::Push { digest, length, context } => {
                bytes.push(PUSH);
                bytes.extend_from_slice(&digest.0);
                bytes.extend_from_slice(&length.to_le_bytes());
                let context_bytes = u16::try_from(context.len()).unwrap_or(u16::MAX);
                bytes.extend_from_slice(&context_bytes.to_le_bytes());
                bytes.extend_from_slice(context);
            }
        }
        bytes
    }
}

/// Reads a request, all of it within `idle`.
pub(super) async fn read_request(
    recv: &mut RecvHalf,
    idle: Duration,
) -> Result<Request, TransferError> {
    let request = in_time(idle, async {
        let kind = recv.read_u8().await?;
        let mut digest = [0; 32];
        recv.read_exact(&mut digest).await?;
        let number = recv.read_u64_le().await?;
        if kind != PUSH {
            return Ok((kind, Digest(digest), number, Ok(Vec::new())));
        }
        let context_bytes = usize::from(recv.read_u16_le().await?);
        if context_bytes > CONTEXT_BYTES_MAX {
            return Ok((kind, Digest(digest), number, Err(context_bytes)));
        }
        let mut context = vec![0; context_bytes];
        recv.read_exact(&mut context).await?;
        Ok((kind, Digest(digest), number, Ok(context)))
    });
    match request.await? {
        (FETCH, digest, offset, _) => Ok(Request::Fetch { digest, offset }),
        (PUSH, _, length, _) if length > BLOB_BYTES_MAX => {
            Err(TransferError::TooLarge { length, max: BLOB_BYTES_MAX })
        }
        (PUSH, digest, length, Ok(context)) => Ok(Request::Push { digest, length, context }),
        (PUSH, _, _, Err(have)) => {
            Err(TransferError::Protocol(format!("a context of {have} bytes, at most 256 exist")))
        }
        (kind, ..) => Err(TransferError::Protocol(format!("request kind {kind} is unknown"))),
    }
}

/// Reads an answer: its position, or the refusal as an error.
pub(super) async fn read_answer(recv: &mut RecvHalf, idle: Duration) -> Result<u64, TransferError> {
    let (status, position) =
        in_time(idle, async { Ok((recv.read_u16_le().await?, recv.read_u64_le().await?)) }).await?;
    match status {
        GO_ON => Ok(position),
        refused => Err(TransferError::Refused(Refusal::from_number(refused))),
    }
}

/// Writes a good answer.
pub(super) async fn answer(
    send: &mut SendHalf,
    position: u64,
    idle: Duration,
) -> Result<(), TransferError> {
    write_all(send, &encode_answer(GO_ON, position), idle).await
}

/// Writes a refusal and ends the stream. That it may not arrive changes nothing for this side.
pub(super) async fn refuse(send: &mut SendHalf, refusal: Refusal, idle: Duration) {
    let written = write_all(send, &encode_answer(refusal.number(), 0), idle).await;
    if let Err(error) = written {
        tracing::debug!(%refusal, %error, "the peer did not wait for the refusal");
        return;
    }
    if let Err(error) = send.finish().await {
        tracing::debug!(%refusal, %error, "the stream was over before the refusal");
    }
}

fn encode_answer(status: u16, position: u64) -> [u8; ANSWER_BYTES] {
    let mut bytes = [0; ANSWER_BYTES];
    let fields = status.to_le_bytes().into_iter().chain(position.to_le_bytes());
    for (to, from) in bytes.iter_mut().zip(fields) {
        *to = from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_requests_and_answers_are_these() {
        let digest = Digest([0xab; 32]);
        let fetch = Request::Fetch { digest, offset: 0x0102 }.encode();
        assert_eq!((fetch[0], &fetch[1..33], fetch.len()), (1, &[0xab; 32][..], 41));
        assert_eq!(fetch[33..], [2, 1, 0, 0, 0, 0, 0, 0]);

        let push = Request::Push { digest, length: 5, context: b"why".to_vec() }.encode();
        assert_eq!(push[0], 2);
        assert_eq!(push[33..], [5, 0, 0, 0, 0, 0, 0, 0, 3, 0, b'w', b'h', b'y']);

        assert_eq!(encode_answer(MISSING, 7), [0x01, 0xff, 7, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn refusals_survive_their_numbers() {
        let own = [Refusal::Missing, Refusal::BadOffset, Refusal::Failed, Refusal::Unknown(9999)];
        let codes = Code::ALL.iter().map(|code| Refusal::Code(*code));
        for refusal in own.into_iter().chain(codes) {
            assert_ne!(refusal.number(), GO_ON);
            assert_eq!(Refusal::from_number(refusal.number()), refusal);
        }
    }
}
