//! Every proof against the definition of RFC 6962, word for word, at every pair of sizes up to 70, and
//! against every way of changing it.

use super::super::tree::leaf_hash;
use super::super::tree::tests::reference;
use super::*;

const LEAVES: usize = 70;

fn leaves() -> Vec<Hash> {
    (0..70_u8).map(|n| leaf_hash(7, &[n])).collect()
}

/// k of RFC 6962 §2.1: the largest power of two smaller than n.
fn k(n: usize) -> usize {
    n.next_power_of_two() / 2
}

/// PATH(m, D[n]), §2.1.1.
fn path(m: usize, d: &[Hash]) -> Vec<Hash> {
    if d.len() == 1 {
        return Vec::new();
    }
    let (left, right) = d.split_at(k(d.len()));
    let (mut path, sibling) = match m.checked_sub(left.len()) {
        None => (path(m, left), right),
        Some(m) => (path(m, right), left),
    };
    path.push(reference(sibling));
    path
}

/// SUBPROOF(m, D[n], b), §2.1.2.
fn subproof(m: usize, d: &[Hash], b: bool) -> Vec<Hash> {
    if m == d.len() {
        return if b { Vec::new() } else { vec![reference(d)] };
    }
    let (left, right) = d.split_at(k(d.len()));
    let (mut proof, sibling) = if m <= left.len() {
        (subproof(m, left, b), right)
    } else {
        (subproof(m - left.len(), right, false), left)
    };
    proof.push(reference(sibling));
    proof
}

fn built(prover: Prover, leaves: &[Hash]) -> Vec<Hash> {
    let mut prover = prover;
    leaves.iter().for_each(|leaf| prover.push(*leaf));
    prover.finish().unwrap()
}

#[test]
fn every_inclusion_proof_is_that_of_the_definition_and_holds() {
    let leaves = leaves();
    for size in 1..=LEAVES {
        let root = reference(&leaves[..size]);
        for (index, leaf) in leaves[..size].iter().enumerate() {
            let proof = built(Prover::inclusion(index as u64, size as u64).unwrap(), &leaves);
            assert_eq!(proof, path(index, &leaves[..size]), "record {index} of {size}");
            let tree = (size as u64, &root);
            assert_eq!(verify_inclusion((index as u64, leaf), tree, &proof), Ok(()));
            for other in (0..size).filter(|other| *other != index) {
                let said = verify_inclusion((other as u64, leaf), tree, &proof);
                assert!(said.is_err(), "record {index} of {size} passed for {other}");
            }
        }
    }
}

#[test]
fn every_consistency_proof_is_that_of_the_definition_and_holds() {
    let leaves = leaves();
    for second in 1..=LEAVES {
        let later = reference(&leaves[..second]);
        for first in 1..=second {
            let earlier = reference(&leaves[..first]);
            let prover = Prover::consistency(first as u64, second as u64).unwrap();
            let proof = built(prover, &leaves[..second]);
            assert_eq!(proof, subproof(first, &leaves[..second], true), "{first} to {second}");
            let trees = ((first as u64, &earlier), (second as u64, &later));
            assert_eq!(verify_consistency(trees.0, trees.1, &proof), Ok(()), "{first} to {second}");
        }
    }
}

/// The proof with a bit of a hash flipped, a hash less, one twice, one more, two exchanged.
fn changed(proof: &[Hash]) -> Vec<Vec<Hash>> {
    let mut all = Vec::new();
    for at in 0..proof.len() {
        for byte in [0, 13, 31] {
            let mut flipped = proof.to_vec();
            flipped[at][byte] ^= 1 << (byte % 8);
            all.push(flipped);
        }
        let mut less = proof.to_vec();
        less.remove(at);
        let mut twice = proof.to_vec();
        twice.insert(at, proof[at]);
        all.extend([less, twice]);
        if at > 0 {
            let mut exchanged = proof.to_vec();
            exchanged.swap(at - 1, at);
            all.push(exchanged);
        }
    }
    let mut more = proof.to_vec();
    more.push([7; 32]);
    all.push(more);
    all
}

