//! What befalls a federation, and when: a list that follows from the seed alone, so that a failing
//! one can be made shorter entry by entry.

use consilium_common::random::Generator;

/// One kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The process that is about to act dies first.
    DiesBefore,
    /// The process that has just begun an action dies.
    DiesAfter,
    /// A site dies and comes back with its disk as it was some time ago.
    OldBackup,
    /// A connection breaks; both ends notice soon.
    Cut,
    /// A connection carries nothing any more; both ends notice when it has been idle for too long.
    HalfOpen,
    /// A site cannot reach the coordinator for up to half an hour.
    Partition,
    /// A connection becomes slow: everything on it comes seconds later.
    SlowLink,
    /// Messages of a connection arrive twice.
    Duplicates,
    /// A site repeats something that it said before, perhaps in another round.
    Replay,
    /// A worker dies in the middle of its task.
    WorkerDies,
    /// A worker hangs until the daemon kills it.
    WorkerHangs,
    /// A site's disk is full when the update is to be written.
    SiteDiskFull,
    /// The coordinator's disk refuses a record: the process stops, and starts again.
    CoordinatorDisk,
    /// What was staged at the coordinator is gone or half there.
    StageLost,
    /// The coordinator's calendar clock jumps by up to a day, and is set right later.
    ClockJump,
    /// An operator pauses a study, and starts it again later.
    Pause,
    /// An operator stops a study for good.
    Stop,
    /// A site delivers an update that breaks a rule.
    BadUpdate,
    /// The coordinator's machine or a site's loses its power: unsynced writes are lost, torn, or
    /// replaced by what the disk held before.
    PowerCut,
    /// A bit of the coordinator's log turns over.
    LogRot,
    /// The end of the coordinator's log is gone, synced records with it.
    LogCut,
    /// A bit of a model or of a staged update turns over.
    BlobRot,
    /// A bit of a site's retained update or cached base turns over.
    SiteRot,
    /// A site stops reading its control stream, with its queue at the coordinator almost full.
    SlowReader,
    /// A site's next base comes slowly, and never stands still for longer than the idle timeout.
    SlowFetch,
}

/// All kinds, in the order of the table.
pub const KINDS: [Kind; 25] = [
    Kind::DiesBefore,
    Kind::DiesAfter,
    Kind::OldBackup,
    Kind::Cut,
    Kind::HalfOpen,
    Kind::Partition,
    Kind::SlowLink,
    Kind::Duplicates,
    Kind::Replay,
    Kind::WorkerDies,
    Kind::WorkerHangs,
    Kind::SiteDiskFull,
    Kind::CoordinatorDisk,
    Kind::StageLost,
    Kind::ClockJump,
    Kind::Pause,
    Kind::Stop,
    Kind::BadUpdate,
    Kind::PowerCut,
    Kind::LogRot,
    Kind::LogCut,
    Kind::BlobRot,
    Kind::SiteRot,
    Kind::SlowReader,
    Kind::SlowFetch,
];

/// How often a kind is drawn, against 10 for most.
fn share(kind: Kind) -> u32 {
    match kind {
        Kind::DiesBefore | Kind::DiesAfter => 40,
        // Its refusal is acted on once or twice, and deaths must meet that too.
        Kind::BadUpdate => 25,
        Kind::Stop => 4,
        Kind::OldBackup
        | Kind::Cut
        | Kind::HalfOpen
        | Kind::Partition
        | Kind::SlowLink
        | Kind::Duplicates
        | Kind::Replay
        | Kind::WorkerDies
        | Kind::WorkerHangs
        | Kind::SiteDiskFull
        | Kind::CoordinatorDisk
        | Kind::StageLost
        | Kind::ClockJump
        | Kind::Pause
        | Kind::PowerCut
        | Kind::LogRot
        | Kind::LogCut
        | Kind::BlobRot
        | Kind::SiteRot
        | Kind::SlowReader
        | Kind::SlowFetch => 10,
    }
}

/// A fault with its moment: before the action of this number, counted over all processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// Number of the action.
    pub at: u64,
    /// What happens.
    pub kind: Kind,
    /// What its details are drawn from.
    pub seed: u64,
}

/// The faults of a seed, in order.
#[must_use]
pub fn plan(seed: u64) -> Vec<Fault> {
    let mut generator = Generator::new("simulation/faults", &seed.to_le_bytes());
    let count = generator.below(28);
    let gap_max = 2 + generator.below(120);
    let total: u32 = KINDS.iter().map(|kind| share(*kind)).sum();
    let mut at = u64::from(generator.below(20));
    let mut fault = |generator: &mut Generator| {
        at += u64::from(1 + generator.below(gap_max));
        Fault { at, kind: draw(generator.below(total)), seed: generator.next_u64() }
    };
    (0..count).map(|_| fault(&mut generator)).collect()
}

fn draw(mut ticket: u32) -> Kind {
    for kind in KINDS {
        match ticket.checked_sub(share(kind)) {
            Some(rest) => ticket = rest,
            None => return kind,
        }
    }
    Kind::Cut
}
