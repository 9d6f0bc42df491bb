//! Withdrawals that the coordinator has not said to have in its log: said at each connection until it does.

use consilium_common::ids::Digest;
use consilium_common::time::Millis;
use consilium_common::wire::messages::Withdrawal;

use super::action::Action;
use super::outbox::Outbox;

/// What waits, in the order in which it was reported.
#[derive(Debug)]
pub(super) struct Withdrawals(Vec<Withdrawal>);

impl Withdrawals {
    /// What is durable at the site.
    pub(super) fn new(kept: Vec<Withdrawal>) -> Self {
        Self(kept)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// A person reported another one; the edge has made it durable.
    pub(super) fn add(&mut self, withdrawal: Withdrawal, now: Millis, out: &mut Outbox) {
        out.send(withdrawal.clone(), now);
        self.0.push(withdrawal);
    }

    /// There is a connection.
    pub(super) fn say_all(&self, now: Millis, out: &mut Outbox) {
        for withdrawal in &self.0 {
            out.send(withdrawal.clone(), now);
        }
    }

    /// The coordinator has it in its log; one that does not wait is passed over.
    pub(super) fn kept(&mut self, id: Digest, out: &mut Outbox) {
        let before = self.0.len();
        self.0.retain(|withdrawal| withdrawal.id != id);
        if self.0.len() < before {
            out.act(Action::Reported { withdrawal: id });
        }
    }
}
