//! Studies that researchers propose: checked as submissions are but for signatures, and each a record of the
//! log before the researcher hears that it is kept.

use std::sync::Arc;

use consilium_common::audit::Record;
use consilium_common::audit::record::{Proposed, StudySubmitted};
use consilium_common::ids::OperatorId;
use consilium_common::limits::STUDY_BYTES_MAX;
use consilium_common::signed::{Document, Signed};
use consilium_common::study::Study;

use super::{Studies, SubmitError, seeded};
use crate::limits::PROPOSAL_PARAMETERS_MAX;
use crate::round::HistoryError;

impl Studies {
    /// The proposals that are open, by study and researcher.
    #[must_use]
    pub fn proposals(&self) -> Vec<Arc<Proposed>> {
        let now = self.common.clock.wall();
        self.history().proposals(now).cloned().collect()
    }

    /// Takes a researcher's study. Durable when this returns.
    ///
    /// # Errors
    /// It is refused, or could not be recorded; see [`SubmitError::is_refusal`].
    pub async fn propose(
        &self,
        by: &OperatorId,
        text: Vec<u8>,
    ) -> Result<Arc<Proposed>, SubmitError> {
        if text.len() > STUDY_BYTES_MAX {
            return Err(SubmitError::TooLong(text.len()));
        }
        let study = Study::parse(&text)?;
        let (id, version) = (study.id().clone(), study.header.version);
        if !study.header.researchers.contains(by) {
            return Err(SubmitError::NotListed { study: id, by: by.clone() });
        }
        self.check_seeded(&study).await?;
        let _turn = self.submitting.lock().await;
        // Whoever did not hear the answer proposes again.
        let same =
            |other: &Arc<Proposed>| other.by == *by && other.study == id && other.text == text;
        if let Some(same) = self.proposals().into_iter().find(same) {
            return Ok(same);
        }
        let at = self.common.clock.wall();
        let proposed = Arc::new(Proposed { by: by.clone(), study: id, version, text, at });
        let record = Record::Proposal(Proposed::clone(&proposed));
        self.fits(&proposed, &record)?;
        self.common.store.append(&record).await?;
        // It is in the log: whatever fails from here on, a start finds it.
        self.history().apply(&record)?;
        let Proposed { by, study, version, .. } = &*proposed;
        tracing::info!(%by, %study, version, "a study is proposed");
        Ok(proposed)
    }

    /// Whether the proposal fits the log, and the study would, were it submitted.
    fn fits(&self, proposed: &Proposed, record: &Record) -> Result<(), HistoryError> {
        let mut copy = self.history().clone();
        copy.apply(record)?;
        let signed = Signed::from_parts(proposed.text.clone(), Vec::new());
        let by = proposed.by.to_string();
        copy.apply(&Record::StudySubmitted(StudySubmitted { signed, by }))
    }

    /// That v0 is the one of the spec, where it does not cost too much to tell. One that was given comes
    /// with the submission.
    async fn check_seeded(&self, study: &Study) -> Result<(), SubmitError> {
        let given = study.initial.is_some_and(|initial| initial.given);
        if given || study.layout()?.len() > PROPOSAL_PARAMETERS_MAX {
            return Ok(());
        }
        // Beside the rounds that compute, not before them. It is never closed.
        let _thread = self.threads.acquire().await.ok();
        seeded(study).await.map(drop)
    }
}
