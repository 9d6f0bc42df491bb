//! `consilium ca`: keys, certificates and the roster of a consortium.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use consilium_certs::ca::Ca;
use consilium_certs::consortium::{CONSORTIUM_FILE, Consortium};
use consilium_certs::issue::{Issued, MACHINE_LENGTH, PERSON_LENGTH};
use consilium_certs::roster::{ROSTER_FILE, Roster};
use consilium_certs::{keys, signed_file};
use consilium_common::ids::{ConsortiumId, OperatorId, SiteId};
use consilium_common::signed::Signed;
use consilium_common::time::{Clock, Millis};
use consilium_io::SystemClock;
use consilium_io::disk::{create_folder, replace_private};
use serde::Serialize;

use super::Failure;
use super::output::{self, Format};
use super::rotation::{self, RotateArgs};
use crate::authority;

/// `consilium ca …`
#[derive(Debug, Subcommand)]
pub(super) enum CaCommand {
    /// Make a CA: root, issuing CA, the coordinator's log key, an empty roster.
    Init(InitArgs),
    /// Issue a bundle of keys and certificates, or renew one.
    Issue(IssueArgs),
    /// Put a new issuing CA in force, below the same root: no site needs a file or a hand.
    Rotate(RotateArgs),
    /// Certify what operators approve and sites renew, for the coordinator on this machine.
    Serve(ServeArgs),
    /// Sign or show the roster.
    #[command(subcommand)]
    Roster(RosterCommand),
}

/// `consilium ca init`
#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// The CA's folder: new or empty.
    dir: PathBuf,
    /// The consortium's name.
    #[arg(long, value_name = "NAME")]
    consortium: ConsortiumId,
    /// How many operators must sign a study or a roster.
    #[arg(long, value_name = "K", default_value_t = 1)]
    operators_needed: usize,
}

/// `consilium ca issue`
#[derive(Debug, Args)]
pub(super) struct IssueArgs {
    /// The CA's folder.
    #[arg(long, value_name = "DIR", default_value = ".", global = true)]
    ca: PathBuf,
    /// Where to put a copy of the bundle; it is in the CA's folder in any case.
    #[arg(long, value_name = "DIR", global = true)]
    out: Option<PathBuf>,
    /// How many days the certificate is good (7 for machines, 90 for people).
    #[arg(long, value_name = "DAYS", global = true, value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: Option<u64>,
    #[command(subcommand)]
    whom: Whom,
}

#[derive(Debug, Subcommand)]
enum Whom {
    /// A hospital; it is put into the roster, which the operators then sign.
    Site {
        /// Its name.
        name: SiteId,
    },
    /// Somebody who signs studies and commands the coordinator.
    Operator {
        /// The operator's name.
        name: OperatorId,
    },
    /// Somebody who reads what was recorded.
    Auditor {
        /// The auditor's name.
        name: OperatorId,
    },
    /// Somebody who proposes studies, and sees those that list them under `researchers`.
    Researcher {
        /// The researcher's name.
        name: OperatorId,
    },
    /// The coordinator.
    Coordinator {
        /// A DNS name or IP address under which it is reached; several are possible. None: those of its last
        /// certificate.
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
    },
}

/// `consilium ca serve`
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// The CA's folder. Run it as another user than the coordinator's: whoever reads the folder can make
    /// certificates.
    #[arg(long, value_name = "DIR", default_value = ".")]
    ca: PathBuf,
    /// The Unix socket to listen on; `ca` in consilium.toml names it.
    #[arg(long, value_name = "SOCKET")]
    socket: PathBuf,
    /// How many hours a site's certificate is good.
    #[arg(long, value_name = "HOURS", default_value_t = 7 * 24, value_parser = clap::value_parser!(u64).range(1..=24 * 90))]
    hours: u64,
}

