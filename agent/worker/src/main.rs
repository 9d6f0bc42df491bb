//! `consilium-worker`: loads a site's records, trains and scores; the only program with libtorch.
//!
//! The agent's daemon starts one for a task, with a socket as standard input; it ends with the task.
//! It needs no network, and opens no file but the study, the base, the preparation, the site's records
//! and the result.
//!
//! ```text
//!  protocol   one task in, replies out, an ear for stop           failure   code and sentence
//!  task       study → records → score → train → result
//!    family   what differs: records and network of each family
//!    data     files → records on the device → batches             device    cpu or GPU, --version
//!    model    a family's layers         weights    variables ↔ flat ↔ safetensors
//!    predict  records without labels → lines of probabilities
//!    preparation  what the sites count together
//!    fit      epochs and batches        optimizer  Adam, SGD      score     loss, integer sums
//!    local    the tensors that never leave, from and to their file
//! ```

#![deny(unsafe_code)]

mod data;
mod device;
mod failure;
mod family;
mod fit;
mod local;
mod model;
mod optimizer;
mod predict;
mod preparation;
mod protocol;
mod score;
mod task;
mod weights;

use std::any::Any;
use std::io::{self, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use consilium_common::worker::{
    FailureCode, LineError, Outcome, Reply, Task, WORKER_PROTOCOL, Work,
};
use tch::Device;

use crate::failure::Failure;
use crate::protocol::Link;

const USAGE: &str = "\
usage: consilium-worker --version
       consilium-worker --check-device [auto|cpu|cuda:N]
Without options the agent's daemon starts it, with a socket as standard input.";

/// DESIGN.md §2.
const DONE: u8 = 0;
const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let code = match arguments.as_slice() {
        [] => serve(),
        ["--version" | "-V"] => show(&device::report::version()),
        ["--help" | "-h"] => show(USAGE),
        ["--check-device"] => answer(device::report::check_device("auto")),
        ["--check-device", wanted] => answer(device::report::check_device(wanted)),
        _ => {
            log(USAGE);
            WRONG_USAGE
        }
    };
    ExitCode::from(code)
}

/// Log text: the daemon passes standard error on.
pub(crate) fn log(text: &str) {
    // Nobody reads it: then there is nobody to tell.
    let _ = writeln!(io::stderr(), "{text}");
}

fn show(text: &str) -> u8 {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => DONE,
        Err(_) => FAILED,
    }
}

fn answer(result: Result<String, Failure>) -> u8 {
    match result {
        Ok(text) => show(&text),
        Err(failure) => {
            log(&format!("consilium-worker: {failure}"));
            FAILED
        }
    }
}

/// Speaks the protocol on standard input.
fn serve() -> u8 {
    match protocol::socket(io::stdin().as_fd()) {
        Ok(Some(socket)) => match speak(socket) {
            Ok(code) => code,
            Err(error) => {
                log(&format!("consilium-worker: {error}"));
                FAILED
            }
        },
        Ok(None) | Err(_) => {
            log("consilium-worker is started by consilium-agent, not by hand: its standard input \
                 must be the daemon's socket (see --help)");
            WRONG_USAGE
        }
    }
}

fn speak(socket: UnixStream) -> io::Result<u8> {
    let mut from = BufReader::new(socket.try_clone()?);
    let received = protocol::receive(&mut from);
    let mut link = Link::open(socket, from);
    let outcome = match received {
        // Stopped before there was anything to do.
        Ok(None) => return Ok(DONE),
        Ok(Some(task)) => do_task(&task, &mut link),
        Err(error) => greet(&mut link, "none").and_then(|()| Err(unreadable(&error))),
    };
    let (reply, code) = match outcome {
        Ok(outcome) => (Reply::Done(outcome), DONE),
        Err(Failure { code, message }) => {
            log(&format!("{}: {message}", code.as_str()));
            (Reply::Failed { code, message }, FAILED)
        }
    };
    // The daemon may be gone: the exit code is the same.
    let _ = link.say(&reply);
    Ok(code)
}

fn unreadable(error: &LineError) -> Failure {
    let message = format!("the task cannot be read: {error}");
    Failure::new(FailureCode::ModelMismatch, message)
}

/// Does the task. A panic in it (libtorch's errors arrive as such where tch has no other way) is a
/// failure like any other.
fn do_task(task: &Task, link: &mut Link) -> Result<Outcome, Failure> {
    let whole = AssertUnwindSafe(|| {
        let device = choose_device(task);
        match &device {
            Ok(device) => greet(link, &device::name(*device))?,
            Err(_) => greet(link, &task.device)?,
        }
        if task.protocol != WORKER_PROTOCOL {
            let theirs = task.protocol;
            let message =
                format!("the daemon speaks protocol {theirs}, this worker {WORKER_PROTOCOL}");
            return Err(Failure::new(FailureCode::ModelMismatch, message));
        }
        task::perform(task, device?, link)
    });
    catch_unwind(whole).unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
}

/// `check`, `prepare` and `pin` compute nothing that asks for a GPU.
fn choose_device(task: &Task) -> Result<Device, Failure> {
    match task.work {
        Work::Check | Work::Prepare | Work::Pin => Ok(Device::Cpu),
        Work::Train | Work::TrainAlone | Work::Evaluate | Work::Predict => {
            device::choose(&task.device)
        }
    }
}

fn greet(link: &mut Link, device: &str) -> Result<(), Failure> {
    link.say(&Reply::Hello {
        protocol: WORKER_PROTOCOL,
        worker: format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")),
        device: device.to_owned(),
    })
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("no reason given");
    Failure::new(FailureCode::Internal, format!("the worker broke: {text}"))
}
