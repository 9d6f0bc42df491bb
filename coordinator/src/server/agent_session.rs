//! One site's connection: its control stream between the agent and the drivers, its blob streams.
//!
//! Three loops side by side: what the agent says goes to the drivers (and waits for them, and with
//! it the agent's stream), what the drivers say goes to the agent from a bounded queue, and blob
//! streams are served each on its own. The first loop that ends ends the session.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use consilium_common::ids::{SiteId, StudyId};
use consilium_common::limits::{HEARTBEAT_INTERVAL, TEXT_BYTES_MAX};
use consilium_common::wire::frame::Frame;
use consilium_common::wire::messages::{
    Answer, Heartbeat, LogHead, Message, Published, Refusal, RenewCertificate, StudyAnswer,
    Welcome, Withdrawal, WithdrawalKept,
};
use consilium_common::wire::reject::Code;
use consilium_io::net::{Carrier, FrameReader, FrameWriter, FramesError};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::broken::{Blame, Broken};
use super::sites::{self, Outbox, SessionId};
use super::{PROGRAM, Server, blobs, expiry, greeting};
use crate::conduct::Deed;
use crate::driver::{Event, Handle};
use crate::limits::GOODBYE_MAX;
use crate::planning::Open;
use crate::round::SiteMessage;
use crate::studies::WithdrawError;

/// A site that is connected and welcome.
struct Session<'a> {
    server: &'a Arc<Server>,
    site: &'a SiteId,
    id: SessionId,
}

/// Runs a site's connection to its end.
pub(super) async fn run(
    server: Arc<Server>,
    carrier: Arc<dyn Carrier>,
    site: SiteId,
    stop: CancellationToken,
) {
    let hello = tokio::select! {
        () = stop.cancelled() => return,
        hello = greeting::hear(&server, &carrier, &site) => hello,
    };
    let (hello, reader, writer) = match hello {
        Ok(said) => said,
        Err(broken) => {
            tracing::info!(%site, code = %broken.code, "no session: {}", broken.detail);
            return end(&server, &*carrier, &site, broken).await;
        }
    };
    // Another connection of the site may have been put out while this one was silent.
    if let Some(term) = server.sites.guard().term(&site) {
        return sites::close(&*carrier, Code::Quarantined, &term.to_string());
    }
    let address = carrier.remote_address();
    tracing::info!(%site, %address, agent = hello.agent, "connected");
    let head = match log_head(&server, &site, hello.witnessed).await {
        Ok(head) => head,
        Err(broken) => return end(&server, &*carrier, &site, broken).await,
    };
    let welcome = Welcome { coordinator: PROGRAM.to_owned(), wall: server.clock.wall(), head };
    let arrival = server.sites.arrive(&site, Arc::clone(&carrier), welcome.into());
    gone(&server, &site, arrival.replaced).await;
    // It may have been put out between its handshake and now, when there was nothing to cut.
    if let Err(error) = server.membership.members().belongs(&site) {
        server.sites.cut(&site, Code::Revoked, &error.to_string());
    }
    let session = Session { server: &server, site: &site, id: arrival.id };
    if let Some(until) = server.certificate.end_of(&*carrier) {
        server.sites.send(&site, RenewCertificate { until }.into());
    }
    session.offer_roster();
    session.offer_studies();

    let ended = tokio::select! {
        () = stop.cancelled() => Err(Broken::new(Code::ShuttingDown, "the coordinator goes down")),
        ended = session.listen(reader) => ended,
        ended = session.speak(writer, arrival.queue) => ended,
        ended = blobs::serve(&server, &*carrier, &site) => ended,
        broken = expiry::expired(&server, &*carrier) => Err(broken),
    };
    if let Err(broken) = ended {
        let code = broken.code;
        if code != Code::ShuttingDown && broken.blame == Blame::Nobody {
            tracing::warn!(%site, %code, "session ended: {}", broken.detail);
        }
        end(&server, &*carrier, &site, broken).await;
    }
    // A site that goes says so: its reason comes a moment after the end of its control stream.
    let end = match timeout(GOODBYE_MAX, carrier.closed()).await {
        Ok(end) => end,
        Err(_) => {
            carrier.close(0, "the session is over");
            carrier.closed().await
        }
    };
    tracing::info!(%site, %address, "disconnected: {end}");
    record_quarantine(&server, &site).await;
    if let Some(ready) = server.sites.leave(&site, session.id) {
        gone(&server, &site, ready).await;
    }
}

/// Ends a connection for a reason, and holds it against the site if it is its doing.
async fn end(server: &Server, carrier: &dyn Carrier, site: &SiteId, broken: Broken) {
    if server.sites.blame(site, &broken, Some(carrier)) {
        record_quarantine(server, site).await;
    } else {
        sites::close(carrier, broken.code, &broken.detail);
    }
}

