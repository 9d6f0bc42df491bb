//! Proofs over the log's tree: that a record is in it, and that a later tree has an earlier one's
//! records in front, unchanged (RFC 6962 §2.1.1 and §2.1.2, verified as RFC 9162 §2.1.3.2 and §2.1.4.2).
//!
//! A proof is a list of hashes of subtrees, and each subtree is a range of leaves. [`Prover`] takes the
//! leaf hashes once, in order, from wherever they are, and folds those ranges as they pass: its memory
//! is O(log n), whatever the size of the log. Who proves often keeps [`Blocks`] and reads a block alone.

mod blocks;

use std::ops::Range;

pub use blocks::{BLOCK, Blocks};

use super::tree::{Hash, Tree, node_hash};
use crate::limits::PROOF_HASHES_MAX;

/// Why there is no proof, or why one does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// No such leaf.
    #[error("a log of {size} records has no record {index}")]
    NoSuchRecord {
        /// Which leaf.
        index: u64,
        /// Leaves of the tree.
        size: u64,
    },
    /// The later tree is the smaller one.
    #[error("a log of {second} records does not go on from one of {first}")]
    Shorter {
        /// Leaves of the earlier tree.
        first: u64,
        /// Leaves of the later one.
        second: u64,
    },
    /// The leaves ended too early.
    #[error("the proof needs more than the {0} records that were given")]
    Leaves(u64),
    /// Another number of hashes than trees of these sizes lead to.
    #[error("a proof of {0} hashes does not fit trees of these sizes")]
    Length(usize),
    /// The hashes lead to another root.
    #[error("the proof leads to another root")]
    Root,
    /// The hashes do not lead to both roots. Which of the two is wrong, a proof cannot tell.
    #[error(
        "the later log does not go on from the earlier one: records that were signed once were changed"
    )]
    Inconsistent,
}

/// A proof in the making. Memory: at most [`PROOF_HASHES_MAX`] hashes and ranges, and one frontier.
#[derive(Debug, Clone)]
pub struct Prover {
    /// Subtrees in the order of their leaves, each with its place in the proof.
    subtrees: Vec<(Range<u64>, usize)>,
    /// How many of them are folded.
    folded: usize,
    /// Over the leaves so far of the subtree that is being folded.
    tree: Tree,
    proof: Vec<Hash>,
    /// Leaves that were given.
    given: u64,
}

impl Prover {
    /// For the proof that leaf `index` is in the tree of the first `size` leaves: PATH(m, D\[n\]) of RFC
    /// 6962 §2.1.1.
    ///
    /// # Errors
    /// [`ProofError::NoSuchRecord`].
    pub fn inclusion(index: u64, size: u64) -> Result<Self, ProofError> {
        if index >= size {
            return Err(ProofError::NoSuchRecord { index, size });
        }
        let (mut from, mut to) = (0, size);
        let mut subtrees = Vec::new();
        while to - from > 1 {
            let middle = from + left_leaves(to - from);
            if index < middle {
                subtrees.push(middle..to);
                to = middle;
            } else {
                subtrees.push(from..middle);
                from = middle;
            }
        }
        Ok(Self::of(subtrees))
    }

    /// For the proof that the tree of `second` leaves goes on from that of its first `first`:
    /// PROOF(m, D\[n\]) of RFC 6962 §2.1.2. From the empty tree every tree goes on: that proof is empty.
    ///
    /// # Errors
    /// [`ProofError::Shorter`].
    pub fn consistency(first: u64, second: u64) -> Result<Self, ProofError> {
        if first > second {
            return Err(ProofError::Shorter { first, second });
        }
        let (mut from, mut to) = (0, second);
        let mut subtrees = Vec::new();
        // As long as nothing was split off on the left, the subtree's root is the earlier tree's own,
        // which the verifier has.
        let mut is_known = true;
        while first > 0 && first < to {
            let middle = from + left_leaves(to - from);
            if first <= middle {
                subtrees.push(middle..to);
                to = middle;
            } else {
                subtrees.push(from..middle);
                from = middle;
                is_known = false;
            }
        }
        if !is_known {
            subtrees.push(from..to);
        }
        Ok(Self::of(subtrees))
    }

    /// `subtrees` from the tree's root downwards: in a proof the lowest comes first.
    fn of(subtrees: Vec<Range<u64>>) -> Self {
        let proof = vec![[0; 32]; subtrees.len()];
        let mut subtrees: Vec<_> = subtrees.into_iter().rev().zip(0..).collect();
        subtrees.sort_unstable_by_key(|(range, _)| range.start);
        Self { subtrees, folded: 0, tree: Tree::new(), proof, given: 0 }
    }

