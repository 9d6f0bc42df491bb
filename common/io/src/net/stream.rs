//! One bidirectional stream of a carrier, whatever the carrier is made of.
//!
//! The first byte that the opener sends is the stream's kind, so that one accept loop sorts them:
//!
//! | byte | kind | who opens it | what follows |
//! |---|---|---|---|
//! | `C` | control | the agent, once | frames in both directions (`wire::frame`) |
//! | `B` | blob | either side | one transfer (`net::transfer`) |
//! | `R` | request | an operator | frames: one request, its answers |

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StreamKind {
    /// The connection's one stream of frames; goes before everything else.
    Control,
    /// One blob transfer; goes after everything else.
    Blob,
    /// One command of an operator.
    Request,
}

impl StreamKind {
    /// The stream's first byte.
    #[must_use]
    pub const fn tag(self) -> u8 {
        match self {
            Self::Control => b'C',
            Self::Blob => b'B',
            Self::Request => b'R',
        }
    }

    /// The kind with this first byte.
    #[must_use]
    pub const fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            b'C' => Some(Self::Control),
            b'B' => Some(Self::Blob),
            b'R' => Some(Self::Request),
            _ => None,
        }
    }

    /// Streams of a higher priority are sent first.
    pub(super) const fn priority(self) -> i32 {
        match self {
            Self::Control => 2,
            Self::Request => 1,
            Self::Blob => 0,
        }
    }
}

/// The sending direction of a carrier's stream. `poll_shutdown` ends it in good order.
pub trait SendStream: AsyncWrite + Send + Sync + Unpin {
    /// Ends it at once; what the peer has not read may be lost.
    fn reset(&mut self, code: u32);
}

/// The receiving direction of a carrier's stream.
pub trait RecvStream: AsyncRead + Send + Sync + Unpin {
    /// Tells the peer that nothing more will be read.
    fn stop(&mut self, code: u32);
}

/// Where to write to the peer. Dropped, it ends the stream in good order.
pub struct SendHalf(Box<dyn SendStream>);

impl SendHalf {
    /// Wraps a carrier's stream.
    pub fn new(stream: impl SendStream + 'static) -> Self {
        Self(Box::new(stream))
    }

    /// Says that nothing more follows. What was written is still delivered while the connection
    /// lives.
    ///
    /// # Errors
    /// The stream or its connection is gone.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }

    /// Ends the stream at once; what the peer has not read may be lost.
    pub fn reset(&mut self, code: u32) {
        self.0.reset(code);
    }
}

impl AsyncWrite for SendHalf {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl fmt::Debug for SendHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendHalf")
    }
}

/// Where to read from the peer. Dropped before its end, it tells the peer to stop.
pub struct RecvHalf(Box<dyn RecvStream>);

impl RecvHalf {
    /// Wraps a carrier's stream.
    pub fn new(stream: impl RecvStream + 'static) -> Self {
        Self(Box::new(stream))
    }

    /// Tells the peer that nothing more will be read.
    pub fn stop(&mut self, code: u32) {
        self.0.stop(code);
    }
}

impl AsyncRead for RecvHalf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl fmt::Debug for RecvHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecvHalf")
    }
}

/// One bidirectional stream, its kind already exchanged.
#[derive(Debug)]
pub struct Stream {
    /// What it is for.
    pub kind: StreamKind,
    /// To the peer.
    pub send: SendHalf,
    /// From the peer.
    pub recv: RecvHalf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_known_by_its_first_byte_and_control_goes_first() {
        for kind in [StreamKind::Control, StreamKind::Blob, StreamKind::Request] {
            assert_eq!(StreamKind::from_tag(kind.tag()), Some(kind));
            assert!(StreamKind::Control.priority() >= kind.priority());
            assert!(StreamKind::Blob.priority() <= kind.priority());
        }
        assert_eq!(StreamKind::from_tag(0), None);
    }
}
