//! `cnn` with residual blocks, augmentation and weighted classes.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be made is a failed test")]

use crate::support::{REST, Room, bytes_of, idx, npy, put, put_npz, run};
use consilium_common::study::Preparation;
use consilium_common::study::counts::{MOMENTS_UNITS, Moments};
use consilium_common::update::sections::decode_i32;
use consilium_common::update::words::Schema;
use consilium_common::worker::source::OwnTest;
use consilium_common::worker::{FailureCode, Holdout, Source, SourceKind, Task, Work};

/// 12×12 pictures whose label is their bright edge, for a small residual network.
fn resnet(training: &str) -> Room {
    let text = format!(
        "[study]\nname = \"small\"\nseed = 3\n[model]\nfamily = \"cnn\"\n\
         input = {{ channels = 1, height = 12, width = 12 }}\n\
         classes = [\"n\", \"e\", \"s\", \"w\"]\n\
         conv = [{{ filters = 8, padding = 1, norm = 2 }}, \
         {{ filters = 16, padding = 1, norm = 4, residual = true }}]\n\
         global_pool = true\ndense = []\ndropout = 0.1\n[training]\n{training}\n{REST}"
    );
    let room = Room::new(&text, None);
    room.put_records("train", 320);
    room.put_records("t10k", 80);
    room
}

const AUGMENT: &str = "augment = { shift = 0.1, rotate = 10, scale = 0.1, noise = 0.05 }";

#[test]
fn a_residual_network_learns_from_changed_pictures_and_is_scored_on_plain_ones() {
    let room = resnet(&format!("learning_rate = 0.01\nlocal_epochs = 8\n{AUGMENT}"));
    let schema = Schema::of(&room.study);
    let trained = run(&room.task(Work::Train)).unwrap();
    let before = schema.accuracy(&trained.metrics).unwrap();
    let mut task = room.task(Work::Evaluate);
    task.base = Some(room.out());
    let scored = run(&task).unwrap();
    let after = schema.accuracy(&scored.metrics).unwrap();
    assert!(before < 0.7 && after > 0.9, "{before} → {after}");
    task.seed += 1;
    assert_eq!(run(&task).unwrap(), scored, "nothing is drawn in scoring");
}

#[test]
fn a_seed_changes_pictures_the_same_way_each_time() {
    let trained = |training: &str, seed: u64| {
        let room = resnet(training);
        let mut task = room.task(Work::Train);
        task.seed = seed;
        run(&task).unwrap();
        bytes_of(&room.out())
    };
    let augmented = format!("local_epochs = 2\n{AUGMENT}");
    let first = trained(&augmented, 1);
    assert_eq!(first, trained(&augmented, 1));
    assert_ne!(first, trained(&augmented, 2));
    assert_ne!(first, trained("local_epochs = 2", 1), "without it other pictures are trained on");
}

/// Colour pictures of two classes whose bytes are those of the same draw times `scale`.
fn lit(normalize: &str, scale: u8) -> Room {
    let text = format!(
        "[study]\nname = \"lit\"\nseed = 3\n[model]\nfamily = \"cnn\"\n\
         input = {{ channels = 3, height = 4, width = 4 }}\nclasses = [\"well\", \"ill\"]\n\
         conv = [{{ filters = 2 }}]\ndense = [4]\n[data]\nnormalize = \"{normalize}\"\n{REST}"
    );
    let room = Room::new(&text, None);
    let mut generator = consilium_common::random::Generator::new("lit", b"1");
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for record in 0..64_u32 {
        let is_ill = record.is_multiple_of(2);
        labels.push(u8::from(is_ill));
        // The channels differ in how bright they are, and the last one is of one level.
        let levels = [20, 60, 1].map(|most| generator.below(most) + u32::from(is_ill) * most / 4);
        for _ in 0..16 {
            let [red, green, _] = levels;
            pixels.extend([red, green, 7].map(|level| u8::try_from(level).unwrap() * scale));
        }
    }
    let shape = "(64, 4, 4, 3)";
    let (images, labels) = (npy("|u1", shape, &pixels), npy("|u1", "(64, 1)", &labels));
    let arrays = [("train_images", images.clone()), ("train_labels", labels.clone())];
    let test = [("test_images", images), ("test_labels", labels)];
    put_npz(&room.data.join("lit.npz"), &[arrays, test].concat());
    room
}

/// What the sites' counts make of the room's pictures, and the loss of v0 on them.
fn counted(room: &Room) -> (Vec<i64>, f64) {
    let mut task = room.task(Work::Evaluate);
    task.source = Source {
        holdout: Holdout::Own(OwnTest::Test),
        ..Source::new(SourceKind::Npz, room.data.join("lit.npz"))
    };
    let mut sums = Vec::new();
    if let Some(terms) = room.study.preparation_terms() {
        let out = room.folder.path().join("counts.i32");
        let prepare =
            Task { work: Work::Prepare, base: None, out: Some(out.clone()), ..task.clone() };
        run(&prepare).unwrap();
        sums = decode_i32(&bytes_of(&out)).map(i64::from).collect();
        let path = room.folder.path().join("preparation");
        put(&path, &Preparation { terms, sites: 1, sums: sums.clone() }.encode());
        task.preparation = Some(path);
    }
    let metrics = run(&task).unwrap().metrics;
    (sums, Schema::of(&room.study).loss(&metrics).unwrap())
}

