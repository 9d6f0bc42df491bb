use super::*;
use crate::limits::{CLASSES_MAX, RESEARCHERS_MAX};
use crate::signed::{SecretKey, Signed, SignedError};

const MNIST: &str = r#"
[study]
name = "mnist"
purpose = "Read digits"
seed = 7
[model]
family = "cnn"
input = { channels = 1, height = 28, width = 28 }
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
[aggregation]
clip_norm = 10.0
[privacy]
mode = "inspectable"
"#;

fn with(from: &str, to: &str) -> Result<Study, StudyError> {
    assert!(MNIST.contains(from), "{from}");
    Study::read(&MNIST.replace(from, to), "mnist.toml")
}

fn strategy_text(strategy: &str, numbers: &str) -> Result<Study, StudyError> {
    let to = format!("clip_norm = 10.0\nstrategy = \"{strategy}\"\n{numbers}");
    with("clip_norm = 10.0", &to)
}

fn refusal(from: &str, to: &str) -> String {
    with(from, to).unwrap_err().to_string()
}

#[test]
fn the_worked_example_has_its_layout() {
    let study = Study::read(MNIST, "mnist.toml").unwrap();
    assert_eq!(
        study.layout().unwrap().describe(),
        "consilium/layout/1\n\
         conv1.weight weight f32 32x1x3x3\nconv1.bias weight f32 32\n\
         dense1.weight weight f32 128x5408\ndense1.bias weight f32 128\n\
         output.weight weight f32 10x128\noutput.bias weight f32 10\n"
    );
    assert_eq!(study.layout().unwrap().len(), 693_962);
}

#[test]
fn what_a_local_state_belongs_to_is_the_model_section_as_it_was_signed() {
    let spec = |study: &Study| Study::spec_digest(study.to_text().unwrap().as_bytes()).unwrap();
    let first = with("", "").unwrap().resolve().unwrap();
    let later = with("seed = 7", "seed = 7\nversion = 2").unwrap().resolve().unwrap();
    let other = with("\"8\", \"9\"]", "\"8\"]").unwrap().resolve().unwrap();
    assert_eq!(spec(&first), spec(&later));
    assert_ne!(spec(&first), spec(&other));
    let known = "[model]\nb = 1\na = 2\n[study]\nname = \"x\"";
    let sorted = "[study]\nname = \"y\"\n[model]\na = 2\nb = 1";
    let digest = |text: &str| Study::spec_digest(text.as_bytes()).unwrap();
    assert_eq!(digest(known), digest(sorted), "fields that this release does not know count too");
    assert_ne!(digest(known), digest("[model]\nb = 1"));
    assert!(matches!(Study::spec_digest(&[0xff]), Err(StudyError::NotText)));
}

#[test]
fn v0_is_the_same_on_every_machine() {
    let study = Study::read(MNIST, "mnist.toml").unwrap().resolve().unwrap();
    let initial = study.initial.unwrap();
    // Golden: a change here changes every study that was ever signed.
    assert_eq!(
        initial.layout.to_string(),
        "9bf5a1093229590537049b7f08559a6c67ecba649f78a78719fc7839ce352e1d"
    );
    assert_eq!(
        initial.model.to_string(),
        "c5379687386b4908dd20036b0f615aa39cc268298d197e33611a17cb3eca6f05"
    );
}

#[test]
fn resolving_fills_every_default_in_and_its_bytes_read_back_equal() {
    let study = Study::read(MNIST, "mnist.toml").unwrap().resolve().unwrap();
    let text = study.to_text().unwrap();
    for filled in ["format = 1", "version = 1", "batch_size = 32", "deadline = \"2h\"", "filters"] {
        assert!(text.contains(filled), "{filled} in\n{text}");
    }
    let key = SecretKey::from_seed(&[1; 32]);
    let signed = Signed::<Study>::sign(text.clone().into_bytes(), &key);
    let back = signed.verify(&[key.public()], 1).unwrap();
    assert_eq!(back, study);
    assert_eq!(back.to_text().unwrap(), text);
}

