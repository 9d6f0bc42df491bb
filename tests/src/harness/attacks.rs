//! What a hostile site does, by name. Each attack goes on until the coordinator ends the connection.

use std::time::Duration;

use consilium_common::ids::{Digest, Round};
use consilium_common::limits::GRID_MAX;
use consilium_common::time::WallMillis;
use consilium_common::wire::frame::{FLAG_MUST_KNOW, Frame};
use consilium_common::wire::messages::{Heartbeat, Message, Receipt, UpdateOffer};
use consilium_common::wire::reject::Code;
use consilium_io::net::{Closed, StreamKind};
use tokio::io::AsyncWriteExt;

use super::hostile::{Hostile, Peer, before, context, hello, push_head, unreachable};

/// Connections that trickle a Hello at once: as many as count as faults, and the one too many.
const SLOW_HELLOS: usize = 3;

/// An attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// A Hello at one byte a second.
    SlowHello,
    /// A frame that claims 4 GiB.
    GiantFrame,
    /// A frame whose body is not that of its kind.
    GarbageBody,
    /// A kind that must be known and is not.
    UnknownKind,
    /// One more control stream.
    SecondControlStream,
    /// A push that claims 2^64 bytes.
    GiantPush,
    /// A push whose context cannot be read.
    GarbageContext,
    /// Messages without end.
    MessageFlood,
    /// Streams without end, each broken off.
    StreamFlood,
    /// Updates of a round that never was, offered without end.
    OldOffers,
    /// Connections without end.
    Reconnects,
    /// The base of a round, fetched without end.
    FetchFlood,
    /// An update with a number outside the grid: what a NaN or an infinity is on the wire.
    OutOfGrid,
    /// An update far over the clip bound.
    HugeNorm,
    /// An update of another size.
    WrongShape,
    /// An update of an earlier round, offered as one of this.
    ReplayedRound,
    /// Bytes that are not those of the digest they were offered under.
    WrongDigest,
    /// Updates without end, each pushed by half.
    OfferFlood,
    /// Another update after one that was receipted.
    Equivocation,
}

impl Attack {
    /// Those that need no round.
    pub const ON_THE_PROTOCOL: [Self; 10] = [
        Self::GiantFrame,
        Self::GarbageBody,
        Self::UnknownKind,
        Self::SecondControlStream,
        Self::GiantPush,
        Self::GarbageContext,
        Self::MessageFlood,
        Self::StreamFlood,
        Self::OldOffers,
        Self::Reconnects,
    ];
    /// Those of a site that takes part.
    pub const ON_THE_ROUND: [Self; 8] = [
        Self::FetchFlood,
        Self::OutOfGrid,
        Self::HugeNorm,
        Self::WrongShape,
        Self::ReplayedRound,
        Self::WrongDigest,
        Self::OfferFlood,
        Self::Equivocation,
    ];

    /// What the site is put out for.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::SlowHello | Self::SecondControlStream => Code::Unexpected,
            Self::GiantFrame | Self::GarbageBody | Self::GarbageContext => Code::Malformed,
            Self::UnknownKind => Code::UnknownKind,
            Self::GiantPush => Code::TooLarge,
            Self::MessageFlood
            | Self::StreamFlood
            | Self::OldOffers
            | Self::Reconnects
            | Self::FetchFlood
            | Self::OfferFlood => Code::Flood,
            Self::OutOfGrid => Code::OutOfGrid,
            Self::HugeNorm => Code::NormTooLarge,
            Self::WrongShape => Code::WrongShape,
            Self::ReplayedRound => Code::WrongRound,
            Self::WrongDigest => Code::DigestMismatch,
            Self::Equivocation => Code::Equivocation,
        }
    }

    /// Attacks until the connection is ended; how it was.
    pub async fn run(self, hostile: &Hostile) -> Closed {
        if self == Self::SlowHello {
            return slow_hello(hostile).await;
        }
        if self == Self::Reconnects {
            return reconnects(hostile).await;
        }
        let mut peer = match hostile.join().await {
            Ok(peer) => peer,
            Err(closed) => return closed,
        };
        match self {
            Self::GiantFrame => drop(peer.say_bytes(&u32::MAX.to_le_bytes()).await),
            Self::GarbageBody => {
                let frame = Frame { kind: 3, flags: FLAG_MUST_KNOW, body: vec![0xfd; 64] };
                peer.say_bytes(&frame.encode()).await;
            }
            Self::UnknownKind => {
                let frame = Frame { kind: 60_000, flags: FLAG_MUST_KNOW, body: Vec::new() };
                peer.say_bytes(&frame.encode()).await;
            }
            Self::SecondControlStream => {
                let opened = peer.carrier.open(StreamKind::Control).await;
                let _closed = peer.closed().await;
                drop(opened);
            }
            Self::GiantPush => push_bytes(&peer, &push_head(digest(1), u64::MAX, b"")).await,
            Self::GarbageContext => push_bytes(&peer, &push_head(digest(1), 9, &[0xff; 99])).await,
            Self::MessageFlood => message_flood(&mut peer).await,
            Self::StreamFlood => stream_flood(&peer).await,
            Self::OldOffers => old_offers(&mut peer).await,
            Self::FetchFlood => fetch_flood(&mut peer).await,
            Self::WrongDigest => wrong_digest(&mut peer, hostile).await,
            Self::OfferFlood => offer_flood(&mut peer, hostile).await,
            Self::Equivocation => equivocation(&mut peer, hostile).await,
            Self::OutOfGrid
            | Self::HugeNorm
            | Self::WrongShape
            | Self::ReplayedRound
            | Self::SlowHello
            | Self::Reconnects => bad_update(self, &mut peer, hostile).await,
        }
        peer.closed().await
    }
}

fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

