//! The same model, the same number of epochs, without a federation: one process with all records,
//! and each site alone.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::report::{Baselines, Trained};
use super::watch::Screen;
use super::{Baseline, DemoArgs, go_on, study};
use crate::local::Federation;

/// Local trainings at once: the machine's cores, one thread each.
fn slots() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// One `consilium-agent train --local` to come.
struct Job {
    name: String,
    /// Which records.
    records: Vec<OsString>,
}

/// What `train --local --json` answers.
#[derive(Debug, Deserialize)]
struct Answer {
    epochs: Vec<Epoch>,
    #[serde(rename = "final")]
    last: Last,
}

#[derive(Debug, Deserialize)]
struct Epoch {
    examples: u64,
    seconds: f64,
}

#[derive(Debug, Deserialize)]
struct Last {
    accuracy: Option<f64>,
    loss: Option<f64>,
}

/// Trains what `--baseline` asks for.
pub(super) fn train(
    federation: &Federation,
    args: &DemoArgs,
    data: &Path,
    screen: &Screen,
    stop: &AtomicBool,
) -> anyhow::Result<Baselines> {
    let mut jobs = Vec::new();
    if args.baseline != Baseline::None {
        let words = ["--source", "idx", "--holdout", "test", "--path"].map(OsString::from);
        let records = words.into_iter().chain([data.as_os_str().to_owned()]).collect();
        jobs.push(Job { name: "pooled, one process".to_owned(), records });
    }
    if args.baseline == Baseline::All {
        for (index, site) in federation.sites().iter().enumerate() {
            let configuration = federation.site_folder(index).join("agent.toml");
            let records =
                vec!["--data".into(), study::STUDY.into(), "--config".into(), configuration.into()];
            jobs.push(Job { name: format!("{} alone", site.name), records });
        }
    }
    if jobs.is_empty() {
        return Ok(Baselines::default());
    }
    screen.say(
        "for comparison: the same epochs with all records in one process, and each site alone",
    );
    let mut trained = run(federation, args, &jobs, screen, stop)?;
    let pooled = trained.remove(0);
    screen.say(&format!("pooled {}", super::report::percent(pooled.accuracy)));
    Ok(Baselines { pooled: Some(pooled), alone: trained })
}

/// Runs the jobs, as many at once as there are cores; answers in the order of the jobs.
fn run(
    federation: &Federation,
    args: &DemoArgs,
    jobs: &[Job],
    screen: &Screen,
    stop: &AtomicBool,
) -> anyhow::Result<Vec<Trained>> {
    let bar = screen.bar(jobs.len() as u64, "comparing");
    let mut running: Vec<Option<Running>> = Vec::new();
    let mut done: Vec<Option<Trained>> = jobs.iter().map(|_| None).collect();
    while done.iter().any(Option::is_none) {
        go_on(stop)?;
        let active = running.iter().flatten().count();
        if active < slots()
            && let Some(job) = jobs.get(running.len())
        {
            running.push(Some(Running::start(federation, args, job)?));
        }
        for ((slot, answer), job) in running.iter_mut().zip(&mut done).zip(jobs) {
            if slot.as_mut().is_some_and(Running::ended)
                && let Some(finished) = slot.take()
            {
                *answer = Some(finished.answer(job)?);
                bar.inc(1);
            }
        }
        pause();
    }
    bar.finish_and_clear();
    Ok(done.into_iter().flatten().collect())
}

/// A local training; killed if the demonstration ends before it.
struct Running(Option<Child>);

impl Running {
    fn start(federation: &Federation, args: &DemoArgs, job: &Job) -> anyhow::Result<Self> {
        let (epochs, study) = (args.rounds.to_string(), federation.signed_study(study::STUDY));
        let child = Command::new(&federation.programs().agent)
            .args(["train", "--local", "--json", "--epochs", &epochs, "--study"])
            .arg(study)
            .args(&job.records)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting consilium-agent train --local")?;
        Ok(Self(Some(child)))
    }

    fn ended(&mut self) -> bool {
        let child = self.0.as_mut();
        child.is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    fn answer(mut self, job: &Job) -> anyhow::Result<Trained> {
        let Some(child) = self.0.take() else { bail!("{} was not started", job.name) };
        let output = child.wait_with_output().context("reading the training's answer")?;
        if !output.status.success() {
            let told = String::from_utf8_lossy(&output.stderr);
            bail!("{}: train --local ended with {}: {}", job.name, output.status, told.trim());
        }
        let answer: Answer = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{}: reading the training's answer", job.name))?;
        Ok(Trained {
            name: job.name.clone(),
            examples: answer.epochs.last().map_or(0, |epoch| epoch.examples),
            accuracy: answer.last.accuracy,
            loss: answer.last.loss,
            seconds: answer.epochs.iter().map(|epoch| epoch.seconds).sum(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // Both fail only for a process that has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a command that waits; no runtime runs here")]
fn pause() {
    std::thread::sleep(Duration::from_millis(100));
}
