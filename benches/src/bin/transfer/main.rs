//! What the carrier and the transfers promise (DESIGN.md §7), measured on loopback: control messages
//! pass a large upload, a push that is interrupted sends little twice, and a thousand agents that come
//! back at once are all let in.

#![forbid(unsafe_code)]

mod crowd;
mod ends;
mod heartbeats;
mod resume;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use consilium_benches::print;
use consilium_common::ids::Digest;
use consilium_coordinator::local::{Federation, Policy, Programs};

// The bad lines of the chaos tests. The tests' library itself would bring planted bugs along.
#[path = "../../../../tests/src/chaos/proxy.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared with the tests"
)]
mod proxy;

/// Time control messages beside an upload, interrupted pushes, and a crowd that reconnects
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// One measurement alone
    #[arg(long)]
    only: Option<Measurement>,
    /// Megabytes of the upload beside which control messages are timed
    #[arg(long, default_value_t = 700)]
    upload_mb: u64,
    /// Megabytes of the push that is interrupted
    #[arg(long, default_value_t = 200)]
    resumed_mb: u64,
    /// How often it is interrupted
    #[arg(long, default_value_t = 10)]
    kills: u32,
    /// Agents that reconnect
    #[arg(long, default_value_t = 1000)]
    agents: usize,
    /// How often the coordinator is killed under them
    #[arg(long, default_value_t = 3)]
    restarts: u32,
    /// Where states lie; must not be a tmpfs
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// One JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Measurement {
    Heartbeats,
    Resume,
    Crowd,
}

/// The ends of a push as processes of their own, to be killed.
#[derive(Debug, Subcommand)]
enum Role {
    /// Takes a push
    #[command(hide = true)]
    Receive { identity: PathBuf, address: SocketAddr, blobs: PathBuf },
    /// Pushes until it is through
    #[command(hide = true)]
    Send { identity: PathBuf, address: SocketAddr, blobs: PathBuf, digest: String, life: u32 },
}

/// A line that is far away.
const FAR: proxy::Weather =
    proxy::Weather { delay: Duration::from_millis(25), mtu: 1500, ..proxy::Weather::CALM };

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match &args.role {
        Some(Role::Receive { identity, address, blobs }) => {
            return resume::receiver::run(identity, *address, blobs);
        }
        Some(Role::Send { identity, address, blobs, digest, life }) => {
            let digest: Digest = digest.parse().context("not a digest")?;
            return resume::sender::run(identity, *address, blobs, digest, *life);
        }
        None => {}
    }
    let folder = tempfile::Builder::new().prefix(".bench-").tempdir_in(&args.folder)?;
    let own = std::env::current_exe()?;
    let programs = Programs::in_folder(own.parent().context("this program has no folder")?);
    programs.check(false)?;
    let root = folder.path().canonicalize()?.join("consortium");
    let mut federation = Federation::create(&root, programs, Vec::new(), Policy::Within)?;
    let sites = ends::issue_sites(&federation, args.agents.max(1))?;

    let wanted = |measurement| args.only.is_none_or(|only| only == measurement);
    let mut rows = Vec::new();
    if wanted(Measurement::Heartbeats) {
        rows.extend(heartbeats::measure(&root, args.upload_mb)?);
    }
    if wanted(Measurement::Resume) {
        rows.extend(resume::measure(&root, args.resumed_mb, args.kills)?);
    }
    if wanted(Measurement::Crowd) {
        rows.extend(crowd::measure(&mut federation, &sites, args.restarts)?);
    }
    print(&rows, args.json)
}
