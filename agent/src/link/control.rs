//! The control stream: frames ↔ messages. What we send waits in a bounded queue; what arrives is
//! handed on one by one, so that a busy driver slows the coordinator down and nothing piles up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use consilium_common::limits::{FRAMES_QUEUED_MAX, TEXT_BYTES_MAX};
use consilium_common::wire::codec::CodecError;
use consilium_common::wire::frame::{FRAME_HEADER_BYTES, Frame};
use consilium_common::wire::messages::{Message, Refusal};
use consilium_common::wire::reject::Code;
use consilium_io::net::{Carrier, CarrierError, FrameReader, FrameWriter, FramesError, StreamKind};
use tokio::sync::mpsc;

use crate::ledger::entry::Traffic;

/// Our side of the control stream's sending direction. Dropped, the stream ends in good order.
#[derive(Debug, Clone)]
pub struct Control {
    queue: mpsc::Sender<Frame>,
    said: Said,
}

/// What was queued for the coordinator on one connection, by kind of message.
#[derive(Debug, Clone, Default)]
struct Said(Arc<Mutex<BTreeMap<String, Traffic>>>);

impl Said {
    fn count(&self, message: &Message, frame: &Frame) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let traffic = said.entry(message.name().to_owned()).or_default();
        traffic.messages += 1;
        traffic.bytes += (FRAME_HEADER_BYTES + frame.body.len()) as u64;
    }
}

/// Why a message was not queued.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Too large for a frame.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The coordinator does not read: the connection is of no use.
    #[error("{FRAMES_QUEUED_MAX} messages wait for a coordinator that does not read")]
    Stuck,
    /// The stream is gone.
    #[error("the control stream is gone")]
    Gone,
}

/// What arrives on the control stream.
#[derive(Debug)]
pub struct Heard {
    frames: FrameReader,
    answer: mpsc::Sender<Frame>,
    said: Said,
}

/// Opens the control stream of a fresh connection.
///
/// # Errors
/// The connection is gone.
pub async fn open(carrier: &dyn Carrier) -> Result<(Control, Heard), CarrierError> {
    let stream = carrier.open(StreamKind::Control).await?;
    let (queue, waiting) = mpsc::channel(FRAMES_QUEUED_MAX);
    tokio::spawn(write_out(FrameWriter::new(stream.send), waiting));
    let said = Said::default();
    let frames = FrameReader::new(stream.recv);
    let heard = Heard { frames, answer: queue.clone(), said: said.clone() };
    Ok((Control { queue, said }, heard))
}

impl Control {
    /// Queues a message.
    ///
    /// # Errors
    /// It does not fit a frame, the queue is full, or the stream is gone.
    pub fn send(&self, message: &Message) -> Result<(), SendError> {
        let frame = message.to_frame()?;
        self.said.count(message, &frame);
        self.queue.try_send(frame).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SendError::Stuck,
            mpsc::error::TrySendError::Closed(_) => SendError::Gone,
        })
    }

    /// What was queued so far, by kind: at least all that left.
    #[must_use]
    pub fn said(&self) -> BTreeMap<String, Traffic> {
        self.said.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Heard {
    /// The next message that is for an agent; `None` at the end of the stream. Kinds that are not
    /// known here and bodies that cannot be read are answered with a refusal and passed over.
    ///
    /// # Errors
    /// Not frames, or the stream is gone.
    pub async fn next(&mut self) -> Result<Option<Message>, FramesError> {
        while let Some(frame) = self.frames.next().await? {
            match judge(&frame) {
                Ok(message) => return Ok(Some(message)),
                Err(refusal) => {
                    tracing::warn!(
                        kind = refusal.kind, code = %refusal.code, detail = refusal.detail,
                        "a message of the coordinator was refused"
                    );
                    self.refuse(refusal);
                }
            }
        }
        Ok(None)
    }

    /// Best effort: a full queue has worse news on its way.
    fn refuse(&self, refusal: Refusal) {
        let message = Message::from(refusal);
        if let Ok(frame) = message.to_frame() {
            self.said.count(&message, &frame);
            let _full = self.answer.try_send(frame);
        }
    }
}

/// The message, if it is one that a coordinator may send.
fn judge(frame: &Frame) -> Result<Message, Refusal> {
    let kind = frame.kind;
    let refuse = |code, detail: &str| {
        let detail = detail.chars().take(TEXT_BYTES_MAX).collect();
        Err(Refusal { kind, code, detail })
    };
    match Message::from_frame(frame) {
        Ok(Some(message)) if from_coordinator(&message) => Ok(message),
        Ok(Some(_)) => refuse(Code::Unexpected, "agents send this kind, coordinators do not"),
        Ok(None) => refuse(Code::UnknownKind, "this release does not know the kind"),
        Err(error) => refuse(Code::Malformed, &error.to_string()),
    }
}

/// Kinds below 64 are an agent's (`wire::messages`).
fn from_coordinator(message: &Message) -> bool {
    message.kind() >= 64
}

async fn write_out(mut writer: FrameWriter, mut waiting: mpsc::Receiver<Frame>) {
    while let Some(frame) = waiting.recv().await {
        if let Err(error) = writer.write(&frame).await {
            tracing::debug!(%error, "the control stream cannot be written any more");
            return;
        }
    }
    if let Err(error) = writer.finish().await {
        tracing::debug!(%error, "the control stream was gone before its end");
    }
}

#[cfg(test)]
mod tests {
    use consilium_common::signed::Signed;
    use consilium_common::time::WallMillis;
    use consilium_common::wire::messages::{Heartbeat, Hello, LogHead, Welcome};

    use super::*;

    #[test]
    fn only_what_a_coordinator_may_send_passes_and_the_rest_is_told_why() {
        let wall = WallMillis(7);
        let signed = Signed::from_parts(Vec::new(), Vec::new());
        let head = LogHead { signed, proof: Vec::new() };
        let welcome = Message::from(Welcome { coordinator: "c".into(), wall, head });
        let heartbeat = Message::from(Heartbeat { wall });
        for message in [welcome.clone(), heartbeat] {
            assert_eq!(judge(&message.to_frame().unwrap()), Ok(message));
        }
        let code = |frame: &Frame| judge(frame).unwrap_err().code;
        let hello =
            Message::from(Hello { agent: "a".into(), wall, accepted: vec![], witnessed: 0 });
        assert_eq!(code(&hello.to_frame().unwrap()), Code::Unexpected);
        let mut frame = welcome.to_frame().unwrap();
        frame.body.push(0);
        assert_eq!(code(&frame), Code::Malformed);
        frame.kind = 9999;
        assert_eq!(code(&frame), Code::UnknownKind);
    }
}
