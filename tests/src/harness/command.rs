//! One command to its end, as a person would type it: exit code and what it said.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use consilium_coordinator::local::Programs;

/// A command that should have ended long ago.
const PATIENCE: Duration = Duration::from_secs(300);

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Said {
    /// What was run.
    pub command: String,
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// The command was refused with this exit code, and its standard error names all of `words`.
    pub fn assert_fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in what was said: {self:#?}");
        }
    }

    /// The command succeeded; its standard output.
    #[must_use]
    pub fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.out
    }
}

/// Runs `consilium`.
pub fn consilium<A: AsRef<OsStr>>(programs: &Programs, arguments: &[A]) -> Said {
    run(Command::new(&programs.consilium).args(arguments))
}

/// Runs `consilium-agent`.
pub fn consilium_agent<A: AsRef<OsStr>>(programs: &Programs, arguments: &[A]) -> Said {
    run(Command::new(&programs.agent).args(arguments))
}

/// Runs a command to its end; one that does not end is killed after a while.
pub fn run(command: &mut Command) -> Said {
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = piped.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let pid = child.id().to_string();
    let (ended, wait) = channel::<()>();
    let watchdog = thread::spawn(move || {
        if wait.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            Command::new("kill").args(["-KILL", &pid]).output().unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    watchdog.join().unwrap();
    Said {
        command: format!("{command:?}"),
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
