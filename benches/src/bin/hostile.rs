//! What hostile sites cost the honest ones: rounds of real processes on loopback, quiet and under
//! each attack by turns, in one run. The attacker is this program, one thread of it, so that its own
//! CPU is known: it shares the machine with those that it attacks.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use consilium_benches::process::{Usage, now, usage};
use consilium_benches::{Row, median, print};
use consilium_common::audit::{Outcome, Record};
use consilium_common::study::Study;
use consilium_common::time::{Clock as _, WallMillis};
use consilium_common::wire::messages::{Heartbeat, Message};
use consilium_coordinator::local::{Federation, Policy, Programs, SiteSpec};
use consilium_io::SystemClock;
use consilium_io::disk::Log;
use consilium_io::net::StreamKind;
use tokio::io::AsyncWriteExt as _;

use attacks::Attack;
use hostile::Hostile;

// The attackers of the tests. The tests' library itself would bring planted bugs along.
#[path = "../../../tests/src/harness/attacks.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "shared with the tests"
)]
mod attacks;
#[path = "../../../tests/src/harness/hostile.rs"]
#[expect(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared with the tests"
)]
mod hostile;

/// Time honest rounds without and with each attack
#[derive(Debug, Parser)]
struct Args {
    /// Honest sites
    #[arg(long, default_value_t = 4)]
    sites: usize,
    /// Parameters of the model
    #[arg(long, default_value_t = 1000)]
    parameters: u32,
    /// Seconds of each phase: quiet, attack, quiet, the next attack, …
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How often all of it is done
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Where states lie; must not be a tmpfs
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// One JSON array
    #[arg(long)]
    json: bool,
}

const STUDY: &str = "load";
/// Honest sites may be slowed by a tenth.
const RATIO_MAX: f64 = 1.10;
/// Between two attempts of an attacker that was put out.
const KNOCK_INTERVAL: Duration = Duration::from_millis(50);
/// A tick of the attackers that stay within the limits.
const TICK: Duration = Duration::from_millis(10);

/// What goes on in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// Put out, and back as soon as it may.
    Attack(Attack),
    /// As many messages and streams as no limit forbids.
    WithinLimits,
    /// A byte a second, on the control stream and on as many others as a connection may have.
    SlowStreams,
}

const LOADS: [Load; 11] = [
    Load::WithinLimits,
    Load::SlowStreams,
    // Before anybody was put out, so that its first handshakes are not rationed.
    Load::Attack(Attack::Reconnects),
    Load::Attack(Attack::SlowHello),
    Load::Attack(Attack::GiantFrame),
    Load::Attack(Attack::MessageFlood),
    Load::Attack(Attack::StreamFlood),
    Load::Attack(Attack::OldOffers),
    Load::Attack(Attack::FetchFlood),
    Load::Attack(Attack::OutOfGrid),
    Load::Attack(Attack::OfferFlood),
];

impl Load {
    fn name(self) -> String {
        match self {
            Self::Attack(attack) => format!("{attack:?}"),
            Self::WithinLimits | Self::SlowStreams => format!("{self:?}"),
        }
    }

    /// Goes on for ever.
    async fn run(self, hostile: &Hostile) {
        match self {
            Self::Attack(attack) => loop {
                let _put_out = attack.run(hostile).await;
                tokio::time::sleep(KNOCK_INTERVAL).await;
            },
            Self::WithinLimits => within_limits(hostile).await,
            Self::SlowStreams => slow_streams(hostile).await,
        }
    }
}

/// 900 messages and 100 streams a second.
async fn within_limits(hostile: &Hostile) {
    let Ok(mut peer) = hostile.join().await else { return };
    let study = peer.offered().await.digest;
    let heartbeat = Message::from(Heartbeat { wall: WallMillis(1) }).to_frame();
    let nine = heartbeat.map(|frame| frame.encode().repeat(9)).unwrap_or_default();
    let mut ticks = tokio::time::interval(TICK);
    while peer.say_bytes(&nine).await {
        let _refused = peer.fetch(study).await;
        ticks.tick().await;
    }
}

