//! Names, shapes, kinds and offsets of a model's tensors in one flat vector.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::ids::Digest;
use crate::limits::{DIMENSIONS_MAX, PARAMETERS_MAX, TENSORS_MAX};

/// What a tensor is for, and so whether it travels in updates (DESIGN.md §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Trained at the sites; its delta is in the update's `shared` section.
    Weight,
    /// In the model, not in updates.
    Frozen,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Frozen => "frozen",
        }
    }
}

/// One tensor: f32, row-major (C order).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// As PyTorch would name it, for example `conv1.weight`.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<u32>,
    /// What it is for.
    pub kind: Kind,
    /// Index of its first element in the flat vector.
    pub offset: usize,
    /// Number of elements.
    pub len: usize,
}

/// Why a list of tensors is no layout.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A name that is empty, too long, or used twice.
    #[error("tensor name {0:?} is empty, longer than 128 bytes, has blanks, or is used twice")]
    Name(String),
    /// No dimension, too many, or one of size zero.
    #[error("tensor {name}: shape {shape:?} needs 1 to {DIMENSIONS_MAX} dimensions above zero")]
    Shape {
        /// Which tensor.
        name: String,
        /// Its shape.
        shape: Vec<u32>,
    },
    /// More than a model may have.
    #[error("the model has {have} {what}, at most {max} are allowed")]
    TooLarge {
        /// Tensors or parameters.
        what: &'static str,
        /// How many.
        have: u64,
        /// The bound.
        max: u64,
    },
}

/// The tensors of a model in the order of the flat vector. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    tensors: Vec<Tensor>,
    digest: Digest,
}

impl Layout {
    /// Lays `(name, shape, kind)` out one after another.
    ///
    /// # Errors
    /// Bad or repeated names, bad shapes, or a model over the limits.
    pub fn new(
        specs: impl IntoIterator<Item = (String, Vec<u32>, Kind)>,
    ) -> Result<Self, LayoutError> {
        let (mut tensors, mut names, mut total) = (Vec::new(), BTreeSet::new(), 0_u64);
        for (name, shape, kind) in specs {
            let valid_name = (1..=128).contains(&name.len())
                && !name.contains(|c: char| c.is_whitespace() || c.is_control());
            if !valid_name || !names.insert(name.clone()) {
                return Err(LayoutError::Name(name.chars().take(130).collect()));
            }
            if shape.is_empty() || shape.len() > DIMENSIONS_MAX || shape.contains(&0) {
                return Err(LayoutError::Shape { name, shape });
            }
            let len = shape.iter().fold(1_u64, |n, &d| n.saturating_mul(u64::from(d)));
            let offset = total;
            total = total.saturating_add(len);
            within("parameters", total, PARAMETERS_MAX)?;
            let too_large =
                |_| LayoutError::TooLarge { what: "parameters", have: total, max: PARAMETERS_MAX };
            let offset = usize::try_from(offset).map_err(too_large)?;
            let len = usize::try_from(len).map_err(too_large)?;
            tensors.push(Tensor { name, shape, kind, offset, len });
            within("tensors", tensors.len() as u64, TENSORS_MAX as u64)?;
        }
        if tensors.is_empty() {
            return Err(LayoutError::Name(String::new()));
        }
        let digest = Digest::of(describe(&tensors).as_bytes());
        Ok(Self { tensors, digest })
    }

    /// The tensors in order.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Elements of the flat vector.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tensors.last().map_or(0, |t| t.offset + t.len)
    }

    /// Always false: a layout has at least one tensor.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The ranges of the flat vector that travel in updates, in order.
    pub fn weights(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        self.tensors
            .iter()
            .filter(|tensor| tensor.kind == Kind::Weight)
            .map(|tensor| tensor.offset..tensor.offset + tensor.len)
    }

    /// Elements that travel in updates.
    #[must_use]
    pub fn weights_len(&self) -> usize {
        self.weights().map(|range| range.len()).sum()
    }

    /// BLAKE3 of [`Layout::describe`].
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The layout as text: `consilium/layout/1`, then `name kind f32 d0xd1…` a line.
    #[must_use]
    pub fn describe(&self) -> String {
        describe(&self.tensors)
    }
}

fn describe(tensors: &[Tensor]) -> String {
    let mut text = "consilium/layout/1\n".to_owned();
    for tensor in tensors {
        let shape: Vec<String> = tensor.shape.iter().map(u32::to_string).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {} f32 {}", tensor.name, tensor.kind.word(), shape.join("x"));
    }
    text
}

fn within(what: &'static str, have: u64, max: u64) -> Result<(), LayoutError> {
    if have <= max { Ok(()) } else { Err(LayoutError::TooLarge { what, have, max }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(name: &str, shape: &[u32]) -> (String, Vec<u32>, Kind) {
        (name.to_owned(), shape.to_vec(), Kind::Weight)
    }

    #[test]
    fn tensors_follow_one_another() {
        let frozen = ("mean".to_owned(), vec![3], Kind::Frozen);
        let layout = Layout::new([weight("a", &[2, 3]), frozen, weight("b", &[4])]).unwrap();
        assert_eq!(layout.len(), 13);
        assert_eq!(layout.weights().collect::<Vec<_>>(), [0..6, 9..13]);
        assert_eq!(layout.weights_len(), 10);
        assert_eq!(
            layout.describe(),
            "consilium/layout/1\na weight f32 2x3\nmean frozen f32 3\nb weight f32 4\n"
        );
    }

    #[test]
    fn bad_layouts_are_refused() {
        assert!(matches!(Layout::new([]), Err(LayoutError::Name(_))));
        assert!(matches!(
            Layout::new([weight("a", &[1]), weight("a", &[1])]),
            Err(LayoutError::Name(_))
        ));
        assert!(matches!(Layout::new([weight("a b", &[1])]), Err(LayoutError::Name(_))));
        assert!(matches!(Layout::new([weight("a", &[0])]), Err(LayoutError::Shape { .. })));
        assert!(matches!(Layout::new([weight("a", &[])]), Err(LayoutError::Shape { .. })));
        let huge = weight("a", &[u32::MAX, u32::MAX, u32::MAX]);
        assert!(matches!(Layout::new([huge]), Err(LayoutError::TooLarge { .. })));
    }
}
