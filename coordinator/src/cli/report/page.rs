//! What a report says, from what the coordinator answered. Pure: the same document gives the same page.

use std::collections::BTreeMap;

use consilium_common::ids::SiteId;
use consilium_common::study::Study;
use consilium_common::study::sections::{Metric, Share};
use consilium_common::update::groups::GroupRow;
use consilium_common::update::intervals::{Interval, Measure, Method, Name};
use consilium_common::update::words::{Metrics, Schema};

use super::chart;
use super::markup::{Table, append, details, page, section, text};
use crate::cli::output;
use crate::document::{ReportDocument, RoundStatus, ScoredSums, VersionStatus};

/// Versions that a table shows without being opened.
const VERSIONS_OPEN: usize = 10;

/// The whole page. `study` is the one in the document.
pub(super) fn whole(document: &ReportDocument, study: &Study) -> String {
    let schema = Schema::of(study);
    let status = &document.study.status;
    let mut body = head(document, study);
    if let Some(scored) = &document.scored {
        let metrics = metrics(&schema, scored);
        let version = scored.version;
        body += &section(&format!("What {version} is worth"), &worth(&schema, &metrics));
        body += &confusion(&schema, &metrics, study.model.classes());
        body += &labels(&schema, &metrics, study.model.classes());
        body += &roc(&schema, &metrics, study.model.classes());
        body += &groups(&schema, &metrics);
    }
    body += &curves(study, &document.versions);
    body += &sites(document, study);
    body += &rounds(&status.rounds);
    let words = format!("<pre>{}</pre>", text(&document.study.text));
    body += &section("The study", &details("The signed text", &words));
    page(&format!("Study {}", status.study), &body)
}

/// The sums in the order of the schema; what a roll call does not name is 0.
fn metrics(schema: &Schema, scored: &ScoredSums) -> Metrics {
    let sum = |name: &String| scored.sums.get(name).copied().unwrap_or(0);
    Metrics(schema.names().iter().map(sum).collect())
}

fn head(document: &ReportDocument, study: &Study) -> String {
    let status = &document.study.status;
    let mut lines = String::new();
    if !study.header.purpose.is_empty() {
        append(&mut lines, format_args!("<p>{}</p>\n", text(&study.header.purpose)));
    }
    let (family, strategy) = (study.model.family(), study.aggregation.strategy);
    append(
        &mut lines,
        format_args!(
            "<p>Consortium {}; model family {}; strategy {}. The study is {}; its newest version is \
             {} of v{} (model {}).</p>\n",
            text(&document.consortium),
            text(family),
            text(word(&strategy)),
            text(status.state),
            text(status.version),
            status.rounds_goal,
            text(status.model.short())
        ),
    );
    if !status.waiting_for.is_empty() {
        let waiting = text(status.waiting_for.join("; "));
        append(&mut lines, format_args!("<p>It waits for {waiting}.</p>\n"));
    }
    let at = text(output::date(document.wall));
    append(&mut lines, format_args!("<p class=\"soft\">Written at {at}.</p>\n"));
    lines
}

