//! Who decides and why: what every decision of a person at the site is written down with.

use clap::Args;
use consilium_common::limits::{PERSON_BYTES_MAX, TEXT_BYTES_MAX};
use consilium_common::study::is_plain_text;

use crate::control_socket::Word;

/// A person's word; it is written into the site's ledger.
#[derive(Debug, Args)]
pub(super) struct Said {
    /// Who decides: the person's name
    #[arg(long, value_name = "PERSON", value_parser = name)]
    by: String,
    /// Why, in a sentence
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
}

impl Said {
    /// With the account on this machine.
    pub(super) fn word(self) -> Word {
        Word { by: self.by, reason: self.reason, account: user() }
    }
}

pub(super) fn name(text: &str) -> Result<String, String> {
    plain(text, PERSON_BYTES_MAX)
}

fn reason(text: &str) -> Result<String, String> {
    plain(text, TEXT_BYTES_MAX)
}

/// Words that an auditor reads years later on some terminal.
fn plain(text: &str, bytes_max: usize) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.len() > bytes_max {
        return Err(format!("1 to {bytes_max} bytes are accepted"));
    }
    if !is_plain_text(text) {
        return Err("control and direction characters are not accepted".to_owned());
    }
    Ok(text.to_owned())
}

/// The account under which somebody decides: the user's name on this machine.
fn user() -> String {
    ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()))
        .unwrap_or_else(|| "an unnamed user".to_owned())
}
