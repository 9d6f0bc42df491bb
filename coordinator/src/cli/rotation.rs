//! `consilium ca rotate`: a new issuing CA, and in plain words what is left to do.

use std::path::PathBuf;

use clap::Args;
use consilium_certs::ca::Ca;
use consilium_certs::rotation::Rotated;
use consilium_common::config::duration;
use consilium_common::time::{Clock, Millis};
use consilium_io::SystemClock;

use super::Failure;
use super::output;

/// `consilium ca rotate`
#[derive(Debug, Args)]
pub(super) struct RotateArgs {
    /// The CA's folder, as `consilium ca serve` uses it; stop that for the moment, and work as its user.
    #[arg(long, value_name = "DIR", default_value = ".")]
    ca: PathBuf,
    /// The root's folder, brought from where it lies offline: root.key and root.pem. `root` in the CA's
    /// folder if it is not given. Take it away again afterwards.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// How long certificates of the issuing CA before work on, such as 7d, 12h or 0s. With 0s all of them
    /// are refused at once: for a key that was stolen.
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = overlap)]
    overlap: Millis,
    /// Rotate once more although the overlap of the last rotation still runs. Without it the command can
    /// be given again safely: it then only says how things stand.
    #[arg(long)]
    again: bool,
}

fn overlap(text: &str) -> Result<Millis, String> {
    duration::parse(text).ok_or_else(|| "expected a time such as 7d, 12h or 0s".to_owned())
}

pub(super) fn run(args: &RotateArgs) -> Result<(), Failure> {
    let now = SystemClock::open().wall();
    let ca = Ca::open(&args.ca).map_err(Failure::failed)?;
    let root = args.root.clone().unwrap_or_else(|| args.ca.join("root"));
    let (ca, rotated) = ca.rotate(&root, args.overlap, args.again, now).map_err(Failure::failed)?;
    tell(&rotated);
    if let Some(root) = ca.root_still_here() {
        output::line(format_args!("take {} offline: issuing never needs it", root.display()));
    }
    Ok(())
}

fn tell(rotated: &Rotated) {
    let Rotated { issuing, until, before, is_new } = rotated;
    match is_new {
        true => output::line(format_args!(
            "{issuing} is in force now, good until {}",
            output::date(*until)
        )),
        false => output::line(format_args!(
            "nothing done: {issuing} is in force, and the overlap of the last rotation still runs \
             (--again rotates once more)"
        )),
    }
    let Some(before) = before else { return };
    let end = output::date(before.until);
    for line in [
        format!("certificates of {} work until {end} and are refused from then on", before.name),
        "next: start `consilium ca serve` again. The coordinator asks it within seconds, renews its own \
         certificate and has every connected site renew its own; a site that is away renews when it is back"
            .to_owned(),
        format!(
            "operators, auditors and researchers get theirs by hand before {end}: `consilium ca issue \
             operator NAME`, `consilium ca issue auditor NAME`, `consilium ca issue researcher NAME`"
        ),
        "a copy of this folder elsewhere still has the issuing CA before: replace its issuing/ by this one"
            .to_owned(),
    ] {
        output::line(line);
    }
}
