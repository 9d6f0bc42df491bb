//! One daemon as a child: started, awaited until it says READY=1 (sd_notify), signalled by its pid.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::LocalError;

/// How long a daemon may take until it is ready: a cold start on a busy machine, with margin.
const READY_WAIT: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(20);
const TAIL_BYTES: u64 = 4 << 10;

/// What to start.
#[derive(Debug)]
pub struct Starting<'a> {
    /// For messages and the log's name.
    pub name: &'a str,
    /// The binary.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Added to the environment.
    pub environment: Vec<(String, OsString)>,
    /// Folder for `NAME.log` and `NAME.notify`.
    pub folder: &'a Path,
}

/// A running daemon. Killed when dropped, so that nothing outlives the demonstration or the test.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where it says READY=1 and STOPPING=1, as to systemd.
    notify: UnixDatagram,
}

impl Process {
    /// Starts a daemon without waiting for it.
    ///
    /// # Errors
    /// The program or its log cannot be opened.
    pub fn spawn(start: Starting<'_>) -> Result<Self, LocalError> {
        let log = start.folder.join(format!("{}.log", start.name));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(LocalError::file("cannot open the log", &log))?;
        let errors = file.try_clone().map_err(LocalError::file("cannot open the log", &log))?;
        let socket_path = start.folder.join(format!("{}.notify", start.name));
        let notify = notify_socket(&socket_path)?;
        let child = Command::new(start.program)
            .args(start.arguments)
            .envs(start.environment)
            .env("NOTIFY_SOCKET", &socket_path)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .map_err(LocalError::file("cannot start", start.program))?;
        Ok(Self { name: start.name.to_owned(), child, log, notify })
    }

    /// Starts a daemon and waits until it is ready.
    ///
    /// # Errors
    /// It cannot be started, ends, or is not ready within a minute.
    pub fn start(start: Starting<'_>) -> Result<Self, LocalError> {
        let mut process = Self::spawn(start)?;
        let steps = READY_WAIT.as_millis() / STEP.as_millis();
        for _ in 0..steps {
            if said_ready(&process.notify) {
                return Ok(process);
            }
            if let Some(status) = process.ended() {
                return Err(process.not_ready(format!("ended with {status} before it was ready")));
            }
        }
        Err(process.not_ready(format!("was not ready within {} s", READY_WAIT.as_secs())))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it writes what it says.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end in good order (SIGTERM) and waits.
    ///
    /// # Errors
    /// It did not end in good order within the time.
    pub fn stop(&mut self, within: Duration) -> Result<(), LocalError> {
        signal(self.pid(), "TERM")?;
        let steps = within.as_millis() / STEP.as_millis();
        for _ in 0..steps {
            match self.ended() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(self.not_ready(format!("ended with {status}"))),
                None => pause(),
            }
        }
        Err(self.not_ready(format!("did not end within {} s of SIGTERM", within.as_secs())))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It still runs after the time.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus, LocalError> {
        for _ in 0..within.as_millis() / STEP.as_millis() {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            pause();
        }
        Err(self.not_ready(format!("still runs after {} s", within.as_secs())))
    }

    /// Whether it ended by this signal.
    #[must_use]
    pub fn died_of(status: ExitStatus, signal: i32) -> bool {
        status.signal() == Some(signal)
    }

    /// The error of a daemon that is not as it should be, with the end of its log.
    #[must_use]
    pub fn not_ready(&self, what: String) -> LocalError {
        let (name, log) = (self.name.clone(), self.log.clone());
        LocalError::NotReady { name, what, tail: tail(&log), log }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal by name with the system's own `kill`.
///
/// # Errors
/// There is no such process.
pub(super) fn signal(pid: u32, name: &str) -> Result<(), LocalError> {
    let command = format!("kill -{name} {pid}");
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            Err(LocalError::Command { command, status: status.to_string(), output: String::new() })
        }
        Err(source) => Err(LocalError::file("cannot run", "kill")(source)),
    }
}

fn notify_socket(path: &Path) -> Result<UnixDatagram, LocalError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(LocalError::file("cannot remove", path)(error));
        }
        _ => {}
    }
    let socket = UnixDatagram::bind(path).map_err(LocalError::file("cannot bind", path))?;
    socket.set_read_timeout(Some(STEP)).map_err(LocalError::file("cannot set up", path))?;
    Ok(socket)
}

/// Reads one datagram, waiting one step at most.
fn said_ready(socket: &UnixDatagram) -> bool {
    let mut datagram = [0; 1024];
    let Ok(len) = socket.recv(&mut datagram) else {
        return false;
    };
    let text = datagram.get(..len).unwrap_or_default();
    text.split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
}

fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let from = file.metadata()?.len().saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(8).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}

#[expect(clippy::disallowed_methods, reason = "this module waits for processes; no runtime runs")]
pub(super) fn pause() {
    std::thread::sleep(STEP);
}
