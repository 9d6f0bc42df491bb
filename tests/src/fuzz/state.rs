//! What an agent keeps across restarts: updates that no roll call has closed, studies, decisions.

use consilium_agent::policy::Person;
use consilium_agent::state::{Decided, Record, look_at_studies, retained as files};
use consilium_common::ids::{Digest, Round};
use consilium_common::time::WallMillis;
use consilium_common::update::words::Metrics;

use super::{documents, join, parts, scratch, shown};

const NAME: &str = "mnist-300.update";

/// A retained update that is read back is the one that its record names.
pub(super) fn retained(bytes: &[u8]) {
    let path = scratch::write(NAME, bytes);
    match files::read(&path) {
        Ok(record) => {
            let update = bytes.get(..usize::try_from(record.bytes).unwrap()).unwrap();
            assert_eq!(Digest::of(update), record.digest);
            assert_eq!(format!("{}-{}.update", record.study, record.round), NAME);
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

pub(super) fn retained_ones() -> Vec<Vec<u8>> {
    let update = b"an update".to_vec();
    let path = scratch::path("seed.update");
    let record = Record {
        study: "mnist".parse().unwrap(),
        study_digest: Digest([1; 32]),
        round: Round(300),
        digest: Digest::of(&update),
        bytes: update.len() as u64,
        rounding_seed: Digest([2; 32]),
        weight: 15_000,
        norm: 1.5,
        clipped: true,
        metrics: Metrics(vec![9_850, 10_000]),
    };
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
    let other_length = written(Record { bytes: 3, ..record });
    vec![good, newer, flipped, other_round, other_length]
}

pub(super) fn kept_studies() -> Vec<Vec<u8>> {
    let decided = Decided { person: Person::Accepted, at: WallMillis(7), by: "ada".to_owned() };
    let decision = serde_json::to_vec(&decided).unwrap();
    let with = |files: &Vec<u8>| join(&[files.as_slice(), &decision]);
    super::study::signature_files().iter().map(with).collect()
}