#[test]
fn a_changed_inclusion_proof_leaf_or_root_is_refused() {
    let leaves = leaves();
    for size in [1, 2, 3, 7, 8, 9, 21, 64, 65, 70] {
        let root = reference(&leaves[..size]);
        for (index, leaf) in leaves[..size].iter().enumerate() {
            let proof = path(index, &leaves[..size]);
            let said = |leaf, root, proof: &[Hash]| {
                verify_inclusion((index as u64, leaf), (size as u64, root), proof)
            };
            for changed in changed(&proof) {
                assert!(said(leaf, &root, &changed).is_err(), "record {index} of {size}");
            }
            assert_eq!(said(&[1; 32], &root, &proof), Err(ProofError::Root));
            assert_eq!(said(leaf, &[1; 32], &proof), Err(ProofError::Root));
        }
    }
}

#[test]
fn a_changed_consistency_proof_or_root_is_refused() {
    let leaves = leaves();
    for second in [2, 3, 7, 8, 9, 21, 64, 65, 70] {
        let later = reference(&leaves[..second]);
        for first in 1..second {
            let earlier = reference(&leaves[..first]);
            let proof = subproof(first, &leaves[..second], true);
            let said = |earlier, later, proof: &[Hash]| {
                verify_consistency((first as u64, earlier), (second as u64, later), proof)
            };
            for changed in changed(&proof) {
                assert!(said(&earlier, &later, &changed).is_err(), "{first} to {second}");
            }
            assert!(said(&[1; 32], &later, &proof).is_err());
            assert_eq!(said(&earlier, &[1; 32], &proof), Err(ProofError::Inconsistent));
        }
    }
}

#[test]
fn a_rewritten_history_has_no_proof() {
    // The later log has another record 4; each of its proofs is honest, and none fits the old root.
    let leaves = leaves();
    let mut rewritten = leaves.clone();
    rewritten[4] = leaf_hash(7, b"rewritten");
    for first in 5..=LEAVES {
        for second in first..=LEAVES {
            let (earlier, later) = (reference(&leaves[..first]), reference(&rewritten[..second]));
            let prover = Prover::consistency(first as u64, second as u64).unwrap();
            let proof = built(prover, &rewritten[..second]);
            let said =
                verify_consistency((first as u64, &earlier), (second as u64, &later), &proof);
            assert_eq!(said, Err(ProofError::Inconsistent), "{first} to {second}");
        }
    }
}

#[test]
fn one_size_and_nothing_need_no_hashes() {
    let (empty, one) = (Tree::new().root(), leaf_hash(1, b"a"));
    assert_eq!(verify_consistency((0, &empty), (9, &one), &[]), Ok(()));
    assert_eq!(verify_consistency((0, &one), (9, &one), &[]), Err(ProofError::Inconsistent));
    assert_eq!(verify_consistency((9, &one), (9, &one), &[]), Ok(()));
    assert_eq!(verify_consistency((9, &one), (9, &empty), &[]), Err(ProofError::Inconsistent));
    assert_eq!(verify_consistency((9, &one), (9, &one), &[one]), Err(ProofError::Length(1)));
    assert_eq!(built(Prover::consistency(0, 9).unwrap(), &[]), Vec::<Hash>::new());
    assert_eq!(built(Prover::consistency(9, 9).unwrap(), &[]), Vec::<Hash>::new());
}

#[test]
fn what_no_tree_has_is_refused_and_sizes_have_no_end() {
    let one = leaf_hash(1, b"a");
    let none = |index, size| Some(ProofError::NoSuchRecord { index, size });
    assert_eq!(Prover::inclusion(3, 3).err(), none(3, 3));
    assert_eq!(verify_inclusion((0, &one), (0, &one), &[]).err(), none(0, 0));
    let shorter = ProofError::Shorter { first: 5, second: 4 };
    assert_eq!(Prover::consistency(5, 4).err(), Some(shorter.clone()));
    assert_eq!(verify_consistency((5, &one), (4, &one), &[]), Err(shorter));
    let long = vec![one; PROOF_HASHES_MAX + 1];
    let length = Err(ProofError::Length(long.len()));
    assert_eq!(verify_inclusion((1, &one), (u64::MAX, &one), &long), length);
    assert_eq!(verify_consistency((1, &one), (u64::MAX, &one), &long), length);
    for (first, second) in [(1, u64::MAX), (u64::MAX - 1, u64::MAX), (1 << 63, u64::MAX)] {
        let prover = Prover::consistency(first, second).unwrap();
        assert!(prover.subtrees.len() <= PROOF_HASHES_MAX);
        assert!(Prover::inclusion(first, second).unwrap().subtrees.len() < PROOF_HASHES_MAX);
        assert_eq!(prover.finish(), Err(ProofError::Leaves(0)));
    }
}
