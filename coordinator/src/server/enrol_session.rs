//! A site without a certificate, or with one that has run out: one question, one answer. Nobody is
//! known here but by what they say: the secret of a token, the signature of a site key.

use consilium_common::enrol::Fingerprint;
use consilium_common::wire::codec;
use consilium_common::wire::enrol::{Answer, Ask, Grant, KIND_ANSWER, KIND_ASK};
use consilium_common::wire::reject::Code;
use consilium_io::net::{Carrier, FrameReader, FrameWriter, Stream, StreamKind};
use tokio::time::timeout;

use super::{Server, sites};
use crate::limits::{GOODBYE_MAX, HELLO_WAIT_MAX};
use crate::membership::MembershipError;

/// Hears the question, answers it, and ends the connection.
pub(super) async fn run(server: &Server, carrier: &dyn Carrier) {
    let conversed = timeout(HELLO_WAIT_MAX, converse(server, carrier)).await;
    if conversed != Ok(Some(())) {
        let (peer, code) = (carrier.remote_address(), Code::Unexpected);
        let what = "no question that is known here";
        tracing::warn!(%peer, %code, "at the door of those who enrol: {what}");
        server.sites.guard().failed_handshake(peer.ip());
        return sites::close(carrier, code, what);
    }
    // The site closes once it has read the answer.
    let closed = timeout(GOODBYE_MAX, carrier.closed()).await;
    tracing::debug!(?closed, "a site that enrols");
}

async fn converse(server: &Server, carrier: &dyn Carrier) -> Option<()> {
    let Stream { kind, recv, send } = carrier.accept().await.ok()?;
    if kind != StreamKind::Request {
        return None;
    }
    let frame = FrameReader::new(recv).next().await.ok()??;
    let ask = match frame.kind {
        KIND_ASK => codec::decode(&frame.body).ok()?,
        _ => return None,
    };
    let answer = answer(server, carrier, ask).await;
    let mut writer = FrameWriter::new(send);
    writer.write(&codec::frame(KIND_ANSWER, &answer).ok()?).await.ok()?;
    writer.finish().await.ok()
}

async fn answer(server: &Server, carrier: &dyn Carrier, ask: Ask) -> Answer {
    let address = carrier.remote_address();
    let answered = match &ask {
        Ask::Enrol { secret, signed } => {
            let fingerprint = Fingerprint::of(signed.digest());
            server.membership.ask(secret, signed).await.map(|chain| match chain {
                None => Answer::Waiting { fingerprint },
                Some(chain) => Answer::Granted(Grant {
                    chain,
                    root: server.root.clone(),
                    consortium: server.consortium_text.clone(),
                }),
            })
        }
        Ask::Renew { signed } => {
            server.membership.renew(signed).await.map(|chain| Answer::Renewed { chain })
        }
    };
    match answered {
        Ok(answer) => answer,
        Err(error) => {
            let code = code_of(&error);
            tracing::warn!(peer = %address, %code, "not enrolled: {error}");
            if error.is_refusal() {
                server.sites.guard().failed_handshake(address.ip());
                let peer = address.ip().to_string();
                server.refusals.note(&*server.store, peer, code, &error.to_string()).await;
            }
            Answer::Refused { message: error.to_string() }
        }
    }
}

fn code_of(error: &MembershipError) -> Code {
    match error {
        MembershipError::Refused(error) => error.code(),
        MembershipError::Authority(_) => Code::NotEnrolled,
        MembershipError::Store(_) => Code::CoordinatorFault,
    }
}
