//! The door: handshakes, identity from the certificate, role against protocol, membership from the
//! roster. Who may not come in is told the code, and both sides log it.

use std::sync::Arc;

use consilium_certs::identity::{Identity, Role};
use consilium_certs::tls::{self, Door};
use consilium_common::ids::SiteId;
use consilium_common::wire::messages::{Message, Refused};
use consilium_common::wire::reject::Code;
use consilium_io::net::{Carrier, ConnectError, FrameWriter, Handshake, QuicListener, StreamKind};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::broken::Broken;
use super::{Server, agent_session, enrol_session, expiry, operator_session, sites};
use crate::conduct::{Deed, Term};
use crate::limits::{
    ENROLLING_MAX, GOODBYE_MAX, HELLO_WAIT_MAX, OPERATOR_CONNECTIONS_MAX, OPERATORS_MAX,
};

/// Accepts connections until `stop`; returns when the sessions are over.
pub async fn run(server: Arc<Server>, listener: &QuicListener, stop: CancellationToken) {
    let sessions = TaskTracker::new();
    let operators = Arc::new(Semaphore::new(OPERATORS_MAX));
    let enrolling = Arc::new(Semaphore::new(ENROLLING_MAX));
    loop {
        let handshake = tokio::select! {
            () = stop.cancelled() => break,
            next = listener.accept_past(&**server.sites.guard()) => next,
        };
        let Some(handshake) = handshake else { break };
        let (operators, enrolling) = (Arc::clone(&operators), Arc::clone(&enrolling));
        let places = Places { operators, enrolling };
        sessions.spawn(admit(Arc::clone(&server), handshake, places, stop.clone()));
    }
    sessions.close();
    sessions.wait().await;
}

/// How many of those who are no sites are served at once.
struct Places {
    operators: Arc<Semaphore>,
    enrolling: Arc<Semaphore>,
}

async fn admit(
    server: Arc<Server>,
    handshake: Handshake,
    Places { operators, enrolling }: Places,
    stop: CancellationToken,
) {
    let address = handshake.remote_address();
    let carrier = tokio::select! {
        () = stop.cancelled() => return,
        finished = handshake.finish() => match finished {
            Ok(carrier) => carrier,
            Err(error) => {
                // Its own words are for whoever knocks at a door, not for the one behind it.
                if matches!(error, ConnectError::Unreachable { .. }) {
                    let what = "a connection was begun and fell silent before its handshake was done";
                    tracing::warn!(peer = %address, "{what}");
                } else {
                    tracing::warn!(peer = %address, "no connection: {error}");
                }
                if matches!(error, ConnectError::Refused { .. }) {
                    server.sites.guard().failed_handshake(address.ip());
                }
                return;
            }
        },
    };
    let alpn = carrier.alpn();
    if alpn == tls::ALPN_ENROL {
        let Ok(_place) = enrolling.try_acquire() else {
            let busy = "many sites enrol just now: try again in a moment";
            return sites::close(&*carrier, Code::Busy, busy);
        };
        return enrol_session::run(&server, &*carrier).await;
    }
    let chain = carrier.peer_certificates();
    let known = tls::peer_identity(Some(&chain))
        .and_then(|identity| Ok((tls::admit(&identity, Some(&alpn))?, identity)));
    let (door, identity) = match known {
        Ok(known) => known,
        Err(error) => {
            let name = tls::peer_identity(Some(&chain))
                .map_or_else(|_| address.to_string(), |identity| identity.to_string());
            server.sites.guard().failed_handshake(address.ip());
            return refuse(&server, &*carrier, name, Code::WrongRole, &error.to_string()).await;
        }
    };
    if let Some(Broken { code, detail, .. }) = expiry::over(&server, &*carrier) {
        return refuse(&server, &*carrier, identity.to_string(), code, &detail).await;
    }
    match (door, identity.role.clone()) {
        (Door::Agent, Role::Site(site)) => agent(&server, carrier, &identity, site, stop).await,
        _ => {
            let name = identity.to_string();
            let own = server.sites.guard().place(name.clone(), OPERATOR_CONNECTIONS_MAX);
            let (Ok(_place), Some(_own)) = (operators.try_acquire(), own) else {
                let detail = format!(
                    "{OPERATORS_MAX} operators are connected, or {OPERATOR_CONNECTIONS_MAX} times \
                     this one: try again later"
                );
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
    let guard = server.sites.guard();
    let belongs = server.membership.members().belongs(&site);
    if let Err(error) = belongs {
        guard.failed_handshake(carrier.remote_address().ip());
        let (name, detail) = (identity.to_string(), error.to_string());
        return refuse(server, &*carrier, name, error.code(), &detail).await;
    }
    if guard.term(&site).is_none() && !guard.allows(&site, Deed::Connect) {
        server.sites.blame(&site, &Broken::flood(Deed::Connect), None);
    }
    match guard.term(&site) {
        None => agent_session::run(Arc::clone(server), carrier, site, stop).await,
        Some(term) => refuse_quarantined(server, &*carrier, &site, &term).await,
    }
}

/// Tells a quarantined site why and for how long. It may knock as often as its address's ration of
/// handshakes lets it: that is not held against it, and not said each time.
async fn refuse_quarantined(server: &Server, carrier: &dyn Carrier, site: &SiteId, term: &Term) {
    server.sites.guard().ration(carrier.remote_address().ip(), term);
    let (code, detail) = (Code::Quarantined, term.to_string());
    tracing::debug!(%site, %code, "refused: {detail}");
    server.refusals.record(&*server.store, site.to_string(), code, &detail).await;
    send_away(carrier, Refused { code, detail, retry_after: Some(term.left) }).await;
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
    send_away(carrier, Refused { code, detail: detail.to_owned(), retry_after: None }).await;
}

async fn send_away(carrier: &dyn Carrier, refused: Refused) {
    let (code, detail) = (refused.code, refused.detail.clone());
    let goodbye = async {
        let stream = carrier.accept().await.ok()?;
        if stream.kind != StreamKind::Control {
            return None;
        }
        say_refused(carrier, &mut FrameWriter::new(stream.send), &refused.into()).await;
        Some(())
    };
    let told = timeout(HELLO_WAIT_MAX.min(GOODBYE_MAX), goodbye).await;
    tracing::debug!(?told, "a refused peer's control stream");
    sites::close(carrier, code, &detail);
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
