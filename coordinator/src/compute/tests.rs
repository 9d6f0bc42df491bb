//! Models and strategies' states on a disk, over several segments; what is missing or damaged there
//! makes no version.

use std::fs;
use std::path::PathBuf;

use consilium_common::ids::Round;
use consilium_common::tensor::flat::{decode_model, encode_model};
use consilium_common::tensor::state::STATE_HEADER_BYTES;
use consilium_common::wire::messages::TaskKind;
use consilium_io::disk::{Durability, replace};
use tempfile::TempDir;

use super::*;
use crate::stage::Purpose;
use crate::store::Blobs;
use crate::store::files::Files;

/// More than two segments of 1 MiB.
const PARAMETERS: u32 = 600_000;

struct Bench {
    compute: Compute,
    blobs: Arc<dyn Blobs>,
    study: Study,
    dir: TempDir,
}

impl Bench {
    fn new(aggregation: &str) -> Self {
        let text = format!(
            "[study]\nname = \"demo\"\n[model]\nfamily = \"synthetic\"\nparameters = {PARAMETERS}\n\
             steps = 1\n[aggregation]\nclip_norm = 16.0\n{aggregation}\n[privacy]\nmode = \"inspectable\"\n"
        );
        let study = Study::read(&text, "demo.toml").unwrap();
        let dir = TempDir::new().unwrap();
        let blobs: Arc<dyn Blobs> = Arc::new(Files::open(&dir.path().join("blobs")).unwrap());
        let stage = Arc::new(Stage::open(&dir.path().join("stage"), 1 << 20).unwrap());
        let compute = Compute::new(&study, Arc::<dyn Blobs>::clone(&blobs), stage, None).unwrap();
        Self { compute, blobs, study, dir }
    }

    fn put(&self, bytes: &[u8]) -> Digest {
        let mut blob = self.blobs.create().unwrap();
        blob.write(bytes).unwrap();
        blob.finish().unwrap()
    }

    fn v0(&self) -> Digest {
        self.put(&self.study.initial_model().unwrap())
    }

    fn bytes(&self, digest: Digest) -> Vec<u8> {
        let blob = self.blobs.open(digest).unwrap();
        let mut bytes = vec![0; usize::try_from(blob.length()).unwrap()];
        blob.read_at(0, &mut bytes).unwrap();
        bytes
    }

    /// A round over a sum that no two coordinates share.
    fn round(&self, round: i64, base: Digest, state: Option<Digest>) -> Result<Aggregated, Fault> {
        let mut sum = Sum::new(PARAMETERS as usize);
        let share = sum.admit(3).unwrap();
        let units: Vec<i32> = units(round).map(|unit| i32::try_from(unit).unwrap()).collect();
        sum.add(share, 0, &units).unwrap();
        *self.compute.sum() = Some(sum);
        self.compute.aggregate(base, state, (3, -20), None)
    }

    fn file(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        let folders = walk(self.dir.path().join("blobs"));
        folders.into_iter().find(|path| path.to_string_lossy().ends_with(&name[2..])).unwrap()
    }
}

fn walk(folder: PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(path) } else { vec![path] }).collect()
}

/// What one site delivers, of weight 3.
fn units(round: i64) -> impl Iterator<Item = i64> {
    (0..i64::from(PARAMETERS)).map(move |at| (at - 200_000) * (3 - round))
}

#[test]
#[expect(clippy::cast_possible_truncation, reason = "the one rounding to f32")]
fn a_strategy_goes_on_from_its_state_on_disk_over_several_segments() {
    let bench = Bench::new("strategy = \"fedadam\"");
    let layout = bench.study.layout().unwrap();
    let (mut base, mut state) = (bench.v0(), None);
    let vector = decode_model(&bench.bytes(base), &layout).unwrap();
    let mut reference: Vec<[f32; 3]> = vector.iter().map(|x| [*x, 0.0, 1e-6]).collect();
    for round in 0..3 {
        let made = bench.round(round, base, state).unwrap();
        for (at, ([x, m, v], unit)) in reference.iter_mut().zip(units(round)).enumerate() {
            let before = if round == 0 { 1e-3 * 1e-3 } else { f64::from(*v) };
            let delta = unit as f64 / f64::from(1 << 20);
            let first = 0.9 * f64::from(*m) + (1.0 - 0.9) * delta;
            let second = 0.99 * before + (1.0 - 0.99) * (delta * delta);
            let next = f64::from(*x) + 0.01 * first / (second.sqrt() + 1e-3);
            (*x, *m, *v) = (next as f32, first as f32, second as f32);
            assert!(x.is_finite() && v.is_finite(), "{at}");
        }
        let vector: Vec<f32> = reference.iter().map(|[x, _, _]| *x).collect();
        assert!(bench.bytes(made.model) == encode_model(&layout, &vector), "round {round}");
        let kept = bench.bytes(made.strategy_state.unwrap());
        let moments = reference.iter().flat_map(|[_, m, v]| [*m, *v]).flat_map(f32::to_le_bytes);
        assert!(kept[STATE_HEADER_BYTES..].iter().copied().eq(moments), "round {round}");
        assert_eq!(kept[..STATE_HEADER_BYTES], state_header(&layout.digest()));
        (base, state) = (made.model, made.strategy_state);
    }
}

