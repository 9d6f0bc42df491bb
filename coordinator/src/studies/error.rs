//! Why a study was not taken.

use consilium_common::ids::{Digest, OperatorId, StudyId};
use consilium_common::limits::STUDY_BYTES_MAX;
use consilium_common::signed::SignedError;
use consilium_common::study::StudyError;
use consilium_io::disk::BlobError;

use crate::given::GivenError;
use crate::round::HistoryError;
use crate::store::StoreError;

/// Why a study was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The operators' signatures do not hold.
    #[error("the study is refused: {0}")]
    Signed(#[from] SignedError),
    /// It cannot be served.
    #[error("the study is refused: {0}")]
    Study(#[from] StudyError),
    /// It names a v0 that does not follow from its spec.
    #[error(
        "the study is refused: [initial] names model {have:?}, the spec gives {need:?}: sign the \
         draft again with this version"
    )]
    Initial {
        /// In the file.
        have: Digest,
        /// From the spec.
        need: Digest,
    },
    /// It was given a v0 that cannot be used.
    #[error("the study is refused: {0}")]
    Given(GivenError),
    /// It was given none.
    #[error("study {0} was signed without `--start`: its v0 follows from its seed")]
    NotGiven(StudyId),
    /// A proposal longer than any study.
    #[error("the study is refused: it has {0} bytes, at most {STUDY_BYTES_MAX} are accepted")]
    TooLong(usize),
    /// A proposal that its researcher could not see once it was submitted.
    #[error(
        "the study is refused: {study} does not list {by}: write {by} into `researchers` of its [study] section"
    )]
    NotListed {
        /// Which study.
        study: StudyId,
        /// Who proposed it.
        by: OperatorId,
    },
    /// It does not fit what is here.
    #[error("the study is refused: {0}")]
    History(#[from] HistoryError),
    /// The model could not be kept.
    #[error("the study's model cannot be kept: {0}")]
    Blob(#[from] BlobError),
    /// The record could not be written.
    #[error("the study cannot be recorded: {0}")]
    Store(#[from] StoreError),
    /// A thread died.
    #[error("the study's model cannot be made: {0}")]
    Died(#[from] tokio::task::JoinError),
}

impl SubmitError {
    /// Whether it is the submission's fault.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Signed(_)
            | Self::Study(_)
            | Self::Initial { .. }
            | Self::NotGiven(_)
            | Self::TooLong(_)
            | Self::NotListed { .. }
            | Self::History(_) => true,
            Self::Given(error) => error.is_refusal(),
            Self::Blob(_) | Self::Store(_) | Self::Died(_) => false,
        }
    }
}
