//! Transfers over a real connection: whole, resumed, refused, cut, too large, idle, wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use consilium_common::ids::Digest;
use consilium_common::limits::CHUNK_BYTES;
use consilium_common::random::Generator;
use consilium_common::time::Clock;
use consilium_common::wire::frame::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::disk::{Blobs, Durability};
use crate::net::testing::{Pair, pair};
use crate::net::{Carrier, FrameReader, FrameWriter, StreamKind};

const IDLE: Duration = Duration::from_secs(20);

fn blob(length: usize) -> (Digest, Bytes) {
    let mut random = Generator::new("transfer test", &length.to_le_bytes());
    let mut bytes: Vec<u8> =
        (0..length.div_ceil(4)).flat_map(|_| random.next_u32().to_le_bytes()).collect();
    bytes.truncate(length);
    (Digest::of(&bytes), bytes.into())
}

fn folder() -> (tempfile::TempDir, Blobs) {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&folder.path().join("blobs")).unwrap();
    (folder, blobs)
}

async fn incoming(carrier: &Arc<dyn Carrier>) -> Incoming {
    receive(carrier.accept().await.unwrap(), IDLE).await.unwrap()
}

async fn incoming_fetch(carrier: &Arc<dyn Carrier>) -> FetchRequest {
    let Incoming::Fetch(request) = incoming(carrier).await else { panic!("expected a fetch") };
    request
}

async fn incoming_push(carrier: &Arc<dyn Carrier>) -> PushRequest {
    let Incoming::Push(request) = incoming(carrier).await else { panic!("expected a push") };
    request
}

/// Serves `source` once; returns the bytes sent.
async fn serve(carrier: &Arc<dyn Carrier>, source: Source) -> Result<u64, TransferError> {
    let request = incoming_fetch(carrier).await;
    request.serve(&source, &mut Pace { idle: IDLE, progress: &mut |_| {} }).await
}

async fn fetch_quietly(
    carrier: &Arc<dyn Carrier>,
    sink: &mut dyn Sink,
) -> Result<u64, TransferError> {
    fetch(&**carrier, sink, &mut Pace { idle: IDLE, progress: &mut |_| {} }).await
}

async fn push_quietly(
    carrier: &Arc<dyn Carrier>,
    digest: Digest,
    source: Source,
) -> Result<u64, TransferError> {
    let pace = &mut Pace { idle: IDLE, progress: &mut |_| {} };
    push(&**carrier, digest, b"round 7", &source, pace).await
}

#[tokio::test]
async fn a_fetched_blob_is_whole_at_every_size_around_a_chunk() {
    let Pair { agent, coordinator, .. } = &pair().await;
    let (_keep, blobs) = folder();
    for length in [0, 1, 70_000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5_000_000] {
        let (digest, bytes) = blob(length);
        let mut sink =
            PartialSink::resume(&blobs, digest, length as u64, Durability::Cache).await.unwrap();
        let (fetched, served) = tokio::join!(
            fetch_quietly(agent, &mut sink),
            serve(coordinator, Source::Bytes(bytes.clone()))
        );
        assert_eq!((fetched.unwrap(), served.unwrap()), (length as u64, length as u64));
        assert_eq!(blobs.read_verified(digest, length as u64).unwrap(), bytes);
    }
    assert!(blobs.partials().unwrap().is_empty());
}

#[tokio::test]
async fn a_fetch_goes_on_at_its_offset_after_the_process_died() {
    let Pair { agent, coordinator, .. } = &pair().await;
    let (keep, blobs) = folder();
    let (digest, bytes) = blob(3_000_000);
    for have in [1, 1_000_000, 2_999_999, 3_000_000] {
        blobs.resume(digest, 3_000_000).unwrap().append(&bytes[..have]).unwrap();
        let blobs = Blobs::open(&keep.path().join("blobs")).unwrap();
        let mut sink =
            PartialSink::resume(&blobs, digest, 3_000_000, Durability::Cache).await.unwrap();
        let (fetched, sent) = tokio::join!(
            fetch_quietly(agent, &mut sink),
            serve(coordinator, Source::Bytes(bytes.clone()))
        );
        assert_eq!(fetched.unwrap(), 3_000_000);
        assert_eq!(sent.unwrap(), (3_000_000 - have) as u64, "nothing is sent twice");
        assert_eq!(blobs.read_verified(digest, 3_000_000).unwrap(), bytes);
        blobs.remove(digest).unwrap();
    }
}

/// Lets bytes go, or not, and remembers which were asked for.
struct Book {
    open: bool,
    asked: Vec<(u64, u64)>,
}

