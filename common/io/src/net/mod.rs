//! Connections to authenticated peers, and what travels on them. See the crate's picture.

pub mod carrier;
pub mod frames;
pub mod quic;
mod stream;
#[cfg(test)]
mod testing;
pub mod transfer;

pub use carrier::{Carrier, CarrierError, Closed, ClosedBy, ConnectError, Traffic};
pub use frames::{FrameReader, FrameWriter, FramesError};
pub use quic::{Gate, Handshake, QuicDialer, QuicListener};
pub use stream::{RecvHalf, RecvStream, SendHalf, SendStream, Stream, StreamKind};
