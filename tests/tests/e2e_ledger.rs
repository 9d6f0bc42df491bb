//! The site's own ledger against what the coordinator says: the same updates, byte for byte, and never
//! less in the ledger than has left, whenever the agent dies.

#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "helpers of tests: a panic is a failed test"
)]

use std::collections::BTreeMap;

use consilium_agent::ledger::entry::{Made, Part, Sending};
use consilium_agent::ledger::{Entry, read};
use consilium_common::ids::{Digest, Round, SiteId};
use consilium_common::wire::messages::RunState;
use consilium_common::wire::reject::Code;
use consilium_coordinator::local::Policy;
use consilium_tests::harness::{
    Daemon, Draft, History, World, consilium_agent, pause, wait_for, world,
};

const ONE: &str = "thorax";
/// The agent that dies.
const VICTIM: usize = 0;

/// What a site's ledger holds, in order.
fn ledger(world: &World, site: usize) -> Vec<Entry> {
    let folder = world.federation.site_folder(site).join("state/ledger");
    let mut entries = Vec::new();
    read::each(&folder, &mut |_, line| {
        entries.push(line.entry.clone());
        Ok(())
    })
    .unwrap();
    entries
}

fn sendings(entries: &[Entry]) -> impl Iterator<Item = &Sending> {
    entries
        .iter()
        .filter_map(|entry| if let Entry::Sending(range) = entry { Some(range) } else { None })
}

fn made(entries: &[Entry]) -> impl Iterator<Item = &Made> {
    entries.iter().filter_map(|entry| if let Entry::Made(made) = entry { Some(made) } else { None })
}

/// Updates of which the ranges reach from the first byte to the last.
fn covered(entries: &[Entry]) -> Vec<Digest> {
    let mut through: BTreeMap<Digest, u64> = BTreeMap::new();
    let mut whole = Vec::new();
    for range in sendings(entries) {
        let to = through.entry(range.digest).or_default();
        if range.offset <= *to {
            *to = (*to).max(range.offset + range.bytes);
        }
        if *to == range.size {
            whole.push(range.digest);
        }
    }
    whole
}

/// `ledger verify` of a site, to its end.
fn verify(world: &World, site: usize) -> String {
    let toml = world.agent_toml(site);
    let words = ["ledger", "verify", "--config"].map(std::ffi::OsStr::new);
    let words = [&words[..], &[toml.as_os_str()]].concat();
    consilium_agent(world.federation.programs(), &words).done()
}

fn receipts(history: &History, site: &SiteId) -> Vec<(Round, Digest)> {
    let of_site = history.receipts.iter().filter(|((_, _, of), _)| of == site);
    of_site.map(|((_, round, _), digest)| (*round, *digest)).collect()
}

#[test]
fn the_ledgers_sums_are_what_the_coordinator_received_and_sent() {
    let draft = Draft { parameters: 20_000, ..Draft::new(ONE, 3) };
    let world = World::new(&[ONE]).started();
    world.run(&draft);
    let history = world.complete(ONE, 90);
    history.assert_everybody_counted(ONE, 4, 3);
    let sites: Vec<Vec<Entry>> = (0..4)
        .map(|site| {
            wait_for("the last round to settle", 30, || {
                let entries = ledger(&world, site);
                let settled = entries.iter().filter(|e| matches!(e, Entry::Settled(_))).count();
                (settled == 4).then_some(entries)
            })
        })
        .collect();
    for call in history.of(ONE) {
        let of_round = |range: &&Sending| range.round == call.round;
        let up: u64 =
            sites.iter().flat_map(|s| sendings(s).filter(of_round)).map(|r| r.bytes).sum();
        assert_eq!(up, call.bytes_up, "{call:#?}");
        let down: u64 = sites
            .iter()
            .flatten()
            .map(|entry| match entry {
                Entry::Fetched(f) if f.round == Some(call.round) && f.part == Part::Base => f.bytes,
                _ => 0,
            })
            .sum();
        assert_eq!(down, call.bytes_down, "{call:#?}");
    }
    for (site, entries) in sites.iter().enumerate() {
        let receipted = receipts(&history, &world::name(site));
        let sent: Vec<(Round, Digest)> = sendings(entries).map(|r| (r.round, r.digest)).collect();
        assert_eq!(sent, receipted, "one range a round, of what was receipted");
        assert!(sendings(entries).all(|range| range.offset == 0 && range.bytes == range.size));
        assert!(verify(&world, site).starts_with("whole: "));
    }
    world.stop();
}