/// A value of the study as its file writes it.
fn word(value: &impl serde::Serialize) -> String {
    let written = serde_json::to_value(value).ok();
    written.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn worth(schema: &Schema, metrics: &Metrics) -> String {
    let measures = schema.measures(metrics);
    let records = schema.get(metrics, "total").unwrap_or(0);
    let mut table = Table::new(
        &format!("Over {records} records that the sites held out"),
        &["measure", "value", "95 % interval", ""],
    );
    for measure in &measures {
        table.row(&measure_cells(measure.name.title(), Some(measure)));
    }
    table.end() + &sources(measures.iter().filter_map(|measure| measure.interval))
}

/// Name, value, interval, drawing.
fn measure_cells(name: &str, measure: Option<&Measure>) -> [String; 4] {
    let interval = measure.and_then(|measure| measure.interval);
    let drawn = measure
        .filter(|measure| is_share(measure.name))
        .map(|measure| chart::interval(measure.value, interval.map(|ends| (ends.low, ends.high))));
    [
        text(name),
        output::number(measure.map(|measure| measure.value)),
        interval
            .map_or_else(|| "–".to_owned(), |ends| format!("{:.4} – {:.4}", ends.low, ends.high)),
        drawn.unwrap_or_default(),
    ]
}

/// Whether it lies between 0 and 1.
fn is_share(name: Name) -> bool {
    match name {
        Name::Accuracy
        | Name::BalancedAccuracy
        | Name::MacroF1
        | Name::Auc
        | Name::Ece
        | Name::Hr
        | Name::Ndcg => true,
        Name::LogLoss | Name::Rmse | Name::Mae | Name::Loss => false,
    }
}

/// Where the intervals come from.
fn sources(intervals: impl Iterator<Item = Interval>) -> String {
    let methods: Vec<Method> = intervals.map(|interval| interval.method).collect();
    let of = |method: Method, what: &str| {
        let used = methods.contains(&method);
        used.then(|| format!("of {what}: {}", method.source()))
    };
    let shares = of(Method::Wilson, "shares");
    let areas = of(Method::HanleyMcneil, "areas");
    let said: Vec<String> = shares.into_iter().chain(areas).collect();
    if said.is_empty() {
        return String::new();
    }
    let said = text(said.join("; "));
    format!("<p class=\"soft\">Intervals {said}. They take records for independent.</p>\n")
}

fn confusion(schema: &Schema, metrics: &Metrics, classes: &[String]) -> String {
    let rows: Option<Vec<Vec<u64>>> =
        (0..classes.len()).map(|truth| schema.confusion(metrics, truth)).collect();
    let Some(rows) = rows.filter(|rows| !rows.is_empty()) else {
        return String::new();
    };
    let mut markup = String::from(
        "<div class=\"wide\"><table><caption>Rows: what is true. Columns: what the version \
         says.</caption><thead><tr><td></td>",
    );
    for class in classes {
        append(
            &mut markup,
            format_args!("<th scope=\"col\" class=\"number\">{}</th>", text(class)),
        );
    }
    markup.push_str("<th scope=\"col\" class=\"number\">found</th></tr></thead><tbody>");
    for (truth, (class, row)) in classes.iter().zip(&rows).enumerate() {
        append(&mut markup, format_args!("<tr><th scope=\"row\">{}</th>", text(class)));
        let all: u64 = row.iter().sum();
        for (said, count) in row.iter().enumerate() {
            let right = if said == truth { " right" } else { "" };
            let share = share(*count, all);
            append(
                &mut markup,
                format_args!(
                    "<td class=\"number cell{right}\" style=\"--share:{share:.3}\">{count}</td>"
                ),
            );
        }
        let found = row.get(truth).map_or(0.0, |right| share(*right, all));
        append(&mut markup, format_args!("<td class=\"number\">{:.1} %</td></tr>", 100.0 * found));
    }
    section("Confusion matrix", &(markup + "</tbody></table></div>\n"))
}

/// What was said of each class, where a record may have several.
fn labels(schema: &Schema, metrics: &Metrics, classes: &[String]) -> String {
    let Some(counts) = schema.every_label(metrics) else {
        return String::new();
    };
    let mut table = Table::new(
        "Of the records with a label those that were found and missed; of the others those that were \
         mistaken for such",
        &["class", "found", "missed", "mistaken", "sensitivity", "specificity"],
    );
    for (class, of) in classes.iter().zip(counts) {
        table.row(&[
            text(class),
            of.found.to_string(),
            of.missed.to_string(),
            of.mistaken.to_string(),
            output::number(of.sensitivity()),
            output::number(of.specificity()),
        ]);
    }
    section("Each class", &table.end())
}

#[expect(clippy::cast_precision_loss, reason = "display only")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// ROC curves from the histograms of scores, where AUC decides.
fn roc(schema: &Schema, metrics: &Metrics, classes: &[String]) -> String {
    let areas = schema.class_areas(metrics);
    if areas.is_empty() {
        return String::new();
    }
    let name = |class: usize| classes.get(class).cloned().unwrap_or_default();
    let mut curves = Vec::new();
    let mut table = Table::new("Areas", &["class", "AUC", "95 % interval", ""]);
    for (class, area) in &areas {
        table.row(&measure_cells(&name(*class), Some(area)));
        if let (true, Some(points)) = (curves.len() < chart::CURVES, schema.roc(metrics, *class)) {
            curves.push((name(*class), points));
        }
    }
    let mut body = chart::roc(&curves);
    if curves.len() < areas.len() {
        let drawn = curves.len();
        append(&mut body, format_args!("<p>The first {drawn} classes are drawn.</p>\n"));
    }
    body += &table.end();
    body += &sources(areas.iter().filter_map(|(_, area)| area.interval));
    section("ROC", &body)
}

fn groups(schema: &Schema, metrics: &Metrics) -> String {
    let rows = schema.group_rows(metrics);
    let Some(decisive) = schema.decisive(metrics).filter(|_| !rows.is_empty()) else {
        return String::new();
    };
    let title = decisive.name.title();
    let mut table = Table::new(
        &format!("{title} by group; sites leave out groups of fewer than 10"),
        &["group", title, "95 % interval", "", "records"],
    );
    let whole = schema.get(metrics, "total").unwrap_or(0);
    let mut row = |name: &str, measure: Option<&Measure>, records: u64| {
        let mut cells = measure_cells(name, measure).to_vec();
        cells.push(records.to_string());
        table.row(&cells);
    };
    row("everybody", Some(&decisive), whole);
    for GroupRow { column, group, records, measure } in &rows {
        row(&format!("{column} {group}"), measure.as_ref(), *records);
    }
    let intervals = rows.iter().filter_map(|row| row.measure?.interval);
    section("Groups", &(table.end() + &sources(intervals)))
}

/// The study's metric and the loss over the versions.
fn curves(study: &Study, versions: &[VersionStatus]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "versions are below 2^53")]
    let points = |value: fn(&VersionStatus) -> Option<f64>| -> Vec<(f64, f64)> {
        let point = |version: &VersionStatus| Some((version.version.0 as f64, value(version)?));
        versions.iter().filter_map(point).collect()
    };
    let metric = study.evaluation.metric;
    let score = chart::over_versions(metric.title(), &points(|version| version.score));
    let loss = chart::over_versions("loss", &points(|version| version.loss));
    let drawn: Vec<String> =
        score.filter(|_| metric != Metric::Loss).into_iter().chain(loss).collect();
    let mut table = Table::new(
        "Versions, the newest first",
        &["version", metric.title(), "loss", "round", "committed", "model"],
    );
    for version in versions.iter().rev() {
        table.row(&[
            text(version.version),
            output::number(version.score),
            output::number(version.loss),
            version.round.map(text).unwrap_or_default(),
            version.wall.map(|wall| text(output::date(wall))).unwrap_or_default(),
            text(version.model.short()),
        ]);
    }
    let table = match versions.len() {
        ..=VERSIONS_OPEN => table.end(),
        count => details(&format!("All {count} versions"), &table.end()),
    };
    section("Versions", &format!("<div class=\"pair\">{}</div>{table}", drawn.concat()))
}

