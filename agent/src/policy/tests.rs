use consilium_common::config;
use consilium_common::signed::{PublicKey, SecretKey, Signed};

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

fn sentence(policy: Option<&Policy>) -> String {
    let Judgement::Refused(refusal) = judge(policy, &study()) else {
        panic!("allowed");
    };
    assert_eq!(refusal.code, Code::Policy);
    refusal.sentence
}

fn signers(keys: &[PublicKey], needed: usize) -> Signers {
    let keys = keys.to_vec();
    Signers { keys, needed }
}

#[test]
fn without_a_policy_every_study_is_refused() {
    assert!(sentence(None).contains("no [policy] section"));
}

#[test]
fn a_study_that_is_not_listed_is_refused_with_what_to_add() {
    let other = policy(&OPEN.replace("[\"mnist\"]", "[\"other\"]"));
    assert!(sentence(Some(&other)).contains("add \"mnist\" to `studies`"));
    let none = policy(&OPEN.replace("studies = [\"mnist\"]", ""));
    assert!(sentence(Some(&none)).contains("add \"mnist\" to `studies`"));
}

#[test]
fn a_mode_that_is_not_listed_is_refused_and_only_private_is_the_default() {
    for modes in ["", "modes = []", "modes = [\"private\"]"] {
        let text = OPEN.replace("modes = [\"private\", \"inspectable\"]", modes);
        let said = sentence(Some(&policy(&text)));
        assert!(
            said.contains("the coordinator sees") && said.contains("\"inspectable\" to `modes`")
        );
    }
}

#[test]
fn a_person_is_asked_unless_the_policy_accepts() {
    assert_eq!(judge(Some(&policy(OPEN)), &study()), Judgement::Allowed);
    for manual in ["accept = \"manual\"", ""] {
        let text = OPEN.replace("accept = \"within-policy\"", manual);
        assert_eq!(judge(Some(&policy(&text)), &study()), Judgement::NeedsPerson);
    }
}

#[test]
fn a_person_never_accepts_what_the_policy_refuses() {
    let refused = Judgement::Refused(Refusal::new(Code::Policy, "no"));
    let by_policy = Decision::Refused { code: Code::Policy };
    let by_site = Decision::Refused { code: Code::RefusedBySite };
    let cases = [
        (refused.clone(), Some(Person::Accepted), by_policy),
        (refused, None, by_policy),
        (Judgement::Allowed, None, Decision::Accepted),
        (Judgement::Allowed, Some(Person::Accepted), Decision::Accepted),
        (Judgement::Allowed, Some(Person::Refused), by_site),
        (Judgement::NeedsPerson, None, Decision::NeedsPerson),
        (Judgement::NeedsPerson, Some(Person::Accepted), Decision::Accepted),
        (Judgement::NeedsPerson, Some(Person::Refused), by_site),
    ];
    for (judgement, person, decision) in cases {
        assert_eq!(decide(&judgement, person), decision, "{judgement:?} {person:?}");
    }
}

#[test]
fn a_rule_that_cannot_be_kept_stops_the_start() {
    for (field, value) in [
        ("hours", "\"20:00-06:00 Europe/Berlin\""),
        ("upload_mbit_s", "50"),
        ("max_rounds", "200"),
        ("min_cohort", "4"),
        ("privacy_budget", "{ epsilon = 8.0, delta = 1e-5 }"),
    ] {
        let policy = policy(&format!("{OPEN}\n{field} = {value}"));
        let error = policy.check().unwrap_err().to_string();
        assert!(error.starts_with(&format!("`policy.{field}` is not built yet")), "{error}");
        assert_eq!(sentence(Some(&policy)), error, "and nothing is accepted under it");
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
