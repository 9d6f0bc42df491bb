//! A hospital joins a running consortium by a token, keeps its certificate, and is put out: by real
//! programs, as operator and admin would type it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "helpers of tests: a panic is a failed test, and what is written need not last"
)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use consilium_agent::report::Status as AgentStatus;
use consilium_certs::ca::Ca;
use consilium_certs::issue::MACHINE_LENGTH;
use consilium_certs::validity::DAY;
use consilium_common::audit::Status;
use consilium_common::ids::SiteId;
use consilium_common::time::{Clock, WallMillis};
use consilium_coordinator::document::MembersDocument;
use consilium_coordinator::local::{Policy, Process, Starting};
use consilium_io::SystemClock;
use consilium_tests::harness::{Daemon, Draft, History, Said, World, consilium_agent, wait_for};

/// A consortium whose issuing CA serves, as a process of its own.
struct Town {
    world: World,
    ca: Option<Process>,
}

impl Town {
    /// So many sites have their bundles from before. Nothing runs yet.
    fn new(sites: usize) -> Self {
        let world = World::with(sites, &["thorax"], Policy::Within);
        let line = format!("ca = {:?}\n", socket(&world));
        world
            .edit(&world.root().join("coordinator/consilium.toml"), |text| format!("{text}{line}"));
        Self { world, ca: None }
    }

    fn started(mut self) -> Self {
        self.serve_ca();
        Self { world: self.world.started(), ..self }
    }

    fn serve_ca(&mut self) {
        let root = self.world.root();
        let words = ["ca", "serve", "--ca"].map(Into::into).into_iter();
        let rest = [root.join("ca").into(), "--socket".into(), socket(&self.world).into()];
        let starting = Starting {
            name: "ca",
            program: &self.world.federation.programs().consilium,
            arguments: words.chain(rest).collect(),
            environment: Vec::new(),
            folder: &root.join("logs"),
        };
        self.ca = Some(Process::start(starting).unwrap());
    }

    fn invite(&self, site: &str) -> String {
        let said = self.world.operator(&["site", "invite", site, "--json"]).done();
        let document: serde_json::Value = serde_json::from_str(&said).unwrap();
        document["token"].as_str().unwrap().to_owned()
    }

    fn members(&self) -> MembersDocument {
        self.world.federation.operator_json(&["site", "list"]).unwrap()
    }

    /// agent.toml of a site that nobody has issued anything for.
    fn write_agent(&self, site: &str) -> PathBuf {
        let pattern = std::fs::read_to_string(self.world.agent_toml(0)).unwrap();
        let folder = self.world.root().join("sites").join(site);
        std::fs::create_dir_all(&folder).unwrap();
        let old = self.world.federation.sites()[0].name.to_string();
        let lines = pattern.lines().filter(|line| !line.starts_with("certificates"));
        let text: Vec<String> = lines.map(|line| line.replace(&old, site)).collect();
        let path = folder.join("agent.toml");
        std::fs::write(&path, text.join("\n")).unwrap();
        path
    }

    fn agent(&self, config: &Path, words: &[&str]) -> Said {
        let config = ["--config", config.to_str().unwrap()];
        consilium_agent(self.world.federation.programs(), &[words, &config].concat())
    }

    fn enrolling(&self, config: &Path, token: &str) -> Enrolling {
        let mut command = Command::new(&self.world.federation.programs().agent);
        command.args(["enroll", token, "--config"]).arg(config);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        said.read_line(&mut first).unwrap();
        let fingerprint = first.trim().strip_prefix("fingerprint ").unwrap().to_owned();
        Enrolling { child, said, fingerprint }
    }

    fn stop(self) {
        self.world.stop();
        drop(self.ca);
    }
}

/// `consilium-agent enroll` at work.
struct Enrolling {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
    fingerprint: String,
}

impl Enrolling {
    fn done(mut self) -> String {
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.said, &mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
        rest
    }
}

fn socket(world: &World) -> PathBuf {
    world.root().join("ca.sock")
}

fn waiting_fingerprint(town: &Town, site: &str) -> Option<String> {
    let members = town.members();
    let request = members.requests.iter().find(|one| one.site.as_str() == site)?;
    Some(request.fingerprint.to_string())
}

