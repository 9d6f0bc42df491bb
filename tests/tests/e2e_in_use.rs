//! A version in use where a daemon runs: `evaluate` and `predict` read the study, the preparation and the
//! local state that the site's rounds left, and find again what those rounds measured; `consilium report`
//! shows it for each group that is large enough.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests: a panic is a failed test"
)]

use std::fs;
use std::path::{Path, PathBuf};

use consilium_common::audit::RollCall;
use consilium_common::random::Generator;
use consilium_common::study::Study;
use consilium_common::update::groups::GroupRow;
use consilium_common::update::words::{Metrics, Schema};
use consilium_common::wire::messages::TaskKind;
use consilium_coordinator::local::{Policy, SiteSpec};
use consilium_tests::harness::world::name;
use consilium_tests::harness::{Said, World, consilium_agent, with_worker};
use serde_json::Value;
use tempfile::TempDir;

const NAME: &str = "ward";
const SITES: usize = 2;
const ROWS: u32 = 320;

/// The output's layer stays at each site, and the sites count means and deviations together: a version
/// says nothing here without both. Rare wards have fewer than ten records at a site.
const DRAFT: &str = "\
[study]\nname = \"ward\"\nseed = 3\n\
[model]\nfamily = \"tabular\"\nclasses = [\"well\", \"ill\"]\nhidden = [6]\n\
[data]\nkind = \"table\"\nlabel = \"outcome\"\nnormalize = \"federated\"\n\
columns = [{ name = \"age\", min = 0, max = 200 }, { name = \"sex\", values = [\"F\", \"M\"] }]\n\
[training]\nlearning_rate = 0.03\nlocal_epochs = 4\nrounds = 2\nlocal = [\"output.*\"]\n\
[evaluation]\ngroups = [\"sex\", \"place:icu,surgery,rare\"]\n\
[aggregation]\nclip_norm = 5.0\n[cohort]\nmin_sites = 2\n[privacy]\nmode = \"inspectable\"\n";

/// Old men are ill at one site, old women at the other. Every fourth row is of the hold-out.
fn rows(site: usize, keep: impl Fn(bool) -> bool) -> String {
    let mut generator = Generator::new("ward", &[u8::try_from(site).unwrap()]);
    let mut text = String::from("age,sex,place,outcome,split\n");
    for row in 0..ROWS {
        let (age, sex) = (generator.below(100), generator.below(2) as usize);
        let ill = age + if sex == site { 40 } else { 0 } > 80;
        // Five of the hold-out's rows; of the others there are enough.
        let place = if row % 64 == 0 { "rare" } else { ["icu", "surgery"][(row / 4) as usize % 2] };
        let held = row % 4 == 0;
        if keep(held) {
            let (sex, outcome) = (["F", "M"][sex], ["well", "ill"][usize::from(ill)]);
            text += &format!(
                "{age},{sex},{place},{outcome},{}\n",
                ["train", "test"][usize::from(held)]
            );
        }
    }
    text
}

fn spec(data: &Path, site: usize) -> SiteSpec {
    let path = data.join(format!("{site}.csv"));
    fs::write(&path, rows(site, |_| true)).unwrap();
    let holdout = "holdout = { column = \"split\", equals = \"test\" }";
    let section = format!("source = \"csv\"\npath = {path:?}\n{holdout}\n");
    SiteSpec { name: name(site), data: vec![(NAME.to_owned(), section)] }
}

/// A command of the agent at `site`, whose daemon runs.
fn agent(world: &World, site: usize, words: &[&str]) -> Said {
    let configuration = world.agent_toml(site);
    let mut arguments = words.to_vec();
    arguments.extend(["--config", configuration.to_str().unwrap()]);
    consilium_agent(world.federation.programs(), &arguments)
}

fn evaluated(world: &World, site: usize, model: &str) -> Value {
    let words = ["evaluate", "--study", NAME, "--model", model, "--json"];
    serde_json::from_str(&agent(world, site, &words).done()).unwrap()
}

fn confusion(report: &Value) -> Vec<u64> {
    let rows = report["confusion"]["rows"].as_array().unwrap();
    rows.iter().flat_map(|row| row.as_array().unwrap()).map(|cell| cell.as_u64().unwrap()).collect()
}

/// Every site finds its share of the last round's sums again, and they add up to these, to the record.
fn assert_sites_find_their_rounds_again(world: &World, model: &str, last: &RollCall) {
    let reports: Vec<Value> = (0..SITES).map(|site| evaluated(world, site, model)).collect();
    for report in &reports {
        assert!(report.get("local_state").is_none(), "the state of the rounds is used: {report}");
        assert_eq!(report["model_digest"], last.base.to_string());
        assert_eq!(report["holdout"].as_u64(), Some(u64::from(ROWS) / 4));
    }
    let cells: Vec<Vec<u64>> = reports.iter().map(confusion).collect();
    let sum: Vec<u64> = cells[0].iter().zip(&cells[1]).map(|(a, b)| a + b).collect();
    let called =
        ["0.0", "0.1", "1.0", "1.1"].map(|cell| last.metrics[&format!("confusion.{cell}")]);
    assert_eq!(sum, called, "what the sites find is what the round measured");
    let right = sum[0] + sum[3];
    assert!(right * 5 > 4 * u64::from(ROWS) / 4 * 2, "{right} right: two sites, two heads");
}

