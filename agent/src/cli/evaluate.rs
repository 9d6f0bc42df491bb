//! `evaluate`: what a version is worth on this site's hold-out, or on another one, in the measures
//! that people know.

use std::collections::BTreeMap;

use clap::Args;
use consilium_common::ids::{Digest, StudyId};
use consilium_common::update::groups::GroupRow;
use consilium_common::update::intervals::Measure;
use consilium_common::update::labels::LabelCounts;
use consilium_common::update::operating_point::OperatingPoint;
use consilium_common::update::words::{Metrics, Schema};
use consilium_common::worker::Work;
use serde::Serialize;

use super::version_in_use as version;
use super::{Common, Failure, output, source};

/// Classes of which the confusion matrix fits a screen.
const CONFUSION_SHOWN_MAX: usize = 12;

/// Options of `evaluate`.
#[derive(Debug, Args)]
pub(super) struct Options {
    #[command(flatten)]
    version: version::Options,
    #[command(flatten)]
    source: source::Options,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    study: StudyId,
    model_digest: Digest,
    /// Hold-out records.
    holdout: u64,
    /// Why the family's local state was not used, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    local_state: Option<String>,
    measures: Vec<Measure>,
    /// Of two classes where AUC decides: the best threshold on these records.
    #[serde(skip_serializing_if = "Option::is_none")]
    operating_point: Option<OperatingPoint>,
    /// The study's own measure for each group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<GroupRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    confusion: Option<Confusion>,
    /// What was said of each class, where a record may have several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<LabelRow>,
}

/// One class of several that a record may have at once.
#[derive(Debug, Serialize)]
struct LabelRow {
    class: String,
    found: u64,
    missed: u64,
    mistaken: u64,
    sensitivity: Option<f64>,
    specificity: Option<f64>,
    /// Where AUC decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    auc: Option<f64>,
}

/// Rows are the truth, columns what was said.
#[derive(Debug, Serialize)]
struct Confusion {
    classes: Vec<String>,
    rows: Vec<Vec<u64>>,
}

pub(super) async fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let config = common.load_if_there()?;
    let used = options.version.open(config.as_ref())?;
    let study = &used.study;
    let source = options.source.resolve(common, study.id())?;
    let (outcome, _) = used.run(Work::Evaluate, &source).await?;
    let schema = Schema::of(study);
    let report = Report {
        study: study.id().clone(),
        model_digest: used.digest(),
        holdout: outcome.holdout,
        local_state: used.local.note().map(str::to_owned),
        measures: schema.measures(&outcome.metrics),
        operating_point: schema.best_operating_point(&outcome.metrics),
        groups: schema.group_rows(&outcome.metrics),
        confusion: confusion(&schema, study.model.classes(), &outcome.metrics),
        labels: labels(&schema, study.model.classes(), &outcome.metrics),
    };
    if common.json {
        return output::json(&report);
    }
    show(&report);
    Ok(())
}

fn confusion(schema: &Schema, classes: &[String], metrics: &Metrics) -> Option<Confusion> {
    let rows: Option<Vec<Vec<u64>>> =
        (0..classes.len()).map(|truth| schema.confusion(metrics, truth)).collect();
    let rows = rows.filter(|rows| !rows.is_empty())?;
    Some(Confusion { classes: classes.to_vec(), rows })
}

fn labels(schema: &Schema, classes: &[String], metrics: &Metrics) -> Vec<LabelRow> {
    let areas: BTreeMap<usize, f64> =
        schema.class_areas(metrics).into_iter().map(|(class, area)| (class, area.value)).collect();
    let counts = schema.every_label(metrics).unwrap_or_default();
    let row = |(class, (name, of)): (usize, (&String, LabelCounts))| LabelRow {
        class: name.clone(),
        found: of.found,
        missed: of.missed,
        mistaken: of.mistaken,
        sensitivity: of.sensitivity(),
        specificity: of.specificity(),
        auc: areas.get(&class).copied(),
    };
    classes.iter().zip(counts).enumerate().map(row).collect()
}

fn label_table(rows: &[LabelRow]) -> comfy_table::Table {
    let share =
        |share: Option<f64>| share.map_or_else(|| "–".to_owned(), |share| format!("{share:.4}"));
    let mut table = output::table(&[
        "class",
        "found",
        "missed",
        "mistaken",
        "sensitivity",
        "specificity",
        "AUC",
    ]);
    for row in rows {
        let counts = [row.found, row.missed, row.mistaken].map(|count| count.to_string());
        let shares = [row.sensitivity, row.specificity, row.auc].map(share);
        table.add_row(std::iter::once(row.class.clone()).chain(counts).chain(shares));
    }
    table
}

fn show(report: &Report) {
    let Report { study, model_digest, holdout, .. } = report;
    output::line(format!("study {study}, model {}: {holdout} records", model_digest.short()));
    if let Some(why) = &report.local_state {
        output::line(format!("{why}: it starts as it did when the site joined"));
    }
    if report.measures.is_empty() {
        output::line("nothing was held out: there is nothing to measure");
        return;
    }
    output::line(measure_table(&report.measures));
    if let Some(point) = &report.operating_point {
        let OperatingPoint { threshold, sensitivity, specificity } = point;
        output::line(format!(
            "best threshold on these records: {threshold:.3}, with a sensitivity of {} and a \
             specificity of {}",
            output::percent(Some(*sensitivity)),
            output::percent(Some(*specificity))
        ));
    }
    if !report.groups.is_empty() {
        output::line(output::group_table(&report.groups));
    }
    if !report.labels.is_empty() {
        output::line(label_table(&report.labels));
    }
    if let Some(Confusion { classes, rows }) = &report.confusion
        && classes.len() <= CONFUSION_SHOWN_MAX
    {
        let header: Vec<&str> =
            std::iter::once("truth \\ said").chain(classes.iter().map(String::as_str)).collect();
        let mut table = output::table(&header);
        for (class, row) in classes.iter().zip(rows) {
            table.add_row(std::iter::once(class.clone()).chain(row.iter().map(u64::to_string)));
        }
        output::line(table);
    }
}

fn measure_table(measures: &[Measure]) -> comfy_table::Table {
    let mut table = output::table(&["measure", "value", "95 % interval"]);
    for measure in measures {
        table.add_row([
            measure.name.title().to_owned(),
            format!("{:.4}", measure.value),
            output::interval(measure.interval.as_ref()),
        ]);
    }
    table
}
