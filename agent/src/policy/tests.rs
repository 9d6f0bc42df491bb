use consilium_common::config;
use consilium_common::signed::{PublicKey, SecretKey, Signed};
use consilium_common::study::Mode;
use consilium_common::worker::SourceKind;

use super::*;

const STUDY: &str = r#"
[study]
name = "mnist"
[model]
family = "cnn"
input = { channels = 1, height = 28, width = 28 }
classes = ["0", "1"]
[aggregation]
clip_norm = 10.0
[privacy]
mode = "inspectable"
"#;

const OPEN: &str = r#"
accept = "within-policy"
studies = ["mnist"]
operators = ["one.pub", "two.pub"]
operators_needed = 2
modes = ["private", "inspectable"]
"#;

fn policy(text: &str) -> Policy {
    config::parse(text, "agent.toml").unwrap()
}

fn study() -> Study {
    Study::read(STUDY, "mnist.toml").unwrap()
}

fn refusal(policy: Option<&Policy>) -> Refusal {
    let Judgement::Refused(refusal) = judge(policy, &study(), None, WallMillis(0)) else {
        panic!("allowed");
    };
    refusal
}

fn signers(keys: &[PublicKey], needed: usize) -> Signers {
    let keys = keys.to_vec();
    Signers { keys, needed }
}

#[test]
fn without_a_policy_every_study_is_refused() {
    let refusal = refusal(None);
    assert_eq!(refusal.code, Code::Policy);
    assert!(refusal.sentence.contains("no [policy] section"));
}

#[test]
fn a_study_that_is_not_listed_is_refused_with_what_to_add() {
    for studies in ["studies = [\"other\"]", ""] {
        let refusal = refusal(Some(&policy(&OPEN.replace("studies = [\"mnist\"]", studies))));
        assert_eq!(refusal.code, Code::PolicyStudies);
        let said = "\"mnist\": add it to `studies` in [policy] of agent.toml";
        assert!(refusal.sentence.contains(said), "{refusal}");
    }
}

#[test]
fn a_mode_that_is_not_listed_is_refused_and_only_private_is_the_default() {
    for modes in ["", "modes = []", "modes = [\"private\"]"] {
        let text = OPEN.replace("modes = [\"private\", \"inspectable\"]", modes);
        let refusal = refusal(Some(&policy(&text)));
        assert_eq!(refusal.code, Code::PolicyModes);
        let said =
            "the coordinator sees this site's own updates: \"inspectable\": add it to `modes`";
        assert!(refusal.sentence.contains(said), "{refusal}");
    }
}

#[test]
fn a_person_is_asked_unless_the_policy_accepts() {
    let judged = |text: &str| judge(Some(&policy(text)), &study(), None, WallMillis(0));
    assert_eq!(judged(OPEN), Judgement::Allowed);
    for manual in ["accept = \"manual\"", ""] {
        let text = OPEN.replace("accept = \"within-policy\"", manual);
        assert_eq!(judged(&text), Judgement::NeedsPerson);
    }
}

#[test]
fn a_rule_that_cannot_be_kept_stops_the_start() {
    for (rule, said) in [
        (
            "privacy_budget = { epsilon = 8.0, delta = 1e-5 }",
            "`policy.privacy_budget` is not built yet",
        ),
        (
            "families = [\"tabula\"]",
            "lists \"tabula\", which no study can name; did you mean \"tabular\"?",
        ),
        ("min_cohort = 0", "`policy.min_cohort = 0`: 1 or more"),
        ("max_parameters = 0", "`policy.max_parameters = 0`: 1 or more"),
        ("max_local_epochs = 0", "`policy.max_local_epochs = 0`: 1 or more"),
        ("max_rounds = 0", "`policy.max_rounds = 0`: 1 or more"),
        ("max_learning_rate = 0", "`policy.max_learning_rate = 0`: a number above 0"),
        ("max_learning_rate = nan", "`policy.max_learning_rate = NaN`: a number above 0"),
        ("slots = 0", "`policy.slots = 0`: 1 to 16"),
        ("slots = 17", "`policy.slots = 17`: 1 to 16"),
        ("upload_mbit_s = 0", "`policy.upload_mbit_s = 0`: 0.1 to 100000"),
        ("upload_mbit_s = inf", "`policy.upload_mbit_s = inf`: 0.1 to 100000"),
    ] {
        let policy = policy(&format!("{OPEN}\n{rule}"));
        let error = policy.check().unwrap_err().to_string();
        assert!(error.contains(said), "{rule}: {error}");
        let refusal = refusal(Some(&policy));
        assert_eq!((refusal.code, refusal.sentence), (Code::Policy, error), "nothing is accepted");
    }
}

