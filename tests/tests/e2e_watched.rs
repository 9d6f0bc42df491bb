//! A whole run of an agent under watch: it starts no program but its worker, maps no code that came over the wire,
//! opens no file but its configuration, state, data and the system's libraries; and of what passes on the wire
//! nothing names a patient.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "helpers of tests: a panic is a failed test"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use consilium_coordinator::local::Policy;
use consilium_tests::chaos::Proxy;
use consilium_tests::harness::films::{DRAFT, NAME, PLANT, site};
use consilium_tests::harness::{Daemon, World, with_worker};
use tempfile::TempDir;

/// Where systems keep libraries, and what every program of libc, of libtorch and of the resolver looks at.
const SYSTEM: [&str; 20] = [
    "/lib/",
    "/lib64/",
    "/usr/lib/",
    "/usr/lib64/",
    "/usr/local/lib/",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/gai.conf",
    "/etc/localtime",
    "/usr/share/zoneinfo/",
    "/proc/self/",
    "/proc/sys/",
    "/proc/cpuinfo",
    "/sys/",
    "/dev/null",
    "/dev/urandom",
];

/// One call of the trace: its name, its arguments, and whether it did anything.
struct Call {
    name: String,
    arguments: String,
    succeeded: bool,
}

/// `PID NAME(ARGUMENTS) = RESULT`; lines that are no call, or its second half, are passed over.
fn calls(trace: &str) -> Vec<Call> {
    let call = |line: &str| {
        let (_, rest) = line.split_once(char::is_whitespace)?;
        let (name, rest) = rest.trim_start().split_once('(')?;
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let succeeded = !rest.contains(") = -1 ");
        plain.then(|| Call { name: name.to_owned(), arguments: rest.to_owned(), succeeded })
    };
    trace.lines().filter_map(call).collect()
}

/// The path between the first quotes.
fn quoted(arguments: &str) -> PathBuf {
    PathBuf::from(arguments.split('"').nth(1).unwrap_or_default())
}

/// The file of the mapped descriptor: `…, 3</path>, 0x1000) = …`.
fn mapped(arguments: &str) -> Option<PathBuf> {
    let (_, rest) = arguments.split_once('<')?;
    Some(PathBuf::from(rest.split_once('>')?.0))
}

/// Starts the first site's agent under strace, which writes into `trace`.
fn watched(world: &World, trace: &Path) -> Option<Child> {
    let agent = &world.federation.programs().agent;
    let started = Command::new("strace")
        .args(["-f", "-qq", "-y", "-s", "4096"])
        .args(["-e", "trace=execve,execveat,open,openat,openat2,creat,mmap"])
        .arg("-o")
        .arg(trace)
        .arg(agent)
        .arg("run")
        .arg("--config")
        .arg(world.agent_toml(0))
        .stderr(Stdio::null())
        .spawn();
    if started.is_err() {
        eprintln!("SKIPPED: strace is not installed");
    }
    started.ok()
}

/// What the agent may open besides the system's.
fn own(world: &World, data: &Path) -> Vec<PathBuf> {
    let programs = world.federation.programs();
    let beside = |program: &Path| program.parent().unwrap().to_owned();
    let libtorch = std::env::var_os("LIBTORCH").map(PathBuf::from);
    let own = [
        world.federation.site_folder(0),
        world.root().join("ca/issued/site").join("charite"),
        world.root().join("ca/issued/operator/ada/operator.pub"),
        data.join("0"),
        beside(&programs.agent),
        beside(&programs.worker),
    ];
    own.into_iter().chain(libtorch).collect()
}

#[test]
fn an_agent_starts_its_worker_opens_its_own_files_and_names_nobody_on_the_wire() {
    if with_worker().is_none() {
        return;
    }
    let (data, traces) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let mut world =
        World::of((0..2).map(|index| site(data.path(), index)).collect(), Policy::Within);
    let tap = Proxy::start(world.federation.address().parse().unwrap(), 1);
    tap.record();
    world.route(0, tap.address());
    world.start(Daemon::Coordinator, &[]).unwrap();
    world.start(Daemon::Agent(1), &[]).unwrap();
    let trace = traces.path().join("trace");
    let Some(mut agent) = watched(&world, &trace) else { return };
    let two =
        DRAFT.replace("min_sites = 1", "min_sites = 2").replace("rounds = 1000", "rounds = 2");
    world.federation.run_study(NAME, &two).unwrap();
    let _history = world.complete(NAME, 300);
    // strace ends with the agent, and hands on no signal.
    let own_pid = fs::read_to_string(format!("/proc/{0}/task/{0}/children", agent.id())).unwrap();
    let ended = Command::new("kill").args(own_pid.split_whitespace().next()).status().unwrap();
    assert!(ended.success() && agent.wait().unwrap().success());

    let text = String::from_utf8_lossy(&fs::read(&trace).unwrap()).into_owned();
    let calls = calls(&text);
    let programs = world.federation.programs();
    let started: BTreeSet<PathBuf> = calls
        .iter()
        .filter(|call| call.name.starts_with("exec") && call.succeeded)
        .map(|call| quoted(&call.arguments))
        .collect();
    let allowed = BTreeSet::from([programs.agent.clone(), programs.worker.clone()]);
    assert_eq!(started, allowed, "the agent itself and the configured worker, and both were seen");

    let own = own(&world, data.path());
    let opened: BTreeSet<PathBuf> = calls
        .iter()
        .filter(|call| call.name.starts_with("open") || call.name == "creat")
        .filter(|call| call.succeeded)
        .map(|call| quoted(&call.arguments))
        .filter(|path| path.is_absolute())
        .collect();
    let is_own = |path: &PathBuf| own.iter().any(|own| path.starts_with(own));
    let is_system =
        |path: &PathBuf| SYSTEM.iter().any(|system| path.to_string_lossy().starts_with(system));
    let foreign: Vec<&PathBuf> =
        opened.iter().filter(|path| !is_own(path) && !is_system(path)).collect();
    assert!(foreign.is_empty(), "opened, and neither its own nor the system's: {foreign:#?}");
    let films = opened.iter().filter(|path| path.extension().is_some_and(|png| png == "png"));
    assert!(films.count() > 100, "the watch sees what is opened");

    let state = world.federation.site_folder(0);
    let code: BTreeSet<PathBuf> = calls
        .iter()
        .filter(|call| call.name == "mmap" && call.arguments.contains("PROT_EXEC"))
        .filter_map(|call| mapped(&call.arguments))
        .collect();
    assert!(code.len() > 3, "the watch sees what code is mapped: {code:?}");
    let from_state: Vec<&PathBuf> = code.iter().filter(|path| path.starts_with(&state)).collect();
    assert!(from_state.is_empty(), "code out of the state folder: {from_state:?}");

    let wire = tap.recorded();
    assert!(wire.len() > 5_000, "{} bytes on the wire", wire.len());
    let names = |bytes: &[u8]| bytes.windows(PLANT.len()).any(|window| window == PLANT.as_bytes());
    assert!(!names(&wire), "a patient's name is on the wire");
    assert!(
        names(&fs::read(data.path().join("0/films.csv")).unwrap()),
        "the search finds what is there"
    );
    world.stop();
}
