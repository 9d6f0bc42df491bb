//! Frames: length u32 · protocol u8 · kind u16 · flags u8 · body, little-endian. Sans-I/O.
//!
//! `length` counts what follows it (4 + body). [`Decoder`] takes bytes as they come and gives whole
//! frames; it never holds more than one frame and what was read with it.

use crate::limits::FRAME_BODY_BYTES_MAX;

/// The protocol's version in every frame.
pub const PROTOCOL: u8 = 1;
/// Flag bit 0: a receiver that does not know the kind must close the connection.
pub const FLAG_MUST_KNOW: u8 = 1;
/// Bytes before the body.
pub const FRAME_HEADER_BYTES: usize = 8;
const AFTER_LENGTH: usize = FRAME_HEADER_BYTES - 4;

/// One frame, its body not yet decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Number in the registry of [`super::messages`].
    pub kind: u16,
    /// Flag bits.
    pub flags: u8,
    /// bincode of the kind's struct.
    pub body: Vec<u8>,
}

/// Why bytes are no frame; the stream cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length that no frame has.
    #[error("a frame claims {0} bytes; 4 to {max} is possible", max = FRAME_BODY_BYTES_MAX + 4)]
    Length(u32),
    /// Another protocol version.
    #[error("the peer speaks protocol {0}, this version speaks {PROTOCOL}")]
    Protocol(u8),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Cut,
}

impl Frame {
    /// The frame's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + self.body.len());
        let length = u32::try_from(AFTER_LENGTH + self.body.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_le_bytes());
        out.push(PROTOCOL);
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.push(self.flags);
        out.extend_from_slice(&self.body);
        out
    }

    /// Whether a receiver must know the kind.
    #[must_use]
    pub fn must_know(&self) -> bool {
        self.flags & FLAG_MUST_KNOW != 0
    }
}

/// Bytes in, frames out.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// An empty decoder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes read from the stream. Call [`Decoder::next_frame`] until it gives `None` before
    /// reading more, so that memory stays bounded.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it has arrived.
    ///
    /// # Errors
    /// The bytes are no frame: the stream cannot go on.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<FRAME_HEADER_BYTES>() else {
            return self.check_early();
        };
        let [l0, l1, l2, l3, protocol, k0, k1, flags] = *header;
        let body_len = Self::body_len(u32::from_le_bytes([l0, l1, l2, l3]))?;
        if protocol != PROTOCOL {
            return Err(FrameError::Protocol(protocol));
        }
        let Some(body) = rest.get(..body_len) else {
            return Ok(None);
        };
        let kind = u16::from_le_bytes([k0, k1]);
        let frame = Frame { kind, flags, body: body.to_vec() };
        self.buffer.drain(..FRAME_HEADER_BYTES + body_len);
        Ok(Some(frame))
    }

    /// To be called when the stream has ended.
    ///
    /// # Errors
    /// It ended inside a frame.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.buffer.is_empty() { Ok(()) } else { Err(FrameError::Cut) }
    }

    fn body_len(length: u32) -> Result<usize, FrameError> {
        usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_sub(AFTER_LENGTH))
            .filter(|body| *body <= FRAME_BODY_BYTES_MAX)
            .ok_or(FrameError::Length(length))
    }

    /// A wrong length is refused as soon as its four bytes are there.
    fn check_early(&self) -> Result<Option<Frame>, FrameError> {
        if let Some(length) = self.buffer.first_chunk::<4>() {
            Self::body_len(u32::from_le_bytes(*length))?;
        }
        Ok(None)
    }
}