/// The log's head for a site that keeps one over `witnessed` records.
async fn log_head(server: &Server, site: &SiteId, witnessed: u64) -> Result<LogHead, Broken> {
    let records = server.store.records();
    if witnessed > records {
        tracing::error!(
            %site, witnessed, records,
            "this site keeps a signed head over more records than this log has: the log was brought \
             back from an older copy, or is another one. The site takes no part until a person there \
             says `consilium-agent witness accept`"
        );
    }
    let head = server.store.head(witnessed).await;
    head.map_err(|error| Broken::new(Code::CoordinatorFault, error))
}

/// A site that was put out stands in the log of record, once.
async fn record_quarantine(server: &Server, site: &SiteId) {
    if let Some(term) = server.sites.guard().term(site) {
        let (peer, detail) = (site.to_string(), term.to_string());
        server.refusals.record(&*server.store, peer, Code::Quarantined, &detail).await;
    }
}

fn study_of(message: &SiteMessage) -> &StudyId {
    match message {
        SiteMessage::PlanAnswer(body) => &body.study,
        SiteMessage::Progress(body) => &body.study,
        SiteMessage::UpdateOffer(body) => &body.study,
        SiteMessage::TaskFailed(body) => &body.study,
    }
}

/// Tells drivers that a site's session is over.
async fn gone(server: &Server, site: &SiteId, studies: BTreeSet<StudyId>) {
    let quarantined = server.sites.guard().term(site).is_some();
    let event = if quarantined { Event::Quarantined } else { Event::Gone };
    for study in studies {
        if let Some(study) = server.studies.get(&study)
            && study.tell(event(site.clone())).await.is_err()
        {
            tracing::debug!(%site, "left while the coordinator goes down");
        }
    }
}

