//! One operator's, auditor's or researcher's connection: requests, each on its own stream, and fetches of
//! models. Every command that changes something is a record of the log, done or refused; who may ask what
//! says [`roles`].

use std::sync::Arc;
use std::time::Duration;

use consilium_certs::identity::{Identity, Role};
use consilium_common::audit::Record;
use consilium_common::audit::record::{self, Retrained};
use consilium_common::bucket::Bucket;
use consilium_common::ids::{StudyId, Version};
use consilium_common::signed::Signed;
use consilium_common::study::Study;
use consilium_common::wire::codec;
use consilium_common::wire::frame::{FLAG_MUST_KNOW, Frame};
use consilium_common::wire::messages::RunState;
use consilium_common::wire::operator::{
    End, KIND_END, KIND_PART, KIND_REQUEST, PART_BYTES, Request,
};
use consilium_common::wire::reject::Code;
use consilium_io::net::transfer::{self, Incoming, Pace, PushRequest, Refusal};
use consilium_io::net::{Carrier, FrameReader, FrameWriter, FramesError, Stream, StreamKind};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::roles::{self, Sight};
use super::{
    Server, answers, distribute, expiry, exports, member_requests, proposals, researchers, sites,
};
use crate::document::{CommandDocument, RetrainDocument};
use crate::driver::{Event, Handle};
use crate::limits::{HELLO_WAIT_MAX, OPERATOR_REQUESTS_MAX, OPERATOR_STREAMS, TRANSFER_IDLE_MAX};
use crate::round::Command;
use crate::studies::SubmitError;

/// How a request failed.
pub(super) enum Fault {
    /// It may not be, or makes no sense.
    Refused(String),
    /// This side failed.
    Failed(String),
}

impl Fault {
    pub(super) fn refused(message: impl ToString) -> Self {
        Self::Refused(message.to_string())
    }

    pub(super) fn failed(message: impl ToString) -> Self {
        Self::Failed(message.to_string())
    }
}

/// Runs an operator's connection to its end.
pub(super) async fn run(
    server: Arc<Server>,
    carrier: Arc<dyn Carrier>,
    identity: Identity,
    stop: CancellationToken,
) {
    tracing::debug!(peer = %identity, "an operator is connected");
    let identity = Arc::new(identity);
    let mut streams = JoinSet::new();
    let mut rate = Bucket::new(OPERATOR_STREAMS, server.clock.now());
    loop {
        let stream = tokio::select! {
            () = stop.cancelled() => {
                sites::close(&*carrier, Code::ShuttingDown, "the coordinator goes down");
                return;
            }
            broken = expiry::expired(&server, &*carrier) => {
                sites::close(&*carrier, broken.code, &broken.detail);
                return;
            }
            stream = carrier.accept(), if streams.len() < OPERATOR_REQUESTS_MAX => stream,
            Some(_) = streams.join_next() => continue,
        };
        let Ok(stream) = stream else { return };
        let delay = rate.delay(1, server.clock.now());
        if delay.0 > 0 {
            tokio::time::sleep(Duration::from_millis(delay.0)).await;
        }
        let (server, identity) = (Arc::clone(&server), Arc::clone(&identity));
        streams.spawn(async move {
            match stream.kind {
                StreamKind::Request => request(&server, &identity, stream).await,
                StreamKind::Blob => blob(&server, &identity, stream).await,
                StreamKind::Control => {
                    tracing::info!(peer = %identity, "operators have no control stream");
                }
            }
        });
    }
}

async fn blob(server: &Server, identity: &Identity, stream: Stream) {
    match transfer::receive(stream, TRANSFER_IDLE_MAX).await {
        Ok(Incoming::Fetch(fetch)) => {
            let sight = roles::sight(identity);
            let may =
                sight.is_some_and(|sight| researchers::may_fetch(server, &sight, fetch.digest));
            if !may {
                tracing::info!(peer = %identity, digest = ?fetch.digest, "not theirs to fetch");
                return fetch.refuse(Refusal::Missing).await;
            }
            // Nothing is held against operators.
            let _served = distribute::serve(server, None, fetch).await;
        }
        Ok(Incoming::Push(push)) if commander(identity).is_err() => {
            push.refuse(Refusal::Code(Code::WrongRole)).await;
        }
        Ok(Incoming::Push(push)) => take_initial(server, identity, push).await,
        Err(error) => tracing::info!(%error, "an operator's blob stream broke off"),
    }
}

