//! One question to the coordinator without a certificate to show: for the first one, or the next.

use std::sync::Arc;
use std::time::Duration;

use consilium_certs::enrolling::Pinned;
use consilium_certs::tls::enrol_config;
use consilium_common::time::Clock;
use consilium_common::wire::codec::{self, CodecError};
use consilium_common::wire::enrol::{Answer, Ask, KIND_ANSWER, KIND_ASK};
use consilium_io::net::{Carrier, FrameReader, FrameWriter, FramesError, StreamKind};
use tokio::time::timeout;

use super::connect::{Dialed, Dialer, LinkError};

/// The issuing CA signs and syncs before the coordinator answers.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The stream broke off.
    #[error("the coordinator's answer was lost: {0}")]
    Frames(#[from] FramesError),
    /// Its bytes are none.
    #[error("the coordinator's answer {0}: is it of another release?")]
    Codec(#[from] CodecError),
    /// It says nothing that is known here.
    #[error("the coordinator gave no answer: is it of another release, or very busy?")]
    None,
}

/// Asks the coordinator that is pinned, whatever certificate this site has.
///
/// # Errors
/// It is not reached, is another one, or gives no answer.
pub async fn ask(
    dialer: &Dialer,
    pinned: &Pinned,
    clock: Arc<dyn Clock>,
    ask: &Ask,
) -> Result<Answer, AskError> {
    let tls = enrol_config(pinned, clock).map_err(LinkError::from)?;
    let Dialed { carrier, socket } = dialer.dial_with(tls).await?;
    let answer = timeout(ANSWER_PATIENCE, exchange(&*carrier, ask)).await;
    socket.shut_down(0, "done").await;
    answer.unwrap_or(Err(AskError::None))
}

async fn exchange(carrier: &dyn Carrier, ask: &Ask) -> Result<Answer, AskError> {
    let stream = carrier.open(StreamKind::Request).await.map_err(LinkError::from)?;
    let mut writer = FrameWriter::new(stream.send);
    writer.write(&codec::frame(KIND_ASK, ask)?).await?;
    writer.finish().await?;
    match FrameReader::new(stream.recv).next().await? {
        Some(frame) if frame.kind == KIND_ANSWER => Ok(codec::decode(&frame.body)?),
        _ => Err(AskError::None),
    }
}
