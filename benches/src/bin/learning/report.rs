//! What was measured of a case, as rows: means over seeds.

use std::collections::BTreeMap;

use consilium_benches::Row;
use consilium_common::study::sections::Metric;

use consilium_benches::studies::case::Case;
use consilium_benches::studies::scored::Scored;

/// The part of pooled training's rates that a federation reaches; of its errors at most the inverse.
const PART_OF_POOLED: f64 = 0.98;
const TIMES_POOLED: f64 = 1.02;

/// What came of every seed.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) federated: Vec<Scored>,
    pub(crate) pooled: Vec<Scored>,
    pub(crate) alone: BTreeMap<String, Vec<Scored>>,
}

/// A row for each figure; `metric` is the study's own.
pub(crate) fn rows(case: &Case, metric: Metric, measured: &Measured) -> Vec<Row> {
    let name = |what: &str| format!("{}: {what}", case.name);
    let mut rows = Vec::new();
    for (&metric, &required) in &case.sites.required {
        let values = values(&measured.federated, metric);
        rows.push(reached(name("federated"), mean(&values), metric, required, "required"));
        if let Some(&goal) = case.sites.goal.get(&metric) {
            rows.push(reached(name("federated"), mean(&values), metric, goal, "goal"));
        }
        rows.push(Row::plain(name("spread over seeds"), spread(&values), metric.title()));
        rows.extend(pooled(case, metric, mean(&values), &measured.pooled));
    }
    let unit = metric.title();
    let sites = by_site(&measured.federated);
    rows.extend(
        worst(&sites, metric)
            .map(|(site, value)| Row::plain(name(&format!("worst site, {site}")), value, unit)),
    );
    rows.extend(
        worst(&by_group(&measured.federated), metric)
            .map(|(group, value)| Row::plain(name(&format!("worst group, {group}")), value, unit)),
    );
    let alone: BTreeMap<String, f64> = measured
        .alone
        .iter()
        .map(|(site, scored)| (site.clone(), mean(&values(scored, metric))))
        .collect();
    for (site, value) in &alone {
        rows.push(Row::plain(name(&format!("{site} alone")), *value, unit));
        rows.extend(sites.get(site).map(|together| {
            let what = name(&format!("the federation's model at {site}"));
            if case.sites.alike {
                reached(what, *together, metric, *value, "no worse than alone:")
            } else {
                Row::plain(what, *together, unit)
            }
        }));
    }
    let seconds: Vec<f64> = measured.federated.iter().map(|scored| scored.seconds).collect();
    rows.push(Row::plain(name("a federation, in the mean"), mean(&seconds), "s"));
    rows
}

/// Pooled training, and the federation beside it.
fn pooled(case: &Case, metric: Metric, federated: f64, pooled: &[Scored]) -> Vec<Row> {
    if pooled.is_empty() {
        return Vec::new();
    }
    let pooled = mean(&values(pooled, metric));
    let ratio = federated / pooled;
    let (goal, ok) = if is_error(metric) {
        (format!("≤ {TIMES_POOLED}"), ratio <= TIMES_POOLED)
    } else {
        (format!("≥ {PART_OF_POOLED}"), ratio >= PART_OF_POOLED)
    };
    let name = format!("{}: federated ÷ pooled, {}", case.name, metric.title());
    vec![
        Row::plain(format!("{}: pooled", case.name), pooled, metric.title()),
        Row { name, value: ratio, unit: "", goal, ok },
    ]
}

fn reached(name: String, value: f64, metric: Metric, bound: f64, word: &str) -> Row {
    let (sign, ok) =
        if is_error(metric) { ("≤", value <= bound) } else { ("≥", value >= bound) };
    Row { name, value, unit: metric.title(), goal: format!("{word} {sign} {bound:.4}"), ok }
}

fn is_error(metric: Metric) -> bool {
    metric.is_better(0.0, 1.0)
}

fn values(scored: &[Scored], metric: Metric) -> Vec<f64> {
    scored.iter().filter_map(|scored| scored.values.get(&metric).copied()).collect()
}

/// Site → its mean over seeds.
fn by_site(scored: &[Scored]) -> BTreeMap<String, f64> {
    means(scored.iter().flat_map(|scored| scored.sites.clone()))
}

/// Group → its mean over seeds.
fn by_group(scored: &[Scored]) -> BTreeMap<String, f64> {
    let rows = scored.iter().flat_map(|scored| &scored.groups);
    means(rows.filter_map(|row| {
        Some((format!("{} {}", row.column, row.group), row.measure.as_ref()?.value))
    }))
}

fn means(values: impl Iterator<Item = (String, f64)>) -> BTreeMap<String, f64> {
    let mut of: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for (name, value) in values {
        of.entry(name).or_default().push(value);
    }
    of.into_iter().map(|(name, values)| (name, mean(&values))).collect()
}

fn worst(of: &BTreeMap<String, f64>, metric: Metric) -> Option<(&str, f64)> {
    let all = of.iter().map(|(name, value)| (name.as_str(), *value));
    all.reduce(|worst, next| if metric.is_better(worst.1, next.1) { next } else { worst })
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Standard deviation of the sample.
fn spread(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / values.len().saturating_sub(1).max(1) as f64).sqrt()
}
