//! What a record teaches: a class, which of the classes it has, or a number.

use std::path::Path;

use consilium_common::limits::{CLASSES_MAX, EXAMPLES_MAX};
use consilium_common::worker::FailureCode;
use tch::{TchError, Tensor};

use super::RECORDS_PER_STEP;
use super::read::npz::Array;
use crate::failure::Failure;

/// The label of one record.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Label {
    /// Index of one of the study's classes.
    Class(usize),
    /// Several of the study's classes or none: bit k for the class at k.
    Set(u64),
    /// In units of the label.
    Number(f64),
}

const _: () = assert!(CLASSES_MAX <= 64, "a set of classes fits a u64");

impl Label {
    /// Whether the record is of the class at this index.
    pub(crate) fn has(self, class: usize) -> bool {
        match self {
            Self::Class(own) => own == class,
            Self::Set(set) => u32::try_from(class).is_ok_and(|class| is_in(set, class)),
            Self::Number(_) => false,
        }
    }

    /// By what records are dealt, where shares of classes are dealt: the class; of several the first, and
    /// a kind of their own for records of none of the `classes`.
    pub(crate) fn key(self, classes: usize) -> Option<usize> {
        match self {
            Self::Class(class) => Some(class),
            Self::Set(set) => Some(classes.min(set.trailing_zeros() as usize)),
            Self::Number(_) => None,
        }
    }

    /// Equal for equal labels of one study.
    pub(crate) fn bits(self) -> u64 {
        match self {
            Self::Class(class) => class as u64,
            Self::Set(set) => set,
            Self::Number(number) => number.to_bits(),
        }
    }

    /// One label a record, of one kind: classes (i64), a row of 0s and 1s (u8, records × classes), or
    /// numbers (f32).
    pub(crate) fn tensor(
        labels: impl Iterator<Item = Self> + Clone,
        classes: usize,
    ) -> Result<Tensor, TchError> {
        match labels.clone().next() {
            Some(Self::Set(_)) => rows(labels.map(Self::bits), classes),
            Some(Self::Number(_)) => {
                Tensor::f_from_slice(&labels.map(Self::number).collect::<Vec<_>>())
            }
            Some(Self::Class(_)) | None => {
                let class = |label: Self| i64::try_from(label.bits()).unwrap_or(i64::MAX);
                Tensor::f_from_slice(&labels.map(class).collect::<Vec<_>>())
            }
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "labels are f32 to the network")]
    fn number(self) -> f32 {
        match self {
            Self::Class(_) | Self::Set(_) => f32::NAN,
            Self::Number(number) => number as f32,
        }
    }
}

fn is_in(set: u64, class: u32) -> bool {
    set.checked_shr(class).is_some_and(|rest| rest & 1 == 1)
}

/// A set from a row of 0s and 1s, one for each class; `None` where there are other numbers.
fn set_of(row: &[i64]) -> Option<u64> {
    let bit = |(class, there): (u32, &i64)| match *there {
        0 => Some(0),
        1 => 1_u64.checked_shl(class),
        _ => None,
    };
    (0..).zip(row).map(bit).try_fold(0, |set, bit| Some(set | bit?))
}

/// The classes of every record: an array of a 0 or 1 for each of so many classes, in their order, a row a
/// record. `None` for a row of other numbers. `records` is how many there must be, if that is known.
pub(crate) fn sets(
    path: &Path,
    name: &str,
    classes: usize,
    records: Option<u64>,
) -> Result<Vec<Option<u64>>, Failure> {
    let mut array = Array::open(path, name)?;
    let fits = |count: u64| records.is_none_or(|records| records == count) && count <= EXAMPLES_MAX;
    match *array.shape() {
        [count, each] if fits(count) && each == classes as u64 => {}
        [count] if fits(count) && classes == 1 => {}
        ref shape => {
            let count = records.map_or_else(|| "records".to_owned(), |count| count.to_string());
            let message = format!(
                "{}, array {name:?} has shape {shape:?}: {count} × {classes} of 0 and 1 was expected, the \
                 study's classes in their order, of at most {EXAMPLES_MAX} records",
                path.display()
            );
            return Err(Failure::new(FailureCode::DataInvalid, message));
        }
    }
    let (mut sets, mut block) = (Vec::new(), Vec::new());
    while array.next_rows_i64(RECORDS_PER_STEP.into(), &mut block)? > 0 {
        sets.extend(block.chunks_exact(classes.max(1)).map(set_of));
    }
    Ok(sets)
}

