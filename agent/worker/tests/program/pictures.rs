//! `cnn` with residual blocks and augmentation.

use crate::support::{REST, Room, bytes_of, run};
use consilium_common::update::words::Schema;
use consilium_common::worker::Work;

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
