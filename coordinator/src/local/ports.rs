//! A port for a coordinator that will be killed and started again on it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{TcpListener, UdpSocket};

use super::LocalError;

/// Ports for coordinators: below those that systems give to sockets without a port of their own
/// (Linux: 32,768 and up), so that no client takes one while its coordinator is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Ports that are tried before the machine counts as full.
const PORTS_TRIED: usize = 64;

/// A loopback address that no other federation on this machine is given while this value lives,
/// whether its coordinator runs or not. The coordinator speaks UDP; a TCP socket on the same
/// number, which nobody connects to, is the claim, and ends with this process however it ends.
#[derive(Debug)]
pub(super) struct ClaimedAddress {
    address: String,
    _claim: TcpListener,
}

impl ClaimedAddress {
    pub(super) fn claim() -> Result<Self, LocalError> {
        let mut claimed = Self::try_port(draw_port());
        for _ in 1..PORTS_TRIED {
            claimed = claimed.or_else(|_| Self::try_port(draw_port()));
        }
        claimed.map_err(LocalError::file("cannot bind", "127.0.0.1"))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.address
    }

    fn try_port(port: u16) -> std::io::Result<Self> {
        let claim = TcpListener::bind(("127.0.0.1", port))?;
        let address = UdpSocket::bind(("127.0.0.1", port))?.local_addr()?;
        Ok(Self { address: address.to_string(), _claim: claim })
    }
}

/// Another at each call and in each process: federations of several tests start at once.
fn draw_port() -> u16 {
    let drawn = RandomState::new().build_hasher().finish() % PORTS.len() as u64;
    PORTS.start + u16::try_from(drawn).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_free_out_of_reach_of_clients_and_given_once() {
        let claimed: Vec<_> = (0..100).map(|_| ClaimedAddress::claim().unwrap()).collect();
        let ports = claimed.iter().map(|claimed| {
            let address: std::net::SocketAddr = claimed.as_str().parse().unwrap();
            assert!(PORTS.contains(&address.port()), "{address}");
            UdpSocket::bind(address).unwrap();
            assert!(ClaimedAddress::try_port(address.port()).is_err(), "{address} is claimed");
            address.port()
        });
        assert_eq!(ports.collect::<std::collections::BTreeSet<_>>().len(), claimed.len());
    }
}
