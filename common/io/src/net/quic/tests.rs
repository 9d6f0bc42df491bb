//! The carrier over the loopback interface, with mutual TLS.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connection::UNKNOWN_KIND;
use super::*;
use crate::net::testing::{ALPN, Authority, PATIENCE, SERVER_NAME, pair};
use crate::net::{CarrierError, StreamKind};

#[tokio::test]
async fn both_ends_know_each_other_and_the_protocol() {
    let pair = pair().await;
    for carrier in [&pair.agent, &pair.coordinator] {
        assert_eq!(carrier.peer_certificates().len(), 1);
        assert_eq!(carrier.alpn(), ALPN);
        assert!(carrier.remote_address().ip().is_loopback());
        assert!(carrier.traffic().sent > 1000 && carrier.traffic().received > 1000);
    }
    assert_ne!(pair.agent.peer_certificates(), pair.coordinator.peer_certificates());
}

#[tokio::test]
async fn one_accept_loop_sorts_streams_by_their_first_byte() {
    let pair = pair().await;
    for kind in [StreamKind::Control, StreamKind::Blob, StreamKind::Request] {
        let mut ours = pair.agent.open(kind).await.unwrap();
        ours.send.write_all(b"to you").await.unwrap();
        ours.send.finish().await.unwrap();
        let mut theirs = pair.coordinator.accept().await.unwrap();
        assert_eq!(theirs.kind, kind);
        let mut text = String::new();
        theirs.recv.read_to_string(&mut text).await.unwrap();
        theirs.send.write_all(b"and back").await.unwrap();
        drop(theirs);
        ours.recv.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "to youand back");
    }
}

#[tokio::test]
async fn the_coordinator_opens_streams_too_and_a_dropped_accept_loses_none() {
    let pair = pair().await;
    for _ in 0..20 {
        let dropped = timeout(Duration::from_micros(50), pair.agent.accept()).await;
        assert!(dropped.is_err());
    }
    let _ours = pair.coordinator.open(StreamKind::Blob).await.unwrap();
    let mut tries = 0;
    let theirs = loop {
        tries += 1;
        assert!(tries < 1_000_000, "the stream was lost");
        // Dropped at every stage of the stream's arrival.
        if let Ok(stream) = timeout(Duration::from_micros(20), pair.agent.accept()).await {
            break stream.unwrap();
        }
    };
    assert_eq!(theirs.kind, StreamKind::Blob);
}

#[tokio::test]
async fn a_stream_of_an_unknown_kind_is_refused_and_the_connection_lives() {
    let pair = pair().await;
    let address = pair.listener.local_address().unwrap();
    // A newer agent: it speaks to the same listener with a kind of its own.
    let authority = Authority::new("ours");
    pair.listener.replace_tls(authority.server(&authority)).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(
        QuicClientConfig::try_from(authority.client("newer", &authority)).unwrap(),
    ));
    config.transport_config(Arc::new(tuning::transport(Side::Dialer, address.ip())));
    let connecting = pair.dialer.endpoint.connect_with(config, address, SERVER_NAME).unwrap();
    let (newer, coordinator) = tokio::join!(connecting, async {
        pair.listener.accept().await.unwrap().finish().await.unwrap()
    });
    let newer = newer.unwrap();
    let (mut send, mut recv) = newer.open_bi().await.unwrap();
    send.write_all(b"?").await.unwrap();
    let (mut good, _recv) = newer.open_bi().await.unwrap();
    good.write_all(b"C").await.unwrap();

    assert_eq!(coordinator.accept().await.unwrap().kind, StreamKind::Control);
    assert_eq!(send.stopped().await.unwrap(), Some(VarInt::from_u32(UNKNOWN_KIND)));
    assert!(recv.read_u8().await.is_err());
    assert!(newer.close_reason().is_none());
}

#[tokio::test]
async fn a_close_tells_the_peer_code_and_reason() {
    let pair = pair().await;
    pair.coordinator.close(5, "replaced");
    let closed = pair.agent.closed().await;
    assert_eq!((closed.by, closed.code, closed.reason.as_str()), (ClosedBy::Peer, 5, "replaced"));
    assert_eq!(pair.coordinator.closed().await.by, ClosedBy::Us);
    assert!(matches!(pair.agent.open(StreamKind::Blob).await, Err(CarrierError::Closed(_))));
    assert!(matches!(pair.agent.accept().await, Err(CarrierError::Closed(_))));
}

#[tokio::test]
async fn shutting_down_closes_in_good_order() {
    let pair = pair().await;
    pair.listener.shut_down(10, "shutting-down").await;
    assert_eq!(pair.agent.closed().await.code, 10);
    assert!(pair.listener.accept().await.is_none());
    pair.dialer.shut_down(0, "done").await;
}

