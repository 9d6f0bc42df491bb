//! Bad identities at every door of a running coordinator: none gets a word in, and each leaves a line in
//! the coordinator's log that says what was wrong.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is a failed test"
)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use consilium_certs::ca::Ca;
use consilium_certs::credentials::Credentials;
use consilium_certs::enrolling::Pinned;
use consilium_certs::issue::{MACHINE_LENGTH, PERSON_LENGTH};
use consilium_certs::tls::{ALPN_AGENT, ALPN_ENROL, ALPN_OPERATOR, client_config, enrol_config};
use consilium_common::enrol::{EnrolRequest, RenewRequest, Secret};
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::time::{Clock, WallMillis};
use consilium_common::wire::codec;
use consilium_common::wire::enrol::{Answer, Ask, KIND_ANSWER, KIND_ASK};
use consilium_common::wire::messages::{Hello, Message};
use consilium_common::wire::operator::{KIND_END, KIND_REQUEST, Request};
use consilium_coordinator::local::Policy;
use consilium_io::SystemClock;
use consilium_io::net::{Carrier, FrameReader, FrameWriter, QuicDialer, StreamKind};
use consilium_tests::harness::{World, pause};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

const PATIENCE: Duration = Duration::from_secs(10);
const DAY_MS: u64 = 24 * 3_600_000;

/// What an intruder shows.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

/// A certificate authority whose certificates say whatever the test likes.
struct Forger {
    issuing: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Forger {
    /// With the keys of the CA in `folder`.
    fn at(folder: &Path) -> Self {
        let issuing = CertificateDer::from_pem_file(folder.join("issuing/issuing.pem")).unwrap();
        let key = std::fs::read_to_string(folder.join("issuing/issuing.key")).unwrap();
        let key = KeyPair::from_pem(&key).unwrap();
        let issuer = Issuer::from_ca_cert_der(&issuing, key).unwrap();
        Self { issuing, issuer }
    }

    /// A certificate of these names, changed by `change`.
    fn forge(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Shown {
        let mut params = honest(uris);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        Shown { chain: vec![made.der().clone(), self.issuing.clone()], key }
    }
}

/// What the CA would write of a site, but for the names.
fn honest(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2090, 1, 1);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let uri = |uri: &&str| SanType::URI(Ia5String::try_from(*uri).unwrap());
    params.subject_alt_names = uris.iter().map(uri).collect();
    params
}

/// The coordinator and what its log says.
struct Door {
    world: World,
    address: SocketAddr,
    site: String,
    /// A client's configuration whose server side is right.
    base: ClientConfig,
    pinned: Pinned,
    /// What the log did not say.
    amiss: Mutex<Vec<String>>,
}

impl Door {
    fn new() -> Self {
        let world = World::with(1, &["thorax"], Policy::Within);
        let line = format!("ca = {:?}\n", world.root().join("ca.sock"));
        world
            .edit(&world.root().join("coordinator/consilium.toml"), |text| format!("{text}{line}"));
        let mut world = world;
        world.federation.start_coordinator().unwrap();
        let site = world.federation.sites()[0].name.to_string();
        let ours = credentials(&world, &format!("site/{site}"));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::open());
        let base = Arc::unwrap_or_clone(client_config(&ours, clock).unwrap());
        let pinned = Pinned { root: ours.root_fingerprint(), consortium: ours.identity.consortium };
        let address = world.federation.address().parse().unwrap();
        Self { world, address, site, base, pinned, amiss: Mutex::default() }
    }

    fn log(&self) -> String {
        self.world.log_of("coordinator")
    }

    /// The intruder comes, says what is asked of it, and hears no word; the log says why.
    async fn refuses(&self, name: &str, shown: Option<Shown>, alpn: &[u8], said: &str) {
        let before = self.log().len();
        let heard = self.comes(shown, alpn).await;
        assert!(!heard, "{name}: was answered");
        self.logged(name, before, said);
    }

    fn logged(&self, name: &str, before: usize, said: &str) {
        let mut new = String::new();
        for _ in 0..60 {
            new = self.log().get(before..).unwrap_or_default().to_owned();
            if !new.is_empty() && new.contains(said) {
                return;
            }
            pause(50);
        }
        self.amiss.lock().unwrap().push(format!("{name}: {said:?} is not in {new:?}"));
    }

    fn stop(self) {
        let amiss = self.amiss.into_inner().unwrap();
        self.world.stop();
        assert!(amiss.is_empty(), "{amiss:#?}");
    }

