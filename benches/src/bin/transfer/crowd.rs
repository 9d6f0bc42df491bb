//! A thousand agents that lose their coordinator at once and come back. The coordinator is a real
//! process, killed (SIGKILL) and started again. The agents are one process, this one: each has its own
//! identity, socket and connection through the agent's own link, and its own Backoff, so the clients'
//! half of every handshake is paid for on this machine too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use consilium_agent::link::{Dialer, control};
use consilium_agent::session::Backoff;
use consilium_benches::process::{now, usage};
use consilium_benches::{Row, median};
use consilium_certs::credentials::Credentials;
use consilium_common::limits::{CONNECTION_IDLE_MAX, HEARTBEAT_INTERVAL};
use consilium_common::random::Generator;
use consilium_common::time::Clock;
use consilium_common::wire::messages::{Heartbeat, Hello, Message};
use consilium_coordinator::local::Federation;
use tokio::time::{sleep, timeout};

use crate::ends;

/// Memory of the coordinator a connection.
const GOAL_MIB: f64 = 1.0;
/// Who is not in after this long was refused for good.
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Before the coordinator dies, so that what follows is the reconnect's alone.
const REST: Duration = Duration::from_secs(3);

/// What the agents met with.
#[derive(Debug, Default)]
struct Crowd {
    /// Lives of the coordinator so far.
    life: AtomicUsize,
    /// Agents that this life of it has welcomed.
    welcome: AtomicUsize,
    /// When this life began, and after how many seconds each agent knew that the one before was over.
    began: Mutex<Option<Instant>>,
    learned: Mutex<Vec<f64>>,
    /// Attempts that came to nothing, by reason.
    failed: Mutex<BTreeMap<String, usize>>,
}

impl Crowd {
    fn failed(&self, reason: String) {
        *self.failures().entry(reason).or_default() += 1;
    }

    fn failures(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another life of the coordinator begins.
    fn begin_life(&self) {
        self.welcome.store(0, Ordering::Relaxed);
        self.life.fetch_add(1, Ordering::Relaxed);
        *self.began.lock().unwrap_or_else(PoisonError::into_inner) = Some(now());
    }

    /// An agent knows that its connection is over.
    fn lost(&self) {
        let began = *self.began.lock().unwrap_or_else(PoisonError::into_inner);
        self.learned().extend(began.map(|began| began.elapsed().as_secs_f64()));
    }

    fn learned(&self) -> MutexGuard<'_, Vec<f64>> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until this life has welcomed so many; false after all patience.
    async fn gathered(&self, count: usize) -> bool {
        let waiting = async {
            while self.welcome.load(Ordering::Relaxed) < count {
                sleep(LOOK_EVERY).await;
            }
        };
        timeout(PATIENCE, waiting).await.is_ok()
    }
}

/// One agent.
struct Agent {
    dialer: Dialer,
    credentials: Credentials,
    clock: Arc<dyn Clock>,
    jitter: Generator,
    /// The coordinator's life that welcomed it last.
    life: usize,
}

impl Agent {
    /// Comes, and comes back, for ever.
    async fn live(mut self, crowd: Arc<Crowd>) {
        let mut backoff = Backoff::default();
        loop {
            if let Err(reason) = self.attend(&crowd, &mut backoff).await {
                crowd.failed(reason);
            }
            let wait = backoff.next_wait(self.jitter.next_u32());
            sleep(Duration::from_millis(wait.0)).await;
        }
    }

    /// One connection to its end; the reason if it was never welcome.
    async fn attend(&mut self, crowd: &Crowd, backoff: &mut Backoff) -> Result<(), String> {
        let dialed = self.dialer.dial(&self.credentials).await.map_err(|e| e.to_string())?;
        let opened = control::open(&*dialed.carrier).await;
        let (control, mut heard) = opened.map_err(|error| error.to_string())?;
        let (agent, wall) = ("consilium-agent bench".to_owned(), self.clock.wall());
        let hello = Message::from(Hello { agent, wall, accepted: Vec::new(), witnessed: 0 });
        control.send(&hello).map_err(|error| error.to_string())?;
        let patience = Duration::from_millis(CONNECTION_IDLE_MAX.0);
        match timeout(patience, heard.next()).await {
            Ok(Ok(Some(Message::Welcome(_)))) => {}
            Ok(other) => return Err(format!("no Welcome but {other:?}")),
            Err(_) => return Err("no Welcome in time".to_owned()),
        }
        backoff.reset();
        let life = crowd.life.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.life, life) != life {
            crowd.welcome.fetch_add(1, Ordering::Relaxed);
        }
        let mut beats = tokio::time::interval(Duration::from_millis(HEARTBEAT_INTERVAL.0));
        loop {
            tokio::select! {
                word = heard.next() => if !matches!(word, Ok(Some(_))) { break },
                _ = beats.tick() => {
                    let beat = Message::from(Heartbeat { wall: self.clock.wall() });
                    if control.send(&beat).is_err() { break }
                }
            }
        }
        crowd.lost();
        Ok(())
    }
}

/// What it took until all were in.
#[derive(Debug)]
struct Gathering {
    seconds: f64,
    all: bool,
    coordinator_cpu: f64,
    own_cpu: f64,
    peak_mb: f64,
    /// When the coordinator was ready.
    ready: f64,
    /// When half of the agents, and when all of them knew that the life before was over.
    learned: (f64, f64),
    failures: BTreeMap<String, usize>,
}

