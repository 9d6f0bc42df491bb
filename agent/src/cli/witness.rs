//! `witness show | accept`: what this site has seen of the coordinator's log.

use clap::Subcommand;

use super::person::Said;
use super::{Common, Failure, daemon, output};
use crate::control_socket::{Reply, Request};
use crate::witness::WitnessStatus;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The newest head of the coordinator's log that this site has seen, and whether one contradicts it
    Show,
    /// Go on with the log that the coordinator shows, although it is another one than this site has seen
    ///
    /// For the day on which the consortium's operators bring the coordinator back from an older copy and
    /// say so. Both heads stay in the state folder as evidence, and the decision in the ledger.
    Accept(Said),
}

pub(super) async fn run(common: &Common, command: Command) -> Result<(), Failure> {
    let config = common.load()?;
    let request = match command {
        Command::Show => Request::Status,
        Command::Accept(said) => Request::WitnessAccept { word: said.word() },
    };
    let reply = daemon::asked(&config.site.state, &request).await?;
    let witness = if let Reply::Status(status) = reply {
        status.witness
    } else if let Reply::WitnessAccepted(witness) = reply {
        witness
    } else {
        return Err(daemon::unexpected());
    };
    if common.json {
        return output::json(&witness);
    }
    output::line(in_words(&witness));
    output::line(format!("kept in {}", witness.folder.display()));
    Ok(())
}

/// The site as a witness, in a line.
pub(super) fn in_words(witness: &WitnessStatus) -> String {
    match (&witness.kept, &witness.contradiction) {
        (None, _) => "witness: no head of the coordinator's log was seen yet".to_owned(),
        (Some(kept), None) => format!("witness: the coordinator's log up to {kept}"),
        (Some(kept), Some(told)) => format!(
            "witness: NOTHING GOES ON: the coordinator's log ({told}) does not go on from the one that \
             this site has seen ({kept}). Ask the consortium's operators why; if they have brought it back \
             from a copy: `consilium-agent witness accept --by PERSON --reason TEXT`"
        ),
    }
}
