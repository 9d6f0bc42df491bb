//! One site's connection: its control stream between the agent and the drivers, its blob streams.
//!
//! Three loops side by side: what the agent says goes to the drivers (and waits for them, and with
//! it the agent's stream), what the drivers say goes to the agent from a bounded queue, and blob
//! streams are served each on its own. The first loop that ends ends the session.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use consilium_common::ids::{SiteId, StudyId};
use consilium_common::limits::{
    BLOB_STREAMS_MAX, CLOCK_SKEW_MAX, HEARTBEAT_INTERVAL, TEXT_BYTES_MAX,
};
use consilium_common::time::WallMillis;
use consilium_common::wire::frame::Frame;
use consilium_common::wire::messages::{
    Answer, Heartbeat, Hello, Message, Refusal, Refused, StudyAnswer, Welcome,
};
use consilium_common::wire::reject::Code;
use consilium_io::net::transfer::{self, Incoming};
use consilium_io::net::{Carrier, FrameReader, FrameWriter, StreamKind};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::sites::{self, Outbox, SessionId};
use super::{PROGRAM, Server, accept, distribute, intake};
use crate::driver::{Event, Handle};
use crate::limits::{GOODBYE_MAX, HELLO_WAIT_MAX, TRANSFER_IDLE_MAX};
use crate::round::SiteMessage;

/// Why a session ended from this side.
struct Broken {
    code: Code,
    detail: String,
}

impl Broken {
    fn new(code: Code, detail: impl ToString) -> Self {
        Self { code, detail: detail.to_string() }
    }
}

/// A site that is connected and welcome.
struct Session<'a> {
    server: &'a Arc<Server>,
    carrier: &'a dyn Carrier,
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
        hello = timeout(HELLO_WAIT_MAX, say_hello(&server, &carrier, &site)) => hello,
    };
    let (hello, reader, writer) = match hello {
        Ok(Ok(said)) => said,
        Ok(Err(Broken { code, detail })) => {
            tracing::warn!(%site, %code, "no session: {detail}");
            return sites::close(&*carrier, code, &detail);
        }
        Err(_) => return sites::close(&*carrier, Code::Unexpected, "no Hello came"),
    };
    let address = carrier.remote_address();
    tracing::info!(%site, %address, agent = hello.agent, "connected");
    let welcome = Welcome { coordinator: PROGRAM.to_owned(), wall: server.clock.wall() };
    let arrival = server.sites.arrive(&site, Arc::clone(&carrier), welcome.into());
    gone(&server, &site, arrival.replaced).await;
    let session = Session { server: &server, carrier: &*carrier, site: &site, id: arrival.id };
    session.offer_studies();

    let ended = tokio::select! {
        () = stop.cancelled() => Err(Broken::new(Code::ShuttingDown, "the coordinator goes down")),
        ended = session.listen(reader) => ended,
        ended = session.speak(writer, arrival.queue) => ended,
        ended = session.serve_blobs() => ended,
    };
    if let Err(Broken { code, detail }) = ended {
        if code != Code::ShuttingDown {
            tracing::warn!(%site, %code, "session ended: {detail}");
        }
        sites::close(&*carrier, code, &detail);
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
    if let Some(ready) = server.sites.leave(&site, session.id) {
        gone(&server, &site, ready).await;
    }
}

/// The control stream and its first message.
async fn say_hello(
    server: &Server,
    carrier: &Arc<dyn Carrier>,
    site: &SiteId,
) -> Result<(Hello, FrameReader, FrameWriter), Broken> {
    let stream = carrier.accept().await.map_err(|error| Broken::new(Code::Unexpected, error))?;
    if stream.kind != StreamKind::Control {
        return Err(Broken::new(Code::Unexpected, "the first stream must be the control stream"));
    }
    let (mut reader, mut writer) = (FrameReader::new(stream.recv), FrameWriter::new(stream.send));
    let frame = reader.next().await.map_err(|error| Broken::new(Code::Malformed, error))?;
    let message = frame.as_ref().map(Message::from_frame).transpose();
    let message = message.map_err(|error| Broken::new(Code::Malformed, error))?.flatten();
    let Some(Message::Hello(hello)) = message else {
        return Err(Broken::new(Code::Unexpected, "the first message must be Hello"));
    };
    if let Err(detail) = check_skew(hello.wall, server.clock.wall()) {
        let code = Code::ClockSkew;
        let refused = Message::from(Refused { code, detail: detail.clone() });
        accept::say_refused(&**carrier, &mut writer, &refused).await;
        server.refusals.note(&*server.store, site.to_string(), code, &detail).await;
        return Err(Broken { code, detail });
    }
    let agent = hello.agent.chars().filter(|c| !c.is_control()).take(TEXT_BYTES_MAX).collect();
    Ok((Hello { agent, ..hello }, reader, writer))
}

