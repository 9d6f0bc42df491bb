//! Real handshakes of the two configurations over in-memory pipes: who gets in, who does not, and
//! in which words either side hears of it.

use std::sync::Arc;

use consilium_common::time::{Clock, Millis, WallMillis};
use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, Error, HandshakeKind, NamedGroup,
    ProtocolVersion, ServerConfig, ServerConnection, SideData,
};

use crate::credentials::Credentials;
use crate::enrolling::Pinned;
use crate::fixture::{NOW, SetClock, Town, credentials, later};
use crate::handshake::{HandshakeProblem, Problem, Whose};
use crate::issue::PERSON_LENGTH;
use crate::tls::{
    ALPN_AGENT, ALPN_ENROL, ALPN_OPERATOR, Door, PeerError, TlsError, admit, client_config,
    enrol_config, fingerprint_of, peer_identity, server_config,
};
use crate::validity::DAY;
use crate::verify;

/// What each end knows after a handshake.
struct Ends {
    client: ClientConnection,
    server: ServerConnection,
    client_error: Option<Error>,
    server_error: Option<Error>,
}

impl Ends {
    fn is_good(&self) -> bool {
        self.client_error.is_none()
            && self.server_error.is_none()
            && !self.client.is_handshaking()
            && !self.server.is_handshaking()
    }

    fn problem_at_server(&self) -> HandshakeProblem {
        HandshakeProblem::from(self.server_error.as_ref().expect("the server refused"))
    }

    fn problem_at_client(&self) -> HandshakeProblem {
        HandshakeProblem::from(self.client_error.as_ref().expect("the client refused"))
    }
}

/// Carries what one end wrote to the other; whether anything was carried.
fn carry<A, B>(
    from: &mut ConnectionCommon<A>,
    to: &mut ConnectionCommon<B>,
    error: &mut Option<Error>,
) -> bool
where
    A: SideData,
    B: SideData,
{
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() && error.is_none() {
        to.read_tls(&mut rest).unwrap();
        *error = to.process_new_packets().err();
    }
    !bytes.is_empty()
}

fn shake(client: Arc<ClientConfig>, server: Arc<ServerConfig>, host: &str) -> Ends {
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let mut ends = Ends {
        client: ClientConnection::new(client, name).unwrap(),
        server: ServerConnection::new(server).unwrap(),
        client_error: None,
        server_error: None,
    };
    loop {
        let there = carry(&mut ends.client, &mut ends.server, &mut ends.server_error);
        let back = carry(&mut ends.server, &mut ends.client, &mut ends.client_error);
        if !there && !back {
            return ends;
        }
    }
}

fn clock() -> Arc<dyn Clock> {
    SetClock::at(NOW)
}

fn meet(client: &Credentials, server: &Credentials) -> Ends {
    let client = client_config(client, clock()).unwrap();
    shake(client, server_config(server, clock()).unwrap(), "localhost")
}

fn meet_at(client: &Credentials, server: &Credentials, at: [WallMillis; 2]) -> Ends {
    let [client_time, server_time] = at;
    let client = client_config(client, SetClock::at(client_time)).unwrap();
    let server = server_config(server, SetClock::at(server_time)).unwrap();
    shake(client, server, "localhost")
}

