use std::collections::BTreeMap;

use consilium_common::ids::{Digest, Round, Version};
use consilium_common::study::sections::Metric;
use consilium_common::time::WallMillis;
use consilium_common::update::measures::score_bin;
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::{RunState, TaskKind};
use consilium_common::wire::reject::Code;

use super::*;
use crate::document::{
    RoundStatus, ScoredSums, SiteStatus, StudyShowDocument, StudyStatus, VersionStatus,
};

const DRAFT: &str = "[study]\nname = \"ward\"\npurpose = \"<b>Who</b> is ill & why\"\n\
    [model]\nfamily = \"tabular\"\nclasses = [\"<i>well\", \"ill\"]\n\
    [data]\nkind = \"table\"\ncolumns = [{ name = \"x\", min = 0, max = 1 }]\n\
    [evaluation]\nmetric = \"auc\"\ngroups = [\"sex:F,M\"]\n\
    [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n";

/// Sums of `count` records of each class, ill ones a little higher.
fn sums(count: u64) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (part, count) in [("", 2 * count), ("group.sex.F.", count)] {
        let mut put = |name: String, value: u64| sums.insert(format!("{part}{name}"), value);
        put("total".to_owned(), 2 * count);
        put("correct".to_owned(), 2 * count - 2);
        put("loss".to_owned(), 65_536 * count);
        for (cell, value) in [("0.0", count - 1), ("0.1", 1), ("1.0", 1), ("1.1", count - 1)] {
            put(format!("confusion.{cell}"), value);
        }
        put(format!("scores.1.own.{}", score_bin(2.0)), count);
        put(format!("scores.1.other.{}", score_bin(-1.0)), count - 5);
        put(format!("scores.1.other.{}", score_bin(2.0)), 5);
    }
    sums
}

fn version(number: u64, score: Option<f64>) -> VersionStatus {
    VersionStatus {
        version: Version(number),
        model: Digest([7; 32]),
        round: Some(Round(number)),
        wall: Some(WallMillis(1_764_000_000_000)),
        accuracy: score,
        loss: score.map(|score| 1.0 - score),
        score,
        metrics: BTreeMap::new(),
        operating_point: None,
        groups: Vec::new(),
        again: None,
        affected: None,
    }
}

fn document() -> ReportDocument {
    let site = |name: &str, state: &str| SiteStatus {
        site: name.parse().unwrap(),
        connected: true,
        state: state.to_owned(),
        phase: None,
        done: 0,
        total: 0,
        code: None,
        quarantine_ms: None,
        last_contact_ms_ago: None,
        bytes_up: 0,
        bytes_down: 0,
    };
    let round = |number: u64| RoundStatus {
        round: Round(number),
        task: TaskKind::Train,
        outcome: "committed".to_owned(),
        reason: None,
        base_version: Version(number - 1),
        version: Some(Version(number)),
        wall: WallMillis(1_764_000_000_000),
        duration_ms: 3400,
        bytes_up: 1,
        bytes_down: 1,
        clipped: 1,
        counted: [("st-mary".parse().unwrap(), Some(320))].into(),
        excluded: [("charite".parse().unwrap(), Code::Idle)].into(),
    };
    let status = StudyStatus {
        study: "ward".parse().unwrap(),
        study_version: 1,
        digest: Digest([1; 32]),
        state: RunState::Complete,
        completion: None,
        phase: "idle".to_owned(),
        round: Round(3),
        task: None,
        version: Version(3),
        model: Digest([7; 32]),
        rounds_goal: 3,
        metric: Metric::Auc,
        best: None,
        remaining_ms: None,
        waiting_for: vec!["<u>nobody".to_owned()],
        held: None,
        approval: None,
        sites: vec![site("charite", "ready"), site("st-mary", "ready")],
        versions: Vec::new(),
        rounds: (1..=3).map(round).collect(),
        withdrawals: 0,
    };
    let signed_by = Vec::new();
    let study = StudyShowDocument { status, text: format!("# <q>\n{DRAFT}"), signed_by };
    ReportDocument {
        consortium: "thorax".to_owned(),
        wall: WallMillis(1_764_000_000_000),
        study,
        versions: (0..4_u32).map(|n| version(n.into(), Some(0.6 + 0.1 * f64::from(n)))).collect(),
        scored: Some(ScoredSums { version: Version(3), sums: sums(100) }),
    }
}