    /// Takes the hash of the next leaf, from leaf 0 on. What is given after the last one that counts
    /// changes nothing.
    pub fn push(&mut self, leaf: Hash) {
        self.push_perfect(leaf, 0);
    }

    /// The same for the next 2^`level` leaves at once, by the root over them. No subtree of the proof may
    /// begin or end within them.
    fn push_perfect(&mut self, root: Hash, level: u32) {
        let at = self.given;
        self.given += 1 << level;
        let Some((range, place)) = self.subtrees.get(self.folded) else {
            return;
        };
        if at < range.start {
            return;
        }
        self.tree.push_perfect(root, level);
        if self.given < range.end {
            return;
        }
        let root = std::mem::take(&mut self.tree).root();
        if let Some(hash) = self.proof.get_mut(*place) {
            *hash = root;
        }
        self.folded += 1;
    }

    /// The proof, lowest hash first.
    ///
    /// # Errors
    /// [`ProofError::Leaves`].
    pub fn finish(self) -> Result<Vec<Hash>, ProofError> {
        if self.folded < self.subtrees.len() {
            return Err(ProofError::Leaves(self.given));
        }
        Ok(self.proof)
    }
}

/// The largest power of two smaller than `leaves`, which are at least two.
fn left_leaves(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

/// Holds the proof that `leaf` is leaf `index` of a tree of `size` leaves against that tree's root, which
/// the caller has from a signed checkpoint, as it has the size (RFC 9162 §2.1.3.2).
///
/// # Errors
/// The proof does not show it.
pub fn verify_inclusion(
    (index, leaf): (u64, &Hash),
    (size, root): (u64, &Hash),
    proof: &[Hash],
) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::NoSuchRecord { index, size });
    }
    let length = ProofError::Length(proof.len());
    if proof.len() > PROOF_HASHES_MAX {
        return Err(length);
    }
    let (mut node, mut last, mut have) = (index, size - 1, *leaf);
    for hash in proof {
        if last == 0 {
            return Err(length);
        }
        if node & 1 == 1 || node == last {
            have = node_hash(hash, &have);
            climb(&mut node, &mut last);
        } else {
            have = node_hash(&have, hash);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return Err(length);
    }
    if have == *root { Ok(()) } else { Err(ProofError::Root) }
}

/// Holds the proof that the later tree (`second` leaves and its root) goes on from the earlier one
/// (`first`) against both roots (RFC 9162 §2.1.4.2). Trees of one size are held against each other; from
/// the empty tree every tree goes on.
///
/// # Errors
/// The proof does not show it.
pub fn verify_consistency(
    (first, first_root): (u64, &Hash),
    (second, second_root): (u64, &Hash),
    proof: &[Hash],
) -> Result<(), ProofError> {
    if first > second {
        return Err(ProofError::Shorter { first, second });
    }
    let length = ProofError::Length(proof.len());
    if first == second || first == 0 {
        let earlier = if first == 0 { Tree::new().root() } else { *second_root };
        if !proof.is_empty() {
            return Err(length);
        }
        return if earlier == *first_root { Ok(()) } else { Err(ProofError::Inconsistent) };
    }
    if proof.len() > PROOF_HASHES_MAX {
        return Err(length);
    }
    // The earlier tree is a perfect subtree of the later one: its root is not in the proof.
    let known = first.is_power_of_two().then_some(first_root);
    let mut hashes = known.into_iter().chain(proof);
    let start = *hashes.next().ok_or_else(|| length.clone())?;
    let (mut node, mut last) = (first - 1, second - 1);
    while node & 1 == 1 {
        (node, last) = (node >> 1, last >> 1);
    }
    let (mut earlier, mut later) = (start, start);
    for hash in hashes {
        if last == 0 {
            return Err(length);
        }
        if node & 1 == 1 || node == last {
            earlier = node_hash(hash, &earlier);
            later = node_hash(hash, &later);
            climb(&mut node, &mut last);
        } else {
            later = node_hash(&later, hash);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return Err(length);
    }
    let both = earlier == *first_root && later == *second_root;
    if both { Ok(()) } else { Err(ProofError::Inconsistent) }
}

/// Past the levels on which the last node of a ragged tree has no sibling.
fn climb(node: &mut u64, last: &mut u64) {
    while *node & 1 == 0 && *node != 0 {
        (*node, *last) = (*node >> 1, *last >> 1);
    }
}

#[cfg(test)]
mod tests;
