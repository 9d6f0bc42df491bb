//! `cnn`, and what holds for every family: the protocol, stops, devices.

use std::process::{Command, Stdio};

use crate::support::{REST, Room, Worker, bytes_of, idx, mnist, put, run};
use consilium_common::tensor::file::from_safetensors;
use consilium_common::update::words::Schema;
use consilium_common::worker::source::OwnTest;
use consilium_common::worker::{
    FailureCode, Holdout, Part, Phase, Reply, Request, Split, Task, Work,
};

const SGD: &str = "optimizer = \"sgd\"\nlearning_rate = 0.05\nlocal_epochs = 3";

fn mnist_study() -> String {
    format!(
        "[study]\nname = \"mnist\"\nseed = 1\n[model]\nfamily = \"cnn\"\n\
         input = {{ channels = 1, height = 28, width = 28 }}\n\
         classes = [\"0\", \"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"7\", \"8\", \"9\"]\n{REST}"
    )
}

#[test]
fn training_learns_and_the_next_scoring_shows_it() {
    let room = Room::tiny("learning_rate = 0.01\nlocal_epochs = 6");
    let trained = run(&room.task(Work::Train)).unwrap();
    assert_eq!((trained.examples, trained.holdout), (256, 64));
    let schema = Schema::of(&room.study);
    assert_eq!(trained.metrics.0.len(), schema.names().len());
    let before = schema.accuracy(&trained.metrics).unwrap();
    let mut task = room.task(Work::Evaluate);
    task.base = Some(room.out());
    let scored = run(&task).unwrap();
    let after = schema.accuracy(&scored.metrics).unwrap();
    assert!(before < 0.7 && after > 0.95, "{before} → {after}");
    assert!(schema.loss(&scored.metrics).unwrap() < schema.loss(&trained.metrics).unwrap());
    assert_eq!((scored.examples, scored.train_loss), (0, None));
    assert!(trained.train_loss.is_some_and(|loss| loss > 0.0 && loss < 1.0));
}

#[test]
fn the_same_task_gives_the_same_bits_and_another_seed_others() {
    for training in ["local_epochs = 2", SGD] {
        let room = Room::tiny(training);
        let mut task = room.task(Work::Train);
        let first = (run(&task).unwrap(), bytes_of(&room.out()));
        assert_eq!(first, (run(&task).unwrap(), bytes_of(&room.out())));
        task.seed += 1;
        run(&task).unwrap();
        assert_ne!(first.1, bytes_of(&room.out()));
        let layout = room.study.layout().unwrap();
        assert_eq!(from_safetensors(&first.1, &layout).unwrap().len(), layout.len());
    }
}

#[test]
fn steps_are_counted_as_passes_go_and_end_within_one() {
    let trained = |training: &str| {
        let room = Room::tiny(&format!("{training}\nbatch_size = 4"));
        let outcome = run(&room.task(Work::Train)).unwrap();
        (bytes_of(&room.out()), outcome.examples)
    };
    let (epochs, records) = trained("local_epochs = 2");
    let batches = records.div_ceil(4);
    let steps = |steps| trained(&format!("local_steps = {steps}")).0;
    assert!(batches > 1);
    assert_eq!(steps(2 * batches), epochs);
    assert_ne!(steps(2 * batches - 1), epochs);
    assert_ne!(steps(2 * batches + 1), epochs);
}

