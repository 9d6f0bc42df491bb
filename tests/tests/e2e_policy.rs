//! A site's rules between real programs: hours that are declined with the next opening, a policy that is
//! read again at SIGHUP, uploads at the rate that it sets, and what `policy explain` says beforehand.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is a failed test")]

use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

use consilium_agent::report::Status as AgentStatus;
use consilium_common::audit::{Outcome, Status};
use consilium_common::time::Clock as _;
use consilium_common::wire::reject::Code;
use consilium_coordinator::local::Policy;
use consilium_io::SystemClock;
use consilium_tests::harness::{Daemon, Draft, World, consilium_agent, wait_for};

/// The exit code of a command that was refused.
const REFUSED: i32 = 4;
const MINUTES_OF_A_DAY: u64 = 24 * 60;

/// Hours of a minute or more that are closed now, by the clock of UTC: they begin in three hours.
fn closed() -> String {
    let minute = SystemClock::open().wall().0 / 60_000;
    let clock = |after: u64| {
        let of_day = (minute + after) % MINUTES_OF_A_DAY;
        format!("{:02}:{:02}", of_day / 60, of_day % 60)
    };
    format!("{}-{} UTC", clock(180), clock(240))
}

/// Writes rules into the `[policy]` of a site.
fn with_rules(world: &World, site: usize, rules: &str) {
    let with = |text: &str| text.replace("[policy]\n", &format!("[policy]\n{rules}\n"));
    world.edit(&world.agent_toml(site), with);
}

/// Has a running site read its policy again.
fn reload(world: &mut World, site: usize) {
    let pid = world.process(Daemon::Agent(site)).pid().to_string();
    let sent = Command::new("kill").args(["-HUP", &pid]).status().unwrap();
    assert!(sent.success());
}

fn status(world: &World, site: usize) -> AgentStatus {
    world.federation.agent_json(site, &["status"]).unwrap()
}

/// How the site stands in the roll call of the study's `number`th round.
fn of_round(world: &World, study: &str, number: usize, site: &str) -> Option<Status> {
    let history = world.history();
    let call = (*history.of(study).get(number - 1)?).clone();
    call.sites.get(&site.parse().unwrap()).map(|entry| entry.status)
}

#[test]
fn a_site_outside_its_hours_declines_with_the_next_opening_and_the_others_go_on() {
    let mut world = World::with(2, &["thorax"], Policy::Within);
    let hours = closed();
    with_rules(&world, 0, &format!("hours = \"{hours}\""));
    world.federation.start().unwrap();
    let draft = Draft { min_sites: 1, batches: 8, batch_ms: 50, ..Draft::new("thorax", 1_000) };
    world.run(&draft);
    world.reaches("thorax", 2, 60);

    let first = of_round(&world, "thorax", 1, "charite").unwrap();
    assert_eq!(first, Status::Excluded { code: Code::OutsideHours });
    assert_eq!(of_round(&world, "thorax", 2, "charite"), None, "it is not asked before it opens");
    assert!(matches!(of_round(&world, "thorax", 2, "mayo"), Some(Status::Counted { .. })));

    let shown = status(&world, 0);
    assert_eq!(shown.policy.hours.as_deref(), Some(&*hours));
    let opens_in = shown.policy.opens_in_ms.unwrap().0;
    assert!((170 * 60_000..=180 * 60_000).contains(&opens_in), "{opens_in} ms");
    let declined = &shown.session.declined[0];
    assert_eq!((declined.study.as_str(), declined.code), ("thorax", Code::OutsideHours));
    assert!(declined.again_in_ms.0 <= opens_in + 60_000, "{declined:?}");
    let log = world.log_of("charite");
    assert!(log.contains("plan declined: outside the hours, which begin again on"), "{log}");
    let site = |study: &consilium_coordinator::document::StatusDocument| {
        let sites = study.studies[0].sites.iter();
        sites.clone().find(|site| site.site.as_str() == "charite").unwrap().code
    };
    assert_eq!(site(&world.status()), Some(Code::OutsideHours), "the code alone is shown there");

    // The hospital opens its hours: no restart, and the coordinator asks again at once.
    world.edit(&world.agent_toml(0), |text| text.replace(&hours, "00:00-24:00 UTC"));
    reload(&mut world, 0);
    wait_for("the site to count", 60, || {
        let history = world.history();
        let last = (*history.of("thorax").last()?).clone();
        let counts = last.sites.get(&"charite".parse().unwrap())?.status;
        matches!(counts, Status::Counted { .. }).then_some(())
    });
    assert!(status(&world, 0).session.declined.is_empty());
    world.stop();
}