fn check_skew(theirs: WallMillis, ours: WallMillis) -> Result<(), String> {
    let skew = Duration::from_millis(theirs.0.abs_diff(ours.0));
    if skew.as_millis() <= u128::from(CLOCK_SKEW_MAX.0) {
        return Ok(());
    }
    let way = if theirs.0 > ours.0 { "ahead of" } else { "behind" };
    Err(format!(
        "the site's clock is {} s {way} the coordinator's, at most {} s are possible: set both \
         clocks (NTP)",
        skew.as_secs(),
        CLOCK_SKEW_MAX.0 / 1000
    ))
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
    for study in studies {
        if let Some(study) = server.studies.get(&study)
            && study.tell(Event::Gone(site.clone())).await.is_err()
        {
            tracing::debug!(%site, "left while the coordinator goes down");
        }
    }
}

impl Session<'_> {
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
                Err(consilium_io::net::FramesError::Stream(error)) => {
                    tracing::debug!(site = %self.site, %error, "the control stream is gone");
                    return Ok(());
                }
                Err(error) => return Err(Broken::new(Code::Malformed, error)),
            };
            self.server.sites.heard(self.site);
            match Message::from_frame(&frame) {
                Ok(Some(message)) => self.take(message).await?,
                Ok(None) if frame.must_know() => {
                    let detail = format!("message kind {} is not known here", frame.kind);
                    return Err(Broken::new(Code::UnknownKind, detail));
                }
                Ok(None) => self.refuse(&frame, Code::UnknownKind, "skipped"),
                Err(error) => return Err(Broken::new(Code::Malformed, error)),
            }
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
            Message::Heartbeat(_) => Ok(()),
            Message::Refusal(refusal) => {
                let Refusal { kind, code, detail } = refusal;
                tracing::warn!(site = %self.site, kind, %code, detail, "the site refused");
                Ok(())
            }
            other => {
                let detail = format!("{} is not expected here", other.name());
                self.refuse_kind(kind, Code::Unexpected, &detail);
                Ok(())
            }
        }
    }

    async fn to_driver(&self, kind: u16, message: SiteMessage) -> Result<(), Broken> {
        let named = study_of(&message);
        let Some(study) = self.server.studies.get(named) else {
            self.refuse_kind(kind, Code::UnknownStudy, &format!("there is no study {named}"));
            return Ok(());
        };
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
            self.refuse_kind(kind, Code::UnknownStudy, "no such study digest here");
            return Ok(());
        };
        match &answer {
            Answer::Accepted => tracing::info!(site = %self.site, study = %study.id(), "accepted"),
            Answer::Declined { code, .. } => {
                tracing::info!(site = %self.site, study = %study.id(), %code, "study declined");
            }
        }
        let changed = self.server.sites.answered(self.site, self.id, study.id(), answer);
        let event = match changed {
            Some(true) => Event::Ready(self.site.clone()),
            Some(false) => Event::Gone(self.site.clone()),
            None => return Ok(()),
        };
        self.tell(&study, event).await;
        Ok(())
    }

    fn refuse(&self, frame: &Frame, code: Code, detail: &str) {
        self.refuse_kind(frame.kind, code, detail);
    }

    fn refuse_kind(&self, kind: u16, code: Code, detail: &str) {
        tracing::info!(site = %self.site, kind, %code, "message refused: {detail}");
        let detail = detail.to_owned();
        self.server.sites.send(self.site, Refusal { kind, code, detail }.into());
    }

    /// Serves the agent's blob streams, each on its own.
    async fn serve_blobs(&self) -> Result<(), Broken> {
        let mut streams = JoinSet::new();
        loop {
            let stream = tokio::select! {
                stream = self.carrier.accept(), if streams.len() < BLOB_STREAMS_MAX as usize => stream,
                Some(_) = streams.join_next() => continue,
            };
            let Ok(stream) = stream else { return Ok(()) };
            if stream.kind != StreamKind::Blob {
                return Err(Broken::new(Code::Unexpected, "a second control stream"));
            }
            let (server, site) = (Arc::clone(self.server), self.site.clone());
            streams.spawn(async move {
                match transfer::receive(stream, TRANSFER_IDLE_MAX).await {
                    Ok(Incoming::Push(push)) => intake::take(&server, &site, push).await,
                    Ok(Incoming::Fetch(fetch)) => {
                        distribute::serve(&server, Some(&site), fetch).await;
                    }
                    Err(error) => tracing::info!(%site, %error, "a blob stream broke off"),
                }
                server.sites.heard(&site);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_by_five_minutes_and_no_more() {
        let ours = WallMillis(1_764_000_000_000);
        for (theirs, fine) in [(0, true), (300_000, true), (300_001, false)] {
            assert_eq!(check_skew(WallMillis(ours.0 + theirs), ours).is_ok(), fine, "{theirs}");
            assert_eq!(check_skew(WallMillis(ours.0 - theirs), ours).is_ok(), fine, "{theirs}");
        }
        let told = check_skew(WallMillis(0), ours).unwrap_err();
        assert!(told.contains("behind") && told.contains("NTP"), "{told}");
    }
}