#[test]
fn a_word_that_no_rule_knows_is_told_with_those_that_it_does() {
    for (rule, said) in [
        ("strategies = [\"fedavgg\"]", "fedavgm"),
        ("modes = [\"open\"]", "inspectable"),
        ("hours = \"20:00-06:00\"", "write them as \"20:00-06:00 Europe/Berlin\""),
        ("initial_models = [\"abc\"]", "expected 64 hexadecimal digits"),
        ("peers = [\"St. Mary\"]", "site name"),
    ] {
        let text = OPEN.replace("modes = [\"private\", \"inspectable\"]\n", "");
        let error = config::parse::<Policy>(&format!("{text}{rule}\n"), "agent.toml").unwrap_err();
        assert!(error.to_string().contains(said), "{rule}: {error}");
    }
}

#[test]
fn the_operators_that_count_are_reachable_in_number() {
    for need in [0, 3] {
        let text = OPEN.replace("operators_needed = 2", &format!("operators_needed = {need}"));
        let error = PolicyError::OperatorsNeeded { need, have: 2 };
        assert_eq!(policy(&text).check(), Err(error));
    }
    let key = |n| SecretKey::from_seed(&[n; 32]).public();
    let (listed, pinned) = (vec![key(1), key(2)], signers(&[key(3), key(4), key(5)], 2));
    let all = policy(&OPEN.replace("operators_needed = 2", ""));
    assert_eq!(all.check(), Ok(()));
    let count = |keys| all.signers(keys, pinned.clone()).unwrap();
    assert_eq!(count(listed.clone()), signers(&listed, 2), "all, if not given");
    assert_eq!(count(vec![]), pinned, "the consortium's pins, if none is listed");
    let more = policy("operators_needed = 4");
    assert_eq!(more.check(), Ok(()));
    let error = PolicyError::OperatorsNeeded { need: 4, have: 3 };
    assert_eq!(more.signers(vec![], pinned), Err(error));
}

#[test]
fn an_unknown_rule_is_an_error_that_names_the_nearest() {
    let error = config::parse::<Policy>("operator_needed = 2", "agent.toml").unwrap_err();
    assert!(error.to_string().contains("did you mean `operators_needed`?"), "{error}");
}

#[test]
fn a_study_with_too_few_operator_signatures_is_not_opened() {
    let (one, two) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
    let keys = [one.public(), two.public()];
    let bytes = study().resolve().unwrap().to_text().unwrap().into_bytes();
    let mut signed = Signed::<Study>::sign(bytes.clone(), &one);
    let refusal = open(Some(&policy(OPEN)), &signers(&keys, 2), &signed).unwrap_err();
    assert_eq!(refusal.code, Code::BadSignature);
    assert!(refusal.sentence.contains("signed by 1 of the known keys, 2 needed"), "{refusal}");

    let second = Signed::<Study>::sign(bytes, &two).signatures;
    signed.signatures.extend(second);
    assert_eq!(
        open(Some(&policy(OPEN)), &signers(&keys, 2), &signed).unwrap().id().as_str(),
        "mnist"
    );
    assert_eq!(open(None, &signers(&keys, 2), &signed).unwrap_err().code, Code::Policy);
}

#[test]
fn a_draft_or_a_study_of_a_later_release_is_not_supported() {
    let one = SecretKey::from_seed(&[1; 32]);
    let text = OPEN.replace("operators_needed = 2", "operators_needed = 1");
    let draft = Signed::<Study>::sign(STUDY.as_bytes().to_vec(), &one);
    let refusal = open(Some(&policy(&text)), &signers(&[one.public()], 1), &draft).unwrap_err();
    assert_eq!(refusal.code, Code::NotSupported);
}

