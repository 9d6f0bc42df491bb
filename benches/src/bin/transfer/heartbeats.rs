//! How long a control message takes while a large upload runs. Both ends are in this process, so that
//! one clock stamps what is sent and reads what arrives; the upload goes from a file to a file, as an
//! agent's goes to the coordinator's stage.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use consilium_benches::process::now;
use consilium_benches::{Row, median};
use consilium_common::ids::Digest;
use consilium_common::wire::frame::Frame;
use consilium_io::disk::{Blobs, Durability};
use consilium_io::net::transfer::{Incoming, Pace, PartialSink, Source, push, receive};
use consilium_io::net::{Carrier, FrameReader, FrameWriter, Stream, StreamKind};

use crate::proxy::Proxy;
use crate::{FAR, ends};

/// Every message arrives within this (DESIGN.md §7).
const GOAL_MS: f64 = 100.0;
/// Between two messages of one side.
const BEAT: Duration = Duration::from_millis(5);
/// No transfer here stands still for so long.
const IDLE: Duration = Duration::from_secs(30);

/// One upload, on loopback and over a line of 50 ms there and back.
pub(crate) fn measure(root: &Path, megabytes: u64) -> anyhow::Result<Vec<Row>> {
    let from = root.join("sender");
    let digest = ends::write_blob(&from, megabytes)?;
    let mut rows = Vec::new();
    for far in [false, true] {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let to = root.join(format!("receiver-{far}"));
        let upload = Upload { root, from: &from, to: &to, digest, far };
        let line = if far { "50 ms there and back" } else { "loopback" };
        let name = format!("{megabytes} MB upload, {line}");
        rows.extend(upload.rows(&name, &runtime.block_on(upload.run())?));
        std::fs::remove_dir_all(&to)?;
    }
    Ok(rows)
}

struct Upload<'a> {
    root: &'a Path,
    from: &'a Path,
    to: &'a Path,
    digest: Digest,
    far: bool,
}

/// Delays of the messages in milliseconds, and the upload's megabytes a second.
struct Measured {
    up: Vec<f64>,
    down: Vec<f64>,
    rate: f64,
}

impl Upload<'_> {
    async fn run(&self) -> anyhow::Result<Measured> {
        let any: SocketAddr = "127.0.0.1:0".parse()?;
        let listener = ends::listen(&ends::coordinator(self.root), any)?;
        let mut address = listener.local_address()?;
        let proxy = self.far.then(|| Proxy::start(address, 1));
        if let Some(proxy) = &proxy {
            proxy.set(FAR);
            address = proxy.address();
        }
        let accepting = async {
            let handshake = listener.accept().await.context("the listener is gone")?;
            Ok(handshake.finish().await?)
        };
        let site = ends::site(self.root);
        let (dialed, coordinator) = tokio::try_join!(ends::dial(&site, address), accepting)?;
        let ours = dialed.carrier.open(StreamKind::Control).await?;
        let theirs = coordinator.accept().await?;
        let (base, moving) = (now(), AtomicBool::new(true));
        let sending = async {
            let source = Source::blob(&Blobs::open(self.from)?, self.digest).await?;
            let rate = self.push(&*dialed.carrier, &source).await;
            moving.store(false, Ordering::Relaxed);
            rate
        };
        let (rate, (), up, down) = tokio::try_join!(
            sending,
            self.take(&*coordinator),
            exchange(ours, theirs, base, &moving),
        )
        .map(|(rate, taken, (up, down))| (rate, taken, up, down))?;
        Ok(Measured { up, down, rate })
    }

    /// Pushes; megabytes a second until the last byte was handed to the connection.
    async fn push(&self, carrier: &dyn Carrier, source: &Source) -> anyhow::Result<f64> {
        let began = now();
        push(carrier, self.digest, &[], source, &mut Pace { idle: IDLE, progress: &mut |_| {} })
            .await?;
        Ok(source.length() as f64 / 1e6 / began.elapsed().as_secs_f64())
    }

    async fn take(&self, carrier: &dyn Carrier) -> anyhow::Result<()> {
        let blobs = Blobs::open(self.to)?;
        let Incoming::Push(request) = receive(carrier.accept().await?, IDLE).await? else {
            anyhow::bail!("a push was expected");
        };
        let sink = PartialSink::resume(&blobs, self.digest, request.length, Durability::Cache);
        request.take(&mut sink.await?, &mut Pace { idle: IDLE, progress: &mut |_| {} }).await?;
        Ok(())
    }

    fn rows(&self, name: &str, measured: &Measured) -> Vec<Row> {
        let mut rows = vec![Row::plain(format!("{name}: carried"), measured.rate, "MB/s")];
        let ways = [("to the coordinator", &measured.up), ("to the agent", &measured.down)];
        for (way, delays) in ways {
            let of = |what: &str| format!("{name}: message {way}, {what}");
            let highest = delays.iter().copied().fold(0.0, f64::max);
            rows.extend([
                Row::plain(of("how many"), delays.len() as f64, ""),
                Row::plain(of("median"), median(delays), "ms"),
                Row::plain(of("99th percentile"), percentile(delays, 99), "ms"),
                Row::below(of("longest"), highest, "ms", GOAL_MS),
            ]);
        }
        rows
    }
}

/// Messages both ways as long as `moving`: the delays of those to the coordinator, and to the agent.
async fn exchange(
    agent: Stream,
    coordinator: Stream,
    base: Instant,
    moving: &AtomicBool,
) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let (up, down, (), ()) = tokio::try_join!(
        hear(FrameReader::new(coordinator.recv), base),
        hear(FrameReader::new(agent.recv), base),
        beat(FrameWriter::new(agent.send), base, moving),
        beat(FrameWriter::new(coordinator.send), base, moving),
    )?;
    Ok((up, down))
}

/// Says the time, again and again. A write that has to wait counts: the time was taken before.
async fn beat(mut writer: FrameWriter, base: Instant, moving: &AtomicBool) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(BEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while moving.load(Ordering::Relaxed) {
        ticks.tick().await;
        let body = base.elapsed().as_nanos().to_le_bytes().to_vec();
        writer.write(&Frame { kind: 2, flags: 0, body }).await?;
    }
    Ok(writer.finish().await?)
}

/// How long each message took, in milliseconds.
async fn hear(mut reader: FrameReader, base: Instant) -> anyhow::Result<Vec<f64>> {
    let mut delays = Vec::new();
    while let Some(frame) = reader.next().await? {
        let sent = u128::from_le_bytes(frame.body.as_slice().try_into()?);
        delays.push(base.elapsed().as_nanos().saturating_sub(sent) as f64 / 1e6);
    }
    Ok(delays)
}

/// The smallest value that `percent` of all do not exceed; 0 for nothing.
fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}
