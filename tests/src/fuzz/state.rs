//! What an agent keeps across restarts: updates that no roll call has closed, studies, decisions.

use consilium_agent::policy::Person;
use consilium_agent::policy::{Decided, Said};
use consilium_agent::session::{ControlBytes, NextLocal, Stamp};
use consilium_agent::state::{Record, local, look_at_studies, retained as files};
use consilium_common::ids::{Digest, Round};
use consilium_common::time::WallMillis;
use consilium_common::update::words::Metrics;

use super::{documents, join, parts, scratch, shown};

const NAME: &str = "mnist-300.update";
const LOCAL_NAME: &str = "mnist.local";
const CONTROL: &[u8] = b"variates";

/// A retained update that is read back is the one that its record names, with its next local state.
pub(super) fn retained(bytes: &[u8]) {
    let path = scratch::write(NAME, bytes);
    match files::read(&path) {
        Ok(record) => {
            let at = usize::try_from(record.bytes).unwrap();
            let (update, rest) = bytes.split_at(at);
            assert_eq!(Digest::of(update), record.digest);
            if let Some(next) = record.local {
                let local = rest.get(..usize::try_from(next.bytes).unwrap()).unwrap();
                assert_eq!(Digest::of(local), next.digest);
            }
            assert_eq!(format!("{}-{}.update", record.study, record.round), NAME);
        }
        Err(error) => shown(&error, &vec![0; bytes.len() + 256]),
    }
}

/// A local state that a worker is given is the one that its record names.
pub(super) fn local_state(bytes: &[u8]) {
    let path = scratch::write(LOCAL_NAME, bytes);
    let given = scratch::path("given");
    let copied = local::read(&path).and_then(|state| {
        local::copy(&path, &state, &given)?;
        Ok(state)
    });
    match copied {
        Ok(state) => {
            assert_eq!(state.study.as_str(), "mnist");
            assert_eq!(Digest::of(&std::fs::read(&given).unwrap()), state.digest);
        }
        Err(error) => shown(&error, &vec![0; bytes.len() + 256]),
    }
}

/// A study's text, its signatures (`DIGEST` stands for the text's) and the decision on it: what is
/// read back is that study.
pub(super) fn kept_study(bytes: &[u8]) {
    let [document, sig, decision] = parts(bytes);
    let (folder, digest) = (scratch::folder("state"), Digest::of(document));
    let studies = folder.join("studies");
    consilium_io::disk::create_folder(&studies).unwrap();
    let sig = String::from_utf8_lossy(sig).replace("DIGEST", &digest.to_string());
    for (extension, bytes) in [("toml", document), ("sig", sig.as_bytes()), ("decision", decision)]
    {
        scratch::write_at(&studies.join(format!("{digest}.{extension}")), bytes);
    }
    let found = look_at_studies(&folder).unwrap();
    for kept in found.iter() {
        assert!(kept.digest == digest && kept.signed.bytes == document);
        documents::signed(&kept.signed);
    }
}

fn record(update: &[u8]) -> Record {
    Record {
        study: "mnist".parse().unwrap(),
        study_digest: Digest([1; 32]),
        round: Round(300),
        digest: Digest::of(update),
        bytes: update.len() as u64,
        rounding_seed: Digest([2; 32]),
        weight: 15_000,
        norm: 1.5,
        control_norm: None,
        clipped: true,
        metrics: Metrics(vec![9_850, 10_000]),
        local: None,
    }
}

pub(super) fn retained_ones() -> Vec<Vec<u8>> {
    let update = b"an update".to_vec();
    let path = scratch::path("seed.update");
    let record = record(&update);
    let written = |record: Record| {
        files::write(&path, |file| {
            file.write_all(&update)?;
            Ok(record)
        })
        .unwrap();
        std::fs::read(&path).unwrap()
    };
    let good = written(record.clone());
    let mut newer = good.clone();
    if let Some(format) = newer.iter_mut().rev().nth(5) {
        *format = 2;
    }
    let mut flipped = good.clone();
    if let Some(byte) = flipped.first_mut() {
        *byte ^= 1;
    }
    let other_round = written(Record { round: Round(1), ..record.clone() });
    let other_length = written(Record { bytes: 3, ..record.clone() });
    // The last bytes of the update as a local state.
    let local = |bytes: &[u8]| NextLocal {
        digest: Digest::of(bytes),
        bytes: 3,
        spec: Digest([3; 32]),
        from: Some(Stamp { round: Round(299), digest: Digest([4; 32]) }),
        control: None,
    };
    let shorter = Record { digest: Digest::of(b"an upd"), bytes: 6, ..record };
    let with_local = written(Record { local: Some(local(b"ate")), ..shorter.clone() });
    let other_local = written(Record { local: Some(local(b"att")), ..shorter.clone() });
    // The last byte of the update as a control variate behind a local state of two.
    let control = ControlBytes { digest: Digest::of(b"e"), bytes: 1 };
    let both = NextLocal { bytes: 2, control: Some(control), ..local(b"at") };
    let with_control = written(Record { local: Some(both), ..shorter });
    vec![good, newer, flipped, other_round, other_length, with_local, other_local, with_control]
}

pub(super) fn local_states() -> Vec<Vec<u8>> {
    let (update, left) = (b"an update", b"embeddings");
    let record = Record {
        local: Some(NextLocal {
            digest: Digest::of(left),
            bytes: left.len() as u64,
            spec: Digest([3; 32]),
            from: None,
            control: Some(ControlBytes {
                digest: Digest::of(CONTROL),
                bytes: CONTROL.len() as u64,
            }),
        }),
        ..record(update)
    };
    let path = scratch::path(NAME);
    files::write(&path, |file| {
        file.write_all(update)?;
        file.write_all(left)?;
        file.write_all(CONTROL)?;
        Ok(record.clone())
    })
    .unwrap();
    let to = scratch::path(LOCAL_NAME);
    local::promote(&path, &record, &to).unwrap();
    let good = std::fs::read(&to).unwrap();
    let mut flipped = good.clone();
    if let Some(byte) = flipped.first_mut() {
        *byte ^= 1;
    }
    let mut newer = good.clone();
    if let Some(format) = newer.iter_mut().rev().nth(5) {
        *format = 2;
    }
    vec![good, flipped, newer]
}

pub(super) fn kept_studies() -> Vec<Vec<u8>> {
    let word = |text: &str| text.to_owned();
    let said = Said {
        by: word("ada"),
        reason: word("as it is"),
        account: word("agent"),
        at: WallMillis(7),
    };
    let decided = Decided::default().with(Person::Accepted, said);
    let decision = serde_json::to_vec(&decided).unwrap();
    let with = |files: &Vec<u8>| join(&[files.as_slice(), &decision]);
    super::study::signature_files().iter().map(with).collect()
}