#[tokio::test]
async fn a_listener_that_was_killed_and_comes_back_tells_its_peers_at_once() {
    let authority = Authority::new("ours");
    let bind = |address| {
        let tls = authority.server(&authority);
        QuicListener::bind_lasting(address, tls, &[7; 32])
    };
    let killed = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = killed.local_address().unwrap();
    let dialer = QuicDialer::bind(address).unwrap();
    let tls = authority.client("st-mary", &authority);
    let (agent, coordinator) =
        tokio::join!(dialer.connect(address, SERVER_NAME, tls, PATIENCE), async {
            killed.accept().await.unwrap().finish().await.unwrap()
        });
    let agent = agent.unwrap();
    let mut stream = agent.open(StreamKind::Control).await.unwrap();
    coordinator.accept().await.unwrap();

    // The port is free and nobody was told: as after SIGKILL.
    for _ in 0..2 {
        let elsewhere = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        killed.endpoint.rebind(elsewhere).unwrap();
    }
    let _again = loop {
        if let Ok(listener) = bind(address) {
            break listener;
        }
        tokio::task::yield_now().await; // its connections let go of the socket one by one
    };
    stream.send.write_all(&[0; 64]).await.unwrap();
    let closed = timeout(PATIENCE, agent.closed()).await.unwrap();
    assert!(closed.reason.contains("restarted"), "{closed:?}");
}

#[tokio::test]
async fn a_listener_that_is_back_answers_each_of_a_crowd() {
    let authority = Authority::new("ours");
    let (any, tls) = ("127.0.0.1:0".parse().unwrap(), authority.server(&authority));
    let listener = QuicListener::bind_lasting(any, tls, &[7; 32]).unwrap();
    let stranger = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    stranger.connect(listener.local_address().unwrap()).await.unwrap();
    for nth in 0..100 {
        // Short headers (RFC 9000 §17.3.1) of connections that an earlier process had.
        let mut packet = [nth; 64];
        packet[0] = 0x40;
        stranger.send(&packet).await.unwrap();
    }
    for nth in 0..100 {
        let mut answer = [0; 64];
        let answered = timeout(PATIENCE, stranger.recv(&mut answer)).await;
        let bytes = answered.unwrap_or_else(|_| panic!("{nth} resets and no more")).unwrap();
        assert!(bytes < 64, "a reset is shorter than its cause: {bytes}");
    }
}

#[tokio::test]
async fn a_client_with_a_foreign_certificate_is_refused_in_words() {
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let tls = ours.server(&ours);
    let listener = QuicListener::bind("127.0.0.1:0".parse().unwrap(), tls).unwrap();
    let address = listener.local_address().unwrap();
    let dialer = QuicDialer::bind(address).unwrap();
    let (agent, coordinator) = tokio::join!(
        dialer.connect(address, SERVER_NAME, foreign.client("mallory", &ours), PATIENCE),
        async { listener.accept().await.unwrap().finish().await }
    );
    let text = coordinator.unwrap_err().to_string();
    assert!(text.contains("we refused the peer") && text.contains("UnknownCA"), "{text}");
    // The client believes itself connected until it hears of it.
    let reason = match agent {
        Ok(agent) => agent.closed().await.reason,
        Err(error) => error.to_string(),
    };
    assert!(reason.contains("the peer refused us: TLS alert UnknownCA"), "{reason}");
}

#[tokio::test]
async fn a_server_with_a_foreign_certificate_is_refused_in_words() {
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let tls = foreign.server(&ours);
    let listener = QuicListener::bind("127.0.0.1:0".parse().unwrap(), tls).unwrap();
    let address = listener.local_address().unwrap();
    let dialer = QuicDialer::bind(address).unwrap();
    let (agent, coordinator) = tokio::join!(
        dialer.connect(address, SERVER_NAME, ours.client("st-mary", &ours), PATIENCE),
        async { listener.accept().await.unwrap().finish().await }
    );
    let error = agent.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("we refused the peer"), "{error}");
    let text = coordinator.unwrap_err().to_string();
    assert!(text.contains("the peer refused us"), "{text}");
}

#[tokio::test]
async fn nobody_there_is_said_after_the_callers_patience() {
    let authority = Authority::new("ours");
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let dialer = QuicDialer::bind(address).unwrap();
    let tls = authority.client("st-mary", &authority);
    let patience = Duration::from_millis(200);
    let error = dialer.connect(address, SERVER_NAME, tls, patience).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("no answer within 0.2 s"), "{error}");
}

#[tokio::test]
async fn a_second_listener_on_the_port_is_told_so() {
    let pair = pair().await;
    let authority = Authority::new("ours");
    let address = pair.listener.local_address().unwrap();
    let error = QuicListener::bind(address, authority.server(&authority)).unwrap_err();
    assert!(matches!(error, ConnectError::PortInUse(_)), "{error}");
}