#[test]
fn a_killed_agent_has_sent_nothing_that_its_ledger_lacks() {
    let points = [
        "before:ledger-made",
        "after:ledger-made",
        "before:send-update-offer",
        "before:ledger-sending",
        "after:ledger-sending",
        "after:push",
        "before:ledger-sent",
        "after:ledger-sent",
        "before:ledger-settled",
        "after:ledger-connected",
    ];
    let draft = Draft { parameters: 20_000, ..Draft::new(ONE, 3 * points.len() as u64 + 4) };
    let mut world = World::new(&[ONE]);
    world.start(Daemon::Coordinator, &[]).unwrap();
    world.run(&draft);
    for site in 1..4 {
        world.start(Daemon::Agent(site), &[]).unwrap();
    }
    for point in points {
        world.die_at(Daemon::Agent(VICTIM), point);
        let entries = ledger(&world, VICTIM);
        assert!(verify(&world, VICTIM).starts_with("whole: "), "after a death at {point}");
        // What had arrived is receipted by now.
        pause(300);
        let (whole, receipted) =
            (covered(&entries), receipts(&world.history(), &world::name(VICTIM)));
        for (round, digest) in &receipted {
            assert!(whole.contains(digest), "{point}: round {round} is not all in the ledger");
            assert!(made(&entries).any(|made| made.digest == *digest), "{point}: round {round}");
        }
        let last = made(&entries).last().map(|made| made.digest);
        let has_left = last.is_some_and(|last| receipted.iter().any(|(_, digest)| *digest == last));
        if ["before:send-update-offer", "before:ledger-sending", "after:ledger-sending"]
            .contains(&point)
        {
            assert!(!has_left, "{point}: an update left before its range was recorded");
        }
    }
    world.start(Daemon::Agent(VICTIM), &[]).unwrap();
    let history = world.complete(ONE, 180);
    history.assert_everybody_counted(ONE, 4, draft.rounds);
    assert!(verify(&world, VICTIM).starts_with("whole: "));
    world.stop();
}

#[test]
fn no_round_begins_once_the_approval_has_ended_and_the_status_says_why() {
    let draft = Draft { min_sites: 1, ..Draft::new(ONE, 2) };
    let world = World::with(1, &[ONE], Policy::Within).started();
    let text = format!("{}\n[governance]\napproved_until = \"2020-01-01\"\n", draft.text());
    world.federation.run_study(ONE, &text).unwrap();
    wait_for("the site's answer", 30, || {
        let study = world.status().studies.remove(0);
        let declined = study.sites[0].code == Some(Code::ApprovalExpired);
        declined.then_some(())
    });
    let study = world.status().studies.remove(0);
    assert_eq!((study.state, study.held), (RunState::Running, Some(Code::ApprovalExpired)));
    assert!(study.waiting_for[0].contains("ended on 2020-01-01"), "{:?}", study.waiting_for);
    assert!(world.history().of(ONE).is_empty());
    assert!(world.log_of("coordinator").contains("the study's approval ended on 2020-01-01"));

    // The next version names a new end.
    let next = draft.text().replace("name = \"thorax\"", "name = \"thorax\"\nversion = 2");
    let next = format!("{next}\n[governance]\napproved_until = \"2999-01-01\"\n");
    world.federation.run_study(ONE, &next).unwrap();
    world.complete(ONE, 60).assert_everybody_counted(ONE, 1, 2);
    world.stop();
}
