//! Control first at the connection's own windows, too. quinn's priorities order what is in its buffers;
//! but a connection whose window is full takes nothing from any stream, and who writes first when it
//! opens again is chance: over 50 ms there and back, control messages lost that draw for up to 370 ms
//! beside an upload (measured). So bulk does not write while a control message waits. A peer that does
//! not read its control stream gets no blobs either; both are over within the transfer's idle time.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::AsyncWrite;

use crate::net::stream::{SendStream, StreamKind};

/// Who may write to one connection.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Control streams with a message that the connection has not taken yet.
    control: usize,
    /// Writers of bulk that wait for them: one a stream, and those are few.
    bulk: Vec<Waker>,
}

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn control_waits(&self) {
        self.state().control += 1;
    }

    fn control_went(&self) {
        let woken = {
            let mut state = self.state();
            state.control -= 1;
            if state.control > 0 { Vec::new() } else { std::mem::take(&mut state.bulk) }
        };
        woken.into_iter().for_each(Waker::wake);
    }

    /// Whether bulk may write now; if not, its task is woken when it may.
    fn is_for_bulk(&self, cx: &Context<'_>) -> bool {
        let mut state = self.state();
        if state.control > 0 && !state.bulk.iter().any(|waker| waker.will_wake(cx.waker())) {
            state.bulk.push(cx.waker().clone());
        }
        state.control == 0
    }
}

/// A stream that writes in its turn.
pub(super) struct InTurn<S> {
    stream: S,
    kind: StreamKind,
    turns: Arc<Turns>,
    waits: bool,
}

impl<S> InTurn<S> {
    pub(super) fn new(stream: S, kind: StreamKind, turns: &Arc<Turns>) -> Self {
        Self { stream, kind, turns: Arc::clone(turns), waits: false }
    }

    fn set_waits(&mut self, waits: bool) {
        match (std::mem::replace(&mut self.waits, waits), waits) {
            (false, true) => self.turns.control_waits(),
            (true, false) => self.turns.control_went(),
            (false, false) | (true, true) => {}
        }
    }
}

impl<S> Drop for InTurn<S> {
    fn drop(&mut self) {
        self.set_waits(false);
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for InTurn<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.kind == StreamKind::Blob && !self.turns.is_for_bulk(cx) {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if self.kind == StreamKind::Control {
            self.set_waits(written.is_pending());
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: SendStream> SendStream for InTurn<S> {
    fn reset(&mut self, code: u32) {
        self.stream.reset(code);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::timeout;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(50);
    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn bulk_waits_while_a_control_message_does() {
        let turns = Arc::new(Turns::default());
        let ((control, mut reader), (bulk, _other)) = (duplex(4), duplex(1 << 20));
        let mut control = InTurn::new(control, StreamKind::Control, &turns);
        let mut bulk = InTurn::new(bulk, StreamKind::Blob, &turns);
        bulk.write_all(b"before").await.unwrap();

        let saying = tokio::spawn(async move {
            control.write_all(b"a message").await.unwrap();
            control
        });
        tokio::task::yield_now().await;
        assert!(timeout(MOMENT, bulk.write_all(b"between")).await.is_err(), "bulk went first");
        let going_on = tokio::spawn(async move { bulk.write_all(b"after").await });
        let mut message = [0; 9];
        reader.read_exact(&mut message).await.unwrap();
        let _control = saying.await.unwrap();
        timeout(PATIENCE, going_on).await.expect("bulk was not woken").unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_control_stream_that_goes_while_it_waits_holds_nothing_up() {
        let turns = Arc::new(Turns::default());
        let ((control, _reader), (bulk, _other)) = (duplex(1), duplex(1 << 20));
        let mut control = InTurn::new(control, StreamKind::Control, &turns);
        let mut bulk = InTurn::new(bulk, StreamKind::Blob, &turns);
        assert!(timeout(MOMENT, control.write_all(b"never read")).await.is_err());
        let going_on = tokio::spawn(async move { bulk.write_all(b"bulk").await });
        tokio::task::yield_now().await;
        drop(control);
        timeout(PATIENCE, going_on).await.expect("bulk was not woken").unwrap().unwrap();
    }
}
