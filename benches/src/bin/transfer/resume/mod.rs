//! What is sent twice when a push is interrupted. Sender and receiver are processes of their own and
//! are killed (SIGKILL) at random offsets. Both write to pipes what they have; this process reads along,
//! kills, and starts again.

pub(crate) mod receiver;
pub(crate) mod sender;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::Context as _;
use consilium_benches::{Row, median};
use consilium_common::ids::Digest;
use consilium_common::random::Generator;

use crate::proxy::Proxy;
use crate::{FAR, ends};

/// Sent twice, at most, unless more was under way (DESIGN.md §7).
const GOAL_BYTES: u64 = 4 << 20;
/// Words of the ends that wait to be read.
const WORDS_MAX: usize = 1024;
/// An end that says nothing for this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// One push, on loopback and over a line of 50 ms there and back.
pub(crate) fn measure(root: &Path, megabytes: u64, kills: u32) -> anyhow::Result<Vec<Row>> {
    let folder = root.join("resumed");
    let digest = ends::write_blob(&folder.join("sender"), megabytes)?;
    let mut rows = Vec::new();
    for far in [false, true] {
        let to = folder.join(format!("receiver-{far}"));
        let line = if far { "50 ms there and back" } else { "loopback" };
        let address = ends::free_address()?;
        let proxy = far.then(|| Proxy::start(address, 2));
        if let Some(proxy) = &proxy {
            proxy.set(FAR);
        }
        let through = proxy.as_ref().map_or(address, Proxy::address);
        let (words, said) = sync_channel(WORDS_MAX);
        let receiver = ["receive".into(), text(&ends::coordinator(root)), address.to_string()];
        let sender = ["send".into(), text(&ends::site(root)), through.to_string()];
        let mut push = Push {
            receiver: receiver.into_iter().chain([text(&to)]).collect(),
            sender: sender.into_iter().chain([text(&folder.join("sender"))]).collect(),
            digest,
            lives: 0,
            words,
            attempts: BTreeMap::new(),
        };
        push.run(&said, &kill_offsets(megabytes * 1_000_000, kills))?;
        rows.extend(push.rows(&format!("{megabytes} MB push, {line}"), kills));
    }
    Ok(rows)
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Where the push is interrupted, and whether it is the sender that dies.
fn kill_offsets(bytes: u64, kills: u32) -> Vec<(u64, bool)> {
    let mut generator = Generator::new("benches/transfer", b"kills");
    let bound = u32::try_from(bytes).unwrap_or(u32::MAX);
    let mut offsets: Vec<u64> = (0..kills).map(|_| generator.below(bound).into()).collect();
    offsets.sort_unstable();
    offsets.into_iter().zip([true, false].into_iter().cycle()).collect()
}

/// What an end says: which attempt, and how many bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Word {
    /// The receiver begins to take, and has so much.
    Taking(u32, u64),
    /// The receiver has so much.
    Have(u32, u64),
    /// The sender has handed so much to its connection.
    Through(u32, u64),
    /// The receiver has said that it has all of it.
    Stored,
}

impl Word {
    /// Writes it to the pipe at once: a killed process must not take it along.
    pub(crate) fn say(self) {
        use std::io::Write as _;
        let mut out = std::io::stdout().lock();
        let said = match self {
            Self::Taking(attempt, bytes) => writeln!(out, "taking {attempt} {bytes}"),
            Self::Have(attempt, bytes) => writeln!(out, "have {attempt} {bytes}"),
            Self::Through(attempt, bytes) => writeln!(out, "through {attempt} {bytes}"),
            Self::Stored => writeln!(out, "stored"),
        };
        // Nobody reads any more: the measurement is over.
        let _over = said;
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let what = words.next()?;
        if what == "stored" {
            return Some(Self::Stored);
        }
        let (attempt, bytes) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        match what {
            "taking" => Some(Self::Taking(attempt, bytes)),
            "have" => Some(Self::Have(attempt, bytes)),
            "through" => Some(Self::Through(attempt, bytes)),
            _ => None,
        }
    }
}

/// Bytes of one attempt, counted from the start of the blob.
#[derive(Debug, Default, Clone, Copy)]
struct Attempt {
    from: u64,
    have: u64,
    through: u64,
}