#[async_trait::async_trait]
impl Gate for Book {
    async fn pass(&mut self, offset: u64, bytes: u64) -> Result<(), String> {
        self.asked.push((offset, bytes));
        if self.open { Ok(()) } else { Err("the ledger is full".to_owned()) }
    }
}

#[tokio::test]
async fn a_gate_is_asked_for_the_bytes_that_are_to_go_and_holds_all_of_them_back() {
    let Pair { agent, coordinator, .. } = &pair().await;
    let (_keep, to) = folder();
    let (digest, bytes) = blob(3_000_000);
    to.resume(digest, 3_000_000).unwrap().append(&bytes[..1_000_000]).unwrap();
    for open in [false, true] {
        let taking = async {
            let request = incoming_push(coordinator).await;
            let resumed = PartialSink::resume(&to, digest, request.length, Durability::Lasting);
            let mut sink = resumed.await.unwrap();
            let mut arrived = 0;
            let pace = &mut Pace { idle: IDLE, progress: &mut |through| arrived = through };
            (request.take(&mut sink, pace).await.is_ok(), arrived)
        };
        let mut gate = Book { open, asked: Vec::new() };
        let pushing = async {
            let pace = &mut Pace { idle: IDLE, progress: &mut |_| {} };
            let source = Source::Bytes(bytes.clone());
            push_through(&**agent, digest, b"", &source, pace, &mut gate).await
        };
        let (sent, (stored, arrived)) = tokio::join!(pushing, taking);
        assert_eq!((stored, arrived), (open, if open { 3_000_000 } else { 0 }));
        match sent {
            Err(TransferError::Held(why)) => assert!(!open && why == "the ledger is full"),
            sent => assert_eq!(sent.unwrap(), 2_000_000),
        }
        assert_eq!(gate.asked, [(1_000_000, 2_000_000)]);
    }
    let mut gate = Book { open: false, asked: Vec::new() };
    let again = async { incoming_push(coordinator).await.already_stored().await.unwrap() };
    let pushing = async {
        let pace = &mut Pace { idle: IDLE, progress: &mut |_| {} };
        let source = Source::Bytes(bytes.clone());
        push_through(&**agent, digest, b"", &source, pace, &mut gate).await
    };
    let (sent, ()) = tokio::join!(pushing, again);
    assert_eq!((sent.unwrap(), gate.asked.len()), (0, 0), "nothing leaves, nobody is asked");
}

#[tokio::test]
async fn a_push_from_disk_is_stored_and_resumed_and_found_again() {
    let Pair { agent, coordinator, .. } = &pair().await;
    let ((_keep, from), (_keep_too, to)) = (folder(), folder());
    let (digest, bytes) = blob(4_000_000);
    from.put_bytes(&bytes, Durability::Cache).unwrap();
    let source = Source::blob(&from, digest).await.unwrap();
    to.resume(digest, 4_000_000).unwrap().append(&bytes[..1_500_000]).unwrap();

    let taking = async {
        let request = incoming_push(coordinator).await;
        assert_eq!((request.digest, request.length), (digest, 4_000_000));
        assert_eq!(request.context, b"round 7");
        let resumed = PartialSink::resume(&to, digest, request.length, Durability::Lasting);
        let mut sink = resumed.await.unwrap();
        let mut through = Vec::new();
        let pace = &mut Pace { idle: IDLE, progress: &mut |bytes| through.push(bytes) };
        request.take(&mut sink, pace).await.unwrap();
        through
    };
    let (sent, through) = tokio::join!(push_quietly(agent, digest, source.clone()), taking);
    assert_eq!(sent.unwrap(), 2_500_000);
    assert!(through.is_sorted() && through[0] > 1_500_000, "progress counts from the start");
    assert_eq!(through.last(), Some(&4_000_000));
    assert_eq!(to.read_verified(digest, 4_000_000).unwrap(), bytes);

    let again = async { incoming_push(coordinator).await.already_stored().await.unwrap() };
    let (sent, ()) = tokio::join!(push_quietly(agent, digest, source), again);
    assert_eq!(sent.unwrap(), 0);
}

/// Lets nothing go for two seconds and a half.
#[derive(Default)]
struct Slow {
    asked: AtomicU64,
    most: AtomicU64,
}

#[async_trait]
impl Gate for Slow {
    async fn pass(&mut self, _offset: u64, _bytes: u64) -> Result<(), String> {
        Ok(())
    }

    fn throttles(&self) -> bool {
        true
    }