#[test]
fn a_site_and_its_coordinator_meet_over_tls_13_with_the_hybrid_group() {
    let town = Town::new("thorax");
    let (site, coordinator) = (credentials(&town.site), credentials(&town.coordinator));
    let ends = meet(&site, &coordinator);
    assert!(ends.is_good(), "{:?} {:?}", ends.client_error, ends.server_error);
    assert_eq!(ends.server.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let group = ends.server.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
    assert_eq!(ends.client.negotiated_key_exchange_group().unwrap().name(), group);
    assert_eq!(ends.server.alpn_protocol(), Some(ALPN_AGENT));
    let peer = peer_identity(ends.server.peer_certificates()).unwrap();
    assert_eq!(peer, site.identity);
    assert_eq!(admit(&peer, ends.server.alpn_protocol()), Ok(Door::Agent));
    assert_eq!(peer_identity(ends.client.peer_certificates()).unwrap(), coordinator.identity);
}

#[test]
fn an_operator_comes_through_the_operators_door() {
    let town = Town::new("thorax");
    let ends = meet(&credentials(&town.operator), &credentials(&town.coordinator));
    assert!(ends.is_good());
    let peer = peer_identity(ends.server.peer_certificates()).unwrap();
    assert_eq!(admit(&peer, ends.server.alpn_protocol()), Ok(Door::Operator));
}

#[test]
fn a_researcher_comes_through_the_operators_door_and_no_other() {
    let mut town = Town::new("thorax");
    let rosa = town.ca.issue_researcher(&"rosa".parse().unwrap(), PERSON_LENGTH, NOW).unwrap();
    let ends = meet(&credentials(&rosa), &credentials(&town.coordinator));
    assert!(ends.is_good(), "{:?} {:?}", ends.client_error, ends.server_error);
    let peer = peer_identity(ends.server.peer_certificates()).unwrap();
    assert_eq!(admit(&peer, ends.server.alpn_protocol()), Ok(Door::Operator));
    let refused = admit(&peer, Some(ALPN_AGENT)).unwrap_err().to_string();
    assert!(refused.contains("researcher/rosa"), "{refused}");
}

#[test]
fn the_coordinator_is_reached_by_the_names_in_its_certificate_alone() {
    let town = Town::new("thorax");
    let client = client_config(&credentials(&town.site), clock()).unwrap();
    let server = server_config(&credentials(&town.coordinator), clock()).unwrap();
    assert!(shake(Arc::clone(&client), Arc::clone(&server), "127.0.0.1").is_good());
    let ends = shake(client, server, "elsewhere.example");
    let told = ends.problem_at_client();
    assert!(matches!(told.problem, Problem::OtherHost(_)), "{told}");
    assert!(told.to_string().contains("elsewhere.example"), "{told}");
}

#[test]
fn a_certificate_of_another_root_is_refused_at_both_ends() {
    let (ours, theirs) = (Town::new("thorax"), Town::new("thorax"));
    let ends = meet(&credentials(&theirs.site), &credentials(&ours.coordinator));
    assert_eq!(ends.problem_at_client().problem, Problem::UnknownRoot);
    // The server alone: the client trusts it, and shows a certificate of another CA.
    let mut stranger = credentials(&theirs.site);
    stranger.root = credentials(&ours.site).root;
    let ends = meet(&stranger, &credentials(&ours.coordinator));
    let told = ends.problem_at_server();
    assert_eq!((told.whose, &told.problem), (Whose::Peers, &Problem::UnknownRoot));
    let heard = ends.problem_at_client();
    assert_eq!((heard.whose, &heard.problem), (Whose::Ours, &Problem::UnknownRoot));
    assert!(heard.to_string().contains("root.pem"), "{heard}");
}

#[test]
fn an_expired_certificate_is_refused_by_the_clock_that_was_given() {
    let town = Town::new("thorax");
    let (site, coordinator) = (credentials(&town.site), credentials(&town.coordinator));
    let late = later(Millis(8 * DAY.0));
    let ends = meet_at(&site, &coordinator, [NOW, late]);
    let told = ends.problem_at_server();
    assert!(matches!(told.problem, Problem::Expired(Some(_))), "{told}");
    assert!(told.to_string().contains("expired on 2025-12-01"), "{told}");
    assert_eq!(ends.problem_at_client().problem, Problem::Expired(None));
    let ends = meet_at(&site, &coordinator, [late, NOW]);
    assert!(matches!(ends.problem_at_client().problem, Problem::Expired(Some(_))));
}

#[test]
fn a_certificate_that_has_not_begun_is_refused() {
    let town = Town::new("thorax");
    let early = WallMillis(NOW.0 - DAY.0);
    let ends = meet_at(&credentials(&town.site), &credentials(&town.coordinator), [early, NOW]);
    let told = ends.problem_at_client();
    assert!(matches!(told.problem, Problem::NotYetValid(Some(_))), "{told}");
    assert!(told.to_string().contains("clocks"), "{told}");
}

#[test]
fn a_member_of_another_consortium_under_the_same_root_is_refused_at_both_ends() {
    let town = Town::new("thorax");
    let (site, coordinator) = (credentials(&town.site), credentials(&town.coordinator));
    let mut elsewhere = coordinator.clone();
    elsewhere.identity.consortium = "cardio".parse().unwrap();
    let ends = meet(&site, &elsewhere);
    let told = ends.problem_at_server().to_string();
    assert!(told.contains("consilium://thorax/site/st-mary") && told.contains("cardio"), "{told}");
    assert!(matches!(ends.problem_at_client().problem, Problem::NotAdmitted(_)));
    let mut foreign = site;
    foreign.identity.consortium = "cardio".parse().unwrap();
    let told = meet(&foreign, &coordinator).problem_at_client().to_string();
    assert!(told.contains("not of consortium cardio"), "{told}");
}

#[test]
fn a_site_certificate_on_the_operators_protocol_is_refused_and_the_reverse() {
    let town = Town::new("thorax");
    for (who, asked) in [(&town.site, ALPN_OPERATOR), (&town.operator, ALPN_AGENT)] {
        let us = credentials(who);
        let mut client = ClientConfig::clone(&client_config(&us, clock()).unwrap());
        client.alpn_protocols = vec![asked.to_vec()];
        let server = server_config(&credentials(&town.coordinator), clock()).unwrap();
        let ends = shake(Arc::new(client), server, "localhost");
        assert!(ends.is_good(), "the handshake cannot know");
        let peer = peer_identity(ends.server.peer_certificates()).unwrap();
        let refused = admit(&peer, ends.server.alpn_protocol()).unwrap_err();
        assert!(matches!(refused, PeerError::WrongRole { .. }));
        assert!(refused.to_string().contains(&us.identity.to_string()), "{refused}");
    }
}

#[test]
fn a_peer_without_our_protocol_is_refused() {
    let town = Town::new("thorax");
    let site = credentials(&town.site);
    for asked in [vec![b"h3".to_vec()], vec![]] {
        let mut client = ClientConfig::clone(&client_config(&site, clock()).unwrap());
        client.alpn_protocols.clone_from(&asked);
        let server = server_config(&credentials(&town.coordinator), clock()).unwrap();
        let ends = shake(Arc::new(client), server, "localhost");
        if asked.is_empty() {
            let refused = admit(&site.identity, ends.server.alpn_protocol());
            assert!(matches!(refused, Err(PeerError::UnknownProtocol(_))));
        } else {
            assert_eq!(ends.problem_at_server().problem, Problem::NoCommonProtocol);
            assert_eq!(ends.problem_at_client().problem, Problem::NoCommonProtocol);
        }
    }
}

#[test]
fn a_client_without_a_certificate_is_nobody_to_the_doors_of_members() {
    let town = Town::new("thorax");
    let site = credentials(&town.site);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(site.root).unwrap();
    let time = Arc::new(StandingStill);
    let mut client = ClientConfig::builder_with_details(verify::provider(), time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![ALPN_AGENT.to_vec()];
    let server = server_config(&credentials(&town.coordinator), clock()).unwrap();
    let ends = shake(Arc::new(client), server, "localhost");
    assert!(ends.is_good(), "the handshake serves who enrols, too");
    assert_eq!(peer_identity(ends.server.peer_certificates()), Err(PeerError::NoCertificate));
}

fn pinned(town: &Town, consortium: &str) -> Pinned {
    let root = fingerprint_of(&credentials(&town.coordinator).root);
    Pinned { root, consortium: consortium.parse().unwrap() }
}

fn enrol(pinned: &Pinned, with: &Town, host: &str) -> Ends {
    let client = enrol_config(pinned, clock()).unwrap();
    shake(client, server_config(&credentials(&with.coordinator), clock()).unwrap(), host)
}

#[test]
fn who_enrols_knows_the_coordinator_by_the_root_that_the_token_pins() {
    let town = Town::new("thorax");
    let ends = enrol(&pinned(&town, "thorax"), &town, "localhost");
    assert!(ends.is_good(), "{:?} {:?}", ends.client_error, ends.server_error);
    assert_eq!(ends.server.alpn_protocol(), Some(ALPN_ENROL));
    assert_eq!(peer_identity(ends.server.peer_certificates()), Err(PeerError::NoCertificate));
    // That door is no member's, whoever comes through it.
    let site = credentials(&town.site).identity;
    assert!(matches!(admit(&site, Some(ALPN_ENROL)), Err(PeerError::UnknownProtocol(_))));
}

#[test]
fn who_enrols_refuses_whoever_is_not_that_coordinator() {
    let (town, between) = (Town::new("thorax"), Town::new("thorax"));
    let refused = |ends: Ends| ends.problem_at_client();
    let other_root = refused(enrol(&pinned(&town, "thorax"), &between, "localhost"));
    assert!(other_root.to_string().contains("the token was made for"), "{other_root}");
    let other_host = refused(enrol(&pinned(&town, "thorax"), &town, "elsewhere.example"));
    assert!(matches!(other_host.problem, Problem::OtherHost(_)), "{other_host}");
    let other_name = refused(enrol(&pinned(&town, "cardio"), &town, "localhost"));
    assert!(matches!(other_name.problem, Problem::NotAdmitted(_)), "{other_name}");
    // A site's certificate does not make a coordinator, whatever root comes with it.
    let mut posing = credentials(&town.site);
    posing.identity = credentials(&town.coordinator).identity;
    let client = enrol_config(&pinned(&town, "thorax"), clock()).unwrap();
    let posing = shake(client, server_config(&posing, clock()).unwrap(), "localhost");
    assert_eq!(refused(posing).problem, Problem::OtherUse);
}

#[derive(Debug)]
struct StandingStill;

impl rustls::time_provider::TimeProvider for StandingStill {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_millis(NOW.0)))
    }
}

