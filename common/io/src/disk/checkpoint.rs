//! A log's signed head in a small side file.
//!
//! ```text
//! thorax                                             origin: whose log it is
//! 42                                                 records covered
//! 5f2c…                                              root of the tree over them
//!
//! {"key":"0f3a9c0e11d2b4c6","signature":"9b1d…"}     by the key of whoever keeps the log
//! ```

use std::path::{Path, PathBuf};

use consilium_common::audit::Checkpoint;
use consilium_common::signed::{PublicKey, SecretKey, Signature, Signed};

use super::{TextError, read_text, replace_private};
use crate::error::IoError;

const CHECKPOINT_BYTES_MAX: usize = 4096;

/// Why a checkpoint was not read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointFileError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// It is not a checkpoint of this log by this key.
    #[error("the signed head {} cannot be used: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads the checkpoint at `path`; `None` if there is none.
///
/// # Errors
/// It is not a checkpoint of `origin` signed by `key`, not written as [`write`] does, or cannot be
/// read.
pub fn read(
    path: &Path,
    origin: &str,
    key: &PublicKey,
) -> Result<Option<Checkpoint>, CheckpointFileError> {
    Ok(load(path, origin, key)?.map(|(_, checkpoint)| checkpoint))
}

/// A head with its signed bytes.
pub type Loaded = (Signed<Checkpoint>, Checkpoint);

/// The same with its signed bytes.
///
/// # Errors
/// As [`read`].
pub fn load(
    path: &Path,
    origin: &str,
    key: &PublicKey,
) -> Result<Option<Loaded>, CheckpointFileError> {
    let refuse = |reason: String| CheckpointFileError::Refused { path: path.to_owned(), reason };
    let text = match read_text(path, CHECKPOINT_BYTES_MAX) {
        Ok(text) => text,
        Err(TextError::Missing { .. }) => return Ok(None),
        Err(TextError::Io(error)) => return Err(error.into()),
        Err(other) => return Err(refuse(other.to_string())),
    };
    let (body, line) =
        text.split_once("\n\n").ok_or_else(|| refuse("no signature follows".to_owned()))?;
    let signature: Signature =
        serde_json::from_str(line).map_err(|error| refuse(format!("signature: {error}")))?;
    let signed = Signed::<Checkpoint>::from_parts(format!("{body}\n").into(), vec![signature]);
    let checkpoint = signed.verify(&[*key], 1).map_err(|error| refuse(error.to_string()))?;
    if checkpoint.origin != origin {
        return Err(refuse(format!("it is of {:?}, this is {origin:?}", checkpoint.origin)));
    }
    // One text per head: blanks that JSON allows were not written by us.
    if written(&signed).ok().as_deref() != Some(text.as_bytes()) {
        return Err(refuse("it was changed after it was written".to_owned()));
    }
    Ok(Some((signed, checkpoint)))
}

/// Signs and writes `checkpoint`, whole or not at all.
///
/// # Errors
/// The disk refused.
pub fn write(path: &Path, checkpoint: &Checkpoint, key: &SecretKey) -> Result<(), IoError> {
    keep(path, &Signed::<Checkpoint>::sign(checkpoint.to_bytes(), key))
}

/// Writes a checkpoint that somebody else signed, whole or not at all.
///
/// # Errors
/// The disk refused.
pub fn keep(path: &Path, signed: &Signed<Checkpoint>) -> Result<(), IoError> {
    let bytes = written(signed).map_err(|error| IoError::at("encode", path)(error.into()))?;
    replace_private(path, &bytes)
}

fn written(signed: &Signed<Checkpoint>) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = signed.bytes.clone();
    for signature in &signed.signatures {
        let json = serde_json::to_string(signature)?;
        bytes.extend_from_slice(format!("\n{json}\n").as_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use consilium_common::audit::tree::Tree;

    #[test]
    fn every_flipped_bit_of_a_head_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint");
        let key = SecretKey::from_seed(&[7; 32]);
        let mut tree = Tree::new();
        tree.push([3; 32]);
        let head = Checkpoint::of("st-mary", &tree);
        write(&path, &head, &key).unwrap();
        let good = std::fs::read(&path).unwrap();
        assert_eq!(read(&path, "st-mary", &key.public()).unwrap(), Some(head));
        assert!(read(&path, "other", &key.public()).is_err());
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                replace_private(&path, &bad).unwrap();
                let told = read(&path, "st-mary", &key.public());
                assert!(told.is_err(), "bit {bit} of byte {at}: {told:?}");
            }
        }
    }
}
