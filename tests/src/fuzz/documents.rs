//! What is signed: receipts, roll calls, checkpoints; and the signatures beside them.

use std::fmt::Debug;
use std::sync::LazyLock;

use consilium_common::audit::tree::Tree;
use consilium_common::audit::{Checkpoint, Receipt, RollCall};
use consilium_common::signed::{Document, SecretKey, Signature, Signed};
use consilium_common::study::Study;
use consilium_common::wire::codec;

use super::{shown, study};
use crate::samples::Samples;

/// Signs every sample.
pub(super) static KEY: LazyLock<SecretKey> = LazyLock::new(|| SecretKey::from_seed(&[7; 32]));

pub(super) fn receipt(bytes: &[u8]) {
    parsed(bytes, |receipt: &Receipt| receipt.to_bytes().unwrap());
}

pub(super) fn roll_call(bytes: &[u8]) {
    if let Some(call) = parsed(bytes, |call: &RollCall| call.to_bytes().unwrap()) {
        shown(&call.outcome, bytes);
        let counted = call.sites.keys().filter(|site| call.counted(site)).count();
        assert!(counted <= call.sites.len());
    }
}

/// A checkpoint has one text.
pub(super) fn checkpoint(bytes: &[u8]) {
    if let Some(checkpoint) = parsed(bytes, Checkpoint::to_bytes) {
        assert_eq!(checkpoint.to_bytes(), bytes);
    }
}

/// Parses a document; written again it is the same.
fn parsed<T>(bytes: &[u8], write: impl Fn(&T) -> Vec<u8>) -> Option<T>
where
    T: Document + PartialEq + Debug,
{
    match T::parse(bytes) {
        Ok(document) => {
            assert_eq!(T::parse(&write(&document)).unwrap(), document);
            Some(document)
        }
        Err(error) => {
            shown(&error, bytes);
            None
        }
    }
}

/// A roll call with its signatures, as it travels.
pub(super) fn signed_roll_call(bytes: &[u8]) {
    match codec::decode::<Signed<RollCall>>(bytes) {
        Ok(call) => signed(&call),
        Err(error) => shown(&error, bytes),
    }
}

/// What verifies was signed by the known key, and what its key did not sign does not verify.
pub(super) fn signed<T: Document>(document: &Signed<T>) {
    let key = KEY.public();
    let ours = |signature: &Signature| signature.key == key.id();
    match document.verify(&[key], 1) {
        Ok(_) => {
            assert_eq!(Signed::<T>::sign(document.bytes.clone(), &KEY).signatures.len(), 1);
            assert!(document.signatures.iter().any(ours));
            let forged = Signed::<T>::from_parts(
                [&document.bytes, b"!".as_slice()].concat(),
                document.signatures.clone(),
            );
            assert!(forged.verify(&[key], 1).is_err(), "a changed document verifies");
        }
        Err(error) => {
            // Every signature is repeated in the sentence, as 16 digits.
            let size = document.bytes.len() + 24 * document.signatures.len();
            shown(&error, &vec![0; size]);
        }
    }
}

pub(super) fn receipts() -> Vec<Vec<u8>> {
    vec![Samples::new().unwrap().receipt().to_bytes().unwrap()]
}

pub(super) fn roll_calls() -> Vec<Vec<u8>> {
    use consilium_common::audit::Outcome;
    let committed = Samples::new().unwrap().roll_call();
    let evaluated = Outcome::Evaluated { weight: 15_000 };
    let abandoned = Outcome::Abandoned { reason: "too few sites".into() };
    let others = [evaluated, abandoned].map(|outcome| RollCall { outcome, ..committed.clone() });
    [&[committed], others.as_slice()].concat().iter().map(|call| call.to_bytes().unwrap()).collect()
}

pub(super) fn checkpoints() -> Vec<Vec<u8>> {
    let mut tree = Tree::new();
    tree.push([7; 32]);
    vec![Checkpoint::of("thorax", &tree).to_bytes()]
}

pub(super) fn signed_roll_calls() -> Vec<Vec<u8>> {
    let bytes = || Samples::new().unwrap().roll_call().to_bytes().unwrap();
    let one = Signed::<RollCall>::sign(bytes(), &KEY);
    let none = Signed::<RollCall>::from_parts(bytes(), Vec::new());
    let stranger = Signed::<RollCall>::sign(bytes(), &SecretKey::from_seed(&[8; 32]));
    let unreadable = Signed::<RollCall>::sign(b"{}".to_vec(), &KEY);
    let mut forged = one.clone();
    forged.bytes.push(b' ');
    let mut many = one.clone();
    many.signatures = vec![many.signatures.remove(0); 65];
    [one, none, stranger, unreadable, forged, many]
        .iter()
        .map(|s| codec::encode(s).unwrap())
        .collect()
}

/// A resolved study with its signature.
pub(super) fn signed_study() -> Signed<Study> {
    Signed::sign(study::tiny().resolve().unwrap().to_text().unwrap().into_bytes(), &KEY)
}
