//! The first words of a connection: the control stream, Hello, and the clocks held against each other.

use std::sync::Arc;
use std::time::Duration;

use consilium_common::ids::SiteId;
use consilium_common::limits::{CLOCK_SKEW_MAX, TEXT_BYTES_MAX};
use consilium_common::time::WallMillis;
use consilium_common::wire::messages::{Hello, Message, Refused};
use consilium_common::wire::reject::Code;
use consilium_io::net::{Carrier, FrameReader, FrameWriter, FramesError, StreamKind};
use tokio::time::timeout;

use super::broken::Broken;
use super::{Server, accept};
use crate::limits::{GREETINGS_MAX, HELLO_WAIT_MAX};

/// A site that has said Hello, and its control stream.
pub(super) type Said = (Hello, FrameReader, FrameWriter);

/// Waits for Hello, but not for long, and only in a few of a site's connections at a time.
pub(super) async fn hear(
    server: &Server,
    carrier: &Arc<dyn Carrier>,
    site: &SiteId,
) -> Result<Said, Broken> {
    let Some(_place) = server.sites.guard().place(site.to_string(), GREETINGS_MAX) else {
        let detail = format!("{GREETINGS_MAX} connections of this site have not said Hello yet");
        return Err(Broken::fault(Code::Flood, detail));
    };
    match timeout(HELLO_WAIT_MAX, say_hello(server, carrier, site)).await {
        Ok(said) => said,
        Err(_) => {
            let detail = format!("no Hello came within {} s", HELLO_WAIT_MAX.as_secs());
            Err(Broken::fault(Code::Unexpected, detail))
        }
    }
}

async fn say_hello(
    server: &Server,
    carrier: &Arc<dyn Carrier>,
    site: &SiteId,
) -> Result<Said, Broken> {
    let stream = carrier.accept().await.map_err(|error| Broken::new(Code::Unexpected, error))?;
    if stream.kind != StreamKind::Control {
        let detail = "the first stream must be the control stream";
        return Err(Broken::strike(Code::Unexpected, detail));
    }
    let (mut reader, mut writer) = (FrameReader::new(stream.recv), FrameWriter::new(stream.send));
    let frame = reader.next().await.map_err(broken_frames)?;
    let message = frame.as_ref().map(Message::from_frame).transpose();
    let message = message.map_err(|error| Broken::strike(Code::Malformed, error))?.flatten();
    let Some(Message::Hello(hello)) = message else {
        return Err(Broken::strike(Code::Unexpected, "the first message must be Hello"));
    };
    if let Err(detail) = check_skew(hello.wall, server.clock.wall()) {
        let code = Code::ClockSkew;
        let refused = Refused { code, detail: detail.clone(), retry_after: None };
        accept::say_refused(&**carrier, &mut writer, &refused.into()).await;
        server.refusals.note(&*server.store, site.to_string(), code, &detail).await;
        return Err(Broken::new(code, detail));
    }
    let agent = hello.agent.chars().filter(|c| !c.is_control()).take(TEXT_BYTES_MAX).collect();
    Ok((Hello { agent, ..hello }, reader, writer))
}

/// Bytes that are no frames are the site's doing; a stream that breaks is not.
pub(super) fn broken_frames(error: FramesError) -> Broken {
    match error {
        FramesError::Frame(error) => Broken::strike(Code::Malformed, error),
        FramesError::Stream(error) => Broken::new(Code::Unexpected, error),
    }
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
