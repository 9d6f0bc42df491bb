//! `rnn`: series with gaps, what is learnt from them, what stays at the site, and what is said of
//! records that do not fit.

#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests: a panic is a failed test"
)]

use std::path::PathBuf;

use crate::support::{REST, Room, bytes_of, npy, physionet2012, put, put_npz, run};

use consilium_common::random::Generator;
use consilium_common::study::counts::{MOMENTS_UNITS, Moments};
use consilium_common::study::{Preparation, Study};
use consilium_common::tensor::file::{from_safetensors, to_safetensors};
use consilium_common::tensor::layout::{Kind, Layout};
use consilium_common::update::sections::decode_i32;
use consilium_common::update::words::Schema;
use consilium_common::worker::source::{Every, Where};
use consilium_common::worker::{FailureCode, Holdout, Part, Source, SourceKind, Split, Task, Work};

const STEPS: usize = 6;
const RECORDS: usize = 400;

fn study(model: &str, variable: &str, training: &str) -> String {
    format!(
        "[study]\nname = \"icu\"\nseed = 3\n[model]\nfamily = \"rnn\"\nsteps = {STEPS}\nhidden = 8\n\
         {model}\n[data]\nkind = \"series\"\nlabel = \"death\"\n\
         label_codes = {{ \"0\" = \"well\", \"1\" = \"ill\" }}\ncolumns = [\n\
         {{ name = \"rate\", min = 40, max = 160{variable} }},\n\
         {{ name = \"acid\", min = 6.8, max = 7.3, outside = \"clip\" }},\n]\n\
         [training]\nlearning_rate = 0.02\n{training}\n{REST}[evaluation]\nmetric = \"auc\"\n"
    )
}

const CLASSES: &str = "classes = [\"well\", \"ill\"]";

fn room(model: &str, training: &str) -> Room {
    Room::new(&study(&format!("{CLASSES}\n{model}"), "", training), None)
}

/// Values (records × steps × 2), labels, departments. Who has a high rate at the end is ill, one in
/// four; half of the rates and nine of ten acids are not observed.
struct Stays {
    values: Vec<f32>,
    ill: Vec<i64>,
    department: Vec<i64>,
}

impl Stays {
    fn new() -> Self {
        let mut generator = Generator::new("icu", b"stays");
        let (mut values, mut ill, mut department) = (Vec::new(), Vec::new(), Vec::new());
        for record in 0..RECORDS {
            let is_ill = generator.below(4) == 0;
            for step in 0..STEPS {
                let rise = if is_ill { 10.0 * step as f64 } else { 0.0 };
                let rate = 60.0 + rise + 20.0 * generator.unit();
                let seen =
                    |share: f64, value: f64| if share < 0.5 { value as f32 } else { f32::NAN };
                values.push(seen(generator.unit(), rate));
                values.push(seen(generator.unit() * 5.0, 7.3));
            }
            ill.push(i64::from(is_ill));
            department.push(i64::try_from(record % 4).unwrap() + 1);
        }
        Self { values, ill, department }
    }

    fn put(&self, room: &Room) -> PathBuf {
        let path = room.data.join("icu.npz");
        let values: Vec<u8> = self.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let integers = |numbers: &[i64]| -> Vec<u8> {
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            npy("<i8", &format!("({},)", numbers.len()), &bytes)
        };
        let shape = format!("({}, {STEPS}, 2)", self.values.len() / STEPS / 2);
        let arrays = [
            ("X", npy("<f4", &shape, &values)),
            ("death", integers(&self.ill)),
            ("department", integers(&self.department)),
        ];
        put_npz(&path, &arrays);
        path
    }

    fn task(&self, room: &Room, work: Work) -> Task {
        let source = Source::new(SourceKind::Npz, self.put(room));
        Task { source, ..room.task(work) }
    }
}

fn by(column: &str, equals: &str) -> Where {
    Where { column: column.to_owned(), equals: equals.to_owned() }
}

fn refusal(task: &Task) -> (FailureCode, String) {
    run(task).unwrap_err()
}

/// The task that scores what `task` trained.
fn scoring(room: &Room, task: &Task) -> Task {
    Task {
        work: Work::Evaluate,
        base: Some(room.out()),
        local: task.local_out.clone().filter(|path| path.exists()),
        out: None,
        local_out: None,
        ..task.clone()
    }
}

#[test]
fn what_a_series_says_is_learnt_by_both_cells_and_twice_to_the_same_bits() {
    for model in ["local_bias = true", "cell = \"lstm\"\nsummary = true\ndropout = 0.2"] {
        let room = room(model, "local_epochs = 12");
        let task = Stays::new().task(&room, Work::Train);
        let trained = run(&task).unwrap();
        assert_eq!((trained.examples, trained.holdout), (320, 80));
        let schema = Schema::of(&room.study);
        let before = schema.auc(&trained.metrics).unwrap();
        let after = schema.auc(&run(&scoring(&room, &task)).unwrap().metrics).unwrap();
        assert!(after > 0.95 && after > before, "{model:?}: {before} {after}");
        let first = bytes_of(&room.out());
        run(&task).unwrap();
        assert!(bytes_of(&room.out()) == first, "{model:?}: another model");
    }
}