fn rows(sets: impl Iterator<Item = u64>, classes: usize) -> Result<Tensor, TchError> {
    let width = u32::try_from(classes).unwrap_or(u32::MAX);
    let row = |set: u64| (0..width).map(move |class| u8::from(is_in(set, class)));
    let rows: Vec<u8> = sets.flat_map(row).collect();
    Tensor::f_from_slice(&rows)?.f_view([-1, i64::from(width)])
}

/// The labels of many records, in little memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Labels {
    Classes(Vec<u8>),
    Sets(Vec<u64>),
}

impl Labels {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Classes(classes) => classes.len(),
            Self::Sets(sets) => sets.len(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Label> + Clone {
        let (classes, sets): (&[u8], &[u64]) = match self {
            Self::Classes(classes) => (classes, &[]),
            Self::Sets(sets) => (&[], sets),
        };
        let classes = classes.iter().map(|class| Label::Class((*class).into()));
        classes.chain(sets.iter().map(|set| Label::Set(*set)))
    }

    /// Those of these records.
    pub(crate) fn pick(&self, records: &[u32]) -> Self {
        fn at<T: Copy>(all: &[T], records: &[u32]) -> Vec<T> {
            records.iter().filter_map(|record| all.get(*record as usize).copied()).collect()
        }
        match self {
            Self::Classes(classes) => Self::Classes(at(classes, records)),
            Self::Sets(sets) => Self::Sets(at(sets, records)),
        }
    }

    /// [`Label::key`] of each, and how many kinds there are.
    pub(crate) fn keys(&self, classes: usize) -> (Vec<u8>, usize) {
        let kinds = match self {
            Self::Classes(_) => classes,
            Self::Sets(_) => classes + 1,
        };
        let key = |label: Label| label.key(classes).and_then(|key| u8::try_from(key).ok());
        (self.iter().map(|label| key(label).unwrap_or(0)).collect(), kinds)
    }

    /// [`Label::tensor`] of them.
    pub(crate) fn tensor(&self, classes: usize) -> Result<Tensor, TchError> {
        match self {
            Self::Classes(_) => Label::tensor(self.iter(), classes),
            Self::Sets(sets) => rows(sets.iter().copied(), classes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_zeros_and_ones_is_a_set_and_back() {
        assert_eq!(set_of(&[1, 0, 1]), Some(5));
        assert_eq!((set_of(&[0, 2]), set_of(&[-1]), set_of(&[])), (None, None, Some(0)));
        let all = [1; CLASSES_MAX];
        assert_eq!(set_of(&all), Some(u64::MAX));
        let labels = Labels::Sets(vec![5, 0, u64::MAX]);
        let rows: Vec<Vec<u8>> = labels.tensor(3).unwrap().try_into().unwrap();
        assert_eq!(rows, [[1, 0, 1], [0, 0, 0], [1, 1, 1]]);
        assert!(Label::Set(u64::MAX).has(63) && !Label::Set(u64::MAX).has(64));
        assert_eq!(labels.pick(&[2, 0]), Labels::Sets(vec![u64::MAX, 5]));
        assert_eq!(Labels::Sets(Vec::new()).tensor(3).unwrap().size(), [0, 3]);
    }

    #[test]
    fn records_of_several_classes_are_dealt_by_the_first_and_those_of_none_apart() {
        let (keys, kinds) = Labels::Sets(vec![6, 1, 0]).keys(3);
        assert_eq!((keys, kinds), (vec![1, 0, 3], 4));
        assert_eq!(Labels::Classes(vec![2, 0]).keys(3), (vec![2, 0], 3));
    }
}
