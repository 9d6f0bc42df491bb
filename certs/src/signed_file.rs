//! A signed document on disk: the file that people read, and beside it `NAME.sig` with the
//! signatures. The file's bytes are what is signed; nothing is ever serialised again.
//!
//! ```toml
//! # pneumonia.sig
//! document = "5f2c…"                 # BLAKE3 of the file when it was signed; trusted for nothing
//!
//! [[signature]]
//! key = "0f3a9c0e11d2b4c6"
//! signature = "9b1d…"
//! ```

use std::path::{Path, PathBuf};

use consilium_common::ids::Digest;
use consilium_common::limits::{SIGNATURES_MAX, SIGNED_BYTES_MAX};
use consilium_common::signed::{Document, SecretKey, Signature, Signed, SignedError};
use consilium_io::disk;
use serde::{Deserialize, Serialize};

use crate::file::{self, FileError, Readers};

/// Why a signed file was not loaded or written.
#[derive(Debug, thiserror::Error)]
pub enum SignedFileError {
    /// The document or its `.sig` cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Nobody signed it.
    #[error(
        "{document} is not signed: {sig} is missing. Copy it from where it was signed, or have the operators sign it"
    )]
    NotSigned {
        /// The document.
        document: PathBuf,
        /// Where its signatures should be.
        sig: PathBuf,
    },
    /// The `.sig` is not one.
    #[error("{sig} is not a list of signatures: {reason}")]
    Malformed {
        /// The `.sig` file.
        sig: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The document is another one than was signed.
    #[error("{document} was changed after {sig} was written: have the operators sign it again")]
    Changed {
        /// The document.
        document: PathBuf,
        /// The `.sig` file.
        sig: PathBuf,
    },
    /// More signatures than are ever read.
    #[error("{sig} already has {SIGNATURES_MAX} signatures, the most that are read")]
    TooMany {
        /// The `.sig` file.
        sig: PathBuf,
    },
    /// The document cannot be read as what it should be, or its signatures do not hold.
    #[error("{document}: {source}")]
    Refused {
        /// The document.
        document: PathBuf,
        /// Why.
        source: SignedError,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SigFile {
    document: Digest,
    #[serde(rename = "signature", default)]
    signatures: Vec<Signature>,
}

/// Where the signatures of `document` lie: the same name ending in `.sig`.
#[must_use]
pub fn sig_path(document: &Path) -> PathBuf {
    document.with_extension("sig")
}

/// Loads a document with its signatures, judging neither: call [`Signed::verify`] next.
///
/// # Errors
/// A file is missing or unreadable, or the document is another one than was signed.
pub fn load<T: Document>(document: &Path) -> Result<Signed<T>, SignedFileError> {
    let bytes = read_document(document)?;
    let sig = sig_path(document);
    let Some(beside) = read_sig(&sig)? else {
        return Err(SignedFileError::NotSigned { document: document.to_owned(), sig });
    };
    if beside.document != Digest::of(&bytes) {
        return Err(SignedFileError::Changed { document: document.to_owned(), sig });
    }
    Ok(Signed::from_parts(bytes, beside.signatures))
}

/// Writes a document and its signatures. A crash in between leaves an unsigned document, never
/// signatures beside bytes that they do not fit.
///
/// # Errors
/// A file cannot be written.
pub fn store<T: Document>(document: &Path, signed: &Signed<T>) -> Result<(), SignedFileError> {
    store_unsigned(document, &signed.bytes)?;
    write_sig(&sig_path(document), Digest::of(&signed.bytes), signed.signatures.clone())
}

/// Writes a document and takes away the signatures that were beside it.
///
/// # Errors
/// A file cannot be written.
pub fn store_unsigned(document: &Path, bytes: &[u8]) -> Result<(), SignedFileError> {
    file::remove(&sig_path(document))?;
    Ok(file::replace(document, bytes, Readers::Everybody)?)
}

/// Adds `key`'s signature to `document`, which must parse. Signatures by other keys stay if they
/// are of the same bytes; those of an older content go.
///
/// # Errors
/// The document is missing or not a `T`, or a file cannot be written.
pub fn sign<T: Document>(document: &Path, key: &SecretKey) -> Result<Signed<T>, SignedFileError> {
    let fresh = Signed::<T>::sign(read_document(document)?, key);
    fresh
        .parse_unverified()
        .map_err(|source| SignedFileError::Refused { document: document.to_owned(), source })?;
    let sig = sig_path(document);
    let mut signatures = match read_sig(&sig)? {
        Some(beside) if beside.document == fresh.digest() => beside.signatures,
        Some(_) | None => Vec::new(),
    };
    signatures.retain(|other| other.key != key.public().id());
    if signatures.len() >= SIGNATURES_MAX {
        return Err(SignedFileError::TooMany { sig });
    }
    signatures.extend(fresh.signatures);
    write_sig(&sig, Digest::of(&fresh.bytes), signatures.clone())?;
    Ok(Signed::from_parts(fresh.bytes, signatures))
}

fn read_document(path: &Path) -> Result<Vec<u8>, SignedFileError> {
    let text = disk::read_text(path, SIGNED_BYTES_MAX).map_err(FileError::from)?;
    Ok(text.into_bytes())
}

fn read_sig(path: &Path) -> Result<Option<SigFile>, SignedFileError> {
    if !file::exists(path)? {
        return Ok(None);
    }
    let malformed = |reason: String| SignedFileError::Malformed { sig: path.to_owned(), reason };
    toml::from_str(&file::read_text(path)?)
        .map(Some)
        .map_err(|error: toml::de::Error| malformed(error.message().to_owned()))
}

fn write_sig(
    path: &Path,
    document: Digest,
    signatures: Vec<Signature>,
) -> Result<(), SignedFileError> {
    let text = toml::to_string(&SigFile { document, signatures }).map_err(|error| {
        SignedFileError::Malformed { sig: path.to_owned(), reason: error.to_string() }
    })?;
    Ok(file::replace(path, text.as_bytes(), Readers::Everybody)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Note(String);

    impl Document for Note {
        const DOMAIN: &'static str = "consilium/test-note/1";
        type Error = std::fmt::Error;
        fn parse(bytes: &[u8]) -> Result<Self, Self::Error> {
            let text = String::from_utf8(bytes.to_vec()).map_err(|_| std::fmt::Error)?;
            if text.contains("nonsense") { Err(std::fmt::Error) } else { Ok(Self(text)) }
        }
    }

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed(&[n; 32])
    }

    #[test]
    fn operators_sign_one_after_the_other_and_each_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("note.toml");
        let known = [key(1).public(), key(2).public()];
        store_unsigned(&path, b"hello").unwrap();
        assert!(matches!(load::<Note>(&path), Err(SignedFileError::NotSigned { .. })));
        sign::<Note>(&path, &key(1)).unwrap();
        sign::<Note>(&path, &key(1)).unwrap();
        assert!(load::<Note>(&path).unwrap().verify(&known, 2).is_err());
        let signed = sign::<Note>(&path, &key(2)).unwrap();
        assert_eq!(signed.signatures.len(), 2);
        assert_eq!(load::<Note>(&path).unwrap().verify(&known, 2).unwrap(), Note("hello".into()));
        let copy = dir.path().join("copy.toml");
        store(&copy, &signed).unwrap();
        assert_eq!(load::<Note>(&copy).unwrap(), signed);
    }

    #[test]
    fn a_changed_document_loses_its_signatures() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("note.toml");
        store_unsigned(&path, b"hello").unwrap();
        sign::<Note>(&path, &key(1)).unwrap();
        file::replace(&path, b"hellO", Readers::Everybody).unwrap();
        assert!(matches!(load::<Note>(&path), Err(SignedFileError::Changed { .. })));
        let signed = sign::<Note>(&path, &key(2)).unwrap();
        let signers: Vec<_> = signed.signatures.iter().map(|s| s.key).collect();
        assert_eq!(signers, [key(2).public().id()]);
    }

    #[test]
    fn neither_nonsense_is_signed_nor_a_strange_sig_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("note.toml");
        store_unsigned(&path, b"nonsense").unwrap();
        assert!(matches!(sign::<Note>(&path, &key(1)), Err(SignedFileError::Refused { .. })));
        assert!(!sig_path(&path).exists());
        file::replace(&sig_path(&path), b"signature = 3", Readers::Everybody).unwrap();
        let told = load::<Note>(&path).unwrap_err().to_string();
        assert!(told.contains("note.sig"), "{told}");
    }
}
