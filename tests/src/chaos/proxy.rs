//! A user-space UDP proxy between one agent and the coordinator that does to datagrams what networks
//! do: loss, duplication, delay, reordering, an MTU black hole, a partition, and a NAT that forgets
//! its mapping.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use consilium_common::random::Generator;

/// Datagrams under way, at most: beyond them the network drops, as a router's full queue does.
const UNDER_WAY_MAX: usize = 100_000;
/// The largest datagram of UDP.
const DATAGRAM_BYTES_MAX: usize = 65_535;
/// How long a socket waits before its thread looks whether the proxy still runs.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What the network does, the same in both directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weather {
    /// Part of the datagrams that are lost, 0 to 1.
    pub loss: f64,
    /// Part that arrives twice.
    pub duplicate: f64,
    /// Part that is overtaken: it takes twice the delay and a bit more.
    pub reorder: f64,
    /// One way.
    pub delay: Duration,
    /// Datagrams larger than this vanish without a word.
    pub mtu: usize,
    /// Nothing passes.
    pub partition: bool,
}

impl Weather {
    /// Everything passes at once.
    pub const CALM: Self = Self {
        loss: 0.0,
        duplicate: 0.0,
        reorder: 0.0,
        delay: Duration::ZERO,
        mtu: DATAGRAM_BYTES_MAX,
        partition: false,
    };
}

/// What became of datagrams.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Sent on, duplicates included.
    pub passed: u64,
    /// Lost by chance, by a partition or by a full queue.
    pub lost: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Overtaken.
    pub reordered: u64,
    /// Larger than the MTU.
    pub too_large: u64,
    /// Mappings that the NAT forgot.
    pub rebound: u64,
}

impl Tally {
    /// Takes another's figures in.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.too_large += other.too_large;
        self.rebound += other.rebound;
    }
}

/// A datagram that waits for its time: when, in which order, where to, and its bytes.
type Waiting = Reverse<(Instant, u64, Direction, Vec<u8>)>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    Up,
    Down,
}

#[derive(Debug)]
struct Inner {
    weather: Weather,
    tally: Tally,
    generator: Generator,
    waiting: BinaryHeap<Waiting>,
    order: u64,
    /// Where the agent's packets came from last: answers go there.
    agent: Option<SocketAddr>,
    /// What came in since somebody asked for it, both ways.
    record: Option<Vec<u8>>,
    /// Towards the coordinator. Another one is another port, as after a NAT's lapse.
    upstream: Arc<UdpSocket>,
    stopped: bool,
}

#[derive(Debug)]
struct Shared {
    downstream: UdpSocket,
    coordinator: SocketAddr,
    inner: Mutex<Inner>,
    due: std::sync::Condvar,
}

/// A running proxy; stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// The seed of a site's network.
#[must_use]
pub(super) fn network_seed(seed: u64, site: usize) -> u64 {
    seed.wrapping_mul(1 << 10).wrapping_add(site as u64)
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(LOOK_EVERY)).unwrap();
    socket
}

