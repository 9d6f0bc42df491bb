//! What the sites count, and what is refused of it.

use super::*;
use crate::study::counts::MOMENTS_UNITS;

const TOML: &str = "[study]\nname = \"demo\"\nseed = 7\n[model]\nfamily = \"synthetic\"\n\
                    parameters = 4\nprepare = 3\n[aggregation]\nclip_norm = 1.0\n[privacy]\n\
                    mode = \"inspectable\"\n";

fn study(from: &str, to: &str) -> Study {
    assert!(TOML.contains(from));
    Study::read(&TOML.replace(from, to), "demo.toml").unwrap()
}

fn demo() -> Study {
    study("", "")
}

fn preparation() -> Preparation {
    let terms = demo().preparation_terms().unwrap();
    Preparation { terms, sites: 2, sums: vec![5, -(1 << 31), 0] }
}

#[test]
fn a_preparation_comes_back_from_its_bytes() {
    let bytes = preparation().encode();
    assert_eq!(bytes.len() as u64, preparation_bytes_len(3));
    assert_eq!(Preparation::read(&bytes, &demo()), Ok(preparation()));
}

#[test]
fn one_error_for_every_way_of_being_malformed() {
    let good = preparation().encode();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        Preparation::decode(&bytes).unwrap_err()
    };
    assert_eq!(with(&|bytes| bytes[0] = b'X'), PreparationError::Magic);
    assert_eq!(with(&|bytes| bytes.truncate(40)), PreparationError::Magic);
    assert_eq!(with(&|bytes| bytes.truncate(57)), PreparationError::Magic);
    assert_eq!(with(&|bytes| bytes[55] = 0), PreparationError::Sites(0));
    assert_eq!(with(&|bytes| bytes[57] = 1), PreparationError::Sites(65_538));
    assert_eq!(with(&|bytes| bytes.truncate(HEADER_BYTES)), PreparationError::Claim(0));
    assert_eq!(with(&|bytes| bytes.truncate(82)), PreparationError::Claim(23));
    let sum = PreparationError::Sum { index: 1, have: -(1 << 31), sites: 1 };
    assert_eq!(with(&|bytes| bytes[55] = 1), sum);
    let long = Preparation { sums: vec![0; PREPARATION_SUMS_MAX + 1], ..preparation() };
    let claimed = PreparationError::Claim(SUM_BYTES * (PREPARATION_SUMS_MAX + 1));
    assert_eq!(Preparation::decode(&long.encode()), Err(claimed));
}

#[test]
fn the_preparation_of_another_study_is_refused() {
    let bytes = preparation().encode();
    let terms = |study: &Study| Preparation::read(&bytes, study).unwrap_err();
    for (from, to) in
        [("\"demo\"", "\"other\""), ("seed = 7", "seed = 8"), ("prepare = 3", "prepare = 4")]
    {
        assert!(matches!(terms(&study(from, to)), PreparationError::Terms { .. }), "{to}");
    }
    let nothing = study("prepare = 3\n", "");
    assert_eq!(terms(&nothing).to_string(), "study demo prepares nothing");
    let short = Preparation { sums: vec![1, 2], ..preparation() }.encode();
    let length = PreparationError::Length { have: 2, need: 3 };
    assert_eq!(Preparation::read(&short, &demo()), Err(length));
}

#[test]
fn a_changed_file_that_counts_the_same_keeps_its_preparation() {
    let terms = demo().preparation_terms();
    let next = study("seed = 7", "seed = 7\nversion = 2");
    assert_eq!(next.preparation_terms(), terms);
    assert_eq!(study("clip_norm = 1.0", "clip_norm = 2.0").preparation_terms(), terms);
    // Golden: a change here ends the preparation of every study that runs.
    let golden = "06581a5903bcbb44a31075a01777f60bba919c559430bccca78c2a053b4b89f5";
    assert_eq!(terms.unwrap().to_string(), golden);
}

const TABLE: &str = "[study]\nname = \"ward\"\nseed = 3\n[model]\nfamily = \"tabular\"\n\
    classes = [\"well\", \"ill\"]\n[data]\nkind = \"table\"\nnormalize = \"federated\"\n\
    label_codes = { \"1\" = \"ill\" }\ntolerance = 0.1\ncolumns = [\n\
    { name = \"age\", min = 0, max = 100, missing = \"impute\" },\n\
    { name = \"sex\", values = [\"f\", \"m\"], codes = { \"2\" = \"f\" } },\n\
    { name = \"crp\", min = 0, max = 0.5, outside = \"clip\" },\n]\n\
    [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n";

fn table(from: &str, to: &str) -> Result<Study, crate::study::StudyError> {
    assert!(TABLE.contains(from), "{from}");
    Study::read(&TABLE.replace(from, to), "ward.toml")
}

