//! The site's ledger and its people, with the daemon as a process: nothing leaves before it is written,
//! nothing leaves that cannot be written, and who allowed it is there to be read.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};

use consilium_common::signed::Signed;
use consilium_common::study::Study;
use consilium_common::wire::messages::{Answer, Message};
use consilium_common::wire::reject::Code;
use serde_json::Value;

use crate::coordinator::{Agent, Coordinator, plan, ranges};
use crate::daemon::{Daemon, WITHIN, accepted, planned, until};
use crate::support;

fn run(config: &Path, words: &[&str]) -> Output {
    Command::new(support::agent()).args(words).arg("--config").arg(config).output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn done(config: &Path, words: &[&str]) -> String {
    let output = run(config, words);
    assert!(output.status.success(), "{words:?}: {}", told(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn code_of(message: &Message) -> Option<Code> {
    let Message::StudyAnswer(answer) = message else { panic!("{message:?}") };
    match answer.answer {
        Answer::Accepted => None,
        Answer::Declined { code, .. } => Some(code),
    }
}

/// A study with lines more in its file.
fn with(more: &str) -> Study {
    let text = support::study(2, 0).to_text().unwrap();
    Study::read(&format!("{text}\n{more}"), "load.toml").unwrap()
}

/// One round up to its roll call.
async fn round(
    coordinator: &Coordinator,
    agent: &mut Agent,
    study: &Study,
    signed: &Signed<Study>,
) {
    let plan = plan(study, signed, 1);
    planned(agent, &plan).await;
    let offer = agent.hear_offer().await;
    agent.want(&offer).await;
    until("the push", || coordinator.blobs.lock().unwrap().contains_key(&offer.digest)).await;
    agent.say(coordinator.receipt(&offer, signed, &coordinator.log_key)).await;
    agent.say(coordinator.roll_call(&offer, &plan, &coordinator.log_key)).await;
    let retained = coordinator.state().join("retained");
    until("the settling", || retained.read_dir().unwrap().next().is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_is_told_from_acceptance_to_settling_and_verifies_anywhere() {
    let coordinator = Coordinator::start();
    let config = coordinator.configure(WITHIN);
    let mut daemon = Daemon::start(&config);
    let mut agent = coordinator.welcome().await;
    let study = support::study(2, 0);
    let signed = coordinator.publish(&study);
    accepted(&mut agent, &study, &signed).await;
    round(&coordinator, &mut agent, &study, &signed).await;

    assert!(done(&config, &["ledger", "verify"]).starts_with("whole: "), "while it runs");
    daemon.signal("TERM");
    assert!(daemon.child.wait().unwrap().success());
    let shown: Value = serde_json::from_str(&done(&config, &["ledger", "show", "--json"])).unwrap();
    let entries = shown["entries"].as_array().unwrap();
    let what: Vec<&str> = entries.iter().map(|entry| entry["what"].as_str().unwrap()).collect();
    let expected = ["started", "connected", "fetched", "study", "fetched", "made", "sending"];
    assert_eq!(what[..7], expected, "{shown}");
    // The roll call may be there before the push has heard its own end.
    assert!(
        matches!(
            what[7..],
            ["sent", "settled", "disconnected"] | ["settled", "sent", "disconnected"]
        ),
        "{shown}"
    );
    let range = &entries[6];
    assert_eq!(range["accepted"], entries[3]["record"], "a range names the acceptance");
    assert_eq!((&range["digest"], &range["bytes"]), (&entries[5]["digest"], &entries[5]["bytes"]));
    assert_eq!(shown["left"]["load"]["bytes"], range["bytes"]);
    let said = entries[9]["said"].as_object().unwrap();
    assert_eq!(said["UpdateOffer"]["messages"], 1, "{said:?}");
    let of_study = done(&config, &["ledger", "show", "--study", "load"]);
    assert_eq!(of_study.lines().count(), 8, "{of_study}");
    assert!(of_study.contains("allowed by load@"), "{of_study}");
    assert_eq!(done(&config, &["ledger", "show", "--since", "2999-01-01"]), "");

    let file = config.with_file_name("ledger.txt");
    done(&config, &["ledger", "export", file.to_str().unwrap()]);
    let key = coordinator.site_bundle.join("site.pub");
    let words = ["ledger", "verify", file.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let nowhere = Path::new("/nowhere/agent.toml");
    assert!(done(nowhere, &words).contains("the signed head covers all of them"));
    let other = coordinator.site_bundle.join("../../operator/ada/operator.pub");
    let words = ["ledger", "verify", file.to_str().unwrap(), "--key", other.to_str().unwrap()];
    assert_eq!(run(nowhere, &words).status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_cannot_be_written_holds_everything_back_until_it_can() {
    let coordinator = Coordinator::start();
    let config = coordinator.configure(WITHIN);
    // A file that may not grow is refused bytes as on a full disk; the signal would end the process.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\" 2>/dev/null"]).arg(support::agent());
    let daemon = Daemon::start_by(&mut shell, &config);
    let mut agent = coordinator.welcome().await;
    let study = support::study(2, 0);
    let signed = coordinator.publish(&study);
    accepted(&mut agent, &study, &signed).await;
    planned(&mut agent, &plan(&study, &signed, 1)).await;
    let offer = agent.hear_offer().await;

    let folder = coordinator.state().join("ledger");
    let bytes = std::fs::metadata(folder.join("log")).unwrap().len();
    let limit = |soft: &str| {
        let pid = daemon.child.id().to_string();
        let limit = format!("--fsize={soft}:");
        assert!(Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap().success());
    };
    limit(&(bytes + 40).to_string());
    agent.want(&offer).await;
    let status =
        || -> Value { serde_json::from_str(&done(&config, &["status", "--json"])).unwrap() };
    until("the trouble to be told", || status()["ledger"]["trouble"].is_string()).await;
    let again = agent.hear_offer().await;
    assert_eq!(again, offer, "it is kept, and offered again");
    assert!(done(&config, &["status"]).contains("NOTHING IS SENT"));
    assert!(!coordinator.blobs.lock().unwrap().contains_key(&offer.digest));
    assert!(ranges(&folder, offer.digest).is_empty());
    assert!(
        done(&config, &["ledger", "verify"]).contains("whole"),
        "but for a half-written record"
    );

    limit("unlimited");
    agent.want(&offer).await;
    until("the push", || coordinator.blobs.lock().unwrap().contains_key(&offer.digest)).await;
    assert_eq!(ranges(&folder, offer.digest), [(0, offer.bytes)]);
    assert!(status()["ledger"]["trouble"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_ledger_stops_the_start_and_names_the_record() {
    let coordinator = Coordinator::start();
    let config = coordinator.configure(WITHIN);
    let mut daemon = Daemon::start(&config);
    drop(coordinator.welcome().await);
    daemon.signal("TERM");
    assert!(daemon.child.wait().unwrap().success());
    let log = coordinator.state().join("ledger/log");
    let good = std::fs::read(&log).unwrap();
    let file = std::fs::File::options().write(true).open(&log).unwrap();
    file.write_all_at(&[good[60] ^ 1], 60).unwrap();
    for words in [["run"].as_slice(), &["ledger", "verify"]] {
        let output = run(&config, words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(told(&output).contains("record 0 at byte 16"), "{words:?}: {}", told(&output));
    }
    file.write_all_at(&[good[60]], 60).unwrap();
    let _runs_again = Daemon::start(&config);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_different_people_are_needed_where_the_policy_says_two() {
    let coordinator = Coordinator::start();
    let config = coordinator.configure("approvers_needed = 2");
    let daemon = Daemon::start(&config);
    let mut agent = coordinator.welcome().await;
    let study = support::study(2, 0);
    let signed = coordinator.publish(&study);
    assert_eq!(code_of(&agent.offer(&study, &signed).await), Some(Code::NotAccepted));
    let name = format!("load@{}", &signed.digest().to_string()[..8]);
    let accept = |by: &str| {
        done(&config, &["study", "accept", &name, "--by", by, "--reason", "vote EA1/123"])
    };
    for by in ["Dr. Ada", "dr.  ada"] {
        assert!(accept(by).contains("accepted by 1 of 2"));
        assert_eq!(code_of(&agent.hear().await), Some(Code::NotAccepted));
    }
    let status: Value = serde_json::from_str(&done(&config, &["status", "--json"])).unwrap();
    let why = status["studies"][0]["why"].as_str().unwrap();
    assert!(why.starts_with("accepted by dr.  ada (vote EA1/123): 1 of 2 people"), "{why}");

    // The second decides while no daemon runs.
    daemon.kill();
    assert!(accept("Ben").contains(": accepted"));
    let shown = done(&config, &["study", "show", "load"]);
    assert!(shown.contains("accepted by Ben at ") && shown.contains("vote EA1/123"), "{shown}");
    let _daemon = Daemon::start(&config);
    let mut agent = coordinator.welcome().await;
    accepted(&mut agent, &study, &signed).await;
    let ledger: Value =
        serde_json::from_str(&done(&config, &["ledger", "show", "--json"])).unwrap();
    let of = |what: &str| {
        let entries = ledger["entries"].as_array().unwrap().iter();
        entries.filter(|entry| entry["what"] == what).cloned().collect::<Vec<Value>>()
    };
    let by: Vec<Value> = of("word").into_iter().map(|word| word["by"].clone()).collect();
    assert_eq!(by, ["Dr. Ada", "dr.  ada", "Ben"]);
    assert_eq!(of("study").pop().unwrap()["stands"], "accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_whose_approval_has_ended_is_refused_and_nobody_can_accept_it() {
    let coordinator = Coordinator::start();
    let config = coordinator.configure("require_governance = [\"approved_until\"]");
    let _daemon = Daemon::start(&config);
    let mut agent = coordinator.welcome().await;
    for (more, expected) in [
        ("", Code::Policy),
        ("[governance]\napproved_until = \"2020-01-01\"\n", Code::ApprovalExpired),
        ("[governance]\napproved_until = \"2999-01-01\"\n", Code::NotAccepted),
    ] {
        let study = with(more);
        let signed = coordinator.publish(&study);
        assert_eq!(code_of(&agent.offer(&study, &signed).await), Some(expected), "{more}");
        let name = format!("load@{}", signed.digest());
        let output =
            run(&config, &["study", "accept", &name, "--by", "Ada", "--reason", "I want to"]);
        let code = if expected == Code::NotAccepted { 0 } else { 4 };
        assert_eq!(output.status.code(), Some(code), "{more}: {}", told(&output));
    }
    assert_eq!(code_of(&agent.hear().await), None);
    let status = done(&config, &["status"]);
    assert!(status.contains("the study's approval ended on 2020-01-01"), "{status}");
}