/// Each site's part in the newest rounds, side by side.
fn sites(document: &ReportDocument, study: &Study) -> String {
    let status = &document.study.status;
    let mut known: BTreeMap<&SiteId, &str> =
        status.sites.iter().map(|site| (&site.site, site.state.as_str())).collect();
    for round in &status.rounds {
        for site in round.counted.keys().chain(round.excluded.keys()) {
            known.entry(site).or_insert("not in the roster now");
        }
    }
    let rounds = status.rounds.len();
    let mut table = Table::new(
        &format!("In the newest {}", output::count(rounds, "round")),
        &["site", "now", "counted", "last weight", "left out"],
    );
    for (site, state) in known {
        let counted = status.rounds.iter().filter(|round| round.counted.contains_key(site));
        let weight = counted.clone().next_back().and_then(|round| round.counted.get(site).copied());
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for round in &status.rounds {
            if let Some(code) = round.excluded.get(site) {
                *reasons.entry(code.as_str()).or_default() += 1;
            }
        }
        let reasons: Vec<String> =
            reasons.iter().map(|(code, times)| format!("{code} × {times}")).collect();
        table.row(&[
            text(site),
            text(state),
            counted.count().to_string(),
            weight.flatten().map_or_else(|| "–".to_owned(), |weight| weight.to_string()),
            text(reasons.join(", ")),
        ]);
    }
    let mut body = table.end();
    if study.evaluation.share == Share::Sum {
        body += "<p class=\"soft\">The study shares sums over the sites alone \
                 (<code>share = \"sum\"</code>): what a version is worth at one site, that site \
                 sees with <code>consilium-agent evaluate</code>.</p>\n";
    }
    section("Sites", &body)
}

fn rounds(rounds: &[RoundStatus]) -> String {
    let mut table = Table::new(
        "The newest first",
        &["round", "outcome", "when", "took", "counted (weight)", "left out", "clipped"],
    );
    for round in rounds.iter().rev() {
        let outcome = match (&round.version, &round.reason) {
            (Some(version), _) => format!("{} {version}", round.outcome),
            (None, Some(reason)) => format!("{}: {reason}", round.outcome),
            (None, None) => round.outcome.clone(),
        };
        let counted = round.counted.iter().map(|(site, weight)| match weight {
            Some(weight) => format!("{site} ({weight})"),
            None => site.to_string(),
        });
        let left_out = round.excluded.iter().map(|(site, code)| format!("{site}: {code}"));
        let lines = |lines: Vec<String>| lines.iter().map(text).collect::<Vec<_>>().join("<br>");
        table.row(&[
            text(round.round),
            text(outcome),
            text(output::date(round.wall)),
            text(output::span(round.duration_ms)),
            lines(counted.collect()),
            lines(left_out.collect()),
            round.clipped.to_string(),
        ]);
    }
    section("Rounds", &table.end())
}