#[test]
fn a_draft_is_not_accepted_as_a_signed_study() {
    let key = SecretKey::from_seed(&[1; 32]);
    let signed = Signed::<Study>::sign(MNIST.as_bytes().to_vec(), &key);
    let error = signed.verify(&[key.public()], 1).unwrap_err();
    assert!(matches!(&error, SignedError::Unreadable(why) if why.contains("study sign")));
}

#[test]
fn a_layout_that_does_not_follow_from_the_spec_is_refused() {
    let study = Study::read(MNIST, "mnist.toml").unwrap().resolve().unwrap();
    let text = study.to_text().unwrap().replace("filters = 32", "filters = 33");
    assert!(matches!(Study::parse(text.as_bytes()), Err(StudyError::Layout { .. })));
}

#[test]
fn unknown_fields_name_the_nearest_known_one() {
    let text = refusal("seed = 7", "sead = 7");
    assert!(text.contains("line 5") && text.contains("did you mean `seed`?"), "{text}");
    let text = refusal("classes =", "clases =");
    assert!(text.contains("[model]") && text.contains("did you mean `classes`?"), "{text}");
    let text = refusal("family = \"cnn\"", "family = \"cn\"");
    assert!(text.contains("did you mean `cnn`?"), "{text}");
}

#[test]
fn what_is_not_built_says_so() {
    let private = refusal("mode = \"inspectable\"", "mode = \"private\"");
    assert_eq!(private, "`privacy.mode = \"private\"` is not built yet: write `inspectable`");
    let default = refusal("[privacy]\nmode = \"inspectable\"", "");
    assert_eq!(default, private);
    for strategy in ["trimmed-mean", "median", "multi-krum", "rfa"] {
        let text = strategy_text(strategy, "").unwrap_err().to_string();
        assert_eq!(text, format!("`aggregation.strategy = \"{strategy}\"` is not built yet"));
    }
    let family = refusal("family = \"cnn\"", "family = \"external\"");
    assert!(family.contains("`model.family = \"external\"` is not built yet"), "{family}");
}

#[test]
fn values_out_of_range_name_their_field() {
    let cases = [
        ("clip_norm = 10.0", "clip_norm = nan", "aggregation.clip_norm"),
        ("clip_norm = 10.0", "clip_norm = 0.0", "aggregation.clip_norm"),
        ("height = 28", "height = 2", "model.conv"),
        ("height = 28", "height = 0", "model.input.height"),
        ("classes = [\"0\", ", "classes = [\"0\", \"0\", ", "model.classes"),
        ("[privacy]", "[cohort]\nmin_sites = 0\n[privacy]", "cohort.min_sites"),
        ("[privacy]", "[cohort]\ndeadline = \"1ms\"\n[privacy]", "cohort.deadline"),
        (
            "[privacy]",
            "[cohort]\nmin_sites = 100\nmax_examples = 67108864\n[privacy]",
            "cohort.max_examples",
        ),
    ];
    for (from, to, field) in cases {
        let text = refusal(from, to);
        assert!(text.contains(field), "{to}: {text}");
    }
}

#[test]
fn a_strategy_has_its_own_numbers_and_the_resolved_study_shows_them_and_no_others() {
    let all = ["server_learning_rate", "momentum", "beta1", "beta2", "tau", "proximal_mu"];
    let cases: [(&str, &str, &[&str]); 6] = [
        ("fedavg", "", &["server_learning_rate = 1.0"]),
        ("fedprox", "proximal_mu = 0.1", &["server_learning_rate = 1.0", "proximal_mu = 0.1"]),
        ("fedavgm", "", &["server_learning_rate = 1.0", "momentum = 0.9"]),
        (
            "fedadam",
            "",
            &["server_learning_rate = 0.01", "beta1 = 0.9", "beta2 = 0.99", "tau = 0.001"],
        ),
        (
            "fedyogi",
            "beta2 = 0.5",
            &["server_learning_rate = 0.01", "beta1 = 0.9", "beta2 = 0.5", "tau = 0.001"],
        ),
        ("fedadagrad", "", &["server_learning_rate = 0.01", "beta1 = 0.0", "tau = 0.001"]),
    ];
    for (strategy, numbers, shown) in cases {
        let study = strategy_text(strategy, numbers).unwrap().resolve().unwrap();
        let text = study.to_text().unwrap();
        for line in shown {
            assert!(text.contains(&format!("\n{line}\n")), "{strategy}: {line} in\n{text}");
        }
        let fields = all.iter().filter(|field| text.contains(&format!("\n{field} =")));
        assert_eq!(fields.count(), shown.len(), "{strategy}: {text}");
        assert_eq!(Study::parse(text.as_bytes()).unwrap(), study);
    }
}

