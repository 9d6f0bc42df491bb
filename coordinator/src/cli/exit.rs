//! How a command ends: 0 done, 1 failed, 2 wrong usage, 3 not reachable, 4 refused.

use std::fmt::Display;

/// The codes that scripts may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something failed, here or at the coordinator.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The coordinator does not answer.
    NotReachable = 3,
    /// The coordinator, or a check here, says no.
    Refused = 4,
}

impl Exit {
    /// The process's exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// A command that did not do what it should.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// For the person at the terminal.
    pub message: String,
}

impl Failure {
    /// Something failed.
    pub fn failed(message: impl Display) -> Self {
        Self { exit: Exit::Failed, message: message.to_string() }
    }

    /// The command line makes no sense.
    pub fn usage(message: impl Display) -> Self {
        Self { exit: Exit::Usage, message: message.to_string() }
    }

    /// The coordinator does not answer.
    pub fn not_reachable(message: impl Display) -> Self {
        Self { exit: Exit::NotReachable, message: message.to_string() }
    }

    /// Somebody says no.
    pub fn refused(message: impl Display) -> Self {
        Self { exit: Exit::Refused, message: message.to_string() }
    }
}
