//! The daemon as a process, against a coordinator that the test plays: rounds, kills, forgeries,
//! people.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::coordinator::{Agent, Coordinator, plan};
use crate::support;
use consilium_agent::worker::synthetic::{half_way, optimum};
use consilium_common::ids::Digest;
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::study::{Preparation, Study};
use consilium_common::update::grid::step;
use consilium_common::update::sections::{HEADER_BYTES, Header, decode_i32};
use consilium_common::wire::messages::{Answer, Message, NamedBlob, Plan, UpdateOffer};
use consilium_common::wire::reject::Code;
use consilium_io::disk::replace;

pub(crate) const WITHIN: &str = "accept = \"within-policy\"";

/// A running daemon; killed when the test is over.
pub(crate) struct Daemon {
    pub(crate) child: Child,
}

impl Daemon {
    /// Starts it and waits for READY=1, as systemd would.
    pub(crate) fn start(config: &Path) -> Self {
        Self::start_by(&mut Command::new(support::agent()), config)
    }

    /// The same through another program that ends in the agent.
    pub(crate) fn start_by(command: &mut Command, config: &Path) -> Self {
        let folder = config.parent().unwrap();
        let path = folder.join("notify");
        let _absent = std::fs::remove_file(&path);
        let notify = UnixDatagram::bind(&path).unwrap();
        notify.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join("agent.log"))
            .unwrap();
        let child = command
            .args(["run", "--config"])
            .arg(config)
            .env("NOTIFY_SOCKET", &path)
            .env("CONSILIUM_LOG", "debug")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut told = [0; 64];
        let length = notify.recv(&mut told).expect("the daemon does not get ready");
        assert_eq!(&told[..length], b"READY=1\n");
        Self { child }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: &str) {
        signal_to(self.child.id(), signal);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _over = self.child.kill();
        let _over = self.child.wait();
    }
}

fn signal_to(pid: u32, signal: &str) {
    let pid = pid.to_string();
    let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status();
    assert!(sent.unwrap().success());
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited too long: {what}");
}

pub(crate) async fn accepted(agent: &mut Agent, study: &Study, signed: &Signed<Study>) {
    let answer = agent.offer(study, signed).await;
    let yes = matches!(&answer, Message::StudyAnswer(a) if a.answer == Answer::Accepted);
    assert!(yes, "{answer:?}");
}

pub(crate) async fn planned(agent: &mut Agent, plan: &Plan) {
    agent.say(plan.clone()).await;
    let answer = agent.hear().await;
    let yes = matches!(&answer, Message::PlanAnswer(a) if a.answer == Answer::Accepted);
    assert!(yes, "{answer:?}");
}