impl Proxy {
    /// A proxy on a free port of loopback before `coordinator`. Its chances follow from `seed`.
    #[must_use]
    pub fn start(coordinator: SocketAddr, seed: u64) -> Self {
        let inner = Inner {
            weather: Weather::CALM,
            tally: Tally::default(),
            generator: Generator::new("tests/proxy", &seed.to_le_bytes()),
            waiting: BinaryHeap::new(),
            order: 0,
            agent: None,
            record: None,
            upstream: Arc::new(socket()),
            stopped: false,
        };
        let shared = Arc::new(Shared {
            downstream: socket(),
            coordinator,
            inner: Mutex::new(inner),
            due: std::sync::Condvar::new(),
        });
        let run = |work: fn(&Shared)| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || work(&shared))
        };
        let threads = vec![
            run(Shared::take_from_agent),
            run(Shared::take_from_coordinator),
            run(Shared::deliver),
        ];
        Self { shared, threads }
    }

    /// Where the agent is to connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.downstream.local_addr().unwrap()
    }

    /// Changes the weather from the next datagram on; what is under way arrives.
    pub fn set(&self, weather: Weather) {
        self.shared.inner().weather = weather;
    }

    /// The NAT forgets: the coordinator sees the agent's next packets come from another port, and
    /// what it sends to the old one is lost.
    pub fn rebind(&self) {
        let mut inner = self.shared.inner();
        inner.upstream = Arc::new(socket());
        inner.tally.rebound += 1;
    }

    /// Keeps all bytes from here on, as whoever listens on the wire would.
    pub fn record(&self) {
        self.shared.inner().record = Some(Vec::new());
    }

    /// The bytes that were kept, both ways.
    #[must_use]
    pub fn recorded(&self) -> Vec<u8> {
        self.shared.inner().record.clone().unwrap_or_default()
    }

    /// What became of the datagrams so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.shared.inner().tally
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.inner().stopped = true;
        self.shared.due.notify_all();
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ended = thread.join();
        }
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_from_agent(&self) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        while !self.inner().stopped {
            if let Some((bytes, agent)) = receive(&self.downstream, &mut buffer) {
                let mut inner = self.inner();
                inner.agent = Some(agent);
                inner.take(Direction::Up, bytes);
                self.due.notify_one();
            }
        }
    }

    fn take_from_coordinator(&self) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let upstream = {
                let inner = self.inner();
                if inner.stopped {
                    return;
                }
                Arc::clone(&inner.upstream)
            };
            if let Some((bytes, _)) = receive(&upstream, &mut buffer) {
                let mut inner = self.inner();
                if Arc::ptr_eq(&inner.upstream, &upstream) {
                    inner.take(Direction::Down, bytes);
                    self.due.notify_one();
                }
            }
        }
    }

    /// Sends each datagram when its time has come.
    fn deliver(&self) {
        let mut inner = self.inner();
        while !inner.stopped {
            #[expect(clippy::disallowed_methods, reason = "a network in real time")]
            let now = Instant::now();
            let wait = match inner.waiting.peek() {
                Some(Reverse((due, ..))) if *due <= now => {
                    let Some(Reverse((_, _, direction, bytes))) = inner.waiting.pop() else {
                        continue;
                    };
                    let (agent, upstream) = (inner.agent, Arc::clone(&inner.upstream));
                    inner.tally.passed += 1;
                    drop(inner);
                    self.send(direction, &bytes, agent, &upstream);
                    inner = self.inner();
                    continue;
                }
                Some(Reverse((due, ..))) => due.duration_since(now),
                None => LOOK_EVERY,
            };
            let waited = self.due.wait_timeout(inner, wait.min(LOOK_EVERY));
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A datagram that cannot be sent (nobody listens there now) is lost, as on any network.
    fn send(
        &self,
        direction: Direction,
        bytes: &[u8],
        agent: Option<SocketAddr>,
        upstream: &UdpSocket,
    ) {
        let _lost = match (direction, agent) {
            (Direction::Up, _) => upstream.send_to(bytes, self.coordinator),
            (Direction::Down, Some(agent)) => self.downstream.send_to(bytes, agent),
            (Direction::Down, None) => Ok(0),
        };
    }
}

impl Inner {
    fn take(&mut self, direction: Direction, bytes: &[u8]) {
        if let Some(record) = &mut self.record {
            record.extend(bytes);
        }
        let Weather { loss, duplicate, reorder, delay, mtu, partition } = self.weather;
        if bytes.len() > mtu {
            self.tally.too_large += 1;
            return;
        }
        if partition || self.generator.unit() < loss || self.waiting.len() >= UNDER_WAY_MAX {
            self.tally.lost += 1;
            return;
        }
        let overtaken = self.generator.unit() < reorder;
        let later = if overtaken { delay + Duration::from_millis(3) } else { Duration::ZERO };
        self.tally.reordered += u64::from(overtaken);
        self.post(direction, bytes, delay + later);
        if self.generator.unit() < duplicate {
            self.tally.duplicated += 1;
            self.post(direction, bytes, delay + later);
        }
    }

    fn post(&mut self, direction: Direction, bytes: &[u8], delay: Duration) {
        self.order += 1;
        #[expect(clippy::disallowed_methods, reason = "a network in real time")]
        let due = Instant::now() + delay;
        self.waiting.push(Reverse((due, self.order, direction, bytes.to_vec())));
    }
}

/// The next datagram; `None` if none came for a moment, or its sender was told that nobody listens.
fn receive<'a>(socket: &UdpSocket, buffer: &'a mut [u8]) -> Option<(&'a [u8], SocketAddr)> {
    match socket.recv_from(buffer) {
        Ok((length, from)) => Some((buffer.get(..length)?, from)),
        Err(error) if is_passing(&error) => None,
        Err(error) => panic!("the proxy's socket: {error}"),
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock
            | ErrorKind::TimedOut
            | ErrorKind::Interrupted
            | ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Wire {
        agent: UdpSocket,
        coordinator: UdpSocket,
        proxy: Proxy,
    }

    fn wire(weather: Weather) -> Wire {
        let coordinator = socket();
        let proxy = Proxy::start(coordinator.local_addr().unwrap(), 7);
        proxy.set(weather);
        Wire { agent: socket(), coordinator, proxy }
    }

    impl Wire {
        /// Sends numbered datagrams one way; those that came, and where the last came from.
        fn up(&self, count: u8) -> (Vec<u8>, Option<SocketAddr>) {
            for number in 0..count {
                self.agent.send_to(&[number; 100], self.proxy.address()).unwrap();
                thread::park_timeout(Duration::from_micros(200));
            }
            let (mut buffer, mut seen, mut source) = ([0; 200], Vec::new(), None);
            while let Ok((_, from)) = self.coordinator.recv_from(&mut buffer) {
                seen.push(buffer[0]);
                source = Some(from);
            }
            (seen, source)
        }
    }

    #[test]
    fn in_calm_weather_all_pass_in_order_and_answers_come_back() {
        let wire = wire(Weather::CALM);
        let (seen, source) = wire.up(100);
        assert_eq!(seen, (0..100).collect::<Vec<u8>>());
        wire.coordinator.send_to(b"answer", source.unwrap()).unwrap();
        let mut buffer = [0; 16];
        let (length, from) = wire.agent.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"answer"[..], wire.proxy.address()));
    }

    #[test]
    fn each_kind_of_weather_does_what_it_says_and_is_counted() {
        let some = wire(Weather { loss: 0.3, ..Weather::CALM });
        let lost = 200 - some.up(200).0.len() as u64;
        assert!((30..100).contains(&lost) && some.proxy.tally().lost == lost, "{lost}");

        let twice = wire(Weather { duplicate: 1.0, ..Weather::CALM });
        assert_eq!(twice.up(50).0.len(), 100);

        let mixed = wire(Weather { reorder: 0.3, ..Weather::CALM });
        let seen = mixed.up(100).0;
        assert!(seen.len() == 100 && !seen.is_sorted(), "{seen:?}");

        let narrow = wire(Weather { mtu: 99, ..Weather::CALM });
        assert!(narrow.up(10).0.is_empty());
        assert_eq!(narrow.proxy.tally().too_large, 10);

        let none = wire(Weather { partition: true, ..Weather::CALM });
        assert!(none.up(10).0.is_empty());
    }

    #[test]
    fn a_nat_that_forgets_shows_another_port() {
        let wire = wire(Weather::CALM);
        let (_, before) = wire.up(1);
        wire.proxy.rebind();
        let (_, after) = wire.up(1);
        assert_ne!(before.unwrap(), after.unwrap());
    }
}
