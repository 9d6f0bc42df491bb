//! Signed bytes are kept bytes: a document is signed as the bytes that were written, travels and is
//! stored as those bytes, and is never serialised a second time.
//!
//! Signature: Ed25519 (RFC 8032) over `DOMAIN ‖ 0x00 ‖ bytes`. The domain keeps a signature for one
//! purpose from being taken for another.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use ed25519_dalek::{Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::ids::Digest;
use crate::limits::{SIGNATURES_MAX, SIGNED_BYTES_MAX};

/// What can be signed: a domain, and the way back from bytes.
pub trait Document: Sized {
    /// The domain tag, such as `consilium/study/1`.
    const DOMAIN: &'static str;
    /// What [`Document::parse`] says about bytes it cannot read.
    type Error: std::error::Error;
    /// Reads the document from the signed bytes.
    ///
    /// # Errors
    /// The bytes are not such a document.
    fn parse(bytes: &[u8]) -> Result<Self, Self::Error>;
}

/// Why signed bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// A signature by this key does not fit the bytes.
    #[error("the signature by key {0} does not fit the document: it was changed after signing")]
    Forged(KeyId),
    /// Fewer valid signatures by known keys than needed.
    #[error("signed by {have} of the known keys, {need} needed (signed by: {by})")]
    TooFew {
        /// Valid signatures by distinct known keys.
        have: usize,
        /// How many are needed.
        need: usize,
        /// The key ids that stand beside the document.
        by: String,
    },
    /// More signatures or bytes than any honest document has.
    #[error("{what} is {have}, at most {max} are read")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        have: usize,
        /// The bound.
        max: usize,
    },
    /// The signatures hold but the bytes are not the document.
    #[error("the signed document cannot be read: {0}")]
    Unreadable(String),
    /// Text that is not a public key.
    #[error("{0:?} is not a public key: expected `ed25519:` and 64 hexadecimal digits")]
    Key(String),
}

/// An Ed25519 public key (32 bytes, RFC 8032).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The short name of the key.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let mut id = [0; 8];
        for (to, from) in id.iter_mut().zip(Digest::of(&self.0).0) {
            *to = from;
        }
        KeyId(id)
    }

    /// Strict verification (RFC 8032 §5.1.7 with small-order keys refused).
    fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| {
            key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
        })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id())
    }
}

impl FromStr for PublicKey {
    type Err = SignedError;
    fn from_str(text: &str) -> Result<Self, SignedError> {
        let refuse = || SignedError::Key(text.chars().take(80).collect());
        let digits = text.trim().strip_prefix("ed25519:").ok_or_else(refuse)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| refuse())?;
        VerifyingKey::from_bytes(&bytes).map_err(|_| refuse())?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = SignedError;
    fn try_from(text: String) -> Result<Self, SignedError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_string()
    }
}

/// The first 8 bytes of BLAKE3(public key): names a key beside a signature. Not a credential: the
/// key itself is looked up in a pinned list.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyId(#[serde(with = "crate::hex_array")] pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An Ed25519 signing key. Erased on drop, never printed.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// From 32 secret bytes (RFC 8032 §5.1.5), drawn by the caller from the operating system.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The secret bytes, for writing the key to its file.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `bytes` under `domain`.
    #[must_use]
    pub fn sign(&self, domain: &str, bytes: &[u8]) -> Signature {
        Signature {
            key: self.public().id(),
            signature: self.0.sign(&message(domain, bytes)).to_bytes(),
        }
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({}, secret not shown)", self.public().id())
    }
}

fn message(domain: &str, bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(domain.len() + 1 + bytes.len());
    message.extend_from_slice(domain.as_bytes());
    message.push(0);
    message.extend_from_slice(bytes);
    message
}

/// One signature beside a document: who signed, and the Ed25519 signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Which key signed.
    pub key: KeyId,
    /// 64 bytes (RFC 8032 §5.1.6).
    #[serde(with = "crate::hex_array")]
    pub signature: [u8; 64],
}

/// Bytes with their signatures. Nothing is known of the content until [`Signed::verify`] has run.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Signed<T> {
    /// The document, as it was signed.
    pub bytes: Vec<u8>,
    /// Beside it.
    pub signatures: Vec<Signature>,
    #[serde(skip)]
    document: PhantomData<fn() -> T>,
}

// By hand: deriving would ask the same of T, which is never inside.
impl<T> Clone for Signed<T> {
    fn clone(&self) -> Self {
        let (bytes, signatures) = (self.bytes.clone(), self.signatures.clone());
        Self { bytes, signatures, document: PhantomData }
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.signatures == other.signatures
    }
}

impl<T> Eq for Signed<T> {}

impl<T: Document> Signed<T> {
    /// Puts signatures beside bytes without judging them.
    #[must_use]
    pub fn from_parts(bytes: Vec<u8>, signatures: Vec<Signature>) -> Self {
        Self { bytes, signatures, document: PhantomData }
    }