fn retained(coordinator: &Coordinator) -> Vec<String> {
    let folder = coordinator.state().join("retained").read_dir().unwrap();
    folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Takes the update of the offer and holds it against what the trainer must have made.
async fn pushed(coordinator: &Coordinator, agent: &mut Agent, plan: &Plan, offer: &UpdateOffer) {
    agent.want(offer).await;
    let has = || coordinator.blobs.lock().unwrap().contains_key(&offer.digest);
    until("the push", has).await;
    let update = coordinator.blobs.lock().unwrap()[&offer.digest].clone();
    let header = Header::decode(&update, offer.bytes).unwrap();
    assert_eq!(
        (header.round, header.base, header.study),
        (plan.round, plan.base, plan.study_digest)
    );
    let goal = half_way(&[0.0; 50], &optimum(7, &support::source(100), 50));
    let units = decode_i32(&update[HEADER_BYTES..]).take(50);
    for (unit, goal) in units.zip(goal) {
        let value = f64::from(unit) * step(header.step_exponent);
        assert!((value - f64::from(goal)).abs() < 1e-6, "{value} {goal}");
    }
}

fn resident_mib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn rounds_from_plan_to_roll_call_leave_a_small_daemon_and_sigterm_ends_it_well() {
    let coordinator = Coordinator::start();
    let config = coordinator.configure(WITHIN);
    let mut daemon = Daemon::start(&config);
    let mut agent = coordinator.welcome().await;
    let study = support::study(2, 1);
    let signed = coordinator.publish(&study);
    accepted(&mut agent, &study, &signed).await;
    for round in 1..=3 {
        let plan = plan(&study, &signed, round);
        planned(&mut agent, &plan).await;
        let offer = agent.hear_offer().await;
        assert_eq!(retained(&coordinator), [format!("load-{round}.update")]);
        pushed(&coordinator, &mut agent, &plan, &offer).await;
        let key = &coordinator.log_key;
        agent.say(coordinator.receipt(&offer, &signed, key)).await;
        assert_eq!(retained(&coordinator).len(), 1, "kept until the roll call");
        agent.say(coordinator.roll_call(&offer, &plan, key)).await;
        until("the settling", || retained(&coordinator).is_empty()).await;
    }
    let pid = daemon.child.id();
    until("the worker's end", || support::children(pid).is_empty()).await;
    let resident = resident_mib(pid);
    println!("resident between rounds: {resident} MiB");
    assert!(resident < 40, "{resident} MiB");
    daemon.signal("TERM");
    assert!(daemon.child.wait().unwrap().success());
    assert!(!coordinator.state().join("control.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_trains_without_the_studys_own_preparation() {
    let coordinator = Coordinator::start();
    let _daemon = Daemon::start(&coordinator.configure(WITHIN));
    let mut agent = coordinator.welcome().await;
    let study = support::preparing(5);
    let signed = coordinator.publish(&study);
    accepted(&mut agent, &study, &signed).await;
    let terms = study.preparation_terms().unwrap();
    let good = Preparation { terms, sites: 2, sums: vec![7; 5] };
    let other = Preparation { terms: Digest([1; 32]), ..good.clone() };
    for (round, preparation) in [(1, None), (2, Some(&other)), (3, Some(&good))] {
        let blob = preparation.map(|preparation| {
            let bytes = preparation.encode();
            let (digest, length) = (Digest::of(&bytes), bytes.len() as u64);
            coordinator.blobs.lock().unwrap().insert(digest, bytes);
            NamedBlob { digest, bytes: length }
        });
        let plan = Plan { preparation: blob, ..plan(&study, &signed, round) };
        planned(&mut agent, &plan).await;
        if round == 3 {
            assert_eq!(agent.hear_offer().await.round.0, 3);
            continue;
        }
        let message = agent.hear().await;
        let Message::TaskFailed(failed) = message else { panic!("round {round}: {message:?}") };
        assert_eq!(failed.code, Code::WrongShape, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_costs_one_retry_and_gives_the_identical_update() {
    let coordinator = Coordinator::start();
    let config = coordinator.configure(WITHIN);
    let daemon = Daemon::start(&config);
    let mut agent = coordinator.welcome().await;
    let study = support::study(20, 25);
    let signed = coordinator.publish(&study);
    accepted(&mut agent, &study, &signed).await;
    let mut digests: Vec<Digest> = Vec::new();
    for signal in ["0", "KILL", "SEGV"] {
        let plan = plan(&study, &signed, 1 + digests.len() as u64);
        planned(&mut agent, &plan).await;
        let pid = daemon.child.id();
        until("the worker", || !support::children(pid).is_empty()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        signal_to(support::children(pid)[0], signal);
        let offer = agent.hear_offer().await;
        assert_eq!(offer.round, plan.round);
        digests.push(offer.digest);
        pushed(&coordinator, &mut agent, &plan, &offer).await;
        agent.say(coordinator.roll_call(&offer, &plan, &coordinator.log_key)).await;
        until("the settling", || retained(&coordinator).is_empty()).await;
    }
    let undisturbed = Coordinator::start();
    let other = Daemon::start(&undisturbed.configure(WITHIN));
    let mut agent = undisturbed.welcome().await;
    let signed = undisturbed.publish(&study);
    accepted(&mut agent, &study, &signed).await;
    for (round, digest) in (1..).zip(digests) {
        let plan = plan(&study, &signed, round);
        planned(&mut agent, &plan).await;
        let offer = agent.hear_offer().await;
        assert_eq!(offer.digest, digest, "round {round}");
        agent.say(undisturbed.roll_call(&offer, &plan, &undisturbed.log_key)).await;
        until("the settling", || retained(&undisturbed).is_empty()).await;
    }
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_takes_its_worker_along_and_offers_the_same_update_after_its_restart() {
    let coordinator = Coordinator::start();
    let config = coordinator.configure(WITHIN);
    let study = support::study(40, 25);
    let signed = coordinator.publish(&study);
    let plan = plan(&study, &signed, 7);

    let daemon = Daemon::start(&config);
    let mut agent = coordinator.welcome().await;
    accepted(&mut agent, &study, &signed).await;
    planned(&mut agent, &plan).await;
    let pid = daemon.child.id();
    until("the worker", || !support::children(pid).is_empty()).await;
    let worker = support::children(pid)[0];
    daemon.kill();
    let alive = || Path::new(&format!("/proc/{worker}/stat")).exists() && !is_zombie(worker);
    until("the worker's end", || !alive()).await;

    let daemon = Daemon::start(&config);
    let mut agent = coordinator.welcome().await;
    accepted(&mut agent, &study, &signed).await;
    planned(&mut agent, &plan).await;
    let offer = agent.hear_offer().await;
    daemon.kill();

    let _daemon = Daemon::start(&config);
    let mut agent = coordinator.welcome().await;
    assert_eq!(agent.hear_offer().await, offer, "offered right after Welcome");
    agent.say(plan.clone()).await;
    assert!(matches!(agent.hear().await, Message::PlanAnswer(_)));
    assert_eq!(agent.hear_offer().await, offer, "and not trained again");
    pushed(&coordinator, &mut agent, &plan, &offer).await;
}

/// The counters that the site keeps now, as the round they belong to and the number itself.
fn counters(coordinator: &Coordinator) -> Option<(u64, u32)> {
    let path = coordinator.state().join("local/load.local");
    let state = path.exists().then(|| consilium_agent::state::local::read(&path).unwrap())?;
    let copy = coordinator.state().join("tasks/look");
    consilium_agent::state::local::copy(&path, &state, &copy).unwrap();
    let bytes = std::fs::read(&copy).unwrap();
    std::fs::remove_file(&copy).unwrap();
    assert_eq!(bytes[..4], bytes[4..]);
    Some((state.round.0, u32::from_le_bytes(bytes[..4].try_into().unwrap())))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_state_moves_with_the_updates_that_count_and_with_no_others() {
    let coordinator = Coordinator::start();
    let config = coordinator.configure(WITHIN);
    let study = support::study_with_local(1, 0, 2);
    let signed = coordinator.publish(&study);
    let mut daemon = Daemon::start(&config);
    let mut agent = coordinator.welcome().await;
    accepted(&mut agent, &study, &signed).await;
    let mut current = None;
    // How each round ends, and whether the daemon is killed before it hears so.
    let rounds = [(true, false), (false, false), (true, true), (false, true), (true, false)];
    for (round, (counts, killed)) in (1..).zip(rounds) {
        let plan = plan(&study, &signed, round);
        planned(&mut agent, &plan).await;
        let offer = agent.hear_offer().await;
        assert_eq!(counters(&coordinator), current, "round {round} is not over");
        if killed {
            daemon.kill();
            daemon = Daemon::start(&config);
            agent = coordinator.welcome().await;
            assert_eq!(agent.hear_offer().await, offer);
        }
        let key = &coordinator.log_key;
        let ended = match counts {
            true => coordinator.roll_call(&offer, &plan, key),
            false => coordinator.left_out(&offer, &plan),
        };
        agent.say(ended).await;
        until("the settling", || retained(&coordinator).is_empty()).await;
        if counts {
            current = Some((round, current.map_or(1, |(_, counted)| counted + 1)));
        }
        assert_eq!(counters(&coordinator), current, "round {round}");
    }
    assert_eq!(current, Some((5, 3)));
    drop(daemon);
    let log = std::fs::read_to_string(config.with_file_name("agent.log")).unwrap();
    assert!(!log.contains("set aside") && !log.contains("WARN"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_state_serves_its_model_alone_and_a_damaged_one_is_begun_anew() {
    let coordinator = Coordinator::start();
    let config = coordinator.configure(WITHIN);
    let path = coordinator.state().join("local/load.local");
    let mut study = support::study_with_local(1, 0, 2);
    let _daemon = Daemon::start(&config);
    let mut agent = coordinator.welcome().await;
    for (round, expected) in [(1, 1), (2, 2), (3, 1), (4, 1)] {
        match round {
            // Another version with the same model goes on; one with another model does not.
            2 => study.header.version = 2,
            3 => {
                study = support::study_with_local(2, 0, 2);
                study.header.version = 3;
            }
            4 => {
                let mut bytes = std::fs::read(&path).unwrap();
                bytes[0] ^= 1;
                replace(&path, &bytes).unwrap();
            }
            _ => {}
        }
        let signed = coordinator.publish(&study);
        if round < 4 {
            accepted(&mut agent, &study, &signed).await;
        }
        let plan = plan(&study, &signed, round);
        planned(&mut agent, &plan).await;
        let offer = agent.hear_offer().await;
        agent.say(coordinator.roll_call(&offer, &plan, &coordinator.log_key)).await;
        until("the settling", || retained(&coordinator).is_empty()).await;
        assert_eq!(counters(&coordinator), Some((round, expected)), "round {round}");
    }
    let aside = coordinator.state().join("set-aside/load.local.0");
    assert!(aside.exists(), "nothing is deleted unread");
    let log = std::fs::read_to_string(config.with_file_name("agent.log")).unwrap();
    assert!(log.contains("belongs to another [model] section"), "{log}");
    assert!(log.contains("goes on as when it joined"), "{log}");
}

fn is_zombie(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_does_not_stop_training_and_the_update_is_offered_on_the_next_one() {
    let coordinator = Coordinator::start();
    let daemon = Daemon::start(&coordinator.configure(WITHIN));
    let mut agent = coordinator.welcome().await;
    let study = support::study(20, 25);
    let signed = coordinator.publish(&study);
    accepted(&mut agent, &study, &signed).await;
    let plan = plan(&study, &signed, 1);
    planned(&mut agent, &plan).await;
    let pid = daemon.child.id();
    until("the worker", || !support::children(pid).is_empty()).await;
    let worker = support::children(pid);
    agent.carrier.close(1, "the cable");
    let mut agent = coordinator.welcome().await;
    let offer = agent.hear_offer().await;
    assert_eq!(offer.round, plan.round);
    assert!(support::children(pid).iter().all(|child| worker.contains(child)), "one start");
    pushed(&coordinator, &mut agent, &plan, &offer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_call_by_another_key_erases_nothing() {
    let coordinator = Coordinator::start();
    let _daemon = Daemon::start(&coordinator.configure(WITHIN));
    let mut agent = coordinator.welcome().await;
    let study = support::study(1, 0);
    let signed = coordinator.publish(&study);
    accepted(&mut agent, &study, &signed).await;
    let plan = plan(&study, &signed, 1);
    planned(&mut agent, &plan).await;
    let offer = agent.hear_offer().await;
    let forger = SecretKey::from_seed(&[9; 32]);
    agent.say(coordinator.receipt(&offer, &signed, &forger)).await;
    agent.say(coordinator.roll_call(&offer, &plan, &forger)).await;
    // A plan of the same round is answered after both: the update is still offered.
    agent.say(plan.clone()).await;
    assert!(matches!(agent.hear().await, Message::PlanAnswer(_)));
    assert_eq!(agent.hear_offer().await, offer);
    assert_eq!(retained(&coordinator).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_reads_accepts_and_refuses_a_study_while_the_daemon_runs() {
    let coordinator = Coordinator::start();
    let config = coordinator.configure("accept = \"manual\"");
    let _daemon = Daemon::start(&config);
    let mut agent = coordinator.welcome().await;
    let study = support::study(1, 0);
    let signed = coordinator.publish(&study);
    let declined = |message: &Message, expected: Code| {
        matches!(message, Message::StudyAnswer(a)
            if matches!(a.answer, Answer::Declined { code, .. } if code == expected))
    };
    let answer = agent.offer(&study, &signed).await;
    assert!(declined(&answer, Code::NotAccepted), "{answer:?}");

    let name = format!("load@{}", signed.digest().short());
    let command = |words: &[&str]| {
        let output = Command::new(support::agent())
            .args(words)
            .arg("--config")
            .arg(&config)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{words:?}: {told}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(command(&["study", "list"]).contains("undecided"));
    assert!(command(&["study", "show", "load"]).contains("family = \"synthetic\""));
    let by = ["--by", "Dr. Ada", "--reason", "ethics vote EA1/123"];
    let decide = |word: &str| command(&[&["study", word, &name], &by[..]].concat());
    assert!(decide("accept").contains("accepted"));
    assert!(command(&["study", "show", "load"]).contains("accepted by Dr. Ada at "));
    let yes = matches!(agent.hear().await, Message::StudyAnswer(a) if a.answer == Answer::Accepted);
    assert!(yes);
    let status: serde_json::Value = serde_json::from_str(&command(&["status", "--json"])).unwrap();
    assert_eq!(status["connection"]["state"], "connected", "{status}");
    assert_eq!(status["studies"][0]["decision"], "accepted", "{status}");
    assert!(command(&["status"]).contains("connected to scripted"));
    decide("refuse");
    let answer = agent.hear().await;
    assert!(declined(&answer, Code::RefusedBySite), "{answer:?}");
    let rows: serde_json::Value =
        serde_json::from_str(&command(&["study", "list", "--json"])).unwrap();
    assert_eq!(rows[0]["decided"]["refused"]["by"], "Dr. Ada");
    let ledger: serde_json::Value =
        serde_json::from_str(&command(&["ledger", "show", "--json"])).unwrap();
    let entries = ledger["entries"].as_array().unwrap();
    let words: Vec<&serde_json::Value> = entries.iter().filter(|e| e["what"] == "word").collect();
    assert_eq!((words.len(), &words[0]["said"]), (2, &"accepted".into()), "{ledger}");
    let account = words[1]["account"].as_str().unwrap();
    assert!(account.contains("(uid "), "the kernel says who asks: {account}");
    let stands: Vec<&serde_json::Value> =
        entries.iter().filter(|e| e["what"] == "study").map(|e| &e["stands"]).collect();
    assert_eq!(stands.len(), 3, "offered, accepted, refused: {ledger}");
    assert!(command(&["ledger", "verify"]).starts_with("whole: "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_that_the_operators_did_not_sign_is_refused() {
    let coordinator = Coordinator::start();
    let _daemon = Daemon::start(&coordinator.configure(WITHIN));
    let mut agent = coordinator.welcome().await;
    let study = support::study(1, 0);
    let mut signed = coordinator.publish(&study);
    let forger = SecretKey::from_seed(&[9; 32]);
    signed.signatures = Signed::<Study>::sign(signed.bytes.clone(), &forger).signatures;
    let answer = agent.offer(&study, &signed).await;
    let refused = matches!(&answer, Message::StudyAnswer(a)
        if matches!(a.answer, Answer::Declined { code: Code::BadSignature, .. }));
    assert!(refused, "{answer:?}");
    let kept = coordinator.state().join(format!("studies/{}.toml", signed.digest()));
    assert!(!kept.exists(), "nothing unsigned is kept");
}