#[test]
fn a_number_is_learnt_from_a_series() {
    let text = study("objective = \"regress\"\nsummary = true", "", "local_epochs = 60")
        .replace("label_codes = { \"0\" = \"well\", \"1\" = \"ill\" }\n", "")
        .replace("\"auc\"", "\"rmse\"");
    let room = Room::new(&text, None);
    let task = Stays::new().task(&room, Work::Train);
    run(&task).unwrap();
    let rmse = Schema::of(&room.study).rmse(&run(&scoring(&room, &task)).unwrap().metrics);
    // Always saying one in four would be .43.
    assert!(rmse.unwrap() < 0.3, "{rmse:?}");
}

/// The bias that stays, from a file of the site.
fn bias(path: &std::path::Path) -> Vec<f32> {
    from_safetensors(&bytes_of(path), &bias_layout(2)).unwrap()
}

fn bias_layout(classes: u32) -> Layout {
    Layout::new([("output.bias".to_owned(), vec![classes], Kind::Weight)]).unwrap()
}

#[test]
fn a_local_bias_starts_at_the_sites_own_log_odds_and_never_leaves() {
    let room = room("local_bias = true", "local_epochs = 1\nbatch_size = 512");
    let text = study(&format!("{CLASSES}\nlocal_bias = true"), "", "").replace("0.02", "1e-9");
    let still = Room::new(&text, None);
    let stays = Stays::new();
    let mut task = stays.task(&still, Work::Train);
    task.source.holdout = Holdout::Every(Every { every: 5 });
    run(&task).unwrap();
    let kept = bias(task.local_out.as_deref().unwrap());
    let ill = (0..RECORDS).filter(|i| i % 5 != 0).map(|i| stays.ill[i]).sum::<i64>() as f32;
    let odds = ((ill + 0.5) / (320.0 - ill + 0.5)).ln();
    assert!((kept[1] - kept[0] - odds).abs() < 1e-5, "{kept:?}, log-odds {odds}");

    // Trained, it moves, in its own file alone: the result is of the study's layout and no more.
    let layout = room.study.layout().unwrap();
    assert!(layout.tensors().iter().all(|tensor| tensor.name != "output.bias"));
    let task = stays.task(&room, Work::Train);
    run(&task).unwrap();
    let result = bytes_of(&room.out());
    from_safetensors(&result, &layout).unwrap();
    assert!(!String::from_utf8_lossy(&result).contains("output.bias"));
    let moved = bias(task.local_out.as_deref().unwrap());
    assert!((moved[0] - kept[0]).abs() > 1e-4 && moved.iter().all(|x| x.is_finite()), "{moved:?}");
}

#[test]
fn a_round_starts_from_the_local_state_of_the_last_one() {
    let room = room("local_bias = true", "local_epochs = 1");
    let task = Stays::new().task(&room, Work::Train);
    let kept = room.folder.path().join("kept.state");
    let schema = Schema::of(&room.study);
    for (bias, said) in [([9.0, -9.0], 0), ([-9.0, 9.0], 1)] {
        let none = std::collections::HashMap::<String, String>::new();
        let bytes = to_safetensors(&bias_layout(2), &bias, none).unwrap();
        put(&kept, &bytes);
        let second = Task { local: Some(kept.clone()), ..task.clone() };
        // v0 with so strong a bias says the same of every record.
        let metrics = run(&second).unwrap().metrics;
        let columns: u64 =
            (0..2).map(|truth| schema.confusion(&metrics, truth).unwrap()[said]).sum();
        assert_eq!(columns, 80);
        let next = self::bias(second.local_out.as_deref().unwrap());
        assert!((next[0] - bias[0]).abs() < 1.0, "{next:?} from {bias:?}");
    }
    for bytes in [b"rubbish".to_vec(), Vec::new(), bytes_of(&room.out())] {
        put(&kept, &bytes);
        let (code, message) = refusal(&Task { local: Some(kept.clone()), ..task.clone() });
        assert_eq!(code, FailureCode::ModelMismatch);
        assert!(message.starts_with("the local state "), "{message}");
    }
    // A model that keeps nothing does not pass a state over.
    let other = self::room("", "");
    let task = Task { local: Some(kept), ..Stays::new().task(&other, Work::Evaluate) };
    assert_eq!(refusal(&task).0, FailureCode::ModelMismatch);
}

