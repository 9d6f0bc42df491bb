//! Actions on their way to the edges, and whether there is a connection to send on.

use std::collections::VecDeque;

use consilium_common::time::Millis;
use consilium_common::wire::messages::{Message, Refusal};
use consilium_common::wire::reject::Code;

use super::action::{Action, ActionId};

#[derive(Debug, Default)]
pub(super) struct Outbox {
    actions: VecDeque<Action>,
    last_id: u64,
    /// True between Welcome and the loss of the connection.
    open: bool,
    last_sent: Millis,
}

impl Outbox {
    /// Asks the edges for an action.
    pub(super) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    /// Asks for an action that comes back as done.
    pub(super) fn ask(&mut self, action: impl FnOnce(ActionId) -> Action) -> ActionId {
        self.last_id += 1;
        let id = ActionId(self.last_id);
        self.actions.push_back(action(id));
        id
    }

    /// Sends if the coordinator has said Welcome on the present connection. What is not sent now is
    /// said again after the next Welcome, by whoever owns it.
    pub(super) fn send(&mut self, message: impl Into<Message>, now: Millis) {
        if self.open {
            self.greet(message, now);
        }
    }

    /// Sends whether or not Welcome came: for Hello alone.
    pub(super) fn greet(&mut self, message: impl Into<Message>, now: Millis) {
        let message = Box::new(message.into());
        self.actions.push_back(Action::Send { message });
        self.last_sent = now;
    }

    /// Answers a message that changes nothing here.
    pub(super) fn refuse(&mut self, kind: u16, code: Code, detail: &str, now: Millis) {
        let detail = detail.to_owned();
        self.send(Refusal { kind, code, detail }, now);
    }

    pub(super) fn poll(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    pub(super) fn last_sent(&self) -> Millis {
        self.last_sent
    }

    pub(super) fn open(&mut self) {
        self.open = true;
    }

    /// The connection is gone: nothing that was meant for it may reach the next one.
    pub(super) fn close(&mut self) {
        self.open = false;
        self.actions.retain(|action| !matches!(action, Action::Send { .. } | Action::Close { .. }));
    }
}
