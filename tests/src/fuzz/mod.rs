//! Hostile input: for every decoder a target, a function of bytes that must return whatever the
//! bytes are. What it decodes it holds against what must be true of it: encoded again it is the
//! same, limits hold, an error is a sentence.
//!
//! ```text
//!  frames        control frames, messages, operators' requests
//!  transfer      the head of a blob stream, answers, frames from a stream
//!  update        update files: header, sections, words
//!  documents     receipts, roll calls, checkpoints, and the signatures on them
//!  study         drafts, resolved studies, signature files
//!  log           records, log files whole and torn, the checkpoint's file
//!  state         what an agent keeps: updates, studies, decisions
//!  ledger        a site's record, its export, Merkle proofs
//!  model         models, preparations, safetensors, layouts
//!  certificates  certificates, PEM, keys, consortium, roster, names
//!  config        agent.toml and consilium.toml
//!  lines         JSON lines of workers and of the control socket
//!  ── mutate (inputs from inputs) · corpus (the committed ones) · scratch (files of one run)
//! ```
//!
//! `tests/tests/fuzz.rs` runs all of them for seconds; `cargo xtask fuzz` runs them under libFuzzer
//! (`tests/fuzz`) for as long as one likes.

#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "an oracle that does not hold must stop the run"
)]

mod certificates;
mod config;
pub mod corpus;
mod documents;
mod frames;
mod ledger;
mod lines;
mod log;
mod model;
pub mod mutate;
mod scratch;
mod state;
mod study;
mod transfer;
mod update;

use std::fmt::Display;

/// A decoder under test.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Also the name of its corpus folder.
    pub name: &'static str,
    /// Panics if something does not hold.
    pub run: fn(&[u8]),
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    Target { name, run, seeds }
}

/// Every target.
pub const TARGETS: &[Target] = &[
    target("frames", frames::stream, frames::streams),
    target("message", frames::message, frames::messages),
    target("operator", frames::operator, frames::requests),
    target("control-stream", transfer::control_stream, frames::streams),
    target("blob-request", transfer::request, transfer::requests),
    target("blob-answer", transfer::answer, transfer::answers),
    target("update-header", update::header, update::updates),
    target("update", update::update, update::updates),
    target("words", update::words, update::word_lists),
    target("receipt", documents::receipt, documents::receipts),
    target("roll-call", documents::roll_call, documents::roll_calls),
    target("checkpoint", documents::checkpoint, documents::checkpoints),
    target("signed", documents::signed_roll_call, documents::signed_roll_calls),
    target("study-draft", study::draft, study::drafts),
    target("study-resolved", study::resolved, study::resolved_ones),
    target("signature-file", study::signature_file, study::signature_files),
    target("record", log::record, log::records),
    target("history", log::history, log::histories),
    target("log-file", log::file, log::files),
    target("log-torn", log::torn, log::torn_ones),
    target("checkpoint-file", log::checkpoint_file, log::checkpoint_files),
    target("retained", state::retained, state::retained_ones),
    target("local-state", state::local_state, state::local_states),
    target("kept-study", state::kept_study, state::kept_studies),
    target("ledger-line", ledger::line, ledger::lines),
    target("ledger-export", ledger::exported, ledger::exports),
    target("proof", ledger::proof, ledger::proofs),
    target("model", model::model, model::models),
    target("preparation", model::preparation, model::preparations),
    target("safetensors", model::safetensors, model::safetensors_files),
    target("layout", model::layout, model::layouts),
    target("certificate", certificates::certificate, certificates::certificates),
    target("credentials", certificates::credentials, certificates::bundles),
    target("keys", certificates::keys, certificates::key_files),
    target("consortium", certificates::consortium, certificates::consortiums),
    target("roster", certificates::roster, certificates::rosters),
    target("names", certificates::names, certificates::all_names),
    target("close-reason", certificates::close_reason, certificates::close_reasons),
    target("agent-toml", config::agent, config::agents),
    target("consilium-toml", config::coordinator, config::coordinators),
    target("worker-line", lines::worker, lines::worker_lines),
    target("prediction-line", lines::predictions, lines::prediction_lines),
    target("control-socket", lines::control_socket, lines::requests),
    target("lines", lines::lines, lines::texts),
];

/// The target called `name`.
#[must_use]
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// An error over `input` is shown without a panic and is not much longer than its cause.
fn shown(error: &dyn Display, input: &[u8]) {
    let text = error.to_string();
    assert!(text.len() <= 8 * input.len() + 4096, "{} bytes of error", text.len());
}

/// The input as text, for decoders that get nothing else.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// An input of several files, with a zero byte between them; missing ones are empty.
fn parts<const N: usize>(bytes: &[u8]) -> [&[u8]; N] {
    let mut rest = bytes.splitn(N, |byte| *byte == 0);
    [(); N].map(|()| rest.next().unwrap_or_default())
}

/// The reverse of [`parts`].
fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.join(&0)
}