#[test]
fn a_number_that_the_strategy_does_not_use_or_cannot_use_is_refused() {
    let unused = [
        ("fedavg", "momentum = 0.9"),
        ("fedavg", "proximal_mu = 0.1"),
        ("fedprox", "proximal_mu = 0.1\nbeta1 = 0.9"),
        ("fedavgm", "tau = 1e-3"),
        ("fedadam", "momentum = 0.5"),
        ("fedyogi", "proximal_mu = 1.0"),
        ("fedadagrad", "beta2 = 0.99"),
    ];
    for (strategy, numbers) in unused {
        let text = strategy_text(strategy, numbers).unwrap_err().to_string();
        let need = format!("`strategy = \"{strategy}\"` does not use it: leave it out");
        assert!(text.starts_with("`aggregation.") && text.ends_with(&need), "{text}");
    }
    let out_of_range = [
        ("fedprox", "", "`aggregation.proximal_mu` is missing"),
        ("fedprox", "proximal_mu = 0.0", "`aggregation.proximal_mu` is 0:"),
        ("fedprox", "proximal_mu = -1.0", "`aggregation.proximal_mu` is -1:"),
        ("fedavg", "server_learning_rate = 0.0", "`aggregation.server_learning_rate` is 0:"),
        ("fedavgm", "momentum = 1.0", "`aggregation.momentum` is 1:"),
        ("fedadam", "beta1 = 1.0", "`aggregation.beta1` is 1:"),
        ("fedadam", "beta2 = -0.1", "`aggregation.beta2` is -0.1:"),
        ("fedadam", "tau = 0.0", "`aggregation.tau` is 0:"),
        ("fedadagrad", "tau = nan", "`aggregation.tau` is NaN:"),
        ("fedyogi", "server_learning_rate = inf", "`aggregation.server_learning_rate` is inf:"),
    ];
    for (strategy, numbers, start) in out_of_range {
        let text = strategy_text(strategy, numbers).unwrap_err().to_string();
        assert!(text.starts_with(start) && text.ends_with("is accepted"), "{numbers}: {text}");
    }
}

const SCAFFOLD: &str = "clip_norm = 10.0\nstrategy = \"scaffold\"";

#[test]
fn scaffold_corrects_plain_steps_and_needs_a_bound_for_what_it_sends_beside() {
    let sgd = "control_clip_norm = 2.0\n[training]\noptimizer = \"sgd\"";
    let study = with("clip_norm = 10.0", &format!("{SCAFFOLD}\n{sgd}")).unwrap();
    let grid = study.aggregation.control_grid().unwrap();
    assert!((grid.clip_norm - 2.0).abs() < 1e-12 && grid.step_exponent == -29);
    let one = ServerOptimizer::Control { learning_rate: 1.0 };
    assert_eq!((study.aggregation.server_optimizer(), one.state_values()), (one, 1));
    let text = study.resolve().unwrap().to_text().unwrap();
    assert!(text.contains("\ncontrol_clip_norm = 2.0\n"), "{text}");

    let refused = |numbers: &str| {
        let to = format!("{SCAFFOLD}\n{numbers}");
        refusal("clip_norm = 10.0", &to)
    };
    let adam = refused("control_clip_norm = 2.0");
    assert!(adam.starts_with("`training.optimizer` is \"adam\":"), "{adam}");
    assert!(adam.ends_with("write `optimizer = \"sgd\"`"), "{adam}");
    let missing = refused("[training]\noptimizer = \"sgd\"");
    assert!(missing.starts_with("`aggregation.control_clip_norm` is missing"), "{missing}");
    let both = refused(&format!("proximal_mu = 0.1\n{sgd}"));
    assert!(both.contains("`strategy = \"scaffold\"` does not use it"), "{both}");
    let unused = strategy_text("fedavg", "control_clip_norm = 2.0").unwrap_err().to_string();
    assert!(unused.contains("`strategy = \"fedavg\"` does not use it"), "{unused}");
    assert!(strategy_text("fedavg", "").unwrap().aggregation.control_grid().is_none());
}