    /// Signs `bytes` with one key.
    #[must_use]
    pub fn sign(bytes: Vec<u8>, key: &SecretKey) -> Self {
        let signature = key.sign(T::DOMAIN, &bytes);
        Self::from_parts(bytes, vec![signature])
    }

    /// BLAKE3 of the bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    /// Checks that at least `need` distinct keys of `known` signed, that no signature by a known
    /// key is wrong, and reads the document. Signatures by unknown keys are passed over.
    ///
    /// # Errors
    /// Too few signatures, a forged one, a size over its bound, or an unreadable document.
    pub fn verify(&self, known: &[PublicKey], need: usize) -> Result<T, SignedError> {
        self.check_sizes()?;
        let message = message(T::DOMAIN, &self.bytes);
        let mut signed: Vec<&PublicKey> = Vec::new();
        for signature in &self.signatures {
            let Some(key) = known.iter().find(|key| key.id() == signature.key) else {
                continue;
            };
            if !key.verifies(&message, &signature.signature) {
                return Err(SignedError::Forged(signature.key));
            }
            if !signed.contains(&key) {
                signed.push(key);
            }
        }
        if signed.len() < need.max(1) {
            let by: Vec<String> = self.signatures.iter().map(|s| s.key.to_string()).collect();
            let by = if by.is_empty() { "nobody".to_owned() } else { by.join(", ") };
            return Err(SignedError::TooFew { have: signed.len(), need: need.max(1), by });
        }
        self.parse_unverified()
    }

    /// Reads the document without checking who signed it: for showing, never for acting.
    ///
    /// # Errors
    /// The bytes are not the document.
    pub fn parse_unverified(&self) -> Result<T, SignedError> {
        T::parse(&self.bytes).map_err(|error| SignedError::Unreadable(error.to_string()))
    }

    fn check_sizes(&self) -> Result<(), SignedError> {
        let bounds = [
            ("the number of signatures", self.signatures.len(), SIGNATURES_MAX),
            ("the document's size in bytes", self.bytes.len(), SIGNED_BYTES_MAX),
        ];
        for (what, have, max) in bounds {
            if have > max {
                return Err(SignedError::TooLarge { what, have, max });
            }
        }
        Ok(())
    }
}

impl<T> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by: Vec<KeyId> = self.signatures.iter().map(|s| s.key).collect();
        write!(f, "Signed({} bytes, by {by:?})", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Note(String);

    impl Document for Note {
        const DOMAIN: &'static str = "consilium/test-note/1";
        type Error = std::string::FromUtf8Error;
        fn parse(bytes: &[u8]) -> Result<Self, Self::Error> {
            String::from_utf8(bytes.to_vec()).map(Self)
        }
    }

    fn key(n: u8) -> SecretKey {
        SecretKey::from_seed(&[n; 32])
    }

    #[test]
    fn k_of_n_distinct_known_keys_must_sign() {
        let (a, b, stranger) = (key(1), key(2), key(3));
        let known = [a.public(), b.public()];
        let mut note = Signed::<Note>::sign(b"hello".to_vec(), &a);
        assert_eq!(note.verify(&known, 1).unwrap(), Note("hello".into()));
        note.signatures.push(a.sign(Note::DOMAIN, b"hello"));
        note.signatures.push(stranger.sign(Note::DOMAIN, b"hello"));
        let too_few = note.verify(&known, 2).unwrap_err();
        assert!(matches!(too_few, SignedError::TooFew { have: 1, need: 2, .. }), "{too_few}");
        note.signatures.push(b.sign(Note::DOMAIN, b"hello"));
        assert!(note.verify(&known, 2).is_ok());
    }

    #[test]
    fn a_changed_byte_or_another_domain_is_a_forgery() {
        let a = key(1);
        let mut note = Signed::<Note>::sign(b"hello".to_vec(), &a);
        note.bytes = b"hellO".to_vec();
        assert_eq!(note.verify(&[a.public()], 1), Err(SignedError::Forged(a.public().id())));
        let other = a.sign("consilium/other/1", b"hello");
        let note = Signed::<Note>::from_parts(b"hello".to_vec(), vec![other]);
        assert_eq!(note.verify(&[a.public()], 1), Err(SignedError::Forged(a.public().id())));
    }

    #[test]
    fn zero_needed_signatures_still_means_one() {
        let note = Signed::<Note>::from_parts(b"hello".to_vec(), vec![]);
        assert!(matches!(note.verify(&[], 0), Err(SignedError::TooFew { need: 1, .. })));
    }

    #[test]
    fn secrets_are_not_printed() {
        let shown = format!("{:?}", key(7));
        assert!(!shown.contains("0707") && shown.contains("not shown"), "{shown}");
        assert_eq!(key(7).public().to_string().parse::<PublicKey>().unwrap(), key(7).public());
    }
}