#[test]
fn the_sites_constants_make_dark_pictures_and_bright_ones_alike() {
    let plain = [1, 3].map(|scale| counted(&lit("unit", scale)).1);
    let [(dark, of_dark), (bright, of_bright)] =
        [1, 3].map(|scale| counted(&lit("federated", scale)));
    let moments = |sums: &[i64], channel: usize| {
        let sums = sums.get(MOMENTS_UNITS * channel..).unwrap();
        let moments = Moments::of(sums).unwrap();
        assert_eq!(moments.count(), 64 * 16);
        moments.mean_and_deviation()
    };
    for channel in [0, 1] {
        let ((mean, deviation), (brighter, wider)) =
            (moments(&dark, channel), moments(&bright, channel));
        assert!((3.0 * mean - brighter).abs() < 1e-6 && (3.0 * deviation - wider).abs() < 1e-6);
    }
    assert!((moments(&dark, 2).0 - 7.0 / 255.0).abs() < 1e-8);
    assert!((moments(&dark, 2).1 - 1.0).abs() < f64::EPSILON, "a level without variance");
    assert!((plain[0] - plain[1]).abs() > 1e-3, "{plain:?}");
    assert!((of_dark - of_bright).abs() < 1e-4, "{of_dark}, {of_bright}");
}

/// One record in sixteen shows the second class, hidden in noise.
fn rare(training: &str) -> Room {
    let text = format!(
        "[study]\nname = \"rare\"\nseed = 3\n[model]\nfamily = \"cnn\"\n\
         input = {{ channels = 1, height = 4, width = 4 }}\nclasses = [\"well\", \"ill\"]\n\
         conv = []\ndense = []\n[training]\n{training}\n{REST}"
    );
    let room = Room::new(&text, None);
    let mut generator = consilium_common::random::Generator::new("rare", b"1");
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for record in 0..640_u32 {
        let is_ill = record.is_multiple_of(16);
        labels.push(u8::from(is_ill));
        let level = if is_ill { 60 } else { 0 };
        images.extend((0..16).map(|_| u8::try_from(generator.below(195) + level).unwrap()));
    }
    for files in ["train", "t10k"] {
        room.put(&format!("{files}-images-idx3-ubyte"), &idx(&[640, 4, 4], &images));
        room.put(&format!("{files}-labels-idx1-ubyte"), &idx(&[640], &labels));
    }
    room
}

/// How many of the second class, and of the first, were told apart after training.
fn found(room: &Room, preparation: Option<&Preparation>) -> [u64; 2] {
    let mut task = room.task(Work::Train);
    task.source.holdout = Holdout::Own(OwnTest::Test);
    task.preparation = preparation.map(|preparation| {
        put(&room.folder.path().join("preparation"), &preparation.encode());
        room.folder.path().join("preparation")
    });
    run(&task).unwrap();
    task.work = Work::Evaluate;
    task.base = Some(room.out());
    let metrics = run(&task).unwrap().metrics;
    let schema = Schema::of(&room.study);
    ["confusion.1.1", "confusion.0.0"].map(|name| schema.get(&metrics, name).unwrap())
}

const STEPS: &str = "learning_rate = 0.01\nlocal_epochs = 10\nbatch_size = 16";

#[test]
fn the_counts_of_all_sites_make_a_rare_class_weigh_as_much_as_a_common_one() {
    let room = rare(&format!("{STEPS}\nclass_weights = \"balanced\""));
    let mut task = room.task(Work::Prepare);
    task.source.holdout = Holdout::Own(OwnTest::Test);
    task.out = Some(room.folder.path().join("counts.i32"));
    run(&task).unwrap();
    let counts = decode_i32(&bytes_of(&room.folder.path().join("counts.i32"))).collect::<Vec<_>>();
    assert_eq!(counts, [600, 40]);
    let terms = room.study.preparation_terms().unwrap();
    let sums = counts.iter().map(|count| i64::from(*count)).collect();
    let [ill, well] = found(&room, Some(&Preparation { terms, sites: 1, sums }));
    let [ill_plain, well_plain] = found(&rare(STEPS), None);
    assert!(ill_plain < 20 && well_plain > 590, "{ill_plain} {well_plain}");
    assert!(ill > 28 && well > 420, "{ill} {well}");
    let [ill_given, _] = found(&rare(&format!("{STEPS}\nclass_weights = [0.5, 8.0]")), None);
    assert!(ill_given > 28, "the same as a list: {ill_given}");
}

#[test]
fn balanced_classes_are_not_trained_without_counts_or_on_counts_below_nothing() {
    let room = rare("class_weights = \"balanced\"");
    let (code, message) = run(&room.task(Work::Train)).unwrap_err();
    assert_eq!(code, FailureCode::ModelMismatch);
    assert!(message.contains("names no preparation"), "{message}");
    let terms = room.study.preparation_terms().unwrap();
    let broken = Preparation { terms, sites: 1, sums: vec![5, -1] };
    put(&room.folder.path().join("preparation"), &broken.encode());
    let mut task = room.task(Work::Train);
    task.preparation = Some(room.folder.path().join("preparation"));
    let (code, message) = run(&task).unwrap_err();
    assert_eq!(code, FailureCode::ModelMismatch);
    assert!(message.contains("counts of classes cannot come from counting"), "{message}");
}