#[test]
fn the_synthetic_trainer_needs_steps_to_correct() {
    let text = |steps: &str| {
        format!(
            "[study]\nname = \"a\"\n[model]\nfamily = \"synthetic\"\nparameters = 4\n{steps}\
             [training]\noptimizer = \"sgd\"\n[aggregation]\nclip_norm = 1.0\n\
             strategy = \"scaffold\"\ncontrol_clip_norm = 1.0\n\
             [privacy]\nmode = \"inspectable\"\n"
        )
    };
    assert!(Study::read(&text("steps = 5\n"), "a.toml").is_ok());
    let error = Study::read(&text(""), "a.toml").unwrap_err().to_string();
    assert!(error.contains("synthetic trainer") && error.contains("`steps`"), "{error}");
}

#[test]
fn fedprox_needs_a_loss_to_add_to() {
    let text = "[study]\nname = \"a\"\n[model]\nfamily = \"synthetic\"\nparameters = 4\n\
                [aggregation]\nclip_norm = 1.0\nstrategy = \"fedprox\"\nproximal_mu = 1.0\n\
                [privacy]\nmode = \"inspectable\"\n";
    let error = Study::read(text, "a.toml").unwrap_err().to_string();
    assert!(error.contains("synthetic trainer") && error.contains("another family"), "{error}");
}

#[test]
fn the_example_that_people_copy_says_the_defaults() {
    let example = Study::read(include_str!("mnist.example.toml"), "example").unwrap();
    let bare = Study::read(MNIST, "mnist.toml").unwrap();
    assert_eq!(example.model, bare.model);
    assert_eq!(example.evaluation, bare.evaluation);
    let training = Training { rounds: 10, ..bare.training };
    assert_eq!(example.training, training);
    let cohort = Cohort { max_examples: 100_000, ..bare.cohort };
    assert_eq!(example.cohort, cohort);
}

const LETTERS: &str = "[study]\nname = \"letters\"\n[model]\nfamily = \"text-classifier\"\n\
                       classes = [\"n\", \"y\"]\n[data]\nkind = \"text\"\n[aggregation]\n\
                       clip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n";

fn letters(model: &str, data: &str) -> Result<Study, StudyError> {
    let text = LETTERS.replace("[data]", &format!("{model}\n[data]"));
    Study::read(&text.replace("[aggregation]", &format!("{data}\n[aggregation]")), "letters.toml")
}

