//! Decoders never panic and never accept what was cut or padded, whatever the bytes.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use consilium_common::audit::{Checkpoint, Receipt, Record, RollCall};
use consilium_common::config;
use consilium_common::signed::Document;
use consilium_common::study::Study;
use consilium_common::update::sections::Header;
use consilium_common::wire::frame::{Decoder, Frame, FrameError};
use consilium_common::wire::messages::Message;
use consilium_common::worker;
use consilium_tests::samples::Samples;
use proptest::prelude::*;

fn frames() -> Vec<Vec<u8>> {
    let samples = Samples::new().unwrap();
    let messages = [samples.from_agent(), samples.from_coordinator()].concat();
    messages.iter().map(|message| message.to_frame().unwrap().encode()).collect()
}

/// Feeds bytes as a stream would and decodes what comes out; must return, whatever the bytes.
fn drain(bytes: &[u8]) -> usize {
    let (mut decoder, mut whole) = (Decoder::new(), 0);
    for piece in bytes.chunks(7) {
        decoder.feed(piece);
        while let Ok(Some(frame)) = decoder.next_frame() {
            let _ = Message::from_frame(&frame);
            whole += 1;
        }
    }
    whole
}

#[test]
fn a_frame_cut_anywhere_is_not_a_frame() {
    for bytes in frames() {
        for cut in 0..bytes.len() {
            let mut decoder = Decoder::new();
            decoder.feed(&bytes[..cut]);
            assert_eq!(decoder.next_frame(), Ok(None), "cut at {cut}");
            assert_eq!(decoder.finish(), if cut == 0 { Ok(()) } else { Err(FrameError::Cut) });
        }
    }
}

#[test]
fn a_body_cut_or_padded_anywhere_is_refused() {
    for bytes in frames() {
        let mut decoder = Decoder::new();
        decoder.feed(&bytes);
        let frame = decoder.next_frame().unwrap().unwrap();
        for cut in 0..frame.body.len() {
            let body = frame.body[..cut].to_vec();
            assert!(Message::from_frame(&Frame { body, ..frame.clone() }).is_err(), "cut {cut}");
        }
        let mut padded = frame.clone();
        padded.body.push(0);
        assert!(Message::from_frame(&padded).is_err(), "padded {}", frame.kind);
    }
}

#[test]
fn a_length_that_no_frame_has_is_refused_before_its_body_arrives() {
    for length in [0_u32, 3, (1 << 20) + 5, u32::MAX] {
        let mut decoder = Decoder::new();
        decoder.feed(&length.to_le_bytes());
        assert_eq!(decoder.next_frame(), Err(FrameError::Length(length)));
    }
}

#[test]
fn another_protocol_version_is_refused() {
    let mut bytes = frames()[0].clone();
    bytes[4] = 2;
    let mut decoder = Decoder::new();
    decoder.feed(&bytes);
    assert_eq!(decoder.next_frame(), Err(FrameError::Protocol(2)));
}

#[test]
fn an_unknown_kind_is_told_apart_from_a_broken_one() {
    let frame = Frame { kind: 60_000, flags: 0, body: vec![1, 2, 3] };
    assert_eq!(Message::from_frame(&frame), Ok(None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), kind in 0..300_u16) {
        drain(&bytes);
        let _ = Message::from_frame(&Frame { kind: kind % 132, flags: 0, body: bytes.clone() });
        let _ = Record::decode(kind % 12, &bytes);
        let _ = Header::decode(&bytes, bytes.len() as u64);
        let _ = Receipt::parse(&bytes);
        let _ = RollCall::parse(&bytes);
        let _ = Checkpoint::parse(&bytes);
        let _ = Study::parse(&bytes);
        let _ = worker::from_line::<worker::Reply>(&bytes);
        let _ = config::parse::<worker::Source>(&String::from_utf8_lossy(&bytes), "fuzz");
    }

    #[test]
    fn flipped_bits_never_panic(which in 0..17_usize, at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let frames = frames();
        let mut bytes = frames[which % frames.len()].clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        drain(&bytes);
    }

    #[test]
    fn a_giant_length_inside_a_body_allocates_nothing_giant(kind in 0..132_u16, fill in any::<u8>()) {
        // bincode's marker for a u64 length, then a hostile one.
        let mut body = vec![fill; 3];
        body.extend([253, 255, 255, 255, 255, 255, 255, 255, 127]);
        let roll_call = Message::from_frame(&Frame { kind: 72, flags: 0, body: body.clone() });
        prop_assert!(roll_call.is_err());
        let _ = Message::from_frame(&Frame { kind, flags: 0, body });
    }
}
