//! The door: handshakes, identity from the certificate, role against protocol, membership from the
//! roster. Who may not come in is told the code, and both sides log it.

use std::sync::Arc;

use consilium_certs::identity::{Identity, Role};
use consilium_certs::tls::{self, Door};
use consilium_common::ids::SiteId;
use consilium_common::wire::messages::{Message, Refused};
use consilium_common::wire::reject::Code;
use consilium_io::net::{Carrier, FrameWriter, Handshake, QuicListener, StreamKind};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Server, agent_session, operator_session, sites};
use crate::limits::{GOODBYE_MAX, HELLO_WAIT_MAX, OPERATORS_MAX};

/// Accepts connections until `stop`; returns when the sessions are over.
pub async fn run(server: Arc<Server>, listener: &QuicListener, stop: CancellationToken) {
    let sessions = TaskTracker::new();
    let operators = Arc::new(Semaphore::new(OPERATORS_MAX));
    loop {
        let handshake = tokio::select! {
            () = stop.cancelled() => break,
            next = listener.accept() => next,
        };
        let Some(handshake) = handshake else { break };
        let (server, operators) = (Arc::clone(&server), Arc::clone(&operators));
        sessions.spawn(admit(server, handshake, operators, stop.clone()));
    }
    sessions.close();
    sessions.wait().await;
}

async fn admit(
    server: Arc<Server>,
    handshake: Handshake,
    operators: Arc<Semaphore>,
    stop: CancellationToken,
) {
    let address = handshake.remote_address();
    let carrier = tokio::select! {
        () = stop.cancelled() => return,
        finished = handshake.finish() => match finished {
            Ok(carrier) => carrier,
            Err(error) => return tracing::warn!(peer = %address, "no connection: {error}"),
        },
    };
    let alpn = carrier.alpn();
    let chain = carrier.peer_certificates();
    let known = tls::peer_identity(Some(&chain))
        .and_then(|identity| Ok((tls::admit(&identity, Some(&alpn))?, identity)));
    let (door, identity) = match known {
        Ok(known) => known,
        Err(error) => {
            let name = tls::peer_identity(Some(&chain))
                .map_or_else(|_| address.to_string(), |identity| identity.to_string());
            return refuse(&server, &*carrier, name, Code::WrongRole, &error.to_string()).await;
        }
    };
    match (door, identity.role.clone()) {
        (Door::Agent, Role::Site(site)) => agent(&server, carrier, &identity, site, stop).await,
        _ => {
            let Ok(_place) = operators.try_acquire() else {
                let name = identity.to_string();
                let detail = format!("{OPERATORS_MAX} operators are connected: try again later");
                return refuse(&server, &*carrier, name, Code::Busy, &detail).await;
            };
            operator_session::run(server, carrier, identity, stop).await;
        }
    }
}

async fn agent(
    server: &Arc<Server>,
    carrier: Arc<dyn Carrier>,
    identity: &Identity,
    site: SiteId,
    stop: CancellationToken,
) {
    if server.roster.contains(&site) {
        return agent_session::run(Arc::clone(server), carrier, site, stop).await;
    }
    let detail = format!(
        "site {site} is not in roster version {}: have the operators sign one that has it, and \
         restart the coordinator with it",
        server.roster.version()
    );
    let name = identity.to_string();
    refuse(server, &*carrier, name, Code::NotInRoster, &detail).await;
}

/// Tells a peer why it may not come in: on its control stream if it opens one, and as the reason of
/// the connection's end.
pub(super) async fn refuse(
    server: &Server,
    carrier: &dyn Carrier,
    peer: String,
    code: Code,
    detail: &str,
) {
    server.refusals.note(&*server.store, peer, code, detail).await;
    let goodbye = async {
        let stream = carrier.accept().await.ok()?;
        if stream.kind != StreamKind::Control {
            return None;
        }
        let refused = Message::from(Refused { code, detail: detail.to_owned() });
        say_refused(carrier, &mut FrameWriter::new(stream.send), &refused).await;
        Some(())
    };
    let told = timeout(HELLO_WAIT_MAX.min(GOODBYE_MAX), goodbye).await;
    tracing::debug!(?told, "a refused peer's control stream");
    sites::close(carrier, code, detail);
}

/// Sends the refusal and gives the peer a moment to read it.
pub(super) async fn say_refused(
    carrier: &dyn Carrier,
    writer: &mut FrameWriter,
    refused: &Message,
) {
    let said = async {
        let frame = refused.to_frame().ok()?;
        writer.write(&frame).await.ok()?;
        writer.finish().await.ok()?;
        carrier.closed().await;
        Some(())
    };
    let said = timeout(GOODBYE_MAX, said).await;
    tracing::debug!(?said, "a refusal on the control stream");
}
