//! What sites and auditors are shown as evidence: the ledger's records, its exported file, and proofs over
//! Merkle trees.

use consilium_agent::ledger::Ledger;
use consilium_agent::ledger::entry::{
    Connected, Entry, Line, Settled, Stands, Started, StudyStands,
};
use consilium_agent::ledger::export;
use consilium_common::audit::proof::{Prover, verify_consistency, verify_inclusion};
use consilium_common::audit::tree::{Hash, Tree, leaf_hash};
use consilium_common::ids::{Digest, Round, SiteId};
use consilium_common::signed::SecretKey;
use consilium_common::time::WallMillis;

use super::{scratch, shown};

/// Leaves of the trees that proofs are held against.
const LEAVES: u64 = 200;

fn key() -> SecretKey {
    SecretKey::from_seed(&[7; 32])
}

fn site() -> SiteId {
    "st-mary".parse().unwrap()
}

/// A payload under any kind: two bytes of kind, then the payload.
pub(super) fn line(bytes: &[u8]) {
    let Some((kind, payload)) = bytes.split_first_chunk() else {
        return;
    };
    match Line::read(u16::from_le_bytes(*kind), payload) {
        Ok(line) => {
            let again = line.to_bytes().unwrap();
            assert_eq!(Line::read(line.entry.kind(), &again), Ok(line));
        }
        Err(error) => shown(&error, payload),
    }
}

/// An exported ledger: of what holds, the records that its head was signed over are those that were exported,
/// byte for byte, because nobody has the key.
pub(super) fn exported(bytes: &[u8]) {
    let path = scratch::write("ledger.export", bytes);
    match export::verify(&path, &key().public()) {
        Ok(verified) => {
            let signed = usize::try_from(verified.signed).unwrap();
            let payloads = |bytes: &[u8]| -> Vec<Vec<u8>> {
                let lines = bytes.split(|byte| *byte == b'\n').skip(1).take(signed);
                lines.map(<[u8]>::to_vec).collect()
            };
            assert_eq!(payloads(bytes), payloads(&exports().remove(0)));
        }
        Err(error) => shown(&error, &vec![0; bytes.len() + 256]),
    }
}

/// Two numbers of a byte each, then hashes: a proof between trees of so many leaves. What holds is the proof that
/// is made of the leaves.
pub(super) fn proof(bytes: &[u8]) {
    let Some(([small, large], hashes)) = bytes.split_first_chunk() else {
        return;
    };
    let (small, large) = (u64::from(*small) % LEAVES, u64::from(*large) % LEAVES);
    let hashes: Vec<Hash> =
        hashes.chunks_exact(32).map(|chunk| chunk.try_into().unwrap()).collect();
    let (earlier, later) = (tree(small).root(), tree(large).root());
    match verify_consistency((small, &earlier), (large, &later), &hashes) {
        Ok(()) => assert_eq!(Some(hashes.clone()), made(Prover::consistency(small, large), large)),
        Err(error) => shown(&error, bytes),
    }
    match verify_inclusion((small, &leaf(small)), (large, &later), &hashes) {
        Ok(()) => assert_eq!(Some(hashes), made(Prover::inclusion(small, large), large)),
        Err(error) => shown(&error, bytes),
    }
}

fn leaf(number: u64) -> Hash {
    leaf_hash(1, &number.to_le_bytes())
}

fn tree(size: u64) -> Tree {
    let mut tree = Tree::new();
    (0..size).for_each(|number| tree.push(leaf(number)));
    tree
}

/// The proof over the first `size` leaves.
fn made<E>(prover: Result<Prover, E>, size: u64) -> Option<Vec<Hash>> {
    let mut prover = prover.ok()?;
    (0..size).for_each(|number| prover.push(leaf(number)));
    prover.finish().ok()
}

fn entries() -> Vec<Entry> {
    let study = || "mnist".parse().unwrap();
    let stands = Stands::Accepted;
    let said = StudyStands {
        study: study(),
        version: 1,
        digest: Digest([1; 32]),
        stands,
        why: "Dr. Ada".to_owned(),
    };
    let started = Started {
        site: site(),
        agent: "consilium-agent 0.1.0".to_owned(),
        key: key().public(),
        first: true,
    };
    let connected =
        Connected { coordinator: "fl.example:443".to_owned(), address: "192.0.2.1:443".to_owned() };
    let settled = Settled { study: study(), round: Round(3), counted: true };
    vec![started.into(), connected.into(), said.into(), settled.into()]
}

pub(super) fn lines() -> Vec<Vec<u8>> {
    let line = |(entry, at): (Entry, u64)| {
        let kind = entry.kind().to_le_bytes();
        let line = Line { at: WallMillis(1_795_000_000_000 + at), entry };
        [&kind[..], &line.to_bytes().unwrap()].concat()
    };
    entries().into_iter().zip(0..).map(line).collect()
}

pub(super) fn exports() -> Vec<Vec<u8>> {
    let folder = scratch::folder("ledger");
    let ledger = Ledger::open(&folder, &site(), &key()).unwrap();
    for (entry, at) in entries().into_iter().zip(0..) {
        ledger.record(entry, WallMillis(1_795_000_000_000 + at)).unwrap();
    }
    drop(ledger);
    let path = scratch::path("true.export");
    export::export(&folder, &site(), &key().public(), &path).unwrap();
    vec![std::fs::read(path).unwrap()]
}

pub(super) fn proofs() -> Vec<Vec<u8>> {
    let of = |small: u8, large: u8, hashes: Option<Vec<Hash>>| {
        [&[small, large][..], &hashes.unwrap().concat()].concat()
    };
    let consistency = |small: u8, large: u8| {
        of(small, large, made(Prover::consistency(small.into(), large.into()), large.into()))
    };
    let inclusion = |small: u8, large: u8| {
        of(small, large, made(Prover::inclusion(small.into(), large.into()), large.into()))
    };
    vec![
        consistency(3, 7),
        consistency(64, 199),
        consistency(0, 5),
        inclusion(0, 1),
        inclusion(100, 150),
    ]
}