/// `consilium ca roster …`
#[derive(Debug, Subcommand)]
pub(super) enum RosterCommand {
    /// Sign the roster; each operator needed does.
    Sign {
        /// The CA's folder, or the folder with `roster.toml`.
        #[arg(long, value_name = "DIR", default_value = ".")]
        ca: PathBuf,
        /// The operator's key.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Where to put a copy of `roster.toml` and `roster.sig`.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
    /// Show the roster's sites.
    Show {
        /// The CA's folder, or the folder with `roster.toml`.
        #[arg(long, value_name = "DIR", default_value = ".")]
        ca: PathBuf,
        #[command(flatten)]
        format: Format,
    },
}

pub(super) fn run(command: CaCommand) -> Result<(), Failure> {
    match command {
        CaCommand::Init(args) => init(&args),
        CaCommand::Issue(args) => issue(&args),
        CaCommand::Rotate(args) => rotation::run(&args),
        CaCommand::Serve(args) => serve(&args),
        CaCommand::Roster(RosterCommand::Sign { ca, key, out }) => {
            sign_roster(&ca, &key, out.as_deref())
        }
        CaCommand::Roster(RosterCommand::Show { ca, format }) => show_roster(&ca, format),
    }
}

fn init(args: &InitArgs) -> Result<(), Failure> {
    let now = SystemClock::open().wall();
    let ca = Ca::init(&args.dir, &args.consortium, args.operators_needed, now)
        .map_err(Failure::failed)?;
    output::line(format_args!(
        "made the CA of consortium {} in {}",
        args.consortium,
        args.dir.display()
    ));
    if let Some(root) = ca.root_still_here() {
        output::line(format_args!("take {} offline: issuing never needs it", root.display()));
    }
    output::line(format_args!(
        "next: `consilium ca issue operator NAME --ca {}`",
        args.dir.display()
    ));
    Ok(())
}

fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let ca = Ca::open(&args.ca).map_err(Failure::failed)?;
    if let Some(root) = ca.root_still_here() {
        output::line(format_args!("take {} offline: issuing never needs it", root.display()));
    }
    let length = Millis::from_secs(args.hours.saturating_mul(3600));
    super::on_runtime(async {
        let socket = args.socket.display();
        let listener = authority::listen(&args.socket)
            .map_err(|error| Failure::failed(format!("cannot listen on {socket}: {error}")))?;
        let consortium = ca.consortium().name.clone();
        tracing::info!(%consortium, %socket, hours = args.hours, "the issuing CA serves");
        crate::app::notify(sd_notify::NotifyState::Ready);
        tokio::select! {
            () = authority::serve(ca, listener, length, Arc::new(SystemClock::open())) => Ok(()),
            ended = crate::app::signals() => ended.map_err(Failure::failed),
        }
    })
}

fn issue(args: &IssueArgs) -> Result<(), Failure> {
    let now = SystemClock::open().wall();
    let mut ca = Ca::open(&args.ca).map_err(Failure::failed)?;
    let length = |default: Millis| {
        args.days.map_or(default, |days| Millis::from_secs(days.saturating_mul(24 * 3600)))
    };
    let roster_before = ca.roster().version();
    let operators_before = ca.consortium().operators.clone();
    let issued = match &args.whom {
        Whom::Site { name } => ca.issue_site(name, length(MACHINE_LENGTH), now),
        Whom::Operator { name } => ca.issue_operator(name, length(PERSON_LENGTH), now),
        Whom::Auditor { name } => ca.issue_auditor(name, length(PERSON_LENGTH), now),
        Whom::Researcher { name } => ca.issue_researcher(name, length(PERSON_LENGTH), now),
        Whom::Coordinator { hosts } => ca.issue_coordinator(hosts, length(MACHINE_LENGTH), now),
    };
    let issued = issued.map_err(Failure::failed)?;
    let folder = match &args.out {
        Some(out) => {
            copy_bundle(&issued.folder, out)?;
            out.clone()
        }
        None => issued.folder.clone(),
    };
    let is_known =
        matches!(&args.whom, Whom::Operator { name } if operators_before.contains_key(name));
    tell(&issued, is_known, &folder);
    output::line(next(&args.whom, is_known));
    if ca.roster().version() != roster_before {
        output::line(format_args!(
            "the roster is now version {}: have the operators sign it (`consilium ca roster sign`)",
            ca.roster().version()
        ));
    }
    Ok(())
}

/// What to do with a bundle; an operator may be known already.
fn next(whom: &Whom, is_known: bool) -> &'static str {
    match whom {
        Whom::Site { .. } => {
            "next: bring this folder to its machine; it holds secrets. Its agent renews the certificate \
             by itself"
        }
        Whom::Coordinator { .. } => {
            "next: bring this folder to its machine; it holds secrets. The coordinator takes new files in \
             use without a restart, and renews the certificate by itself where `ca` in consilium.toml \
             names the CA's socket"
        }
        Whom::Operator { .. } if is_known => {
            "next: bring this folder to the operator; it holds secrets"
        }
        Whom::Operator { .. } => {
            "next: bundles that were issued before do not know this operator yet: bring the CA's \
             consortium.toml to the coordinator and the sites"
        }
        Whom::Auditor { .. } => "next: bring this folder to the auditor; it holds secrets",
        Whom::Researcher { .. } => "next: bring this folder to the researcher; it holds secrets",
    }
}

