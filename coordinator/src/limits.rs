//! The coordinator's own bounds: queues, budgets and waits, each with its reason. What both sides of
//! the wire agree on is in `consilium_common::limits`.

use std::time::Duration;

use consilium_common::time::Millis;

/// Requests that wait for the log's thread. More than every site's receipt of one round; whoever
/// comes later waits at the door.
pub const STORE_QUEUE_MAX: usize = 2048;
/// Records of one group commit: bounds what one failed write takes down with it.
pub const GROUP_COMMIT_MAX: usize = 1024;
/// Signed checkpoints are written this far apart, and at shutdown: each costs two syncs.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// The index's cache: it holds offsets only.
pub const INDEX_CACHE_BYTES: u64 = 4 << 20;
/// Index entries written together while the log is read at start.
pub const INDEX_BATCH_MAX: usize = 4096;

/// An update up to this size is staged in memory; larger ones go to files.
pub const STAGED_IN_MEMORY_BYTES_MAX: u64 = 64 << 10;
/// All updates staged in memory together; beyond it small ones go to files as well.
pub const STAGE_MEMORY_BYTES_MAX: u64 = 64 << 20;
/// How long a push waits for another push of the same bytes.
pub const STAGE_WAIT_MAX: Duration = Duration::from_secs(30);
/// While it waits, it looks again this often, in case the other ended unheard.
pub const STAGE_LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Events that wait for one study's driver: some of every site; a session that finds it full waits,
/// and with it the site's control stream.
pub const DRIVER_QUEUE_MAX: usize = 1024;
/// A transfer tells the driver of its bytes at most this often.
pub const TRANSFER_REPORT_INTERVAL: Millis = Millis(250);

/// A new connection must say who it is within this time.
pub const HELLO_WAIT_MAX: Duration = Duration::from_secs(10);
/// A blob transfer on which no byte moves for this long is given up.
pub const TRANSFER_IDLE_MAX: Duration = Duration::from_secs(30);
/// How long a closing connection may take to hear why.
pub const GOODBYE_MAX: Duration = Duration::from_millis(500);
/// Operators connected at once.
pub const OPERATORS_MAX: usize = 64;
/// Requests that one operator's connection may have open.
pub const OPERATOR_REQUESTS_MAX: usize = 8;

/// Roll calls of a study kept in memory for status; older ones are in the log.
pub const ROUNDS_SHOWN_MAX: usize = 20;
/// Versions of a study kept in memory for `model list`; older ones are in the log.
pub const VERSIONS_SHOWN_MAX: usize = 4096;

/// Going down waits this long for sessions to end.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(5);
