//! Whether the head that a coordinator shows goes on from the one that the site keeps. Pure.

use consilium_common::audit::proof::verify_consistency;
use consilium_common::audit::{Checkpoint, ProofError};
use consilium_common::ids::Digest;
use consilium_common::signed::{PublicKey, Signed, SignedError};
use consilium_common::wire::messages::LogHead;
use serde::{Deserialize, Serialize};

/// A head that the coordinator signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its signed bytes.
    pub signed: Signed<Checkpoint>,
    /// What they say.
    pub checkpoint: Checkpoint,
}

/// A head for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadRow {
    /// Records that it covers.
    pub records: u64,
    /// Root of the tree over them (RFC 6962), in hexadecimal.
    pub root: Digest,
}

impl HeadRow {
    /// Of a checkpoint.
    #[must_use]
    pub fn of(checkpoint: &Checkpoint) -> Self {
        Self { records: checkpoint.size, root: Digest(checkpoint.root) }
    }
}

impl std::fmt::Display for HeadRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} records, root {}", self.records, self.root.short())
    }
}

/// Why a head is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// Not the coordinator's that this site pinned at its enrolment.
    #[error("the head of its log is not signed by the coordinator's log key: {0}")]
    Signature(#[from] SignedError),
    /// The head of another log.
    #[error("the head of its log is of {told:?}, this site is of {own:?}")]
    Origin {
        /// Whose log it is.
        told: String,
        /// This site's consortium.
        own: String,
    },
    /// The log was rewritten, cut, or exchanged.
    #[error(
        "the coordinator's log ({}) does not go on from the one that this site witnessed ({kept}): {why}",
        HeadRow::of(&told.checkpoint)
    )]
    History {
        /// What this site keeps.
        kept: HeadRow,
        /// What the coordinator shows, under its signature.
        told: Box<Head>,
        /// What does not fit.
        why: ProofError,
    },
}

/// Holds what the coordinator shows against its log key, the name of its log (`origin`) and the head that
/// is `kept`.
///
/// # Errors
/// [`Doubt`].
pub(super) fn judge(
    kept: Option<&Head>,
    told: &LogHead,
    (origin, log_key): (&str, &PublicKey),
) -> Result<Head, Doubt> {
    let checkpoint = told.signed.verify(&[*log_key], 1)?;
    if checkpoint.origin != origin {
        let own = origin.to_owned();
        return Err(Doubt::Origin { told: checkpoint.origin, own });
    }
    let head = Head { signed: told.signed.clone(), checkpoint };
    let Some(kept) = kept.map(|kept| &kept.checkpoint) else {
        return Ok(head);
    };
    let later = (head.checkpoint.size, &head.checkpoint.root);
    match verify_consistency((kept.size, &kept.root), later, &told.proof) {
        Ok(()) => Ok(head),
        Err(why) => Err(Doubt::History { kept: HeadRow::of(kept), told: Box::new(head), why }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use consilium_common::audit::Blocks;
    use consilium_common::audit::tree::leaf_hash;
    use consilium_common::signed::SecretKey;

    use super::*;

    pub(in crate::witness) const ORIGIN: &str = "thorax";

    pub(in crate::witness) fn key() -> SecretKey {
        SecretKey::from_seed(&[7; 32])
    }

    /// The head of a log of `size` records that differs from others from record `fork` on.
    pub(in crate::witness) fn told(fork: u64, size: u64, first: u64) -> LogHead {
        let leaf = |n: u64| leaf_hash(if n < fork { 1 } else { 2 }, &n.to_le_bytes());
        let mut blocks = Blocks::default();
        (0..size).for_each(|n| blocks.push(leaf(n)));
        let of_block =
            |block: u64| Ok::<_, ProofError>((block * 32..block * 32 + 32).map(leaf).collect());
        let proof = blocks.consistency(first, of_block).unwrap_or_default();
        let checkpoint = Checkpoint::of(ORIGIN, blocks.tree());
        LogHead { signed: Signed::sign(checkpoint.to_bytes(), &key()), proof }
    }

    fn after(kept: Option<&Head>, told: &LogHead) -> Result<Head, Doubt> {
        judge(kept, told, (ORIGIN, &key().public()))
    }

    #[test]
    fn what_goes_on_is_taken_and_any_other_history_is_not() {
        const WHOLE: u64 = u64::MAX;
        let kept = after(None, &told(WHOLE, 70, 0)).unwrap();
        for size in [70, 71, 96, 200] {
            assert_eq!(after(Some(&kept), &told(WHOLE, size, 70)).unwrap().checkpoint.size, size);
        }
        // Rewritten before the kept head, at any record; and after it, which is no rewriting.
        for fork in 0..90 {
            for size in [70, 71, 128] {
                let judged = after(Some(&kept), &told(fork, size, 70));
                assert_eq!(judged.is_ok(), fork >= 70, "fork {fork}, size {size}: {judged:?}");
            }
        }
        // Cut.
        let shorter = after(Some(&kept), &told(WHOLE, 69, 70)).unwrap_err().to_string();
        assert!(shorter.contains("69 records") && shorter.contains("70 records"), "{shorter}");
        // The right history without its proof, or with that of another head.
        let mut bare = told(WHOLE, 100, 70);
        bare.proof.pop();
        assert!(matches!(after(Some(&kept), &bare), Err(Doubt::History { .. })));
        assert!(matches!(after(Some(&kept), &told(WHOLE, 100, 69)), Err(Doubt::History { .. })));
    }

    #[test]
    fn only_the_pinned_keys_word_on_this_log_counts() {
        let good = told(0, 5, 0);
        let strange = SecretKey::from_seed(&[9; 32]);
        let forged =
            LogHead { signed: Signed::sign(good.signed.bytes.clone(), &strange), ..good.clone() };
        assert!(matches!(after(None, &forged), Err(Doubt::Signature(_))));
        let other = judge(None, &good, ("cardio", &key().public())).unwrap_err();
        assert!(matches!(other, Doubt::Origin { .. }), "{other}");
    }
}
