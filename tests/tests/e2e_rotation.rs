//! A new issuing CA, and the coordinator's own next certificate, under a running federation of real
//! programs: no round is lost, and no site is touched by hand.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

use consilium_certs::ca::Ca;
use consilium_certs::credentials::Credentials;
use consilium_certs::issue::MACHINE_LENGTH;
use consilium_certs::rotation::Retired;
use consilium_certs::validity::DAY;
use consilium_common::audit::{Outcome, Status};
use consilium_common::time::{Clock, WallMillis};
use consilium_coordinator::local::{Policy, Process, Starting};
use consilium_io::SystemClock;
use consilium_tests::harness::{Daemon, Draft, Said, World, consilium, wait_for};

/// Seconds for which certificates of the CA before work on.
const OVERLAP_S: u64 = 25;

/// A federation beside its CA's folder.
struct Town {
    world: World,
    ca: Option<Process>,
}

impl Town {
    fn new(sites: usize) -> Self {
        let world = World::with(sites, &["thorax"], Policy::Within);
        Self { world, ca: None }
    }

    /// The coordinator's configuration names the CA's socket.
    fn connected(self) -> Self {
        let line = format!("ca = {:?}\n", self.socket());
        let toml = self.world.root().join("coordinator/consilium.toml");
        self.world.edit(&toml, |text| format!("{text}{line}"));
        self
    }

    fn socket(&self) -> PathBuf {
        self.world.root().join("ca.sock")
    }

    fn ca_folder(&self) -> PathBuf {
        self.world.root().join("ca")
    }

    fn serve_ca(&mut self) {
        let words = ["ca", "serve", "--ca"].map(Into::into).into_iter();
        let rest = [self.ca_folder().into(), "--socket".into(), self.socket().into()];
        let starting = Starting {
            name: "ca",
            program: &self.world.federation.programs().consilium,
            arguments: words.chain(rest).collect(),
            environment: Vec::new(),
            folder: &self.world.root().join("logs"),
        };
        self.ca = Some(Process::start(starting).unwrap());
    }

    fn ca_command(&self, words: &[&str]) -> Said {
        let folder = self.ca_folder();
        let words: Vec<&str> =
            words.iter().copied().chain(["--ca", folder.to_str().unwrap()]).collect();
        consilium(self.world.federation.programs(), &words)
    }

    fn issued(&self, bundle: &str) -> PathBuf {
        self.ca_folder().join("issued").join(bundle)
    }

    fn site(&self, site: usize) -> PathBuf {
        let sites = self.world.federation.sites();
        self.issued(&format!("site/{}", sites.get(site).unwrap().name))
    }

    /// Whether a machine's certificate is of the issuing CA in force.
    fn has_moved(&self, bundle: &Path) -> bool {
        let retired = Retired::load(&self.ca_folder().join("issuing")).unwrap();
        let now = SystemClock::open().wall();
        Credentials::load(bundle, now).is_ok_and(|ours| !ours.is_by(&retired))
    }

    fn log_says(&self, words: &str) -> bool {
        self.world.log_of("coordinator").contains(words)
    }

    fn stop(self) {
        self.world.stop();
        drop(self.ca);
    }
}

#[test]
fn a_new_issuing_ca_costs_no_round_and_the_old_ones_certificates_are_refused_after_the_overlap() {
    let mut town = Town::new(4).connected();
    town.serve_ca();
    town.world.federation.start().unwrap();
    let draft = Draft { batches: 10, batch_ms: 100, ..Draft::new("thorax", 40) };
    town.world.run(&draft);
    town.world.reaches("thorax", 2, 60);
    let before = ["tls.key", "tls.pem"].map(|name| fs::read(town.site(3).join(name)).unwrap());

    // The CA's folder has one master at a time.
    let overlap = format!("{OVERLAP_S}s");
    let rotate = ["ca", "rotate", "--overlap", &overlap];
    assert_ne!(town.ca_command(&rotate).code, Some(0));
    town.ca = None;
    let said = town.ca_command(&rotate).done();
    assert!(
        said.contains("in force now") && said.contains("consilium ca issue operator"),
        "{said}"
    );
    let again = town.ca_command(&rotate).done();
    assert!(again.contains("nothing done"), "{again}");
    assert!(!town.has_moved(&town.site(0)));
    town.serve_ca();

    // Everybody moves, over connections that stay.
    wait_for("everybody to have moved", OVERLAP_S, || {
        let all = (0..4).all(|site| town.has_moved(&town.site(site)));
        (all && town.has_moved(&town.issued("coordinator"))).then_some(())
    });
    wait_for("the coordinator's next certificate", 20, || {
        town.log_says("next certificate is in use").then_some(())
    });
    assert!(!town.log_says("disconnected"), "a connection was cut");

    // The study goes on through the end of the overlap and loses nobody.
    let history = town.world.complete("thorax", 180);
    for call in history.of("thorax") {
        let whole = |outcome: &Outcome| !matches!(outcome, Outcome::Abandoned { .. });
        assert!(whole(&call.outcome), "{call:?}");
        let counted =
            |entry: &consilium_common::audit::Entry| matches!(entry.status, Status::Counted { .. });
        assert_eq!(call.sites.values().filter(|entry| counted(entry)).count(), 4, "{call:?}");
    }
    let _exact = town.world.assert_reference(&draft, &history);

    // An operator of the CA before is refused and told why; a site that was away comes back by its key.
    wait_for("the end of the overlap", OVERLAP_S + 20, || {
        let said = town.world.operator(&["status"]);
        (said.code == Some(4) && said.err.contains("issuing CA")).then_some(())
    });
    town.world.process(Daemon::Agent(3)).kill();
    for (name, bytes) in ["tls.key", "tls.pem"].iter().zip(&before) {
        consilium_io::disk::replace_private(&town.site(3).join(name), bytes).unwrap();
    }
    assert!(!town.has_moved(&town.site(3)));
    town.world.federation.start_agent(3).unwrap();
    wait_for("the site that was away to renew", 120, || {
        town.has_moved(&town.site(3)).then_some(())
    });
    let name = town.world.federation.sites().get(3).unwrap().name.to_string();
    assert!(town.world.log_of(&name).contains("certificate-expired"));
    town.stop();
}