/// A study over a table that breaks none of [`RULES`].
const TABLE: &str = r#"
[study]
name = "breast"
[model]
family = "tabular"
classes = ["malignant", "benign"]
[data]
kind = "table"
label = "diagnosis"
patient = "case"
columns = [{ name = "radius", min = 0, max = 50 }]
[training]
learning_rate = 1e-3
local_epochs = 2
rounds = 20
[aggregation]
clip_norm = 2.0
strategy = "fedavg"
[cohort]
min_sites = 4
required = ["charite", "mayo"]
[privacy]
mode = "inspectable"
[evaluation]
groups = ["sex:F,M"]
"#;

const RULES: &str = r#"
accept = "within-policy"
studies = ["breast"]
modes = ["inspectable"]
min_cohort = 4
peers = ["charite"]
families = ["tabular"]
max_parameters = 4
columns = ["diagnosis", "case", "radius_mean", "sex"]
strategies = ["fedavg"]
max_local_epochs = 2
max_learning_rate = 1e-3
max_rounds = 20
"#;

fn source() -> Source {
    let text = "source = \"csv\"\npath = \"a.csv\"\ncolumns = { radius = \"radius_mean\" }\n";
    config::parse(text, "agent.toml").unwrap()
}

fn table() -> Study {
    Study::read(TABLE, "breast.toml").unwrap().resolve().unwrap()
}

/// The code with which the study is refused, if it is.
fn code(rules: &str, study: &Study) -> Option<Code> {
    match judge(Some(&policy(rules)), study, Some(&source()), WallMillis(0)) {
        Judgement::Refused(refusal) => Some(refusal.code),
        Judgement::Allowed => None,
        Judgement::NeedsPerson => panic!("within the policy nobody is asked"),
    }
}

#[test]
fn every_rule_that_is_broken_refuses_with_its_own_code() {
    assert_eq!(
        code(RULES, &table()),
        None,
        "{:#?}",
        policy(RULES).findings(&table(), Some(&source()))
    );
    let mut seen = Vec::new();
    for (rule, broken, code_of_rule) in [
        ("studies = [\"breast\"]", "studies = [\"breasts\"]", Code::PolicyStudies),
        ("modes = [\"inspectable\"]", "modes = [\"private\"]", Code::PolicyModes),
        ("min_cohort = 4", "min_cohort = 5", Code::PolicyCohort),
        ("peers = [\"charite\"]", "peers = [\"charite\", \"tokyo\"]", Code::PolicyPeers),
        ("families = [\"tabular\"]", "families = [\"cnn\", \"rnn\"]", Code::PolicyFamilies),
        ("max_parameters = 4", "max_parameters = 3", Code::PolicyParameters),
        ("\"radius_mean\"", "\"radius\"", Code::PolicyColumns),
        ("\"diagnosis\", ", "", Code::PolicyColumns),
        ("\"case\", ", "", Code::PolicyColumns),
        (", \"sex\"", "", Code::PolicyColumns),
        ("strategies = [\"fedavg\"]", "strategies = [\"fedprox\"]", Code::PolicyStrategies),
        ("max_local_epochs = 2", "max_local_epochs = 1", Code::PolicyEpochs),
        ("max_learning_rate = 1e-3", "max_learning_rate = 9.99e-4", Code::PolicyLearningRate),
        ("max_rounds = 20", "max_rounds = 19", Code::PolicyRounds),
    ] {
        assert!(RULES.contains(rule), "{rule}");
        let stricter = RULES.replacen(rule, broken, 1);
        assert_eq!(code(&stricter, &table()), Some(code_of_rule), "{broken}");
        let Judgement::Refused(refusal) =
            judge(Some(&policy(&stricter)), &table(), Some(&source()), WallMillis(0))
        else {
            panic!("allowed");
        };
        let field = code_of_rule.to_string();
        assert!(field.starts_with("policy-"), "{field}");
        assert!(refusal.sentence.starts_with("breast: "), "{refusal}");
        assert!(
            refusal.sentence.contains("in [policy] of agent.toml"),
            "what to change: {refusal}"
        );
        seen.push(code_of_rule);
    }
    // A rule that is left out is not made; what is opened by name stays closed.
    let fewer = "accept = \"within-policy\"\nstudies = [\"breast\"]\nmodes = [\"inspectable\"]\n";
    assert_eq!(code(fewer, &table()), None);
    let given = table().resolve_from(&[0.0; 4]).unwrap();
    assert_eq!(code(fewer, &given), Some(Code::PolicyInitialModels));
    seen.push(Code::PolicyInitialModels);
    let model = given.initial.unwrap().model;
    assert_eq!(code(&format!("{fewer}initial_models = [\"{model}\"]\n"), &given), None);
    let all = Code::ALL.iter().filter(|code| code.as_str().starts_with("policy-"));
    for code in all {
        assert!(seen.contains(code), "no case breaks the rule of {code}");
    }
}