fn report(document: &ReportDocument) -> String {
    page::whole(document, &Study::read(DRAFT, "draft").unwrap())
}

#[test]
fn a_report_says_what_a_version_is_worth_for_whom_and_who_was_left_out() {
    let page = report(&document());
    let schema = Schema::of(&Study::read(DRAFT, "draft").unwrap());
    let sums = sums(100);
    let all = schema.names().iter().map(|name| sums.get(name).copied().unwrap_or(0));
    let metrics = consilium_common::update::words::Metrics(all.collect());
    let area = schema.auc(&metrics).unwrap();
    // 5 of 200 negatives are tied with every positive.
    assert!((area - (1.0 - 0.5 * 5.0 / 200.0)).abs() < 1e-12, "{area}");
    for said in [
        format!("{area:.4}").as_str(),
        "Confusion matrix",
        "--share:0.995",
        "ROC of ill",
        "Wilson 1927",
        "Hanley &amp; McNeil 1982",
        "sex F",
        "everybody",
        "charite: idle",
        "idle × 3",
        "st-mary (320)",
        "AUC from version 0 to 3: 0.6000 to 0.9000",
        "loss from version 0 to 3: 0.4000 to 0.1000",
    ] {
        assert!(page.contains(said), "{said} is missing in {page}");
    }
}

#[test]
fn a_report_needs_nothing_from_elsewhere_and_no_text_becomes_markup() {
    let page = report(&document());
    for foreign in
        ["<script", "http:", "https:", "src=", "@import", "url(", "<b>", "<i>", "<u>", "<q>"]
    {
        assert!(!page.contains(foreign), "{foreign}");
    }
    for tag in ["section", "table", "tr", "td", "th", "svg", "div", "details", "figure", "p"] {
        let count = |what: String| page.matches(&what).count();
        let opened = count(format!("<{tag}>")) + count(format!("<{tag} "));
        assert_eq!(opened, count(format!("</{tag}>")), "{tag}");
    }
    assert!(page.contains("prefers-color-scheme: dark"));
}

#[test]
fn a_study_that_nobody_has_scored_yet_has_a_report_too() {
    let mut document = document();
    document.scored = None;
    document.versions = vec![version(0, None)];
    document.study.status.rounds.clear();
    let page = report(&document);
    assert!(page.contains("Study ward") && !page.contains("ROC") && !page.contains("<polyline"));
}

#[test]
fn several_findings_at_once_have_a_row_and_an_area_each_in_place_of_a_confusion_matrix() {
    let draft = DRAFT
        .replace("classes = ", "objective = \"multilabel\"\nclasses = ")
        .replace("\"ill\"", "\"effusion\"");
    let study = Study::read(&draft, "draft").unwrap();
    let mut document = document();
    let mut sums = BTreeMap::new();
    for (part, count) in [("", 40), ("group.sex.F.", 20)] {
        let mut put = |name: String, value: u64| sums.insert(format!("{part}{name}"), value);
        put("total".to_owned(), 2 * count);
        put("loss".to_owned(), 65_536 * count);
        for (what, value) in [("found", count - 8), ("missed", 8), ("mistaken", 4)] {
            put(format!("labels.1.{what}"), value);
        }
        put(format!("scores.0.other.{}", score_bin(-2.0)), 2 * count);
        put(format!("scores.1.own.{}", score_bin(1.0)), count);
        put(format!("scores.1.other.{}", score_bin(-1.0)), count);
    }
    document.scored = Some(ScoredSums { version: Version(3), sums });
    let page = page::whole(&document, &study);
    // 160 answers, 12 of them wrong; 8 of 40 missed, 4 of the 40 others mistaken.
    for said in [
        "Each class",
        "<td>0.9250</td>",
        "<td>32</td><td>8</td><td>4</td><td>0.8000</td><td>0.9000</td>",
        "ROC of effusion",
        "sex F",
    ] {
        assert!(page.contains(said), "{said} is missing in {page}");
    }
    assert!(!page.contains("Confusion matrix"));
}
