//! This site as a witness of the coordinator's log: each head that comes is held against the one that is kept,
//! before anything else of the connection means anything.

use std::sync::Arc;
use std::time::Duration;

use consilium_common::wire::messages::{HeadWanted, LogHead, Message};

use tokio::sync::oneshot;

use super::shared::{Shared, blocking};
use super::{Driver, Event};
use crate::control_socket::{Reply, Word};
use crate::ledger::entry::{Contradicted, HistoryAccepted};
use crate::witness::{Doubt, HeadRow, News, WitnessError};

/// How long after a roll call the site asks for the log that it stands in.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(10);

impl Driver {
    /// Whether what the coordinator says may be listened to: it is no head of its log, or one that goes on
    /// from the one that this site keeps. Else the connection is closed.
    pub(super) fn is_witnessed(&mut self, message: &Message) -> bool {
        let Some(head) = head_in(message) else {
            self.is_head_due |= matches!(message, Message::RollCall(_));
            return true;
        };
        let news = match self.shared.witness.take(head) {
            Ok(news) => news,
            Err(doubt) => {
                self.doubts(doubt);
                return false;
            }
        };
        match news {
            News::None => return true,
            News::Further => {}
            News::Agrees => tracing::warn!(
                "the coordinator's log is again the one that this site witnessed; what it showed in between \
                 stays as evidence"
            ),
        }
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move { write(shared).await });
        true
    }

    fn doubts(&mut self, doubt: Doubt) {
        let reason = doubt.to_string();
        tracing::error!(
            folder = %self.shared.witness.status().folder.display(),
            "{reason}. Nothing goes on with this coordinator: ask the consortium's operators why its log is \
             another one"
        );
        self.close(&reason);
        let Doubt::History { kept, told, why } = doubt else {
            return;
        };
        let (told, why) = (HeadRow::of(&told.checkpoint), why.to_string());
        if self.contradicted.replace(told) == Some(told) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            let ours = Arc::clone(&shared);
            let entry = Contradicted { kept, told, why };
            let entered = blocking(move || ours.ledger.record(entry, ours.clock.wall())).await;
            if !matches!(entered, Ok(Ok(_))) {
                tracing::warn!("the contradiction is not in the ledger");
            }
            write(shared).await;
        });
    }

    /// A person goes on with the log that the coordinator shows. The next connection tells what comes of it.
    pub(super) fn accept_history(&self, word: Word, to: oneshot::Sender<Reply>) {
        let (shared, events) = (Arc::clone(&self.shared), self.events.clone());
        self.tasks.spawn(async move {
            let accepted = blocking(move || accept(&shared, word)).await;
            let reply = accepted.unwrap_or_else(|fault| Reply::Failed { message: fault.detail });
            if matches!(reply, Reply::WitnessAccepted(_)) {
                let _stopping = events.send(Event::HistoryAccepted).await;
            }
            // The person may have gone.
            let _gone = to.send(reply);
        });
    }

    /// Asks how the log stands, if a roll call has come since the last time.
    pub(super) fn ask_for_head(&mut self) {
        if std::mem::take(&mut self.is_head_due) {
            self.send(&HeadWanted { witnessed: self.shared.witness.records() }.into());
        }
    }
}

fn accept(shared: &Shared, word: Word) -> Reply {
    let status = shared.witness.status();
    let Some(now) = status.contradiction else {
        return Reply::Refused { message: WitnessError::Agrees.to_string() };
    };
    tracing::warn!(by = word.by, reason = word.reason, %now, "a person accepts another history");
    let Word { by, reason, account } = word;
    let entry = HistoryAccepted { before: status.kept, now, by, reason, account };
    // In the ledger first, as every decision.
    let recorded = shared.ledger.record(entry, shared.clock.wall()).map_err(|e| e.to_string());
    let accepted = recorded.and_then(|_| shared.witness.accept().map_err(|e| e.to_string()));
    match accepted {
        Ok(()) => Reply::WitnessAccepted(shared.witness.status()),
        Err(message) => Reply::Failed { message },
    }
}

async fn write(shared: Arc<Shared>) {
    let written = blocking(move || shared.witness.write()).await;
    if let Ok(Err(error)) = written {
        tracing::error!(%error, "what this site witnessed of the coordinator's log is not on the disk");
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "no other kind has one")]
fn head_in(message: &Message) -> Option<&LogHead> {
    match message {
        Message::Welcome(welcome) => Some(&welcome.head),
        Message::LogHead(head) => Some(head),
        _ => None,
    }
}
