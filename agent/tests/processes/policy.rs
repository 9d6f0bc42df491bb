//! The daemon's rules of the moment against a coordinator that the test plays, and a policy that is read
//! again at SIGHUP.

use std::time::Duration;

use consilium_common::time::{Clock as _, Millis};
use consilium_common::wire::messages::{Answer, Message, Plan};
use consilium_common::wire::reject::Code;
use consilium_io::SystemClock;

use crate::coordinator::{Agent, Coordinator, plan};
use crate::daemon::{Daemon, accepted, until};
use crate::support;

const WITHIN: &str = "accept = \"within-policy\"";
const HOUR: u64 = 3_600_000;

/// Rules with hours that begin in three hours and last for one.
fn closed() -> String {
    let minute = SystemClock::open().wall().0 / 60_000;
    let clock = |after: u64| {
        let of_day = (minute + after) % (24 * 60);
        format!("{:02}:{:02}", of_day / 60, of_day % 60)
    };
    format!("{WITHIN}\nhours = \"{}-{} UTC\"", clock(180), clock(240))
}

async fn answer_to(agent: &mut Agent, plan: &Plan) -> Answer {
    agent.say(plan.clone()).await;
    let message = agent.hear().await;
    let Message::PlanAnswer(said) = message else { panic!("expected an answer: {message:?}") };
    assert_eq!((&said.study, said.round), (&plan.study, plan.round));
    said.answer
}

/// What the site says of its study next.
async fn word_on_study(agent: &mut Agent) -> Answer {
    let message = agent.hear().await;
    let Message::StudyAnswer(said) = message else { panic!("expected an answer: {message:?}") };
    said.answer
}

fn log(coordinator: &Coordinator) -> String {
    let folder = coordinator.state().parent().unwrap().to_owned();
    std::fs::read_to_string(folder.join("agent.log")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hours_decline_with_the_next_opening_until_the_policy_is_read_again() {
    let coordinator = Coordinator::start();
    let daemon = Daemon::start(&coordinator.configure(&closed()));
    let mut agent = coordinator.welcome().await;
    let study = support::study(2, 1);
    let signed = coordinator.publish(&study);
    accepted(&mut agent, &study, &signed).await;
    let first = plan(&study, &signed, 1);
    let answer = answer_to(&mut agent, &first).await;
    let Answer::Declined { code: Code::OutsideHours, retry_after: Some(Millis(wait)) } = answer
    else {
        panic!("{answer:?}");
    };
    assert!((3 * HOUR - 120_000..=3 * HOUR).contains(&wait), "{wait} ms");
    let said = "plan declined: outside the hours, which begin again on";
    until("the log", || log(&coordinator).contains(said)).await;

    coordinator.configure(&format!("{WITHIN}\nhours = \"00:00-24:00 UTC\""));
    daemon.signal("HUP");
    assert_eq!(word_on_study(&mut agent).await, Answer::Accepted, "it may be asked again");
    assert_eq!(answer_to(&mut agent, &first).await, Answer::Accepted);
    assert_eq!(agent.hear_offer().await.round, first.round, "and it trains");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_policy_changes_nothing_and_a_stricter_one_withdraws_the_study() {
    let coordinator = Coordinator::start();
    let daemon = Daemon::start(&coordinator.configure(WITHIN));
    let mut agent = coordinator.welcome().await;
    // Training goes on until it is stopped.
    let study = support::study(100_000, 5);
    let signed = coordinator.publish(&study);
    accepted(&mut agent, &study, &signed).await;
    assert_eq!(answer_to(&mut agent, &plan(&study, &signed, 1)).await, Answer::Accepted);

    coordinator.configure(&format!("{WITHIN}\nmax_roundz = 3"));
    daemon.signal("HUP");
    until("the complaint", || log(&coordinator).contains("the policy stays as it was")).await;
    assert!(log(&coordinator).contains("did you mean `max_rounds`?"));
    coordinator.configure(&format!("{WITHIN}\nhours = \"20:00-06:00 Europe/Nowhere\""));
    daemon.signal("HUP");
    until("the next one", || log(&coordinator).contains("no time zone \"Europe/Nowhere\"")).await;
    let again = answer_to(&mut agent, &plan(&study, &signed, 1)).await;
    assert_eq!(again, Answer::Accepted, "it still trains under the old policy");

    coordinator.configure(&format!("{WITHIN}\nmax_rounds = 3"));
    daemon.signal("HUP");
    let message = agent.hear().await;
    let Message::TaskFailed(failed) = message else { panic!("expected the end: {message:?}") };
    assert_eq!(failed.code, Code::PolicyRounds);
    let declined = Answer::Declined { code: Code::PolicyRounds, retry_after: None };
    assert_eq!(word_on_study(&mut agent).await, declined);
    assert_eq!(answer_to(&mut agent, &plan(&study, &signed, 2)).await, declined);
    let text = log(&coordinator);
    assert!(text.contains("policy-rounds") && text.contains("`max_rounds = 3`"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_leave_no_faster_than_the_policy_says() {
    let coordinator = Coordinator::start();
    let rules = format!("{WITHIN}\nupload_mbit_s = 1.6");
    let _daemon = Daemon::start(&coordinator.configure(&rules));
    let mut agent = coordinator.welcome().await;
    // 600 kB an update: 128 KiB at once, the rest at 200 kB a second.
    let text = support::study(2, 1).to_text().unwrap();
    let draft = text.replace("parameters = 50", "parameters = 150000");
    let draft = draft.split("[initial]").next().unwrap();
    let study =
        consilium_common::study::Study::read(draft, "load.toml").unwrap().resolve().unwrap();
    let signed = coordinator.publish(&study);
    accepted(&mut agent, &study, &signed).await;
    assert_eq!(answer_to(&mut agent, &plan(&study, &signed, 1)).await, Answer::Accepted);
    let offer = agent.hear_offer().await;
    let clock = SystemClock::open();
    agent.want(&offer).await;
    let has = || coordinator.blobs.lock().unwrap().contains_key(&offer.digest);
    until("the push", has).await;
    let took = Duration::from_millis(clock.now().0);
    assert!(took >= Duration::from_millis(2_200), "{took:?} for {} bytes", offer.bytes);
}
