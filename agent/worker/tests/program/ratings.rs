//! `recommender`: ratings and choices of users; what is learnt of a user stays in the local state.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is a failed test")]

use std::path::{Path, PathBuf};

use crate::support::{REST, Room, bytes_of, put, run};
use consilium_common::ids::Digest;
use consilium_common::random::Generator;
use consilium_common::study::Preparation;
use consilium_common::update::sections::decode_i32;
use consilium_common::update::words::Schema;
use consilium_common::worker::source::OfUser;
use consilium_common::worker::{
    FailureCode, Holdout, Part, Prediction, Source, SourceKind, Split, Task, Work, from_line,
};

const ITEMS: u32 = 130;

fn study(model: &str, data: &str, metric: &str) -> String {
    format!(
        "[study]\nname = \"films\"\nseed = 3\n[model]\nfamily = \"recommender\"\nitems = 150\n\
         factors = 4\n{model}\n[data]\nkind = \"ratings\"\n{data}\n{REST}\
         [evaluation]\nmetric = \"{metric}\"\n"
    )
}

const STARS: &str = "columns = [{ name = \"rating\", min = 1, max = 5 }]";

fn ratings() -> Room {
    let model = "objective = \"regress\"\ndecay = 0.01";
    let text = study(model, STARS, "rmse");
    let training = "[training]\noptimizer = \"sgd\"\nlearning_rate = 0.4\nbatch_size = 8\n\
                    local_epochs = 40\n[data]";
    Room::new(&text.replace("[data]", training), None)
}

fn choices() -> Room {
    choices_by("negatives = 2")
}

fn choices_by(loss: &str) -> Room {
    let text = study(&format!("objective = \"rank\"\n{loss}"), "", "ndcg");
    let training = "[training]\nlearning_rate = 0.02\nlocal_epochs = 30\n[data]";
    Room::new(&text.replace("[data]", training), None)
}

/// Users meet items as they have learnt to.
const LEARNT: &str = "network = \"ncf\"\nhidden = [8, 4]";

/// Users and items are of one of two kinds; who meets his own kind gives 5 stars, else 1.
fn stars(users: std::ops::Range<u32>) -> String {
    let mut text = String::from("user,item,rating,time\n");
    for user in users {
        let mut generator = Generator::new("stars", &user.to_le_bytes());
        for time in 0..25 {
            let item = generator.below(ITEMS);
            let rating = if (user + item).is_multiple_of(2) { 5 } else { 1 };
            text += &format!("u{user},film {item},{rating},{time}\n");
        }
    }
    text
}

/// Of eight kinds, and each user chooses among the items of his own.
fn chosen(users: std::ops::Range<u32>) -> String {
    let mut text = String::from("user,item,time\n");
    for user in users {
        let mut generator = Generator::new("chosen", &user.to_le_bytes());
        for time in 0..10 {
            let item = user % 8 + 8 * generator.below(16);
            text += &format!("u{user},film {item},{time}\n");
        }
    }
    text
}

/// A task on these rows, with what the site alone would have prepared.
fn task(room: &Room, work: Work, text: &str, holdout: Holdout) -> Task {
    room.put("films.csv", text.as_bytes());
    let source = Source { holdout, ..Source::new(SourceKind::Csv, room.data.join("films.csv")) };
    let task = Task { source, ..room.task(work) };
    match work {
        Work::Train | Work::TrainAlone | Work::Evaluate => {
            Task { preparation: Some(prepared(room, &task, text)), ..task }
        }
        Work::Prepare | Work::Check | Work::Predict | Work::Pin => task,
    }
}

/// What the site counts, as if it were the only one.
fn prepared(room: &Room, task: &Task, text: &str) -> PathBuf {
    let (units, name) = (room.folder.path().join("counts.i32"), Digest::of(text.as_bytes()));
    let prepare = Task {
        work: Work::Prepare,
        base: None,
        local_out: None,
        out: Some(units.clone()),
        ..task.clone()
    };
    run(&prepare).unwrap();
    let sums: Vec<i64> = decode_i32(&bytes_of(&units)).map(i64::from).collect();
    assert_eq!(Some(sums.len()), room.study.preparation_len());
    let terms = room.study.preparation_terms().unwrap();
    let path = room.folder.path().join(format!("preparation-{name}"));
    put(&path, &Preparation { terms, sites: 1, sums }.encode());
    path
}

/// Scores what `task` trained, with the users as it left them.
fn scored(room: &Room, task: &Task, local: &Path) -> consilium_common::worker::Outcome {
    run(&Task {
        work: Work::Evaluate,
        base: Some(room.out()),
        out: None,
        local: Some(local.to_owned()),
        local_out: None,
        ..task.clone()
    })
    .unwrap()
}

fn left(task: &Task) -> PathBuf {
    task.local_out.clone().unwrap()
}

const LAST: Holdout = Holdout::OfUser(OfUser::Last);

