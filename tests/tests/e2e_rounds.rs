//! Whole federations of real processes in good weather: rounds, status, several studies, sites that
//! come late or go away, people who accept and pause, and daemons that are stopped in good order.

use std::time::Duration;

use consilium_agent::report::{Status as AgentStatus, StudyRow};
use consilium_agent::session::ConnectionState;
use consilium_common::audit::{Outcome, Status};
use consilium_common::ids::Version;
use consilium_common::update::sections::HEADER_BYTES;
use consilium_common::wire::messages::{RunState, TaskKind};
use consilium_coordinator::document::{StudyListDocument, StudyShowDocument};
use consilium_coordinator::local::Policy;
use consilium_tests::harness::{Daemon, Draft, World, wait_for, world};

/// A daemon that was asked to end has so long.
const GRACE: Duration = Duration::from_secs(20);

#[test]
fn four_sites_train_five_versions_that_are_exactly_the_reference() {
    let draft = Draft::new("thorax", 5);
    let world = World::new(&["thorax"]).started();
    world.run(&draft);
    let history = world.complete("thorax", 60);
    history.assert_everybody_counted("thorax", 4, 5);
    let reference = world.assert_reference(&draft, &history);
    assert_eq!(world.export(&draft), reference, "model export writes the last version");

    let status = world.status();
    assert_eq!((status.coordinator.sites, status.coordinator.connected), (4, 4));
    let study = &status.studies[0];
    assert_eq!((study.state, study.version), (RunState::Complete, Version(5)));
    assert_eq!(Some(&study.model), history.models("thorax").last());
    assert_eq!((study.rounds.len(), study.sites.len()), (6, 4));
    assert!(study.waiting_for.is_empty(), "{:?}", study.waiting_for);
    let losses: Vec<f64> = study.versions.iter().map(|version| version.loss.unwrap()).collect();
    assert_eq!(losses.len(), 6, "every version was scored, v0 too");
    assert!(losses.is_sorted_by(|a, b| a > b), "the way to the optimum goes down: {losses:?}");
    world.stop();
}

#[test]
fn roll_calls_say_who_counted_with_what_and_how_many_bytes_passed() {
    let draft = Draft::new("thorax", 3);
    let world = World::new(&["thorax"]).started();
    world.run(&draft);
    let history = world.complete("thorax", 60);
    let calls = history.of("thorax");
    let model_bytes = 49 + 4 * u64::from(draft.parameters);
    let words_bytes = 4 * (2 + 4 * 2);
    let update_bytes = HEADER_BYTES as u64 + 4 * u64::from(draft.parameters) + words_bytes;
    for (index, call) in calls.iter().take(3).enumerate() {
        for (site, weight) in [80, 104, 128, 152].into_iter().enumerate() {
            let entry = &call.sites[&world::name(site)];
            assert_eq!(entry.status, Status::Counted { weight: Some(weight) });
            let key = (call.study.clone(), call.round, world::name(site));
            assert_eq!(entry.update, history.receipts.get(&key).copied(), "what was receipted");
        }
        assert!(matches!(call.outcome, Outcome::Committed { weight: 464, .. }));
        assert_eq!(call.metrics["total"], 20 + 26 + 32 + 38, "hold-outs of a fifth");
        assert_eq!(call.bytes_up, 4 * update_bytes);
        assert_eq!(call.bytes_down, 4 * model_bytes, "each site fetches each base once");
        assert_eq!(call.clipped, if index == 0 { 4 } else { call.clipped });
    }
    let last = calls.last().unwrap();
    assert_eq!(
        (last.task, last.bytes_up),
        (TaskKind::Evaluate, 4 * (HEADER_BYTES as u64 + words_bytes))
    );
    assert!(matches!(last.outcome, Outcome::Evaluated { .. }));
    world.stop();
}

#[test]
fn two_runs_with_one_seed_end_in_one_digest() {
    let run = || {
        let world = World::new(&["thorax"]).started();
        world.run(&Draft::new("thorax", 4));
        let models = world.complete("thorax", 60).models("thorax");
        world.stop();
        models
    };
    assert_eq!(run(), run());
}

#[test]
fn fedadam_is_the_reference_also_when_the_coordinator_dies_in_the_midst_of_it() {
    let draft = Draft {
        strategy: "strategy = \"fedadam\"\nserver_learning_rate = 0.1",
        batches: 4,
        batch_ms: 10,
        ..Draft::new("thorax", 8)
    };
    let mut world = World::new(&["thorax"]).started();
    world.run(&draft);
    for version in [1, 3, 5] {
        world.reaches("thorax", version, 60);
        world.kill_and_restart(Daemon::Coordinator);
    }
    let history = world.complete("thorax", 90);
    history.assert_everybody_counted("thorax", 4, 8);
    assert_eq!(world.export(&draft), world.assert_reference(&draft, &history));
    world.stop();
}

