//! Withdrawals of consent, as sites report them: each a record of the log, once, before the site hears that it
//! is kept.

use consilium_common::audit::Record;
use consilium_common::audit::record::Withdrawn;
use consilium_common::audit::withdrawal::{VersionsError, check_ranges, in_words};
use consilium_common::ids::{SiteId, StudyId};
use consilium_common::wire::messages::Withdrawal;
use consilium_common::wire::reject::Code;

use super::Studies;
use crate::limits::WITHDRAWALS_MAX;
use crate::round::HistoryError;
use crate::store::StoreError;

/// Why a withdrawal was not taken.
#[derive(Debug, thiserror::Error)]
pub enum WithdrawError {
    /// It is of no study here.
    #[error("there is no study {0}")]
    Unknown(StudyId),
    /// It names no versions that there are.
    #[error("a withdrawal that cannot be: {0}")]
    Versions(#[from] VersionsError),
    /// More than any study has.
    #[error("study {0} has {WITHDRAWALS_MAX} withdrawals: no more are taken")]
    TooMany(StudyId),
    /// It does not fit the log.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The record could not be written.
    #[error("the withdrawal cannot be recorded: {0}")]
    Store(#[from] StoreError),
}

impl WithdrawError {
    /// What the site is told.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Unknown(_) | Self::History(_) => Code::UnknownStudy,
            Self::Versions(_) => Code::Malformed,
            Self::TooMany(_) => Code::Flood,
            Self::Store(_) => Code::CoordinatorFault,
        }
    }
}

impl Studies {
    /// Records a site's withdrawal, unless it stands in the log already. Durable when this returns.
    ///
    /// # Errors
    /// There is no such study or no such version, there are too many, or the log failed.
    pub async fn withdraw(
        &self,
        site: &SiteId,
        withdrawal: Withdrawal,
    ) -> Result<(), WithdrawError> {
        // No other withdrawal and no next version of the study beside it.
        let _turn = self.submitting.lock().await;
        let Withdrawal { id, study, versions, remedy } = withdrawal;
        let handle = self.get(&study).ok_or_else(|| WithdrawError::Unknown(study.clone()))?;
        {
            let view = handle.view();
            let known = view.summary.affected();
            if known.knows(site, id) {
                return Ok(());
            }
            if known.len() >= WITHDRAWALS_MAX {
                return Err(WithdrawError::TooMany(study));
            }
            check_ranges(&versions, view.summary.head().version)?;
        }
        let withdrawn = Withdrawn { site: site.clone(), id, study, versions, remedy };
        let record = Record::Withdrawal(withdrawn.clone());
        self.common.store.append(&record).await?;
        // It is in the log: whatever fails from here on, a start finds it.
        self.history().apply(&record)?;
        handle.view().summary.withdraw(&withdrawn);
        let Withdrawn { study, versions, remedy, .. } = withdrawn;
        let versions = in_words(&versions);
        tracing::warn!(%study, %site, versions, %remedy, "a withdrawal affects versions");
        Ok(())
    }
}