#[test]
fn a_hospital_joins_by_a_token_and_takes_part_and_is_put_out_while_a_round_runs() {
    let mut town = Town::new(2).started();
    let (token, config) = (town.invite("newcomer"), town.write_agent("newcomer"));
    let enrolling = town.enrolling(&config, &token);
    let seen = wait_for("the request", 20, || waiting_fingerprint(&town, "newcomer"));
    assert_eq!(seen, enrolling.fingerprint, "both screens show one fingerprint");

    // Another fingerprint than the one that was read out is not approved.
    let other: String = seen.chars().map(|c| if c == '0' { '1' } else { '0' }).collect();
    let other = other.chars().enumerate().map(|(at, c)| if at % 5 == 4 { '-' } else { c });
    let other: String = other.collect();
    let refused = town.world.operator(&["site", "approve", "newcomer", "--fingerprint", &other]);
    refused.assert_fails(4, &["another fingerprint"]);
    let approved = town.world.operator(&["site", "approve", "newcomer", "--fingerprint", &seen]);
    assert!(approved.done().contains("signed and in force"));
    assert!(enrolling.done().contains("enrolled as newcomer"));
    town.agent(&config, &["enroll", &token]).assert_fails(4, &["holds an identity already"]);

    // It takes part at once: nothing was restarted.
    let mut newcomer = start(&town, "newcomer", &config);
    wait_for("three sites", 20, || (connected(&town) == 3).then_some(()));
    let draft = Draft { min_sites: 2, batches: 40, batch_ms: 50, ..Draft::new("thorax", 6) };
    town.world.run(&draft);
    let took_part_in = |history: &History| -> Vec<Status> {
        let name: SiteId = "newcomer".parse().unwrap();
        let calls = history.of("thorax").into_iter();
        calls.filter_map(|call| Some(call.sites.get(&name)?.status)).collect()
    };
    town.world.reaches("thorax", 1, 60);
    let counted = |status: &Status| matches!(status, Status::Counted { .. });
    assert!(took_part_in(&town.world.history()).iter().any(counted));

    // Put out in the middle of a round: cut within seconds, and the others go on.
    let reason = "its laptop was stolen";
    let revoked = town.world.operator(&["site", "revoke", "newcomer", "--reason", reason]);
    assert!(revoked.done().contains("newcomer is out"));
    wait_for("the end of its connection", 5, || (connected(&town) == 2).then_some(()));
    let history = town.world.complete("thorax", 60);
    let statuses = took_part_in(&history);
    let says_why = |status: &Status| format!("{status:?}").contains("Revoked");
    assert!(statuses.iter().any(says_why), "{statuses:?}");
    let told = wait_for("the agent to say why", 20, || {
        let status = town.agent(&config, &["status"]).out;
        status.contains("revoked").then_some(status)
    });
    assert!(told.contains(reason), "{told}");

    // A restart of the coordinator does not let it back in, and its key gets no certificate.
    newcomer.kill();
    town.world.process(Daemon::Coordinator).kill();
    town.world.federation.start_coordinator().unwrap();
    let again = start(&town, "newcomer", &config);
    wait_for("the others to be back", 20, || (connected(&town) == 2).then_some(()));
    assert!(town.members().revoked.iter().any(|one| one.reason == reason));
    let twice = ["site", "revoke", "newcomer", "--reason", reason];
    town.world.operator(&twice).assert_fails(4, &["is out already", reason]);
    drop(again);

    // Invited anew it is a new member: with a key, a state folder and a ledger of its own.
    let token = town.invite("newcomer");
    let state = town.world.root().join("sites/newcomer/state");
    std::fs::rename(state.join("identity"), state.join("old-identity")).unwrap();
    let words = ["enroll", &token, "--no-wait"];
    town.agent(&config, &words)
        .assert_fails(4, &["the record of an identity", "keep it as an archive"]);
    std::fs::rename(&state, state.with_extension("old")).unwrap();
    let _first = town.agent(&config, &words).done();
    let seen = waiting_fingerprint(&town, "newcomer").unwrap();
    let _approved =
        town.world.operator(&["site", "approve", "newcomer", "--fingerprint", &seen]).done();
    let _enrolled = town.agent(&config, &words).done();
    let back = start(&town, "newcomer", &config);
    wait_for("three sites again", 20, || (connected(&town) == 3).then_some(()));
    drop(back);
    town.stop();
}

