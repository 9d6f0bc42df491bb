//! The Merkle tree over the log (RFC 6962 §2.1, SHA-256), kept as its frontier: O(log n) memory.
//!
//! Leaf = SHA-256(0x00 ‖ kind u16 LE ‖ payload); node = SHA-256(0x01 ‖ left ‖ right).

use sha2::{Digest as _, Sha256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// Hash of one record.
#[must_use]
pub fn leaf_hash(kind: u16, payload: &[u8]) -> Hash {
    Sha256::new()
        .chain_update([0])
        .chain_update(kind.to_le_bytes())
        .chain_update(payload)
        .finalize()
        .into()
}

pub(super) fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The tree's frontier: roots of the perfect subtrees, largest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    peaks: Vec<Hash>,
}

impl Tree {
    /// The empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Roots of the perfect subtrees, largest first: with the size, all that the tree holds.
    #[must_use]
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// The tree of this size whose perfect subtrees have these roots, as [`Tree::peaks`] gives them;
    /// `None` if there are too many or too few.
    #[must_use]
    pub fn resume(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        let fits = u32::try_from(peaks.len()) == Ok(size.count_ones());
        fits.then_some(Self { size, peaks })
    }

    /// Adds a leaf.
    pub fn push(&mut self, leaf: Hash) {
        self.push_perfect(leaf, 0);
    }

    /// Adds a perfect subtree of 2^`level` leaves by its root; the size must be a multiple of 2^`level`.
    pub(super) fn push_perfect(&mut self, root: Hash, level: u32) {
        let mut node = root;
        // Each trailing one of the size, counted in such subtrees, is one that the new one completes.
        for _ in 0..(self.size >> level).trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                node = node_hash(&left, &node);
            }
        }
        self.peaks.push(node);
        self.size += 1 << level;
    }

    /// The tree's root; of the empty tree SHA-256 of nothing (RFC 6962 §2.1).
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        match peaks.next() {
            Some(last) => peaks.fold(*last, |right, left| node_hash(left, &right)),
            None => Sha256::new().finalize().into(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// RFC 6962 §2.1, word for word.
    pub(in crate::audit) fn reference(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::new().finalize().into(),
            [leaf] => *leaf,
            _ => {
                let k = leaves.len().next_power_of_two() / 2;
                node_hash(&reference(&leaves[..k]), &reference(&leaves[k..]))
            }
        }
    }

    #[test]
    fn the_frontier_gives_the_root_of_the_definition_at_every_size() {
        let leaves: Vec<Hash> = (0..70_u8).map(|n| leaf_hash(u16::from(n), &[n])).collect();
        let mut tree = Tree::new();
        for n in 0..=leaves.len() {
            assert_eq!(tree.root(), reference(&leaves[..n]), "size {n}");
            assert_eq!(tree.size(), n as u64);
            if let Some(leaf) = leaves.get(n) {
                tree.push(*leaf);
            }
        }
    }

    #[test]
    fn a_tree_goes_on_from_its_peaks() {
        let mut tree = Tree::new();
        for n in 0..23_u8 {
            let mut resumed = Tree::resume(tree.size(), tree.peaks().to_vec()).unwrap();
            tree.push(leaf_hash(1, &[n]));
            resumed.push(leaf_hash(1, &[n]));
            assert_eq!(resumed, tree);
        }
        assert_eq!(Tree::resume(3, tree.peaks().to_vec()), None);
    }

    #[test]
    fn the_empty_root_is_that_of_the_rfc() {
        assert_eq!(
            hex::encode(Tree::new().root()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
