//! Which rows of the hold-out are in which group of the study, and which groups are too small to be
//! told. Pure.
//!
//! A group is left out, its sums zero, if it has fewer than [`GROUP_RECORDS_MIN`] records (patients,
//! where the study names them). So that a small group does not follow by subtraction, a column's next
//! smallest group goes with it until as many are left over, or nobody is.

use std::collections::BTreeSet;

use consilium_common::limits::GROUP_RECORDS_MIN;
use consilium_common::study::Study;
use consilium_common::study::groups::Grouping;

use super::contract::Field;

/// In no group of a column.
const NONE: u8 = u8::MAX;

/// What is known of a record beside its inputs: its group in each of the study's columns, and whose it
/// is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    pub(crate) places: Places,
    /// The patient's number, where the study names patients.
    pub(crate) patient: Option<u32>,
}

/// A group for each of the study's columns.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(Box<[u8]>);

impl Places {
    pub(crate) fn of(places: impl Iterator<Item = Option<usize>>) -> Self {
        let place = |place: Option<usize>| place.and_then(|at| u8::try_from(at).ok());
        Self(places.map(|at| place(at).unwrap_or(NONE)).collect())
    }

    /// From the fields of the study's columns, in their order.
    pub(crate) fn read(groupings: &[Grouping], fields: &[Field<'_>]) -> Self {
        let place = |(grouping, field): (&Grouping, &Field<'_>)| {
            let there = Some(field).filter(|field| !field.missing)?;
            grouping.place_of(there.text, there.number)
        };
        Self::of(groupings.iter().zip(fields).map(place))
    }
}

/// The rows of each of the study's groups, ascending, in the schema's order; none where too few are in
/// it. `members` are the hold-out's records, a row each.
pub(crate) fn shown<'m>(
    study: &Study,
    members: impl Iterator<Item = &'m Member> + Clone,
) -> Vec<Vec<i64>> {
    let groupings = study.groupings();
    let columns = groupings.iter().enumerate();
    columns.flat_map(|(at, grouping)| column(at, grouping, members.clone())).collect()
}

fn column<'m>(
    at: usize,
    grouping: &Grouping,
    members: impl Iterator<Item = &'m Member>,
) -> Vec<Vec<i64>> {
    let (mut groups, mut rest) = (vec![Part::default(); grouping.names().len()], Part::default());
    for (row, member) in (0_i64..).zip(members) {
        let place = member.places.0.get(at).copied().unwrap_or(NONE);
        groups.get_mut(usize::from(place)).unwrap_or(&mut rest).add(row, member.patient);
    }
    loop {
        let there = groups.iter().enumerate().filter(|(_, group)| !group.rows.is_empty());
        let smallest = there.min_by_key(|(_, group)| group.size()).map(|(at, _)| at);
        let Some(group) = smallest.and_then(|at| groups.get_mut(at)) else {
            break;
        };
        if group.is_enough() && (rest.rows.is_empty() || rest.is_enough()) {
            break;
        }
        rest.absorb(std::mem::take(group));
    }
    groups.into_iter().map(|group| group.rows).collect()
}

/// Some of the hold-out.
#[derive(Debug, Clone, Default)]
struct Part {
    rows: Vec<i64>,
    /// Empty where the study names no patients.
    patients: BTreeSet<u32>,
}

impl Part {
    fn add(&mut self, row: i64, patient: Option<u32>) {
        self.rows.push(row);
        self.patients.extend(patient);
    }

    fn absorb(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.patients.extend(other.patients);
    }

    /// Patients, or records where no patients are named.
    fn size(&self) -> u64 {
        let size = if self.patients.is_empty() { self.rows.len() } else { self.patients.len() };
        size as u64
    }

    fn is_enough(&self) -> bool {
        self.size() >= GROUP_RECORDS_MIN
    }
}

/// A line for each group: how many records are held out, and whether they are told.
pub(crate) fn findings<'m>(
    study: &Study,
    members: impl Iterator<Item = &'m Member> + Clone,
) -> Vec<String> {
    let shown = shown(study, members.clone());
    let mut shown = shown.iter();
    let mut lines = Vec::new();
    for (at, grouping) in study.groupings().iter().enumerate() {
        for (place, name) in grouping.names().iter().enumerate() {
            let is_in = |member: &&Member| {
                member.places.0.get(at).is_some_and(|have| usize::from(*have) == place)
            };
            let (column, count) = (&grouping.column, members.clone().filter(is_in).count());
            let told = shown.next().is_some_and(|rows| !rows.is_empty());
            let left = if told { "" } else { ": not told apart, too few, or too few others" };
            lines.push(format!("group {column} {name:?}: {count} held out{left}"));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn study() -> Study {
        let text = "[study]\nname = \"a\"\n[model]\nfamily = \"tabular\"\nclasses = [\"n\", \"y\"]\n\
             [data]\nkind = \"table\"\ncolumns = [{ name = \"x\", min = 0, max = 1 }]\n\
             [evaluation]\ngroups = [\"ward:a,b,c\"]\n\
             [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n";
        Study::read(text, "a.toml").unwrap()
    }

    /// So many records of each group and of none; each of its own patient, or of `patients` in turn.
    fn members(counts: [usize; 4], patients: Option<u32>) -> Vec<Member> {
        let places = [Some(0), Some(1), Some(2), None];
        let all = counts.iter().zip(places).flat_map(|(count, at)| std::iter::repeat_n(at, *count));
        let member = |(number, place): (u32, Option<usize>)| Member {
            places: Places::of([place].into_iter()),
            patient: patients.map(|patients| number % patients),
        };
        (0..).zip(all).map(member).collect()
    }

    fn sizes(counts: [usize; 4], patients: Option<u32>) -> Vec<usize> {
        shown(&study(), members(counts, patients).iter()).iter().map(Vec::len).collect()
    }

    #[test]
    fn a_group_of_fewer_than_ten_is_left_out_and_never_follows_by_subtraction() {
        assert_eq!(sizes([10, 20, 30, 0], None), [10, 20, 30]);
        assert_eq!(sizes([10, 20, 30, 10], None), [10, 20, 30]);
        // Nine are left out; the next smallest goes with them.
        assert_eq!(sizes([9, 20, 30, 0], None), [0, 0, 30]);
        // Two small groups hide one another.
        assert_eq!(sizes([9, 4, 30, 0], None), [0, 0, 30]);
        // Three records of no group would follow too.
        assert_eq!(sizes([10, 20, 30, 3], None), [0, 20, 30]);
        assert_eq!(sizes([9, 30, 0, 0], None), [0, 0, 0]);
        assert_eq!(sizes([0, 0, 0, 0], None), [0, 0, 0]);
    }

    #[test]
    fn records_of_few_patients_are_few() {
        assert_eq!(sizes([60, 60, 60, 0], Some(9)), [0, 0, 0]);
        assert_eq!(sizes([60, 60, 60, 0], Some(10)), [60, 60, 60]);
    }

    #[test]
    fn rows_are_those_of_the_hold_out_in_order() {
        let rows = shown(&study(), members([10, 0, 12, 0], None).iter());
        assert_eq!(rows, [(0..10).collect::<Vec<i64>>(), vec![], (10..22).collect()]);
        let lines = findings(&study(), members([10, 0, 12, 0], None).iter());
        assert_eq!(lines[0], "group ward \"a\": 10 held out");
        assert!(lines[1].contains("0 held out: not told"), "{lines:?}");
    }
}