#[tokio::test]
async fn ipv4_and_ipv6_peers_reach_one_dual_stack_listener() {
    let authority = Authority::new("ours");
    let tls = authority.server(&authority);
    let Ok(listener) = QuicListener::bind("[::]:0".parse().unwrap(), tls) else {
        println!("no IPv6 on this machine");
        return;
    };
    let port = listener.local_address().unwrap().port();
    for ip in ["127.0.0.1", "::1"] {
        let address = SocketAddr::new(ip.parse().unwrap(), port);
        let dialer = QuicDialer::bind(address).unwrap();
        let tls = authority.client("st-mary", &authority);
        let (agent, coordinator) =
            tokio::join!(dialer.connect(address, SERVER_NAME, tls, PATIENCE), async {
                listener.accept().await.unwrap().finish().await.unwrap()
            });
        agent.unwrap();
        assert_eq!(coordinator.remote_address().ip(), address.ip());
    }
}

#[tokio::test]
async fn a_crowd_of_handshakes_must_prove_its_address_and_then_is_turned_away() {
    let authority = Authority::new("ours");
    let tls = authority.server(&authority);
    let listener = QuicListener::bind("127.0.0.1:0".parse().unwrap(), tls).unwrap();
    let address = listener.local_address().unwrap();
    let dialer = Arc::new(QuicDialer::bind(address).unwrap());
    let tls = authority.client("st-mary", &authority);
    let dial = || {
        let (dialer, tls) = (Arc::clone(&dialer), Arc::clone(&tls));
        tokio::spawn(async move { dialer.connect(address, SERVER_NAME, tls, PATIENCE).await })
    };
    let (mut dials, mut held) = (Vec::new(), Vec::new());
    while held.len() < HANDSHAKES_MAX {
        dials.push(dial());
        held.push(listener.accept().await.unwrap());
    }
    let one_more = dial();
    let refused = tokio::select! {
        refused = one_more => refused.unwrap().unwrap_err(),
        _ = listener.accept() => panic!("one more handshake than there may be"),
    };
    assert!(matches!(refused, ConnectError::Refused { .. }), "{refused}");

    // The last of those that were let in had to prove its address; its connection works.
    let last = held.pop().unwrap().finish().await.unwrap();
    let agent = dials.pop().unwrap().await.unwrap().unwrap();
    let _stream = agent.open(StreamKind::Control).await.unwrap();
    assert_eq!(last.accept().await.unwrap().kind, StreamKind::Control);

    // A finished handshake makes room.
    let next = dial();
    listener.accept().await.unwrap().finish().await.unwrap();
    next.await.unwrap().unwrap();
}

/// Rations loopback and lets the n-th attempt pass.
#[derive(Debug)]
struct Nth(std::sync::atomic::AtomicUsize);

impl Gate for Nth {
    fn rations(&self, address: IpAddr) -> bool {
        address.is_loopback()
    }

    fn admits(&self, _address: IpAddr) -> bool {
        self.0.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) == 1
    }
}

#[tokio::test]
async fn who_has_to_wait_at_the_gate_comes_in_by_repeating_itself() {
    let authority = Authority::new("ours");
    let tls = authority.server(&authority);
    let listener = QuicListener::bind("127.0.0.1:0".parse().unwrap(), tls).unwrap();
    let address = listener.local_address().unwrap();
    let dialer = QuicDialer::bind(address).unwrap();
    let tls = authority.client("st-mary", &authority);
    let gate = Nth(2.into());
    let (agent, coordinator) =
        tokio::join!(dialer.connect(address, SERVER_NAME, tls, PATIENCE), async {
            listener.accept_past(&gate).await.unwrap().finish().await.unwrap()
        });
    let _stream = agent.unwrap().open(StreamKind::Control).await.unwrap();
    assert_eq!(coordinator.accept().await.unwrap().kind, StreamKind::Control);
    assert_eq!(gate.0.into_inner(), 0, "the second attempt passed");
}

#[tokio::test]
async fn streams_of_unknown_kinds_are_passed_over_until_they_are_a_flood() {
    let authority = Authority::new("ours");
    let tls = authority.server(&authority);
    let listener = QuicListener::bind("127.0.0.1:0".parse().unwrap(), tls).unwrap();
    let address = listener.local_address().unwrap();
    let dialer = QuicDialer::bind(address).unwrap();
    let crypto = QuicClientConfig::try_from(authority.client("st-mary", &authority)).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(crypto));
    let connecting = dialer.endpoint.connect_with(config, address, SERVER_NAME).unwrap();
    let (agent, coordinator) = tokio::join!(connecting, async {
        listener.accept().await.unwrap().finish().await.unwrap()
    });
    let agent = agent.unwrap();
    let opening = async {
        for tag in *b"?C" {
            let (mut send, _recv) = agent.open_bi().await.unwrap();
            send.write_all(&[tag]).await.unwrap();
        }
        while let Ok((mut send, _recv)) = agent.open_bi().await {
            let _stopped = send.write_all(b"?").await;
        }
    };
    let accepting = async {
        assert_eq!(coordinator.accept().await.unwrap().kind, StreamKind::Control);
        let flood = coordinator.accept().await.unwrap_err();
        assert!(matches!(flood, CarrierError::Stream(_)), "{flood}");
        coordinator.close(0, "enough");
    };
    tokio::join!(opening, accepting);
}
