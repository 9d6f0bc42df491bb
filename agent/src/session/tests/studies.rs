use consilium_common::wire::reject::Code;

use super::bench::*;
use crate::session::{Action, Decision, Done, Fault};

#[test]
fn a_new_study_is_judged_and_answered() {
    for (decision, code) in [
        (Decision::Accepted, None),
        (Decision::NeedsPerson, Some(Code::NotAccepted)),
        (Decision::Refused { code: Code::Policy }, Some(Code::Policy)),
    ] {
        let mut bench = Bench::welcomed(setup());
        bench.offer("other", 3);
        let actions = bench.take();
        bench.done(id_of(&actions, "judge-study"), Done::Judged(Ok(judged(decision))));
        let actions = bench.take();
        assert_eq!(actions[0].name(), "send-study-answer");
        assert_eq!(declined(&actions), code);
    }
}

#[test]
fn a_known_study_is_answered_at_once() {
    let mut bench = Bench::welcomed(setup());
    bench.offer("mnist", 1);
    let actions = bench.take();
    assert_eq!((actions.len(), declined(&actions)), (1, None));
}

#[test]
fn a_study_with_too_few_signatures_is_judged_again_when_offered_again() {
    let mut bench = Bench::welcomed(setup());
    let code = Code::BadSignature;
    bench.offer("other", 3);
    let judge = id_of(&bench.take(), "judge-study");
    bench.done(judge, Done::Judged(Ok(judged(Decision::Refused { code }))));
    assert_eq!(declined(&bench.take()), Some(code));
    bench.session.handle_decision(digest(3), judged(Decision::Accepted), bench.now);
    assert!(bench.take().is_empty(), "nobody accepts what the signatures do not carry");

    bench.lose_connection();
    bench.reconnect();
    bench.offer("other", 3);
    let judge = id_of(&bench.take(), "judge-study");
    bench.done(judge, Done::Judged(Ok(judged(Decision::NeedsPerson))));
    assert_eq!(declined(&bench.take()), Some(Code::NotAccepted));
}

#[test]
fn a_person_accepts_or_refuses_while_the_study_is_on_offer() {
    let mut bench = Bench::welcomed(setup());
    bench.offer("other", 3);
    let judge = id_of(&bench.take(), "judge-study");
    bench.done(judge, Done::Judged(Ok(judged(Decision::NeedsPerson))));
    bench.take();
    bench.session.handle_decision(digest(3), judged(Decision::Accepted), bench.now);
    let actions = bench.take();
    assert_eq!((actions[0].name(), declined(&actions)), ("send-study-answer", None));
    let code = Code::RefusedBySite;
    bench.session.handle_decision(digest(3), judged(Decision::Refused { code }), bench.now);
    assert_eq!(declined(&bench.take()), Some(code));
    bench.session.handle_decision(digest(3), judged(Decision::Accepted), bench.now);
    assert_eq!(bench.names(), ["send-study-answer"], "people may change their mind");
}

#[test]
fn a_decision_without_a_connection_is_told_at_the_next() {
    let mut bench = Bench::welcomed(setup());
    bench.offer("other", 3);
    let judge = id_of(&bench.take(), "judge-study");
    bench.lose_connection();
    bench.done(judge, Done::Judged(Ok(judged(Decision::NeedsPerson))));
    bench.session.handle_decision(digest(3), judged(Decision::Accepted), bench.now);
    assert!(bench.take().is_empty());
    bench.reconnect();
    bench.offer("other", 3);
    let actions = bench.take();
    assert_eq!((actions[0].name(), declined(&actions)), ("send-study-answer", None));
}

#[test]
fn a_study_that_could_not_be_fetched_is_tried_again_while_on_offer() {
    let mut bench = Bench::welcomed(setup());
    bench.offer("other", 3);
    let judge = id_of(&bench.take(), "judge-study");
    let fault = Fault::passing(Code::SiteFault, "the disk is full");
    bench.done(judge, Done::Judged(Err(fault.clone())));
    assert_eq!(declined(&bench.take()), Some(Code::SiteFault));
    bench.pass(10_000);
    let judge = id_of(&bench.take(), "judge-study");
    bench.done(judge, Done::Judged(Err(fault)));
    bench.lose_connection();
    bench.pass(20_000);
    let asked = bench.names();
    assert!(!asked.contains(&"judge-study"), "{asked:?}");
}

#[test]
fn a_refused_study_stops_and_nothing_more_of_it_leaves() {
    let mut bench = Bench::welcomed(setup());
    let earlier = bench.deliver("ward", 1);
    let train = bench.begin(plan("mnist", 1));
    let code = Code::RefusedBySite;
    bench.session.handle_decision(digest(1), judged(Decision::Refused { code }), bench.now);
    let actions = bench.take();
    assert!(actions.contains(&Action::Stop { id: train }));
    assert_eq!(failed(&actions), Some(code));
    bench.done(train, Done::Trained(Ok(trained())));
    assert!(bench.take().is_empty(), "what was trained is dropped");
    bench.say(plan("mnist", 2));
    assert_eq!(declined(&bench.take()), Some(code));

    bench.session.handle_decision(digest(2), judged(Decision::Refused { code }), bench.now);
    assert_eq!(settles(&bench.take()), [("ward".to_owned(), 1, false)]);
    bench.say(wanted(&earlier));
    assert_eq!(bench.names(), ["send-other"], "refused, not pushed");
}

#[test]
fn a_flood_of_studies_is_bounded_and_declined() {
    let mut bench = Bench::welcomed(setup());
    for n in 0..2_000_u32 {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_le_bytes());
        bench.say(consilium_common::wire::messages::StudyOffer {
            study: name("other"),
            version: 1,
            digest: consilium_common::ids::Digest(bytes),
            bytes: 900,
            signatures: Vec::new(),
        });
    }
    let actions = bench.take();
    assert!(actions.iter().filter(|a| a.name() == "judge-study").count() <= 256);
    assert_eq!(declined(&actions), Some(Code::Busy));
    assert!(bench.session.status(bench.now).studies.len() <= 256);
    bench.lose_connection();
    bench.reconnect();
    bench.offer("mnist", 1);
    assert_eq!(declined(&bench.take()), None, "an accepted study has its place");
}