#[test]
fn every_strategy_of_the_server_is_the_reference() {
    let study = |name, strategy| Draft { strategy, ..Draft::new(name, 4) };
    let drafts = [
        study("thorax", "strategy = \"fedavgm\"\nserver_learning_rate = 0.5"),
        study("retina", "strategy = \"fedyogi\"\nserver_learning_rate = 0.1\nbeta2 = 0.9"),
        study("sepsis", "strategy = \"fedadagrad\"\nserver_learning_rate = 0.1\nbeta1 = 0.5"),
        study("stroke", "server_learning_rate = 0.5"),
    ];
    let names = drafts.each_ref().map(|draft| draft.name);
    let world = World::new(&names).started();
    drafts.iter().for_each(|draft| world.run(draft));
    for draft in &drafts {
        let history = world.complete(draft.name, 90);
        history.assert_everybody_counted(draft.name, 4, draft.rounds);
        assert_eq!(world.export(draft), world.assert_reference(draft, &history), "{}", draft.name);
    }
    let shown: StudyShowDocument =
        world.federation.operator_json(&["study", "show", "retina"]).unwrap();
    for number in
        ["server_learning_rate = 0.1\n", "beta1 = 0.9\n", "beta2 = 0.9\n", "tau = 0.001\n"]
    {
        assert!(shown.text.contains(number), "{number} in\n{}", shown.text);
    }
    world.stop();
}

#[test]
fn two_studies_run_side_by_side_over_the_same_sites() {
    let drafts = [Draft::new("thorax", 6), Draft { parameters: 500, ..Draft::new("retina", 4) }];
    let world = World::new(&["thorax", "retina"]).started();
    drafts.iter().for_each(|draft| world.run(draft));
    for draft in &drafts {
        let history = world.complete(draft.name, 60);
        history.assert_everybody_counted(draft.name, 4, draft.rounds);
        assert_eq!(world.export(draft), world.assert_reference(draft, &history));
    }
    let list: StudyListDocument = world.federation.operator_json(&["study", "list"]).unwrap();
    let complete = |line: &&_| {
        matches!(line, consilium_coordinator::document::StudyLine { state: RunState::Complete, .. })
    };
    assert_eq!(list.studies.iter().filter(complete).count(), 2);
    let shown: StudyShowDocument =
        world.federation.operator_json(&["study", "show", "retina"]).unwrap();
    assert!(shown.text.contains("parameters = 500") && shown.signed_by.len() == 1);
    world.stop();
}

#[test]
fn a_study_that_lacks_sites_says_whom_it_waits_for_and_starts_when_they_come() {
    let draft = Draft::new("thorax", 3);
    let mut world = World::new(&["thorax"]);
    world.federation.start_coordinator().unwrap();
    for site in 0..3 {
        world.federation.start_agent(site).unwrap();
    }
    world.run(&draft);
    let waiting = wait_for("three sites to be there", 30, || {
        let status = world.status();
        (status.coordinator.connected == 3).then(|| status.studies[0].waiting_for.clone())
    });
    assert!(waiting.iter().any(|sentence| sentence.contains("tokyo")), "{waiting:?}");
    assert_eq!(world.history().of("thorax").len(), 0, "no round without the fourth");

    world.federation.start_agent(3).unwrap();
    world.complete("thorax", 60).assert_everybody_counted("thorax", 4, 3);
    world.stop();
}

#[test]
fn a_late_joiner_counts_from_its_first_round_on() {
    let draft = Draft { min_sites: 3, batch_ms: 20, ..Draft::new("thorax", 25) };
    let mut world = World::new(&["thorax"]);
    world.federation.start_coordinator().unwrap();
    for site in 0..3 {
        world.federation.start_agent(site).unwrap();
    }
    world.run(&draft);
    world.reaches("thorax", 3, 60);
    world.federation.start_agent(3).unwrap();
    let history = world.complete("thorax", 60);
    let calls = history.of("thorax");
    assert_eq!(calls[0].sites.len(), 3, "the first round knows nothing of the fourth");
    assert!(calls.last().unwrap().counted(&world::name(3)), "the last counts it");
    assert_eq!(world.export(&draft), world.assert_reference(&draft, &history));
    world.stop();
}

#[test]
fn a_site_that_goes_is_left_out_with_a_reason_and_counts_again_when_it_is_back() {
    // Long enough that a disk which stalls for seconds, as busy ones do, makes nobody else silent.
    let draft =
        Draft { min_sites: 3, batch_ms: 20, idle_timeout: "10s", ..Draft::new("thorax", 60) };
    let mut world = World::new(&["thorax"]).started();
    world.run(&draft);
    world.reaches("thorax", 2, 60);
    world.kill(Daemon::Agent(3));
    let before = world.history().version("thorax");
    // Its connection is believed for half a minute: more than one round waits for it.
    world.reaches("thorax", before + 4, 120);
    world.federation.start_agent(3).unwrap();
    let history = world.complete("thorax", 90);
    let absent = world::name(3);
    let calls = history.of("thorax");
    let alone = calls.iter().filter(|call| !call.counted(&absent)).count();
    assert!(alone >= 2, "rounds went on without it");
    for call in &calls {
        let others = (0..3).filter(|&site| call.counted(&world::name(site))).count();
        assert_eq!(others, 3, "nobody else was left out: {call:#?}");
    }
    assert!(calls.last().unwrap().counted(&absent), "it is taken again");
    assert_eq!(world.export(&draft), world.assert_reference(&draft, &history));
    world.stop();
}

