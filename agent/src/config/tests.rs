use super::*;

const EXAMPLE: &str = include_str!("agent.example.toml");

fn read(text: &str) -> Result<AgentConfig, AgentConfigError> {
    AgentConfig::read(text, "agent.toml", Path::new("/etc/consilium"), std::iter::empty())
}

fn refusal(from: &str, to: &str) -> String {
    assert!(EXAMPLE.contains(from), "{from}");
    read(&EXAMPLE.replacen(from, to, 1)).unwrap_err().to_string()
}

#[test]
fn the_example_is_read_with_paths_from_its_folder() {
    let config = read(EXAMPLE).unwrap();
    assert_eq!(config.site.name.as_str(), "st-mary");
    assert_eq!(config.site.coordinator.to_string(), "fl.example:443");
    assert_eq!(config.site.certificates(), Path::new("/var/lib/consilium-agent/identity"));
    assert_eq!((config.site.worker.as_ref(), config.site.threads), (None, 1));
    let study: StudyId = "mnist".parse().unwrap();
    assert_eq!(config.data[&study].path, Path::new("/data/mnist"));
    let policy = config.policy.unwrap();
    assert!(policy.operators.is_empty(), "those of consortium.toml");
    assert_eq!(policy.operators_needed, None);
}

#[test]
fn every_rule_of_the_example_can_be_switched_on() {
    let line = |line: &str| match line.strip_prefix("# ") {
        Some(rule) if rule.split_once(" = ").is_some_and(|(name, _)| !name.contains(' ')) => {
            rule.to_owned()
        }
        _ => line.to_owned(),
    };
    let (site, policy) = EXAMPLE.split_once("[policy]").unwrap();
    let rules: Vec<String> = policy.lines().map(line).collect();
    let policy = read(&format!("{site}[policy]{}", rules.join("\n"))).unwrap().policy.unwrap();
    assert_eq!(policy.operators[0], Path::new("/etc/consilium/ada.pub"));
    assert_eq!((policy.min_cohort, policy.max_parameters), (Some(4), Some(10_000_000)));
    assert_eq!((policy.max_local_epochs, policy.max_rounds), (Some(5), Some(200)));
    assert_eq!((policy.max_learning_rate, policy.upload_mbit_s), (Some(0.1), Some(50.0)));
    assert_eq!((policy.peers.len(), policy.slots), (1, Some(1)));
    assert_eq!(policy.families.unwrap().len(), 2);
    assert_eq!((policy.columns.unwrap().len(), policy.strategies.unwrap().len()), (3, 2));
    assert_eq!(policy.hours.unwrap().to_string(), "20:00-06:00 Europe/Berlin");
}

#[test]
fn the_smallest_file_has_strict_defaults() {
    let config =
        read("[site]\nname = \"a\"\ncoordinator = \"[::1]:4433\"\nstate = \"state\"").unwrap();
    assert_eq!(config.site.state, Path::new("/etc/consilium/state"));
    assert_eq!(config.site.certificates(), Path::new("/etc/consilium/state/identity"));
    assert_eq!((config.site.device.as_str(), config.policy), ("auto", None));
    assert_eq!(config.site.coordinator.host, "::1");
    assert_eq!(config.site.coordinator.to_string(), "[::1]:4433");
}

#[test]
fn a_senseless_value_is_refused_with_what_to_write() {
    for (from, to, said) in [
        ("threads = 1 ", "threads = 0 ", "`site.threads` is 0: 1 to 1024"),
        ("device = \"auto\"", "device = \"gpu\"", "write \"auto\", \"cpu\" or \"cuda:0\""),
        ("device = \"auto\"", "device = \"cuda:x\"", "`site.device`"),
        (":443", "", "write host:port"),
        (":443", ":0", "write host:port"),
        ("holdout = 0.2", "holdout = 1.0", "`data.mnist.holdout` is 1: a fraction"),
        ("path = \"/data/mnist\"", "", "`data.mnist.path` is missing"),
        ("name = \"st-mary\"", "name = \"St. Mary\"", "site name"),
        ("threads = 1 ", "thread = 1 ", "did you mean `threads`?"),
        ("[policy]", "[policies]", "did you mean `policy`?"),
        (
            "# operators_needed = 2 ",
            "operators = [\"a.pub\", \"b.pub\"]\noperators_needed = 3 #",
            "1 to 2 is accepted",
        ),
        (
            "# operators_needed = 2 ",
            "privacy_budget = { epsilon = 8.0 } #",
            "`policy.privacy_budget` is not built yet",
        ),
        ("# operators_needed = 2 ", "hours = \"20:00-06:00\" #", "are no hours: write them as"),
        ("# operators_needed = 2 ", "slots = 0 #", "`policy.slots = 0`: 1 to 16 is accepted"),
    ] {
        let error = refusal(from, to);
        assert!(error.starts_with("agent.toml") && error.contains(said), "{from} → {to}: {error}");
    }
}

