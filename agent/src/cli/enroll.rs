//! `enroll`: from an operator's token to the site's own keys and certificate.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use consilium_certs::enrolling::{Enrolling, Pinned, folder_beside};
use consilium_certs::validity::date;
use consilium_common::enrol::{Fingerprint, Token};
use consilium_common::limits::TOKEN_TEXT_BYTES_MAX;
use consilium_common::time::Clock;
use consilium_common::wire::enrol::{Answer, Ask, Grant};
use consilium_io::SystemClock;
use serde::Serialize;

use super::{Common, Failure, output};
use crate::config::{AgentConfig, Endpoint};
use crate::ledger::LEDGER;
use crate::link::enrol::{AskError, ask};
use crate::link::{Dialer, LinkError};

/// An operator takes minutes: there is no hurry.
const ASK_INTERVAL: Duration = Duration::from_secs(3);

/// Options of `enroll`
#[derive(Debug, Args)]
pub(super) struct Options {
    /// The line that `consilium site invite` printed; `-` reads it from standard input
    token: String,
    /// Do not wait for the operator's approval: run the command again later
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    site: String,
    consortium: String,
    fingerprint: Fingerprint,
    enrolled: bool,
    folder: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_until: Option<String>,
}

pub(super) async fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let config = common.load()?;
    let token = token(&options.token)?;
    if token.site != config.site.name {
        return Err(Failure::Usage(format!(
            "the token is for site {}, and {} is for {}: set `name` there, or ask for another token",
            token.site,
            common.config.display(),
            config.site.name
        )));
    }
    let bundle = config.site.certificates();
    refuse_a_second_identity(&config, &bundle)?;
    let endpoint: Endpoint = token.coordinator.parse().map_err(Failure::Usage)?;
    if endpoint != config.site.coordinator {
        output::line(format!(
            "the token names the coordinator at {endpoint}, agent.toml {}: set `coordinator` there \
             before the daemon runs",
            config.site.coordinator
        ));
    }
    let enrolling = Enrolling::begin(&folder_beside(&bundle), &token).map_err(Failure::failed)?;
    let fingerprint = enrolling.fingerprint();
    if !common.json {
        output::line(format!(
            "fingerprint {fingerprint}\nread it to the operator who invited this site; the operator \
             approves it"
        ));
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::open());
    let dialer = Dialer::new(endpoint, Arc::clone(&clock));
    let grant = wait(&enrolling, &token, &dialer, &clock, options.no_wait).await?;
    let mut report = Report {
        site: token.site.to_string(),
        consortium: token.consortium.to_string(),
        fingerprint,
        enrolled: false,
        folder: bundle.clone(),
        certificate_until: None,
    };
    if let Some(grant) = grant {
        let made = enrolling.finish(&grant, &token, &bundle, clock.wall());
        let made = made.map_err(Failure::failed)?;
        report.enrolled = true;
        report.certificate_until = Some(date(made.credentials.validity.until));
    }
    if common.json {
        return output::json(&report);
    }
    output::line(match &report.certificate_until {
        Some(until) => format!(
            "enrolled as {} of {}: keys and certificate (until {until}, renewed by the daemon) are in \
             {}\nnext: `consilium-agent run`; then `consilium-agent check`, once a study is offered",
            report.site,
            report.consortium,
            bundle.display()
        ),
        None => "not approved yet: run the same command again later".to_owned(),
    });
    Ok(())
}

/// One identity a state folder: its ledger is signed by a key that the next one does not have.
fn refuse_a_second_identity(config: &AgentConfig, bundle: &Path) -> Result<(), Failure> {
    if bundle.join("tls.pem").exists() {
        return Err(Failure::Refused(format!(
            "{} holds an identity already: the daemon renews its certificate by itself. {}",
            bundle.display(),
            to_enrol_anew(config)
        )));
    }
    if config.site.state.join(LEDGER).exists() {
        return Err(Failure::Refused(format!(
            "{} is the record of an identity that this site had. {}",
            config.site.state.join(LEDGER).display(),
            to_enrol_anew(config)
        )));
    }
    Ok(())
}

/// A site that was put out and is invited again is a new member, with records of its own.
fn to_enrol_anew(config: &AgentConfig) -> String {
    let (state, bundle) = (config.site.state.display(), config.site.certificates());
    let both = match bundle.starts_with(&config.site.state) {
        true => String::new(),
        false => format!(" and {}", bundle.display()),
    };
    format!(
        "Only if an operator has invited this site anew, after its key was put out: move {state}{both} away, \
         keep it as an archive, and enrol again"
    )
}

/// A token is a secret: on a command line, other users of the machine see it.
fn token(given: &str) -> Result<Token, Failure> {
    let mut text = given.to_owned();
    if given == "-" {
        text.clear();
        let bounded = std::io::stdin().take(2 * TOKEN_TEXT_BYTES_MAX as u64);
        { bounded }.read_to_string(&mut text).map_err(Failure::failed)?;
    }
    text.parse().map_err(Failure::usage)
}

/// Asks until the request is approved, or once. A coordinator that is away is waited for, too.
async fn wait(
    enrolling: &Enrolling,
    token: &Token,
    dialer: &Dialer,
    clock: &Arc<dyn Clock>,
    once: bool,
) -> Result<Option<Grant>, Failure> {
    let (secret, signed) = (token.secret.clone(), enrolling.request().clone());
    let (question, pinned) = (Ask::Enrol { secret, signed }, Pinned::from(token));
    let mut asked_before = false;
    loop {
        match ask(dialer, &pinned, Arc::clone(clock), &question).await {
            Ok(Answer::Granted(grant)) => return Ok(Some(grant)),
            Ok(Answer::Waiting { .. }) => asked_before = true,
            Ok(Answer::Refused { message }) => return Err(Failure::Refused(message)),
            Ok(Answer::Renewed { .. }) => return Err(Failure::failed(AskError::None)),
            Err(error) if !asked_before || once => return Err(failure(&error)),
            Err(error) => tracing::warn!("the coordinator does not answer; trying again: {error}"),
        }
        if once {
            return Ok(None);
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    }
}

fn failure(error: &AskError) -> Failure {
    use consilium_io::net::ConnectError;
    match error {
        AskError::Link(LinkError::Connect(ConnectError::Refused { .. })) => {
            Failure::Refused(error.to_string())
        }
        AskError::Link(_) | AskError::Frames(_) => Failure::Unreachable(error.to_string()),
        AskError::Codec(_) | AskError::None => Failure::failed(error),
    }
}