#[test]
fn a_table_counts_the_moments_of_its_numbers_and_names_all_that_they_follow_from() {
    let study = table("", "").unwrap();
    assert_eq!(study.preparation_len(), Some(2 * MOMENTS_UNITS), "words need no constants");
    assert_eq!(
        study.describe_preparation().unwrap(),
        "consilium/preparation-terms/1\nstudy ward\nseed 3\nfamily tabular\nsums 24\n\
         objective \"classify\"\nclass \"well\"\nclass \"ill\"\nlabel \"label\"\n\
         code \"1\" \"ill\"\n\
         number \"age\" from 0 to 100 missing \"impute\" outside \"refuse\"\n\
         words \"sex\" missing \"refuse\" outside \"refuse\"\nword \"f\"\nword \"m\"\n\
         code \"2\" \"f\"\n\
         number \"crp\" from 0 to 0.5 missing \"refuse\" outside \"clip\"\n"
    );
    let terms = study.preparation_terms();
    for (from, to) in [
        ("max = 100", "max = 120"),
        ("\"impute\"", "\"drop\""),
        ("\"clip\"", "\"drop\""),
        ("[\"f\", \"m\"]", "[\"f\", \"m\", \"x\"]"),
        ("\"1\" = \"ill\"", "\"2\" = \"ill\""),
        ("tolerance = 0.1", "label = \"outcome\""),
        ("tolerance = 0.1", "patient = \"id\""),
    ] {
        assert_ne!(table(from, to).unwrap().preparation_terms(), terms, "{to}");
    }
    for (from, to) in [("tolerance = 0.1", "min_examples = 9"), ("norm = 1.0", "norm = 2.0")] {
        assert_eq!(table(from, to).unwrap().preparation_terms(), terms, "{to}");
    }
    let alone = table("\"federated\"", "\"unit\"");
    assert!(alone.unwrap_err().to_string().contains("takes the mean of"));
    let alone = TABLE.replace("\"federated\"", "\"unit\"").replace("impute", "drop");
    assert_eq!(Study::read(&alone, "ward.toml").unwrap().preparation_len(), None);
}

#[test]
fn balanced_classes_are_counted_behind_what_the_family_counts() {
    let plain = table("", "").unwrap();
    let with = |weights: &str| {
        let training = format!("[training]\nclass_weights = {weights}\n[aggregation]");
        table("[aggregation]", &training).unwrap()
    };
    let balanced = with("\"balanced\"");
    assert_eq!(balanced.preparation_len(), Some(2 * MOMENTS_UNITS + 2));
    assert_ne!(balanced.preparation_terms(), plain.preparation_terms());
    let given = with("[1, 2]");
    assert_eq!(given.preparation_len(), plain.preparation_len(), "a list is not counted");
    assert_eq!(given.preparation_terms(), plain.preparation_terms());
    let sums: Vec<i64> = (0..26).collect();
    let terms = balanced.preparation_terms().unwrap();
    let preparation = Preparation { terms, sites: 1, sums };
    assert_eq!(preparation.parts(&balanced).1, [24, 25]);
    assert_eq!(preparation.parts(&plain), (&preparation.sums[..], &[][..]));
}

#[test]
fn pictures_are_counted_for_balanced_classes_and_for_nothing_else() {
    let study = |training: &str| {
        let text = format!(
            "[study]\nname = \"xray\"\nseed = 3\n[model]\nfamily = \"cnn\"\n\
             input = {{ channels = 1, height = 9, width = 9 }}\nclasses = [\"n\", \"y\"]\n\
             [training]\n{training}\n[aggregation]\nclip_norm = 1.0\n[privacy]\n\
             mode = \"inspectable\"\n"
        );
        Study::read(&text, "xray.toml").unwrap()
    };
    assert_eq!(study("").preparation_len(), None);
    let balanced = study("class_weights = \"balanced\"");
    assert_eq!((balanced.preparation_len(), balanced.family_sums()), (Some(2), None));
    assert_eq!(
        balanced.describe_preparation().unwrap(),
        "consilium/preparation-terms/1\nstudy xray\nseed 3\nfamily cnn\nsums 2\n\
         counts \"n\"\ncounts \"y\"\nlabel \"label\"\n"
    );
}

#[test]
fn a_study_without_numbers_to_standardise_is_refused() {
    let columns = TABLE.find("{ name = \"age\"").unwrap()..TABLE.find("{ name = \"sex\"").unwrap();
    let words = TABLE.replace(&TABLE[columns], "");
    let words = words.replace("{ name = \"crp\", min = 0, max = 0.5, outside = \"clip\" },", "");
    let refusal = |text: &str| Study::read(text, "x.toml").unwrap_err().to_string();
    assert_eq!(
        refusal(&words),
        "`data.normalize` is \"federated\": no column is a number: there is nothing to standardise"
    );
    let federated = "[data]\nnormalize = \"federated\"\n[aggregation]";
    let synthetic = refusal(&TOML.replace("[aggregation]", federated));
    assert!(synthetic.contains("the synthetic trainer reads no numbers"), "{synthetic}");
}

#[test]
fn the_pixels_of_each_channel_are_counted_where_the_study_says_so() {
    let text = |data: &str| {
        format!(
            "[study]\nname = \"a\"\n[model]\nfamily = \"cnn\"\nclasses = [\"a\", \"b\"]\n\
             input = {{ channels = 3, height = 8, width = 8 }}\n{data}\n[aggregation]\n\
             clip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n"
        )
    };
    let study = |data: &str| Study::read(&text(data), "a.toml").unwrap();
    let federated = study("[data]\nnormalize = \"federated\"");
    assert_eq!(federated.preparation_len(), Some(3 * MOMENTS_UNITS));
    assert_eq!(study("").preparation_len(), None);
    let other = study("[data]\nnormalize = \"federated\"\nlabel = \"finding\"");
    assert_ne!(federated.preparation_terms(), other.preparation_terms(), "other pictures count");
    let balanced = "[training]\nclass_weights = \"balanced\"\n[data]\nnormalize = \"federated\"";
    assert_eq!(study(balanced).preparation_len(), Some(3 * MOMENTS_UNITS + 2));
}

#[test]
fn more_sums_than_any_study_counts_are_refused_by_their_field() {
    let many = TOML.replace("prepare = 3", "prepare = 2097153");
    let error = Study::read(&many, "demo.toml").unwrap_err().to_string();
    assert_eq!(error, "`model.prepare` is 2097153: 0 to 2097152 is accepted");
    assert_eq!(study("prepare = 3", "prepare = 0").preparation_len(), None);
}
