//! Researchers: they see their own studies and nothing else, command nothing, and propose.

use consilium_common::audit::record::Command;
use consilium_common::ids::{Digest, Version};
use consilium_common::signed::{Document, Signed};
use consilium_io::disk::Blobs;

use super::*;
use crate::document::{
    AuditExportDocument, MembersDocument, ModelListDocument, ModelShowDocument, ReportDocument,
    StudyListDocument, StudyProposalDocument, StudyProposalLine, StudyProposalsDocument,
    StudyShowDocument,
};
use crate::limits::RESEARCHER_RECORDS;

/// A resolved study of so many parameters that lists these researchers.
fn text(name: &str, version: u64, parameters: u32, researchers: &[&str]) -> Vec<u8> {
    let draft = format!(
        "[study]\nname = \"{name}\"\nversion = {version}\nresearchers = {researchers:?}\n[model]\n\
         family = \"synthetic\"\nparameters = {parameters}\n[aggregation]\nclip_norm = 1.0\n\
         [privacy]\nmode = \"inspectable\"\n"
    );
    let study = Study::read(&draft, "draft").unwrap().resolve().unwrap();
    study.to_text().unwrap().into_bytes()
}

fn signed(town: &Town, text: Vec<u8>) -> Signed<Study> {
    let key = town.dir.path().join("ca/issued/operator/ada/operator.key");
    Signed::sign(text, &keys::load(&key).unwrap())
}

async fn submit(town: &Town, ada: &Client, text: Vec<u8>) {
    let request = Request::StudySubmit { signed: signed(town, text) };
    let _done: CommandDocument = ada.ask(&request).await.unwrap();
}

async fn propose(who: &Client, text: Vec<u8>) -> Result<StudyProposalLine, Failure> {
    who.ask(&Request::StudyPropose { text }).await
}

async fn proposals(who: &Client) -> Vec<String> {
    let list: StudyProposalsDocument = who.ask(&Request::StudyProposals).await.unwrap();
    let line = |p: &StudyProposalLine| format!("{} {} {}", p.study, p.study_version, p.by);
    list.proposals.iter().map(line).collect()
}

/// What one hears of a study that is asked for by name, in each way.
async fn hears(who: &Client, name: &str) -> Vec<Result<(), Failure>> {
    let study = || name.parse().unwrap();
    let status = Request::Status { study: Some(study()) };
    let show = Request::ModelShow { study: study(), version: Some(Version(0)) };
    vec![
        who.ask::<StatusDocument>(&status).await.map(drop),
        who.ask::<StudyShowDocument>(&Request::StudyShow { study: study() }).await.map(drop),
        who.ask::<ReportDocument>(&Request::Report { study: study() }).await.map(drop),
        who.ask::<ModelListDocument>(&Request::ModelList { study: study() }).await.map(drop),
        who.ask::<ModelShowDocument>(&show).await.map(drop),
    ]
}

fn by_rosa(record: &Record) -> Option<&Command> {
    let Record::Command(command) = record else { return None };
    command.by.ends_with("/researcher/rosa").then_some(command)
}

