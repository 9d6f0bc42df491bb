//! One connection from dialling to its end. Receipts and roll calls are verified here, against the
//! pinned log key, before the session sees them.

use std::sync::Arc;
use std::time::Duration;

use consilium_certs::credentials::Credentials;
use consilium_certs::validity::date;
use consilium_common::ids::SiteId;
use consilium_common::signed::{PublicKey, SignedError};
use consilium_common::wire::messages::Message;
use consilium_common::wire::reject::Code;
use consilium_io::failpoints;
use consilium_io::net::{Carrier, Closed, ClosedBy, QuicDialer};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::shared::{Shared, blocking};
use super::{Driver, Event, study};
use crate::ledger::entry::{Connected, Disconnected};
use crate::link::advice::advice;
use crate::link::control::{self, SendError};
use crate::link::{Control, Heard};

/// How long to wait for the reason why a stream ended.
const REASON_PATIENCE: Duration = Duration::from_millis(500);

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) generation: u64,
    carrier: Arc<dyn Carrier>,
    control: Control,
    heard: Option<Heard>,
    socket: QuicDialer,
    /// The ledger's record of its beginning.
    entered: u64,
}

impl Connection {
    /// Closes in good order; the coordinator learns that nothing is wrong.
    pub(super) async fn shut_down(self, shared: Arc<Shared>) {
        let over = self.over("the agent stops");
        enter_over(shared, over).await;
        let Self { carrier, control, socket, .. } = self;
        drop(control);
        carrier.close(0, "the agent stops");
        socket.shut_down(0, "the agent stops").await;
    }

    /// Its end, for the ledger.
    fn over(&self, reason: &str) -> Disconnected {
        let reason = reason.to_owned();
        Disconnected { connection: self.entered, reason, said: self.control.said() }
    }
}

/// Writes the end of a connection into the ledger. That it cannot is no loss of anything that left.
async fn enter_over(shared: Arc<Shared>, over: Disconnected) {
    let recorded = blocking(move || shared.ledger.record(over, shared.clock.wall())).await;
    if let Ok(Err(error)) = recorded {
        tracing::warn!(%error, "the end of a connection is not in the ledger");
    }
}

impl Driver {
    pub(super) fn carrier(&self) -> Option<Arc<dyn Carrier>> {
        let connection = self.connection.as_ref()?;
        Some(Arc::clone(&connection.carrier))
    }

    pub(super) fn is_current(&self, generation: u64) -> bool {
        self.generation == generation
    }

    /// Dials beside the driver.
    pub(super) fn connect(&mut self) {
        self.generation += 1;
        self.drop_connection("another is made");
        let generation = self.generation;
        let (shared, events) = (Arc::clone(&self.shared), self.events.clone());
        self.tasks.spawn(async move {
            let dialed = tokio::select! {
                dialed = dial(&shared, generation) => dialed,
                () = events.closed() => return,
            };
            failpoints::after("connect");
            let event = match dialed {
                Ok(connection) => Event::Connected(Box::new(connection)),
                Err(reason) => Event::Lost { generation, reason },
            };
            // A closed queue means that the daemon stops.
            let _stopping = events.send(event).await;
        });
    }

    pub(super) fn connected(&mut self, mut connection: Box<Connection>) {
        if !self.is_current(connection.generation) {
            return;
        }
        if let Some(heard) = connection.heard.take() {
            let listener = Listener {
                generation: connection.generation,
                carrier: Arc::clone(&connection.carrier),
                site: self.shared.site().clone(),
                log_key: self.shared.bundle.consortium.coordinator_log_key,
                events: self.events.clone(),
            };
            self.tasks.spawn(listener.listen(heard));
        }
        let Shared { clock, witness, .. } = &*self.shared;
        self.connection = Some(connection);
        self.session.handle_connected(witness.records(), clock.wall(), clock.now());
    }

    pub(super) fn lost(&mut self, generation: u64, reason: String) {
        if !self.is_current(generation) {
            return;
        }
        if self.link_trouble.as_ref() == Some(&reason) {
            tracing::debug!(reason, "no connection");
        } else {
            tracing::warn!(reason, "no connection with the coordinator; trying again");
        }
        self.drop_connection(&reason);
        self.link_trouble = Some(reason);
        let now = self.shared.clock.now();
        self.session.handle_disconnected(jitter(), now);
    }

    fn drop_connection(&mut self, reason: &str) {
        if let Some(connection) = self.connection.take() {
            let over = connection.over(reason);
            self.tasks.spawn(enter_over(Arc::clone(&self.shared), over));
        }
    }

    /// Ends the connection; its listener then reports the loss.
    pub(super) fn close(&self, reason: &str) {
        if let Some(connection) = &self.connection {
            connection.carrier.close(0, reason);
        }
    }

    /// Best effort: what a lost connection swallows is said again.
    pub(super) fn send(&self, message: &Message) {
        let Some(connection) = &self.connection else {
            return;
        };
        match connection.control.send(message) {
            Ok(()) => {}
            Err(SendError::Gone) => tracing::debug!(kind = message.name(), "not sent: no stream"),
            Err(error) => {
                tracing::warn!(kind = message.name(), %error, "closing the connection");
                connection.carrier.close(0, &error.to_string());
            }
        }
    }
}

