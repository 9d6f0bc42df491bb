//! The same sums once more for each group of the study (`study::groups`), and what people read of them.
//!
//! A site fills a group in only if nobody can be singled out by it: [`GROUP_RECORDS_MIN`] records or
//! more are in the group, and in what is left of the hold-out without the column's groups, which whoever
//! sees the sums can work out by subtraction.

use serde::{Deserialize, Serialize};

use super::intervals::Measure;
use super::words::{Metrics, Schema, WordsError};
use crate::limits::GROUP_RECORDS_MIN;

/// One group of a study.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The column.
    pub column: String,
    /// The group among the column's.
    pub name: String,
}

/// What a version is worth for one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupRow {
    /// The column.
    pub column: String,
    /// The group among the column's.
    pub group: String,
    /// Hold-out records, of the sites that have enough of them.
    pub records: u64,
    /// The study's own measure; absent where no site has enough records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measure: Option<Measure>,
}

impl Schema {
    /// The sums of one group, as if they were all that was measured.
    #[must_use]
    pub fn of_group(&self, metrics: &Metrics, group: usize) -> Metrics {
        let start = self.sums_each().saturating_mul(group.saturating_add(1));
        let end = start.saturating_add(self.sums_each());
        Metrics(metrics.0.get(start..end).unwrap_or_default().to_vec())
    }

    /// A row for each group.
    #[must_use]
    pub fn group_rows(&self, metrics: &Metrics) -> Vec<GroupRow> {
        let row = |(index, group): (usize, &Group)| {
            let sums = self.of_group(metrics, index);
            GroupRow {
                column: group.column.clone(),
                group: group.name.clone(),
                records: self.get(&sums, "total").unwrap_or(0),
                measure: self.decisive(&sums),
            }
        };
        self.groups().iter().enumerate().map(row).collect()
    }

    /// One site's groups: each sound by itself and large enough, and so is what no group of a column has.
    pub(super) fn check_groups(&self, metrics: &Metrics) -> Result<(), WordsError> {
        let all = self.get(metrics, "total").unwrap_or(0);
        let mut left: Option<(&str, u64)> = None;
        let small = |records: u64| (1..GROUP_RECORDS_MIN).contains(&records);
        let too_small =
            Err(WordsError::Contradiction("a group, or what is left of it, is too small"));
        for (index, group) in self.groups().iter().enumerate() {
            let sums = self.of_group(metrics, index);
            self.check_part(&sums)?;
            let records = self.get(&sums, "total").unwrap_or(0);
            let before = match left {
                Some((column, left)) if column == group.column => left,
                Some((_, left)) if small(left) && left < all => return too_small,
                Some(_) | None => all,
            };
            let more = WordsError::Contradiction("more records in groups than total");
            left = Some((&group.column, before.checked_sub(records).ok_or(more)?));
            if small(records) {
                return too_small;
            }
        }
        if left.is_some_and(|(_, left)| small(left) && left < all) { too_small } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::Study;
    use crate::update::intervals::{Name, wilson};
    use crate::update::words::Words;

    fn schema() -> Schema {
        let text = "[study]\nname = \"a\"\n[model]\nfamily = \"tabular\"\nclasses = [\"n\", \"y\"]\n\
             [data]\nkind = \"table\"\ncolumns = [{ name = \"x\", min = 0, max = 1 }]\n\
             [evaluation]\ngroups = [\"sex:F,M\", \"age:65\"]\n\
             [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n";
        Schema::of(&Study::read(text, "a.toml").unwrap())
    }

    /// Sums of so many records, half of each class, all but one of them right.
    fn sums(records: u64) -> Vec<u64> {
        if records == 0 {
            return vec![0; 7];
        }
        let half = records / 2;
        vec![records - 1, records, 65_536, half, 0, 1, records - half - 1]
    }

    fn metrics(parts: [u64; 5]) -> Metrics {
        Metrics(parts.into_iter().flat_map(sums).collect())
    }

    #[test]
    fn every_group_has_all_sums_under_its_name() {
        let schema = schema();
        assert_eq!((schema.sums_each(), schema.names().len()), (7, 35));
        assert_eq!(schema.names()[7..9], ["group.sex.F.correct", "group.sex.F.total"]);
        assert_eq!(schema.names()[34], "group.age.from 65.confusion.1.1");
        let rows = schema.group_rows(&metrics([100, 40, 60, 0, 90]));
        let read: Vec<(&str, &str, u64)> =
            rows.iter().map(|row| (&*row.column, &*row.group, row.records)).collect();
        assert_eq!(
            read,
            [("sex", "F", 40), ("sex", "M", 60), ("age", "below 65", 0), ("age", "from 65", 90)]
        );
        let women = rows[0].measure.unwrap();
        assert_eq!((women.name, women.value), (Name::Accuracy, 39.0 / 40.0));
        assert_eq!(women.interval, wilson(39, 40));
        assert!(rows[2].measure.is_none());
    }

    #[test]
    fn a_sites_groups_that_single_people_out_or_contradict_the_whole_are_refused() {
        let schema = schema();
        let read = |parts: [u64; 5]| {
            let words = Words { weight: 1, clipped: 0, metrics: metrics(parts) };
            let decoded = schema.decode(&schema.encode(&words));
            decoded.map(|decoded| assert_eq!(decoded, words)).map_err(|error| error.to_string())
        };
        assert_eq!(read([100, 40, 60, 0, 90]), Ok(()));
        assert_eq!(read([100, 0, 0, 0, 0]), Ok(()));
        // A hold-out that is small itself has nothing to hide behind: its groups stay empty.
        assert_eq!(read([7, 0, 0, 0, 0]), Ok(()));
        for (parts, said) in [
            ([100, 9, 0, 0, 0], "too small"),
            ([100, 40, 55, 0, 0], "too small"),
            ([100, 40, 60, 0, 95], "too small"),
            ([100, 60, 60, 0, 0], "more records in groups"),
            ([100, 0, 0, 101, 0], "more records in groups"),
        ] {
            let error = read(parts).unwrap_err();
            assert!(error.contains(said), "{parts:?}: {error}");
        }
        let mut torn = metrics([100, 40, 60, 0, 0]);
        torn.0[10] += 1;
        let words = Words { weight: 1, clipped: 0, metrics: torn };
        let error = schema.decode(&schema.encode(&words)).unwrap_err().to_string();
        assert!(error.contains("confusion"), "{error}");
    }
}
