//! The outside of a driver: what may be told to it, and what can be seen of its study without
//! asking.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use consilium_common::audit::record::{Completion, PlanMade};
use consilium_common::ids::{Digest, Round, SiteId, StudyId};
use consilium_common::study::Study;
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::{RunState, StudyOffer, StudyState};
use consilium_common::wire::reject::Code;
use tokio::sync::{mpsc, oneshot};

use crate::conduct::Part;
use crate::round::{Command, CommandError, SiteMessage, Status};
use crate::summary::Summary;

/// What happened, as the server tells it.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are the engine's arguments of the same names")]
pub enum Event {
    /// A site has a live session and has accepted the study.
    Ready(SiteId),
    /// It had accepted it already, and says so again.
    AcceptedAgain(SiteId),
    /// It has not any more.
    Gone(SiteId),
    /// It was put out for a time.
    Quarantined(SiteId),
    /// Who may take part has changed.
    Members(Arc<BTreeSet<SiteId>>),
    /// A site's word on a round.
    Message(SiteId, SiteMessage),
    /// May these bytes be pushed?
    Push {
        site: SiteId,
        round: Round,
        digest: Digest,
        bytes: u64,
        answer: oneshot::Sender<Result<(), Code>>,
    },
    /// Bytes of an update or a base moved.
    Moved { site: SiteId, round: Round, up: u64, down: u64 },
    /// An update is staged and its digest is right.
    Staged { site: SiteId, round: Round, digest: Digest },
    /// An operator's word. Answered when the engine has taken it and its records are queued.
    Command { command: Command, by: String, answer: oneshot::Sender<Result<(), CommandError>> },
    /// What do screens show?
    Status { answer: oneshot::Sender<Status> },
}

/// The driver of a study is gone: the coordinator is going down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the coordinator is going down")]
pub struct DriverGone;

/// A study's driver, from outside. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    study: Arc<Study>,
    offer: StudyOffer,
    events: mpsc::Sender<Event>,
    view: Mutex<View>,
}

/// What the driver keeps up to date for everybody.
#[derive(Debug)]
pub struct View {
    /// As it is in the log.
    pub state: RunState,
    /// Why it is complete, if it is.
    pub completion: Option<Completion>,
    /// The open round, and the blobs that its sites fetch.
    pub serving: Option<Serving>,
    /// From the roll calls.
    pub summary: Summary,
}

/// What the open round's sites fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    /// The round.
    pub round: Round,
    /// Its base.
    pub base: Digest,
    /// The study's preparation, if the plan names one.
    pub preparation: Option<Digest>,
    /// SCAFFOLD's c, if the plan names one.
    pub control: Option<Digest>,
}

impl Serving {
    /// What a round of this plan serves.
    #[must_use]
    pub fn of(plan: &PlanMade) -> Self {
        let PlanMade { round, base, preparation, control, .. } = *plan;
        Self { round, base, preparation, control }
    }

    /// Which of the round's blobs `digest` is, if it is one.
    #[must_use]
    pub fn part(&self, digest: Digest) -> Option<Part> {
        let parts = [
            (Some(self.base), Part::Base),
            (self.preparation, Part::Preparation),
            (self.control, Part::Control),
        ];
        parts.into_iter().find_map(|(blob, part)| (blob == Some(digest)).then_some(part))
    }
}

impl Handle {
    /// A handle that tells through `events`.
    #[must_use]
    pub fn new(
        study: Arc<Study>,
        offer: StudyOffer,
        events: mpsc::Sender<Event>,
        view: View,
    ) -> Self {
        Self(Arc::new(Inner { study, offer, events, view: Mutex::new(view) }))
    }

    /// The study.
    #[must_use]
    pub fn study(&self) -> &Study {
        &self.0.study
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &StudyId {
        &self.0.offer.study
    }

    /// Digest of the signed study.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.offer.digest
    }

    /// What sites are offered.
    #[must_use]
    pub fn offer(&self) -> &StudyOffer {
        &self.0.offer
    }

    /// The study's state as sites are told it.
    #[must_use]
    pub fn state_message(&self) -> StudyState {
        StudyState { study: self.id().clone(), state: self.view().state }
    }

    /// What can be seen. Hold it for a moment only.
    pub fn view(&self) -> MutexGuard<'_, View> {
        self.0.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is known of the study's past, for the handle that follows this one.
    #[must_use]
    pub fn take_summary(&self) -> Summary {
        let empty = Summary::new(Schema::of(self.study()), self.digest());
        std::mem::replace(&mut self.view().summary, empty)
    }

    /// Tells the driver; waits while its queue is full.
    ///
    /// # Errors
    /// The driver is gone.
    pub async fn tell(&self, event: Event) -> Result<(), DriverGone> {
        self.0.events.send(event).await.map_err(|_| DriverGone)
    }

    /// Tells the driver if there is room; says whether it did.
    #[must_use]
    pub fn try_tell(&self, event: Event) -> bool {
        self.0.events.try_send(event).is_ok()
    }

    /// Tells the driver and waits for its answer.
    ///
    /// # Errors
    /// The driver is gone.
    pub async fn ask<T>(
        &self,
        event: impl FnOnce(oneshot::Sender<T>) -> Event,
    ) -> Result<T, DriverGone> {
        let (answer, answered) = oneshot::channel();
        self.tell(event(answer)).await?;
        answered.await.map_err(|_| DriverGone)
    }
}
