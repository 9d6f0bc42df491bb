//! `--tune`: what each combination of a case's `[tune]` is worth on a part of the training records, in a
//! federation and, of the learning rates alone, in one process. No hold-out is looked at.

use std::collections::BTreeMap;

use consilium_benches::Row;
use consilium_common::study::sections::Metric;
use consilium_coordinator::local::Programs;

use crate::federated;
use crate::report::mean;
use consilium_benches::studies::alone;
use consilium_benches::studies::case::{Case, Draft};
use consilium_benches::studies::scored::{Kept, Scored};

/// Of the training records.
const SHARE: f64 = 0.2;

/// A row for each combination and metric: the mean over seeds.
pub(crate) fn tune(
    case: &Case,
    programs: &Programs,
    kept: &Kept,
    no_baselines: bool,
) -> anyhow::Result<Vec<Row>> {
    let together = |draft: &Draft| {
        let train = || federated::train(case, programs, draft);
        kept.or_measure(&["federated, tuning", &draft.text], train)
    };
    let pooled = |draft: &Draft| {
        let train = || alone::train(case, programs, draft, "");
        kept.or_measure(&["pooled, tuning", &draft.text], train)
    };
    let mut rows = each(case, "federated", true, together)?;
    if !no_baselines {
        rows.extend(each(case, "pooled", false, pooled)?);
    }
    Ok(rows)
}

#[expect(clippy::print_stderr, reason = "progress of a long measurement")]
fn each(
    case: &Case,
    who: &str,
    all: bool,
    train: impl Fn(&Draft) -> anyhow::Result<Scored>,
) -> anyhow::Result<Vec<Row>> {
    let axes = case.axes(all)?;
    let mut values: BTreeMap<(String, Metric), Vec<f64>> = BTreeMap::new();
    for seed in &case.sites.seeds {
        for (variant, draft) in case.federated(*seed)?.variants(&axes, SHARE)? {
            let said = variant.values.iter().map(|(field, value)| format!("{field} = {value}"));
            let name = format!("{}: {who}, {}", case.name, said.collect::<Vec<_>>().join(", "));
            let scored = train(&draft)?;
            eprintln!("{name}, seed {seed}: {:.4?}, {:.0} s", scored.values, scored.seconds);
            if let Some(point) = scored.operating_point {
                eprintln!("  {point:.3?}");
            }
            for metric in case.sites.required.keys() {
                let value = scored.values.get(metric).copied();
                values.entry((name.clone(), *metric)).or_default().extend(value);
            }
        }
    }
    let row = |((name, metric), values): ((String, Metric), Vec<f64>)| {
        Row::plain(name, mean(&values), metric.title())
    };
    Ok(values.into_iter().map(row).collect())
}