/// c over several segments, from one site and then two.
#[test]
#[expect(clippy::cast_possible_truncation, reason = "the one rounding to f32")]
fn c_goes_on_from_its_state_on_disk_over_several_segments() {
    let bench = Bench::new(
        "strategy = \"scaffold\"\ncontrol_clip_norm = 1.0\n[training]\noptimizer = \"sgd\"",
    );
    let len = PARAMETERS as usize;
    let (mut base, mut state, mut c) = (bench.v0(), None, vec![0.0_f32; len]);
    for (round, before, after) in [(0, 0, 1), (1, 1, 2)] {
        let mut sum = Sum::of(Coordinates { shared: len, control: len });
        let share = sum.admit(3).unwrap();
        let moved: Vec<i32> = units(round).map(|unit| i32::try_from(unit).unwrap()).collect();
        let changes: Vec<i32> = moved.iter().rev().copied().collect();
        sum.add(share, 0, &moved).unwrap();
        sum.add(share, len, &changes).unwrap();
        *bench.compute.sum() = Some(sum);
        let members = Members { before, after, step_exponent: -30 };
        let made = bench.compute.aggregate(base, state, (3, -20), Some(members)).unwrap();
        for (c, change) in c.iter_mut().zip(&changes) {
            let sum = before as f64 * f64::from(*c) + f64::from(*change) * 2_f64.powi(-30);
            *c = (sum / after as f64) as f32;
        }
        let kept = bench.bytes(made.strategy_state.unwrap());
        let numbers = c.iter().flat_map(|c| c.to_le_bytes());
        assert!(kept[STATE_HEADER_BYTES..].iter().copied().eq(numbers), "round {round}");
        (base, state) = (made.model, made.strategy_state);
    }
    let fault = bench.compute.aggregate(base, state, (3, -20), None).unwrap_err();
    assert_eq!(fault.code, Code::CoordinatorFault, "without members there is no mean");
}

#[test]
fn fedavg_has_no_state() {
    let bench = Bench::new("");
    assert_eq!(bench.round(0, bench.v0(), None).unwrap().strategy_state, None);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "damage is not written with care")]
fn a_base_or_state_that_is_missing_or_damaged_is_the_coordinators_fault() {
    let bench = Bench::new("strategy = \"fedavgm\"");
    let v0 = bench.v0();
    let made = bench.round(0, v0, None).unwrap();
    let fault = |base, state| {
        let fault = bench.round(1, base, state).unwrap_err();
        assert_eq!(fault.code, Code::CoordinatorFault);
        assert!(fault.detail.ends_with("bring the state folder back from a copy"), "{fault:?}");
        fault.detail
    };
    let state = made.strategy_state.unwrap();
    let missing = Digest([9; 32]);
    let detail = fault(made.model, Some(missing));
    assert!(detail.starts_with(&format!("strategy state {missing} cannot be read")), "{detail}");
    let detail = fault(missing, Some(state));
    assert!(detail.starts_with(&format!("base {missing} cannot be read")), "{detail}");
    let detail = fault(made.model, Some(v0));
    assert!(detail.contains("bytes, 2400052 expected"), "{detail}");
    let other = vec![7; 2_400_052];
    let detail = fault(made.model, Some(bench.put(&other)));
    assert!(detail.contains("is of another layout, or none"), "{detail}");

    for (what, digest) in [("strategy state", state), ("base", made.model)] {
        let path = bench.file(digest);
        let good = fs::read(&path).unwrap();
        let mut bytes = good.clone();
        bytes[1_500_000] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let detail = fault(made.model, Some(state));
        let start = format!("{what} {digest} has other content on disk");
        assert!(detail.starts_with(&start), "{detail}");
        fs::write(&path, &good).unwrap();
    }
    assert!(bench.round(1, made.model, Some(state)).is_ok());
}

/// What rots after its last check is not added, whichever byte it is, and puts no blame on a site.
#[tokio::test]
async fn a_staged_file_that_rots_is_not_taken_for_the_update() {
    let draft = "[study]\nname = \"demo\"\n[model]\nfamily = \"synthetic\"\nparameters = 4\n\
                 [training]\nrounds = 1\n[aggregation]\nclip_norm = 1.0\n\
                 [privacy]\nmode = \"inspectable\"\n";
    let study = Study::read(draft, "draft").unwrap().resolve().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let blobs: Arc<dyn Blobs> = Arc::new(Files::open(&dir.path().join("blobs")).unwrap());
    let folder = dir.path().join("stage");
    let coordinates = study.layout().unwrap().weights_len();
    let rules = Rules {
        study_digest: Digest([1; 32]),
        round: Round(1),
        task: TaskKind::Train,
        base: Digest([2; 32]),
        layout: study.layout().unwrap().digest(),
        shared_len: coordinates,
        control: None,
        words_len: Schema::of(&study).words_len(),
        step_exponent: -26,
        clip_norm: 1.0,
        max_examples: 10,
    };
    let update = vec![0; usize::try_from(rules.update_bytes_len()).unwrap()];
    let files = consilium_io::disk::Blobs::open(&folder).unwrap();
    let digest = files.put_bytes(&update, Durability::Cache).unwrap();
    let stage = Arc::new(Stage::open(&folder, 0).unwrap());
    let purpose = Purpose { study: study.id().clone(), round: Round(1) };
    assert!(stage.look(&purpose, digest).await.unwrap());
    let compute = Compute::new(&study, blobs, stage, None).unwrap();
    let coordinates = rules.coordinates();
    compute.add(digest, 10, coordinates).unwrap();
    assert_eq!(compute.verify(digest, &rules).unwrap_err().code, Code::WrongShape);
    for at in [0, HEADER_BYTES, update.len() - 1] {
        let mut rotten = update.clone();
        rotten[at] ^= 1;
        replace(&files.path_of(digest), &rotten).unwrap();
        let added = compute.add(digest, 10, coordinates).unwrap_err();
        for fault in [added, compute.verify(digest, &rules).unwrap_err()] {
            assert_eq!(fault.code, Code::CoordinatorFault, "byte {at}: {}", fault.detail);
        }
    }
}