#[test]
fn ratings_are_learnt_from_who_meets_what() {
    let room = ratings();
    let task = task(&room, Work::Train, &stars(0..60), Holdout::default());
    let before = run(&task).unwrap();
    assert_eq!((before.examples, before.holdout), (1200, 300));
    let schema = Schema::of(&room.study);
    let first = schema.rmse(&before.metrics).unwrap();
    let last = schema.rmse(&scored(&room, &task, &left(&task)).metrics).unwrap();
    assert!(first > 1.9 && last < 0.6, "from the mean alone {first}, learnt {last}");
}

#[test]
fn choices_are_ranked_above_what_was_not_chosen() {
    for loss in ["negatives = 2", "loss = \"multinomial\"", LEARNT] {
        let room = choices_by(loss);
        let task = task(&room, Work::Train, &chosen(0..80), LAST);
        let before = run(&task).unwrap();
        assert_eq!(before.holdout, 80);
        let schema = Schema::of(&room.study);
        let after = scored(&room, &task, &left(&task)).metrics;
        let (hits, gain) = (schema.hit_rate(&after).unwrap(), schema.ndcg(&after).unwrap());
        let chance = schema.hit_rate(&before.metrics).unwrap();
        assert!(chance < 0.3 && hits > 0.8 && gain > 0.4, "{loss}: {chance}, then {hits} {gain}");
    }
}

#[test]
fn the_same_task_gives_the_same_bits_of_items_and_of_users() {
    for room in [ratings(), choices(), choices_by(LEARNT)] {
        let task = task(&room, Work::Train, &stars(0..20), LAST);
        let bits = || {
            run(&task).unwrap();
            (bytes_of(&room.out()), bytes_of(&left(&task)))
        };
        assert_eq!(bits(), bits());
    }
}

#[test]
fn no_user_is_in_the_layout_or_in_the_result() {
    for room in [ratings(), choices()] {
        let layout = room.study.layout().unwrap();
        assert!(layout.tensors().iter().all(|tensor| !tensor.name.starts_with("user")));
        let task = task(&room, Work::Train, &stars(0..20), LAST);
        run(&task).unwrap();
        let (result, local) = (bytes_of(&room.out()), bytes_of(&left(&task)));
        let has = |bytes: &[u8], word: &str| {
            bytes.windows(word.len()).any(|window| window == word.as_bytes())
        };
        assert!(has(&local, "user.weight") && !has(&local, "u17"), "rows, and no user's own name");
        assert!(!has(&result, "user"));
        // Twice as many users: not one byte more travels.
        let more = self::task(&room, Work::Train, &stars(0..40), LAST);
        run(&more).unwrap();
        assert_eq!(bytes_of(&room.out()).len(), result.len());
        assert!(bytes_of(&left(&more)).len() > local.len() + 20 * 4 * 4);
    }
}

#[test]
fn a_users_rows_survive_new_users_and_another_order_of_the_file() {
    let room = ratings();
    let first = task(&room, Work::Train, &stars(0..40), Holdout::default());
    run(&first).unwrap();
    let kept = room.folder.path().join("kept.state");
    std::fs::rename(left(&first), &kept).unwrap();
    let schema = Schema::of(&room.study);
    let rmse = |text: &str, local: Option<&PathBuf>| {
        let fresh = task(&room, Work::Evaluate, text, Holdout::Fraction(0.9));
        let prepared = first.preparation.clone();
        let base = Some(room.out());
        let task = Task { base, local: local.cloned(), preparation: prepared, ..fresh };
        schema.rmse(&run(&task).unwrap().metrics).unwrap()
    };
    let mut rows: Vec<String> = stars(0..40).lines().map(str::to_owned).collect();
    let with_new =
        stars(500..510).lines().skip(1).map(|row| format!("{row}\n")).collect::<String>();
    rows[1..].reverse();
    let turned = rows.join("\n") + "\n";
    let known = rmse(&turned, Some(&kept));
    assert!(known < 0.5, "{known}");
    assert!(rmse(&turned, None) > 1.5, "nothing is known of anybody");
    let mixed = rmse(&(turned.clone() + &with_new), Some(&kept));
    assert!(mixed < 1.2, "40 of 50 are known: {mixed}");
    // Trained on with newcomers first in the file, the old ones are still themselves.
    let text = format!("user,item,rating,time\n{with_new}");
    let next = task(&room, Work::Train, &text, Holdout::Fraction(0.2));
    let base = room.folder.path().join("second.safetensors");
    std::fs::rename(room.out(), &base).unwrap();
    let next = Task {
        local: Some(kept),
        base: Some(base.clone()),
        preparation: first.preparation.clone(),
        ..next
    };
    run(&next).unwrap();
    std::fs::rename(base, room.out()).unwrap();
    let still = rmse(&turned, Some(&left(&next)));
    assert!((still - known).abs() < 1e-6, "{known}, then {still}");
}

