//! What operators ask of a study, and what a study asks of itself.

use consilium_common::audit::Record;
use consilium_common::audit::record::{Completion, StudyStateSet};
use consilium_common::ids::StudyId;
use consilium_common::time::Millis;
use consilium_common::wire::messages::{RunState, StudyState};

use super::action::ActionId;
use super::engine::Engine;
use super::outbox::Awaited;

/// Who commands when the engine does so itself.
const COORDINATOR: &str = "coordinator";

/// An operator's command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Run rounds.
    Start,
    /// Finish the open round and begin no other.
    Pause,
    /// Abandon the open round and begin no other, ever.
    Stop,
}

/// Why a command changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Start of a running study.
    #[error("study {0} is running already")]
    Running(StudyId),
    /// Pause of a study that does not run.
    #[error("study {0} is not running: there is nothing to pause")]
    NotRunning(StudyId),
    /// Any command to a stopped study.
    #[error("study {0} was stopped for good: submit its next version to go on")]
    Stopped(StudyId),
    /// Any command to a complete study.
    #[error("study {0} is complete: submit its next version, with more rounds, to go on")]
    Complete(StudyId),
}

impl Engine {
    /// An operator's command. `Ok` means that the new state is on its way to the log: the command is
    /// done when that `Persist` is.
    ///
    /// # Errors
    /// The command does not fit the study's state, and nothing changes.
    pub fn handle_command(
        &mut self,
        command: Command,
        by: &str,
        now: Millis,
    ) -> Result<(), CommandError> {
        self.now = now;
        let study = || self.terms.study.id().clone();
        let state = match (command, self.target) {
            (_, RunState::Stopped) => return Err(CommandError::Stopped(study())),
            (_, RunState::Complete) => return Err(CommandError::Complete(study())),
            (Command::Start, RunState::Running) => return Err(CommandError::Running(study())),
            (Command::Start, _) => RunState::Running,
            (Command::Pause, RunState::Running) => RunState::Paused,
            (Command::Pause, _) => return Err(CommandError::NotRunning(study())),
            (Command::Stop, _) => RunState::Stopped,
        };
        self.ask_for_state(state, by, None);
        self.advance();
        Ok(())
    }

    /// The study has all the versions that it is to have.
    pub(super) fn complete(&mut self, why: Completion) {
        self.ask_for_state(RunState::Complete, COORDINATOR, Some(why));
    }

    /// Writes a new state to the log; it holds once it is durable.
    fn ask_for_state(&mut self, state: RunState, by: &str, completion: Option<Completion>) {
        self.target = state;
        let (study, by) = (self.terms.study.id().clone(), by.to_owned());
        let record = StudyStateSet { study, state, by: by.clone(), completion };
        self.outbox.persist(Awaited::StudyState(state, by), Record::StudyState(record));
    }

    /// The new state is durable: the sites hear of it, and a stop ends the open round.
    pub(super) fn enter_state(&mut self, record: ActionId, state: RunState, by: &str) {
        if self.state_since.is_some_and(|newer| newer > record) {
            return;
        }
        (self.state, self.state_since) = (state, Some(record));
        let message = StudyState { study: self.terms.study.id().clone(), state };
        // Also to those who have not accepted the study: whoever is to decide sees what it does.
        for site in &self.roster {
            self.outbox.send(site, message.clone());
        }
        match state {
            RunState::Stopped => self.ask_to_abandon(stopped_by(by)),
            RunState::Running => self.attempts.try_again(self.now),
            RunState::Submitted | RunState::Paused | RunState::Complete => {}
        }
    }

    /// The open round is to be abandoned as soon as it is known to the sites.
    pub(super) fn ask_to_abandon(&mut self, reason: String) {
        if let Some(open) = &mut self.open {
            open.abandon = Some(reason);
        }
    }
}

pub(super) fn stopped_by(name: &str) -> String {
    format!("stopped by {name}")
}
