//! `training.frozen` and `training.local`: tensors that stay as they are, and tensors that stay here.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is a failed test")]

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use crate::support::{Room, bytes_of, put, run};
use consilium_common::tensor::file::{from_safetensors, to_safetensors};
use consilium_common::tensor::layout::{Kind, Layout};
use consilium_common::worker::{FailureCode, Task, Work};

const LOCAL: &str = "local = [\"conv1.*\"]";

/// Where the tensors that `wanted` names lie in a layout.
fn ranges(layout: &Layout, wanted: impl Fn(&str) -> bool) -> Vec<Range<usize>> {
    let tensors = layout.tensors().iter().filter(|tensor| wanted(&tensor.name));
    tensors.map(|tensor| tensor.offset..tensor.offset + tensor.len).collect()
}

fn trained(room: &Room) -> Vec<f32> {
    from_safetensors(&bytes_of(&room.out()), &room.study.layout().unwrap()).unwrap()
}

#[test]
fn frozen_tensors_come_out_as_they_went_in_and_the_others_move() {
    for (strategy, optimizer) in
        [("", "adam"), ("", "sgd"), ("strategy = \"fedprox\"\nproximal_mu = 1.0", "adam")]
    {
        let training = format!("optimizer = \"{optimizer}\"\nfrozen = [\"conv1.*\", \"*.bias\"]");
        let room = Room::tiny_under(strategy, &training);
        run(&room.task(Work::Train)).unwrap();
        let (layout, base, out) =
            (room.study.layout().unwrap(), room.study.initial_vector().unwrap(), trained(&room));
        let is_frozen = |name: &str| name.starts_with("conv1.") || name.ends_with(".bias");
        for range in ranges(&layout, is_frozen) {
            assert_eq!(out[range.clone()], base[range], "{optimizer}");
        }
        for range in ranges(&layout, |name| !is_frozen(name)) {
            assert_ne!(out[range.clone()], base[range], "{optimizer}");
        }
    }
}

fn conv(study: &consilium_common::study::Study) -> (Layout, Vec<f32>) {
    // The file has them by name.
    let mut tensors = study.local_tensors().unwrap();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let specs = tensors.iter().map(|t| (t.name.clone(), t.shape.clone(), Kind::Weight));
    let layout = Layout::new(specs).unwrap();
    (layout, tensors.into_iter().flat_map(|tensor| tensor.values).collect())
}

fn kept(path: &Path, layout: &Layout) -> Vec<f32> {
    from_safetensors(&bytes_of(path), layout).unwrap()
}

#[test]
fn local_tensors_start_as_the_seed_says_are_trained_here_and_do_not_leave() {
    let still = Room::tiny(&format!("{LOCAL}\nlearning_rate = 1e-12"));
    let (layout, start) = conv(&still.study);
    let task = still.task(Work::Train);
    run(&task).unwrap();
    let left = kept(task.local_out.as_deref().unwrap(), &layout);
    assert!(left.iter().zip(&start).all(|(left, start)| (left - start).abs() < 1e-6));

    let room = Room::tiny(LOCAL);
    let task = room.task(Work::Train);
    run(&task).unwrap();
    let result = bytes_of(&room.out());
    assert!(!String::from_utf8_lossy(&result).contains("conv1"));
    assert!(room.study.layout().unwrap().tensors().iter().all(|t| !t.name.starts_with("conv1")));
    let moved = kept(task.local_out.as_deref().unwrap(), &layout);
    assert!(moved.iter().zip(&start).any(|(moved, start)| (moved - start).abs() > 1e-4));
}

#[test]
fn a_round_goes_on_from_the_local_tensors_of_the_last_and_scores_with_them() {
    let room = Room::tiny(&format!("{LOCAL}\nlocal_epochs = 4\nlearning_rate = 0.01"));
    let first = room.task(Work::Train);
    let before = run(&first).unwrap();
    let state = room.folder.path().join("kept.state");
    put(&state, &bytes_of(first.local_out.as_deref().unwrap()));
    let scoring = |local| Task { base: Some(room.out()), local, ..room.task(Work::Evaluate) };
    let with = run(&scoring(Some(state.clone()))).unwrap();
    let without = run(&scoring(None)).unwrap();
    assert_eq!(with.holdout, without.holdout);
    assert_ne!(with.metrics, without.metrics, "the tensors that were trained here count");
    assert_ne!(with.metrics, before.metrics);

    let (layout, _) = conv(&room.study);
    let next = Task { base: Some(room.out()), local: Some(state.clone()), ..first };
    run(&next).unwrap();
    let (was, is) = (kept(&state, &layout), kept(next.local_out.as_deref().unwrap(), &layout));
    assert_ne!(was, is);

    let other = Layout::new([("conv2.bias".to_owned(), vec![4], Kind::Weight)]).unwrap();
    let none = HashMap::<String, String>::new();
    for bytes in [b"rubbish".to_vec(), to_safetensors(&other, &[0.0; 4], none).unwrap()] {
        put(&state, &bytes);
        let (code, message) = run(&next).unwrap_err();
        assert_eq!(code, FailureCode::ModelMismatch);
        assert!(message.starts_with("the local state "), "{message}");
    }
}

/// One step over all records at once: with and without a correction it follows the same gradient.
#[test]
fn a_correction_is_added_to_the_steps_of_what_is_sent_and_of_nothing_else() {
    let training = "optimizer = \"sgd\"\nlearning_rate = 0.5\nbatch_size = 1048576\n\
                    frozen = [\"output.*\"]\nlocal = [\"conv1.*\"]";
    let room = Room::tiny_under("strategy = \"scaffold\"\ncontrol_clip_norm = 1.0", training);
    let layout = room.study.layout().unwrap();
    let task = room.task(Work::Train);
    let outcome = run(&task).unwrap();
    assert!((outcome.steps.unwrap() - 0.5).abs() < 1e-12, "{:?}", outcome.steps);
    let plain = trained(&room);
    let stays = bytes_of(task.local_out.as_deref().unwrap());

    let path = room.folder.path().join("correction.safetensors");
    let metadata = HashMap::<String, String>::new();
    let correction: Vec<f32> = (0..layout.len()).map(|at| (at % 5) as f32 - 2.0).collect();
    put(&path, &to_safetensors(&layout, &correction, metadata).unwrap());
    let task = Task { correction: Some(path), ..task };
    run(&task).unwrap();
    let corrected = trained(&room);
    assert_eq!(bytes_of(task.local_out.as_deref().unwrap()), stays);
    let is_frozen = |name: &str| name.starts_with("output.");
    for range in ranges(&layout, is_frozen) {
        assert_eq!(corrected[range.clone()], plain[range]);
    }
    for range in ranges(&layout, |name| !is_frozen(name)) {
        for at in range {
            let moved = corrected[at] - plain[at];
            assert!((moved + 0.5 * correction[at]).abs() < 1e-5, "{at}: {moved}");
        }
    }
}