/// What `predict` says of the hold-out without its labels is what `evaluate` counts.
fn assert_predictions_are_what_is_scored(world: &World, model: &str, data: &Path) {
    for site in 0..SITES {
        let (input, out) = (data.join(format!("new-{site}.csv")), data.join("said.csv"));
        let held = rows(site, |held| held);
        let without: String = held
            .lines()
            .map(|line| {
                let mut fields = line.split(',');
                format!("{},{}\n", fields.next().unwrap(), fields.next().unwrap())
            })
            .collect();
        fs::write(&input, without).unwrap();
        let [input, file] = [&input, &out].map(|path| path.to_str().unwrap());
        let words = ["predict", "--study", NAME, "--model", model, "--input", input, "--out", file];
        let said = agent(world, site, &words).done();
        assert!(said.contains("80 records, 0 unreadable"), "{said}");
        let text = fs::read_to_string(&out).unwrap();
        let class = |line: &str, at: usize| line.split(',').nth(at).unwrap().to_owned();
        let pairs = text.lines().zip(held.lines()).skip(1);
        let right = pairs.filter(|(said, true_)| class(said, 1) == class(true_, 3)).count();
        let cells = confusion(&evaluated(world, site, model));
        assert_eq!(right as u64, cells[0] + cells[3], "site {site}");
    }
}

/// The report has a row for each group as the roll call has it, and nothing of those that are too small.
fn assert_report_shows_groups(world: &World, study: &Study, last: &RollCall) {
    let schema = Schema::of(study);
    let metrics: Metrics = schema.pick(&last.metrics);
    let groups = schema.group_rows(&metrics);
    let file = world.root().join("report.html");
    let _said = world.operator(&["report", NAME, "--out", file.to_str().unwrap()]).done();
    let page = fs::read_to_string(file).unwrap();
    let row = |GroupRow { column, group, records, measure }: &GroupRow| {
        let value = measure.map_or_else(|| "–".to_owned(), |of| format!("{:.4}", of.value));
        let head = format!("<th scope=\"row\">{column} {group}</th><td>{value}</td>");
        let at = page.find(&head).unwrap_or_else(|| panic!("{head} is missing in {page}"));
        let rest = &page[at..];
        let end = rest.find("</tr>").unwrap();
        assert!(rest[..end].ends_with(&format!("<td>{records}</td>")), "{}", &rest[..end]);
    };
    groups.iter().for_each(row);
    let records = |name: &str| groups.iter().find(|row| row.group == name).unwrap().records;
    assert_eq!(records("F") + records("M"), 2 * u64::from(ROWS) / 4);
    // Five at each site; so that they do not follow by subtraction, the smaller of the others goes too.
    let shown = [records("icu"), records("surgery"), records("rare")];
    assert_eq!(
        (shown[2], shown.iter().filter(|records| **records > 0).count()),
        (0, 1),
        "{shown:?}"
    );
    let hidden = last.metrics.iter().filter(|(name, _)| name.starts_with("group.place.rare."));
    assert!(
        hidden.clone().count() > 0 && hidden.clone().all(|(_, sum)| *sum == 0),
        "none left a site"
    );
}

#[test]
fn what_the_rounds_measured_is_found_again_at_each_site_and_shown_for_each_group() {
    if with_worker().is_none() {
        return;
    }
    let data = TempDir::new().unwrap();
    let sites = (0..SITES).map(|site| spec(data.path(), site)).collect();
    let world = World::of(sites, Policy::Within).started();
    world.federation.run_study(NAME, DRAFT).unwrap();
    let history = world.complete(NAME, 600);
    history.assert_everybody_counted(NAME, SITES, 2);
    let last = *history.of(NAME).last().unwrap();
    assert_eq!(last.task, TaskKind::Evaluate);
    let model: PathBuf = world.root().join("model.safetensors");
    let model = model.to_str().unwrap();
    let _said = world.operator(&["model", "export", NAME, "--out", model]).done();

    assert_sites_find_their_rounds_again(&world, model, last);
    assert_predictions_are_what_is_scored(&world, model, data.path());
    assert_report_shows_groups(&world, &Study::read(DRAFT, NAME).unwrap(), last);
    // The daemons were not asked, and not disturbed.
    world.stop();
}
