//! `policy explain`: what this site's rules say of a study, line by line, without a coordinator.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use consilium_certs::bundle::SiteBundle;
use consilium_certs::signed_file;
use consilium_common::ids::{Digest, StudyId};
use consilium_common::signed::Signed;
use consilium_common::study::Study;
use consilium_common::time::{Clock, WallMillis};
use consilium_common::wire::reject::Code;
use consilium_io::SystemClock;
use serde::Serialize;

use super::workbench::read_study;
use super::{Common, Failure, output};
use crate::config::AgentConfig;
use crate::policy::{self, Judgement, Policy, Verdict};
use crate::report::PolicyStatus;
use crate::rules::{self, Rules};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Say of a study, draft or signed, what each rule of [policy] says of it, and what would happen
    Explain {
        /// The study's file; of a signed one with its .sig beside it the signatures are checked too
        #[arg(value_name = "STUDY.toml")]
        study: PathBuf,
    },
}

/// What would happen, and why.
#[derive(Debug, Serialize)]
struct Explanation {
    study: StudyId,
    /// Of a signed study.
    digest: Option<Digest>,
    /// `accepted`, `needs-person` or `refused`.
    outcome: &'static str,
    /// Of the first rule that refuses.
    code: Option<Code>,
    /// In the order in which they are held against a study.
    rules: Vec<Line>,
    /// What a plan of it would be held against now.
    moment: PolicyStatus,
}

/// One rule.
#[derive(Debug, Serialize)]
struct Line {
    /// The field of [policy], or what else decides.
    rule: &'static str,
    /// `allowed`, `no-rule`, `refused`, or `open` where nobody can tell yet.
    verdict: &'static str,
    code: Option<Code>,
    /// In a sentence.
    sentence: String,
}

impl Line {
    fn new(rule: &'static str, verdict: &'static str, sentence: String) -> Self {
        Self { rule, verdict, code: None, sentence }
    }

    fn refused(rule: &'static str, code: Code, sentence: String) -> Self {
        Self { rule, verdict: "refused", code: Some(code), sentence }
    }
}

pub(super) fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    let Command::Explain { study } = command;
    let config = common.load()?;
    let explanation = explain(&config, study, SystemClock::open().wall())?;
    if common.json {
        output::json(&explanation)?;
    } else {
        show(&explanation);
    }
    match explanation.code {
        None => Ok(()),
        Some(code) => {
            Err(Failure::Refused(format!("{} would be refused: {code}", explanation.study)))
        }
    }
}

fn explain(config: &AgentConfig, path: &Path, now: WallMillis) -> Result<Explanation, Failure> {
    let study = read_study(path)?;
    let signed = signed_file::sig_path(path).exists();
    let signed = signed.then(|| signed_file::load::<Study>(path)).transpose();
    let signed = signed.map_err(Failure::usage)?;
    let source = config.data.get(study.id());
    let policy = config.policy.as_ref();
    let mut rules = vec![of_signatures(config, signed.as_ref(), now)];
    let findings = policy.map(|policy| policy.findings(&study, source)).unwrap_or_default();
    rules.extend(findings.into_iter().map(|finding| match finding.verdict {
        Verdict::Allowed => Line::new(finding.rule, "allowed", finding.sentence),
        Verdict::NoRule => Line::new(finding.rule, "no-rule", finding.sentence),
        Verdict::Refused(code) => Line::refused(finding.rule, code, finding.sentence),
    }));
    let name = study.id();
    rules.push(match source {
        Some(_) => Line::new("data", "allowed", format!("[data.{name}] names the records")),
        None => Line::refused("data", Code::NoData, format!("agent.toml has no [data.{name}]")),
    });
    let judgement = policy::judge(policy, &study, source, now);
    let mut is_refused = rules.iter().any(|line| line.code.is_some());
    if let Judgement::Refused(refusal) = &judgement
        && !is_refused
    {
        // The rules above are silent: it is the committee's approval, or what `[governance]` lacks, or
        // there is no [policy].
        let rule = if policy.is_some() { "require_governance" } else { "policy" };
        rules.push(Line::refused(rule, refusal.code, refusal.sentence.clone()));
        is_refused = true;
    }
    rules.push(of_people(&judgement, is_refused));
    let code = rules.iter().find_map(|line| line.code);
    let outcome = match (code, judgement) {
        (None, Judgement::Allowed) => "accepted",
        (None, Judgement::NeedsPerson) => "needs-person",
        _ => "refused",
    };
    Ok(Explanation {
        study: name.clone(),
        digest: signed.map(|signed| signed.digest()),
        outcome,
        code,
        rules,
        moment: moment(policy, now)?,
    })
}

/// Whether enough operators have signed. A draft will be signed later.
fn of_signatures(config: &AgentConfig, signed: Option<&Signed<Study>>, now: WallMillis) -> Line {
    let rule = "operators";
    let Some(signed) = signed else {
        let sentence =
            "a draft, or without its .sig: whether enough operators sign it is to be seen";
        return Line::new(rule, "open", sentence.to_owned());
    };
    let folder = config.site.certificates();
    let loaded = SiteBundle::load(&folder, now).map_err(|error| error.to_string());
    let loaded = loaded.and_then(|bundle| {
        Rules::load(config.policy.clone(), &bundle.consortium).map_err(|error| error.to_string())
    });
    let rules = match loaded {
        Ok(rules) => rules,
        Err(why) => {
            let sentence = format!("whose signatures count is not known here: {why}");
            return Line::new(rule, "open", sentence);
        }
    };
    match policy::open(rules.policy.as_ref(), &rules.signers, signed) {
        Ok(_) => {
            let needed = rules.signers.needed;
            let many = if needed == 1 { "" } else { "s" };
            let sentence = format!("signed by {needed} known operator{many} or more");
            Line::new(rule, "allowed", sentence)
        }
        Err(refusal) => Line::refused(rule, refusal.code, refusal.sentence),
    }
}

/// Who has the last word.
fn of_people(judgement: &Judgement, is_refused: bool) -> Line {
    let rule = "accept";
    match judgement {
        _ if is_refused => {
            Line::new(rule, "open", "nobody is asked about what is refused".to_owned())
        }
        Judgement::Allowed => {
            Line::new(rule, "allowed", "accepted within the policy, nobody is asked".to_owned())
        }
        Judgement::NeedsPerson => {
            let sentence = "waits for a person: `consilium-agent study accept NAME@DIGEST`";
            Line::new(rule, "open", sentence.to_owned())
        }
        Judgement::Refused(refusal) => Line::refused(rule, refusal.code, refusal.sentence.clone()),
    }
}

fn moment(policy: Option<&Policy>, now: WallMillis) -> Result<PolicyStatus, Failure> {
    let Some(policy) = policy else {
        return Ok(PolicyStatus::default());
    };
    let moment = rules::moment(policy).map_err(Failure::usage)?;
    Ok(PolicyStatus::of(Some(policy), &moment, now))
}

fn show(explanation: &Explanation) {
    let mut table = output::table(&["rule", "", "what the study has, and what to change"]);
    for line in &explanation.rules {
        let said = line.code.map_or_else(|| line.verdict.to_owned(), |code| code.to_string());
        table.add_row([line.rule.to_owned(), said, line.sentence.clone()]);
    }
    output::line(table);
    for line in explanation.moment.lines() {
        output::line(line);
    }
    let words = match explanation.outcome {
        "accepted" => "would be accepted without asking anybody",
        "needs-person" => "would wait for a person",
        _ => "would be refused",
    };
    output::line(format!("\n{} {words}", explanation.study));
}
