//! A listener's flow-control windows out of one budget: a transfer alone has a window for a fast line
//! over a long way, hundreds at once share what the budget holds. So memory is bounded by the budget
//! and not by the number of sites (P5), and the windows together still carry more than the
//! coordinator's own line.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use quinn::{Connection, VarInt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::tuning::{CONTROL_BYTES, WINDOW_BYTES_MAX, WINDOW_BYTES_MIN, WINDOWS_BYTES};
use crate::net::stream::{RecvStream, SendStream};

/// The connections of one listener that move blobs.
#[derive(Debug, Default)]
pub(super) struct Windows(Mutex<Busy>);

#[derive(Debug, Default)]
struct Busy {
    /// By stable id: the connection and how many blob streams it has.
    connections: BTreeMap<usize, (Connection, usize)>,
    share: u32,
}

/// What each of `busy` connections may have under way in either direction, in bytes. It changes at
/// powers of two alone, so that a crowd that comes or goes moves few windows.
fn share(busy: usize) -> u32 {
    let crowd = u32::try_from(busy.max(1).next_power_of_two()).unwrap_or(u32::MAX);
    (WINDOWS_BYTES / crowd).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX)
}

fn set(connection: &Connection, bytes: u32) {
    let bytes = bytes + CONTROL_BYTES;
    connection.set_receive_window(VarInt::from_u32(bytes));
    connection.set_send_window(bytes.into());
}

impl Busy {
    /// Windows after a connection came or went.
    fn rebalance(&mut self) {
        let share = share(self.connections.len());
        if share != self.share {
            self.share = share;
            self.connections.values().for_each(|(connection, _)| set(connection, share));
        }
    }
}

impl Windows {
    fn busy(&self) -> MutexGuard<'_, Busy> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A blob stream of `connection` begins; it ends when every clone of the lease is dropped.
    pub(super) fn lease(self: &Arc<Self>, connection: &Connection) -> Arc<Lease> {
        let id = connection.stable_id();
        let mut busy = self.busy();
        let entry = busy.connections.entry(id).or_insert_with(|| (connection.clone(), 0));
        entry.1 += 1;
        if entry.1 == 1 {
            busy.rebalance();
            set(connection, busy.share);
        }
        Arc::new(Lease { windows: Arc::clone(self), id })
    }
}

/// A blob stream's part in its listener's windows.
#[derive(Debug)]
pub(super) struct Lease {
    windows: Arc<Windows>,
    id: usize,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut busy = self.windows.busy();
        let Some((connection, streams)) = busy.connections.get_mut(&self.id) else { return };
        *streams -= 1;
        if *streams == 0 {
            set(connection, WINDOW_BYTES_MIN);
            busy.connections.remove(&self.id);
            busy.rebalance();
        }
    }
}

/// One direction of a blob stream, with its lease.
pub(super) struct Leased<S>(
    S,
    #[expect(dead_code, reason = "held, to be dropped")] Option<Arc<Lease>>,
);

impl<S> Leased<S> {
    pub(super) fn new(stream: S, lease: Option<Arc<Lease>>) -> Self {
        Self(stream, lease)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Leased<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Leased<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: SendStream> SendStream for Leased<S> {
    fn reset(&mut self, code: u32) {
        self.0.reset(code);
    }
}

impl<S: RecvStream> RecvStream for Leased<S> {
    fn stop(&mut self, code: u32) {
        self.0.stop(code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_alone_has_a_long_window_and_a_crowd_shares_the_budget() {
        assert_eq!(share(0), WINDOW_BYTES_MAX);
        assert_eq!(share(1), WINDOW_BYTES_MAX);
        for busy in 1..=1024 {
            assert!((WINDOW_BYTES_MIN..=WINDOW_BYTES_MAX).contains(&share(busy)), "{busy}");
            let within = u64::from(share(busy)) * busy as u64 <= u64::from(WINDOWS_BYTES);
            assert!(within || share(busy) == WINDOW_BYTES_MIN, "{busy} × {}", share(busy));
        }
        assert_eq!(share(1024), WINDOW_BYTES_MIN);
    }
}
