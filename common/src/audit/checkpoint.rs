//! The signed head of the log, three lines: origin, size, root in hexadecimal (after the body of a
//! C2SP tlog-checkpoint).

use super::tree::{Hash, Tree};
use crate::signed::Document;

/// A tree head. Signed as its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the log: the consortium.
    pub origin: String,
    /// Number of records covered.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
}

/// Why a checkpoint was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Not the three lines of a checkpoint.
    #[error("a checkpoint is three lines: origin, size, root in 64 hexadecimal digits")]
    Form,
}

impl Checkpoint {
    /// The head of `tree`.
    #[must_use]
    pub fn of(origin: &str, tree: &Tree) -> Self {
        Self { origin: origin.to_owned(), size: tree.size(), root: tree.root() }
    }

    /// The bytes to sign.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        format!("{}\n{}\n{}\n", self.origin, self.size, hex::encode(self.root)).into_bytes()
    }
}

impl Document for Checkpoint {
    const DOMAIN: &'static str = "consilium/checkpoint/1";
    type Error = CheckpointError;

    fn parse(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let text = std::str::from_utf8(bytes).map_err(|_| CheckpointError::Form)?;
        let mut lines = text.strip_suffix('\n').ok_or(CheckpointError::Form)?.split('\n');
        let (Some(origin), Some(size), Some(root), None) =
            (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(CheckpointError::Form);
        };
        let mut hash = [0; 32];
        hex::decode_to_slice(root, &mut hash).map_err(|_| CheckpointError::Form)?;
        let parsed = size.parse().map_err(|_| CheckpointError::Form)?;
        let checkpoint = Self { origin: origin.to_owned(), size: parsed, root: hash };
        // One text per checkpoint: no leading zeros, no capital digits.
        if checkpoint.to_bytes() == bytes { Ok(checkpoint) } else { Err(CheckpointError::Form) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_survives_text_and_nothing_else_does() {
        let mut tree = Tree::new();
        tree.push([7; 32]);
        let checkpoint = Checkpoint::of("demo", &tree);
        assert_eq!(Checkpoint::parse(&checkpoint.to_bytes()).unwrap(), checkpoint);
        for bad in ["", "demo\n1\n", "demo\n01\n07", "demo\n1\nzz\n"] {
            assert_eq!(Checkpoint::parse(bad.as_bytes()), Err(CheckpointError::Form), "{bad:?}");
        }
    }
}