    fn delay(&self, bytes: u64) -> Duration {
        self.most.fetch_max(bytes, Ordering::Relaxed);
        let first = self.asked.fetch_add(bytes, Ordering::Relaxed) == 0;
        Duration::from_millis(if first { 2_500 } else { 0 })
    }
}

#[tokio::test]
async fn a_throttled_push_asks_before_every_piece_and_a_wait_is_no_silence() {
    let Pair { agent, coordinator, .. } = &pair().await;
    let (_keep, to) = folder();
    let (digest, bytes) = blob(300_000);
    let mut slow = Slow::default();
    let taking = async {
        let request = incoming_push(coordinator).await;
        let mut sink =
            PartialSink::resume(&to, digest, request.length, Durability::Cache).await.unwrap();
        let pace = &mut Pace { idle: IDLE, progress: &mut |_| {} };
        request.take(&mut sink, pace).await.unwrap();
    };
    // Shorter than the wait.
    let pace = &mut Pace { idle: Duration::from_secs(2), progress: &mut |_| {} };
    let source = Source::Bytes(bytes.clone());
    let pushing = push_through(&**agent, digest, b"", &source, pace, &mut slow);
    let clock = crate::SystemClock::open();
    let (sent, ()) = tokio::join!(pushing, taking);
    assert_eq!(sent.unwrap(), 300_000);
    assert!(clock.now().0 >= 2_500, "it waited");
    assert_eq!(slow.asked.into_inner(), 300_000, "every byte was asked for once");
    assert!(slow.most.into_inner() <= 16 << 10, "in small pieces");
    assert_eq!(to.read_verified(digest, 300_000).unwrap(), bytes);
}

#[tokio::test]
async fn a_lost_connection_keeps_what_arrived_and_the_next_one_sends_the_rest() {
    let (_keep, blobs) = folder();
    let (digest, bytes) = blob(9_000_000);
    let first = pair().await;
    let arrived = AtomicU64::new(0);
    let mut sink = PartialSink::resume(&blobs, digest, 9_000_000, Durability::Cache).await.unwrap();
    let progress = &mut |through| {
        arrived.store(through, Ordering::Relaxed);
        if through > 4_000_000 {
            first.agent.close(0, "the cable");
        }
    };
    let pace = &mut Pace { idle: IDLE, progress };
    let (fetched, served) = tokio::join!(
        fetch(&*first.agent, &mut sink, pace),
        serve(&first.coordinator, Source::Bytes(bytes.clone()))
    );
    assert!(matches!(fetched, Err(TransferError::Stream(_))), "{fetched:?}");
    assert!(served.is_err());
    let arrived = arrived.into_inner();
    assert_eq!(sink.received(), arrived, "not a byte that arrived is lost");
    drop(sink);

    let Pair { agent, coordinator, .. } = &pair().await;
    let mut sink = PartialSink::resume(&blobs, digest, 9_000_000, Durability::Cache).await.unwrap();
    let (fetched, sent) =
        tokio::join!(fetch_quietly(agent, &mut sink), serve(coordinator, Source::Bytes(bytes)));
    assert_eq!((fetched.unwrap(), sent.unwrap()), (9_000_000, 9_000_000 - arrived));
}

#[tokio::test]
async fn refusals_arrive_with_their_code() {
    let Pair { agent, coordinator, .. } = &pair().await;
    let (digest, bytes) = blob(3_000_000);
    let refusal = Refusal::Code(Code::NotInRoster);

    let refusing = async { incoming_fetch(coordinator).await.refuse(Refusal::Missing).await };
    let mut sink = MemorySink::new(digest, 1 << 22);
    let (fetched, ()) = tokio::join!(fetch_quietly(agent, &mut sink), refusing);
    assert!(matches!(fetched, Err(TransferError::Refused(Refusal::Missing))), "{fetched:?}");

    let refusing = async { incoming_push(coordinator).await.refuse(refusal).await };
    let source = Source::Bytes(bytes);
    let (pushed, ()) = tokio::join!(push_quietly(agent, digest, source.clone()), refusing);
    assert!(matches!(pushed, Err(TransferError::Refused(r)) if r == refusal), "{pushed:?}");

    // The receiver expects less: the sender hears it before it has sent a byte.
    let taking = async {
        let mut small = MemorySink::new(digest, 2_999_999);
        let pace = &mut Pace { idle: IDLE, progress: &mut |_| {} };
        incoming_push(coordinator).await.take(&mut small, pace).await
    };
    let (pushed, taken) = tokio::join!(push_quietly(agent, digest, source), taking);
    assert!(matches!(taken, Err(TransferError::TooLarge { .. })), "{taken:?}");
    let told = Refusal::Code(Code::TooLarge);
    assert!(matches!(pushed, Err(TransferError::Refused(r)) if r == told), "{pushed:?}");
}

