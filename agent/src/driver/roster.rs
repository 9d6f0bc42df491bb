//! Rosters on their way: from the coordinator's word, through the site's rule or a person, to the one that the
//! site goes by. In the ledger first, then kept, then plans are held against it.

use std::sync::Arc;

use consilium_common::signed::Signed;
use consilium_common::wire::messages::RosterOffer;
use tokio::sync::oneshot;

use super::shared::{Shared, blocking};
use super::{Driver, Event, study};
use crate::control_socket::{Reply, Word};
use crate::ledger::entry::RosterAccepted;
use crate::policy::{AcceptRoster, Moment};
use crate::roster::{Kept, KeptRosterError};

/// Who accepts where no person does.
const BY_RULE: &str = "policy";

impl Driver {
    /// What plans are held against now.
    pub(super) fn moment(shared: &Shared) -> Moment {
        let rules = shared.rules();
        let person = rules.accept_roster() == AcceptRoster::Manual;
        let roster = person.then(|| shared.rosters.why_plans_wait()).flatten();
        Moment { roster, ..rules.moment.clone() }
    }

    /// The coordinator shows a roster. One that cannot follow is told to people and changes nothing: what it
    /// would bring about (rounds with sites that nobody signed for) the coordinator cannot do without a study.
    pub(super) fn take_roster(&mut self, offer: RosterOffer) {
        let RosterOffer { bytes, signatures } = offer;
        let offered = match self.shared.rosters.offer(Signed::from_parts(bytes, signatures)) {
            Ok(Some(offered)) => offered,
            Ok(None) => return,
            Err(doubt) => return tracing::error!("{doubt}"),
        };
        let version = offered.roster.version();
        if self.shared.rules().accept_roster() == AcceptRoster::Signed {
            return self.go_by(offered, None);
        }
        tracing::warn!(
            version,
            "another roster waits for a person here, and plans are declined until then: `consilium-agent \
             roster show`"
        );
        self.hold_plans_again();
    }

    /// A person accepts the roster that waits.
    pub(super) fn accept_roster(&self, version: u64, word: Word, to: oneshot::Sender<Reply>) {
        match self.shared.rosters.waiting(version) {
            Ok((waiting, _)) => self.go_by(waiting, Some((word, to))),
            Err(error) => {
                // The person may have gone.
                let _gone = to.send(Reply::Refused { message: error.to_string() });
            }
        }
    }

    /// The rule may be another one now: what waited for a person does not have to any more.
    pub(super) fn look_at_rosters(&self) {
        let waiting = self.shared.rosters.status().waiting;
        if self.shared.rules().accept_roster() == AcceptRoster::Signed
            && let Some(waiting) = waiting
            && let Ok((kept, _)) = self.shared.rosters.waiting(waiting.version)
        {
            self.go_by(kept, None);
        }
    }

    fn go_by(&self, kept: Kept, person: Option<(Word, oneshot::Sender<Reply>)>) {
        let (shared, events) = (Arc::clone(&self.shared), self.events.clone());
        let (word, to) = person.unzip();
        self.tasks.spawn(async move {
            let ours = Arc::clone(&shared);
            let done = blocking(move || accept(&ours, kept, word)).await;
            let reply = match done {
                Ok(Ok(())) => {
                    // The driver hears of it before the person does.
                    let _stopping = events.send(Event::RosterAccepted).await;
                    Reply::Roster(shared.rosters.status())
                }
                Ok(Err(message)) => Reply::Failed { message },
                Err(fault) => Reply::Failed { message: fault.detail },
            };
            if let Reply::Failed { message } = &reply {
                tracing::error!("the roster is not accepted: {message}");
            }
            if let Some(to) = to {
                let _gone = to.send(reply);
            }
        });
    }

    /// Plans that were declined for the roster are asked for again.
    pub(super) fn hold_plans_again(&mut self) {
        let known = study::known(&self.shared);
        let moment = Self::moment(&self.shared);
        self.session.handle_policy(moment, known, self.shared.clock.now());
    }
}

fn accept(shared: &Shared, kept: Kept, word: Option<Word>) -> Result<(), String> {
    let version = kept.roster.version();
    let (_, change) = match shared.rosters.waiting(version) {
        Ok(waiting) => waiting,
        // Accepted meanwhile.
        Err(KeptRosterError::NotWaiting(_)) => return Ok(()),
        Err(other) => return Err(other.to_string()),
    };
    let by = word.as_ref().map_or(BY_RULE, |word| &word.by);
    tracing::info!(version, by, "this site goes by the roster {change}");
    let entry = RosterAccepted {
        version,
        digest: kept.signed.digest(),
        change,
        by: by.to_owned(),
        reason: word.as_ref().map(|word| word.reason.clone()),
        account: word.map(|word| word.account),
    };
    shared.ledger.record(entry, shared.clock.wall()).map_err(|error| error.to_string())?;
    shared.rosters.accept(kept).map_err(|error| error.to_string())
}
