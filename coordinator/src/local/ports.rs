//! A port for a coordinator that will be killed and started again on it.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::UdpSocket;

use super::LocalError;

/// Ports for coordinators: below those that systems give to sockets without a port of their own
/// (Linux: 32,768 and up), so that no client takes one while its coordinator is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// Ports that are tried before the system is asked for any.
const PORTS_TRIED: usize = 64;

/// A loopback address that was free a moment ago.
pub(super) fn free_address() -> Result<String, LocalError> {
    let address = |port| UdpSocket::bind(("127.0.0.1", port))?.local_addr();
    let drawn = (0..PORTS_TRIED).find_map(|_| address(draw_port()).ok());
    let address = drawn.map_or_else(|| address(0), Ok);
    address.map(|address| address.to_string()).map_err(LocalError::file("cannot bind", "127.0.0.1"))
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
    fn an_address_is_free_and_out_of_reach_of_clients() {
        for _ in 0..100 {
            let address: std::net::SocketAddr = free_address().unwrap().parse().unwrap();
            assert!(PORTS.contains(&address.port()), "{address}");
            UdpSocket::bind(address).unwrap();
        }
    }
}
