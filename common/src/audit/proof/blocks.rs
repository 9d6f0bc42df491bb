//! What whoever keeps a log remembers of it to prove its consistency at any time without reading it again.

use super::{ProofError, Prover};
use crate::audit::tree::{Hash, Tree};

/// Level of a block's root in the tree.
const LEVEL: u32 = 5;
/// Leaves of a block.
pub const BLOCK: u64 = 1 << LEVEL;

/// The tree over a log, with the roots of its whole blocks of [`BLOCK`] leaves and the leaves of the last
/// one. Memory: one byte a leaf.
#[derive(Debug, Clone, Default)]
pub struct Blocks {
    tree: Tree,
    roots: Vec<Hash>,
    last: Vec<Hash>,
}

impl Blocks {
    /// The tree over all leaves.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Adds a leaf.
    pub fn push(&mut self, leaf: Hash) {
        self.tree.push(leaf);
        self.last.push(leaf);
        if self.last.len() as u64 == BLOCK {
            self.roots.push(root_over(&self.last));
            self.last.clear();
        }
    }

    /// The proof that the log goes on from its first `first` records; see [`Prover::consistency`]. Asks
    /// `leaves` for the [`BLOCK`] leaves of at most one block, by the block's number.
    ///
    /// # Errors
    /// [`ProofError::Shorter`], or what `leaves` says.
    pub fn consistency<E: From<ProofError>>(
        &self,
        first: u64,
        leaves: impl FnOnce(u64) -> Result<Vec<Hash>, E>,
    ) -> Result<Vec<Hash>, E> {
        let mut prover = Prover::consistency(first, self.tree.size())?;
        // Subtrees begin and end at multiples of a block, but where the earlier log ended within one, and
        // at the ragged end.
        let (split, within) = (first / BLOCK, first % BLOCK);
        let mut leaves = Some(leaves).filter(|_| within > 0);
        for (at, root) in (0..).zip(&self.roots) {
            if at == split
                && let Some(leaves) = leaves.take()
            {
                leaves(at)?.into_iter().for_each(|leaf| prover.push(leaf));
            } else {
                prover.push_perfect(*root, LEVEL);
            }
        }
        self.last.iter().for_each(|leaf| prover.push(*leaf));
        Ok(prover.finish()?)
    }
}

fn root_over(leaves: &[Hash]) -> Hash {
    let mut tree = Tree::new();
    leaves.iter().for_each(|leaf| tree.push(*leaf));
    tree.root()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::proof::verify_consistency;
    use crate::audit::tree::leaf_hash;

    #[test]
    fn a_proof_from_blocks_is_that_of_the_whole_log() {
        let leaf = |n: u64| leaf_hash(1, &n.to_le_bytes());
        let (mut blocks, mut roots) = (Blocks::default(), vec![Tree::new().root()]);
        for second in 1..=4 * BLOCK + 3 {
            blocks.push(leaf(second - 1));
            roots.push(blocks.tree().root());
            for first in 0..=second {
                let of_block = |block: u64| {
                    let from = block * BLOCK;
                    Ok::<_, ProofError>((from..from + BLOCK).map(leaf).collect())
                };
                let proof = blocks.consistency(first, of_block).unwrap();
                let mut prover = Prover::consistency(first, second).unwrap();
                (0..second).for_each(|n| prover.push(leaf(n)));
                assert_eq!(proof, prover.finish().unwrap(), "{first} of {second}");
                let root = |size: u64| (size, &roots[usize::try_from(size).unwrap()]);
                verify_consistency(root(first), root(second), &proof).unwrap();
            }
            let shorter = blocks.consistency(second + 1, |_| Err(ProofError::Root));
            assert_eq!(shorter, Err(ProofError::Shorter { first: second + 1, second }));
        }
    }
}
