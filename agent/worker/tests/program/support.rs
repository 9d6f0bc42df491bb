//! A daemon's half of the protocol, data sets made on the spot, and the real MNIST where it is.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a fixture that cannot be made is a failed test; a skipped test says so"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use consilium_common::random::Generator;
use consilium_common::study::Study;
use consilium_common::tensor::file::to_safetensors;
use consilium_common::worker::{
    FailureCode, Outcome, Phase, Reply, Request, Source, SourceKind, Task, WORKER_PROTOCOL, Work,
    from_line, to_line,
};
use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// Longer than any task here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A worker that was started, and the daemon's end of its socket.
pub(crate) struct Worker {
    pub(crate) child: Child,
    pub(crate) socket: Option<UnixStream>,
    lines: BufReader<UnixStream>,
}

impl Worker {
    pub(crate) fn start() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_consilium-worker"))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(ours.try_clone().unwrap());
        let socket = Some(ours);
        Self { child, socket, lines }
    }

    pub(crate) fn with_task(task: &Task) -> Self {
        let mut worker = Self::start();
        worker.send(&Request::Task(Box::new(task.clone())));
        worker
    }

    pub(crate) fn send(&mut self, request: &Request) {
        self.send_bytes(&to_line(request).unwrap());
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        self.socket.as_mut().unwrap().write_all(bytes).unwrap();
    }

    /// The next reply; `None` at the end.
    pub(crate) fn hear(&mut self) -> Option<Reply> {
        let mut line = Vec::new();
        self.lines.read_until(b'\n', &mut line).unwrap();
        (!line.is_empty()).then(|| from_line(&line).unwrap())
    }

    /// Reads until training has started.
    pub(crate) fn await_training(&mut self) {
        let trains = |reply: &Reply| matches!(reply, Reply::Progress { phase, .. } if *phase == Phase::Training);
        while !trains(&self.hear().expect("the worker ended before it trained")) {}
    }

    /// Everything until the end, and how the process ended.
    pub(crate) fn finish(mut self) -> (Vec<Reply>, ExitStatus) {
        let replies = std::iter::from_fn(|| self.hear()).collect();
        (replies, self.child.wait().unwrap())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a task to its end: a hello first, one answer last, an exit code that fits.
/// The answer comes without the time that it took, which no two runs have in common.
pub(crate) fn run(task: &Task) -> Result<Outcome, (FailureCode, String)> {
    let (mut replies, status) = Worker::with_task(task).finish();
    assert!(matches!(replies.first(), Some(Reply::Hello { protocol: 1, .. })), "{replies:?}");
    match replies.pop() {
        Some(Reply::Done(outcome)) => {
            assert_eq!(status.code(), Some(0));
            assert_eq!(outcome.train_seconds.is_some(), task.work.trains());
            Ok(Outcome { train_seconds: None, ..outcome })
        }
        Some(Reply::Failed { code, message }) => {
            assert_eq!(status.code(), Some(1));
            Err((code, message))
        }
        other => panic!("no answer but {other:?}, {status}"),
    }
}

/// A folder with a study, its v0 as the base, and data.
pub(crate) struct Room {
    pub(crate) folder: TempDir,
    pub(crate) study: Study,
    pub(crate) data: PathBuf,
}

impl Room {
    /// A study over 12×12 grey images of four classes, and 320 + 80 records that can be learnt.
    pub(crate) fn tiny(training: &str) -> Self {
        Self::tiny_under("", training)
    }

    /// The same under a strategy: lines of `[aggregation]`.
    pub(crate) fn tiny_under(strategy: &str, training: &str) -> Self {
        let rest = REST.replace("[privacy]", &format!("{strategy}\n[privacy]"));
        let text = format!(
            "[study]\nname = \"tiny\"\nseed = 3\n\
             [model]\nfamily = \"cnn\"\ninput = {{ channels = 1, height = 12, width = 12 }}\n\
             classes = [\"n\", \"e\", \"s\", \"w\"]\n\
             conv = [{{ filters = 4 }}]\ndense = [16]\n\
             [training]\n{training}\n{rest}"
        );
        let room = Self::new(&text, None);
        room.put_records("train", 320);
        room.put_records("t10k", 80);
        room
    }

    /// `data` lies elsewhere, or will lie in the room.
    pub(crate) fn new(study: &str, data: Option<PathBuf>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let study = Study::read(study, "test").unwrap().resolve().unwrap();
        put(&folder.path().join("study.toml"), study.to_text().unwrap().as_bytes());
        let initial = study.initial_vector().unwrap();
        let layout = study.layout().unwrap();
        let none = std::collections::HashMap::<String, String>::new();
        let base = to_safetensors(&layout, &initial, none).unwrap();
        put(&folder.path().join("base.safetensors"), &base);
        let data = data.unwrap_or_else(|| {
            let data = folder.path().join("data");
            fs::create_dir(&data).unwrap();
            data
        });
        Self { folder, study, data }
    }

    /// Records whose label is the bright edge of the picture, with noise.
    pub(crate) fn put_records(&self, files: &str, count: u32) {
        let mut generator = Generator::new("tiny", files.as_bytes());
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let label = generator.below(4);
            for (y, x) in (0..12).flat_map(|y| (0..12).map(move |x| (y, x))) {
                let bright = match label {
                    0 => y < 4,
                    1 => x > 7,
                    2 => y > 7,
                    _ => x < 4,
                };
                let level = generator.below(100) + if bright { 155 } else { 0 };
                images.push(u8::try_from(level).unwrap());
            }
            labels.push(u8::try_from(label).unwrap());
        }
        self.put(&format!("{files}-images-idx3-ubyte"), &idx(&[count, 12, 12], &images));
        self.put(&format!("{files}-labels-idx1-ubyte"), &idx(&[count], &labels));
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        put(&self.data.join(name), bytes);
    }

    pub(crate) fn out(&self) -> PathBuf {
        self.folder.path().join("out.safetensors")
    }

    pub(crate) fn predictions(&self) -> PathBuf {
        self.folder.path().join("predictions.jsonl")
    }

    pub(crate) fn task(&self, work: Work) -> Task {
        Task {
            protocol: WORKER_PROTOCOL,
            work,
            study: self.folder.path().join("study.toml"),
            source: Source::new(SourceKind::Idx, self.data.clone()),
            device: "cpu".to_owned(),
            threads: 1,
            seed: 42,
            round: 1,
            base: (!matches!(work, Work::Check | Work::Prepare))
                .then(|| self.folder.path().join("base.safetensors")),
            out: match work {
                Work::Train | Work::TrainAlone => Some(self.out()),
                Work::Predict | Work::Pin => Some(self.predictions()),
                Work::Evaluate | Work::Check | Work::Prepare => None,
            },
            local: None,
            local_out: work.trains().then(|| self.folder.path().join("next-local.state")),
            preparation: None,
            correction: None,
            census: None,
        }
    }
}