async fn slow_streams(hostile: &Hostile) {
    let Ok(mut peer) = hostile.join().await else { return };
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.extend(peer.carrier.open(StreamKind::Blob).await);
    }
    // The beginning of a frame and of pushes, and never their end.
    while peer.say_bytes(&[1]).await {
        for stream in &mut streams {
            let _ended = stream.send.write_all(&[2]).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// A phase: what went on, when, and what it cost.
#[derive(Debug)]
struct Phase {
    load: Option<Load>,
    from: WallMillis,
    until: WallMillis,
    coordinator_cpu: f64,
    attacker_cpu: f64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let folder = tempfile::Builder::new().prefix(".bench-").tempdir_in(&args.folder)?;
    let own = std::env::current_exe()?;
    let programs = Programs::in_folder(own.parent().context("this program has no folder")?);
    programs.check(false)?;
    let hostile = LOADS.len() * args.repeats;
    let sites = (0..args.sites + hostile).map(site).collect::<anyhow::Result<_>>()?;
    let root = folder.path().canonicalize()?.join("consortium");
    let mut federation = Federation::create(&root, programs, sites, Policy::Within)?;
    federation.start_coordinator()?;
    (0..args.sites).try_for_each(|site| federation.start_agent(site))?;
    federation.run_study(STUDY, &draft(&args))?;

    let (phases, coordinator) = attack(&args, &mut federation)?;
    federation.stop()?;
    let rounds = read_rounds(&federation)?;
    print(&rows(&args, &phases, &rounds, coordinator), args.json)
}

fn site(index: usize) -> anyhow::Result<SiteSpec> {
    let section = format!("source = \"synthetic\"\nexamples = {}\n", 100 + index);
    let name = format!("site-{}", index + 1).parse()?;
    Ok(SiteSpec { name, data: vec![(STUDY.to_owned(), section)] })
}

/// A study that outlasts the measurement.
fn draft(args: &Args) -> String {
    format!(
        "[study]\nname = \"{STUDY}\"\n[model]\nfamily = \"synthetic\"\nparameters = {}\n\
         [training]\nrounds = 900000\n[aggregation]\nclip_norm = 1e6\n\
         [cohort]\nmin_sites = {}\n[privacy]\nmode = \"inspectable\"\n",
        args.parameters, args.sites
    )
}

/// Quiet and under attack by turns; the coordinator's usage at the end.
fn attack(args: &Args, federation: &mut Federation) -> anyhow::Result<(Vec<Phase>, Usage)> {
    let study = Study::read(&draft(args), STUDY)?;
    let pid = federation.coordinator().context("the coordinator was started")?.pid();
    let phase = Duration::from_secs_f64(args.seconds);
    let mut phases = vec![run(None, phase, pid, None)?];
    let mut index = args.sites;
    for _ in 0..args.repeats {
        for load in LOADS {
            let name = format!("ca/issued/site/site-{}", index + 1);
            let bundle = federation.root().join(name);
            let hostile = Hostile::new(federation.address(), &bundle, study.clone());
            phases.push(run(Some(load), phase, pid, Some(&hostile))?);
            phases.push(run(None, phase, pid, None)?);
            index += 1;
        }
    }
    Ok((phases, usage(pid)))
}

fn run(
    load: Option<Load>,
    phase: Duration,
    coordinator: u32,
    hostile: Option<&Hostile>,
) -> anyhow::Result<Phase> {
    let clock = SystemClock::open();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cpu = || (usage(coordinator).cpu_seconds, usage(std::process::id()).cpu_seconds);
    let ((ours, theirs), from, start) = (cpu(), clock.wall(), now());
    runtime.block_on(async {
        let attacking = async {
            if let (Some(load), Some(hostile)) = (load, hostile) {
                load.run(hostile).await;
            }
            std::future::pending::<()>().await;
        };
        let _over = tokio::time::timeout(phase, attacking).await;
    });
    let (seconds, until) = (start.elapsed().as_secs_f64(), clock.wall());
    let (coordinator_cpu, attacker_cpu) = (cpu().0 - ours, cpu().1 - theirs);
    drop(runtime);
    Ok(Phase {
        load,
        from,
        until,
        coordinator_cpu: coordinator_cpu / seconds,
        attacker_cpu: attacker_cpu / seconds,
    })
}

/// When each committed round's roll call was written, and how long the round took.
fn read_rounds(federation: &Federation) -> anyhow::Result<Vec<(WallMillis, f64)>> {
    let mut rounds = Vec::new();
    Log::read(&federation.coordinator_state().join("log"), 0, |record| {
        if let Ok(Some(Record::RollCall(ended))) = Record::decode(record.kind, record.payload)
            && let Ok(call) = ended.signed.parse_unverified()
            && matches!(call.outcome, Outcome::Committed { .. })
        {
            rounds.push((record.wall, call.duration.0 as f64));
        }
        Ok(())
    })?;
    Ok(rounds)
}

/// Medians of the rounds from one roll call to the next: whatever holds a round up counts.
fn rows(
    args: &Args,
    phases: &[Phase],
    rounds: &[(WallMillis, f64)],
    coordinator: Usage,
) -> Vec<Row> {
    let apart = |phase: &Phase| {
        let within = |wall: WallMillis| phase.from < wall && wall <= phase.until;
        let pairs = rounds.iter().zip(rounds.iter().skip(1)).filter(|(_, next)| within(next.0));
        pairs.map(|(one, next)| next.0.0.saturating_sub(one.0.0) as f64).collect::<Vec<f64>>()
    };
    let quiet: Vec<&Phase> = phases.iter().filter(|phase| phase.load.is_none()).collect();
    let all: Vec<f64> = quiet.iter().flat_map(|phase| apart(phase)).collect();
    let cpu: Vec<f64> = quiet.iter().map(|phase| phase.coordinator_cpu).collect();
    let name = format!("quiet, {} sites × {} parameters", args.sites, args.parameters);
    let mut rows = vec![
        Row::plain(format!("{name}: median round"), median(&all), "ms"),
        Row::plain("quiet: longest round", all.iter().copied().fold(0.0, f64::max), "ms"),
        Row::plain("quiet: coordinator's CPU", 100.0 * median(&cpu), "% of a core"),
    ];
    for load in LOADS {
        let of_load = |index: &usize| phases.get(*index).is_some_and(|p| p.load == Some(load));
        let at: Vec<usize> = (0..phases.len()).filter(of_load).collect();
        // Each attack is held against the quiet phases on either side of it.
        let beside = at.iter().flat_map(|index| [index.wrapping_sub(1), index + 1]);
        let beside = beside.filter_map(|index| phases.get(index)).flat_map(apart);
        let beside: Vec<f64> = beside.collect();
        let phases: Vec<&Phase> = at.iter().filter_map(|index| phases.get(*index)).collect();
        let under: Vec<f64> = phases.iter().flat_map(|phase| apart(phase)).collect();
        let part = |of: fn(&Phase) -> f64| {
            100.0 * median(&phases.iter().map(|phase| of(phase)).collect::<Vec<f64>>())
        };
        let name = load.name();
        let ratio = median(&under) / median(&beside);
        let mean = |rounds: &[f64]| rounds.iter().sum::<f64>() / rounds.len() as f64;
        rows.extend([
            Row::below(format!("{name}: round ÷ quiet round"), ratio, "×", RATIO_MAX),
            Row::plain(format!("{name}: the same of means"), mean(&under) / mean(&beside), "×"),
            Row::plain(
                format!("{name}: longest round"),
                under.iter().copied().fold(0.0, f64::max),
                "ms",
            ),
            Row::plain(
                format!("{name}: coordinator's CPU"),
                part(|p| p.coordinator_cpu),
                "% of a core",
            ),
            Row::plain(
                format!("{name}: attacker's own CPU"),
                part(|p| p.attacker_cpu),
                "% of a core",
            ),
        ]);
    }
    rows.push(Row::plain("coordinator, peak resident", coordinator.peak_mb, "MB"));
    rows
}
