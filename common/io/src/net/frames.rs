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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::net::StreamKind;
    use crate::net::testing::pair;

    fn frame(kind: u16, bytes: usize) -> Frame {
        Frame { kind, flags: 0, body: vec![0xab; bytes] }
    }

    #[tokio::test]
    async fn frames_arrive_whole_and_in_order_and_then_the_end() {
        let pair = pair().await;
        let ours = pair.agent.open(StreamKind::Control).await.unwrap();
        let theirs = pair.coordinator.accept().await.unwrap();
        let frames = [frame(1, 0), frame(2, 1 << 20), frame(3, 70_000), frame(4, 5)];
        let sent = frames.clone();
        let writing = tokio::spawn(async move {
            let mut writer = FrameWriter::new(ours.send);
            for frame in &sent {
                writer.write(frame).await.unwrap();
            }
            writer.finish().await.unwrap();
        });
        let mut reader = FrameReader::new(theirs.recv);
        for frame in frames {
            assert_eq!(reader.next().await.unwrap(), Some(frame));
        }
        assert_eq!(reader.next().await.unwrap(), None);
        writing.await.unwrap();
    }

    #[tokio::test]
    async fn dropped_calls_lose_no_bytes() {
        let pair = pair().await;
        let ours = pair.agent.open(StreamKind::Control).await.unwrap();
        let theirs = pair.coordinator.accept().await.unwrap();
        let mut writer = FrameWriter::new(ours.send);
        let mut reader = FrameReader::new(theirs.recv);
        // Nobody reads, so writing must stop half-way through some frame.
        let mut written = 0_u16;
        while timeout(Duration::from_millis(200), writer.write(&frame(written, 1 << 20)))
            .await
            .is_ok()
        {
            written += 1;
            assert!(written < 100, "nothing bounds what is sent unread");
        }
        let reading = tokio::spawn(async move {
            let mut kinds = Vec::new();
            loop {
                match timeout(Duration::from_micros(200), reader.next()).await {
                    Ok(Ok(Some(frame))) => kinds.push((frame.kind, frame.body.len())),
                    Ok(end) => break (end.unwrap(), kinds),
                    Err(_) => {}
                }
            }
        });
        writer.write(&frame(written + 1, 3)).await.unwrap();
        writer.finish().await.unwrap();
        let (end, kinds) = reading.await.unwrap();
        assert_eq!(end, None);
        let mut expected: Vec<_> = (0..=written).map(|kind| (kind, 1 << 20)).collect();
        expected.push((written + 1, 3));
        assert_eq!(kinds, expected);
    }

    #[tokio::test]
    async fn a_stream_that_ends_inside_a_frame_is_an_error() {
        let pair = pair().await;
        let mut ours = pair.agent.open(StreamKind::Control).await.unwrap();
        let theirs = pair.coordinator.accept().await.unwrap();
        ours.send.write_all(&frame(1, 9).encode()[..12]).await.unwrap();
        ours.send.finish().await.unwrap();
        let error = FrameReader::new(theirs.recv).next().await.unwrap_err();
        assert!(matches!(error, FramesError::Frame(FrameError::Cut)), "{error}");
    }
}
