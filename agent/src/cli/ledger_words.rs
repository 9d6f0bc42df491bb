//! A record of the ledger as people read it: one line.

use super::output;
use crate::ledger::Line;
use crate::ledger::entry::{
    Connected, Contradicted, DataChanged, Disconnected, Entry, HistoryAccepted, Part, Renewing,
    RosterAccepted, Sending, Sent, Stands, Withdrew, Word,
};
use crate::policy::Person;

/// Index, time, kind, and what it says.
pub(super) fn in_words(record: u64, line: &Line) -> String {
    let (at, name) = (output::instant(line.at), line.entry.name());
    format!("{record:>6}  {at}  {name:<12}  {}", words(&line.entry))
}

fn words(entry: &Entry) -> String {
    match entry {
        Entry::Started(started) => {
            let first = if started.first { "; the ledger begins here" } else { "" };
            format!("{} runs at {}, key {}{first}", started.agent, started.site, started.key.id())
        }
        Entry::Word(word) => decided(word),
        Entry::Study(said) => {
            let stands = match said.stands {
                Stands::Accepted => "accepted".to_owned(),
                Stands::Waits => "not accepted yet".to_owned(),
                Stands::Refused { code } => format!("refused ({code})"),
            };
            let (study, digest) = (&said.study, said.digest.short());
            format!("{study}@{digest} version {} {stands}: {}", said.version, said.why)
        }
        Entry::Connected(Connected { coordinator, address }) => {
            format!("with {coordinator}, {address}")
        }
        Entry::Renewing(Renewing { coordinator, request, bytes }) => {
            let size = output::bytes(*bytes);
            format!("asks {coordinator} for the next certificate: {size}, {}", request.short())
        }
        Entry::Contradicted(Contradicted { kept, told, why }) => {
            format!("the coordinator's log ({told}) does not go on from ours ({kept}): {why}")
        }
        Entry::HistoryAccepted(accepted) => history(accepted),
        Entry::RosterAccepted(accepted) => roster(accepted),
        Entry::Disconnected(Disconnected { connection, reason, said }) => {
            let said = said.iter().map(|(kind, traffic)| {
                format!("{} {kind} ({})", traffic.messages, output::bytes(traffic.bytes))
            });
            let said: Vec<String> = said.collect();
            format!("end of record {connection}: {reason}; said: {}", said.join(", "))
        }
        Entry::Fetched(fetched) => {
            let part = match fetched.part {
                Part::Study => "the signed study",
                Part::Base => "a version of the model",
                Part::Preparation => "what the sites counted together",
                Part::Control => "the coordinator's control variate",
            };
            let round = fetched.round.map(|round| format!(" round {round}")).unwrap_or_default();
            let (size, digest) = (output::bytes(fetched.bytes), fetched.digest.short());
            format!("{}{round}: {part}, {size}, {digest}", fetched.study)
        }
        Entry::Made(made) => format!(
            "{} round {}: update {} of {}, from {} records; nothing of it has left yet",
            made.study,
            made.round,
            made.digest.short(),
            output::bytes(made.bytes),
            made.weight
        ),
        Entry::Sending(range) => sending(range),
        Entry::Sent(sent) => sent_words(sent),
        Entry::DataChanged(DataChanged { study, round, changed, added, missing }) => format!(
            "{study} round {round} runs on other data than was approved: {changed} files changed, {added} \
             new, {missing} gone"
        ),
        Entry::Withdrew(Withdrew { study, versions, remedy, by, .. }) => format!(
            "{by} reports a withdrawal: records are in {versions} of {study}; remedy: {remedy}"
        ),
        Entry::Settled(settled) => {
            let counted = if settled.counted { "counted" } else { "did not count" };
            format!("{} round {}: the update {counted} and is erased", settled.study, settled.round)
        }
    }
}

fn decided(word: &Word) -> String {
    let said = match word.said {
        Person::Accepted => "accepts",
        Person::Refused => "refuses",
    };
    let Word { study, digest, by, reason, account, .. } = word;
    format!("{by} {said} {study}@{}: {reason} [{account}]", digest.short())
}

fn history(accepted: &HistoryAccepted) -> String {
    let HistoryAccepted { before, now, by, reason, account } = accepted;
    let before = before.map_or_else(|| "nothing".to_owned(), |before| before.to_string());
    format!("{by} goes on with {now} in place of {before}: {reason} [{account}]")
}

fn roster(accepted: &RosterAccepted) -> String {
    let RosterAccepted { version, digest, change, by, reason, account } = accepted;
    let words = format!("{by} goes by roster version {version} ({}), {change}", digest.short());
    match (reason, account) {
        (Some(reason), Some(account)) => format!("{words}: {reason} [{account}]"),
        _ => words,
    }
}

fn sending(range: &Sending) -> String {
    let Sending { study, study_digest, accepted, round, digest, size, offset, bytes } = range;
    format!(
        "{study} round {round}: bytes {offset}..{} of the {size} of update {}; allowed by \
         {study}@{}, record {accepted}",
        offset.saturating_add(*bytes),
        digest.short(),
        study_digest.short()
    )
}

fn sent_words(sent: &Sent) -> String {
    let Sent { sending, study, round, through, stored, trouble } = sent;
    let end = match trouble {
        _ if *stored => "the coordinator has all of it".to_owned(),
        Some(trouble) => format!("broke off: {trouble}"),
        None => "broke off".to_owned(),
    };
    format!("{study} round {round}: record {sending} went through to byte {through}; {end}")
}