#[test]
fn the_coordinators_certificate_is_renewed_under_it_or_brought_by_hand() {
    let mut town = Town::new(1);
    let long_ago = WallMillis(SystemClock::open().wall().0 - 5 * DAY.0);
    let issue = |town: &Town, at: WallMillis| {
        let mut ca = Ca::open(&town.ca_folder()).unwrap();
        ca.issue_coordinator(&[], MACHINE_LENGTH, at).unwrap();
    };
    // More than two thirds of its time are over, and there is no CA to ask.
    issue(&town, long_ago);
    town.world.federation.start().unwrap();
    let status = town.world.operator(&["status"]).done();
    for part in ["expires in", "no issuing CA is connected", "consilium ca issue coordinator"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    assert!(town.log_says("no issuing CA is connected"));
    issue(&town, SystemClock::open().wall());
    wait_for("the files that were brought", 30, || {
        town.log_says("next certificate is in use").then_some(())
    });
    let status = town.world.operator(&["status"]).done();
    assert!(status.contains("certificate: valid for 7 d") || status.contains("valid for 6 d"));
    assert!(!town.log_says("disconnected"));

    // With a CA nobody brings anything, also where the last certificate has run out.
    town.world.process(Daemon::Coordinator).kill();
    // A minute ago: the CA itself is no older than this test.
    issue(&town, WallMillis(SystemClock::open().wall().0 - MACHINE_LENGTH.0 - 60_000));
    let mut town = town.connected();
    town.serve_ca();
    town.world.federation.start_coordinator().unwrap();
    let status = town.world.operator(&["status"]).done();
    assert!(status.contains("valid for"), "{status}");
    town.stop();
}

#[test]
fn a_certificate_that_is_renewed_under_an_upload_sends_no_byte_of_it_again() {
    const BYTES: u64 = 20_000_000;
    let mut town = Town::new(1).connected();
    town.world.edit(&town.world.agent_toml(0), |text| {
        text.replace("[policy]\n", "[policy]\nupload_mbit_s = 6.4\n")
    });
    town.serve_ca();
    town.world.federation.start().unwrap();
    let draft = Draft { parameters: 5_000_000, min_sites: 1, ..Draft::new("thorax", 1) };
    town.world.run(&draft);
    let sent = |town: &Town| {
        let status = town.world.status();
        status.studies.iter().flat_map(|study| &study.sites).map(|site| site.bytes_up).sum::<u64>()
    };
    wait_for("the upload to be under way", 60, || (sent(&town) > BYTES / 10).then_some(()));

    town.ca = None;
    let _said = town.ca_command(&["ca", "rotate"]).done();
    town.serve_ca();
    wait_for("the next certificate", 30, || town.has_moved(&town.site(0)).then_some(()));
    assert!(sent(&town) < BYTES * 9 / 10, "the upload was over before the renewal");
    let history = town.world.complete("thorax", 120);
    let bytes: u64 = history.of("thorax").iter().map(|call| call.bytes_up).sum();
    assert!((BYTES..BYTES + 10_000).contains(&bytes), "{bytes} bytes for an update of {BYTES}");
    assert!(!town.log_says("disconnected"), "the connection was cut");
    town.stop();
}
