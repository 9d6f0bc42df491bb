//! Withdrawals that sites report: what cannot be is refused, and nothing of it is recorded.

use consilium_common::audit::withdrawal::{Remedy, VersionRange, ranges_of};
use consilium_common::ids::{Digest, Version};
use consilium_common::wire::messages::Withdrawal;

use super::*;

fn withdrawal(study: &str, versions: Vec<VersionRange>) -> Withdrawal {
    let (id, remedy) = (Digest([9; 32]), Remedy::Retire);
    Withdrawal { id, study: study.parse().unwrap(), versions, remedy }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_of_what_is_not_there_is_refused_and_not_recorded() {
    let town = Town::new().await;
    let client = town.client("operator/ada").await;
    let signed = town.signed_study();
    let _submitted: CommandDocument = client.ask(&Request::StudySubmit { signed }).await.unwrap();
    let mut agent = town.agent("st-mary").await;
    agent.welcome().await;
    let first = ranges_of([Version(1)]);
    for (wrong, code, words) in [
        (withdrawal("nope", first.clone()), Code::UnknownStudy, "there is no study nope"),
        (withdrawal("demo", first), Code::Malformed, "the newest version is v0"),
        (withdrawal("demo", Vec::new()), Code::Malformed, "it names no version"),
    ] {
        agent.say(wrong).await;
        let refusal = loop {
            if let Message::Refusal(refusal) = agent.hear().await {
                break refusal;
            }
        };
        assert_eq!(refusal.code, code, "{refusal:?}");
        assert!(refusal.detail.contains(words), "{refusal:?}");
    }
    let records = town.end().await;
    assert!(!records.iter().any(|record| matches!(record, Record::Withdrawal(_))));
}
