//! Who a peer is: certificates, PEM files, keys, the consortium, the roster, names, and the reasons
//! that peers give for ending a connection.

use std::sync::LazyLock;

use consilium_agent::config::Endpoint;
use consilium_certs::ca::Ca;
use consilium_certs::consortium::Consortium;
use consilium_certs::credentials::{Credentials, ROOT_PEM, TLS_KEY, TLS_PEM};
use consilium_certs::handshake::{HandshakeProblem, Whose};
use consilium_certs::identity::Identity;
use consilium_certs::issue::{MACHINE_LENGTH, PERSON_LENGTH};
use consilium_certs::keys::{load, load_public, store};
use consilium_certs::roster::Roster;
use consilium_certs::tls::{ALPN_AGENT, ALPN_OPERATOR, admit, peer_identity};
use consilium_certs::validity::Validity;
use consilium_common::ids::{ConsortiumId, Digest, OperatorId, SiteId, StudyId, Version};
use consilium_common::limits::{SIGNATURES_MAX, SITES_MAX};
use consilium_common::signed::{Document, PublicKey, SecretKey};
use consilium_common::time::WallMillis;
use consilium_common::worker::Split;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{join, parts, scratch, shown, text};

/// When all of this happens.
const NOW: WallMillis = WallMillis(1_764_000_000_000);

/// tls.pem, root.pem and tls.key of a coordinator and a site, made anew in each process.
static BUNDLES: LazyLock<[[Vec<u8>; 3]; 2]> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let thorax: ConsortiumId = "thorax".parse().unwrap();
    let mut ca = Ca::init(&folder.path().join("ca"), &thorax, 1, NOW).unwrap();
    ca.issue_operator(&"ada".parse().unwrap(), PERSON_LENGTH, NOW).unwrap();
    let hosts = ["fl.example".to_owned(), "127.0.0.1".to_owned()];
    let coordinator = ca.issue_coordinator(&hosts, MACHINE_LENGTH, NOW).unwrap();
    let site = ca.issue_site(&"st-mary".parse().unwrap(), MACHINE_LENGTH, NOW).unwrap();
    let files = |folder: &std::path::Path| {
        [TLS_PEM, ROOT_PEM, TLS_KEY].map(|name| std::fs::read(folder.join(name)).unwrap())
    };
    [files(&coordinator.folder), files(&site.folder)]
});

/// A certificate names one identity, whose text names it too.
pub(super) fn certificate(bytes: &[u8]) {
    let certificate = CertificateDer::from(bytes);
    match Identity::of_certificate(&certificate) {
        Ok(identity) => {
            assert_eq!(identity.to_string().parse().as_ref(), Ok(&identity));
            assert_eq!(
                peer_identity(Some(std::slice::from_ref(&certificate))).as_ref(),
                Ok(&identity)
            );
            for alpn in [ALPN_AGENT, ALPN_OPERATOR, b"h3"] {
                if let Err(error) = admit(&identity, Some(alpn)) {
                    shown(&error, bytes);
                }
            }
        }
        Err(error) => shown(&error, bytes),
    }
    if let Ok(validity) = Validity::of_certificate(&certificate) {
        shown(&validity.standing(NOW), bytes);
    }
}

/// tls.pem, root.pem and tls.key of a bundle; one that is good now is not before or after its time.
pub(super) fn credentials(bytes: &[u8]) {
    let [chain, root, key] = parts(bytes);
    let folder = scratch::folder("bundle");
    for (name, bytes) in [(TLS_PEM, chain), (ROOT_PEM, root), (TLS_KEY, key)] {
        scratch::write_at(&folder.join(name), bytes);
    }
    match Credentials::load(&folder, NOW) {
        Ok(credentials) => {
            let Validity { from, until } = credentials.validity;
            assert!(from <= NOW && NOW <= until);
            for wrong in [WallMillis(from.0 - 1000), WallMillis(until.0 + 1000)] {
                shown(&Credentials::load(&folder, wrong).unwrap_err(), &[0; 512]);
            }
        }
        Err(error) => shown(&error, &vec![0; bytes.len() + 256]),
    }
}

/// Key files, secret and public.
pub(super) fn keys(bytes: &[u8]) {
    let path = scratch::write("site.key", bytes);
    match load(&path) {
        Ok(key) => assert_eq!(key.public().to_string().parse().as_ref(), Ok(&key.public())),
        Err(error) => shown(&error, &vec![0; bytes.len() + 256]),
    }
    match load_public(&path) {
        Ok(key) => assert_eq!(key.to_string().parse::<PublicKey>().as_ref(), Ok(&key)),
        Err(error) => shown(&error, &vec![0; bytes.len() + 256]),
    }
}

/// A consortium that is read is the same when written and read again.
pub(super) fn consortium(bytes: &[u8]) {
    let path = scratch::write("consortium.toml", bytes);
    match Consortium::load(&path) {
        Ok(consortium) => {
            assert!((1..=SIGNATURES_MAX).contains(&consortium.operators_needed));
            assert!(consortium.operator_keys().len() <= SIGNATURES_MAX);
            drop(consortium.require_operators());
            consortium.store(&path).unwrap();
            assert_eq!(Consortium::load(&path).unwrap(), consortium);
        }
        Err(error) => shown(&error, &vec![0; bytes.len() + 256]),
    }
}

/// A roster has at most so many sites, each with a key of its own, and survives its text.
pub(super) fn roster(bytes: &[u8]) {
    match Roster::parse(bytes) {
        Ok(roster) => {
            let mut keys: Vec<_> = roster.sites().map(|(_, key)| key).collect();
            keys.sort_unstable();
            keys.dedup();
            assert!(keys.len() == roster.sites().count() && keys.len() <= SITES_MAX);
            assert_eq!(Roster::parse(&roster.to_toml().unwrap()), Ok(roster));
        }
        Err(error) => shown(&error, bytes),
    }
}

