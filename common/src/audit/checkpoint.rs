//! The signed head of the log, three lines: origin, size, root in hexadecimal (after the body of a
//! C2SP tlog-checkpoint). As a file its signatures follow:
//!
//! ```text
//! thorax                                             origin: the consortium
//! 42                                                 records covered
//! 5f2c…                                              root of the tree over them
//!
//! {"key":"0f3a9c0e11d2b4c6","signature":"9b1d…"}     by the coordinator's log key
//! ```

use super::tree::{Hash, Tree};
use crate::limits::SIGNATURES_MAX;
use crate::signed::{Document, Signature, Signed};

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
    /// No signatures, or not in the one form that they are written in.
    #[error("after a checkpoint come an empty line and its signatures: {0}")]
    Signatures(String),
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

    /// A signed checkpoint as a file.
    ///
    /// # Errors
    /// A value that JSON cannot hold.
    pub fn to_file(signed: &Signed<Self>) -> Result<Vec<u8>, serde_json::Error> {
        let mut file = signed.bytes.clone();
        file.push(b'\n');
        for signature in &signed.signatures {
            file.extend(serde_json::to_vec(signature)?);
            file.push(b'\n');
        }
        Ok(file)
    }

    /// Reads a file, judging neither the checkpoint nor its signatures: call [`Signed::verify`] next. One
    /// signed checkpoint has one file, so that no byte of it can be changed unseen.
    ///
    /// # Errors
    /// [`CheckpointError::Signatures`].
    pub fn from_file(file: &[u8]) -> Result<Signed<Self>, CheckpointError> {
        let refuse =
            |reason: &dyn std::fmt::Display| CheckpointError::Signatures(reason.to_string());
        let text = std::str::from_utf8(file).map_err(|error| refuse(&error))?;
        let (body, rest) = text.split_once("\n\n").ok_or_else(|| refuse(&"none follows"))?;
        let lines = rest.lines().take(SIGNATURES_MAX + 1);
        let signatures: Result<Vec<Signature>, _> = lines.map(serde_json::from_str).collect();
        let signatures = signatures.map_err(|error| refuse(&error))?;
        let signed = Signed::from_parts(format!("{body}\n").into_bytes(), signatures);
        match Self::to_file(&signed) {
            Ok(written) if written == file => Ok(signed),
            Ok(_) => Err(refuse(&"they are not in the form in which they are written")),
            Err(error) => Err(refuse(&error)),
        }
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
    use crate::signed::SecretKey;

    #[test]
    fn no_byte_of_a_signed_checkpoints_file_can_be_another() {
        let key = SecretKey::from_seed(&[3; 32]);
        let mut tree = Tree::new();
        tree.push([7; 32]);
        let checkpoint = Checkpoint::of("demo", &tree);
        let signed = Signed::sign(checkpoint.to_bytes(), &key);
        let file = Checkpoint::to_file(&signed).unwrap();
        let read = |file: &[u8]| {
            let signed = Checkpoint::from_file(file).map_err(|error| error.to_string())?;
            signed.verify(&[key.public()], 1).map_err(|error| error.to_string())
        };
        assert_eq!(read(&file), Ok(checkpoint));
        for at in 0..file.len() {
            for byte in (0..=u8::MAX).filter(|byte| *byte != file[at]) {
                let mut other = file.clone();
                other[at] = byte;
                assert!(read(&other).is_err(), "byte {at} as {byte}");
            }
        }
        for other in [&file[..file.len() - 1], &[&file[..], b"\n"].concat(), b"demo\n1\n\n"] {
            assert!(read(other).is_err(), "{:?}", String::from_utf8_lossy(other));
        }
    }

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
