//! Starting a worker: which program, what it inherits, and that it never outlives the daemon.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use consilium_common::study::{ModelSpec, Study};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::WorkerFault;

/// The trainer's name beside this program, or on the path.
pub const WORKER_PROGRAM: &str = "consilium-worker";
/// The hidden subcommand of this program that is the synthetic trainer.
pub const SYNTHETIC_COMMAND: &str = "synthetic-worker";

/// Variables that a worker inherits: where libraries, temporary files and devices are, and how to
/// write text. Nothing else of the daemon's environment reaches it.
const INHERITED: [&str; 13] = [
    "CONSILIUM_LOG",
    "HOME",
    "LANG",
    "LD_LIBRARY_PATH",
    "LIBTORCH",
    "PATH",
    "RUST_BACKTRACE",
    "TMPDIR",
    "TZ",
    "TZDIR",
    "XDG_CACHE_HOME",
    "LC_ALL",
    "LC_CTYPE",
];
/// And those of the numeric libraries.
const INHERITED_PREFIXES: [&str; 8] =
    ["CUDA_", "CUBLAS_", "CUDNN_", "GOMP_", "KMP_", "MKL_", "NVIDIA_", "OMP_"];

/// A program with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Which program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.display())?;
        for argument in &self.arguments {
            write!(f, " {}", argument.to_string_lossy())?;
        }
        Ok(())
    }
}

/// The programs that train.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// `consilium-worker`.
    pub worker: PathBuf,
    /// This program, for the synthetic family.
    pub agent: PathBuf,
}

impl Programs {
    /// `worker` if the configuration names one; else the one beside this program; else by the path.
    ///
    /// # Errors
    /// The system does not say where this program is.
    pub fn find(worker: Option<&Path>) -> std::io::Result<Self> {
        let agent = std::env::current_exe()?;
        let beside = agent.with_file_name(WORKER_PROGRAM);
        let worker = match worker {
            Some(path) => path.to_owned(),
            None if beside.is_file() => beside,
            None => PathBuf::from(WORKER_PROGRAM),
        };
        Ok(Self { worker, agent })
    }

    /// The program that serves this study's family.
    #[must_use]
    pub fn for_study(&self, study: &Study) -> Launch {
        match study.model {
            ModelSpec::Synthetic(_) => {
                Launch { program: self.agent.clone(), arguments: vec![SYNTHETIC_COMMAND.into()] }
            }
            ModelSpec::Cnn(_)
            | ModelSpec::Recommender(_)
            | ModelSpec::Rnn(_)
            | ModelSpec::Tabular(_)
            | ModelSpec::TextClassifier(_) => {
                Launch { program: self.worker.clone(), arguments: Vec::new() }
            }
        }
    }
}

/// A started worker and our end of the socket pair.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) socket: UnixStream,
}

/// Starts a worker with the other end as its standard input (read and written). Dropped, it is
/// killed; if this process dies, so does it.
///
/// Must be called on a thread that lives as long as the task: the kernel sends the death signal
/// when the *thread* that started the child ends (prctl(2), PR_SET_PDEATHSIG). The runtime's
/// own threads do.
pub(super) fn start(launch: &Launch, threads: u32) -> Result<Started, WorkerFault> {
    let failed = |source| WorkerFault::Start { program: launch.to_string(), source };
    let (ours, theirs) = StdUnixStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    let socket = UnixStream::from_std(ours).map_err(failed)?;
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.arguments)
        .env_clear()
        .envs(inherited(std::env::vars_os()))
        .env("OMP_NUM_THREADS", threads.max(1).to_string())
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    die_with_parent(&mut command);
    let child = command.spawn().map_err(failed)?;
    Ok(Started { child, socket })
}

fn inherited(
    all: impl Iterator<Item = (OsString, OsString)>,
) -> impl Iterator<Item = (OsString, OsString)> {
    all.filter(|(name, _)| {
        name.to_str().is_some_and(|name| {
            INHERITED.contains(&name)
                || INHERITED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
    })
}

/// The kernel kills the child when this process is gone, however it went.
#[expect(unsafe_code, reason = "pre_exec runs between fork and exec; see the proof")]
fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let in_child = move || {
        // SAFETY: prctl with PR_SET_PDEATHSIG reads one integer argument and touches no memory.
        let set = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        if set != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // The daemon may have died before the line above: then nobody would send the signal.
        if std::os::unix::process::parent_id() != parent {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe functions may run (fork(2)). The closure
    // makes the system calls prctl and getppid, allocates nothing (an error from a raw number or a
    // kind holds no box), takes no lock, and captures one integer by value.
    unsafe {
        command.pre_exec(in_child);
    }
}

/// How a process ended, in words.
#[must_use]
pub fn describe_exit(status: &ExitStatus) -> String {
    let Some(signal) = status.signal() else {
        return match status.code() {
            Some(code) => format!("exit code {code}"),
            None => "it ended in an unknown way".to_owned(),
        };
    };
    match signal {
        libc::SIGKILL => {
            "killed by SIGKILL (by the system if memory ran out, or by a person)".to_owned()
        }
        libc::SIGSEGV => "crashed with SIGSEGV (invalid memory access)".to_owned(),
        libc::SIGABRT => "aborted with SIGABRT (often a failed allocation)".to_owned(),
        libc::SIGBUS => "crashed with SIGBUS (a file shrank, or memory failed)".to_owned(),
        libc::SIGILL => "crashed with SIGILL (this processor lacks an instruction)".to_owned(),
        libc::SIGFPE => "crashed with SIGFPE".to_owned(),
        libc::SIGTERM => "ended by SIGTERM".to_owned(),
        libc::SIGINT => "ended by SIGINT".to_owned(),
        other => format!("ended by signal {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_sees_only_what_it_needs_of_the_environment() {
        let all = ["PATH", "CUDA_VISIBLE_DEVICES", "AWS_SECRET_ACCESS_KEY", "CONSILIUM_TOKEN"]
            .map(|name| (OsString::from(name), OsString::from("x")));
        let seen: Vec<_> = inherited(all.into_iter()).map(|(name, _)| name).collect();
        assert_eq!(seen, ["PATH", "CUDA_VISIBLE_DEVICES"]);
    }
}
