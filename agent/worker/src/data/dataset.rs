//! Records on the device, one row each in a few tensors, and batches of them.

use tch::{Device, Kind, TchError, Tensor};

/// What a step works on.
#[derive(Debug)]
pub(crate) struct Batch {
    /// As the family's loader laid them out; dimension 0 counts the records.
    pub(crate) inputs: Vec<Tensor>,
    /// Classes (i64) or numbers (f32), one a record; or a 0 or 1 (u8) for each class, a row a record.
    pub(crate) labels: Tensor,
}

/// Records of one use: to train on, or held out.
#[derive(Debug)]
pub(crate) struct Dataset {
    all: Batch,
    len: usize,
    /// Rows of each of the study's groups, ascending.
    groups: Vec<Vec<i64>>,
}

impl Dataset {
    /// Every tensor has as many rows as there are labels.
    pub(crate) fn new(inputs: Vec<Tensor>, labels: Tensor) -> Self {
        let len = labels.size().first().and_then(|&len| usize::try_from(len).ok()).unwrap_or(0);
        debug_assert!(inputs.iter().all(|rows| rows.size().first() == labels.size().first()));
        Self { all: Batch { inputs, labels }, len, groups: Vec::new() }
    }

    /// With the rows that are scored apart ([`super::groups::shown`]).
    pub(crate) fn grouped(self, groups: Vec<Vec<i64>>) -> Self {
        Self { groups, ..self }
    }

    /// Of each group those of the `len` rows from `start` on that are in it, counted from `start`.
    pub(crate) fn groups_within(&self, start: i64, len: i64) -> impl Iterator<Item = Vec<i64>> {
        self.groups.iter().map(move |rows| {
            let from = rows.partition_point(|row| *row < start);
            let to = rows.partition_point(|row| *row < start.saturating_add(len));
            rows.get(from..to).unwrap_or_default().iter().map(|row| row - start).collect()
        })
    }

    /// Records whose labels nobody knows.
    pub(crate) fn unlabelled(inputs: Vec<Tensor>) -> Result<Self, TchError> {
        let rows = inputs.first().and_then(|rows| rows.size().first().copied()).unwrap_or(0);
        Ok(Self::new(inputs, Tensor::f_zeros([rows], (Kind::Float, Device::Cpu))?))
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The records of `index`, each below [`Dataset::len`].
    pub(crate) fn pick(&self, index: &[i64]) -> Result<Batch, TchError> {
        let index = Tensor::f_from_slice(index)?.f_to_device(self.all.labels.device())?;
        self.rows(|all| all.f_index_select(0, &index))
    }

    /// `len` records from `start` on.
    pub(crate) fn range(&self, start: i64, len: i64) -> Result<Batch, TchError> {
        self.rows(|all| all.f_narrow(0, start, len))
    }

    fn rows(&self, take: impl Fn(&Tensor) -> Result<Tensor, TchError>) -> Result<Batch, TchError> {
        let inputs: Result<_, _> = self.all.inputs.iter().map(&take).collect();
        Ok(Batch { inputs: inputs?, labels: take(&self.all.labels)? })
    }
}

/// What a task works on.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// `None` where the task does not train.
    pub(crate) train: Option<Dataset>,
    pub(crate) holdout: Dataset,
}
