//! Training that goes on from an earlier version: because records that went into the later ones were withdrawn,
//! or because an operator finds them spoilt. A record of the log; the later versions stay where they are.

use std::sync::Arc;

use consilium_common::audit::record::Retrained;
use consilium_common::audit::withdrawal::Remedy;
use consilium_common::audit::{Outcome, Record};
use consilium_common::ids::{Digest, StudyId, Version};
use consilium_common::study::StudyError;
use consilium_io::disk::BlobError;

use super::Studies;
use crate::driver::Handle;
use crate::round::HistoryError;
use crate::store::StoreError;

/// Why training does not go back.
#[derive(Debug, thiserror::Error)]
pub enum RetrainError {
    /// There is no such study.
    #[error("there is no study {0}")]
    Unknown(StudyId),
    /// There is no such version.
    #[error("study {study} has no version {from}: its newest is {newest}")]
    NoVersion {
        /// Which study.
        study: StudyId,
        /// As asked.
        from: Version,
        /// The newest.
        newest: Version,
    },
    /// Its model is not kept.
    #[error("the model of {from} is not at the coordinator: {why}")]
    NoModel {
        /// As asked.
        from: Version,
        /// What is wrong.
        why: BlobError,
    },
    /// Withdrawn records are in it.
    #[error("withdrawn records are in {from} as well: {}", instead(*.newest))]
    Affected {
        /// As asked.
        from: Version,
        /// The newest version without any.
        newest: Option<Version>,
    },
    /// The state of the study does not allow it.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// It cannot be served from there.
    #[error(transparent)]
    Study(#[from] StudyError),
    /// The record could not be written.
    #[error("it cannot be recorded: {0}")]
    Store(#[from] StoreError),
    /// A thread died.
    #[error("the model cannot be looked for: {0}")]
    Died(#[from] tokio::task::JoinError),
}

fn instead(newest: Option<Version>) -> String {
    newest.map_or_else(
        || "they are in every version: begin a new study".to_owned(),
        |version| format!("the newest version without any is {version}"),
    )
}

impl RetrainError {
    /// Whether whoever asked is to blame.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Unknown(_)
            | Self::NoVersion { .. }
            | Self::NoModel { .. }
            | Self::Affected { .. }
            | Self::History(_) => true,
            Self::Study(_) | Self::Store(_) | Self::Died(_) => false,
        }
    }
}

impl Studies {
    /// Makes an earlier version the newest again, under the next number. Rounds go on from there once an
    /// operator starts the study. Durable when this returns.
    ///
    /// # Errors
    /// There is no such version, its model is not here or is affected by a withdrawal itself, the study
    /// runs or was stopped for good, or the log failed.
    pub async fn retrain(
        &self,
        id: &StudyId,
        from: Version,
        by: &str,
    ) -> Result<Retrained, RetrainError> {
        // No submission and no withdrawal beside it.
        let _turn = self.submitting.lock().await;
        let handle = self.get(id).ok_or_else(|| RetrainError::Unknown(id.clone()))?;
        let newest = handle.view().summary.head().version;
        let model = self.model_of(&handle, from).await?;
        let unknown = || RetrainError::NoVersion { study: id.clone(), from, newest };
        let model = model.filter(|_| from <= newest).ok_or_else(unknown)?;
        free_of_withdrawals(&handle, from)?;
        let blobs = Arc::clone(&self.common.blobs);
        let opened = tokio::task::spawn_blocking(move || blobs.open(model).map(drop)).await?;
        opened.map_err(|why| RetrainError::NoModel { from, why })?;
        let (study, by) = (id.clone(), by.to_owned());
        let retrained = Retrained { study, from, version: newest.next(), model, by };
        // What does not fit is refused here, and the driver of the study goes on as it was.
        self.history().clone().apply(&Record::Retrained(retrained.clone()))?;
        self.end(id).await;
        self.go_back(&handle, retrained).await
    }

    /// Writes the record and starts the study's driver again, which has ended: nothing else moves the study.
    async fn go_back(&self, old: &Handle, retrained: Retrained) -> Result<Retrained, RetrainError> {
        let record = Record::Retrained(retrained.clone());
        // The old driver may have taken an order at the last moment: then it does not fit any more.
        let applied = self.history().apply(&record);
        let mut summary = old.take_summary();
        if applied.is_ok() {
            self.common.store.append(&record).await?;
            summary.go_back(&retrained, self.common.clock.wall());
        }
        let history = self.history().study(old.id()).cloned();
        let history = history.ok_or_else(|| RetrainError::Unknown(old.id().clone()))?;
        self.begin_anew(&history, Some(summary))?;
        applied?;
        Ok(retrained)
    }

    /// The digest of a version's model, if there is one.
    async fn model_of(
        &self,
        handle: &Handle,
        version: Version,
    ) -> Result<Option<Digest>, StoreError> {
        let made = {
            let summary = &handle.view().summary;
            if let Some(known) = summary.version(version) {
                return Ok(Some(known.model));
            }
            summary.lineage().origin(version)
        };
        let signed = self.common.store.version(handle.id(), made).await?;
        let call = signed.and_then(|signed| signed.parse_unverified().ok());
        Ok(call.and_then(|call| match call.outcome {
            Outcome::Committed { model, .. } => Some(model),
            Outcome::Evaluated { .. } | Outcome::Prepared { .. } | Outcome::Abandoned { .. } => {
                None
            }
        }))
    }
}

/// A version with records whose withdrawal asks for more than to be known is none to train from.
fn free_of_withdrawals(handle: &Handle, from: Version) -> Result<(), RetrainError> {
    let summary = &handle.view().summary;
    let asks = |version| summary.affect(version).is_some_and(|affect| affect.remedy > Remedy::None);
    if !asks(from) {
        return Ok(());
    }
    let head = summary.head().version;
    let newest = (0..head.0).rev().map(Version).find(|version| !asks(*version));
    Err(RetrainError::Affected { from, newest })
}
