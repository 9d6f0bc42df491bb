//! Actions on their way to the driver, and what each answer will mean.

use std::collections::{BTreeMap, VecDeque};

use consilium_common::audit::Record;
use consilium_common::ids::{Digest, SiteId};
use consilium_common::wire::messages::{Message, RunState};

use super::action::{Action, ActionId};

/// What the engine does with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Awaited {
    Plan,
    RollCall,
    StudyState(RunState, String),
    Receipt(SiteId),
    /// Durable some time; nothing hangs on when.
    Record,
    Look(SiteId, Digest),
    Verify(SiteId, Digest),
    Add(SiteId),
    Aggregate,
    Prepare,
}

impl Awaited {
    /// Work on the round's updates, which must end before the round is forgotten.
    fn is_work(&self) -> bool {
        match self {
            Self::Look(..) | Self::Verify(..) | Self::Add(_) | Self::Aggregate | Self::Prepare => {
                true
            }
            Self::Plan
            | Self::RollCall
            | Self::StudyState(..)
            | Self::Receipt(_)
            | Self::Record => false,
        }
    }
}

/// Emptied by the driver after every event, so it holds what one event caused.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    actions: VecDeque<Action>,
    awaited: BTreeMap<ActionId, Awaited>,
    next_id: u64,
}

impl Outbox {
    /// Queues an action that comes back.
    pub(super) fn request(&mut self, awaited: Awaited, action: impl FnOnce(ActionId) -> Action) {
        let id = ActionId(self.next_id);
        self.next_id += 1;
        self.awaited.insert(id, awaited);
        self.actions.push_back(action(id));
    }

    /// Queues a record for the log.
    pub(super) fn persist(&mut self, awaited: Awaited, record: Record) {
        let record = Box::new(record);
        self.request(awaited, |id| Action::Persist { id, record });
    }

    /// Queues a message.
    pub(super) fn send(&mut self, site: &SiteId, message: impl Into<Message>) {
        self.push(Action::Send { site: site.clone(), message: Box::new(message.into()) });
    }

    /// Queues an action that does not come back.
    pub(super) fn push(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(super) fn pop(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What the answer to `id` means; `None` if it was answered before.
    pub(super) fn answered(&mut self, id: ActionId) -> Option<Awaited> {
        self.awaited.remove(&id)
    }

    /// Whether work on the round's updates is under way.
    pub(super) fn works(&self) -> bool {
        self.awaited.values().any(Awaited::is_work)
    }
}