/// What the studies here end with.
pub(crate) const REST: &str =
    "[aggregation]\nclip_norm = 10.0\n[privacy]\nmode = \"inspectable\"\n";

pub(crate) fn idx(sizes: &[u32], elements: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, u8::try_from(sizes.len()).unwrap()];
    bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend(elements);
    bytes
}

/// A .npy file of elements of the type `descr`.
pub(crate) fn npy(descr: &str, shape: &str, elements: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let len = u16::try_from(header.len()).unwrap().to_le_bytes();
    [b"\x93NUMPY\x01\x00", &len[..], header.as_bytes(), elements].concat()
}

pub(crate) fn put_npz(path: &Path, arrays: &[(&str, Vec<u8>)]) {
    let mut zip = ZipWriter::new(fs::File::create(path).unwrap());
    for (name, array) in arrays {
        zip.start_file(format!("{name}.npy"), SimpleFileOptions::default()).unwrap();
        zip.write_all(array).unwrap();
    }
    zip.finish().unwrap();
}

pub(crate) fn put(path: &Path, bytes: &[u8]) {
    fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

pub(crate) fn bytes_of(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// The real MNIST: `$CONSILIUM_DATA`, what `cargo xtask demo` fetched, or the folder beside the
/// repository. `None`, said aloud, where there is none.
pub(crate) fn mnist() -> Option<PathBuf> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.data/mnist");
    let is_there = |place: &Path| {
        let labels = place.join("t10k-labels-idx1-ubyte");
        labels.exists() || labels.with_added_extension("gz").exists()
    };
    real("cnn/mnist", Some(fetched), is_there)
}

/// The 4,000 ICU stays of PhysioNet 2012's set A, in the same places.
pub(crate) fn physionet2012() -> Option<PathBuf> {
    real("rnn/physionet2012/physionet2012_seta.npz", None, Path::exists)
}

fn real(name: &str, fetched: Option<PathBuf>, is_there: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    let named = std::env::var_os("CONSILIUM_DATA").map(|data| Path::new(&data).join(name));
    let found = named.into_iter().chain(fetched).chain([beside]).find(|place| is_there(place));
    if found.is_none() {
        println!("skipped: no {name}; set CONSILIUM_DATA (`cargo xtask demo` fetches MNIST)");
    }
    found
}
