//! The numbers of the QUIC carrier, each with its reason.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Once};
use std::time::Duration;

use consilium_common::limits::{BLOB_STREAMS_MAX, CONNECTION_IDLE_MAX, SITES_MAX};
use quinn::congestion::BbrConfig;
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::carrier::ConnectError;

/// A window at most: bytes under way in one direction of a connection, unread by the receiver or
/// unacknowledged at the sender. 2 MiB carry 160 Mbit/s over 100 ms.
pub(super) const WINDOW_BYTES_MAX: u32 = 2 << 20;
/// A window at least, and that of a listener's connection on which no blob moves: frames, and the
/// first bytes of a transfer.
pub(super) const WINDOW_BYTES_MIN: u32 = 128 << 10;
/// All windows of a listener in one direction, as far as `WINDOW_BYTES_MIN` allows: 16 MiB carry
/// 1.3 Gbit/s over 100 ms, a fast line for a coordinator.
pub(super) const WINDOWS_BYTES: u32 = 16 << 20;
/// Room of a connection beyond its window, which one blob alone cannot fill: a control message does not
/// wait for the acknowledgement of bulk, an RTT.
pub(super) const CONTROL_BYTES: u32 = 32 << 10;
/// Streams the peer may have open: its blobs, the control stream, and one to spare.
const STREAMS_MAX: u32 = BLOB_STREAMS_MAX + 2;
/// Largest UDP payload on ordinary networks (Ethernet less IPv6, UDP and a tunnel's header).
const MTU_ORDINARY: u16 = 1452;
/// Largest UDP payload within one machine: ten segments of one GSO send must fit 65,535 bytes.
/// Found by probing like any other: a proxy on this machine may lead to a narrower line.
/// 1.57 GB/s against 0.85 with the ordinary one (measured); above this quinn stalls.
const MTU_LOOPBACK: u16 = 6550;
/// Socket buffers: the system's usual 208 KiB lost 2,100 packets per GB, these none (measured).
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// The dialler says that it lives once a second, some 40 bytes each way. A listener that was killed
/// and is back answers with a reset, so that its peers know within that second instead of with
/// their next heartbeat; and a NAT that forgot the way learns it anew.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// First packets that wait to be looked at: twice a whole consortium's at once, each of which is then
/// accepted, asked to prove its address, or turned away with a word. quinn drops what goes over without
/// one, and its sender tries again after 1, 2 and 4 s: with 256, the last of a thousand agents came back
/// after 26 s (`cargo xtask bench transfer`).
const INCOMING_MAX: usize = 2 * SITES_MAX;
/// Bytes of first packets that wait for handshakes, over all of them.
const INCOMING_BUFFER_BYTES: u64 = 10 << 20;

const _: () = assert!(MTU_LOOPBACK as u32 * 10 <= 65_535, "ten segments fit a GSO send");
const _: () = assert!(WINDOW_BYTES_MIN < WINDOW_BYTES_MAX, "a range");

/// Which end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Opens connections and keeps them alive.
    Dialer,
    /// Waits for them.
    Listener,
}

/// What both ends set for one connection. `peer` decides about the size of packets.
///
/// BBR (draft-cardwell-iccrg-bbr-congestion-control) sends at the rate that the line was seen to
/// carry. CUBIC takes every lost packet for congestion: over 5 % loss and 200 ms it moved a tenth of
/// the bytes in four times the time (`cargo xtask chaos --lines`).
pub(super) fn transport(side: Side, peer: IpAddr) -> TransportConfig {
    let mut config = TransportConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    if is_loopback(peer) {
        discovery.upper_bound(MTU_LOOPBACK);
    } else {
        discovery.upper_bound(MTU_ORDINARY);
    }
    // A listener's windows open when a blob moves (`windows`).
    let window = match side {
        Side::Dialer => WINDOW_BYTES_MAX,
        Side::Listener => WINDOW_BYTES_MIN,
    };
    let window = window + CONTROL_BYTES;
    let idle_ms = u32::try_from(CONNECTION_IDLE_MAX.0).unwrap_or(u32::MAX);
    config
        .mtu_discovery_config(Some(discovery))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(WINDOW_BYTES_MAX))
        .receive_window(VarInt::from_u32(window))
        .send_window(window.into())
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle_ms))))
        .congestion_controller_factory(Arc::new(BbrConfig::default()))
        .keep_alive_interval((side == Side::Dialer).then_some(KEEP_ALIVE));
    config
}

