//! The vocabulary of a text study, learnt through counts (DESIGN.md §10): no word leaves a site.
//!
//! Tokens fall into 2^18 buckets by a hash whose key is the study's own. A site counts, over its
//! training documents: in how many a token of the bucket stands, and whether there is one (its
//! *support*). Of the buckets that enough sites support, those in the most documents get rows of the
//! embedding, in the order of the buckets; every other token is [`UNKNOWN`]. So no row belongs to one
//! site alone. Two words in one bucket are one word to the model.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::Study;
use super::counts::{LIMBS, carried, limbs, ln};
use crate::limits::GRID_MAX;

/// Buckets that tokens fall into.
pub const BUCKETS: usize = 1 << 18;
/// What a site counts: documents and support of each bucket, and its documents in limbs.
pub const VOCABULARY_UNITS: usize = 2 * BUCKETS + LIMBS;
/// Row of the embedding that fills a document up: its vector stays zero.
pub const PADDING: u32 = 0;
/// Row of the embedding of every token that has none of its own.
pub const UNKNOWN: u32 = 1;
/// Rows before those of the vocabulary.
pub const FIRST_ROW: u32 = 2;

/// A study's way from tokens to buckets.
#[derive(Debug, Clone)]
pub struct Buckets {
    key: [u8; 32],
}

impl Buckets {
    /// The key is BLAKE3's `derive_key` (context `consilium/buckets/1`) of the study's seed (u64,
    /// little-endian) and name.
    #[must_use]
    pub fn of(study: &Study) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("consilium/buckets/1");
        hasher.update(&study.header.seed.to_le_bytes()).update(study.id().as_str().as_bytes());
        Self { key: *hasher.finalize().as_bytes() }
    }

    /// The bucket of `token`, below [`BUCKETS`]: the low 18 bits of its keyed hash.
    #[must_use]
    pub fn bucket(&self, token: &str) -> u32 {
        let hash = blake3::keyed_hash(&self.key, token.as_bytes());
        let [a, b, c, ..] = *hash.as_bytes();
        u32::from_le_bytes([a, b, c & 3, 0])
    }
}

/// What one site counts.
#[derive(Debug, Clone)]
pub struct Counts {
    documents: Vec<i32>,
    total: u64,
}

impl Default for Counts {
    fn default() -> Self {
        Self { documents: vec![0; BUCKETS], total: 0 }
    }
}

impl Counts {
    /// Takes one document: the buckets of its tokens, repeated ones count once.
    pub fn add(&mut self, document: &[u32]) {
        let distinct: BTreeSet<u32> = document.iter().copied().collect();
        for bucket in distinct {
            if let Some(count) = self.documents.get_mut(bucket as usize) {
                *count = count.saturating_add(1).min(GRID_MAX);
            }
        }
        self.total += 1;
    }

    /// A site's units: [`VOCABULARY_UNITS`] of them, each within ±2^30.
    #[must_use]
    pub fn units(&self) -> Vec<i32> {
        let support = self.documents.iter().map(|&count| count.min(1));
        let all = self.documents.iter().copied().chain(support);
        all.chain(limbs(self.total.into())).collect()
    }
}

/// Rows of the embedding for buckets, and how much each says.
#[derive(Debug, Clone, PartialEq)]
pub struct Vocabulary {
    /// The row of each bucket.
    rows: Vec<u32>,
    /// The weight of each row.
    weights: Vec<f32>,
}

impl Vocabulary {
    /// From sums of units over `sites`. A bucket needs the support of `support` sites, or of all where
    /// there are fewer. `None` if there are too few sums, or one is negative.
    ///
    /// Weights are the inverse document frequency ln((1 + N) / (1 + n)) + 1 of N documents, n of them
    /// with the bucket (the smooth form of scikit-learn's `TfidfTransformer`); 1 for [`UNKNOWN`], as if
    /// it stood in every document, and 0 for [`PADDING`].
    #[must_use]
    pub fn of(sums: &[i64], sites: u32, support: u32, capacity: u32) -> Option<Self> {
        let (documents, rest) = sums.split_at_checked(BUCKETS)?;
        let (supported, total) = rest.split_at_checked(BUCKETS)?;
        let total = carried(total.get(..LIMBS)?)?;
        let least = i64::from(support.min(sites).max(1));
        let counted = || documents.iter().zip(supported);
        if counted().any(|(documents, support)| *documents < 0 || *support < 0) {
            return None;
        }
        let mut best: Vec<(Reverse<i64>, u32)> = (0..)
            .zip(counted())
            .filter(|(_, (documents, support))| **documents > 0 && **support >= least)
            .map(|(bucket, (documents, _))| (Reverse(*documents), bucket))
            .collect();
        // Ties go to the lower bucket.
        best.sort_unstable();
        best.truncate(capacity as usize);
        best.sort_unstable_by_key(|(_, bucket)| *bucket);
        let mut rows = vec![UNKNOWN; BUCKETS];
        let mut weights = vec![0.0, 1.0];
        for (row, (Reverse(documents), bucket)) in (FIRST_ROW..).zip(best) {
            if let Some(at) = rows.get_mut(bucket as usize) {
                *at = row;
            }
            weights.push(inverse_frequency(total, documents));
        }
        weights.resize(FIRST_ROW as usize + capacity as usize, 0.0);
        Some(Self { rows, weights })
    }

