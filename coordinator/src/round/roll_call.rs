//! Building and signing the record of a round.

use consilium_common::audit::{Entry, Outcome, RollCall, Status};
use consilium_common::limits::TEXT_BYTES_MAX;
use consilium_common::planted::{self, Bug};
use consilium_common::signed::Signed;
use consilium_common::time::Millis;
use consilium_common::update::words::Words;
use consilium_common::wire::reject::Code;

use super::open_round::OpenRound;
use super::site::{Site, SiteState};
use super::terms::Terms;

/// The signed roll call of a round that ends now.
pub(super) fn signed(
    open: &OpenRound,
    terms: &Terms,
    outcome: &Outcome,
    now: Millis,
) -> Signed<RollCall> {
    let nothing = Words::default();
    let (words, counts) = match outcome {
        Outcome::Committed { .. } | Outcome::Evaluated { .. } => (&open.words, true),
        // Sites count, and nothing is measured.
        Outcome::Prepared { .. } => (&nothing, true),
        Outcome::Abandoned { .. } => (&nothing, false),
    };
    let told = |site: &Site| {
        !planted::has(Bug::SilentExclusion) || !matches!(site.state, SiteState::Out(_))
    };
    let sites = open.sites.iter().filter(|(_, site)| told(site));
    let names = terms.schema.names().iter().cloned();
    let roll_call = RollCall {
        format: 1,
        study: open.plan.study.clone(),
        study_digest: open.plan.study_digest,
        round: open.plan.round,
        task: open.plan.task,
        base_version: open.plan.base_version,
        base: open.plan.base,
        outcome: outcome.clone(),
        sites: sites.map(|(id, site)| (id.clone(), entry(site, counts))).collect(),
        clipped: words.clipped,
        metrics: names.zip(words.metrics.0.iter().copied()).collect(),
        bytes_up: open.bytes_up,
        bytes_down: open.bytes_down,
        duration: open.duration(now),
    };
    // Names, digests, texts and integers: JSON holds them all.
    let bytes = roll_call.to_bytes().expect("a roll call is JSON");
    Signed::sign(bytes, &terms.key)
}

fn entry(site: &Site, counts: bool) -> Entry {
    let excluded = |code| Status::Excluded { code };
    let status = match site.state {
        SiteState::Delivered if counts => Status::Counted { weight: site.weight },
        SiteState::Out(why) => excluded(why.code()),
        SiteState::Invited
        | SiteState::Working
        | SiteState::Looking
        | SiteState::Wanted
        | SiteState::Verifying
        | SiteState::Adding { .. }
        | SiteState::Delivered => excluded(Code::Abandoned),
    };
    let update = site.bound.filter(|_| site.receipt.is_some());
    Entry { status, update }
}

/// At most [`TEXT_BYTES_MAX`] bytes of a text.
pub(super) fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}
