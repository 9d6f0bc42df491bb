//! Files that hospital IT and coordinators write: agent.toml with its environment, consilium.toml.

use std::path::Path;

use consilium_agent::config::{AgentConfig, Endpoint};
use consilium_common::limits::{CONFIG_BYTES_MAX, STUDIES_MAX};
use consilium_coordinator::config::Config;

use super::{join, parts, scratch, shown, text};

const AGENT: &str = include_str!("../../../agent/src/config/agent.example.toml");
const COORDINATOR: &str = include_str!("../../../coordinator/consilium.example.toml");

/// agent.toml, then lines `NAME=VALUE` of its environment: what is accepted makes sense.
pub(super) fn agent(bytes: &[u8]) {
    let [file, environment] = parts(bytes);
    let (Some(file), Some(environment)) = (text(file), text(environment)) else {
        return;
    };
    let variables = environment.lines().filter_map(|line| line.split_once('='));
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    match AgentConfig::read(file, "agent.toml", Path::new("/etc/consilium"), variables) {
        Ok(config) => {
            assert!((1..=1024).contains(&config.site.threads));
            assert!(config.data.len() <= STUDIES_MAX);
            let endpoint = config.site.coordinator;
            assert_eq!(endpoint.to_string().parse::<Endpoint>().as_ref(), Ok(&endpoint));
            let Some(policy) = config.policy else {
                return;
            };
            assert_eq!(policy.check(), Ok(()));
            if let Some(hours) = policy.hours {
                assert_eq!(hours.to_string().parse().as_ref(), Ok(&hours));
            }
        }
        Err(error) => shown(&error, bytes),
    }
}

pub(super) fn coordinator(bytes: &[u8]) {
    let path = scratch::write("consilium.toml", bytes);
    match Config::load(&path) {
        Ok(config) => assert!(config.coordinator.state.is_absolute()),
        Err(error) => shown(&error, &vec![0; bytes.len() + 256]),
    }
}

pub(super) fn agents() -> Vec<Vec<u8>> {
    let environment = b"CONSILIUM_SITE__THREADS=4\nCONSILIUM_DATA__MNIST__PATH=\"/x\"\n";
    let edits = [
        ("threads = 1 ", "threads = 0 "),
        ("device = \"auto\"", "device = \"cuda:1\""),
        ("device = \"auto\"", "device = \"tpu\""),
        (
            "holdout = 0.2",
            "holdout = \"test\"\npart = { of = 4, index = 1, split = \"iid\", seed = 7 }",
        ),
        ("holdout = 0.2", "holdout = 1.5"),
        ("holdout = 0.2", "part = { of = 2, index = 2, split = \"dirichlet:0.3\", seed = 7 }"),
        ("path = \"/data/mnist\"", "examples = 10"),
        ("# operators", "operators"),
        ("fl.example:443", "[::1]:4433"),
        ("modes =", "hours = \"20:00-06:00\"\nmodes ="),
        ("# hours", "hours"),
        ("# families", "families"),
        ("# upload_mbit_s = 50", "upload_mbit_s = 0"),
        ("modes =", "operators_needed = 0\nmodes ="),
        ("accept = \"manual\"", "accept = \"sometimes\""),
        ("source = \"idx\"", "sorce = \"idx\""),
    ];
    let edited = edits.iter().map(|(from, to)| AGENT.replace(from, to).into_bytes());
    let with_environment = join(&[AGENT.as_bytes(), environment]);
    let study = |n: usize| format!("[data.s{n}]\nsource = \"synthetic\"\n");
    let studies: String = (0..=STUDIES_MAX).map(study).collect();
    let studies = AGENT.replace("[policy]", &format!("{studies}[policy]")).into_bytes();
    let operators = format!("operators = [{}]\nmodes =", "\"a.pub\", ".repeat(65));
    let operators = AGENT.replace("modes =", &operators).into_bytes();
    let large = vec![b' '; CONFIG_BYTES_MAX + 1];
    let more = [AGENT.as_bytes().to_vec(), with_environment, studies, operators, large];
    edited.chain(more).collect()
}

pub(super) fn coordinators() -> Vec<Vec<u8>> {
    let relative = "[coordinator]\nstate = \"s\"\ncertificates = \"c\"\nroster = \"r.toml\"\n";
    let large = " ".repeat(CONFIG_BYTES_MAX + 1);
    [COORDINATOR, relative, &large].map(|text| text.as_bytes().to_vec()).to_vec()
}
