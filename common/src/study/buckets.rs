//! Words and items counted without being named (DESIGN.md §10): each falls into one of 2^18 buckets by
//! a hash whose key is the study's own, a site counts in how many of its documents (or at how many of
//! its users) a bucket is found, and whether it is found at all (its *support*). Of the buckets that
//! enough sites support, the most frequent get rows of an embedding; so no row belongs to one site
//! alone. Two words in one bucket are one word to the model.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::Study;
use crate::limits::GRID_MAX;

/// Buckets that words and items fall into.
pub const BUCKETS: usize = 1 << 18;
/// Units of one [`Tally`]: frequency and support of each bucket.
pub const TALLY_UNITS: usize = 2 * BUCKETS;

/// A study's way from words to buckets.
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

    /// The bucket of `word`, below [`BUCKETS`]: the low 18 bits of its keyed hash.
    #[must_use]
    pub fn bucket(&self, word: &str) -> u32 {
        let hash = blake3::keyed_hash(&self.key, word.as_bytes());
        let [a, b, c, ..] = *hash.as_bytes();
        u32::from_le_bytes([a, b, c & 3, 0])
    }
}

/// What one site counts.
#[derive(Debug, Clone)]
pub struct Tally(Vec<i32>);

impl Default for Tally {
    fn default() -> Self {
        Self(vec![0; BUCKETS])
    }
}

impl Tally {
    /// Takes one document, or one user: the buckets found there, repeated ones count once.
    pub fn add(&mut self, found: &[u32]) {
        let distinct: BTreeSet<u32> = found.iter().copied().collect();
        for bucket in distinct {
            if let Some(count) = self.0.get_mut(bucket as usize) {
                *count = count.saturating_add(1).min(GRID_MAX);
            }
        }
    }

    /// A site's units: [`TALLY_UNITS`] of them, each within ±2^30.
    pub fn units(&self) -> impl Iterator<Item = i32> + '_ {
        self.0.iter().copied().chain(self.0.iter().map(|&count| count.min(1)))
    }
}

/// The buckets that `support` of the `sites` found (or all of them, where there are fewer), with how
/// often, ascending; the `capacity` most frequent if there are more, the lower one first of equals.
/// `sums` are those of [`Tally::units`]; `None` if there are too few, or one is negative.
#[must_use]
pub fn supported(sums: &[i64], sites: u32, support: u32, capacity: u32) -> Option<Vec<(u32, i64)>> {
    let (counts, rest) = sums.split_at_checked(BUCKETS)?;
    let (supports, _) = rest.split_at_checked(BUCKETS)?;
    let least = i64::from(support.min(sites).max(1));
    let counted = || counts.iter().copied().zip(supports.iter().copied());
    if counted().any(|(count, support)| count < 0 || support < 0) {
        return None;
    }
    let mut best: Vec<(Reverse<i64>, u32)> = (0..)
        .zip(counted())
        .filter(|(_, (count, support))| *count > 0 && *support >= least)
        .map(|(bucket, (count, _))| (Reverse(count), bucket))
        .collect();
    best.sort_unstable();
    best.truncate(capacity as usize);
    best.sort_unstable_by_key(|(_, bucket)| *bucket);
    Some(best.into_iter().map(|(Reverse(count), bucket)| (bucket, count)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(users: &[&[u32]]) -> Vec<i32> {
        let mut tally = Tally::default();
        users.iter().for_each(|user| tally.add(user));
        tally.units().collect()
    }

    fn sum(sites: &[Vec<i32>]) -> Vec<i64> {
        let mut sums = vec![0_i64; TALLY_UNITS];
        for site in sites {
            assert_eq!(site.len(), TALLY_UNITS);
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

    #[test]
    fn no_row_is_supported_by_fewer_than_min_site_support_sites() {
        let sums = sum(&sites());
        // 900 is found three times and 6 twice, each at one site.
        assert_eq!(supported(&sums, 3, 2, 8), Some(vec![(7, 4), (31, 2), (262_143, 2)]));
        assert_eq!(supported(&sums, 3, 3, 8), Some(Vec::new()));
        assert_eq!(supported(&sums, 3, 1, 8).unwrap().len(), 6);
    }

    #[test]
    fn one_site_alone_has_the_support_of_all() {
        let sums = sum(&sites()[..1]);
        let buckets = |sites| {
            let found = supported(&sums, sites, 2, 8).unwrap();
            found.into_iter().map(|(bucket, _)| bucket).collect::<Vec<_>>()
        };
        assert_eq!(buckets(1), [5, 7, 31, 900]);
        assert!(buckets(2).is_empty());
    }

    #[test]
    fn the_capacity_takes_the_most_frequent_and_then_the_lower_bucket() {
        assert_eq!(supported(&sum(&sites()), 3, 2, 2), Some(vec![(7, 4), (31, 2)]));
    }

    #[test]
    fn sums_that_no_sites_have_give_nothing() {
        let sums = sum(&sites());
        assert_eq!(supported(&sums[1..], 3, 2, 8), None);
        for at in [5, BUCKETS + 5] {
            let mut negative = sums.clone();
            negative[at] = -1;
            assert_eq!(supported(&negative, 3, 2, 8), None);
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
