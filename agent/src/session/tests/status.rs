use super::bench::*;
use crate::session::{Done, SCORES_MAX, Status};

#[test]
fn scores_are_named_bounded_and_of_the_version_that_was_scored() {
    let mut bench = Bench::welcomed(setup());
    for round in 1..=100 {
        let update = bench.deliver("mnist", round);
        bench.say(roll_call("mnist", round, Some(update.digest)));
        let settle = id_of(&bench.take(), "settle");
        bench.done(settle, Done::Settled);
    }
    let scores = bench.session.status(bench.now).scores;
    assert_eq!(scores.len(), SCORES_MAX);
    let last = scores.last().unwrap();
    assert_eq!((last.round.0, last.version.0), (100, 99));
    assert_eq!((last.examples, last.holdout), (480, 120));
    assert_eq!((last.accuracy, last.loss), (Some(0.75), Some(0.5)));
    assert_eq!(last.metrics.keys().collect::<Vec<_>>(), ["correct", "loss", "total"]);
}

#[test]
fn the_status_survives_json_with_stable_names() {
    let mut bench = Bench::welcomed(setup());
    let update = bench.deliver("mnist", 1);
    bench.say(receipt(&update));
    bench.begin(plan("ward", 4));
    bench.say(roll_call("ward", 3, None));
    let status = bench.session.status(bench.now);
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(serde_json::from_value::<Status>(json.clone()).unwrap(), status);
    for (pointer, value) in [
        ("/site", serde_json::json!("st-mary")),
        ("/connection/state", serde_json::json!("connected")),
        ("/connection/coordinator", serde_json::json!("consilium 0.1.0")),
        ("/studies/0/decision", serde_json::json!("accepted")),
        ("/tasks/0/phase", serde_json::json!("loading")),
        ("/tasks/0/round", serde_json::json!(4)),
        ("/retained/0/receipted", serde_json::json!(true)),
        ("/roll_calls/0/code", serde_json::json!("late")),
        ("/scores/0/metrics/correct", serde_json::json!(90)),
    ] {
        assert_eq!(json.pointer(pointer), Some(&value), "{pointer} in {json:#}");
    }
}
