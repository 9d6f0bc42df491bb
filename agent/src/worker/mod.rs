//! The daemon's half of the worker protocol (`consilium_common::worker`): one child process a task,
//! started, watched and stopped here. Nothing that a worker does can harm the daemon: it is another
//! process, its lines and its log are bounded, and its silence is judged by the idle rule.
//!
//! [`process`]: how a worker starts and what it inherits. [`supervise`]: a task from its first line
//! to its exit. [`task_folder`]: the files that the two share. [`fault`]: why a task failed, and
//! whether another start may help. [`synthetic`]: the trainer without libtorch, the other end of
//! the same protocol.

pub mod fault;
mod log;
pub mod process;
pub mod supervise;
pub mod synthetic;
pub mod task_folder;

pub use fault::WorkerFault;
pub use process::{Launch, Programs};
pub use supervise::{Moved, Watch, run_task};
pub use task_folder::TaskFolder;
