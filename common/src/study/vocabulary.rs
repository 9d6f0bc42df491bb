//! The vocabulary of a text study, learnt through counts (DESIGN.md §10): no word leaves a site.
//!
//! A site counts in how many of its training documents each bucket of tokens stands
//! ([`super::buckets`]). Of the buckets that enough sites support, those in the most documents get rows
//! of the embedding, in the order of the buckets; every other token is [`UNKNOWN`].

use std::collections::BTreeSet;

use super::buckets::{BUCKETS, TALLY_UNITS, Tally, supported};
use super::counts::{LIMBS, carried, limbs, ln};
use super::segments::Document;

/// What a site counts: documents and support of each bucket; its documents, and the different
/// characters of scripts without spaces in each, in limbs.
pub const VOCABULARY_UNITS: usize = TALLY_UNITS + 2 * LIMBS;
/// Row of the embedding that fills a document up: its vector stays zero.
pub const PADDING: u32 = 0;
/// Row of the embedding of every token that has none of its own.
pub const UNKNOWN: u32 = 1;
/// Rows before those of the vocabulary.
pub const FIRST_ROW: u32 = 2;

/// What one site counts over its training documents.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    documents: Tally,
    total: u64,
    characters: u64,
}

impl Counts {
    /// Takes one document: its words, repeated ones count once.
    pub fn add(&mut self, document: &Document) {
        self.documents.add(&document.counted());
        self.total += 1;
        self.characters += document.characters().collect::<BTreeSet<_>>().len() as u64;
    }

    /// A site's units: [`VOCABULARY_UNITS`] of them, each within ±2^30.
    #[must_use]
    pub fn units(&self) -> Vec<i32> {
        let totals = [self.total, self.characters].map(|total| limbs(total.into()));
        self.documents.units().chain(totals.into_iter().flatten()).collect()
    }
}

/// Rows of the embedding for buckets, and how much each says.
#[derive(Debug, Clone, PartialEq)]
pub struct Vocabulary {
    /// The row of each bucket.
    rows: Vec<u32>,
    /// The weight of each row.
    weights: Vec<f32>,
    /// The documents of each row; 0 for those that no bucket has.
    documents: Vec<u64>,
    /// The documents of all single characters of scripts without spaces, added up.
    characters: u128,
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
        let (tally, totals) = sums.split_at_checked(TALLY_UNITS)?;
        let (total, characters) = totals.split_at_checked(LIMBS)?;
        let (total, characters) = (carried(total)?, carried(characters.get(..LIMBS)?)?);
        let known = supported(tally, sites, support, capacity)?;
        let mut rows = vec![UNKNOWN; BUCKETS];
        let mut weights = vec![0.0, 1.0];
        let mut documents = vec![0; FIRST_ROW as usize];
        for (row, (bucket, count)) in (FIRST_ROW..).zip(known) {
            if let Some(at) = rows.get_mut(bucket as usize) {
                *at = row;
            }
            weights.push(inverse_frequency(total, count));
            documents.push(u64::try_from(count).unwrap_or(0));
        }
        weights.resize(FIRST_ROW as usize + capacity as usize, 0.0);
        Some(Self { rows, weights, documents, characters })
    }

    /// The row of a bucket's tokens: [`UNKNOWN`], or from [`FIRST_ROW`] to the capacity above it.
    #[must_use]
    pub fn row(&self, bucket: u32) -> u32 {
        self.rows.get(bucket as usize).copied().unwrap_or(UNKNOWN)
    }

    /// In how many documents a bucket's tokens stand; `None` if they have no row of their own.
    #[must_use]
    pub fn documents(&self, bucket: u32) -> Option<u64> {
        let row = Some(self.row(bucket)).filter(|row| *row != UNKNOWN)?;
        self.documents.get(row as usize).copied()
    }

    /// The documents of all single characters of scripts without spaces, added up.
    #[must_use]
    pub fn characters(&self) -> u128 {
        self.characters
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
        documents.iter().for_each(|words| counts.add(&Document::of_words(words)));
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
}