    /// Whether it heard anything but a refusal.
    async fn comes(&self, shown: Option<Shown>, alpn: &[u8]) -> bool {
        let mut config = self.base.clone();
        config.alpn_protocols = if alpn.is_empty() { vec![] } else { vec![alpn.to_vec()] };
        config.client_auth_cert_resolver = match shown {
            Some(Shown { chain, key }) => {
                let der = PrivatePkcs8KeyDer::from(key.serialize_der());
                let der = PrivateKeyDer::from(der);
                let provider = rustls::crypto::aws_lc_rs::default_provider();
                let key = provider.key_provider.load_private_key(der).unwrap();
                Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)))
            }
            None => Arc::new(Nobody),
        };
        let dialer = QuicDialer::bind(self.address).unwrap();
        let host = self.address.ip().to_string();
        let connecting = dialer.connect(self.address, &host, Arc::new(config), PATIENCE);
        let Ok(carrier) = connecting.await else { return false };
        let talk = async {
            if alpn == ALPN_OPERATOR {
                self.asks(&*carrier).await
            } else {
                self.greets(&*carrier, 0).await
            }
        };
        tokio::time::timeout(PATIENCE, talk).await.unwrap_or(false)
    }

    /// Says hello with a clock that is `off` milliseconds ahead; whether it is welcome.
    async fn greets(&self, carrier: &dyn Carrier, off: i64) -> bool {
        let Ok(stream) = carrier.open(StreamKind::Control).await else { return false };
        let mut writer = FrameWriter::new(stream.send);
        let wall = WallMillis(SystemClock::open().wall().0.saturating_add_signed(off));
        let agent = "intruder".into();
        let hello: Message = Hello { agent, wall, accepted: vec![], witnessed: 0 }.into();
        if writer.write(&hello.to_frame().unwrap()).await.is_err() {
            return false;
        }
        let mut reader = FrameReader::new(stream.recv);
        match reader.next().await {
            Ok(Some(frame)) => {
                !matches!(Message::from_frame(&frame), Ok(Some(Message::Refused(_))))
            }
            _ => false,
        }
    }

    /// Asks for the status; whether there is an answer.
    async fn asks(&self, carrier: &dyn Carrier) -> bool {
        let Ok(stream) = carrier.open(StreamKind::Request).await else { return false };
        let mut writer = FrameWriter::new(stream.send);
        let asked = codec::frame(KIND_REQUEST, &Request::Status { study: None }).unwrap();
        if writer.write(&asked).await.is_err() || writer.finish().await.is_err() {
            return false;
        }
        let mut reader = FrameReader::new(stream.recv);
        matches!(reader.next().await, Ok(Some(frame)) if frame.kind <= KIND_END)
    }

    /// Asks at the door of those who enrol; what it is refused with.
    async fn enrols(&self, ask: &Ask) -> String {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::open());
        let config = enrol_config(&self.pinned, clock).unwrap();
        let dialer = QuicDialer::bind(self.address).unwrap();
        let host = self.address.ip().to_string();
        let carrier = dialer.connect(self.address, &host, config, PATIENCE).await.unwrap();
        let stream = carrier.open(StreamKind::Request).await.unwrap();
        let mut writer = FrameWriter::new(stream.send);
        writer.write(&codec::frame(KIND_ASK, ask).unwrap()).await.unwrap();
        writer.finish().await.unwrap();
        let frame = FrameReader::new(stream.recv).next().await.unwrap().unwrap();
        assert_eq!(frame.kind, KIND_ANSWER);
        match codec::decode(&frame.body).unwrap() {
            Answer::Refused { message } => message,
            other @ (Answer::Waiting { .. } | Answer::Granted(_) | Answer::Renewed { .. }) => {
                format!("was answered: {other:?}")
            }
        }
    }
}

#[derive(Debug)]
struct Nobody;

impl rustls::client::ResolvesClientCert for Nobody {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

fn credentials(world: &World, bundle: &str) -> Credentials {
    let folder = world.root().join("ca/issued").join(bundle);
    Credentials::load(&folder, SystemClock::open().wall()).unwrap()
}

/// A bundle's own chain and key.
fn shown(folder: &Path) -> Shown {
    let chain = CertificateDer::pem_file_iter(folder.join("tls.pem")).unwrap();
    let key = std::fs::read_to_string(folder.join("tls.key")).unwrap();
    Shown { chain: chain.map(Result::unwrap).collect(), key: KeyPair::from_pem(&key).unwrap() }
}

/// Another CA of the same name, and a bundle of the same site under it.
fn other_ca(folder: &Path, site: &str) -> PathBuf {
    let now = SystemClock::open().wall();
    let mut ca = Ca::init(&folder.join("other"), &"local".parse().unwrap(), 1, now).unwrap();
    ca.issue_operator(&"ada".parse().unwrap(), PERSON_LENGTH, now).unwrap();
    ca.issue_site(&site.parse().unwrap(), MACHINE_LENGTH, now).unwrap().folder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "a line for each identity")]