#[test]
fn every_encoder_of_documents_has_its_layout_and_its_own_sizes() {
    let head =
        |inputs: u32| format!("output.weight weight f32 2x{inputs}\noutput.bias weight f32 2\n");
    let embedding = "consilium/layout/1\nembedding.weight weight f32 20002x100\n";
    let cnn = "conv1.weight weight f32 100x100x3\nconv1.bias weight f32 100\n\
               conv2.weight weight f32 100x100x4\nconv2.bias weight f32 100\n\
               conv3.weight weight f32 100x100x5\nconv3.bias weight f32 100\n";
    let lstm = "lstm.weight_ih_l0 weight f32 512x100\nlstm.weight_hh_l0 weight f32 512x128\n\
                lstm.bias_ih_l0 weight f32 512\nlstm.bias_hh_l0 weight f32 512\n";
    for (encoder, layers, features, shown) in [
        ("mean", "", 100, "vocabulary = 20000"),
        ("cnn", cnn, 300, "kernels = [3, 4, 5]"),
        ("lstm", lstm, 128, "units = 128"),
    ] {
        let study = letters(&format!("encoder = \"{encoder}\""), "").unwrap().resolve().unwrap();
        let layout = study.layout().unwrap().describe();
        assert_eq!(layout, format!("{embedding}{layers}{}", head(features)));
        assert!(study.initial_vector().unwrap()[..100].iter().all(|x| *x == 0.0));
        let text = study.to_text().unwrap();
        for line in [shown, "text = \"text\"", "repeats = \"keep\"", "tokens = 512"] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert_eq!(Study::parse(text.as_bytes()).unwrap(), study);
    }
}

#[test]
fn what_documents_do_not_have_is_refused() {
    for (model, data, said) in [
        ("filters = 3", "", "`model.filters` is given"),
        ("encoder = \"cnn\"\nunits = 3", "", "`model.units` is given"),
        ("encoder = \"cnn\"\nkernels = []", "", "`model.kernels` is []"),
        ("encoder = \"lstm\"\nunits = 0", "", "`model.units` is 0"),
        ("vocabulary = 300000", "", "`model.vocabulary` is 300000: 1 to 262144"),
        ("word_dropout = 1.0", "", "`model.word_dropout` is 1"),
        ("", "text = \"label\"", "`data.text` is no column of its own"),
        ("", "min_site_support = 0", "`data.min_site_support` is 0"),
        ("", "columns = [{ name = \"a\", min = 0, max = 1 }]", "`data.columns` is given"),
    ] {
        let error = letters(model, data).unwrap_err().to_string();
        assert!(error.contains(said), "{model} {data}: {error}");
    }
    let text = refusal("[privacy]", "[data]\nmin_site_support = 2\n[privacy]");
    assert!(text.contains("`data.min_site_support` is given"), "{text}");
}

#[test]
fn words_that_could_move_a_terminal_are_refused_wherever_they_stand() {
    let text = |purpose: &str| {
        format!(
            "[study]\nname = \"a\"\npurpose = {purpose}\n[model]\nfamily = \"synthetic\"\n\
             parameters = 4\n[aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n"
        )
    };
    for purpose in [r#""\u001b[31mred""#, r#""two\nlines""#, r#""\u202eabc""#, r#""a\u009bb""#] {
        let error = Study::read(&text(purpose), "a.toml").unwrap_err().to_string();
        assert!(error.contains("`study.purpose` is text with"), "{purpose}: {error}");
    }
    let comment = text("\"fine\"") + "# \u{202e}\n";
    let error = Study::read(&comment, "a.toml").unwrap_err().to_string();
    assert!(error.contains("`the study` is text with \\u{202e}"), "{error}");
    let long = Study::read(&text(&format!("\"{}\"", "x".repeat(600))), "a.toml").unwrap_err();
    assert!(long.to_string().contains("600 bytes long"), "{long}");
    assert!(Study::read(&text("\"Thoraxaufnahmen, 胸部X光\""), "a.toml").is_ok());
}