struct Push {
    receiver: Vec<String>,
    sender: Vec<String>,
    digest: Digest,
    lives: u32,
    words: SyncSender<Word>,
    attempts: BTreeMap<u32, Attempt>,
}

/// A process that ends with this one.
struct End(Child);

impl End {
    /// Kills it (SIGKILL) and waits for its end.
    fn kill(&mut self) {
        // Both fail only for a process that has ended already.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Push {
    fn run(&mut self, said: &Receiver<Word>, kills: &[(u64, bool)]) -> anyhow::Result<()> {
        let (mut receiver, mut sender) = (self.start_receiver()?, self.start_sender()?);
        let mut kills = kills.iter();
        let mut next = kills.next();
        loop {
            let word = said.recv_timeout(PATIENCE).context("the push stands still")?;
            let Word::Have(_, bytes) = word else {
                if self.note(word) {
                    return Ok(());
                }
                continue;
            };
            self.note(word);
            if let Some((offset, sender_dies)) = next
                && bytes >= *offset
            {
                if *sender_dies {
                    sender.kill();
                    sender = self.start_sender()?;
                } else {
                    receiver.kill();
                    receiver = self.start_receiver()?;
                }
                next = kills.next();
            }
        }
    }

    /// True when the push is over.
    fn note(&mut self, word: Word) -> bool {
        match word {
            Word::Taking(attempt, bytes) => self.attempt(attempt).from = bytes,
            Word::Have(attempt, bytes) => self.attempt(attempt).have = bytes,
            Word::Through(attempt, bytes) => self.attempt(attempt).through = bytes,
            Word::Stored => return true,
        }
        false
    }

    fn attempt(&mut self, attempt: u32) -> &mut Attempt {
        self.attempts.entry(attempt).or_default()
    }

    fn start_receiver(&self) -> anyhow::Result<End> {
        self.start(&self.receiver)
    }

    fn start_sender(&mut self) -> anyhow::Result<End> {
        self.lives += 1;
        let life = [self.digest.to_string(), self.lives.to_string()];
        self.start(&self.sender.iter().cloned().chain(life).collect::<Vec<_>>())
    }

    /// Starts an end; what it says is read until its pipe closes.
    fn start(&self, arguments: &[String]) -> anyhow::Result<End> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args(arguments).stdout(Stdio::piped()).spawn()?;
        let pipe = child.stdout.take().context("the end has no pipe")?;
        let words = self.words.clone();
        std::thread::spawn(move || {
            let lines = BufReader::new(pipe).lines().map_while(Result::ok);
            // A line that a death cut short is no word.
            for word in lines.filter_map(|line| Word::read(&line)) {
                if words.send(word).is_err() {
                    return;
                }
            }
        });
        Ok(End(child))
    }

    /// Each attempt that moved bytes against the next one.
    fn rows(&self, name: &str, kills: u32) -> Vec<Row> {
        let moved: Vec<&Attempt> =
            self.attempts.values().filter(|attempt| attempt.through > attempt.from).collect();
        let breaks = moved.iter().zip(moved.iter().skip(1));
        // Twice on the wire at most: what the sender handed over, though not all of it left.
        let twice: Vec<(u64, u64)> = breaks
            .map(|(one, next)| {
                (one.through.saturating_sub(next.from), one.through.saturating_sub(one.have))
            })
            .collect();
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let again: Vec<f64> = twice.iter().map(|(again, _)| mib(*again)).collect();
        let ok = twice.iter().all(|(again, under_way)| *again <= GOAL_BYTES.max(*under_way));
        let lost = moved.iter().zip(moved.iter().skip(1));
        let lost = lost.map(|(one, next)| one.have.saturating_sub(next.from)).max().unwrap_or(0);
        vec![
            Row::plain(format!("{name}: processes killed"), f64::from(kills), ""),
            Row::plain(format!("{name}: interruptions seen"), again.len() as f64, ""),
            Row::plain(format!("{name}: sent twice, median"), median(&again), "MiB"),
            Row {
                name: format!("{name}: sent twice, most"),
                value: again.iter().copied().fold(0.0, f64::max),
                unit: "MiB",
                goal: "≤ max(4 MiB, under way)".to_owned(),
                ok,
            },
            Row::plain(format!("{name}: received and not kept, most"), lost as f64 / 1024.0, "KiB"),
        ]
    }
}
