//! The least that a transfer must move. A peer that trickles a byte now and then keeps every clock of
//! a transfer satisfied; this one it does not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::limits::{TRANSFER_BYTES_MIN, TRANSFER_IDLE_MAX};

/// The time is looked at in so many parts: a line that is down shows parts in which nothing moved.
const PARTS: u32 = 3;

/// How a transfer was too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooSlow {
    /// Something moved all the time, and yet so little.
    Trickled,
    /// With gaps, as a bad line has them.
    Stalled,
}

/// Bytes of a blob that are through so far.
#[derive(Debug, Default)]
pub(super) struct Through(AtomicU64);

impl Through {
    pub(super) fn set(&self, through: u64) {
        self.0.store(through, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Resolves once too little has moved for [`TRANSFER_IDLE_MAX`].
    pub(super) async fn too_slow(&self) -> TooSlow {
        self.too_slow_for(TRANSFER_IDLE_MAX / PARTS).await
    }

    async fn too_slow_for(&self, part: Duration) -> TooSlow {
        loop {
            let (start, mut gaps) = (self.get(), false);
            for _ in 0..PARTS {
                let before = self.get();
                tokio::time::sleep(part).await;
                gaps |= self.get() == before;
            }
            if self.get().saturating_sub(start) < TRANSFER_BYTES_MIN {
                return if gaps { TooSlow::Stalled } else { TooSlow::Trickled };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PART: Duration = Duration::from_millis(40);

    /// Moves so many bytes every few milliseconds until it is too slow.
    async fn moving(bytes: u64, steps: u32) -> TooSlow {
        let through = Through::default();
        let moves = async {
            for _ in 0..steps {
                through.set(through.get() + bytes);
                tokio::time::sleep(PART / 8).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            slow = through.too_slow_for(PART) => slow,
            () = moves => TooSlow::Stalled,
        }
    }

    #[tokio::test]
    async fn a_trickle_is_told_from_a_line_with_gaps() {
        assert_eq!(moving(1, u32::MAX).await, TooSlow::Trickled);
        assert_eq!(moving(1, 1).await, TooSlow::Stalled);
    }

    #[tokio::test]
    async fn who_moves_enough_is_left_alone_until_it_stops() {
        let started = tokio::time::Instant::now();
        assert_eq!(moving(TRANSFER_BYTES_MIN, 48).await, TooSlow::Stalled);
        assert!(started.elapsed() >= PART * 5);
    }
}
