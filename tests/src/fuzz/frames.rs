//! Control frames, the messages in them, and operators' requests.

use consilium_common::enrol::Token;
use consilium_common::limits::FRAME_BODY_BYTES_MAX;
use consilium_common::wire::codec;
use consilium_common::wire::enrol::{Answer, Ask};
use consilium_common::wire::frame::{Decoder, Frame, FrameError};
use consilium_common::wire::messages::{Message, UpdateContext};
use consilium_common::wire::operator::{End, KIND_END, KIND_REQUEST, Request};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{documents, shown};
use crate::enrol_samples::EnrolSamples;
use crate::samples::Samples;

/// A stream gives the same frames in pieces of any size; they are its bytes, and decode or not.
pub(super) fn stream(bytes: &[u8]) {
    let (frames, end) = frames_of(bytes, bytes.len().max(1));
    assert_eq!(frames_of(bytes, 7), (frames.clone(), end.clone()), "other frames in pieces");
    let mut rest = bytes;
    for frame in &frames {
        rest = rest.strip_prefix(frame.encode().as_slice()).unwrap();
        read(frame);
    }
    match end {
        Ok(()) => assert!(rest.is_empty(), "{} bytes went missing", rest.len()),
        Err(error) => shown(&error, bytes),
    }
}

/// All whole frames, and how the stream ended.
pub(super) fn frames_of(bytes: &[u8], piece: usize) -> (Vec<Frame>, Result<(), FrameError>) {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        decoder.feed(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    (frames, decoder.finish())
}

/// A body under any kind: two bytes of kind, then the body.
pub(super) fn message(bytes: &[u8]) {
    if let Some((kind, body)) = bytes.split_first_chunk() {
        read(&Frame { kind: u16::from_le_bytes(*kind), flags: 0, body: body.to_vec() });
    }
}

fn read(frame: &Frame) {
    let message = match Message::from_frame(frame) {
        Ok(Some(message)) => message,
        Ok(None) => return,
        Err(error) => return shown(&error, &frame.body),
    };
    let again = message.to_frame().unwrap();
    assert_eq!(again.kind, frame.kind);
    assert!(again.body.len() <= frame.body.len(), "a longer encoding of {}", message.name());
    assert_eq!(Message::from_frame(&again).as_ref(), Ok(&Some(message.clone())));
    if let Message::Receipt(receipt) = &message {
        documents::signed(&receipt.signed);
    }
    if let Message::RollCall(roll_call) = &message {
        documents::signed(&roll_call.signed);
    }
}

/// What operators and sites that enrol ask, how it ends, and what a push is for: a byte says which, the
/// body follows.
pub(super) fn operator(bytes: &[u8]) {
    match bytes.split_first() {
        Some((0, body)) => match recoded::<Request>(body) {
            Some(Request::StudySubmit { signed }) => documents::signed(&signed),
            Some(Request::SiteApprove { signed }) => documents::signed(&signed),
            Some(Request::SiteRevoke { signed }) => documents::signed(&signed),
            _ => {}
        },
        Some((3, body)) => match recoded::<Ask>(body) {
            Some(Ask::Enrol { signed, .. }) => documents::signed(&signed),
            Some(Ask::Renew { signed }) => documents::signed(&signed),
            None => {}
        },
        Some((4, body)) => drop(recoded::<Answer>(body)),
        Some((5, body)) => {
            let text = String::from_utf8_lossy(body);
            match text.parse::<Token>() {
                Ok(token) => assert_eq!(token.to_string().parse(), Ok(token)),
                Err(error) => shown(&error, body),
            }
        }
        Some((1, body)) => drop(recoded::<End>(body)),
        Some((_, body)) => drop(recoded::<UpdateContext>(body)),
        None => {}
    }
}

/// Decodes a body and holds its encoding against it.
fn recoded<T>(body: &[u8]) -> Option<T>
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug,
{
    match codec::decode::<T>(body) {
        Ok(value) => {
            let again = codec::encode(&value).unwrap();
            assert!(again.len() <= body.len(), "a longer encoding of {value:?}");
            assert_eq!(codec::decode(&again).as_ref(), Ok(&value));
            Some(value)
        }
        Err(error) => {
            shown(&error, body);
            None
        }
    }
}

fn samples() -> Vec<Frame> {
    let samples = Samples::new().unwrap();
    let messages = [samples.from_agent(), samples.from_coordinator()].concat();
    messages.iter().map(|message| message.to_frame().unwrap()).collect()
}

/// Each sample alone, and all in one stream.
pub(super) fn streams() -> Vec<Vec<u8>> {
    let mut streams: Vec<Vec<u8>> = samples().iter().map(Frame::encode).collect();
    streams.push(streams.concat());
    streams
}

pub(super) fn messages() -> Vec<Vec<u8>> {
    let with_kind = |frame: &Frame| [&frame.kind.to_le_bytes(), frame.body.as_slice()].concat();
    let long = Frame { kind: 1, flags: 0, body: vec![0; FRAME_BODY_BYTES_MAX + 1] };
    samples().iter().chain([&long]).map(with_kind).collect()
}

pub(super) fn requests() -> Vec<Vec<u8>> {
    let samples = Samples::new().unwrap();
    let study = || "mnist".parse().unwrap();
    let asked = [
        Request::Status { study: Some(study()) },
        Request::StudySubmit { signed: documents::signed_study() },
        Request::StudyStart { study: study() },
        Request::StudyPause { study: study() },
        Request::StudyStop { study: study() },
        Request::StudyList,
        Request::StudyShow { study: study() },
        Request::ModelList { study: study() },
        Request::ModelShow { study: study(), version: Some(consilium_common::ids::Version(3)) },
        Request::Report { study: study() },
        Request::InitialOffer { signed: documents::signed_study() },
        Request::AuditExport,
        Request::StudyPlan { study: study() },
        Request::StudyRetrain { study: study(), from: consilium_common::ids::Version(2) },
        Request::StudyPropose { text: documents::signed_study().bytes },
        Request::StudyProposals,
        Request::StudyProposal { study: study(), by: "rosa".parse().ok() },
    ];
    let ends =
        [End::Done, End::Refused { message: "no".into() }, End::Failed { message: "x".into() }];
    let round = samples.receipt().round;
    let context = codec::encode(&UpdateContext { study: study(), round }).unwrap();
    let asked = asked.iter().map(|request| (0, codec::frame(KIND_REQUEST, request).unwrap().body));
    let ends = ends.iter().map(|end| (1, codec::frame(KIND_END, end).unwrap().body));
    let enrol = EnrolSamples::new().unwrap();
    let members = enrol.commands();
    let members =
        members.iter().map(|request| (0, codec::frame(KIND_REQUEST, request).unwrap().body));
    let (asks, answers) = (enrol.asks(), enrol.answers());
    let asks = asks.iter().map(|ask| (3, codec::encode(ask).unwrap()));
    let answers = answers.iter().map(|answer| (4, codec::encode(answer).unwrap()));
    let token = [(5, enrol.token().to_string().into_bytes())];
    let all = asked.chain(ends).chain([(2, context)]);
    let all = all.chain(members).chain(asks).chain(answers).chain(token);
    all.map(|(which, body)| [&[which], body.as_slice()].concat()).collect()
}
