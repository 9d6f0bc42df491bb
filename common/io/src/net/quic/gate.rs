//! Whom a listener lets begin a handshake. It is asked before any cryptography is spent on a peer.

use std::fmt;
use std::net::IpAddr;

/// Decides by address.
pub trait Gate: Send + Sync + fmt::Debug {
    /// Handshakes from there are rationed: the address must prove itself first (RFC 9000 §8.1.2), so
    /// that nobody can use up the ration in another's name.
    fn rations(&self, address: IpAddr) -> bool;

    /// Whether a handshake from a rationed address may begin now.
    fn admits(&self, address: IpAddr) -> bool;
}

/// Lets everybody pass.
#[derive(Debug)]
pub(super) struct Open;

impl Gate for Open {
    fn rations(&self, _address: IpAddr) -> bool {
        false
    }

    fn admits(&self, _address: IpAddr) -> bool {
        true
    }
}

/// The peer, unless it has to prove its address or to wait. Who has to wait is not answered: its own
/// repetitions (RFC 9002 §6.2) try again for it, and slow down as they do.
pub(super) fn pass(
    gate: &dyn Gate,
    incoming: quinn::Incoming,
    peer: IpAddr,
) -> Option<quinn::Incoming> {
    if !gate.rations(peer) {
        return Some(incoming);
    }
    if !incoming.remote_address_validated() && incoming.may_retry() {
        if let Err(error) = incoming.retry() {
            tracing::debug!(%peer, %error, "could not ask the address to prove itself");
        }
        return None;
    }
    if gate.admits(peer) {
        return Some(incoming);
    }
    tracing::trace!(%peer, "a handshake has to wait");
    incoming.ignore();
    None
}
