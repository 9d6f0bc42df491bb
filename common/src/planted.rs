//! Bugs that tests plant, to prove that the simulation would find them. Without the feature
//! `planted`, which only the tests' package switches on, every question here is answered `false` at
//! compile time.

/// A bug of a kind that systems like this have had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Records count as durable before the disk has them.
    NoSync,
    /// A receipt is told before its record is durable.
    ReceiptBeforeDurable,
    /// An update that is in the sum is added again when its site comes back.
    DoubleCount,
    /// An update of an older round is taken for the open one.
    StaleRound,
    /// A site promotes the state of an update whose round was abandoned.
    ResidualOnAbandon,
    /// A record of which a part is on disk counts as written: the next one goes after it.
    TornTail,
    /// Staged bytes are taken for the whole update without a look at their digest.
    PartialBlob,
    /// Deadlines are read off the calendar clock.
    WallDeadline,
    /// A site that comes back during a round is not told its plan again.
    LostWakeUp,
    /// A site that did not count is missing from the roll call.
    SilentExclusion,
    /// The strategy begins anew when the coordinator starts.
    FreshState,
}

/// All of them.
pub const BUGS: [Bug; 11] = [
    Bug::NoSync,
    Bug::ReceiptBeforeDurable,
    Bug::DoubleCount,
    Bug::StaleRound,
    Bug::ResidualOnAbandon,
    Bug::TornTail,
    Bug::PartialBlob,
    Bug::WallDeadline,
    Bug::LostWakeUp,
    Bug::SilentExclusion,
    Bug::FreshState,
];

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in this thread, or takes it out.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether `bug` is planted in this thread.
#[inline]
#[must_use]
pub fn has(bug: Bug) -> bool {
    #[cfg(feature = "planted")]
    return PLANTED.get() == Some(bug);
    #[cfg(not(feature = "planted"))]
    {
        let _ = bug;
        false
    }
}
