//! The catalogue of a recommender, agreed on through counts: which items have a row of their own, and
//! the mean of all ratings. No item's name leaves a site ([`super::buckets`]).

use super::buckets::{BUCKETS, TALLY_UNITS, Tally, supported};
use super::counts::{MOMENTS_UNITS, Moments};
use super::{Objective, Study};

/// The row of every item that has none of its own.
pub const UNKNOWN: u32 = 0;

/// What one site counts over its training records.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    raters: Tally,
    ratings: Moments,
}

impl Counts {
    /// Takes one user: the buckets of the items, and the ratings as shares of their range.
    pub fn add(&mut self, items: &[u32], ratings: impl Iterator<Item = f64>) {
        self.raters.add(items);
        ratings.for_each(|rating| self.ratings.add(rating));
    }

    /// A site's units: [`units_len`] of them, each within ±2^30.
    #[must_use]
    pub fn units(&self, objective: Objective) -> Vec<i32> {
        let ratings = (objective == Objective::Regress).then(|| self.ratings.units());
        self.raters.units().chain(ratings.into_iter().flatten()).collect()
    }
}

/// Units that a site counts: those of the buckets, and for `regress` the moments of the ratings.
#[must_use]
pub fn units_len(objective: Objective) -> usize {
    let ratings = if objective == Objective::Regress { MOMENTS_UNITS } else { 0 };
    TALLY_UNITS + ratings
}

/// Rows of items.
#[derive(Debug, Clone)]
pub struct Catalogue {
    /// The row of each bucket.
    rows: Vec<u32>,
    len: u32,
    mean: f64,
}

impl Catalogue {
    /// From sums of units over `sites`, for at most `items` items: rows from 1 in the order of the
    /// buckets. `None` if there are too few sums, or one is negative.
    #[must_use]
    pub fn of(study: &Study, sums: &[i64], sites: u32, items: u32) -> Option<Self> {
        let (tally, rest) = sums.split_at_checked(TALLY_UNITS)?;
        let known = supported(tally, sites, study.data.site_support(), items)?;
        let mean = match study.model.objective() {
            Some(Objective::Regress) => Moments::of(rest)?.mean_and_deviation().0,
            Some(Objective::Rank | Objective::Classify | Objective::Multilabel) | None => 0.0,
        };
        let mut rows = vec![UNKNOWN; BUCKETS];
        for (row, (bucket, _)) in (UNKNOWN + 1..).zip(&known) {
            if let Some(at) = rows.get_mut(*bucket as usize) {
                *at = row;
            }
        }
        let len = u32::try_from(known.len()).unwrap_or(u32::MAX);
        Some(Self { rows, len, mean })
    }

    /// The row of a bucket's items: [`UNKNOWN`], or 1 to [`Catalogue::len`].
    #[must_use]
    pub fn row(&self, bucket: u32) -> u32 {
        self.rows.get(bucket as usize).copied().unwrap_or(UNKNOWN)
    }

    /// Items that have a row of their own.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no item has one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The mean rating as a share of its range; 0 for `rank`.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::buckets::Buckets;

    fn study(objective: &str, rest: &str) -> Study {
        let metric = if objective == "rank" { "hr" } else { "rmse" };
        let text = format!(
            "[study]\nname = \"films\"\nseed = 3\n[model]\nfamily = \"recommender\"\nitems = 4\n\
             objective = \"{objective}\"\n[data]\nkind = \"ratings\"\n{rest}\n[aggregation]\n\
             clip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n\
             [evaluation]\nmetric = \"{metric}\"\n"
        );
        Study::read(&text, "films.toml").unwrap()
    }

    const STARS: &str = "columns = [{ name = \"rating\", min = 1, max = 5 }]";

    /// Each user's items and ratings, as shares.
    fn site(study: &Study, users: &[&[(&str, f64)]]) -> Vec<i32> {
        let (buckets, mut counts) = (Buckets::of(study), Counts::default());
        for user in users {
            let items: Vec<u32> = user.iter().map(|(item, _)| buckets.bucket(item)).collect();
            counts.add(&items, user.iter().map(|(_, rating)| *rating));
        }
        let objective = study.model.objective().unwrap();
        let units = counts.units(objective);
        assert_eq!(units.len(), units_len(objective));
        units
    }

    fn sum(sites: &[Vec<i32>]) -> Vec<i64> {
        let mut sums = vec![0_i64; sites[0].len()];
        for site in sites {
            sums.iter_mut().zip(site).for_each(|(sum, unit)| *sum += i64::from(*unit));
        }
        sums
    }

    #[test]
    fn an_item_that_one_site_alone_has_is_unknown_and_every_site_gives_the_same_rows() {
        let study = study("regress", STARS);
        let a = site(&study, &[&[("Alien", 1.0), ("Heat", 0.5)], &[("Rare", 0.0)]]);
        let b = site(&study, &[&[("Alien", 0.25)], &[("Heat", 0.75), ("Heat", 0.75)]]);
        let of = |sums: &[i64], sites| Catalogue::of(&study, sums, sites, 4).unwrap();
        let (first, second) = (of(&sum(&[a.clone(), b.clone()]), 2), of(&sum(&[b, a.clone()]), 2));
        let buckets = Buckets::of(&study);
        let rows = |catalogue: &Catalogue| {
            let row = |item| catalogue.row(buckets.bucket(item));
            ["Alien", "Heat", "Rare", "Solaris"].map(row)
        };
        assert_eq!(rows(&first), rows(&second));
        let [alien, heat, rare, solaris] = rows(&first);
        assert_eq!((rare, solaris, first.len()), (UNKNOWN, UNKNOWN, 2));
        assert_eq!(alien.min(heat), 1);
        assert_eq!(alien.max(heat), 2);
        assert!((first.mean() - 3.25 / 6.0).abs() < 1e-8, "{}", first.mean());
        // Alone, a site's own items are all there are.
        assert_eq!(of(&sum(&[a]), 1).len(), 3);
    }

    #[test]
    fn of_too_many_items_the_most_rated_have_rows() {
        let study = study("rank", "min_site_support = 1");
        let users: [&[(&str, f64)]; 3] =
            [&[("a", 1.0), ("b", 1.0)], &[("b", 1.0), ("c", 1.0)], &[("c", 1.0), ("d", 1.0)]];
        let sums = sum(&[site(&study, &users)]);
        let catalogue = Catalogue::of(&study, &sums, 1, 2).unwrap();
        let buckets = Buckets::of(&study);
        let row = |item: &str| catalogue.row(buckets.bucket(item));
        assert_eq!(["a", "d"].map(row), [UNKNOWN; 2]);
        assert!(["b", "c"].into_iter().all(|item| (1..=2).contains(&row(item))));
        assert!(!catalogue.is_empty() && catalogue.mean() == 0.0);
        assert!(Catalogue::of(&study, &sums[1..], 1, 2).is_none());
    }

    #[test]
    fn ratings_without_their_sums_are_refused() {
        let study = study("regress", STARS);
        let sums = sum(&[site(&study, &[&[("a", 0.5)]])]);
        assert!(Catalogue::of(&study, &sums[..TALLY_UNITS], 1, 4).is_none());
    }
}