#[test]
fn fedprox_holds_the_weights_near_the_base_the_more_the_greater_mu_is() {
    let way = |strategy: &str| {
        let room = Room::tiny_under(strategy, "optimizer = \"sgd\"\nlearning_rate = 0.05");
        run(&room.task(Work::Train)).unwrap();
        let layout = room.study.layout().unwrap();
        let trained = from_safetensors(&bytes_of(&room.out()), &layout).unwrap();
        let base = room.study.initial_vector().unwrap();
        let squares = trained.iter().zip(&base).map(|(t, b)| f64::from(t - b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let plain = way("");
    let near = way("strategy = \"fedprox\"\nproximal_mu = 3.0");
    let nearer = way("strategy = \"fedprox\"\nproximal_mu = 20.0");
    assert!(nearer > 0.0 && 2.0 * nearer < near && 1.2 * near < plain, "{plain} {near} {nearer}");
}

#[test]
fn metrics_fit_the_schema_and_one_another() {
    let room = Room::tiny("");
    let mut task = room.task(Work::Evaluate);
    task.source.holdout = Holdout::Own(OwnTest::Test);
    let outcome = run(&task).unwrap();
    let schema = Schema::of(&room.study);
    let get = |name: &str| schema.get(&outcome.metrics, name).unwrap();
    assert_eq!((outcome.holdout, get("total")), (80, 80));
    let cells = |wanted: fn(usize, usize) -> bool| -> u64 {
        let all = (0..4).flat_map(|truth| (0..4).map(move |said| (truth, said)));
        let wanted = all.filter(|(truth, said)| wanted(*truth, *said));
        wanted.map(|(truth, said)| get(&format!("confusion.{truth}.{said}"))).sum()
    };
    assert_eq!(cells(|_, _| true), 80);
    assert_eq!(cells(|truth, said| truth == said), get("correct"));
    let mean = schema.loss(&outcome.metrics).unwrap();
    assert!((0.5..3.0).contains(&mean), "near ln 4, as nothing is learnt yet: {mean}");
}

#[test]
fn parts_of_the_test_files_add_up_to_the_whole() {
    let room = Room::tiny("");
    let mut task = room.task(Work::Evaluate);
    task.source.holdout = Holdout::Own(OwnTest::Test);
    let whole = run(&task).unwrap().metrics;
    let mut sum = vec![0; whole.0.len()];
    for index in 0..3 {
        let split = Split::Dirichlet(0.3);
        let (of, seed) = (3, 8);
        task.source.part = Some(Part { of, index, split, seed });
        for (sum, part) in sum.iter_mut().zip(run(&task).unwrap().metrics.0) {
            *sum += part;
        }
    }
    assert_eq!(sum, whole.0);
}

#[test]
fn a_validation_part_of_the_training_pictures_is_scored_in_the_hold_outs_place() {
    let room = Room::tiny("");
    for (holdout, train) in [(Holdout::Fraction(0.2), 256), (Holdout::Own(OwnTest::Test), 320)] {
        let mut task = room.task(Work::Train);
        task.source.holdout = holdout;
        let held_out = run(&task).unwrap();
        assert_eq!(held_out.examples, train);
        task.source.validation = Some(0.25);
        let validated = run(&task).unwrap();
        assert_eq!((validated.examples, validated.holdout), (train - train / 4, train / 4));
        assert_ne!(validated.metrics, held_out.metrics);
        // Scored alone, it is the same part.
        let alone =
            run(&Task { work: Work::Evaluate, out: None, local_out: None, ..task }).unwrap();
        assert_eq!(alone.metrics, validated.metrics);
    }
}

#[test]
fn a_deeper_stack_in_colour_trains_too() {
    let text = format!(
        "[study]\nname = \"deep\"\n[model]\nfamily = \"cnn\"\n\
         input = {{ channels = 3, height = 13, width = 17 }}\nclasses = [\"a\", \"b\", \"c\"]\n\
         conv = [{{ filters = 6 }}, {{ filters = 5, kernel = 2, pool = 1 }}]\ndense = [9, 7]\n{REST}"
    );
    let room = Room::new(&text, None);
    let bytes: Vec<u8> = (0..30 * 3 * 13 * 17_u32).map(|i| (i * i % 251) as u8).collect();
    room.put("train-images-idx3-ubyte", &idx(&[30, 3, 13, 17], &bytes));
    let labels: Vec<u8> = (0..30).map(|i| i % 3).collect();
    room.put("train-labels-idx1-ubyte", &idx(&[30], &labels));
    let outcome = run(&room.task(Work::Train)).unwrap();
    assert_eq!((outcome.examples, outcome.holdout), (24, 6));
    let layout = room.study.layout().unwrap();
    assert_eq!(layout.tensors().len(), 10);
    from_safetensors(&bytes_of(&room.out()), &layout).unwrap();
}

#[test]
fn check_tells_what_it_found_and_trains_nothing() {
    let room = Room::tiny("");
    let outcome = run(&room.task(Work::Check)).unwrap();
    assert_eq!((outcome.examples, outcome.holdout), (256, 64));
    assert_eq!(outcome.findings.len(), 4, "{:?}", outcome.findings);
    assert!(outcome.findings[0].starts_with("class \"n\": "));
    // One class only, all images alike.
    room.put("train-images-idx3-ubyte", &idx(&[10, 12, 12], &[9; 1440]));
    room.put("train-labels-idx1-ubyte", &idx(&[10], &[2; 10]));
    let findings = run(&room.task(Work::Check)).unwrap().findings.join("\n");
    for needle in [
        "class \"n\": 0 training records, 0 held out: none to learn from",
        "10 images of one colour",
        "8 images that are exact duplicates",
        "1 images held out that are trained on too",
    ] {
        assert!(findings.contains(needle), "{findings}");
    }
}

#[test]
fn unfit_data_is_refused_with_its_code() {
    let room = Room::tiny("");
    let refused = |work| run(&room.task(work)).unwrap_err();
    room.put("train-labels-idx1-ubyte", &idx(&[320], &[4; 320]));
    let (code, message) = refused(Work::Train);
    assert_eq!(code, FailureCode::DataInvalid);
    assert!(message.ends_with("record 0 has label 4, the study has 4 classes (labels 0 to 3)"));
    room.put("train-labels-idx1-ubyte", &idx(&[320], &[0; 319]));
    assert_eq!(refused(Work::Check).0, FailureCode::DataInvalid);
    room.put("train-labels-idx1-ubyte", &idx(&[320], &[0; 320]));
    room.put("train-images-idx3-ubyte", &idx(&[320, 12, 12], &[0; 320 * 144 - 1]));
    let (code, message) = refused(Work::Train);
    assert_eq!(code, FailureCode::DataInvalid);
    assert!(message.ends_with("is truncated: it ends in record 320 of 320"), "{message}");
    assert!(!room.out().exists());
    std::fs::remove_file(room.data.join("train-images-idx3-ubyte")).unwrap();
    assert_eq!(refused(Work::Train).0, FailureCode::DataMissing);
    let mut task = room.task(Work::Check);
    task.source.path = "/nowhere".into();
    assert_eq!(run(&task).unwrap_err().0, FailureCode::DataMissing);
}

#[test]
fn too_few_records_or_none_are_refused() {
    let text = Room::tiny("").study.to_text().unwrap();
    let text = text.replace("min_examples = 1", "min_examples = 300");
    let room = Room::new(&text, None);
    room.put_records("train", 320);
    for work in [Work::Train, Work::Check] {
        let (code, message) = run(&room.task(work)).unwrap_err();
        assert_eq!(code, FailureCode::TooFewExamples);
        assert_eq!(message, "256 training records, the study needs at least 300");
    }
    run(&room.task(Work::Evaluate)).unwrap();
}

#[test]
fn a_task_that_does_not_fit_this_worker_is_refused() {
    let room = Room::tiny("");
    let mut foreign = room.task(Work::Evaluate);
    foreign.protocol = 99;
    assert_eq!(run(&foreign).unwrap_err().0, FailureCode::ModelMismatch);
    let mut baseless = room.task(Work::Evaluate);
    baseless.base = None;
    assert_eq!(run(&baseless).unwrap_err().0, FailureCode::ModelMismatch);
    let (code, message) = run(&room.task(Work::Prepare)).unwrap_err();
    assert_eq!(code, FailureCode::ModelMismatch);
    assert_eq!(message, "the cnn family prepares nothing for study tiny");
    let mut gpu = room.task(Work::Evaluate);
    gpu.device = "cuda:4095".to_owned();
    assert_eq!(run(&gpu).unwrap_err().0, FailureCode::DeviceMissing);
    put(&room.folder.path().join("base.safetensors"), b"not a model");
    let (code, message) = run(&room.task(Work::Train)).unwrap_err();
    assert_eq!(code, FailureCode::ModelMismatch);
    assert!(message.contains("not a safetensors file"), "{message}");
    let synthetic = "[study]\nname = \"s\"\n[model]\nfamily = \"synthetic\"\nparameters = 10\n";
    let room = Room::new(&format!("{synthetic}{REST}"), None);
    let (code, message) = run(&room.task(Work::Train)).unwrap_err();
    assert_eq!(code, FailureCode::ModelMismatch);
    assert!(message.contains("`synthetic`"), "{message}");
}

#[test]
fn weights_that_blow_up_are_a_code_not_a_model() {
    let room = Room::tiny("optimizer = \"sgd\"\nlearning_rate = 1e30\nlocal_epochs = 4");
    let (code, message) = run(&room.task(Work::Train)).unwrap_err();
    assert_eq!(code, FailureCode::Diverged, "{message}");
    assert!(!room.out().exists());
}

#[test]
fn a_stop_in_mid_training_is_answered_and_leaves_no_model() {
    let room = Room::tiny("local_epochs = 10000\nbatch_size = 1");
    let mut worker = Worker::with_task(&room.task(Work::Train));
    worker.await_training();
    worker.send(&Request::Stop);
    let (replies, status) = worker.finish();
    let last = replies.last();
    assert!(matches!(last, Some(Reply::Failed { code: FailureCode::Stopped, .. })), "{last:?}");
    assert_eq!(status.code(), Some(1));
    assert!(!room.out().exists());
}

#[test]
fn a_worker_whose_daemon_died_ends() {
    let room = Room::tiny("local_epochs = 10000\nbatch_size = 1");
    let mut worker = Worker::with_task(&room.task(Work::Train));
    worker.await_training();
    let socket = worker.socket.take().unwrap();
    socket.shutdown(std::net::Shutdown::Both).unwrap();
    assert_eq!(worker.child.wait().unwrap().code(), Some(1));
    assert!(!room.out().exists());
}

#[test]
fn sigterm_ends_it_at_once_and_leaves_no_model() {
    use std::os::unix::process::ExitStatusExt;
    let room = Room::tiny("local_epochs = 10000\nbatch_size = 1");
    let mut worker = Worker::with_task(&room.task(Work::Train));
    worker.await_training();
    let kill = Command::new("kill").arg(worker.child.id().to_string()).status();
    assert!(kill.unwrap().success());
    assert_eq!(worker.child.wait().unwrap().signal(), Some(15));
    let left: Vec<_> = std::fs::read_dir(room.folder.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 3, "study, base and data: {left:?}");
}

#[test]
fn progress_comes_at_most_ten_times_a_second_and_with_a_loss() {
    let room = Room::tiny("local_epochs = 10000\nbatch_size = 1");
    let mut worker = Worker::with_task(&room.task(Work::Train));
    worker.await_training();
    let start = consilium_io::SystemClock::open();
    let lines: Vec<Reply> = (0..10).filter_map(|_| worker.hear()).collect();
    let took = consilium_common::time::Clock::now(&start);
    assert!(took.0 >= 850, "ten lines took {took}");
    let good = |line: &Reply| match line {
        Reply::Progress { phase, done, total, loss } => {
            *phase == Phase::Training && done < total && loss.is_some_and(f64::is_finite)
        }
        Reply::Hello { .. } | Reply::Done(_) | Reply::Failed { .. } => false,
    };
    assert!(lines.iter().all(good), "{lines:?}");
}

#[test]
fn a_daemon_that_says_nothing_or_nonsense_is_no_task() {
    let mut silent = Worker::start();
    silent.socket.take().unwrap().shutdown(std::net::Shutdown::Write).unwrap();
    let (replies, status) = silent.finish();
    assert!(replies.is_empty() && status.code() == Some(0), "{replies:?} {status}");
    let mut rambling = Worker::start();
    rambling.send_bytes(b"{\"kind\":\"dance\"}\n");
    let (replies, status) = rambling.finish();
    assert!(matches!(replies.as_slice(), [Reply::Hello { .. }, Reply::Failed { .. }]));
    assert_eq!(status.code(), Some(1));
}

#[test]
fn a_person_who_starts_it_is_told_what_it_is() {
    let program = || Command::new(env!("CARGO_BIN_EXE_consilium-worker"));
    let alone = program().stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(alone.stderr).unwrap();
    assert_eq!(alone.status.code(), Some(2));
    assert!(said.starts_with("consilium-worker is started by consilium-agent"), "{said}");
    assert_eq!(program().arg("--train").output().unwrap().status.code(), Some(2));
    let version = program().arg("--version").output().unwrap();
    assert!(version.status.success() && version.stdout.starts_with(b"consilium-worker "));
    let cpu = program().args(["--check-device", "cpu"]).output().unwrap();
    assert_eq!(cpu.stdout, b"cpu: computes\n");
    let gone = program().args(["--check-device", "cuda:4095"]).output().unwrap();
    assert_eq!(gone.status.code(), Some(1));
}

#[test]
fn memory_does_not_grow_from_batch_to_batch() {
    let room = Room::tiny("local_epochs = 10000\nbatch_size = 1");
    let mut worker = Worker::with_task(&room.task(Work::Train));
    worker.await_training();
    let path = format!("/proc/{}/statm", worker.child.id());
    let resident = || -> u64 {
        let text = std::fs::read_to_string(&path).unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
    };
    let mut hear = |lines: usize| (0..lines).for_each(|_| drop(worker.hear()));
    hear(5);
    let early = resident();
    hear(20);
    let late = resident();
    assert!(late < early + (4 << 20), "{early} → {late} bytes in two seconds of batches");
}

#[test]
fn a_fortieth_of_the_real_mnist_is_learnt_to_over_four_fifths() {
    let Some(data) = mnist() else { return };
    let room = Room::new(&mnist_study(), Some(data));
    let mut task = room.task(Work::Train);
    task.source.holdout = Holdout::Own(OwnTest::Test);
    let (of, index, split, seed) = (40, 17, Split::Iid, 1);
    task.source.part = Some(Part { of, index, split, seed });
    let trained = run(&task).unwrap();
    assert_eq!((trained.examples, trained.holdout), (1500, 250));
    task.work = Work::Evaluate;
    task.base = Some(room.out());
    let accuracy = Schema::of(&room.study).accuracy(&run(&task).unwrap().metrics).unwrap();
    assert!(accuracy > 0.8, "{accuracy}");
}
