//! The bytes of every frame, record and document, pinned. A changed line in `golden/` is a changed
//! protocol: after the first release tag it must become a new kind instead.
//!
//! To write the files anew: `CONSILIUM_BLESS=1 cargo nextest run -p consilium-tests --test wire_golden`.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::collections::BTreeMap;
use std::path::Path;

use consilium_common::audit::Record;
use consilium_common::ids::{Digest, Round};
use consilium_common::signed::Document;
use consilium_common::update::sections::{HEADER_BYTES, Header, encode_update};
use consilium_common::wire::frame::Decoder;
use consilium_common::wire::messages::Message;
use consilium_tests::enrol_samples::EnrolSamples;
use consilium_tests::samples::Samples;

#[expect(clippy::disallowed_methods, reason = "goldens are made by hand, nothing is lost")]
fn check(file: &str, actual: &BTreeMap<String, String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(file);
    let text: String = actual.iter().map(|(name, bytes)| format!("{name} {bytes}\n")).collect();
    if std::env::var_os("CONSILIUM_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    for (ours, theirs) in text.lines().zip(golden.lines()) {
        assert_eq!(ours, theirs, "{file} differs");
    }
    assert_eq!(text.lines().count(), golden.lines().count(), "{file} has other lines");
}

fn messages() -> Vec<Message> {
    let samples = Samples::new().unwrap();
    [samples.from_agent(), samples.from_coordinator()].concat()
}

#[test]
fn every_frame_has_its_golden_bytes_and_comes_back_equal() {
    let mut golden = BTreeMap::new();
    for message in messages() {
        let bytes = message.to_frame().unwrap().encode();
        let mut decoder = Decoder::new();
        decoder.feed(&bytes);
        let frame = decoder.next_frame().unwrap().unwrap();
        assert_eq!(Message::from_frame(&frame).unwrap().as_ref(), Some(&message));
        let before =
            golden.insert(format!("{:03} {}", message.kind(), message.name()), hex::encode(bytes));
        assert!(before.is_none(), "two samples of {}", message.name());
    }
    check("frames.txt", &golden);
}

#[test]
fn every_record_has_its_golden_bytes_and_comes_back_equal() {
    let mut golden = BTreeMap::new();
    let enrol = EnrolSamples::new().unwrap().records();
    for record in Samples::new().unwrap().records().into_iter().chain(enrol) {
        let payload = record.payload().unwrap();
        assert_eq!(Record::decode(record.kind(), &payload).unwrap().as_ref(), Some(&record));
        golden.insert(format!("{:03} {}", record.kind(), record.name()), hex::encode(payload));
    }
    check("records.txt", &golden);
}

#[test]
fn signed_documents_have_their_golden_text() {
    let samples = Samples::new().unwrap();
    let receipt = serde_json::to_string(&samples.receipt()).unwrap();
    let roll_call = String::from_utf8(samples.roll_call().to_bytes().unwrap()).unwrap();
    assert_eq!(
        consilium_common::audit::Receipt::parse(receipt.as_bytes()).unwrap(),
        samples.receipt()
    );
    assert_eq!(
        consilium_common::audit::RollCall::parse(roll_call.as_bytes()).unwrap(),
        samples.roll_call()
    );
    let golden = [("receipt".to_owned(), receipt), ("roll-call".to_owned(), roll_call)];
    check("documents.txt", &BTreeMap::from(golden));
}

#[test]
fn an_update_has_its_golden_bytes_and_comes_back_equal() {
    let header = Header {
        round: Round(300),
        step_exponent: -26,
        study: Digest([1; 32]),
        base: Digest([2; 32]),
        layout: Digest([3; 32]),
        shared_len: 3,
        control: None,
        words_len: 2,
    };
    let bytes = encode_update(&header, &[1, -1, 1 << 30], &[15_000, 0]);
    assert_eq!(Header::decode(&bytes, bytes.len() as u64).unwrap(), header);
    assert_eq!(bytes.len(), HEADER_BYTES + 4 * 5);
    check("update.txt", &BTreeMap::from([("update".to_owned(), hex::encode(bytes))]));
}