fn accept(which: &str) -> [&str; 7] {
    ["study", "accept", which, "--by", "Dr. Ada", "--reason", "ethics vote EA1/123"]
}

#[test]
fn a_person_at_each_site_accepts_before_anything_trains() {
    let draft = Draft { min_sites: 2, ..Draft::new("thorax", 2) };
    let world = World::with(2, &["thorax"], Policy::Manual).started();
    world.run(&draft);
    for site in 0..2 {
        let row = wait_for("the offer", 30, || {
            let rows: Vec<StudyRow> = world.federation.agent_json(site, &["study", "list"]).ok()?;
            rows.into_iter().next()
        });
        assert_eq!(row.decision(), "undecided");
        assert!(world.history().of("thorax").is_empty(), "nothing trains unaccepted");
        let which = format!("{}@{}", row.study, row.digest);
        let row: StudyRow = world.federation.agent_json(site, &accept(&which)).unwrap();
        assert_eq!(row.decision(), "accepted");
    }
    world.complete("thorax", 60).assert_everybody_counted("thorax", 2, 2);
    world.stop();
}

#[test]
fn a_paused_study_rests_until_it_is_started_and_a_stopped_one_stays_stopped() {
    let draft = Draft { batch_ms: 10, ..Draft::new("thorax", 10_000) };
    let world = World::new(&["thorax"]).started();
    world.run(&draft);
    world.reaches("thorax", 2, 60);
    assert_eq!(world.operator(&["study", "pause", "thorax"]).code, Some(0));
    let resting = wait_for("the round under way to end", 30, || {
        let study = world.status().studies.remove(0);
        (study.phase == "idle").then_some(study)
    });
    assert_eq!(resting.state, RunState::Paused);
    consilium_tests::harness::pause(300);
    assert_eq!(world.status().studies[0].version, resting.version, "nothing runs while paused");

    assert_eq!(world.operator(&["study", "start", "thorax"]).code, Some(0));
    world.reaches("thorax", resting.version.0 + 2, 60);
    assert_eq!(world.operator(&["study", "stop", "thorax"]).code, Some(0));
    assert_eq!(world.status().studies[0].state, RunState::Stopped);
    let again = world.operator(&["study", "start", "thorax"]);
    again.assert_fails(4, &["thorax", "stopped"]);
    let history = world.history();
    for call in history.of("thorax") {
        let stopped =
            matches!(&call.outcome, Outcome::Abandoned { reason } if reason.contains("ada"));
        assert!(stopped || matches!(call.outcome, Outcome::Committed { .. }), "{call:#?}");
    }
    world.stop();
}

#[test]
fn daemons_that_are_asked_to_end_do_so_and_go_on_from_there() {
    let draft = Draft { batch_ms: 10, ..Draft::new("thorax", 20) };
    let mut world = World::new(&["thorax"]).started();
    world.run(&draft);
    world.reaches("thorax", 2, 60);
    world.process(Daemon::Coordinator).stop(GRACE).unwrap();
    world.process(Daemon::Agent(1)).stop(GRACE).unwrap();
    let stopped_at = world.history().version("thorax");
    assert!(stopped_at < 20, "it was stopped in the midst of it");
    world.start(Daemon::Coordinator, &[]).unwrap();
    world.start(Daemon::Agent(1), &[]).unwrap();
    let history = world.complete("thorax", 90);
    history.assert_everybody_counted("thorax", 4, 20);
    assert_eq!(world.export(&draft), world.assert_reference(&draft, &history));
    world.stop();
}

#[test]
fn an_agent_shows_its_connection_its_studies_and_its_own_scores() {
    let draft = Draft::new("thorax", 3);
    let mut world = World::new(&["thorax"]).started();
    world.run(&draft);
    world.complete("thorax", 60);
    let pid = world.process(Daemon::Agent(0)).pid();
    let status: AgentStatus = wait_for("the last roll call to settle", 30, || {
        let status: AgentStatus = world.federation.agent_json(0, &["status"]).unwrap();
        let settled = status.session.retained.is_empty() && status.session.tasks.is_empty();
        settled.then_some(status)
    });
    assert_eq!(status.pid, pid);
    let session = &status.session;
    assert_eq!(session.site, world::name(0));
    assert_eq!(session.connection.state, ConnectionState::Connected);
    assert_eq!(session.studies.len(), 1);
    assert!(session.roll_calls.iter().all(|call| call.counted), "{:?}", session.roll_calls);
    let scored: Vec<Version> = session.scores.iter().map(|score| score.version).collect();
    assert_eq!(scored, (0..=3).map(Version).collect::<Vec<_>>());
    world.stop();
}
