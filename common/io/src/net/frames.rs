//! Whole frames on a stream: `wire::frame` says what a frame is, this file moves its bytes.

use consilium_common::wire::frame::{Decoder, Frame, FrameError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stream::{RecvHalf, SendHalf};

/// Bytes asked for in one read: control frames are small.
const READ_BYTES: usize = 16 << 10;

/// Why the stream of frames cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum FramesError {
    /// The peer's bytes are no frames.
    #[error("the peer broke the protocol: {0}")]
    Frame(#[from] FrameError),
    /// The stream or its connection is gone.
    #[error("the stream is gone: {0}")]
    Stream(#[from] std::io::Error),
}

/// Reads frames.
#[derive(Debug)]
pub struct FrameReader {
    recv: RecvHalf,
    decoder: Decoder,
    chunk: Vec<u8>,
}

impl FrameReader {
    /// Reads frames from `recv`.
    #[must_use]
    pub fn new(recv: RecvHalf) -> Self {
        Self { recv, decoder: Decoder::new(), chunk: vec![0; READ_BYTES] }
    }

    /// The next frame; `None` at the end of the stream. A dropped call loses no bytes.
    ///
    /// # Errors
    /// Not a frame, or the stream is gone; both for good.
    pub async fn next(&mut self) -> Result<Option<Frame>, FramesError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            match self.recv.read(&mut self.chunk).await? {
                0 => {
                    self.decoder.finish()?;
                    return Ok(None);
                }
                read => self.decoder.feed(self.chunk.get(..read).unwrap_or_default()),
            }
        }
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct FrameWriter {
    send: SendHalf,
    /// Bytes of the frame that is being sent, and how many of them are.
    pending: Vec<u8>,
    sent: usize,
}

impl FrameWriter {
    /// Writes frames to `send`.
    #[must_use]
    pub fn new(send: SendHalf) -> Self {
        Self { send, pending: Vec::new(), sent: 0 }
    }

    /// Sends a frame. A dropped call may have sent a part of it: the next call sends the rest
    /// first, so the stream stays whole.
    ///
    /// # Errors
    /// The stream is gone.
    pub async fn write(&mut self, frame: &Frame) -> Result<(), FramesError> {
        self.flush().await?;
        self.pending = frame.encode();
        self.sent = 0;
        self.flush().await
    }

    /// Ends the stream in good order.
    ///
    /// # Errors
    /// The stream is gone.
    pub async fn finish(&mut self) -> Result<(), FramesError> {
        self.flush().await?;
        Ok(self.send.finish().await?)
    }

    async fn flush(&mut self) -> Result<(), FramesError> {
        while let Some(rest) = self.pending.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match self.send.write(rest).await? {
                0 => return Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into()),
                sent => self.sent += sent,
            }
        }
        self.pending.clear();
        self.sent = 0;
        Ok(())
    }
}