/// Takes the v0 of a study, if it was offered before: nothing else is brought by operators.
async fn take_initial(server: &Server, identity: &Identity, push: PushRequest) {
    let (model, bytes) = (push.digest, push.length);
    if !server.studies.awaits(model, bytes) {
        return push.refuse(Refusal::Code(Code::Unexpected)).await;
    }
    let mut pace = Pace { idle: TRANSFER_IDLE_MAX, progress: &mut |_| {} };
    let taken = match server.blobs.sink(model, bytes).await {
        Ok(mut sink) => push.take(&mut sink, &mut pace).await,
        Err(error) => {
            push.refuse(Refusal::Failed).await;
            Err(error)
        }
    };
    match taken {
        Ok(()) => {
            server.studies.brought(model);
            tracing::info!(by = %identity, ?model, bytes, "an operator brought a model");
        }
        Err(error) => tracing::info!(by = %identity, ?model, %error, "a model was not brought"),
    }
}

async fn request(server: &Server, identity: &Identity, stream: Stream) {
    let mut reader = FrameReader::new(stream.recv);
    let mut writer = FrameWriter::new(stream.send);
    let asked = match timeout(HELLO_WAIT_MAX, reader.next()).await {
        Ok(Ok(Some(frame))) if frame.kind == KIND_REQUEST => codec::decode(&frame.body),
        other => {
            tracing::info!(peer = %identity, ?other, "not a request");
            return;
        }
    };
    let answer = match asked {
        Ok(request) => handle(server, identity, request).await,
        Err(error) => Err(Fault::refused(format!(
            "the request is not known here ({error}): is this the same version of consilium?"
        ))),
    };
    if let Err(error) = reply(&mut writer, answer).await {
        tracing::info!(peer = %identity, %error, "the answer was not taken");
    }
}

async fn reply(
    writer: &mut FrameWriter,
    answer: Result<Vec<u8>, Fault>,
) -> Result<(), FramesError> {
    let (json, end) = match answer {
        Ok(json) => (json, End::Done),
        Err(Fault::Refused(message)) => (Vec::new(), End::Refused { message }),
        Err(Fault::Failed(message)) => (Vec::new(), End::Failed { message }),
    };
    for part in json.chunks(PART_BYTES) {
        let body = part.to_vec();
        writer.write(&Frame { kind: KIND_PART, flags: FLAG_MUST_KNOW, body }).await?;
    }
    let end = codec::frame(KIND_END, &end)
        .map_err(|error| FramesError::Stream(std::io::Error::other(error)))?;
    writer.write(&end).await?;
    writer.finish().await
}

async fn handle(server: &Server, identity: &Identity, request: Request) -> Result<Vec<u8>, Fault> {
    let words = roles::words(&request);
    let sight = match roles::admit(identity, &request) {
        Ok(sight) => sight,
        Err(why) => return Err(not_theirs(server, identity, words, why).await),
    };
    match request {
        Request::Status { study } => json(&answers::status(server, &sight, study.as_ref()).await?),
        Request::StudyList => json(&answers::study_list(server, &sight)),
        Request::StudyShow { study } => json(&answers::study_show(server, &sight, &study).await?),
        Request::Report { study } => json(&answers::report(server, &sight, &study).await?),
        Request::ModelList { study } => json(&answers::model_list(server, &sight, &study).await?),
        Request::ModelShow { study, version } => {
            json(&answers::model_show(server, &sight, &study, version).await?)
        }
        Request::StudySubmit { signed } => {
            let outcome = submit(server, identity, signed).await;
            // A study that was submitted before may run already.
            let state = outcome.as_ref().map_or(RunState::Submitted, |study| study.view().state);
            changed(server, identity, words, outcome, state).await
        }
        Request::InitialOffer { signed } => {
            commander(identity)?;
            let offered = server.studies.offer_initial(&signed).await;
            json(&offered.map_err(submit_fault)?)
        }
        Request::Members => json(&member_requests::document(server)?),
        request @ (Request::SiteInvite { .. }
        | Request::SiteApprove { .. }
        | Request::SiteRevoke { .. }
        | Request::RosterSign { .. }) => {
            member_requests::command(server, identity, request, words).await
        }
        Request::AuditExport => {
            let exported = exports::export(server).await?;
            tracing::info!(by = %identity, bytes = exported.bytes, "the log is exported");
            json(&exported)
        }
        Request::StudyPlan { study } => json(&answers::plan(server, &study)?),
        Request::StudyRetrain { study, from } => {
            retrain(server, identity, words, study, from).await
        }
        Request::StudyStart { study } => {
            order(server, identity, words, study, Command::Start).await
        }
        Request::StudyPause { study } => {
            order(server, identity, words, study, Command::Pause).await
        }
        Request::StudyStop { study } => order(server, identity, words, study, Command::Stop).await,
        Request::StudyPropose { text } => {
            proposals::propose(server, identity, &sight, words, text).await
        }
        Request::StudyProposals => json(&proposals::list(server, &sight)),
        Request::StudyProposal { study, by } => {
            json(&proposals::show(server, &sight, &study, by.as_ref())?)
        }
    }
}

