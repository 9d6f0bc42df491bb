//! Pushed updates: admitted by the study's engine before a byte is read, then taken into the stage.

use consilium_common::ids::{Round, SiteId};
use consilium_common::time::Millis;
use consilium_common::wire::codec;
use consilium_common::wire::messages::UpdateContext;
use consilium_common::wire::reject::Code;
use consilium_io::disk::BlobError;
use consilium_io::net::transfer::{Pace, PushRequest, Refusal, TransferError};

use super::Server;
use super::blobs::in_vain;
use super::broken::Broken;
use super::pace::{Through, TooSlow};
use crate::driver::{Event, Handle};
use crate::limits::{TRANSFER_BYTES_MIN, TRANSFER_IDLE_MAX, TRANSFER_REPORT_INTERVAL};
use crate::stage::{Begun, Purpose};

/// Takes one pushed update of a site, or says why not.
pub(super) async fn take(server: &Server, site: &SiteId, push: PushRequest) -> Result<(), Broken> {
    let Ok(context) = codec::decode::<UpdateContext>(&push.context) else {
        refuse(push, site, Code::Malformed).await;
        return Err(Broken::strike(Code::Malformed, "the context of a push cannot be read"));
    };
    let Some(study) = server.studies.get(&context.study) else {
        refuse(push, site, Code::UnknownStudy).await;
        return in_vain(server, site);
    };
    let (round, digest, bytes) = (context.round, push.digest, push.length);
    let asked = study.ask(|answer| {
        let site = site.clone();
        Event::Push { site, round, digest, bytes, answer }
    });
    match asked.await {
        Ok(Ok(())) => {}
        Ok(Err(code)) => {
            refuse(push, site, code).await;
            return not_admitted(server, site, code);
        }
        Err(_) => {
            push.refuse(Refusal::Code(Code::ShuttingDown)).await;
            return Ok(());
        }
    }
    let purpose = Purpose { study: context.study, round };
    let mut moved = Moved::new(server, &study, site, round, Way::Up);
    let taken = receive(server, &purpose, push, &mut moved).await;
    moved.rest().await;
    // If only our last word was lost, the update is here all the same.
    let here = match &taken {
        Ok(()) => true,
        Err(error) => {
            tracing::info!(study = %purpose.study, %round, %site, %error, "a push broke off");
            server.stage.look(&purpose, digest).await.unwrap_or(false)
        }
    };
    if here {
        let event = Event::Staged { site: site.clone(), round, digest };
        if study.tell(event).await.is_err() {
            tracing::debug!(%site, "an update was staged while the coordinator goes down");
        }
        return Ok(());
    }
    match taken {
        Err(error @ Failed::Transfer(TransferError::Blob(BlobError::Digest { .. }))) => {
            Err(Broken::fault(Code::DigestMismatch, error))
        }
        Err(error @ Failed::TooSlow(TooSlow::Trickled)) => Err(Broken::fault(Code::Idle, error)),
        Err(Failed::Transfer(_) | Failed::TooSlow(TooSlow::Stalled)) | Ok(()) => {
            in_vain(server, site)
        }
    }
}

/// Agents push what was asked of them. A size that no update of the round has, or another update
/// than the one that counts, was never asked for; the rest happens when a round ends meanwhile.
#[expect(clippy::wildcard_enum_match_arm, reason = "all that a round's end can cause")]
fn not_admitted(server: &Server, site: &SiteId, code: Code) -> Result<(), Broken> {
    match code {
        Code::TooLarge | Code::WrongShape | Code::Equivocation => {
            Err(Broken::strike(code, "it pushes an update that it was not asked for"))
        }
        _ => in_vain(server, site),
    }
}

/// Why an update did not arrive.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("fewer than {TRANSFER_BYTES_MIN} bytes moved in {} s", TRANSFER_IDLE_MAX.as_secs())]
    TooSlow(TooSlow),
}

async fn receive(
    server: &Server,
    purpose: &Purpose,
    push: PushRequest,
    moved: &mut Moved<'_>,
) -> Result<(), Failed> {
    let mut sink = match server.stage.begin(purpose, push.digest, push.length).await {
        Ok(Begun::Already) => return Ok(push.already_stored().await?),
        Ok(Begun::Sink(sink)) => sink,
        Err(error) => {
            push.refuse(Refusal::Failed).await;
            return Err(error.into());
        }
    };
    let received = consilium_io::net::transfer::Sink::received(&sink);
    moved.start(received);
    let whole = Through::default();
    whole.set(received);
    let mut progress = |through| {
        whole.set(through);
        moved.through(through);
    };
    let mut pace = Pace { idle: TRANSFER_IDLE_MAX, progress: &mut progress };
    tokio::select! {
        taken = push.take(&mut sink, &mut pace) => Ok(taken?),
        slow = whole.too_slow() => Err(Failed::TooSlow(slow)),
    }
}

async fn refuse(push: PushRequest, site: &SiteId, code: Code) {
    tracing::debug!(%site, digest = ?push.digest, %code, "a push is refused");
    push.refuse(Refusal::Code(code)).await;
}

/// Which way bytes go, seen from the site.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    Up,
    Down,
}

/// Tells a driver of bytes that moved: from time to time, and the rest at the end.
pub(super) struct Moved<'a> {
    server: &'a Server,
    study: &'a Handle,
    site: &'a SiteId,
    round: Round,
    way: Way,
    told: u64,
    through: u64,
    last: Millis,
}

impl<'a> Moved<'a> {
    pub(super) fn new(
        server: &'a Server,
        study: &'a Handle,
        site: &'a SiteId,
        round: Round,
        way: Way,
    ) -> Self {
        let last = server.clock.now();
        Self { server, study, site, round, way, told: 0, through: 0, last }
    }

    /// Counting begins here: what was there before is not moved now.
    pub(super) fn start(&mut self, offset: u64) {
        (self.told, self.through) = (offset, offset);
    }

    /// So many bytes of the blob are through.
    pub(super) fn through(&mut self, through: u64) {
        self.through = through;
        let now = self.server.clock.now();
        let due = now.since(self.last) >= TRANSFER_REPORT_INTERVAL;
        if due && self.study.try_tell(self.event()) {
            (self.told, self.last) = (self.through, now);
        }
    }

    /// Tells what was not told yet.
    pub(super) async fn rest(&mut self) {
        if self.through > self.told && self.study.tell(self.event()).await.is_ok() {
            self.told = self.through;
        }
    }

    fn event(&self) -> Event {
        let bytes = self.through.saturating_sub(self.told);
        let (up, down) = match self.way {
            Way::Up => (bytes, 0),
            Way::Down => (0, bytes),
        };
        Event::Moved { site: self.site.clone(), round: self.round, up, down }
    }
}
