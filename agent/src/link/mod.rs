//! The agent's way to the coordinator: one outbound connection, one control stream, blob streams.
//!
//! [`connect`]: name → addresses → QUIC, with our certificate and theirs judged. [`control`]: frames
//! ↔ messages, bounded both ways. [`enrol`]: one question before there is a certificate. [`transfer`]: bases and studies in, updates out, resumable.
//! [`advice`]: what a person can do about a refusal.

pub mod advice;
pub mod connect;
pub mod control;
pub mod enrol;
pub mod transfer;

pub use connect::{Dialer, LinkError};
pub use control::{Control, Heard};