#[test]
fn a_token_works_once_for_its_site_and_a_certificate_is_no_place_in_the_roster() {
    let town = Town::new(1).started();
    let known = town.world.federation.sites()[0].name.to_string();
    town.world.operator(&["site", "invite", &known]).assert_fails(4, &["belongs already"]);
    let token = town.invite("newcomer");
    let (newcomer, anna) = (town.write_agent("newcomer"), town.write_agent("st-anna"));
    town.agent(&anna, &["enroll", &token]).assert_fails(2, &["for site newcomer"]);
    town.agent(&newcomer, &["enroll", "consilium-token-1-00"]).assert_fails(2, &["copied whole"]);
    town.agent(&newcomer, &["enroll", "hello"]).assert_fails(2, &["not a token"]);
    let first = town.agent(&newcomer, &["enroll", &token, "--no-wait"]).done();
    assert!(first.contains("not approved yet"), "{first}");

    // The same request again is the same request; another one with the same token is refused.
    let again = town.agent(&newcomer, &["enroll", &token, "--no-wait"]).done();
    assert_eq!(again, first);
    let folder = town.world.root().join("sites/newcomer/state");
    std::fs::rename(folder.join("identity.enrolling"), folder.join("away")).unwrap();
    town.agent(&newcomer, &["enroll", &token, "--no-wait"]).assert_fails(4, &["was used"]);
    let log = town.world.log_of("coordinator");
    assert!(log.contains("not-enrolled"), "{log}");
    town.stop();
}

#[test]
fn without_a_ca_the_operator_hears_what_to_do() {
    let town = Town::new(1);
    let mut town = Town { world: town.world.started(), ca: None };
    let refused = town.world.operator(&["site", "invite", "newcomer"]);
    // The socket is named and nobody listens: an invitation stands, a certificate has to wait.
    let token = refused.done();
    assert!(token.contains("consilium-token-1-"), "{token}");
    let config = town.write_agent("newcomer");
    let token = token.lines().next().unwrap().to_owned();
    let _first = town.agent(&config, &["enroll", &token, "--no-wait"]).done();
    let seen = waiting_fingerprint(&town, "newcomer").unwrap();
    let words = ["site", "approve", "newcomer", "--fingerprint", &seen];
    town.world.operator(&words).assert_fails(1, &["does not answer", "consilium ca serve"]);
    // The approval stands: once the CA is there, the site finds its certificate.
    town.serve_ca();
    let done = town.agent(&config, &["enroll", &token, "--no-wait"]).done();
    assert!(done.contains("enrolled as newcomer"), "{done}");
    town.stop();
}

#[test]
fn an_agent_whose_certificate_has_run_out_renews_it_by_its_key_and_comes_back() {
    let mut town = Town::new(2);
    let name = town.world.federation.sites()[1].name.clone();
    let now = SystemClock::open().wall();
    let long_ago = WallMillis(now.0 - 9 * DAY.0);
    let mut ca = Ca::open(&town.world.root().join("ca")).unwrap();
    ca.issue_site(&name, MACHINE_LENGTH, long_ago).unwrap();
    drop(ca);
    // Without a CA it cannot start, and says both why and what was tried.
    town.world.federation.start_coordinator().unwrap();
    let config = town.world.agent_toml(1);
    town.agent(&config, &["run"])
        .assert_fails(1, &["expired on", "not renewed", "does not answer"]);
    town.serve_ca();
    town.world.federation.start_agent(0).unwrap();
    town.world.federation.start_agent(1).unwrap();
    wait_for("both sites", 20, || {
        let members = town.members();
        members.sites.iter().all(|one| one.connected).then_some(())
    });
    let status: AgentStatus = town.world.federation.agent_json(1, &["status"]).unwrap();
    assert!(format!("{status:?}").contains("valid for"), "{status:?}");
    town.stop();
}

fn connected(town: &Town) -> usize {
    town.members().sites.iter().filter(|one| one.connected).count()
}

fn start(town: &Town, name: &'static str, config: &Path) -> Process {
    Process::start(Starting {
        name,
        program: &town.world.federation.programs().agent,
        arguments: vec!["run".into(), "--config".into(), config.into()],
        environment: Vec::new(),
        folder: &town.world.root().join("logs"),
    })
    .unwrap()
}