/// Names, digests, versions, keys, endpoints, splits: a text that is accepted comes back.
pub(super) fn names(bytes: &[u8]) {
    let Some(text) = text(bytes) else {
        return;
    };
    name::<SiteId>(text);
    name::<StudyId>(text);
    name::<OperatorId>(text);
    name::<ConsortiumId>(text);
    name::<Digest>(text);
    name::<Version>(text);
    name::<PublicKey>(text);
    name::<Identity>(text);
    name::<Endpoint>(text);
    name::<Split>(text);
}

fn name<T>(text: &str)
where
    T: std::str::FromStr<Err: std::fmt::Display> + ToString + PartialEq,
{
    match text.parse::<T>() {
        Ok(name) => assert!(name.to_string().parse().is_ok_and(|again: T| again == name)),
        Err(error) => shown(&error, text.as_bytes()),
    }
}

/// Why a peer ended the connection: eight bytes of code, then its words. They become one line.
pub(super) fn close_reason(bytes: &[u8]) {
    let Some((code, reason)) = bytes.split_first_chunk() else {
        return;
    };
    let (code, reason) = (u64::from_le_bytes(*code), String::from_utf8_lossy(reason));
    for whose in [Whose::Ours, Whose::Peers] {
        if let Some(problem) = HandshakeProblem::from_quic(code, &reason, whose) {
            let told = problem.to_string();
            assert!(!told.contains(char::is_control) && told.len() < 4096, "{told:?}");
        }
    }
}

/// Certificates are made anew in each process; the committed corpus keeps some of them.
pub(super) fn certificates() -> Vec<Vec<u8>> {
    let chains = BUNDLES.iter().flat_map(|[chain, root, _]| [chain, root]);
    let certificates = chains.flat_map(|pem| CertificateDer::pem_slice_iter(pem));
    certificates.map(|certificate| certificate.unwrap().to_vec()).collect()
}

pub(super) fn bundles() -> Vec<Vec<u8>> {
    let whole = BUNDLES.iter().map(|[chain, root, key]| join(&[chain, root, key]));
    let other_key = BUNDLES.iter().map(|[chain, root, _]| join(&[chain, root, b"no key"]));
    let other_root = BUNDLES.iter().map(|[chain, _, key]| join(&[chain, chain, key]));
    whole.chain(other_key).chain(other_root).collect()
}

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

pub(super) fn key_files() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.key");
    store(&path, &key(1)).unwrap();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    vec![read("log.key"), read("log.pub"), b"ed25519-secret:00".to_vec()]
}

pub(super) fn consortiums() -> Vec<Vec<u8>> {
    let path = scratch::path("seed-consortium.toml");
    let mut written = Vec::new();
    let mut consortium = Consortium::new("thorax".parse().unwrap(), key(9).public(), 2).unwrap();
    for (name, n) in [("ada", 1), ("bob", 2)] {
        consortium.store(&path).unwrap();
        written.push(std::fs::read(&path).unwrap());
        consortium = consortium.with_operator(&name.parse().unwrap(), key(n).public()).unwrap();
    }
    consortium.store(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let shared = text.replace(&key(2).public().to_string(), &key(1).public().to_string());
    let later = text.replace("format = 1", "format = 2");
    let none = text.replace("operators_needed = 2", "operators_needed = 0");
    let operator = |n: usize| format!("o{n} = \"{}\"\n", key(1).public());
    let many: String = (0..=SIGNATURES_MAX).map(operator).collect();
    let many = [text.split_once("ada = ").unwrap().0.to_owned(), many].concat();
    written.extend([text, shared, later, none, many].map(String::into_bytes));
    written
}

pub(super) fn rosters() -> Vec<Vec<u8>> {
    let empty = Roster::new("thorax".parse().unwrap());
    let one = empty.with_site(&"st-mary".parse().unwrap(), key(1).public()).unwrap();
    let two = one.with_site(&"charite".parse().unwrap(), key(2).public()).unwrap();
    let text = String::from_utf8(two.to_toml().unwrap()).unwrap();
    let shared = text.replace(&key(2).public().to_string(), &key(1).public().to_string());
    let later = text.replace("format = 1", "format = 2");
    // A name more than a coordinator serves; the one key is refused only after the count.
    let site = |n: usize| format!("s{n} = \"{}\"\n", key(1).public());
    let head = text.split_once("charite").unwrap().0;
    let many = [head.to_owned(), (0..=SITES_MAX).map(site).collect()].concat();
    let written = [empty, one, two].map(|roster| roster.to_toml().unwrap());
    [written.to_vec(), [shared, later, many].map(String::into_bytes).to_vec()].concat()
}

pub(super) fn all_names() -> Vec<Vec<u8>> {
    let (digest, key) = (Digest([0xab; 32]).to_string(), key(1).public().to_string());
    [
        "st-mary",
        "v7",
        "7",
        &digest,
        &key,
        "consilium://thorax/site/st-mary",
        "consilium://thorax/operator/ada",
        "consilium://thorax/auditor/grace",
        "consilium://thorax/researcher/rosa",
        "consilium://thorax/coordinator",
        "fl.example:443",
        "[::1]:4433",
        "iid",
        "dirichlet:0.3",
        "-",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

pub(super) fn close_reasons() -> Vec<Vec<u8>> {
    let alerts = [42, 43, 45, 46, 48, 116, 120, 255_u64];
    let with = |code: u64| [code.to_le_bytes().as_slice(), b"in words\n"].concat();
    alerts.iter().map(|alert| with(0x100 + alert)).chain([with(0)]).collect()
}