#[test]
fn several_labels_at_once_are_for_families_that_tell_classes_apart() {
    let chest = |model: &str, rest: &str| {
        let kind = if model.contains("cnn") { "images" } else { "table" };
        let text = format!(
            "[study]\nname = \"chest\"\n[model]\n{model}\n[data]\nkind = \"{kind}\"\n{rest}\n\
             [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n"
        );
        Study::read(&text, "chest.toml").map_err(|error| error.to_string())
    };
    let cnn = "family = \"cnn\"\ninput = { channels = 1, height = 28, width = 28 }\n";
    let one = format!("{cnn}classes = [\"edema\"]");
    let read = chest(&format!("{one}\nobjective = \"multilabel\""), "").unwrap();
    let text = read.resolve().unwrap().to_text().unwrap();
    assert!(text.contains("objective = \"multilabel\""), "{text}");
    // A study of one class a record is signed as it was before there were others.
    let both = format!("{cnn}classes = [\"well\", \"ill\"]");
    let text = chest(&both, "").unwrap().resolve().unwrap().to_text().unwrap();
    assert!(!text.contains("objective"), "{text}");
    let table = "family = \"tabular\"\nclasses = [\"edema\", \"mass\"]";
    let columns =
        "columns = [{ name = \"x\", min = 0, max = 1 }]\nlabel_codes = { \"none\" = \"\" }";
    assert!(chest(&format!("{table}\nobjective = \"multilabel\""), columns).is_ok());
    let [rmse, hr] = ["[evaluation]\nmetric = \"rmse\"", "[evaluation]\nmetric = \"hr\""];
    for (model, rest, said) in [
        (one.as_str(), "", "2 to 64 labels are accepted"),
        (&format!("{both}\nobjective = \"regress\""), rmse, "\"classify\" or \"multilabel\""),
        (&format!("{both}\nobjective = \"rank\""), hr, "only the recommender family ranks"),
        (&format!("{both}\nobjective = \"several\""), "", "unknown variant `several`"),
        (table, columns, "`data.label_codes`"),
    ] {
        let error = chest(model, rest).unwrap_err();
        assert!(error.contains(said), "{model}: {error}");
    }
}

#[test]
fn histograms_of_more_classes_than_a_roll_call_holds_are_refused() {
    let study = |classes: usize, metric: &str, objective: &str| {
        let classes: Vec<String> = (0..classes).map(|class| format!("c{class}")).collect();
        let text = format!(
            "[study]\nname = \"many\"\n[model]\nfamily = \"tabular\"\nclasses = {classes:?}\n\
             objective = \"{objective}\"\n[data]\nkind = \"table\"\n\
             columns = [{{ name = \"x\", min = 0, max = 1 }}]\n[evaluation]\nmetric = \"{metric}\"\n\
             [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n"
        );
        Study::read(&text, "many.toml").map_err(|error| error.to_string())
    };
    for objective in ["classify", "multilabel"] {
        assert!(study(CLASSES_MAX, "accuracy", objective).is_ok());
        assert!(study(28, "auc", objective).is_ok());
        let error = study(CLASSES_MAX, "auc", objective).unwrap_err();
        assert!(error.contains("`model.classes` is 64 with") && error.contains("roll call"));
        // What is no model at all is told before its sums are named.
        let error = study(10_000, "auc", objective).unwrap_err();
        assert!(error.contains("to 64 labels are accepted"), "{error}");
    }
}

#[test]
fn researchers_are_listed_once_by_name_and_studies_without_any_are_signed_as_before() {
    let listed = |names: &str| with("seed = 7", &format!("seed = 7\nresearchers = {names}"));
    let study = listed("[\"rosa\", \"emmy\"]").unwrap().resolve().unwrap();
    let text = study.to_text().unwrap();
    assert!(text.contains("researchers = [\"rosa\", \"emmy\"]"), "{text}");
    assert_eq!(Study::parse(text.as_bytes()).unwrap(), study);
    let none = with("", "").unwrap().resolve().unwrap().to_text().unwrap();
    assert!(!none.contains("researchers"), "{none}");
    assert_eq!(listed("[]").unwrap().resolve().unwrap().to_text().unwrap(), none);
    let many: Vec<String> = (0..=RESEARCHERS_MAX).map(|n| format!("r{n}")).collect();
    for (names, said) in [
        ("[\"rosa\", \"rosa\"]".to_owned(), "a researcher stands there twice"),
        ("[\"Rosa L.\"]".to_owned(), "name \"Rosa L.\" is not valid"),
        (format!("{many:?}"), "at most 64 are accepted"),
    ] {
        let error = listed(&names).unwrap_err().to_string();
        assert!(error.contains(said), "{names}: {error}");
    }
}
