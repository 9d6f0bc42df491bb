//! The log's tree with what proves to a site that it goes on from the head that the site keeps.

use consilium_common::audit::proof::{BLOCK, Blocks, ProofError};
use consilium_common::audit::tree::{Hash, Tree, leaf_hash};
use consilium_io::disk::Log;

use crate::store::StoreError;

/// The tree and, per block of its leaves, where the first one's record stands. Memory: a byte and a
/// quarter a record.
#[derive(Debug, Default)]
pub(super) struct History {
    blocks: Blocks,
    offsets: Vec<u64>,
    /// The last proof, by the sizes that it is between: sites that come back together ask for the same.
    proved: Option<Proved>,
}

#[derive(Debug)]
struct Proved {
    sizes: (u64, u64),
    proof: Vec<Hash>,
}

impl History {
    pub(super) fn tree(&self) -> &Tree {
        self.blocks.tree()
    }

    /// Takes the leaf of the next record, which stands at `offset` of the file.
    pub(super) fn push(&mut self, leaf: Hash, offset: u64) {
        if self.tree().size().is_multiple_of(BLOCK) {
            self.offsets.push(offset);
        }
        self.blocks.push(leaf);
    }

    /// That the tree goes on from the one of its first `first` records; `None` if it has fewer. Reads at
    /// most one block of records.
    pub(super) fn proof(&mut self, first: u64, log: &Log) -> Result<Option<Vec<Hash>>, StoreError> {
        let sizes = (first, self.tree().size());
        if first > sizes.1 {
            return Ok(None);
        }
        if let Some(proved) = self.proved.as_ref().filter(|proved| proved.sizes == sizes) {
            return Ok(Some(proved.proof.clone()));
        }
        let leaves = |block| self.leaves(block, log);
        let proof = self.blocks.consistency(first, leaves)?;
        self.proved = Some(Proved { sizes, proof: proof.clone() });
        Ok(Some(proof))
    }

    /// The leaves of a whole block, from the log's file.
    fn leaves(&self, block: u64, log: &Log) -> Result<Vec<Hash>, StoreError> {
        let offset = usize::try_from(block).ok().and_then(|at| self.offsets.get(at));
        let mut offset = *offset.ok_or_else(|| ProofError::Leaves(self.tree().size()))?;
        let mut leaves = Vec::new();
        for _ in 0..BLOCK {
            let (record, next) = log.read_on(offset)?;
            leaves.push(leaf_hash(record.kind, &record.payload));
            offset = next;
        }
        Ok(leaves)
    }
}