impl Session<'_> {
    /// Before the studies: a site that accepts rosters itself holds their plans against it.
    fn offer_roster(&self) {
        let offer = self.server.membership.members().roster_offer();
        if let Some(offer) = offer {
            self.server.sites.send(self.site, offer.into());
        }
    }

    fn offer_studies(&self) {
        for study in self.server.studies.all() {
            self.server.sites.send(self.site, study.offer().clone().into());
            self.server.sites.send(self.site, study.state_message().into());
        }
    }

    /// What drivers say, to the agent; a heartbeat when they say nothing.
    async fn speak(
        &self,
        mut writer: FrameWriter,
        mut queue: mpsc::Receiver<Message>,
    ) -> Result<(), Broken> {
        let interval = Duration::from_millis(HEARTBEAT_INTERVAL.0);
        loop {
            let message = match timeout(interval, queue.recv()).await {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(_) => Heartbeat { wall: self.server.clock.wall() }.into(),
            };
            let frame = match message.to_frame() {
                Ok(frame) => frame,
                Err(error) => {
                    tracing::error!(site = %self.site, kind = message.name(), %error, "not sent");
                    continue;
                }
            };
            if let Err(error) = writer.write(&frame).await {
                tracing::debug!(site = %self.site, %error, "the control stream is gone");
                return Ok(());
            }
        }
    }

    /// What the agent says, to the drivers.
    async fn listen(&self, mut reader: FrameReader) -> Result<(), Broken> {
        loop {
            let frame = match reader.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return Err(Broken::new(Code::Unexpected, "its control stream ended")),
                Err(FramesError::Stream(error)) => {
                    tracing::debug!(site = %self.site, %error, "the control stream is gone");
                    return Ok(());
                }
                Err(error) => return Err(greeting::broken_frames(error)),
            };
            self.server.sites.heard(self.site);
            self.counts(Deed::Message)?;
            match Message::from_frame(&frame) {
                Ok(Some(message)) => self.take(message).await?,
                Ok(None) if frame.must_know() => {
                    let detail = format!("message kind {} is not known here", frame.kind);
                    return Err(Broken::strike(Code::UnknownKind, detail));
                }
                Ok(None) => self.skip(&frame),
                Err(error) => return Err(Broken::strike(Code::Malformed, error)),
            }
        }
    }

    /// Counts a deed of the site: too much of one is a flood.
    fn counts(&self, deed: Deed) -> Result<(), Broken> {
        match self.server.sites.guard().allows(self.site, deed) {
            true => Ok(()),
            false => Err(Broken::flood(deed)),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "all that an agent may not say")]
    async fn take(&self, message: Message) -> Result<(), Broken> {
        let kind = message.kind();
        let message = match SiteMessage::from_message(message) {
            Ok(message) => return self.to_driver(kind, message).await,
            Err(other) => other,
        };
        match message {
            Message::StudyAnswer(answer) => self.study_answer(kind, answer).await,
            Message::HeadWanted(wanted) => {
                self.counts(Deed::HeadWanted)?;
                let head = log_head(self.server, self.site, wanted.witnessed).await?;
                self.server.sites.send(self.site, head.into());
                Ok(())
            }
            Message::Withdrawal(withdrawal) => self.withdrawal(kind, withdrawal).await,
            Message::PublishedHours(published) => self.hours(kind, &published.hours),
            Message::Heartbeat(_) => Ok(()),
            Message::Refusal(refusal) => {
                let Refusal { kind, code, detail } = refusal;
                let detail: String =
                    detail.chars().filter(|c| !c.is_control()).take(TEXT_BYTES_MAX).collect();
                tracing::warn!(site = %self.site, kind, %code, detail, "the site refused");
                self.counts(Deed::Vain)
            }
            other => {
                let detail = format!("{} is not expected here", other.name());
                self.refuse(kind, Code::Unexpected, &detail)
            }
        }
    }

    async fn to_driver(&self, kind: u16, message: SiteMessage) -> Result<(), Broken> {
        let named = study_of(&message);
        let Some(study) = self.server.studies.get(named) else {
            let detail = format!("there is no study {named}");
            return self.refuse(kind, Code::UnknownStudy, &detail);
        };
        if let SiteMessage::UpdateOffer(offer) = &message {
            let open = study.view().serving.map(|serving| serving.round);
            if open != Some(offer.round) {
                self.counts(Deed::OldOffer)?;
            }
        }
        let event = Event::Message(self.site.clone(), message);
        self.tell(&study, event).await;
        Ok(())
    }

    /// A driver that is gone is being replaced by that of the study's next version, or the
    /// coordinator goes down: either way the site is told what it needs by others.
    async fn tell(&self, study: &Handle, event: Event) {
        if study.tell(event).await.is_err() {
            tracing::debug!(site = %self.site, study = %study.id(), "the driver is gone");
        }
    }

    async fn study_answer(&self, kind: u16, answer: StudyAnswer) -> Result<(), Broken> {
        let StudyAnswer { digest, answer } = answer;
        let Some(study) = self.server.studies.by_digest(digest) else {
            return self.refuse(kind, Code::UnknownStudy, "no such study digest here");
        };
        let declined = match &answer {
            Answer::Accepted => None,
            Answer::Declined { code, .. } => Some(*code),
        };
        let changed = self.server.sites.answered(self.site, self.id, study.id(), answer);
        let event = match changed {
            Some(true) => Event::Ready(self.site.clone()),
            Some(false) => Event::Gone(self.site.clone()),
            None if declined.is_none() => Event::AcceptedAgain(self.site.clone()),
            None => return Ok(()),
        };
        match declined {
            None if changed.is_none() => {}
            None => tracing::info!(site = %self.site, study = %study.id(), "accepted"),
            Some(code) => {
                tracing::info!(site = %self.site, study = %study.id(), %code, "study declined");
            }
        }
        self.counts(Deed::Readiness)?;
        self.tell(&study, event).await;
        Ok(())
    }

    /// A withdrawal is told to be kept once it stands in the log.
    async fn withdrawal(&self, kind: u16, withdrawal: Withdrawal) -> Result<(), Broken> {
        self.counts(Deed::Withdrawal)?;
        let id = withdrawal.id;
        match self.server.studies.withdraw(self.site, withdrawal).await {
            Ok(()) => {
                self.server.sites.send(self.site, WithdrawalKept { id }.into());
                Ok(())
            }
            Err(error @ WithdrawError::Store(_)) => {
                // The site says it again at its next connection.
                tracing::error!(site = %self.site, %error, "a withdrawal is not recorded");
                Ok(())
            }
            Err(error) => self.refuse(kind, error.code(), &error.to_string()),
        }
    }

    /// When the site takes plans on: hostile text like all that comes.
    fn hours(&self, kind: u16, published: &Published) -> Result<(), Broken> {
        self.counts(Deed::Readiness)?;
        let read = Open::of(published);
        // Hours that are not understood are not those of before.
        let hours = read.as_ref().ok().cloned().unwrap_or_default();
        self.server.sites.publishes(self.site, self.id, hours);
        read.map_or_else(|why| self.refuse(kind, Code::Malformed, &why), |_| Ok(()))
    }

    /// A kind of a later version that need not be known.
    fn skip(&self, frame: &Frame) {
        let Frame { kind, .. } = *frame;
        tracing::debug!(site = %self.site, kind, "a message of an unknown kind is skipped");
        let (code, detail) = (Code::UnknownKind, "skipped".to_owned());
        self.server.sites.send(self.site, Refusal { kind, code, detail }.into());
    }

    /// The message changes nothing, and the site is told so.
    fn refuse(&self, kind: u16, code: Code, detail: &str) -> Result<(), Broken> {
        tracing::info!(site = %self.site, kind, %code, "message refused: {detail}");
        let detail = detail.to_owned();
        self.server.sites.send(self.site, Refusal { kind, code, detail }.into());
        self.counts(Deed::Vain)
    }
}