    /// The row of a bucket's tokens: [`UNKNOWN`], or from [`FIRST_ROW`] to the capacity above it.
    #[must_use]
    pub fn row(&self, bucket: u32) -> u32 {
        self.rows.get(bucket as usize).copied().unwrap_or(UNKNOWN)
    }

    /// The weight of each row of the embedding; 0 for those that no bucket has.
    #[must_use]
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of documents, below 2^53")]
#[expect(clippy::cast_possible_truncation, reason = "one rounding, to nearest")]
fn inverse_frequency(total: u128, documents: i64) -> f32 {
    let share = (1.0 + total as f64) / (1.0 + documents as f64);
    (ln(share) + 1.0).max(0.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: u32 = 8;

    fn site(documents: &[&[u32]]) -> Vec<i32> {
        let mut counts = Counts::default();
        documents.iter().for_each(|document| counts.add(document));
        counts.units()
    }

    fn sum(sites: &[Vec<i32>]) -> Vec<i64> {
        let mut sums = vec![0_i64; VOCABULARY_UNITS];
        for site in sites {
            assert_eq!(site.len(), VOCABULARY_UNITS);
            sums.iter_mut().zip(site).for_each(|(sum, unit)| *sum += i64::from(*unit));
        }
        sums
    }

    fn sites() -> [Vec<i32>; 3] {
        [
            site(&[&[7, 7, 900, 31], &[7, 5], &[900], &[900]]),
            site(&[&[7, 31], &[262_143, 7]]),
            site(&[&[262_143], &[6, 6, 6], &[6]]),
        ]
    }

    fn known(vocabulary: &Vocabulary) -> Vec<(u32, u32)> {
        let buckets = 0..u32::try_from(BUCKETS).unwrap();
        let row = |bucket| (bucket, vocabulary.row(bucket));
        buckets.map(row).filter(|(_, row)| *row != UNKNOWN).collect()
    }

    #[test]
    fn no_entry_is_supported_by_fewer_than_min_site_support_sites() {
        let sums = sum(&sites());
        let of = |support| known(&Vocabulary::of(&sums, 3, support, CAPACITY).unwrap());
        // 900 stands in three documents and 6 in two, each of one site.
        assert_eq!(of(2), [(7, 2), (31, 3), (262_143, 4)]);
        assert_eq!(of(3), []);
        assert_eq!(of(1).len(), 6);
    }

    #[test]
    fn one_site_alone_has_the_support_of_all() {
        let sums = sum(&sites()[..1]);
        let of = |sites| known(&Vocabulary::of(&sums, sites, 2, CAPACITY).unwrap());
        assert_eq!(of(1), [(5, 2), (7, 3), (31, 4), (900, 5)]);
        assert_eq!(of(2), []);
    }

    #[test]
    fn the_order_of_sites_changes_nothing() {
        let [a, b, c] = sites();
        let first = Vocabulary::of(&sum(&[a.clone(), b.clone(), c.clone()]), 3, 2, CAPACITY);
        assert_eq!(Vocabulary::of(&sum(&[c, a, b]), 3, 2, CAPACITY), first);
    }

    #[test]
    fn the_capacity_takes_what_most_documents_have_and_then_the_lower_bucket() {
        let vocabulary = Vocabulary::of(&sum(&sites()), 3, 2, 2).unwrap();
        assert_eq!(known(&vocabulary), [(7, 2), (31, 3)]);
        assert_eq!(vocabulary.weights().len(), 4);
        let all = Vocabulary::of(&sum(&sites()), 3, 2, CAPACITY).unwrap();
        assert_eq!(all.weights().len(), 10);
    }

    #[test]
    fn what_stands_in_few_documents_weighs_more() {
        let vocabulary = Vocabulary::of(&sum(&sites()), 3, 2, CAPACITY).unwrap();
        // Nine documents: 7 in four of them, 31 in two.
        let expected = [0.0, 1.0, (10.0_f64 / 5.0).ln() + 1.0, (10.0_f64 / 3.0).ln() + 1.0];
        for (have, need) in vocabulary.weights().iter().zip(expected) {
            assert!((f64::from(*have) - need).abs() < 1e-6, "{have} {need}");
        }
        assert!(vocabulary.weights()[5..].iter().all(|weight| *weight == 0.0));
    }

    #[test]
    fn sums_that_no_sites_have_give_no_vocabulary() {
        let sums = sum(&sites());
        assert_eq!(Vocabulary::of(&sums[1..], 3, 2, CAPACITY), None);
        for at in [5, BUCKETS + 5, 2 * BUCKETS] {
            let mut negative = sums.clone();
            negative[at] = -1;
            assert_eq!(Vocabulary::of(&negative, 3, 2, CAPACITY), None);
        }
    }

    #[test]
    fn buckets_follow_from_the_studys_name_and_seed() {
        let text = |name: &str, seed: u64| {
            let text = format!(
                "[study]\nname = \"{name}\"\nseed = {seed}\n[model]\nfamily = \"synthetic\"\n\
                 parameters = 4\n[aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n"
            );
            Buckets::of(&Study::read(&text, "a.toml").unwrap())
        };
        let words = ["fever", "cough", "肺炎"];
        let of = |buckets: Buckets| words.map(|word| buckets.bucket(word));
        let first = of(text("ward", 1));
        // Golden: another hash is another vocabulary for every study that runs.
        assert_eq!(first, [77_732, 102_213, 159_691]);
        assert!(first.iter().all(|bucket| (*bucket as usize) < BUCKETS));
        assert_ne!(of(text("ward", 2)), first);
        assert_ne!(of(text("yard", 1)), first);
    }
}