fn tell(issued: &Issued, is_known: bool, folder: &Path) {
    output::line(format_args!(
        "{} {}, good until {}, in {}",
        if is_known { "renewed" } else { "issued" },
        issued.identity,
        output::date(issued.validity.until),
        folder.display()
    ));
    if let Some(elsewhere) = &issued.key_elsewhere {
        output::line(format_args!(
            "{} is not here: it stays at its machine, beside these files",
            elsewhere.display()
        ));
    }
}

/// Copies a bundle's files, each readable by the owner alone.
fn copy_bundle(from: &Path, to: &Path) -> Result<(), Failure> {
    create_folder(to).map_err(Failure::failed)?;
    let unreadable =
        |error: std::io::Error| Failure::failed(format!("cannot read {}: {error}", from.display()));
    for entry in from.read_dir().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let bytes = std::fs::read(entry.path()).map_err(unreadable)?;
        let bytes = zeroize::Zeroizing::new(bytes);
        replace_private(&to.join(entry.file_name()), &bytes).map_err(Failure::failed)?;
    }
    Ok(())
}

fn sign_roster(ca: &Path, key: &Path, out: Option<&Path>) -> Result<(), Failure> {
    let file = key;
    let key = keys::load(file).map_err(Failure::failed)?;
    refuse_another_folder(ca)?;
    let consortium = Consortium::load(&ca.join(CONSORTIUM_FILE)).map_err(Failure::failed)?;
    if !consortium.operator_keys().contains(&key.public()) {
        return Err(Failure::usage(format!(
            "{} is no operator's key of consortium {}: a roster is signed with an operator.key",
            file.display(),
            consortium.name
        )));
    }
    let path = ca.join(ROSTER_FILE);
    let signed: Signed<Roster> = signed_file::sign(&path, &key).map_err(Failure::failed)?;
    let mut shown = path;
    if let Some(out) = out {
        create_folder(out).map_err(Failure::failed)?;
        shown = out.join(ROSTER_FILE);
        signed_file::store(&shown, &signed).map_err(Failure::failed)?;
    }
    let roster = signed.parse_unverified().map_err(Failure::failed)?;
    output::line(format_args!(
        "signed roster version {} ({}, {}): {}",
        roster.version(),
        output::count(roster.sites().count(), "site"),
        output::count(signed.signatures.len(), "signature"),
        shown.display()
    ));
    output::line("next: bring roster.toml and roster.sig to the coordinator");
    Ok(())
}

#[derive(Serialize)]
struct RosterDocument {
    consortium: String,
    version: u64,
    sites: Vec<RosterSite>,
}

#[derive(Serialize)]
struct RosterSite {
    site: SiteId,
    key: String,
}

/// Mostly `--ca` was left out, or is mistyped.
fn refuse_another_folder(ca: &Path) -> Result<(), Failure> {
    let path = ca.join(ROSTER_FILE);
    if path.exists() {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{} does not exist: name the CA's folder, or another one with {ROSTER_FILE}, by `--ca`",
        path.display()
    )))
}

fn show_roster(ca: &Path, format: Format) -> Result<(), Failure> {
    refuse_another_folder(ca)?;
    let path = ca.join(ROSTER_FILE);
    let text = consilium_io::disk::read_text(&path, consilium_common::limits::SIGNED_BYTES_MAX)
        .map_err(Failure::failed)?;
    let roster = <Roster as consilium_common::signed::Document>::parse(text.as_bytes())
        .map_err(Failure::failed)?;
    let sites =
        roster.sites().map(|(site, key)| RosterSite { site: site.clone(), key: key.to_string() });
    let document = RosterDocument {
        consortium: roster.consortium().to_string(),
        version: roster.version(),
        sites: sites.collect(),
    };
    output::show(format, &document, |document| {
        let mut table = output::table(&["site", "key"]);
        for site in &document.sites {
            table.add_row([site.site.to_string(), site.key.clone()]);
        }
        format!("consortium {}, roster version {}\n{table}", document.consortium, document.version)
    })
}
