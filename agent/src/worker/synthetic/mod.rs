//! The synthetic trainer: the worker protocol spoken by a child process without libtorch, with a
//! known optimum (`consilium_common::study::model::synthetic`), for protocol tests, chaos and load.
//!
//! It pulls the model half of the way towards the site's own optimum, or with `steps = K` so many steps
//! down a quadratic around it, corrected as the task says; reports `batches` lines of
//! progress, `batch_ms` apart, and leaves the result as any trainer does. A study with `prepare = N`
//! it does not touch without the preparation, and makes N counts for it first. The same task gives
//! the same bytes. With `local = N` it keeps a local state ([`counters`]).

mod counters;
mod counts;
mod pull;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::Duration;

use consilium_common::limits::WORKER_LINE_BYTES_MAX;
use consilium_common::study::model::Synthetic;
use consilium_common::study::{ModelSpec, Study};
use consilium_common::update::words::{LOSS_ONE, Metrics};
use consilium_common::worker::{
    FailureCode, Holdout, Outcome, Phase, Reply, Request, Source, Task, WORKER_PROTOCOL, Work,
    from_line, to_line,
};

use counters::Counters;
pub use counters::shifted;
pub use counts::counts;
pub use pull::{Descent, half_way};
use pull::{Pull, pull};

/// Records that a source without `examples` claims.
pub const EXAMPLES_DEFAULT: u64 = 100;
/// The study is a file that the daemon wrote a moment ago.
const STUDY_BYTES_MAX: u64 = 1 << 20;

/// A reply that ends the task.
type Failure = (FailureCode, String);

/// Runs one task over standard input, which the daemon made a socket. Returns the exit code.
#[must_use]
pub fn run() -> u8 {
    let stdin = std::io::stdin();
    let Ok(socket) = stdin.as_fd().try_clone_to_owned().map(UnixStream::from) else {
        return 1;
    };
    match speak(socket) {
        Ok(()) => 0,
        Err(_) => 1, // the daemon is gone, or never was one
    }
}

fn speak(mut socket: UnixStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(socket.try_clone()?);
    let task = match read_request(&mut reader)? {
        Some(Request::Task(task)) => *task,
        Some(Request::Stop) | None => return Ok(()),
    };
    say(
        &mut socket,
        &Reply::Hello {
            protocol: WORKER_PROTOCOL,
            worker: format!("synthetic {}", env!("CARGO_PKG_VERSION")),
            device: "cpu".to_owned(),
        },
    )?;
    let mut trainer = Trainer { socket, stop: listen(reader) };
    let last = match trainer.work(&task) {
        Ok(outcome) => Reply::Done(outcome),
        Err((code, message)) => Reply::Failed { code, message },
    };
    say(&mut trainer.socket, &last)
}

/// Waits for a stop, or the daemon's end, on a thread of its own; it ends with the process.
fn listen(mut reader: BufReader<UnixStream>) -> Receiver<()> {
    let (tell, stop) = sync_channel(1);
    std::thread::spawn(move || {
        while let Ok(Some(Request::Task(_))) = read_request(&mut reader) {}
        // The task may be over: then nobody listens.
        let _ = tell.send(());
    });
    stop
}

struct Trainer {
    socket: UnixStream,
    stop: Receiver<()>,
}

impl Trainer {
    fn work(&mut self, task: &Task) -> Result<Outcome, Failure> {
        let (study, sizes) = read_study(&task.study)?;
        let (examples, holdout) = claim(&task.source);
        if examples < study.data.min_examples {
            let need = study.data.min_examples;
            let message = format!("{examples} training records, the study asks for {need}");
            return Err((FailureCode::TooFewExamples, message));
        }
        let outcome = Outcome { examples, holdout, ..Outcome::default() };
        match task.work {
            Work::Check => {
                let findings = vec![format!("synthetic: {examples} records claimed")];
                Ok(Outcome { findings, ..outcome })
            }
            Work::Prepare => self.prepare(task, &study, &sizes, outcome),
            Work::Train | Work::TrainAlone | Work::Evaluate => {
                self.pull(task, &study, &sizes, outcome)
            }
            Work::Predict | Work::Pin => {
                let message = "the synthetic trainer predicts nothing".to_owned();
                Err((FailureCode::ModelMismatch, message))
            }
        }
    }

