//! Why a worker's result gives no update.

use std::io;

use consilium_common::ids::{Digest, StudyId};
use consilium_common::limits::GRID_MAX;
use consilium_common::study::StudyError;
use consilium_common::tensor::file::FileError;
use consilium_common::tensor::flat::ModelError;
use consilium_common::update::delta::DeltaError;

/// Why a worker's result gives no update.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The study's spec gives no layout.
    #[error(transparent)]
    Study(#[from] StudyError),
    /// The base is not a model of this study.
    #[error("the base model cannot be used: {0}")]
    Base(#[from] ModelError),
    /// The worker's file is not a model of this study.
    #[error("the worker's result cannot be used: {0}")]
    Result(#[from] FileError),
    /// Training diverged.
    #[error(transparent)]
    Delta(#[from] DeltaError),
    /// The base is another one than the plan's: the disk rots, or a program wrote there.
    #[error("the base on this site's disk has digest {have}, the plan's base is {need}")]
    OtherBase {
        /// On the disk.
        have: Digest,
        /// In the plan.
        need: Digest,
    },
    /// Files that cannot be read.
    #[error("base or trained model cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The study counts nothing.
    #[error("study {0} prepares nothing, so no counts of it leave this site")]
    Nothing(StudyId),
    /// Another number of counts.
    #[error("the worker's counts have {have} bytes, the study's have {need}")]
    Counts {
        /// Bytes of the file.
        have: u64,
        /// Four a sum.
        need: u64,
    },
    /// A count that the sum has no room for.
    #[error("count {index} is {have}: ±{GRID_MAX} is the most that one site may count")]
    Count {
        /// Which one.
        index: usize,
        /// Its value.
        have: i32,
    },
    /// Nothing was trained on.
    #[error("the worker trained on no records at all: there is nothing to weigh the update by")]
    NoExamples,
    /// SCAFFOLD divides by the steps.
    #[error("the worker's steps add up to {0:?}: `strategy = \"scaffold\"` needs a number above 0")]
    Steps(Option<f64>),
    /// The change of the control variate is beyond f32.
    #[error("the control variate is not finite: training diverged")]
    Change,
    /// Not the state of this strategy over this layout.
    #[error("the coordinator's control variate is none of this study's layout")]
    Common,
    /// The site's own control variate has another length.
    #[error("the site's control variate has {have} bytes, the layout's weights {need}")]
    Own {
        /// Bytes of the file.
        have: u64,
        /// Four a weight.
        need: u64,
    },
    /// Sums of another study.
    #[error("the worker measured {have} metric sums, the study has {need}")]
    Metrics {
        /// Sums given.
        have: usize,
        /// Sums of the schema.
        need: usize,
    },
}
