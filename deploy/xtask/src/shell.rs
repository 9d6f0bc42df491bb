//! Commands: each is said on stderr before it runs, so that a person can repeat it by hand, and a
//! failure names it. Stdout stays free for `--json`.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The cargo that runs this tool, or the one on the path.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Say the command, run it with this terminal, and wait.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let said = say(command);
    let status = command.status().with_context(|| format!("cannot start `{said}`"))?;
    if !status.success() {
        bail!("`{said}` failed ({status})");
    }
    Ok(())
}

/// Run the command in silence and return its stdout.
///
/// # Errors
/// When it cannot be started, does not exit with 0 (its stderr is shown), or prints no UTF-8.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let said = display(command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start `{said}`"))?;
    if !output.status.success() {
        bail!("`{said}` failed ({})", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{said}` printed no UTF-8"))
}

/// Whether the command starts and exits with 0; what it prints is dropped.
pub(crate) fn works(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Print the command as a person would type it, and return that.
pub(crate) fn say(command: &Command) -> String {
    let said = display(command);
    eprintln!("$ {said}");
    said
}

fn display(command: &Command) -> String {
    let program = command.get_program();
    let ours = std::env::var_os("CARGO").is_some_and(|cargo| cargo == program);
    let program = if ours { OsStr::new("cargo") } else { program };
    let words: Vec<String> =
        std::iter::once(program).chain(command.get_args()).map(quote).collect();
    words.join(" ")
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_could_be_typed() {
        let mut command = cargo();
        command.args(["nextest", "run", "-E", "test(it's late)", ""]);
        assert_eq!(display(&command), r"cargo nextest run -E 'test(it'\''s late)' ''");
    }

    #[test]
    fn a_failure_names_the_command() {
        let error = run(&mut Command::new("false")).unwrap_err().to_string();
        assert!(error.starts_with("`false` failed"), "{error}");
        let error = read(&mut Command::new("/no/such/program")).unwrap_err().to_string();
        assert_eq!(error, "cannot start `/no/such/program`");
        assert!(works(&mut Command::new("true")) && !works(&mut Command::new("false")));
    }
}