#[test]
fn no_session_is_ever_resumed_even_by_a_client_that_would() {
    let town = Town::new("thorax");
    let mut eager = ClientConfig::clone(&client_config(&credentials(&town.site), clock()).unwrap());
    eager.resumption = rustls::client::Resumption::in_memory_sessions(16);
    let eager = Arc::new(eager);
    let server_clock = SetClock::at(NOW);
    let config =
        server_config(&credentials(&town.coordinator), Arc::clone(&server_clock) as Arc<dyn Clock>)
            .unwrap();
    for _ in 0..3 {
        let mut ends = shake(Arc::clone(&eager), Arc::clone(&config), "localhost");
        assert!(ends.is_good());
        assert_ne!(ends.server.handshake_kind(), Some(HandshakeKind::Resumed));
        assert_eq!(ends.client.tls13_tickets_received(), 0);
        assert!(ends.client.early_data().is_none());
    }
    // And so an expired certificate cannot ride on an old session.
    server_clock.set(later(Millis(8 * DAY.0)));
    let ends = shake(eager, config, "localhost");
    assert!(matches!(ends.problem_at_server().problem, Problem::Expired(_)));
}

#[test]
fn a_certificate_is_good_for_its_own_end_of_a_connection_alone() {
    // A site's certificate lacks server use, so it fails before its name is looked at …
    let town = Town::new("thorax");
    let mut posing = credentials(&town.site);
    posing.identity = credentials(&town.coordinator).identity;
    let ends = meet(&credentials(&town.site), &posing);
    assert_eq!(ends.problem_at_client().problem, Problem::OtherUse);
    // … and a coordinator's certificate is none for a client.
    let mut client = credentials(&town.coordinator);
    client.identity = credentials(&town.site).identity;
    let ends = meet(&client, &credentials(&town.coordinator));
    assert_eq!(ends.problem_at_server().problem, Problem::OtherUse);
}

#[test]
fn each_bundle_serves_its_own_end() {
    let town = Town::new("thorax");
    let site = server_config(&credentials(&town.site), clock()).unwrap_err();
    assert!(matches!(site, TlsError::WrongBundle { .. }), "{site}");
    let coordinator = client_config(&credentials(&town.coordinator), clock()).unwrap_err();
    assert!(coordinator.to_string().contains("consilium://thorax/coordinator"), "{coordinator}");
}

#[test]
fn both_configurations_serve_quic() {
    use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
    let town = Town::new("thorax");
    let server = server_config(&credentials(&town.coordinator), clock()).unwrap();
    QuicServerConfig::try_from(server).unwrap();
    let client = client_config(&credentials(&town.site), clock()).unwrap();
    QuicClientConfig::try_from(client).unwrap();
}
