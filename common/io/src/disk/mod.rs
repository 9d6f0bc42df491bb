//! Disk primitives: synchronous functions with one promise each about what survives a crash.
//!
//! Async callers wrap them in `spawn_blocking`. No function here retries a failed sync: after one,
//! the kernel may have dropped the pages, and only a restart reads what is really there.

pub mod blobs;
pub mod checkpoint;
mod folder;
mod latest;
pub mod lock;
pub mod log;
pub mod model;
pub mod replace;
pub mod text;

pub use blobs::{BlobError, BlobWriter, Blobs, Durability, Partial};
pub use folder::{create_folder, sync_folder};
pub use latest::Latest;
pub use lock::{LockError, StateLock};
pub use log::{Log, LogError, LogMark, LogReport, RecordRef};
pub use model::{ModelFileError, read_safetensors};
pub use replace::{Access, replace, replace_private, replace_with, sweep_temporary};
pub use text::{TextError, open_file, read_file, read_text};