#[test]
fn a_hostile_study_that_weakens_privacy_or_cohort_is_refused() {
    let weakened = |change: &dyn Fn(&mut Study)| {
        let mut study = table();
        change(&mut study);
        study
    };
    // Written as structs: this version would not even read a private study.
    let private = |study: &mut Study, min_cohort, min_sites| {
        study.privacy.mode = Mode::Private;
        study.privacy.min_cohort = min_cohort;
        study.cohort.min_sites = min_sites;
    };
    let rules = RULES.replace("modes = [\"inspectable\"]", "modes = [\"private\"]");
    let unbounded = rules.replace("min_cohort = 4\n", "");
    assert_eq!(code(&rules, &weakened(&|study| private(study, 4, 4))), None);
    for (rules, study, refused) in [
        (&rules, weakened(&|_| {}), Code::PolicyModes),
        (&rules, weakened(&|study| private(study, 3, 4)), Code::PolicyCohort),
        (&rules, weakened(&|study| private(study, 4, 3)), Code::PolicyCohort),
        (&unbounded, weakened(&|study| private(study, 3, 9)), Code::PolicyCohort),
        (&RULES.to_owned(), weakened(&|study| study.cohort.min_sites = 3), Code::PolicyCohort),
        (&RULES.to_owned(), weakened(&|study| study.cohort.required.clear()), Code::PolicyPeers),
        (
            &RULES.to_owned(),
            weakened(&|study| study.evaluation.groups.push("religion:a,b".to_owned())),
            Code::PolicyColumns,
        ),
    ] {
        assert_eq!(code(rules, &study), Some(refused));
    }
}

#[test]
fn columns_are_those_that_the_sites_files_have() {
    let rules = RULES.replace("\"diagnosis\", \"case\", \"radius_mean\", \"sex\"", "");
    let of = |source: &Source| {
        let findings = policy(&rules).findings(&table(), Some(source));
        findings.into_iter().find(|finding| finding.rule == "columns").unwrap()
    };
    let finding = of(&source());
    assert_eq!(finding.verdict, Verdict::Refused(Code::PolicyColumns));
    for name in ["case", "diagnosis", "radius_mean", "sex"] {
        assert!(finding.sentence.contains(&format!("{name:?}")), "{}", finding.sentence);
    }
    let mut pictures = source();
    pictures.source = SourceKind::ImageFolder;
    assert_eq!(of(&pictures).verdict, Verdict::Allowed, "folders have no columns");
    pictures.labels = Some("labels.csv".into());
    assert_eq!(
        of(&pictures).verdict,
        Verdict::Refused(Code::PolicyColumns),
        "a table of labels has"
    );
    let none = policy(&rules).findings(&table(), None);
    assert!(
        none.iter().any(|finding| finding.sentence.contains("\"radius\"")),
        "the study's names"
    );
}

#[test]
fn a_sentence_names_the_first_of_many_columns() {
    let mut wide = table();
    let column = wide.data.columns[0].clone();
    wide.data.columns = (0..3_000)
        .map(|n| consilium_common::study::Column { name: format!("gene {n}"), ..column.clone() })
        .collect();
    let findings = policy(RULES).findings(&wide, None);
    let columns = findings.iter().find(|finding| finding.rule == "columns").unwrap();
    assert!(
        columns.sentence.len() < 400 && columns.sentence.contains("and 2988 more"),
        "{columns:?}"
    );
}