#[test]
fn records_are_picked_by_other_arrays_and_dealt_to_parts() {
    let room = room("", "");
    let stays = Stays::new();
    let check = |change: &dyn Fn(&mut Source)| {
        let mut task = stays.task(&room, Work::Check);
        change(&mut task.source);
        let found = run(&task).unwrap();
        (found.examples, found.holdout)
    };
    let every = Holdout::Every(Every { every: 5 });
    assert_eq!(check(&|s| s.holdout = every.clone()), (320, 80));
    assert_eq!(check(&|s| s.holdout = Holdout::Where(by("department", "2"))), (300, 100));
    let only = |s: &mut Source| {
        s.only = Some(by("department", "3"));
        s.holdout = every.clone();
    };
    assert_eq!(check(&only), (80, 20));
    for split in [Split::Iid, Split::Dirichlet(0.3)] {
        let parts = (0..3).map(|index| {
            let part = Part { of: 3, index, split, seed: 1 };
            check(&|s| (s.part, s.holdout) = (Some(part.clone()), every.clone()))
        });
        let sums = parts.fold((0, 0), |sums, part| (sums.0 + part.0, sums.1 + part.1));
        assert_eq!(sums, (320, 80), "{split}");
    }
}

#[test]
fn records_of_one_patient_stay_on_one_side() {
    let text = study(CLASSES, "", "").replace("columns = [", "patient = \"person\"\ncolumns = [");
    let room = Room::new(&text, None);
    let mut task = Stays::new().task(&room, Work::Check);
    task.source.holdout = Holdout::Fraction(0.5);
    task.source.columns.insert("person".to_owned(), "department".to_owned());
    let found = run(&task).unwrap();
    assert_eq!((found.examples, found.holdout), (200, 200), "two of four whole departments");
}

#[test]
fn values_outside_their_range_are_what_the_contract_says() {
    let stays = |value: f32| {
        let mut stays = Stays::new();
        stays.values[2 * STEPS] = value;
        stays
    };
    let found = |declared: &str, value: f32| {
        let room = Room::new(&study(CLASSES, declared, ""), None);
        run(&stays(value).task(&room, Work::Check))
    };
    let (code, message) = found("", 900.0).unwrap_err();
    assert_eq!(code, FailureCode::DataInvalid);
    assert!(
        message.contains("1 of 400 records") && message.contains("record 1: column \"rate\""),
        "{message}"
    );
    assert!(found("", f32::INFINITY).is_err());
    for (declared, records, said) in [
        (", outside = \"clip\"", 400, "clipped in 1 values"),
        (", outside = \"missing\"", 400, "taken as missing in 1 values"),
        (", outside = \"drop\"", 399, "left out in 1 values"),
    ] {
        let found = found(declared, 900.0).unwrap();
        assert_eq!(found.examples + found.holdout, records, "{declared}");
        let findings = found.findings.join("\n");
        assert!(findings.contains(said), "{declared}: {findings}");
        assert!(findings.contains("class \"ill\""), "{findings}");
    }
}

#[test]
fn a_bound_holds_for_a_value_that_the_file_has_rounded() {
    // 7.3 as f32 is above 7.3; the acids are all 7.3 and none is clipped.
    assert!(f64::from(7.3_f32) > 7.3);
    let room = room("", "");
    let findings = run(&Stays::new().task(&room, Work::Check)).unwrap().findings.join("\n");
    assert!(!findings.contains("clipped"), "{findings}");
}

#[test]
fn a_variable_that_the_site_never_observed_is_named() {
    let room = room("", "");
    let mut stays = Stays::new();
    stays.values.iter_mut().skip(1).step_by(2).for_each(|value| *value = f32::NAN);
    let findings = run(&stays.task(&room, Work::Check)).unwrap().findings;
    assert!(findings.contains(&"variable \"acid\": never observed".to_owned()), "{findings:?}");
}

#[test]
fn files_that_do_not_fit_are_refused_in_a_sentence() {
    let room = room("", "");
    let stays = Stays::new();
    let told = |code: FailureCode, change: &dyn Fn(&mut Task)| {
        let mut task = stays.task(&room, Work::Check);
        change(&mut task);
        let (have, message) = refusal(&task);
        assert_eq!(have, code, "{message}");
        message
    };
    let invalid = FailureCode::DataInvalid;
    let message = told(invalid, &|task| task.source.source = SourceKind::Csv);
    assert!(message.contains("the rnn family reads npz"), "{message}");
    let renamed = |task: &mut Task| {
        task.source.columns.insert("X".to_owned(), "death".to_owned());
    };
    let message = told(invalid, &renamed);
    assert!(message.contains("array \"death\" has shape [400]: records × 6 × 2"), "{message}");
    let missing = |task: &mut Task| task.source.only = Some(by("ward", "1"));
    let message = told(FailureCode::DataMissing, &missing);
    assert!(message.contains("has no array \"ward\""), "{message}");
    let no_label = |task: &mut Task| {
        task.source.columns.insert("death".to_owned(), "X".to_owned());
    };
    let message = told(invalid, &no_label);
    assert!(message.contains("one number for each of 400 records"), "{message}");
    let own = |task: &mut Task| {
        task.source.holdout = Holdout::Own(consilium_common::worker::source::OwnTest::Test);
    };
    assert!(told(invalid, &own).contains("no such files"));
    let other = |task: &mut Task| {
        task.source.columns.insert("death".to_owned(), "department".to_owned());
    };
    assert!(told(invalid, &other).contains("none of the classes"));
}

