//! A study that was signed with a model to start from: an operator brings the bytes, nobody else any.

use consilium_common::ids::Digest;
use consilium_common::signed::Signed;
use consilium_common::tensor::flat::encode_model;
use consilium_io::net::transfer::Source;

use super::*;
use crate::document::InitialDocument;

/// A signed study and the model that it was given.
fn given(town: &Town, vector: [f32; 4]) -> (Signed<Study>, Vec<u8>) {
    let seeded = town.signed_study().parse_unverified().unwrap();
    let draft = Study { initial: None, ..seeded };
    let study = draft.clone().resolve_from(&vector).unwrap();
    let key = keys::load(&town.dir.path().join("ca/issued/operator/ada/operator.key")).unwrap();
    let signed = Signed::sign(study.to_text().unwrap().into_bytes(), &key);
    (signed, encode_model(&draft.layout().unwrap(), &vector))
}

async fn offer(client: &Client, signed: &Signed<Study>) -> Result<InitialDocument, Failure> {
    client.ask(&Request::InitialOffer { signed: signed.clone() }).await
}

async fn submit(client: &Client, signed: &Signed<Study>) -> Result<CommandDocument, Failure> {
    client.ask(&Request::StudySubmit { signed: signed.clone() }).await
}

async fn push(client: &Client, model: &[u8]) -> Result<(), Failure> {
    let source = Source::Bytes(model.to_vec().into());
    client.push(&source, Digest::of(model), &mut |_| {}).await
}

#[tokio::test]
async fn a_given_model_is_brought_once_is_v0_and_outlives_the_coordinator() {
    let town = Town::new().await;
    let (signed, model) = given(&town, [1.0, -2.0, 0.5, 0.0]);
    let digest = Digest::of(&model);
    let client = town.client("operator/ada").await;
    let missing = submit(&client, &signed).await.unwrap_err();
    assert!(missing.exit == Exit::Refused && missing.message.contains("--start"), "{missing}");
    assert!(push(&client, &model).await.is_err(), "what nobody awaits is not taken");

    let offered = offer(&client, &signed).await.unwrap();
    assert_eq!((offered.wanted, offered.model, offered.bytes), (true, digest, model.len() as u64));
    let other = [&model[..], &[0; 4]].concat();
    assert!(push(&client, &other).await.is_err(), "another model is not taken");
    push(&client, &model).await.unwrap();
    assert!(!offer(&client, &signed).await.unwrap().wanted, "it is here");
    assert_eq!(submit(&client, &signed).await.unwrap().state, RunState::Submitted);
    client.close().await;

    let Town { dir, mut end, served, .. } = town;
    let _asked = end.take().unwrap().send(());
    served.await.unwrap().unwrap();
    let roster = dir.path().join("roster.toml");
    let town = Town::serve(dir, roster).await;
    let client = town.client("operator/ada").await;
    let status: StatusDocument = client.ask(&Request::Status { study: None }).await.unwrap();
    assert_eq!((status.studies[0].model, status.studies[0].version.0), (digest, 0));
    assert_eq!(status.studies[0].best, None);
}

#[tokio::test]
async fn only_an_operator_brings_a_model_and_only_one_that_was_signed() {
    let town = Town::new().await;
    let (signed, model) = given(&town, [1.0; 4]);
    let eve = town.client("auditor/eve").await;
    assert_eq!(offer(&eve, &signed).await.unwrap_err().exit, Exit::Refused);
    let ada = town.client("operator/ada").await;
    assert!(offer(&ada, &signed).await.unwrap().wanted);
    assert!(push(&eve, &model).await.is_err(), "an auditor looks and does not bring");
    push(&ada, &model).await.unwrap();

    let seeded = offer(&ada, &town.signed_study()).await.unwrap_err();
    assert!(seeded.message.contains("follows from its seed"), "{seeded}");
    let bytes = signed.bytes.clone();
    let unsigned = Signed::from_parts(bytes, Vec::new());
    assert_eq!(offer(&ada, &unsigned).await.unwrap_err().exit, Exit::Refused);
}
