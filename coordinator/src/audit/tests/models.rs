//! Rounds recomputed from what was kept, and what is found when it is not what it was.

use consilium_common::audit::{Outcome, RollCall};
use consilium_common::ids::Digest;
use consilium_io::disk::{Blobs, replace};
use tempfile::TempDir;

use super::*;

struct Export {
    dir: TempDir,
    made: Made,
}

impl Export {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let kept = Folder::at(dir.path()).kept_or_to_be();
        let made = Made::new(&Script { sites: 3, rounds: 3, parameters: 50 }, Some(&kept)).unwrap();
        Self { dir, made }
    }

    fn judge(&self) -> Verdict {
        let (log, file) = (self.made.log().unwrap(), self.made.checkpoint().unwrap());
        let kept = Folder::at(self.dir.path()).kept();
        let open = || Ok((log.as_slice(), log.len() as u64));
        verify(open, &file, &[], &self.made.pinned, kept.as_ref()).unwrap()
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "all but the roll calls")]
    fn roll_call(&self, round: usize) -> RollCall {
        let calls = self.made.records.iter().filter_map(|record| match record {
            Record::RollCall(ended) => Some(ended.signed.parse_unverified().unwrap()),
            _ => None,
        });
        calls.collect::<Vec<_>>().swap_remove(round)
    }

    fn model(&self, round: usize) -> Digest {
        let Outcome::Committed { model, .. } = self.roll_call(round).outcome else {
            panic!("round {round} committed nothing");
        };
        model
    }

    fn updates(&self, round: usize) -> Vec<Digest> {
        self.roll_call(round).sites.values().filter_map(|entry| entry.update).collect()
    }

    fn blobs(&self, which: &str) -> Blobs {
        Blobs::look_at(&self.dir.path().join(which))
    }

    fn flip(&self, which: &str, digest: Digest, at: usize) {
        let path = self.blobs(which).path_of(digest);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 1;
        replace(&path, &bytes).unwrap();
    }
}

#[test]
fn every_round_comes_out_as_its_roll_call_says() {
    let export = Export::new();
    let verdict = export.judge();
    assert!(verdict.is_sound(), "{:#?}", verdict.faults());
    assert_eq!(verdict.count(Check::Sums).right, 4, "three versions and a last score");
    assert_eq!(verdict.count(Check::Models).right, 4, "v0 to v3");
    for check in Check::ALL {
        assert!(verdict.count(check).missing.is_empty(), "{check}");
    }
}

#[test]
fn a_sum_model_or_metric_that_the_updates_do_not_make_is_found() {
    let change = |change: &dyn Fn(&mut RollCall)| {
        let mut export = Export::new();
        let mut changed = false;
        for record in &mut export.made.records {
            if let Record::RollCall(ended) = record
                && !changed
            {
                let mut call = ended.signed.parse_unverified().unwrap();
                change(&mut call);
                ended.signed = Signed::sign(call.to_bytes().unwrap(), &export.made.log_key);
                changed = true;
            }
        }
        texts(&export.judge()).join("\n")
    };
    let told = change(&|call| {
        if let Outcome::Committed { sum, .. } = &mut call.outcome {
            *sum = Digest([9; 32]);
        }
    });
    assert!(told.contains("sums: the sum comes out as"), "{told}");
    let told = change(&|call| {
        if let Outcome::Committed { model, .. } = &mut call.outcome {
            *model = Digest([9; 32]);
        }
    });
    assert!(told.contains("sums: the model comes out as"), "{told}");
    let told = change(&|call| *call.metrics.get_mut("total").unwrap() += 1);
    assert!(told.contains("sums: the updates' total add up to"), "{told}");
    let told = change(&|call| call.clipped = 1);
    assert!(told.contains("0 of the updates were clipped, the roll call says 1"), "{told}");
}

#[test]
fn a_changed_byte_of_a_kept_update_or_model_is_found() {
    for at in [0, 40, 160, 200] {
        let export = Export::new();
        export.flip("updates", export.updates(1)[0], at);
        let told = texts(&export.judge()).join("\n");
        assert!(told.contains("sums: the update"), "byte {at}: {told}");
    }
    let export = Export::new();
    export.flip("blobs", export.model(1), 60);
    let told = texts(&export.judge()).join("\n");
    assert!(told.contains("models: model:"), "{told}");
    assert!(told.contains("has other content on disk"), "the next round starts from it: {told}");
}

#[test]
fn what_is_missing_is_said_and_is_no_fault() {
    let export = Export::new();
    export.blobs("updates").remove(export.updates(0)[2]).unwrap();
    export.blobs("blobs").remove(export.model(1)).unwrap();
    let verdict = export.judge();
    assert!(verdict.is_sound(), "{:#?}", verdict.faults());
    let sums = verdict.count(Check::Sums);
    assert_eq!((sums.right, sums.missing.len()), (2, 2), "{sums:?}");
    assert_eq!(verdict.count(Check::Models).missing.values().sum::<u64>(), 1);
}