#[test]
fn a_policy_is_read_again_at_sighup_and_a_bad_one_changes_nothing() {
    let mut world = World::with(2, &["thorax"], Policy::Within).started();
    let draft = Draft { min_sites: 1, batches: 8, batch_ms: 50, ..Draft::new("thorax", 1_000) };
    world.run(&draft);
    world.reaches("thorax", 1, 60);

    with_rules(&world, 0, "max_roundz = 3");
    reload(&mut world, 0);
    wait_for("the complaint", 30, || {
        let log = world.log_of("charite");
        log.contains("the policy stays as it was").then(|| {
            assert!(
                log.contains("max_roundz") && log.contains("did you mean `max_rounds`"),
                "{log}"
            );
        })
    });
    // The file is mended, and not read again: what the agent goes by is what it had.
    world.edit(&world.agent_toml(0), |text| text.replace("max_roundz = 3", "max_rounds = 3"));
    assert_eq!(status(&world, 0).session.studies[0].decision.unwrap().code(), None);

    // The stricter policy: the study is withdrawn, and both sides say why.
    reload(&mut world, 0);
    wait_for("the refusal", 30, || {
        let status = status(&world, 0);
        let study = &status.session.studies[0];
        let code = study.decision.and_then(|decision| decision.code());
        let why = study.why.clone().unwrap_or_default();
        (code == Some(Code::PolicyRounds) && why.contains("`max_rounds = 3`")).then_some(())
    });
    let log = world.log_of("charite");
    assert!(log.contains("policy-rounds") && log.contains("[policy] is read again"), "{log}");
    wait_for("the coordinator to hear of it", 30, || {
        let status = world.status();
        let mut sites = status.studies[0].sites.iter();
        let site = sites.find(|site| site.site.as_str() == "charite")?;
        (site.state == "declined" && site.code == Some(Code::PolicyRounds)).then_some(())
    });
    let version = world.history().version("thorax");
    world.reaches("thorax", version + 2, 60);
    let history = world.history();
    let last = *history.of("thorax").last().unwrap();
    assert!(matches!(last.outcome, Outcome::Committed { .. }), "{last:?}");
    assert!(!last.sites.contains_key(&"charite".parse().unwrap()), "{last:?}");
    world.stop();
}

#[test]
fn updates_leave_no_faster_than_the_policy_says() {
    let mut world = World::with(1, &["thorax"], Policy::Within);
    with_rules(&world, 0, "upload_mbit_s = 1.6");
    world.federation.start().unwrap();
    // 600 kB an update: 128 KiB at once, the rest at 200 kB a second.
    let draft = Draft { parameters: 150_000, min_sites: 1, ..Draft::new("thorax", 1) };
    world.run(&draft);
    let history = world.complete("thorax", 60);
    let call = history.of("thorax")[0];
    let took = Duration::from_millis(call.duration.0);
    assert!(took >= Duration::from_millis(2_000), "{took:?} for {} bytes", call.bytes_up);
    assert!(took <= Duration::from_secs(30), "{took:?}");
    world.stop();
}

#[test]
fn explain_says_line_by_line_what_would_happen() {
    let world = World::with(1, &["thorax"], Policy::Within);
    with_rules(&world, 0, "families = [\"synthetic\"]\nmax_rounds = 20\nslots = 1");
    let toml = world.agent_toml(0);
    let explain = |study: &std::path::Path, json: bool| {
        let mut words: Vec<&OsStr> = vec![
            "--config".as_ref(),
            toml.as_ref(),
            "policy".as_ref(),
            "explain".as_ref(),
            study.as_ref(),
        ];
        words.extend(json.then_some(OsStr::new("--json")));
        consilium_agent(world.federation.programs(), &words)
    };
    let signed = world.federation.sign_study("thorax", &Draft::new("thorax", 20).text()).unwrap();
    let text = explain(&signed, false).done();
    for said in
        ["signed by 1 known operator or more", "families", "versions: 20, at most 20", "no-rule"]
    {
        assert!(text.contains(said), "{said:?} is not in {text}");
    }
    assert!(text.contains("thorax would be accepted without asking anybody"), "{text}");

    let draft = world.root().join("long.toml");
    consilium_io::disk::replace(&draft, Draft::new("thorax", 21).text().as_bytes()).unwrap();
    explain(&draft, false).assert_fails(REFUSED, &["thorax would be refused: policy-rounds"]);
    let said = explain(&draft, true);
    assert_eq!(said.code, Some(REFUSED), "{said:#?}");
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&json["outcome"], &json["code"]), (&"refused".into(), &"policy-rounds".into()));
    let line = |rule: &str| {
        let lines = json["rules"].as_array().unwrap().iter();
        lines
            .clone()
            .find(|line| line["rule"] == rule)
            .unwrap_or_else(|| panic!("{json:#}"))
            .clone()
    };
    assert_eq!(line("operators")["verdict"], "open");
    assert_eq!(line("families")["verdict"], "allowed");
    assert_eq!(line("max_parameters")["verdict"], "no-rule");
    assert_eq!(line("max_rounds")["code"], "policy-rounds");
    assert!(line("max_rounds")["sentence"].as_str().unwrap().contains("raise it in [policy]"));
    assert_eq!(json["moment"]["slots"], 1);

    // Somebody else's signature, and no data: both are said.
    let stranger = World::with(1, &["thorax"], Policy::Within);
    let foreign =
        stranger.federation.sign_study("thorax", &Draft::new("thorax", 2).text()).unwrap();
    explain(&foreign, false).assert_fails(REFUSED, &["bad-signature"]);
    let other = world.root().join("retina.toml");
    consilium_io::disk::replace(&other, Draft::new("retina", 2).text().as_bytes()).unwrap();
    let said = explain(&other, false);
    assert_eq!(said.code, Some(REFUSED), "{said:#?}");
    assert!(
        said.out.contains("no [data.retina]") && said.out.contains("policy-studies"),
        "{said:#?}"
    );
}