/// What somebody hears whose role may not ask this. It stands in the log as a refused command.
async fn not_theirs(server: &Server, identity: &Identity, words: String, why: String) -> Fault {
    let refused = Fault::Refused(why);
    if let Role::Researcher(name) = &identity.role
        && !server.researchers.may_write(name, server.clock.now())
    {
        tracing::warn!(by = %identity, words, "refused, and not recorded: too many in a short time");
        return refused;
    }
    let noted = note(server, identity, words, Err(&refused)).await;
    noted.err().unwrap_or(refused)
}

/// The operator in whose name something is done; [`roles`] lets no other role come so far.
pub(super) fn commander(identity: &Identity) -> Result<String, Fault> {
    match &identity.role {
        Role::Operator(name) => Ok(name.to_string()),
        Role::Site(_) | Role::Auditor(_) | Role::Researcher(_) | Role::Coordinator => {
            Err(Fault::Refused(format!("{identity} is no operator")))
        }
    }
}

async fn submit(
    server: &Server,
    identity: &Identity,
    signed: Signed<Study>,
) -> Result<Handle, Fault> {
    let by = commander(identity)?;
    let submitted = server.studies.submit(signed, &by).await;
    submitted.map_err(submit_fault)
}

pub(super) fn submit_fault(error: SubmitError) -> Fault {
    if error.is_refusal() { Fault::refused(error) } else { Fault::failed(error) }
}

/// Start, pause or stop.
async fn order(
    server: &Server,
    identity: &Identity,
    words: String,
    study: StudyId,
    command: Command,
) -> Result<Vec<u8>, Fault> {
    let state = match command {
        Command::Start => RunState::Running,
        Command::Pause => RunState::Paused,
        Command::Stop => RunState::Stopped,
    };
    let outcome = async {
        let by = commander(identity)?;
        let handle = answers::find(server, &Sight::All, &study)?;
        let taken = handle.ask(|answer| Event::Command { command, by, answer }).await;
        taken.map_err(Fault::failed)?.map_err(Fault::refused)?;
        Ok(handle)
    };
    let outcome = outcome.await;
    changed(server, identity, words, outcome, state).await
}

/// Training goes on from an earlier version.
async fn retrain(
    server: &Server,
    identity: &Identity,
    words: String,
    study: StudyId,
    from: Version,
) -> Result<Vec<u8>, Fault> {
    let outcome = async {
        let by = commander(identity)?;
        answers::find(server, &Sight::All, &study)?;
        let gone_back = server.studies.retrain(&study, from, &by).await;
        gone_back.map_err(|error| match error.is_refusal() {
            true => Fault::refused(error),
            false => Fault::failed(error),
        })
    };
    let outcome = outcome.await;
    note(server, identity, words, outcome.as_ref().map(drop)).await?;
    let Retrained { study, from, version, model, .. } = outcome?;
    json(&RetrainDocument { study, from, version, model, state: RunState::Paused })
}

/// Records a command that was done or not. Done, the study has the new `state` in the log by then:
/// the engine's record was queued before this one.
async fn changed(
    server: &Server,
    identity: &Identity,
    command: String,
    outcome: Result<Handle, Fault>,
    state: RunState,
) -> Result<Vec<u8>, Fault> {
    note(server, identity, command, outcome.as_ref().map(drop)).await?;
    let study = outcome?;
    let approval = study.study().governance.approval(server.clock.wall());
    let notice = approval.and_then(|approval| approval.notice());
    json(&CommandDocument { study: study.id().clone(), digest: study.digest(), state, notice })
}

/// Records a command. What it caused was queued before, so it is durable when this returns.
pub(super) async fn note(
    server: &Server,
    identity: &Identity,
    command: String,
    outcome: Result<(), &Fault>,
) -> Result<(), Fault> {
    let outcome = match outcome {
        Ok(()) => "done".to_owned(),
        Err(Fault::Refused(why)) => format!("refused: {why}"),
        Err(Fault::Failed(why)) => format!("failed: {why}"),
    };
    tracing::info!(by = %identity, command, outcome, "command");
    let record = Record::Command(record::Command { by: identity.to_string(), command, outcome });
    server.store.append(&record).await.map_err(Fault::failed)
}

pub(super) fn json(document: &impl Serialize) -> Result<Vec<u8>, Fault> {
    serde_json::to_vec(document).map_err(Fault::failed)
}
