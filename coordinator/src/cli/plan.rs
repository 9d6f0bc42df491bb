//! `consilium study plan`: when rounds of a study can begin, by the hours that sites publish.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use consilium_common::ids::{SiteId, StudyId};
use consilium_common::wire::operator::Request;
use consilium_common::wire::reject::Code;
use serde::Serialize;

use super::output::{self, Format};
use super::study::ask;
use super::{Connection, Failure};
use crate::document::{PlanDocument, PlanSite};
use crate::planning::{DAYS_MAX, Open, Outlook, Rule, Span, outlook};

/// Spans on one screen; `--json` has all.
const ROWS_MAX: usize = 14;

/// `consilium study plan`
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// Its name.
    study: StudyId,
    /// How many days ahead
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=i64::from(DAYS_MAX)))]
    days: u16,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

/// All that is known, and what it comes to.
#[derive(Debug, Serialize)]
struct Planned {
    #[serde(flatten)]
    asked: PlanDocument,
    days: u16,
    /// With the sites that publish no hours counted as closed.
    known: Outlook,
    /// With them counted as open; absent where every site says when it is open.
    if_open: Option<Outlook>,
}

/// Rounds can begin at some time that is known, or exit code 1.
pub(super) fn run(args: &PlanArgs) -> Result<(), Failure> {
    let asked: PlanDocument =
        ask(&args.connection, &Request::StudyPlan { study: args.study.clone() })?;
    let planned = planned(asked, args.days)?;
    output::show(args.format, &planned, text)?;
    if planned.known.spans.is_empty() {
        return Err(Failure::failed(why_not(&planned)));
    }
    Ok(())
}

fn planned(asked: PlanDocument, days: u16) -> Result<Planned, Failure> {
    let mut sites = BTreeMap::new();
    for site in &asked.sites {
        let open = match site.declined {
            // A person there may still accept it.
            Some(Code::NotAccepted) => Open::Unknown,
            Some(_) => Open::Never,
            None => Open::read(site.hours.as_deref()).map_err(Failure::failed)?,
        };
        sites.insert(site.site.clone(), open);
    }
    let min_sites = usize::try_from(asked.min_sites).unwrap_or(usize::MAX);
    let rule = Rule { min_sites, required: &asked.required };
    let over = (asked.wall, days);
    let known = outlook(&sites, &rule, false, over);
    let unknown = sites.values().any(|open| *open == Open::Unknown);
    let if_open = unknown.then(|| outlook(&sites, &rule, true, over));
    Ok(Planned { asked, days, known, if_open })
}

fn text(planned: &Planned) -> String {
    let asked = &planned.asked;
    let mut text = format!("study {} needs {}\n", asked.study, need(asked));
    let mut table = output::table(&["site", "hours", "study"]);
    for site in &asked.sites {
        let hours = site.hours.clone().unwrap_or_else(|| "not published".to_owned());
        table.add_row([site.site.to_string(), hours, part(site)]);
    }
    text += &table.to_string();
    let spans = &planned.known.spans;
    if let Some(first) = spans.first() {
        text += &format!("\n{}", span_table(spans));
        let millis: u64 = spans.iter().map(|span| span.to.0 - span.from.0).sum();
        text += &format!(
            "\nrounds can begin in {} of the next {}, first from {} on; one that has begun is carried to its end",
            output::span(millis),
            output::count(planned.days.into(), "day"),
            output::date(first.from)
        );
    }
    if let Some(if_open) = &planned.if_open {
        text += &format!("\n{}", of_unknown(asked, planned, if_open));
    }
    text
}

fn need(asked: &PlanDocument) -> String {
    let sites = output::count(usize::try_from(asked.min_sites).unwrap_or(usize::MAX), "site");
    if asked.required.is_empty() {
        return sites;
    }
    format!("{sites}, among them {}", names(&asked.required))
}

fn part(site: &PlanSite) -> String {
    match (site.declined, site.connected) {
        (Some(Code::NotAccepted), _) => "waits for the site's decision".to_owned(),
        (Some(code), _) => format!("takes no part ({code})"),
        (None, true) => "connected".to_owned(),
        (None, false) => "away".to_owned(),
    }
}

fn span_table(spans: &[Span]) -> String {
    let mut table = output::table(&["from", "to", "sites"]);
    for span in spans.iter().take(ROWS_MAX) {
        table.add_row([output::date(span.from), output::date(span.to), names(&span.open)]);
    }
    let more = spans.len().saturating_sub(ROWS_MAX);
    let rest = if more > 0 { format!("\nand {more} more (--json)") } else { String::new() };
    format!("{table}{rest}")
}

/// What would be, if those that do not say were open.
fn of_unknown(asked: &PlanDocument, planned: &Planned, if_open: &Outlook) -> String {
    let is_silent = |site: &&PlanSite| match site.declined {
        Some(code) => code == Code::NotAccepted,
        None => site.hours.is_none(),
    };
    let silent = asked.sites.iter().filter(is_silent);
    let silent: BTreeSet<SiteId> = silent.map(|site| site.site.clone()).collect();
    let spans = |outlook: &Outlook| outlook.spans.iter().map(|span| span.to.0 - span.from.0).sum();
    let (known, possible): (u64, u64) = (spans(&planned.known), spans(if_open));
    let counted = format!("when {} would take part is not known: counted as never", names(&silent));
    if possible == known {
        return format!("{counted}, and at any time would change nothing");
    }
    format!("{counted}; at any time, rounds can begin in {}", output::span(possible))
}

/// Who has no time in common.
fn why_not(planned: &Planned) -> String {
    let (asked, days) = (&planned.asked, output::count(planned.days.into(), "day"));
    let Some(closest) = &planned.known.closest else {
        return format!("no site is open in the next {days}");
    };
    let missing = asked.sites.iter().filter(|site| !closest.open.contains(&site.site));
    let missing: Vec<String> = missing
        .map(|site| match (&site.hours, site.declined) {
            (_, Some(code)) => format!("{} ({code})", site.site),
            (Some(hours), None) => format!("{} ({hours})", site.site),
            (None, None) => format!("{} (hours not published)", site.site),
        })
        .collect();
    let together = match closest.open.is_empty() {
        true => "no site is open at any time".to_owned(),
        false => format!(
            "nearest is {} to {} with {}",
            output::date(closest.from),
            output::date(closest.to),
            names(&closest.open)
        ),
    };
    format!(
        "no round can begin in the next {days}: {} are never open together; {together}, without {}",
        need(asked),
        missing.join(", ")
    )
}

fn names(sites: &BTreeSet<SiteId>) -> String {
    let names: Vec<&str> = sites.iter().map(SiteId::as_str).collect();
    names.join(", ")
}