#[test]
fn a_source_that_never_says_whose_a_record_is_names_no_patients() {
    for (field, value) in [("patient", "pid"), ("exclude", "optout.csv")] {
        let error = refusal("holdout = 0.2", &format!("holdout = 0.2\n{field} = {value:?}"));
        assert!(
            error.contains(&format!("`data.mnist.{field}` is given: records of this")),
            "{error}"
        );
    }
}

#[test]
fn a_part_lies_among_its_parts() {
    let part = "holdout = 0.2\npart = { of = 4, index = 4, split = \"iid\", seed = 1 }";
    let error = refusal("holdout = 0.2", part);
    assert!(error.contains("`data.mnist.part` is 4 of 4"), "{error}");
}

#[test]
fn a_tables_own_test_file_is_named_beside_it_and_nowhere_else() {
    let table = |rest: &str| {
        let source = EXAMPLE.replacen("source = \"idx\"", "source = \"csv\"", 1);
        read(&source.replacen("holdout = 0.2", rest, 1))
    };
    let config = table("holdout = \"test\"\ntest_path = \"test.csv\"").unwrap();
    let study: StudyId = "mnist".parse().unwrap();
    let named = config.data[&study].test_path.as_deref();
    assert_eq!(named, Some(Path::new("/etc/consilium/test.csv")));
    for rest in ["holdout = \"test\"", "test_path = \"test.csv\""] {
        let error = table(rest).unwrap_err().to_string();
        assert!(error.contains("`data.mnist.test_path` is"), "{rest}: {error}");
    }
    let error = refusal("holdout = 0.2", "holdout = \"test\"\ntest_path = \"test.csv\"");
    assert!(error.contains("`data.mnist.test_path` is given"), "{error}");
}

#[test]
fn a_table_of_labels_belongs_to_files_and_lies_beside_the_configuration() {
    let texts = |rest: &str| {
        let source = EXAMPLE.replacen("source = \"idx\"", "source = \"text\"", 1);
        read(&source.replacen("holdout = 0.2", rest, 1))
    };
    let rest = "labels = \"labels.csv\"\nholdout = \"test\"\ntest_path = \"test.csv\"";
    let config = texts(rest).unwrap();
    let study: StudyId = "mnist".parse().unwrap();
    let named = config.data[&study].labels.as_deref();
    assert_eq!(named, Some(Path::new("/etc/consilium/labels.csv")));
    assert!(texts("holdout = 0.2").is_ok(), "a folder for each class");
    let pictures = EXAMPLE.replacen("source = \"idx\"", "source = \"image-folder\"", 1);
    assert!(read(&pictures.replacen("holdout = 0.2", rest, 1)).is_ok(), "pictures too");
    let error = texts("holdout = \"test\"\ntest_path = \"test.csv\"").unwrap_err().to_string();
    assert!(error.contains("`data.mnist.test_path` is given"), "{error}");
    let error = refusal("holdout = 0.2", "holdout = 0.2\nlabels = \"labels.csv\"");
    assert!(error.contains("`data.mnist.labels` is given: it names the table"), "{error}");
}

#[test]
fn the_environment_goes_over_the_file() {
    let over = [("CONSILIUM_SITE__THREADS", "2"), ("CONSILIUM_SITE__NAME", "st-john")];
    let over = over.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config =
        AgentConfig::read(EXAMPLE, "agent.toml", Path::new("/"), over.into_iter()).unwrap();
    assert_eq!((config.site.threads, config.site.name.as_str()), (2, "st-john"));
}