/// The units of a site that has learnt nothing.
fn zeros(hostile: &Hostile) -> Vec<i32> {
    vec![0; hostile.study.layout().unwrap().weights_len()]
}

/// A byte a second of Hello, on some connections at once.
async fn slow_hello(hostile: &Hostile) -> Closed {
    let bytes = Message::from(hello()).to_frame().unwrap().encode();
    let mut trickles = tokio::task::JoinSet::new();
    for _ in 0..SLOW_HELLOS {
        let mut peer = match hostile.dial().await {
            Ok(peer) => peer,
            Err(error) => return unreachable(&error),
        };
        let bytes = bytes.clone();
        trickles.spawn(async move {
            for byte in bytes {
                if !peer.say_bytes(&[byte]).await {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            peer.closed().await
        });
    }
    let quarantined = u32::from(Code::Quarantined as u16);
    let ends = trickles.join_all().await;
    let end = ends.iter().find(|end| end.code == quarantined).or_else(|| ends.first());
    end.cloned().unwrap()
}

/// Connects, says Hello, goes, and comes again; until it is refused.
async fn reconnects(hostile: &Hostile) -> Closed {
    loop {
        match hostile.join().await {
            Ok(peer) => peer.carrier.close(0, "and again"),
            Err(closed) => return closed,
        }
    }
}

/// Whatever bytes on a blob stream, held open.
async fn push_bytes(peer: &Peer, bytes: &[u8]) {
    let mut stream = peer.carrier.open(StreamKind::Blob).await.unwrap();
    let _ended = stream.send.write_all(bytes).await;
    let _closed = peer.closed().await;
}

/// Heartbeats as fast as they go.
async fn message_flood(peer: &mut Peer) {
    let frame = Message::from(Heartbeat { wall: WallMillis(1) }).to_frame().unwrap();
    let thousand = frame.encode().repeat(1_000);
    while peer.say_bytes(&thousand).await {}
}

/// Streams that are opened and reset.
async fn stream_flood(peer: &Peer) {
    while let Ok(mut stream) = peer.carrier.open(StreamKind::Blob).await {
        stream.send.reset(0);
    }
}

/// An update of a round that never was, offered without end.
async fn old_offers(peer: &mut Peer) {
    let study = peer.offered().await.study;
    let offer = UpdateOffer { study, round: Round(0), digest: digest(1), bytes: 1 };
    while peer.say(offer.clone()).await {}
}

/// The base of its round, without end.
async fn fetch_flood(peer: &mut Peer) {
    let plan = peer.invited().await;
    while !is_closed(peer).await {
        let _refused = peer.fetch(plan.base).await;
    }
}

async fn is_closed(peer: &Peer) -> bool {
    tokio::time::timeout(Duration::ZERO, peer.carrier.closed()).await.is_ok()
}

/// An update that breaks one rule.
#[expect(clippy::wildcard_enum_match_arm, reason = "the attacks that are made elsewhere")]
async fn bad_update(attack: Attack, peer: &mut Peer, hostile: &Hostile) {
    let plan = peer.invited().await;
    let mut units = zeros(hostile);
    let length = units.len();
    match attack {
        Attack::OutOfGrid => units[length / 2] = i32::MIN,
        Attack::HugeNorm => units.fill(GRID_MAX),
        Attack::WrongShape => units.truncate(length / 2),
        _ => {}
    }
    let replayed = attack == Attack::ReplayedRound;
    let bytes = hostile.update(&plan, (units, 1), |header| {
        if replayed {
            header.round = before(plan.round);
        }
    });
    let name = Digest::of(&bytes);
    if peer.offer(&plan, name, bytes.len()).await {
        let _refused = peer.push(&plan, name, bytes).await;
    }
}

/// Bytes that are not those of the digest, again and again.
async fn wrong_digest(peer: &mut Peer, hostile: &Hostile) {
    let plan = peer.invited().await;
    let bytes = hostile.update(&plan, (zeros(hostile), 1), |_| {});
    if peer.offer(&plan, digest(9), bytes.len()).await {
        while !is_closed(peer).await {
            let _refused = peer.push(&plan, digest(9), bytes.clone()).await;
        }
    }
}

/// One update after the other, each pushed by half.
async fn offer_flood(peer: &mut Peer, hostile: &Hostile) {
    let plan = peer.invited().await;
    let bytes = hostile.update(&plan, (zeros(hostile), 1), |_| {});
    for n in 0..=u8::MAX {
        if !peer.offer(&plan, digest(n), bytes.len()).await {
            return;
        }
        let Ok(mut stream) = peer.carrier.open(StreamKind::Blob).await else { return };
        let head = push_head(digest(n), bytes.len() as u64, &context(&plan));
        let half = [&head, &bytes[..bytes.len() / 2]].concat();
        let _ended = stream.send.write_all(&half).await;
        let _ended = stream.send.finish().await;
    }
}

/// An honest update, and once it is receipted another of the same round.
async fn equivocation(peer: &mut Peer, hostile: &Hostile) {
    let plan = peer.invited().await;
    let base = peer.base(&plan, &hostile.study).await;
    let (mut units, weight) = (hostile.train)(&plan, base);
    let honest = hostile.update(&plan, (units.clone(), weight), |_| {});
    let name = Digest::of(&honest);
    assert!(peer.offer(&plan, name, honest.len()).await, "an honest update is wanted");
    peer.push(&plan, name, honest).await.unwrap();
    let receipted = |message| matches!(message, Message::Receipt(Receipt { .. })).then_some(());
    peer.hear_until(receipted).await.expect("and receipted");
    units[0] ^= 1;
    let other = hostile.update(&plan, (units, weight), |_| {});
    peer.offer(&plan, Digest::of(&other), other.len()).await;
}