/// Bounds what strangers can make a listener hold before their handshake is done.
pub(super) fn bound_handshakes(config: &mut quinn::ServerConfig) {
    config.max_incoming(INCOMING_MAX).incoming_buffer_size_total(INCOMING_BUFFER_BYTES);
}

/// What an endpoint accepts in one datagram; a listener may have loopback peers.
pub(super) fn endpoint(loopback_peers: bool) -> Result<EndpointConfig, ConnectError> {
    let mut config = EndpointConfig::default();
    if loopback_peers {
        config
            .max_udp_payload_size(MTU_LOOPBACK)
            .map_err(|error| ConnectError::Configuration(error.to_string()))?;
    }
    Ok(config)
}

/// True for this machine's own addresses, also written as IPv4 in IPv6.
pub(super) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// A UDP socket with large buffers. IPv6 wildcard sockets also take IPv4 where the system allows.
pub(super) fn socket(address: SocketAddr) -> Result<std::net::UdpSocket, ConnectError> {
    let failed = |source| refused(address, source);
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))
        .map_err(failed)?;
    if address.is_ipv6()
        && let Err(error) = socket.set_only_v6(false)
    {
        tracing::debug!(%error, "this socket takes IPv6 only");
    }
    set_buffers(&socket);
    socket.bind(&address.into()).map_err(failed)?;
    Ok(socket.into())
}

/// Why there is no socket, in words that tell what to do where that is known.
fn refused(address: SocketAddr, source: std::io::Error) -> ConnectError {
    if source.kind() == ErrorKind::AddrInUse {
        return ConnectError::PortInUse(address);
    }
    if source.kind() == ErrorKind::PermissionDenied && (1..1024).contains(&address.port()) {
        return ConnectError::PortReserved(address);
    }
    ConnectError::Socket { address, source }
}

/// Asks for the buffers and says once per process if the kernel gives less.
fn set_buffers(socket: &Socket) {
    static WARNING: Once = Once::new();
    let asked = socket
        .set_recv_buffer_size(SOCKET_BUFFER_BYTES)
        .and_then(|()| socket.set_send_buffer_size(SOCKET_BUFFER_BYTES));
    // Linux answers with twice what it granted (socket(7), SO_RCVBUF).
    let granted = socket
        .recv_buffer_size()
        .and_then(|receive| Ok(receive.min(socket.send_buffer_size()?) / 2))
        .unwrap_or(0);
    if asked.is_ok() && granted >= SOCKET_BUFFER_BYTES {
        return;
    }
    WARNING.call_once(|| {
        tracing::warn!(
            granted,
            wanted = SOCKET_BUFFER_BYTES,
            "the kernel caps UDP buffers, fast transfers will lose packets: set \
             net.core.rmem_max and net.core.wmem_max to {SOCKET_BUFFER_BYTES}"
        );
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known_in_every_spelling() {
        for text in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert!(is_loopback(text.parse().unwrap()), "{text}");
        }
        for text in ["10.0.0.1", "fe80::1", "::ffff:10.0.0.1"] {
            assert!(!is_loopback(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_port_that_only_root_may_take_is_said_in_words() {
        // Root may take it, so the system is not asked.
        let said = |address: &str| {
            let address = address.parse().unwrap();
            refused(address, ErrorKind::PermissionDenied.into()).to_string()
        };
        assert!(said("127.0.0.1:443").contains("CAP_NET_BIND_SERVICE; take one above"));
        assert!(said("127.0.0.1:4433").contains("cannot open a UDP socket"));
    }

    #[test]
    fn a_port_in_use_is_said_in_words() {
        let held = socket("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = socket(held.local_addr().unwrap()).unwrap_err();
        let port = held.local_addr().unwrap().port();
        assert!(matches!(error, ConnectError::PortInUse(_)), "{error}");
        assert!(error.to_string().contains(&format!("UDP port {port} of 127.0.0.1 is in use")));
    }
}