    /// Counts.
    fn prepare(
        &mut self,
        task: &Task,
        study: &Study,
        sizes: &Synthetic,
        outcome: Outcome,
    ) -> Result<Outcome, Failure> {
        let sums = study.preparation_len().ok_or_else(|| {
            let message = format!("study {} prepares nothing", study.id());
            (FailureCode::ModelMismatch, message)
        })?;
        let result = ResultFile::create(task.out.as_deref())?;
        self.batches(sizes, Phase::Loading, None)?;
        self.moved(Phase::Saving, 0, 1, None)?;
        counts::write(&counts(study.header.seed, &task.source, sums), &result.file)?;
        result.keep()?;
        Ok(outcome)
    }

    /// Scores, and trains where the task asks for it.
    fn pull(
        &mut self,
        task: &Task,
        study: &Study,
        sizes: &Synthetic,
        outcome: Outcome,
    ) -> Result<Outcome, Failure> {
        let holdout = outcome.holdout;
        self.moved(Phase::Loading, 0, 1, None)?;
        counts::check(study, task.preparation.as_deref())?;
        let base = task.base.as_deref().ok_or_else(|| missing("base"))?;
        self.moved(Phase::Scoring, 0, 1, None)?;
        let result =
            task.work.trains().then(|| ResultFile::create(task.out.as_deref())).transpose()?;
        let counters = Counters::read(task.local.as_deref(), sizes.local)?;
        let out = result.as_ref().map(|result| &result.file);
        let descent = Descent::of(study, task.round);
        let (rounds, correction) = (counters.rounds(), task.correction.as_deref());
        let loss = pull(study, &task.source, Pull { base, rounds, descent, correction }, out)?;
        let metrics = |loss| Metrics(vec![holdout, fixed(loss, holdout)]);
        let Some(result) = result else {
            return Ok(Outcome { metrics: metrics(loss), ..outcome });
        };
        self.batches(sizes, Phase::Training, Some(loss))?;
        self.moved(Phase::Saving, 0, 1, None)?;
        counters.write_next(task.local_out.as_deref())?;
        result.keep()?;
        let scored = match (task.work, &task.out) {
            (Work::TrainAlone, Some(next)) => {
                let next =
                    Pull { base: next, rounds: counters.next_rounds(), descent, correction: None };
                pull(study, &task.source, next, None)?
            }
            _ => loss,
        };
        let corrects = study.aggregation.control_grid().is_some();
        let steps = descent.filter(|_| corrects).map(|descent| descent.length());
        let metrics = metrics(scored);
        Ok(Outcome { metrics, train_loss: Some(loss), steps, ..outcome })
    }

    /// Takes its time, as training and counting do.
    fn batches(
        &mut self,
        sizes: &Synthetic,
        phase: Phase,
        loss: Option<f64>,
    ) -> Result<(), Failure> {
        let pause = Duration::from_millis(sizes.batch_ms.into());
        let total = u64::from(sizes.batches);
        for done in 1..=total {
            self.pause(pause)?;
            self.moved(phase, done, total, loss)?;
        }
        Ok(())
    }

    fn pause(&self, pause: Duration) -> Result<(), Failure> {
        let stopped = if pause.is_zero() {
            !matches!(self.stop.try_recv(), Err(TryRecvError::Empty))
        } else {
            !matches!(self.stop.recv_timeout(pause), Err(RecvTimeoutError::Timeout))
        };
        if stopped {
            Err((FailureCode::Stopped, "stopped between two batches".to_owned()))
        } else {
            Ok(())
        }
    }

    fn moved(
        &mut self,
        phase: Phase,
        done: u64,
        total: u64,
        loss: Option<f64>,
    ) -> Result<(), Failure> {
        let progress = Reply::Progress { phase, done, total, loss };
        say(&mut self.socket, &progress)
            .map_err(|error| (FailureCode::Stopped, format!("the daemon is gone: {error}")))
    }
}

