//! JSON lines: between daemon and worker, between people and the daemon; and lines as such.

use consilium_agent::control_socket::{Reply as Shown, Request as Asked, Which, Word};
use consilium_agent::lines::{Line, LineReader};
use consilium_agent::policy::Person;
use consilium_common::limits::WORKER_LINE_BYTES_MAX;
use consilium_common::worker::{
    Census, FailureCode, Holdout, Outcome, Phase, Prediction, Reply, Request, Task, Work,
    from_line, source, to_line,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{shown, transfer};

/// Bytes of a line in the target of lines.
const LINE_BYTES_MAX: usize = 16;

/// A line of either direction; written again it says the same.
pub(super) fn worker(bytes: &[u8]) {
    same(bytes, |reply: &mut Reply| match reply {
        Reply::Progress { loss, .. } => *loss = None,
        Reply::Done(outcome) => outcome.train_loss = None,
        Reply::Hello { .. } | Reply::Failed { .. } => {}
    });
    same(bytes, |request: &mut Request| {
        if let Request::Task(task) = request {
            task.source.holdout = Holdout::default();
        }
    });
}

/// A line of predictions, which a hospital's own trainer may have written.
pub(super) fn predictions(bytes: &[u8]) {
    same(bytes, |prediction: &mut Prediction| prediction.outputs = None);
    if let Ok(prediction) = from_line::<Prediction>(bytes) {
        let outputs = prediction.outputs.as_ref().map_or(0, Vec::len);
        assert!(prediction.class().is_none_or(|class| class < outputs));
    }
}

/// What people on this machine ask, and what they are told.
pub(super) fn control_socket(bytes: &[u8]) {
    same(bytes, |_: &mut Asked| {});
    // Statuses hold floats for display.
    if let Ok(reply) = serde_json::from_slice::<Shown>(bytes) {
        drop(serde_json::to_vec(&reply).unwrap());
    }
}

/// Holds a message against its own line, without the floats: JSON's may move in their last bit.
fn same<T>(bytes: &[u8], without_floats: impl FnOnce(&mut T))
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    match from_line::<T>(bytes) {
        Ok(mut message) => {
            without_floats(&mut message);
            let line = to_line(&message).unwrap();
            assert_eq!(from_line::<T>(&line).unwrap(), message);
        }
        Err(error) => shown(&error, bytes),
    }
}

/// Lines come whole; one over the bound is given up with little of it in memory.
pub(super) fn lines(bytes: &[u8]) {
    let mut expected = bytes.split(|byte| *byte == b'\n');
    transfer::block_on(async {
        let mut reader = LineReader::new(bytes, LINE_BYTES_MAX);
        loop {
            match reader.next().await.unwrap() {
                Line::Whole(line) => assert_eq!(Some(line.as_slice()), expected.next()),
                Line::TooLong(start) => {
                    let whole = expected.next().unwrap();
                    return assert!(whole.len() > LINE_BYTES_MAX && start.starts_with(whole));
                }
                Line::End => return assert!(expected.next().is_none_or(<[u8]>::is_empty)),
            }
        }
    });
}

pub(super) fn worker_lines() -> Vec<Vec<u8>> {
    let records = source::Source {
        holdout: Holdout::Own(source::OwnTest::Test),
        validation: Some(0.2),
        part: Some(source::Part { of: 4, index: 1, split: source::Split::Dirichlet(0.3), seed: 7 }),
        test_path: Some("/data/test.csv".into()),
        patient: Some("pid".to_owned()),
        exclude: Some("/data/optout.csv".into()),
        ..source::Source::new(source::SourceKind::Csv, "/data/train.csv".into())
    };
    let task = Task {
        protocol: 1,
        work: Work::Train,
        study: "/t/study.toml".into(),
        source: records,
        device: "cpu".to_owned(),
        threads: 1,
        seed: 7,
        round: 3,
        base: Some("/t/base".into()),
        out: Some("/t/out".into()),
        local: Some("/t/local".into()),
        local_out: Some("/t/next-local".into()),
        preparation: Some("/t/preparation".into()),
        correction: Some("/t/correction".into()),
        census: Some(Census {
            key: "/s/key".into(),
            used: "/t/used.set".into(),
            scored: "/t/scored.set".into(),
        }),
    };
    let (worker, device) = ("consilium-worker 0.1.0".to_owned(), "cpu".to_owned());
    let outcome = Outcome {
        examples: 10,
        holdout: 2,
        train_loss: Some(0.25),
        train_seconds: Some(1.5),
        steps: Some(0.5),
        findings: vec!["two records".to_owned()],
        ..Outcome::default()
    };
    let replies = [
        Reply::Hello { protocol: 1, worker, device },
        Reply::Progress { phase: Phase::Training, done: 9, total: 470, loss: Some(0.5) },
        Reply::Done(outcome),
        Reply::Failed { code: FailureCode::DataMissing, message: "no such folder".to_owned() },
    ];
    let requests = [Request::Task(Box::new(task)), Request::Stop];
    let requests = requests.iter().map(|request| to_line(request).unwrap());
    let long = vec![b' '; WORKER_LINE_BYTES_MAX + 1];
    replies.iter().map(|reply| to_line(reply).unwrap()).chain(requests).chain([long]).collect()
}

pub(super) fn prediction_lines() -> Vec<Vec<u8>> {
    let (outputs, trouble) = (Some(vec![0.25, 0.75]), Some("torn".to_owned()));
    let read = Prediction { id: "a.png".to_owned(), outputs, trouble: None };
    let unread = Prediction { id: "2".to_owned(), outputs: None, trouble };
    [read, unread].iter().map(|line| to_line(line).unwrap()).collect()
}

pub(super) fn requests() -> Vec<Vec<u8>> {
    let which = || Which { study: "mnist".parse().unwrap(), digest: "01ab".to_owned() };
    let text = |text: &str| text.to_owned();
    let word = Word { by: text("Ada"), reason: text("as agreed"), account: text("ada") };
    let decide = Asked::StudyDecide { which: which(), person: Person::Accepted, word };
    let asked = [Asked::Status, Asked::StudyList, Asked::StudyShow(which()), decide];
    let refused = Shown::Refused { message: "no".to_owned() };
    let refused = serde_json::to_vec(&refused).unwrap();
    asked.iter().map(|asked| serde_json::to_vec(asked).unwrap()).chain([refused]).collect()
}

pub(super) fn texts() -> Vec<Vec<u8>> {
    ["one\n\ntwo\nthree", "0123456789abcdef\nx", "0123456789abcdefg\nx", "\n"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}