async fn status(who: &Client) -> (Vec<String>, StatusDocument) {
    let status: StatusDocument = who.ask(&Request::Status { study: None }).await.unwrap();
    (status.studies.iter().map(|study| study.study.to_string()).collect(), status)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_researcher_sees_their_own_studies_and_nothing_of_the_others() {
    let town = Town::new().await;
    let ada = town.client("operator/ada").await;
    submit(&town, &ada, text("ours", 1, 4, &["emmy", "rosa"])).await;
    submit(&town, &ada, text("theirs", 1, 5, &["emmy"])).await;
    let rosa = town.client("researcher/rosa").await;
    assert_eq!(status(&rosa).await.0, ["ours"]);
    assert_eq!(status(&town.client("researcher/emmy").await).await.0, ["ours", "theirs"]);
    let list: StudyListDocument = rosa.ask(&Request::StudyList).await.unwrap();
    assert_eq!(list.studies.len(), 1);
    assert!(hears(&rosa, "ours").await.iter().all(Result::is_ok));
    let (hidden, absent) = (hears(&rosa, "theirs").await, hears(&rosa, "nowhere").await);
    for (hidden, absent) in hidden.into_iter().zip(absent) {
        let (hidden, absent) = (hidden.unwrap_err(), absent.unwrap_err());
        assert_eq!((hidden.exit, absent.exit), (Exit::Refused, Exit::Refused));
        assert_eq!(hidden.message.replace("theirs", "nowhere"), absent.message);
        assert!(hidden.message.ends_with("(known: ours)"), "{hidden}");
    }

    // Models of her own studies alone, and no other blob.
    let all = status(&ada).await.1.studies;
    let (ours, theirs) = (&all[0], &all[1]);
    let blobs = Blobs::open(&town.dir.path().join("rosa")).unwrap();
    assert!(rosa.fetch_if_there(&blobs, ours.model, 1 << 20).await.unwrap());
    let exported: AuditExportDocument = ada.ask(&Request::AuditExport).await.unwrap();
    for hidden in [theirs.model, theirs.digest, ours.digest, exported.digest] {
        assert!(!rosa.fetch_if_there(&blobs, hidden, 1 << 20).await.unwrap(), "{hidden}");
    }

    // The next version of a study lists whom it lists.
    submit(&town, &ada, text("ours", 2, 4, &["emmy"])).await;
    submit(&town, &ada, text("theirs", 2, 5, &["rosa"])).await;
    assert_eq!(status(&rosa).await.0, ["theirs"]);
    let again = Blobs::open(&town.dir.path().join("again")).unwrap();
    assert!(!rosa.fetch_if_there(&again, ours.model, 1 << 20).await.unwrap());
    assert!(rosa.fetch_if_there(&again, theirs.model, 1 << 20).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_site_did_is_no_researchers_to_know() {
    let town = Town::new().await;
    let ada = town.client("operator/ada").await;
    submit(&town, &ada, text("ours", 1, 4, &["rosa"])).await;
    let mut agent = town.agent("st-mary").await;
    agent.welcome().await;
    let must_know = consilium_common::wire::frame::Frame { kind: 60_000, flags: 1, body: vec![] };
    agent.writer.write(&must_know).await.unwrap();
    let _closed = agent.peer.closed().await;
    let seen = status(&town.client("researcher/rosa").await).await.1;
    assert_eq!(status(&ada).await.1.coordinator.quarantined.len(), 1);
    assert_eq!(seen.coordinator.quarantined, []);
    assert_eq!(seen.studies[0].sites[0].state, "quarantined", "in an own study it is no secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_researcher_commands_nothing_and_each_attempt_stands_in_the_log() {
    let town = Town::new().await;
    let ada = town.client("operator/ada").await;
    let ours = text("ours", 1, 4, &["rosa"]);
    submit(&town, &ada, ours.clone()).await;
    let rosa = town.client("researcher/rosa").await;
    let study = || "ours".parse().unwrap();
    let study_signed = || signed(&town, ours.clone());
    let asked = [
        (Request::StudySubmit { signed: study_signed() }, "study submit"),
        (Request::InitialOffer { signed: study_signed() }, "study submit --start"),
        (Request::StudyStart { study: study() }, "study start ours"),
        (Request::StudyPause { study: study() }, "study pause ours"),
        (Request::StudyStop { study: study() }, "study stop ours"),
        (
            Request::SiteInvite { site: "a".parse().unwrap(), token: Digest([1; 32]) },
            "site invite a",
        ),
        (Request::Members, "site list"),
        (Request::AuditExport, "audit export"),
    ];
    for (request, _) in &asked {
        let told = rosa.ask::<serde_json::Value>(request).await.unwrap_err();
        assert_eq!(told.exit, Exit::Refused, "{told}");
        assert!(told.message.contains("researcher/rosa") && told.message.contains("bundle is"));
    }
    let ask = Request::StudyPropose { text: ours.clone() };
    for who in ["operator/ada", "auditor/eve"] {
        let told = town.client(who).await.ask::<StudyProposalLine>(&ask).await.unwrap_err();
        assert!(told.message.contains("a researcher's bundle is needed"), "{told}");
    }
    let state = status(&ada).await.1.studies[0].state;
    assert_eq!(state, RunState::Submitted, "nothing has happened");
    let _members: MembersDocument = ada.ask(&Request::Members).await.unwrap();
    let records = town.end().await;
    let refused: Vec<&str> = records
        .iter()
        .filter_map(|record| {
            let command = by_rosa(record)?;
            assert!(command.outcome.starts_with("refused: "), "{command:?}");
            Some(command.command.as_str())
        })
        .collect();
    assert_eq!(refused.len(), asked.len(), "{refused:?}");
    for (words, (_, expected)) in refused.into_iter().zip(&asked) {
        assert!(words.starts_with(expected), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_outlives_the_coordinator_until_operators_submit_it() {
    let town = Town::new().await;
    let rosa = town.client("researcher/rosa").await;
    let idea = text("idea", 1, 4, &["rosa"]);
    let first = propose(&rosa, idea.clone()).await.unwrap();
    assert_eq!((first.digest, first.study_version), (Digest::of(&idea), 1));
    assert_eq!(propose(&rosa, idea.clone()).await.unwrap(), first, "who did not hear asks again");
    let emmy = town.client("researcher/emmy").await;
    propose(&emmy, text("idea", 1, 4, &["emmy"])).await.unwrap();
    rosa.close().await;

    let Town { dir, mut end, served, .. } = town;
    let _asked = end.take().unwrap().send(());
    served.await.unwrap().unwrap();
    let roster = dir.path().join("roster.toml");
    let town = Town::serve(dir, roster).await;
    let (ada, rosa) = (town.client("operator/ada").await, town.client("researcher/rosa").await);
    for who in [&ada, &town.client("auditor/eve").await] {
        assert_eq!(proposals(who).await, ["idea 1 emmy", "idea 1 rosa"]);
    }
    assert_eq!(proposals(&rosa).await, ["idea 1 rosa"]);
    let one = |by: Option<&str>| Request::StudyProposal {
        study: "idea".parse().unwrap(),
        by: by.map(|by| by.parse().unwrap()),
    };
    let told = ada.ask::<StudyProposalDocument>(&one(None)).await.unwrap_err();
    assert!(told.message.contains("proposed by emmy, rosa"), "{told}");
    let told = rosa.ask::<StudyProposalDocument>(&one(Some("emmy"))).await.unwrap_err();
    assert!(told.message.contains("no proposal of study idea by emmy is open"), "{told}");
    let shown: StudyProposalDocument = ada.ask(&one(Some("rosa"))).await.unwrap();
    assert_eq!((shown.text.as_bytes(), &shown.proposal), (idea.as_slice(), &first));

    submit(&town, &ada, shown.text.into_bytes()).await;
    assert_eq!(proposals(&ada).await, [""; 0], "both are over: the study is there");
    let (seen, document) = status(&rosa).await;
    assert_eq!((seen, document.studies[0].digest), (vec!["idea".to_owned()], first.digest));
    let records = town.end().await;
    let kept = records.iter().filter(|record| matches!(record, Record::Proposal(_))).count();
    assert_eq!(kept, 2, "what was proposed twice is kept once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_is_checked_as_a_submission_is() {
    let town = Town::new().await;
    let ada = town.client("operator/ada").await;
    submit(&town, &ada, text("ours", 2, 4, &["rosa"])).await;
    submit(&town, &ada, text("theirs", 1, 4, &["emmy"])).await;
    let rosa = town.client("researcher/rosa").await;
    let good = String::from_utf8(text("idea", 1, 4, &["rosa"])).unwrap();
    let model = Study::parse(good.as_bytes()).unwrap().initial.unwrap().model.to_string();
    let other = good.replace(&model, &Digest([9; 32]).to_string());
    let draft = good.split("[initial]").next().unwrap().to_owned();
    let long = format!("{good}\n# {}", "x".repeat(300 << 10));
    for (bad, said) in [
        (text("idea", 1, 4, &["emmy"]), "does not list rosa"),
        (text("ours", 2, 4, &["rosa"]), "is known in version 2"),
        (text("ours", 3, 5, &["rosa"]), "versions of another layout"),
        (text("theirs", 2, 4, &["rosa"]), "does not list researcher rosa"),
        (other.into_bytes(), "[initial] names model"),
        (draft.into_bytes(), "is a draft"),
        (long.into_bytes(), "at most 262144 are accepted"),
        (vec![0xff], "not UTF-8"),
        (b"nonsense".to_vec(), "refused"),
    ] {
        let told = propose(&rosa, bad).await.unwrap_err();
        assert_eq!(told.exit, Exit::Refused, "{told}");
        assert!(told.message.contains(said), "{said}: {told}");
    }
    assert_eq!(proposals(&ada).await, [""; 0]);
    propose(&rosa, text("ours", 3, 4, &["rosa"])).await.unwrap();
    propose(&rosa, text("ours", 4, 4, &["rosa"])).await.unwrap();
    assert_eq!(proposals(&ada).await, ["ours 4 rosa"]);

    // Each is a record: who goes on without end is held off, and no record more is written.
    let mut written = 9 + 2;
    loop {
        match propose(&rosa, b"nonsense".to_vec()).await.unwrap_err() {
            told if told.message.contains("try again in a minute") => break,
            _ => written += 1,
        }
        assert!(written < 100, "no end: {RESEARCHER_RECORDS:?}");
    }
    assert_eq!(written, 32);
    let records = town.end().await;
    assert_eq!(records.iter().filter_map(by_rosa).count(), written);
}
