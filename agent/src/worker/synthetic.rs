//! The synthetic trainer: the worker protocol spoken by a child process without libtorch, with a
//! known optimum (`consilium_common::study::model::synthetic`), for protocol tests, chaos and load.
//!
//! It pulls the model half of the way towards the site's own optimum, reports `batches` lines of
//! progress, `batch_ms` apart, and writes the result as any trainer does. The same task gives the
//! same bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, sync_channel};
use std::time::Duration;

use consilium_common::limits::WORKER_LINE_BYTES_MAX;
use consilium_common::random::Generator;
use consilium_common::study::model::Synthetic;
use consilium_common::study::{ModelSpec, Study};
use consilium_common::tensor::file::{from_safetensors, to_safetensors};
use consilium_common::update::words::{LOSS_ONE, Metrics};
use consilium_common::worker::{
    FailureCode, Holdout, Outcome, Phase, Reply, Request, Source, Task, WORKER_PROTOCOL, Work,
    from_line, to_line,
};

/// Records that a source without `examples` claims.
pub const EXAMPLES_DEFAULT: u64 = 100;
/// Study and base are files that the daemon wrote a moment ago.
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
        if task.work == Work::Check {
            let findings = vec![format!("synthetic: {examples} records claimed")];
            return Ok(Outcome { findings, ..outcome });
        }
        self.moved(Phase::Loading, 0, 1, None)?;
        let base = read_base(&study, task.base.as_deref())?;
        let optimum = optimum(study.header.seed, &task.source, base.len());
        self.moved(Phase::Scoring, 0, 1, None)?;
        let loss = mean_loss(&base, &optimum);
        let metrics = Metrics(vec![holdout, fixed(loss, holdout)]);
        if task.work == Work::Evaluate {
            return Ok(Outcome { metrics, ..outcome });
        }
        self.batches(&sizes, loss)?;
        self.moved(Phase::Saving, 0, 1, None)?;
        write_result(&study, task.out.as_deref(), &half_way(&base, &optimum))?;
        Ok(Outcome { metrics, train_loss: Some(loss), ..outcome })
    }

    /// Takes its time, as training does.
    fn batches(&mut self, sizes: &Synthetic, loss: f64) -> Result<(), Failure> {
        let pause = Duration::from_millis(sizes.batch_ms.into());
        let total = u64::from(sizes.batches);
        for done in 1..=total {
            self.pause(pause)?;
            self.moved(Phase::Training, done, total, Some(loss))?;
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

/// The site's optimum: U(−1, 1) per coordinate, from the study's seed and what sets this site's
/// data apart (which part of how many under which seed, and how many records).
#[must_use]
pub fn optimum(study_seed: u64, source: &Source, len: usize) -> Vec<f32> {
    let mut seed = study_seed.to_le_bytes().to_vec();
    if let Some(part) = &source.part {
        seed.extend(part.seed.to_le_bytes());
        seed.extend(part.of.to_le_bytes());
        seed.extend(part.index.to_le_bytes());
    }
    seed.extend(source.examples.unwrap_or(EXAMPLES_DEFAULT).to_le_bytes());
    let mut generator = Generator::new("synthetic/optimum", &seed);
    (0..len).map(|_| narrow(2.0 * generator.unit() - 1.0)).collect()
}

/// One round of training: half of the way from `base` to `optimum`.
#[must_use]
pub fn half_way(base: &[f32], optimum: &[f32]) -> Vec<f32> {
    base.iter().zip(optimum).map(|(b, o)| b + 0.5 * (o - b)).collect()
}

/// Half the mean squared distance to the optimum.
fn mean_loss(base: &[f32], optimum: &[f32]) -> f64 {
    let squares: f64 = base.iter().zip(optimum).map(|(b, o)| f64::from(b - o).powi(2)).sum();
    #[expect(clippy::cast_precision_loss, reason = "a model has fewer than 2^31 parameters")]
    let len = base.len().max(1) as f64;
    0.5 * squares / len
}

/// Training and hold-out records of a source.
fn claim(source: &Source) -> (u64, u64) {
    let all = source.examples.unwrap_or(EXAMPLES_DEFAULT);
    match source.holdout {
        Holdout::Own(_) => (all, all.div_ceil(5)),
        Holdout::Fraction(fraction) => {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a count of records times a fraction, rounded down"
            )]
            let holdout = (all as f64 * fraction.clamp(0.0, 1.0)) as u64;
            (all - holdout.min(all), holdout)
        }
    }
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

#[expect(clippy::cast_possible_truncation, reason = "one rounding, to nearest")]
fn narrow(value: f64) -> f32 {
    value as f32
}

fn read_study(path: &Path) -> Result<(Study, Synthetic), Failure> {
    let mismatch = |message: String| (FailureCode::ModelMismatch, message);
    let bytes = read_file(path, STUDY_BYTES_MAX)?;
    let text = String::from_utf8(bytes).map_err(|error| mismatch(error.to_string()))?;
    let study = Study::read(&text, "study").map_err(|error| mismatch(error.to_string()))?;
    match study.model.clone() {
        ModelSpec::Synthetic(sizes) => Ok((study, sizes)),
        ModelSpec::Cnn(_) => Err(mismatch("the study is not of the synthetic family".to_owned())),
    }
}

fn read_base(study: &Study, path: Option<&Path>) -> Result<Vec<f32>, Failure> {
    let mismatch = |error: &dyn std::fmt::Display| {
        let message = format!("the base does not fit the study: {error}");
        (FailureCode::ModelMismatch, message)
    };
    let path = path.ok_or_else(|| mismatch(&"the task names none"))?;
    let bytes = read_file(path, u64::MAX)?;
    let layout = study.layout().map_err(|error| mismatch(&error))?;
    from_safetensors(&bytes, &layout).map_err(|error| mismatch(&error))
}

fn write_result(study: &Study, out: Option<&Path>, trained: &[f32]) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        (FailureCode::Internal, format!("the result cannot be written: {error}"))
    };
    let out: PathBuf = out.ok_or_else(|| failed(&"the task names no file"))?.to_owned();
    let layout = study.layout().map_err(|error| failed(&error))?;
    let metadata = std::collections::HashMap::<String, String>::new();
    let bytes = to_safetensors(&layout, trained, metadata).map_err(|error| failed(&error))?;
    std::fs::File::create(&out)
        .and_then(|mut file| file.write_all(&bytes))
        .map_err(|error| failed(&error))
}

fn read_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(bytes_max).read_to_end(&mut bytes))
        .map_err(|error| {
            let message = format!("cannot read {}: {error}", path.display());
            (FailureCode::Internal, message)
        })?;
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