async fn no_certificate_but_the_right_one_opens_a_door() {
    let door = Door::new();
    let ca = door.world.root().join("ca");
    let (forger, issued) = (Forger::at(&ca), ca.join("issued"));
    let name = door.site.clone();
    let own = format!("consilium://local/site/{name}");
    let (own, site) = (own.as_str(), issued.join("site").join(&name));
    let forge = |change: fn(&mut CertificateParams)| Some(forger.forge(&[own], change));
    let names = |uris: &[&str]| Some(forger.forge(uris, |_| {}));
    let of = |bundle: &str| Some(shown(&issued.join(bundle)));
    let elsewhere = other_ca(door.world.root(), &name);
    let other = || shown(&elsewhere);
    let cut = |change: fn(&mut Vec<u8>)| {
        let mut shown = forger.forge(&[own], |_| {});
        let mut bytes = shown.chain[0].to_vec();
        change(&mut bytes);
        shown.chain[0] = CertificateDer::from(bytes);
        Some(shown)
    };
    assert!(door.comes(of(&format!("site/{name}")), ALPN_AGENT).await, "the right one is welcome");

    // Times.
    let a = ALPN_AGENT;
    door.refuses("expired", forge(|p| p.not_after = date_time_ymd(2024, 1, 1)), a, "expired").await;
    let tomorrow = forge(|p| p.not_before = date_time_ymd(2080, 1, 1));
    door.refuses("not yet valid", tomorrow, a, "not valid yet").await;
    let backwards = forge(|p| (p.not_before, p.not_after) = (p.not_after, p.not_before));
    door.refuses("ends before it begins", backwards, a, "no connection").await;

    // Issuers.
    door.refuses("another CA of the same name", Some(other()), a, "UnknownIssuer").await;
    let mut with_root = other();
    let root = elsewhere.join("root.pem");
    with_root.chain.push(CertificateDer::from_pem_file(root).unwrap());
    door.refuses("another CA with its root", Some(with_root), a, "UnknownIssuer").await;
    let mut mixed = other();
    mixed.chain[1] = forger.issuing.clone();
    door.refuses("another CA under our issuing certificate", Some(mixed), a, "no connection").await;
    let key = KeyPair::generate().unwrap();
    let made = honest(&[own]).self_signed(&key).unwrap();
    let alone = Shown { chain: vec![made.der().clone()], key };
    door.refuses("self-signed", Some(alone), a, "no connection").await;
    let parent = shown(&site);
    let below = Issuer::from_ca_cert_der(&parent.chain[0], parent.key);
    if let Ok(below) = below {
        let key = KeyPair::generate().unwrap();
        let made = honest(&["consilium://local/site/eve"]).signed_by(&key, &below).unwrap();
        let chain = vec![made.der().clone(), parent.chain[0].clone(), forger.issuing.clone()];
        let shown = Some(Shown { chain, key });
        door.refuses("issued by a site", shown, a, "no connection").await;
    }
    let mut bare = forger.forge(&[own], |_| {});
    bare.chain.truncate(1);
    door.refuses("without the issuing certificate", Some(bare), a, "UnknownIssuer").await;
    let mut turned = forger.forge(&[own], |_| {});
    turned.chain.reverse();
    door.refuses("chain turned round", Some(turned), a, "no connection").await;

    // Uses.
    let server = forge(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    door.refuses("a server's", server, a, "extended key usage").await;
    let code = forge(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]);
    door.refuses("for code", code, a, "extended key usage").await;
    let authority = forge(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    door.refuses("a CA's", authority, a, "no connection").await;
    door.refuses("the coordinator's own", of("coordinator"), a, "extended key usage").await;

    // Bytes.
    let flipped = cut(|bytes| {
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
    });
    door.refuses("a flipped bit", flipped, a, "no connection").await;
    door.refuses("cut short", cut(|bytes| bytes.truncate(100)), a, "no connection").await;
    door.refuses("bytes behind it", cut(|bytes| bytes.extend([0; 3])), a, "no connection").await;
    door.refuses("no bytes", cut(Vec::clear), a, "no connection").await;
    let stolen = Shown { key: KeyPair::generate().unwrap(), ..shown(&site) };
    door.refuses("somebody else's certificate", Some(stolen), a, "no connection").await;

    // Names.
    door.refuses("no name", names(&[]), a, "NoName").await;
    let dns =
        forge(|p| p.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())]);
    door.refuses("a DNS name alone", dns, a, "NoName").await;
    let two = names(&[own, "consilium://local/coordinator"]);
    door.refuses("two names", two, a, "SeveralNames(2)").await;
    for (what, uri, said) in [
        ("an unknown role", "consilium://local/king/eve", "UnknownRole"),
        ("no role", "consilium://local", "UnknownRole"),
        ("no name after the role", "consilium://local/site", "MissingName"),
        ("a name that is a path", "consilium://local/site/..", "name: \"..\""),
        ("a name that goes on", "consilium://local/site/eve/x", "TrailingParts"),
        ("a name in capitals", "consilium://local/site/EVE", "name: \"EVE\""),
        ("another consortium", "consilium://cardio/site/eve", "OtherConsortium"),
        ("another consortium's operator", "consilium://cardio/operator/ada", "OtherConsortium"),
    ] {
        door.refuses(what, names(&[uri]), a, said).await;
    }

    // Roles and membership.
    for (what, uri) in [
        ("an operator at the agents' door", "consilium://local/operator/ada"),
        ("an auditor at the agents' door", "consilium://local/auditor/eve"),
        ("a researcher at the agents' door", "consilium://local/researcher/rosa"),
        ("a coordinator at the agents' door", "consilium://local/coordinator"),
    ] {
        door.refuses(what, names(&[uri]), a, "wrong-role").await;
    }
    door.refuses("a site at the operators' door", names(&[own]), ALPN_OPERATOR, "wrong-role").await;
    let coordinator = names(&["consilium://local/coordinator"]);
    let what = "a coordinator at the operators' door";
    door.refuses(what, coordinator, ALPN_OPERATOR, "wrong-role").await;
    let stranger = names(&["consilium://local/site/eve"]);
    door.refuses("a site outside the roster", stranger, a, "not-in-roster").await;
    let renamed = format!("{own}-2");
    door.refuses("a site that took another name", names(&[&renamed]), a, "not-in-roster").await;

    // No certificate, or no protocol of ours.
    door.refuses("nobody at the agents' door", None, a, "showed no certificate").await;
    door.refuses("nobody at the operators' door", None, ALPN_OPERATOR, "showed no certificate")
        .await;
    door.refuses("another protocol", of(&format!("site/{name}")), b"h3", "NoApplicationProtocol")
        .await;
    let old = of(&format!("site/{name}"));
    door.refuses("a protocol of tomorrow", old, b"consilium/2", "NoApplicationProtocol").await;
    door.refuses(
        "an agent at the door of those who enrol",
        names(&[own]),
        ALPN_ENROL,
        "no question",
    )
    .await;
    door.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_tokens_and_keys_that_are_not_right_open_none_either() {
    let door = Door::new();
    let site = door.world.root().join("ca/issued/site").join(&door.site);
    for (what, off) in
        [("a day ahead", DAY_MS.cast_signed()), ("a day behind", -DAY_MS.cast_signed())]
    {
        let before = door.log().len();
        let mut config = door.base.clone();
        config.alpn_protocols = vec![ALPN_AGENT.to_vec()];
        let dialer = QuicDialer::bind(door.address).unwrap();
        let host = door.address.ip().to_string();
        let carrier =
            dialer.connect(door.address, &host, Arc::new(config), PATIENCE).await.unwrap();
        assert!(!door.greets(&*carrier, off).await, "a clock {what}");
        door.logged(what, before, "clock-skew");
    }

    let now = SystemClock::open().wall();
    let key = |n: u8| SecretKey::from_seed(&[n; 32]);
    let enrol = |name: &str, consortium: &str, by: u8, signer: u8, secret: u8| {
        let request = EnrolRequest {
            consortium: consortium.parse().unwrap(),
            site: name.parse().unwrap(),
            site_key: key(by).public(),
            csr: vec![1, 2, 3],
        };
        let signed = Signed::sign(request.to_bytes().unwrap(), &key(signer));
        Ask::Enrol { secret: Secret::new([secret; 32]), signed }
    };
    let renew = |name: &str, consortium: &str, by: &SecretKey, at: WallMillis| {
        let (site, consortium) = (name.parse().unwrap(), consortium.parse().unwrap());
        let request = RenewRequest { consortium, site, csr: vec![1, 2, 3], at };
        Ask::Renew { signed: Signed::sign(request.to_bytes().unwrap(), by) }
    };
    let own = consilium_certs::keys::load(&site.join("site.key")).unwrap();
    for (what, ask, said) in [
        ("a token that nobody made", enrol("eve", "local", 1, 1, 9), "token is not known"),
        ("a site that nobody knows renews", renew("eve", "local", &key(1), now), "no site eve"),
        ("a site renews by another key", renew(&door.site, "local", &key(1), now), "signed by 0"),
        ("another consortium's site", renew(&door.site, "cardio", &own, now), "another consortium"),
        // The signature holds; the CA would judge the rest, and there is none.
        ("no CA", renew(&door.site, "local", &own, now), "does not answer"),
    ] {
        let before = door.log().len();
        let told = door.enrols(&ask).await;
        assert!(told.contains(said), "{what}: {told}");
        door.logged(what, before, "not enrolled");
    }
    door.stop();
}