/// The first `len` curvatures of the site's quadratic.
#[must_use]
pub fn curvature(study_seed: u64, source: &Source, len: usize) -> Vec<f32> {
    pull::curvatures(study_seed, source).take(len).collect()
}

/// The first `len` coordinates of the site's optimum.
#[must_use]
pub fn optimum(study_seed: u64, source: &Source, len: usize) -> Vec<f32> {
    pull::optima(study_seed, source).take(len).collect()
}

/// Training records of a source, and those of its hold-out, or of the validation part in its place.
fn claim(source: &Source) -> (u64, u64) {
    let all = source.examples.unwrap_or(EXAMPLES_DEFAULT);
    let (train, holdout) = match &source.holdout {
        Holdout::Own(_) | Holdout::Where(_) | Holdout::Every(_) | Holdout::OfUser(_) => {
            (all, all.div_ceil(5))
        }
        Holdout::Fraction(fraction) => apart(all, *fraction),
    };
    source.validation.map_or((train, holdout), |fraction| apart(train, fraction))
}

/// What a fraction of so many records leaves, and the fraction, rounded down.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count of records times a share"
)]
fn apart(all: u64, fraction: f64) -> (u64, u64) {
    let part = (all as f64 * fraction.clamp(0.0, 1.0)) as u64;
    (all - part.min(all), part)
}

/// A loss summed over the hold-out, in units of 2^-16.
fn fixed(loss: f64, holdout: u64) -> u64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a fixed-point sum, not negative, rounded down"
    )]
    let sum = (loss * LOSS_ONE * holdout as f64) as u64;
    sum
}

fn read_study(path: &Path) -> Result<(Study, Synthetic), Failure> {
    let mismatch = |message: String| (FailureCode::ModelMismatch, message);
    let bytes = read_file(path, STUDY_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|error| mismatch(error.to_string()))?;
    let study = Study::read(&text, "study").map_err(|error| mismatch(error.to_string()))?;
    match study.model.clone() {
        ModelSpec::Synthetic(sizes) => Ok((study, sizes)),
        ModelSpec::Cnn(_)
        | ModelSpec::Recommender(_)
        | ModelSpec::Rnn(_)
        | ModelSpec::Tabular(_)
        | ModelSpec::TextClassifier(_) => {
            Err(mismatch("the study is not of the synthetic family".to_owned()))
        }
    }
}

fn missing(what: &str) -> Failure {
    (FailureCode::Internal, format!("the task names no {what}"))
}

/// A result under another name until its training is over: a task that is stopped leaves none.
struct ResultFile {
    file: File,
    written: PathBuf,
    named: PathBuf,
}

impl ResultFile {
    fn create(out: Option<&Path>) -> Result<Self, Failure> {
        let named = out.ok_or_else(|| missing("file for the result"))?.to_owned();
        let written = named.with_extension("unfinished");
        let file = File::create(&written).map_err(|error| {
            (FailureCode::Internal, format!("cannot make {}: {error}", written.display()))
        })?;
        Ok(Self { file, written, named })
    }

    fn keep(self) -> Result<(), Failure> {
        std::fs::rename(&self.written, &self.named).map_err(|error| {
            (FailureCode::Internal, format!("cannot name {}: {error}", self.named.display()))
        })
    }
}

fn read_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(bytes_max).read_to_end(&mut bytes)).map_err(
        |error| {
            let message = format!("cannot read {}: {error}", path.display());
            (FailureCode::Internal, message)
        },
    )?;
    Ok(bytes)
}

/// `None` at the end of the stream.
fn read_request(reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut line = Vec::new();
    let limit = WORKER_LINE_BYTES_MAX as u64 + 1;
    if reader.take(limit).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    from_line(&line).map(Some).map_err(std::io::Error::other)
}

fn say(socket: &mut UnixStream, reply: &Reply) -> std::io::Result<()> {
    let line = to_line(reply).map_err(std::io::Error::other)?;
    socket.write_all(&line)
}