async fn dial(shared: &Arc<Shared>, generation: u64) -> Result<Connection, String> {
    // Read anew: a renewed certificate needs no restart.
    let (folder, now) = (shared.bundle_folder.clone(), shared.clock.wall());
    let us = blocking(move || Credentials::load(&folder, now)).await;
    let us = us.map_err(|fault| fault.detail)?.map_err(|error| error.to_string())?;
    if let Some(warning) = us.standing(now).warning() {
        tracing::warn!("this site's certificate {warning}");
    }
    let dialed = shared.dialer.dial(&us).await.map_err(|e| e.to_string())?;
    // Before anything is said on it: Hello tells what was accepted, Welcome is answered by offers.
    let connected = Connected {
        coordinator: shared.config.site.coordinator.to_string(),
        address: dialed.carrier.remote_address().to_string(),
    };
    let ours = Arc::clone(shared);
    let entered = blocking(move || {
        study::enter_all(&ours)?;
        ours.ledger.record(connected, ours.clock.wall())
    })
    .await;
    let entered = entered.map_err(|fault| fault.detail)?.map_err(|error| error.to_string())?;
    let opened = control::open(&*dialed.carrier).await;
    let (control, heard) = opened.map_err(|error| error.to_string())?;
    tracing::debug!(address = %dialed.carrier.remote_address(), "connected, not yet welcome");
    Ok(Connection {
        generation,
        carrier: dialed.carrier,
        control,
        heard: Some(heard),
        socket: dialed.socket,
        entered,
    })
}

/// Full jitter spreads the agents of a restarted coordinator.
fn jitter() -> u32 {
    let mut bytes = [0; 4];
    if getrandom::fill(&mut bytes).is_err() {
        tracing::debug!("the system gives no random numbers: no jitter");
    }
    u32::from_le_bytes(bytes)
}

/// Reads the control stream of one connection until it ends.
struct Listener {
    generation: u64,
    carrier: Arc<dyn Carrier>,
    site: SiteId,
    log_key: PublicKey,
    events: mpsc::Sender<Event>,
}

impl Listener {
    async fn listen(self, mut heard: Heard) {
        let reason = tokio::select! {
            reason = self.pass_on(&mut heard) => reason,
            () = self.events.closed() => return,
        };
        let generation = self.generation;
        let reason = match timeout(REASON_PATIENCE, self.carrier.closed()).await {
            Ok(closed) => with_advice(&closed),
            Err(_) => reason,
        };
        self.carrier.close(0, "the control stream ended");
        // A closed queue means that the daemon stops.
        let _stopping = self.events.send(Event::Lost { generation, reason }).await;
    }

    /// Returns when the stream cannot go on, with the reason.
    async fn pass_on(&self, heard: &mut Heard) -> String {
        loop {
            let message = match heard.next().await {
                Ok(Some(message)) => message,
                Ok(None) => return "the coordinator ended the control stream".to_owned(),
                Err(error) => return error.to_string(),
            };
            if let Err(error) = self.verify(&message) {
                let kind = message.name();
                tracing::error!(kind, %error, "not signed by the coordinator's log key: ignored");
                continue;
            }
            let event = Event::Heard { generation: self.generation, message: Box::new(message) };
            if self.events.send(event).await.is_err() {
                return "the agent stops".to_owned();
            }
        }
    }

    /// Receipts (for this site) and roll calls must be the coordinator's.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the other kinds carry no signature of the coordinator"
    )]
    fn verify(&self, message: &Message) -> Result<(), SignedError> {
        let known = [self.log_key];
        match message {
            Message::Receipt(receipt) => {
                let receipt = receipt.signed.verify(&known, 1)?;
                if receipt.site != self.site {
                    let text = format!("it is a receipt for {}", receipt.site);
                    return Err(SignedError::Unreadable(text));
                }
                Ok(())
            }
            Message::RollCall(roll_call) => roll_call.signed.verify(&known, 1).map(drop),
            _ => Ok(()),
        }
    }
}

/// Why a connection is over, and what can be done if the coordinator said why.
fn with_advice(closed: &Closed) -> String {
    let code = Code::ALL.iter().find(|code| u32::from(**code as u16) == closed.code);
    match code.filter(|_| closed.by == ClosedBy::Peer) {
        Some(code) => format!("the connection was {closed}; {}", advice(*code)),
        None => format!("the connection was {closed}"),
    }
}

/// Refusals go to the log with their code and what to do.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other kinds are the session's alone")]
pub(super) fn note(message: &Message) {
    match message {
        Message::Welcome(welcome) => {
            tracing::info!(coordinator = welcome.coordinator, "welcome: connected");
        }
        Message::Refused(refused) => tracing::error!(
            code = %refused.code, detail = refused.detail, advice = advice(refused.code),
            "the coordinator refuses this agent"
        ),
        Message::UpdateRefused(refused) => tracing::error!(
            study = %refused.study, round = %refused.round, code = %refused.code,
            detail = refused.detail, advice = advice(refused.code),
            "the coordinator refuses this site's update"
        ),
        Message::Refusal(refusal) => tracing::warn!(
            kind = refusal.kind, code = %refusal.code, detail = refusal.detail,
            advice = advice(refusal.code), "the coordinator refuses a message"
        ),
        Message::RenewCertificate(asked) => tracing::info!(
            until = date(asked.until),
            "the issuing CA is another one now: this site's certificate is renewed"
        ),
        Message::Plan(plan) => tracing::info!(
            study = %plan.study, round = %plan.round, task = ?plan.task, base = %plan.base_version,
            "plan"
        ),
        _ => {}
    }
}
