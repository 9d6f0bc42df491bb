//! The sending end: dials and pushes until it is through, as an agent does.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use consilium_agent::session::Backoff;
use consilium_common::ids::Digest;
use consilium_common::random::Generator;
use consilium_io::disk::Blobs;
use consilium_io::net::transfer::{Pace, Source, push};

use super::Word;
use crate::ends;

/// Attempts of one process are numbered below this.
const ATTEMPTS_MAX: u32 = 1000;
const IDLE: Duration = Duration::from_secs(30);

/// Pushes `digest`. `life` numbers the sender's processes.
pub(crate) fn run(
    identity: &Path,
    address: SocketAddr,
    blobs: &Path,
    digest: Digest,
    life: u32,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let source = Source::blob(&Blobs::open(blobs)?, digest).await?;
        let (mut backoff, mut jitter) =
            (Backoff::default(), Generator::new("benches/transfer", &life.to_le_bytes()));
        for attempt in life * ATTEMPTS_MAX..(life + 1) * ATTEMPTS_MAX {
            if let Ok(dialed) = ends::dial(identity, address).await {
                backoff.reset();
                let context = attempt.to_le_bytes();
                let progress = &mut |bytes| Word::Through(attempt, bytes).say();
                let pace = &mut Pace { idle: IDLE, progress };
                if push(&*dialed.carrier, digest, &context, &source, pace).await.is_ok() {
                    Word::Stored.say();
                    return Ok(());
                }
            }
            let wait = backoff.next_wait(jitter.next_u32());
            tokio::time::sleep(Duration::from_millis(wait.0)).await;
        }
        anyhow::bail!("{ATTEMPTS_MAX} attempts failed");
    })
}