#[test]
fn pairs_are_said_to_be_what_is_known_of_both() {
    for (room, text) in [(ratings(), stars(0..60)), (choices_by(LEARNT), chosen(0..80))] {
        let trained = task(&room, Work::Train, &text, Holdout::Fraction(0.0));
        run(&trained).unwrap();
        let asked = "item,user\nfilm 16,u8\nfilm 17,u8\nfilm 16,nobody\nfilm 17,nobody\n\
                     no such film,u8\nfilm 16,\n";
        let ask = |local: Option<PathBuf>| {
            let preparation = trained.preparation.clone();
            let base = Some(room.out());
            let task = task(&room, Work::Predict, asked, Holdout::default());
            let outcome = run(&Task { base, preparation, local, ..task }).unwrap();
            assert_eq!(outcome.examples, 5);
            let lines = bytes_of(&room.predictions());
            let lines = lines.split_inclusive(|byte| *byte == b'\n');
            lines.map(|line| from_line::<Prediction>(line).unwrap()).collect::<Vec<_>>()
        };
        let lines = ask(Some(left(&trained)));
        let value = |lines: &[Prediction], at: usize| lines[at].outputs.as_ref().unwrap()[0];
        let apart = value(&lines, 0) - value(&lines, 1);
        assert!(apart > 1.0, "u8 is of the kind of film 16: {apart}");
        let of_nobody = value(&lines, 2) - value(&lines, 3);
        assert!(of_nobody.abs() < apart / 2.0, "what everybody makes of both: {of_nobody}");
        assert!(lines[5].trouble.as_deref().unwrap().contains("\"user\" is empty"));
        // Without the local state everybody is nobody.
        let unknown = ask(None);
        assert_eq!(unknown[0].outputs, unknown[2].outputs);
        assert_eq!(unknown[2].outputs, lines[2].outputs);
    }
}

#[test]
fn another_sites_users_file_says_nothing_here() {
    let room = ratings();
    let theirs = task(&room, Work::Train, &stars(1000..1020), Holdout::default());
    run(&theirs).unwrap();
    let foreign = room.folder.path().join("foreign.state");
    std::fs::rename(left(&theirs), &foreign).unwrap();
    let ours = task(&room, Work::Train, &stars(0..20), Holdout::default());
    let alone = run(&ours).unwrap();
    let result = bytes_of(&room.out());
    let beside = run(&Task { local: Some(foreign), ..ours }).unwrap();
    assert_eq!((alone.metrics, alone.examples), (beside.metrics, beside.examples));
    assert_eq!(bytes_of(&room.out()), result);
}

#[test]
fn parts_are_of_users_and_the_last_choice_is_held_out() {
    let room = choices();
    let found: Vec<_> = (0..3)
        .map(|index| {
            let mut task = task(&room, Work::Check, &stars(0..60), LAST);
            task.source.part = Some(Part { of: 3, index, split: Split::Iid, seed: 1 });
            run(&task).unwrap()
        })
        .collect();
    for found in &found {
        assert_eq!((found.examples, found.holdout), (480, 20), "{:?}", found.findings);
        assert!(found.findings.iter().any(|line| line.starts_with("20 users (of 60")));
    }
}

#[test]
fn files_without_a_header_are_read_by_their_columns_numbers() {
    let room = ratings();
    let text = stars(0..20).replace(',', "\t");
    let text = text.split_once('\n').unwrap().1;
    let mut task = task(&room, Work::Check, text, LAST);
    task.source.source = SourceKind::Tsv;
    task.source.format.header = false;
    for (name, column) in [("user", "1"), ("item", "2"), ("rating", "3"), ("time", "4")] {
        task.source.columns.insert(name.to_owned(), column.to_owned());
    }
    assert_eq!(run(&task).unwrap().holdout, 20);
}

#[test]
fn what_does_not_fit_is_refused_in_a_sentence() {
    let refused = |room: &Room, text: &str, holdout: Holdout| {
        let (code, message) = run(&task(room, Work::Check, text, holdout)).unwrap_err();
        assert_eq!(code, FailureCode::DataInvalid, "{message}");
        message
    };
    let said = refused(&ratings(), "user,item,rating,time\na,b,6,1\n", LAST);
    assert!(said.contains("column \"rating\" is outside the study's range"), "{said}");
    let said = refused(&ratings(), "user,item,rating,time\na,,5,1\n", LAST);
    assert!(said.contains("column \"item\" is empty"), "{said}");
    let said = refused(&choices(), "user,item,time\na,b,soon\n", LAST);
    assert!(said.contains("holds no time"), "{said}");
    let said = refused(&choices(), "user,item\na,b\n", LAST);
    assert!(said.contains("no column \"time\""), "{said}");
    let said = refused(&ratings(), "user,item\na,b\n", Holdout::default());
    assert!(said.contains("no column \"rating\""), "{said}");
    // 3 items are not 99 to rank against.
    let room = choices();
    let few = "user,item,time\na,x,1\na,y,2\nb,x,1\nb,z,2\n";
    let (code, said) = run(&task(&room, Work::Train, few, LAST)).unwrap_err();
    assert_eq!(code, FailureCode::DataInvalid);
    assert!(said.contains("the catalogue has 1 items"), "{said}");
}