#[test]
fn sites_standardise_by_what_they_observed_together_and_not_without_it() {
    let text = study(CLASSES, "", "local_epochs = 12");
    let text = text.replace("label = \"death\"", "label = \"death\"\nnormalize = \"federated\"");
    let room = Room::new(&text, None);
    let stays = Stays::new();
    let counts = room.folder.path().join("counts.i32");
    let mut sums = vec![0_i64; 2 * MOMENTS_UNITS];
    let mut observed = [Moments::default(); 2];
    for department in ["1", "2"] {
        let mut task = stays.task(&room, Work::Prepare);
        task.source.only = Some(by("department", department));
        task.source.holdout = Holdout::Every(Every { every: 5 });
        task.out = Some(counts.clone());
        run(&task).unwrap();
        let bytes = bytes_of(&counts);
        let units = decode_i32(&bytes);
        sums.iter_mut().zip(units).for_each(|(sum, unit)| *sum += i64::from(unit));
        let numbers = (0..RECORDS).filter(|i| i % 5 != 0);
        let own = numbers.filter(|i| stays.department[*i].to_string() == department);
        for value in own.flat_map(|i| &stays.values[2 * STEPS * i..2 * STEPS * (i + 1)]).enumerate()
        {
            let (place, value) = (value.0 % 2, f64::from(*value.1));
            let share =
                if place == 0 { (value - 40.0) / 120.0 } else { value / f64::from(7.3_f32) };
            observed[place].add(f64::from(share as f32));
        }
    }
    let [rate, acid] = [0, 1].map(|i| Moments::of(&sums[MOMENTS_UNITS * i..]).unwrap());
    assert_eq!([rate, acid], observed);

    let task = stays.task(&room, Work::Train);
    let (code, message) = refusal(&task);
    assert_eq!(code, FailureCode::ModelMismatch);
    assert!(message.contains("names no preparation"), "{message}");
    let path = room.folder.path().join("preparation");
    let terms = room.study.preparation_terms().unwrap();
    put(&path, &Preparation { terms, sites: 2, sums }.encode());
    let task = Task { preparation: Some(path), ..task };
    run(&task).unwrap();
    let metrics = run(&scoring(&room, &task)).unwrap().metrics;
    let area = Schema::of(&room.study).auc(&metrics).unwrap();
    assert!(area > 0.95, "{area}");
}

#[test]
fn the_study_of_real_icu_stays_fits_their_file() {
    let Some(data) = physionet2012() else { return };
    let text = include_str!("../../../../tests/studies/physionet2012/study.toml");
    let room = Room::new(text, Some(data.clone()));
    let check = |only| {
        let mut source = Source::new(SourceKind::Npz, data.clone());
        source.holdout = Holdout::Every(Every { every: 5 });
        source.only = only;
        run(&Task { source, ..room.task(Work::Check) }).unwrap()
    };
    let found = check(None);
    assert_eq!((found.examples, found.holdout), (3200, 800));
    let deaths = found.findings.iter().find(|line| line.starts_with("class \"died\""));
    assert!(deaths.is_some_and(|line| line.contains("453 training") && line.contains("101 held")));
    let types = ["1", "2", "3", "4"].map(|icu| {
        let found = check(Some(by("icu_type", icu)));
        found.examples + found.holdout
    });
    assert_eq!(types, [577, 874, 1481, 1068]);
}

#[test]
fn a_variable_that_is_no_number_or_drops_series_is_refused_by_the_study() {
    let read = |text: &str| Study::read(text, "icu.toml").unwrap_err().to_string();
    let good = study(CLASSES, "", "");
    let words = good.replace("min = 40, max = 160", "values = [\"slow\", \"fast\"]");
    assert!(read(&words).contains("words are not read from a series"));
    let dropped = study(CLASSES, ", missing = \"drop\"", "");
    assert!(read(&dropped).contains("would leave out every series"));
    let number = study("objective = \"regress\"\nlocal_bias = true", "", "")
        .replace("label_codes = { \"0\" = \"well\", \"1\" = \"ill\" }\n", "")
        .replace("\"auc\"", "\"rmse\"");
    assert!(read(&number).contains("model.local_bias"), "{}", read(&number));
}
