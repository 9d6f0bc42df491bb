//! What a record teaches: a class or a number.

use tch::{TchError, Tensor};

/// The label of one record.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Label {
    /// Index of one of the study's classes.
    Class(usize),
    /// In units of the label.
    Number(f64),
}

impl Label {
    pub(crate) fn class(self) -> Option<usize> {
        match self {
            Self::Class(class) => Some(class),
            Self::Number(_) => None,
        }
    }

    /// Equal for equal labels of one study.
    pub(crate) fn bits(self) -> u64 {
        match self {
            Self::Class(class) => class as u64,
            Self::Number(number) => number.to_bits(),
        }
    }

    /// One label a record: classes (i64) if all are, else numbers (f32).
    pub(crate) fn tensor(labels: impl Iterator<Item = Self> + Clone) -> Result<Tensor, TchError> {
        let class = |label: Self| label.class().and_then(|class| i64::try_from(class).ok());
        let classes: Option<Vec<i64>> = labels.clone().map(class).collect();
        match classes {
            Some(classes) => Tensor::f_from_slice(&classes),
            None => Tensor::f_from_slice(&labels.map(Self::number).collect::<Vec<_>>()),
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "labels are f32 to the network")]
    fn number(self) -> f32 {
        match self {
            Self::Class(_) => f32::NAN,
            Self::Number(number) => number as f32,
        }
    }
}
