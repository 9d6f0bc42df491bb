//! What the agent's integration tests share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use consilium_agent::worker::{Launch, Moved, TaskFolder, Watch, WorkerFault, run_task};
use consilium_common::study::Study;
use consilium_common::worker::{Outcome, Source, SourceKind, Task, WORKER_PROTOCOL, Work};
use tokio_util::sync::CancellationToken;

pub(crate) fn agent() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_consilium-agent"))
}

pub(crate) fn synthetic() -> Launch {
    Launch { program: agent(), arguments: vec!["synthetic-worker".into()] }
}

/// A worker written in the shell; file descriptor 0 is the socket.
pub(crate) fn script(text: &str) -> Launch {
    Launch { program: "/bin/sh".into(), arguments: vec!["-c".into(), text.into()] }
}

pub(crate) fn study(batches: u32, batch_ms: u32) -> Study {
    study_with_local(batches, batch_ms, 0)
}

/// With so many counters as local state.
pub(crate) fn study_with_local(batches: u32, batch_ms: u32, local: u32) -> Study {
    let text = format!(
        "[study]\nname = \"load\"\nseed = 7\n[model]\nfamily = \"synthetic\"\nparameters = 50\n\
         batches = {batches}\nbatch_ms = {batch_ms}\nlocal = {local}\n[aggregation]\nclip_norm = 10.0\n\
         [cohort]\nmin_sites = 1\nidle_timeout = \"20s\"\n[privacy]\nmode = \"inspectable\"\n"
    );
    Study::read(&text, "load.toml").unwrap().resolve().unwrap()
}

/// The same with so many sums to count before anything trains.
pub(crate) fn preparing(sums: u32) -> Study {
    let text = study(2, 0).to_text().unwrap().replace("prepare = 0", &format!("prepare = {sums}"));
    Study::read(&text, "load.toml").unwrap()
}

pub(crate) fn source(examples: u64) -> Source {
    Source { examples: Some(examples), ..Source::new(SourceKind::Synthetic, PathBuf::new()) }
}

/// Everything that one task needs.
pub(crate) struct Bench {
    _folder: tempfile::TempDir,
    pub(crate) files: TaskFolder,
    pub(crate) task: Task,
    pub(crate) study: Study,
    pub(crate) stop: CancellationToken,
    pub(crate) idle: Duration,
}

impl Bench {
    pub(crate) fn new(study: Study, work: Work) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = TaskFolder::create(folder.path(), study.to_text().unwrap().as_bytes()).unwrap();
        let base = study.initial_vector().unwrap();
        files.write_vector(&study.layout().unwrap(), &base).unwrap();
        let task = Task {
            protocol: WORKER_PROTOCOL,
            work,
            study: files.study(),
            source: source(100),
            device: "cpu".to_owned(),
            threads: 1,
            seed: 1,
            round: 1,
            base: Some(files.base()),
            out: match work {
                Work::Train | Work::TrainAlone => Some(files.result()),
                Work::Prepare => Some(files.counts()),
                Work::Evaluate | Work::Check | Work::Predict | Work::Pin => None,
            },
            local: None,
            local_out: work.trains().then(|| files.local_out()),
            preparation: None,
            correction: None,
            census: None,
        };
        Self {
            _folder: folder,
            files,
            task,
            study,
            stop: CancellationToken::new(),
            idle: Duration::from_secs(20),
        }
    }

    pub(crate) async fn run(&self, launch: &Launch) -> (Result<Outcome, WorkerFault>, Vec<Moved>) {
        let mut lines = Vec::new();
        let watch = Watch {
            idle: self.idle,
            stop: self.stop.clone(),
            moved: &mut |moved| lines.push(moved),
        };
        let outcome = run_task(launch, &self.task, watch).await;
        (outcome, lines)
    }
}

/// Ids of live processes whose parent is `parent`.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in Path::new("/proc").read_dir().unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        // pid (name) state ppid …; a name may hold blanks and parentheses.
        let after = stat.rsplit(')').next().unwrap_or("");
        let mut fields = after.split_whitespace();
        let (state, ppid) = (fields.next(), fields.next());
        if state != Some("Z") && ppid == Some(&*parent.to_string()) {
            found.push(pid);
        }
    }
    found
}