/// All agents come at once, and come back after each death of the coordinator.
pub(crate) fn measure(
    federation: &mut Federation,
    sites: &[PathBuf],
    restarts: u32,
) -> anyhow::Result<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let crowd = Arc::new(Crowd::default());
    federation.start_coordinator()?;
    let alone_mb = usage(pid(federation)?).peak_mb;
    let agents = agents(federation.address().parse()?, sites)?;
    let gather = |federation: &mut Federation, began: Instant, own: f64| {
        let ready = began.elapsed().as_secs_f64();
        let all = runtime.block_on(crowd.gathered(sites.len()));
        let seconds = began.elapsed().as_secs_f64();
        let coordinator = usage(pid(federation)?);
        let failures = std::mem::take(&mut *crowd.failures());
        let (own_cpu, peak_mb) = (own_cpu() - own, coordinator.peak_mb);
        let coordinator_cpu = coordinator.cpu_seconds;
        let learned = std::mem::take(&mut *crowd.learned());
        let learned = (median(&learned), learned.iter().copied().fold(0.0, f64::max));
        let gathering =
            Gathering { seconds, all, coordinator_cpu, own_cpu, peak_mb, ready, learned, failures };
        anyhow::Ok(gathering)
    };

    crowd.begin_life();
    let (began, own) = (now(), own_cpu());
    for agent in agents {
        runtime.spawn(agent.live(Arc::clone(&crowd)));
    }
    let first = gather(federation, began, own)?;
    let mut again = Vec::new();
    for _ in 0..restarts {
        runtime.block_on(async { sleep(REST).await });
        let coordinator = federation.coordinator().context("no coordinator")?;
        coordinator.kill();
        crowd.begin_life();
        let (died, own) = (now(), own_cpu());
        federation.start_coordinator()?;
        again.push(gather(federation, died, own)?);
    }
    runtime.shutdown_background();
    Ok(rows(sites.len(), alone_mb, &first, &again))
}

fn agents(address: SocketAddr, sites: &[PathBuf]) -> anyhow::Result<Vec<Agent>> {
    let agent = |(index, folder): (usize, &PathBuf)| {
        let clock = ends::clock();
        let credentials = Credentials::load(folder, clock.wall())?;
        let jitter = Generator::new("benches/transfer", &index.to_le_bytes());
        Ok(Agent { dialer: ends::dialer(address), credentials, clock, jitter, life: 0 })
    };
    sites.iter().enumerate().map(agent).collect()
}

fn pid(federation: &mut Federation) -> anyhow::Result<u32> {
    Ok(federation.coordinator().context("no coordinator")?.pid())
}

fn own_cpu() -> f64 {
    usage(std::process::id()).cpu_seconds
}

fn rows(agents: usize, alone_mb: f64, first: &Gathering, again: &[Gathering]) -> Vec<Row> {
    let of = |part: fn(&Gathering) -> f64| again.iter().map(part).collect::<Vec<f64>>();
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let all = first.all && again.iter().all(|gathering| gathering.all);
    let mib = |peak_mb: f64| (peak_mb - alone_mb) * 1e6 / f64::from(1 << 20) / agents as f64;
    let peak_mb = most(&of(|gathering| gathering.peak_mb)).max(first.peak_mb);
    let back = of(|gathering| gathering.seconds);
    let mut rows = vec![
        Row {
            name: format!("{agents} agents: all welcome, each time"),
            value: f64::from(u8::from(all)),
            unit: "",
            goal: "all".to_owned(),
            ok: all,
        },
        Row::plain("come at once: the last Welcome after", first.seconds, "s"),
        Row::plain("come at once: coordinator's CPU", first.coordinator_cpu, "s"),
        Row::plain("come at once: the agents' CPU", first.own_cpu, "s"),
        Row::plain(
            "killed and started: the last Welcome after the death, median",
            median(&back),
            "s",
        ),
        Row::plain("the same, longest", most(&back), "s"),
        Row::plain(
            "killed and started: the coordinator is ready after, median",
            median(&of(|gathering| gathering.ready)),
            "s",
        ),
        Row::plain(
            "killed and started: half of the agents know of the death after, median",
            median(&of(|gathering| gathering.learned.0)),
            "s",
        ),
        Row::plain(
            "killed and started: all of them know of it after, longest",
            most(&of(|gathering| gathering.learned.1)),
            "s",
        ),
        Row::plain(
            "killed and started: coordinator's CPU, median",
            median(&of(|gathering| gathering.coordinator_cpu)),
            "s",
        ),
        Row::plain(
            "killed and started: the agents' CPU, median",
            median(&of(|gathering| gathering.own_cpu)),
            "s",
        ),
        Row::plain("coordinator alone, peak", alone_mb, "MB"),
        Row::plain("coordinator's peak", peak_mb, "MB"),
        Row::below("coordinator's memory a connection, at its peak", mib(peak_mb), "MiB", GOAL_MIB),
    ];
    let times = std::iter::once(("come at once", first));
    for (when, gathering) in times.chain(again.iter().map(|again| ("killed and started", again))) {
        let failed: usize = gathering.failures.values().sum();
        rows.push(Row::plain(format!("{when}: failed attempts"), failed as f64, ""));
        for (reason, count) in &gathering.failures {
            rows.push(Row::plain(format!("… {reason}"), *count as f64, ""));
        }
    }
    rows
}
