//! `--version`: this program, and what the worker says of itself, libtorch and CUDA.

use std::time::Duration;

use serde::Serialize;
use tokio::process::Command;
use tokio::time::timeout;

use super::workbench::programs;
use super::{Common, Failure, output};

/// A worker that loads CUDA takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize)]
struct Versions {
    agent: &'static str,
    /// What `consilium-worker --version` printed.
    worker: Option<String>,
    /// Why there is nothing from the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    worker_trouble: Option<String>,
}

pub(super) async fn run(common: &Common) -> Result<(), Failure> {
    let configured = common.load().ok().and_then(|config| config.site.worker);
    let program = programs(configured)?.worker;
    let (worker, worker_trouble) = match ask(&program).await {
        Ok(text) => (Some(text), None),
        Err(why) => (None, Some(format!("{}: {why}", program.display()))),
    };
    let versions = Versions { agent: env!("CARGO_PKG_VERSION"), worker, worker_trouble };
    if common.json {
        return output::json(&versions);
    }
    output::line(format!("consilium-agent {}", versions.agent));
    match (versions.worker, versions.worker_trouble) {
        (Some(text), _) => output::line(text),
        (None, Some(why)) => output::line(format!("no worker: {why}")),
        (None, None) => {}
    }
    Ok(())
}

async fn ask(program: &std::path::Path) -> Result<String, String> {
    let running = Command::new(program).arg("--version").kill_on_drop(true).output();
    let output = timeout(PATIENCE, running)
        .await
        .map_err(|_| format!("no answer for {} s", PATIENCE.as_secs()))?
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && !text.is_empty() {
        return Ok(text);
    }
    let trouble = String::from_utf8_lossy(&output.stderr);
    Err(trouble.lines().last().unwrap_or("it says nothing").to_owned())
}