#[tokio::test]
async fn other_bytes_than_promised_are_not_kept_and_the_sender_is_told() {
    let Pair { agent, coordinator, .. } = &pair().await;
    let (_keep, blobs) = folder();
    let (digest, bytes) = blob(100_000);
    let mut wrong = bytes.to_vec();
    wrong[50_000] ^= 1;
    let wrong = Source::Bytes(wrong.into());

    let mut sink = MemorySink::new(digest, 1 << 20);
    let (fetched, _) =
        tokio::join!(fetch_quietly(agent, &mut sink), serve(coordinator, wrong.clone()));
    assert!(matches!(fetched, Err(TransferError::Blob(BlobError::Digest { .. }))), "{fetched:?}");
    assert!(sink.into_bytes().is_empty());

    let taking = async {
        let request = incoming_push(coordinator).await;
        let resumed = PartialSink::resume(&blobs, digest, request.length, Durability::Lasting);
        let pace = &mut Pace { idle: IDLE, progress: &mut |_| {} };
        request.take(&mut resumed.await.unwrap(), pace).await
    };
    let (pushed, taken) = tokio::join!(push_quietly(agent, digest, wrong), taking);
    assert!(matches!(taken, Err(TransferError::Blob(BlobError::Digest { .. }))), "{taken:?}");
    let told = Refusal::Code(Code::DigestMismatch);
    assert!(matches!(pushed, Err(TransferError::Refused(r)) if r == told), "{pushed:?}");
    assert!(!blobs.contains(digest) && blobs.partials().unwrap().is_empty());
}

#[tokio::test]
async fn a_partial_that_is_longer_than_the_blob_begins_again() {
    let Pair { agent, coordinator, .. } = &pair().await;
    let (_keep, blobs) = folder();
    let (digest, bytes) = blob(1000);
    blobs.resume(digest, 5000).unwrap().append(&[0; 2000]).unwrap();
    let mut sink = PartialSink::resume(&blobs, digest, 5000, Durability::Cache).await.unwrap();
    let serving = async {
        let source = Source::Bytes(bytes);
        assert_eq!(serve(coordinator, source.clone()).await.unwrap(), 0);
        serve(coordinator, source).await.unwrap()
    };
    let (fetched, sent) = tokio::join!(fetch_quietly(agent, &mut sink), serving);
    assert_eq!((fetched.unwrap(), sent), (1000, 1000));
    blobs.verify(digest).unwrap();
}

#[tokio::test]
async fn a_silent_peer_is_given_up_and_what_arrived_is_kept() {
    let Pair { agent, coordinator, .. } = &pair().await;
    let (_keep, blobs) = folder();
    let (digest, bytes) = blob(10_000);
    let silent = async {
        let mut stream = coordinator.accept().await.unwrap();
        stream.send.write_all(&[0, 0]).await.unwrap();
        stream.send.write_all(&10_000_u64.to_le_bytes()).await.unwrap();
        stream.send.write_all(&bytes[..4000]).await.unwrap();
        stream
    };
    let mut sink = PartialSink::resume(&blobs, digest, 10_000, Durability::Cache).await.unwrap();
    let pace = &mut Pace { idle: Duration::from_millis(100), progress: &mut |_| {} };
    let (fetched, _stream) = tokio::join!(fetch(&**agent, &mut sink, pace), silent);
    assert!(matches!(fetched, Err(TransferError::Idle(_))), "{fetched:?}");
    assert_eq!(blobs.partials().unwrap(), [(digest, 4000)]);
}

#[tokio::test]
async fn a_blob_that_ends_early_is_cut_and_says_where() {
    let Pair { agent, coordinator, .. } = &pair().await;
    let (digest, bytes) = blob(10_000);
    let cutting = async {
        let mut stream = coordinator.accept().await.unwrap();
        stream.send.write_all(&[0, 0]).await.unwrap();
        stream.send.write_all(&10_000_u64.to_le_bytes()).await.unwrap();
        stream.send.write_all(&bytes[..4000]).await.unwrap();
        stream.send.finish().await.unwrap();
    };
    let mut sink = MemorySink::new(digest, 10_000);
    let (fetched, ()) = tokio::join!(fetch_quietly(agent, &mut sink), cutting);
    let cut = matches!(fetched, Err(TransferError::Cut { have: 4000, length: 10_000 }));
    assert!(cut, "{fetched:?}");
    assert_eq!(sink.received(), 4000);
}

#[tokio::test]
async fn requests_that_are_none_are_answered_and_never_panic() {
    let Pair { agent, coordinator, .. } = &pair().await;
    let seed = std::env::var("CONSILIUM_SEED").unwrap_or_else(|_| "requests".to_owned());
    println!("CONSILIUM_SEED={seed}");
    let mut random = Generator::new("requests test", seed.as_bytes());
    for _ in 0..200 {
        let length = random.below(300) as usize;
        let mut bytes: Vec<u8> = (0..length).map(|_| random.next_u32().to_le_bytes()[0]).collect();
        if let Some(kind) = bytes.first_mut() {
            *kind %= 4;
        }
        let mut stream = agent.open(StreamKind::Blob).await.unwrap();
        stream.send.write_all(&bytes).await.unwrap();
        stream.send.finish().await.unwrap();
        let asked = receive(coordinator.accept().await.unwrap(), IDLE).await;
        if asked.is_err() {
            let mut answer = Vec::new();
            stream.recv.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer.len(), 10, "a refusal");
            assert_ne!(answer[..2], [0, 0]);
        }
    }
}

#[tokio::test]
async fn a_hostile_length_costs_no_memory() {
    let Pair { agent, coordinator, .. } = &pair().await;
    let (digest, _) = blob(0);
    let lying = async {
        let mut stream = coordinator.accept().await.unwrap();
        stream.send.write_all(&[0, 0]).await.unwrap();
        stream.send.write_all(&u64::MAX.to_le_bytes()).await.unwrap();
    };
    let mut sink = MemorySink::new(digest, 1 << 16);
    let (fetched, ()) = tokio::join!(fetch_quietly(agent, &mut sink), lying);
    let refused = matches!(fetched, Err(TransferError::TooLarge { length: u64::MAX, .. }));
    assert!(refused, "{fetched:?}");
}

#[tokio::test]
async fn a_small_blob_in_memory_takes_a_moment() {
    let Pair { agent, coordinator, .. } = &pair().await;
    let (digest, bytes) = blob(4000);
    let source = Source::Bytes(bytes);
    let clock = crate::SystemClock::open();
    let before = clock.now();
    for _ in 0..50 {
        let taking = async {
            let mut sink = MemorySink::new(digest, 1 << 16);
            let pace = &mut Pace { idle: IDLE, progress: &mut |_| {} };
            incoming_push(coordinator).await.take(&mut sink, pace).await.unwrap();
        };
        let (pushed, ()) = tokio::join!(push_quietly(agent, digest, source.clone()), taking);
        pushed.unwrap();
    }
    let took = clock.now().since(before);
    println!("50 pushes of 4,000 bytes: {} ms", took.0);
    assert!(took.0 < 50 * 20, "{took} for 50 pushes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_does_not_delay_a_heartbeat() {
    let Pair { agent, coordinator, .. } = &pair().await;
    let control = agent.open(StreamKind::Control).await.unwrap();
    let mut writer = FrameWriter::new(control.send);
    let mut reader = FrameReader::new(coordinator.accept().await.unwrap().recv);

    let (digest, bytes) = blob(64 << 20);
    let uploaded = AtomicU64::new(0);
    let started = tokio::sync::Notify::new();
    let taking = async {
        let request = incoming_push(coordinator).await;
        let mut sink = MemorySink::new(digest, request.length);
        let progress = &mut |through| {
            uploaded.store(through, Ordering::Relaxed);
            if through > 8 << 20 {
                started.notify_one();
            }
        };
        request.take(&mut sink, &mut Pace { idle: IDLE, progress }).await.unwrap();
    };
    let beating = async {
        started.notified().await;
        let heartbeat = Frame { kind: 2, flags: 0, body: vec![] };
        let before = uploaded.load(Ordering::Relaxed);
        writer.write(&heartbeat).await.unwrap();
        assert_eq!(reader.next().await.unwrap(), Some(heartbeat));
        uploaded.load(Ordering::Relaxed) - before
    };
    let source = Source::Bytes(bytes);
    let (pushed, (), passed) = tokio::join!(push_quietly(agent, digest, source), taking, beating);
    pushed.unwrap();
    println!("{passed} bytes of the blob arrived before the heartbeat");
    assert!(passed < 32 << 20, "{passed} bytes of the blob went first");
}
