//! The one task that owns the session: events in through a bounded queue, actions out. It never
//! waits for what it starts; whatever takes time runs beside it and comes back as an event.
//!
//! [`shared`]: what all of it works with. [`pinned`]: the site's data against what was approved.
//! [`study`]: who may train what (signatures, policy, people). [`task`]: fetch, train, encode.
//! [`patients`]: whose records it used. [`local`]: what stays at the site and moves with its updates.
//! [`control`]: what SCAFFOLD corrects by. [`upload`]: push and settle, through [`gate`], which keeps
//! the ledger ahead of what leaves. [`connection`]: one connection from dialling to its end.
//! [`witness`]: what the coordinator's log is held against. [`roster`]: who else belongs.
//! [`withdrawing`]: which versions a withdrawal affects, to the coordinator. [`approval`]: studies whose
//! approval ends. [`asked`]: answers to people.

mod approval;
mod asked;
mod connection;
mod control;
mod gate;
mod local;
mod patients;
mod pinned;
mod roster;
pub mod shared;
mod study;
mod task;
mod upload;
pub(crate) mod withdrawing;
mod witness;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use consilium_common::ids::{Digest, Round, StudyId};
use consilium_common::time::Date;
use consilium_common::wire::messages::{
    Answer, Message, Plan, PlanAnswer, Refused, SitePhase, Withdrawal,
};
use consilium_common::wire::reject::Code;
use consilium_io::failpoints;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::control_socket::Reply;
use crate::control_socket::server::Asked;
use crate::link::advice::advice;
use crate::rules::Rules;
use crate::session::{Action, ActionId, Done, Session};
use crate::witness::HeadRow;
use crate::worker::TaskFolder;

pub(crate) use asked::{find as find_study, ledger_word, rows as study_rows, said};
use connection::Connection;
pub use shared::{Parts, Shared};
pub use study::AGENT;

/// Events that wait for the driver; who makes them waits too.
const EVENTS_MAX: usize = 256;
/// How long a stopping daemon waits for its worker to end.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// What happened.
#[derive(Debug)]
enum Event {
    /// A connection stands, its control stream is open.
    Connected(Box<Connection>),
    /// No connection came about, or connection `generation` is over.
    Lost { generation: u64, reason: String },
    /// The coordinator said something; receipts and roll calls are verified.
    Heard { generation: u64, message: Box<Message> },
    /// An action moves.
    Moved { id: ActionId, phase: SitePhase, done: u64, total: u64 },
    /// An action is over.
    Done(Box<Finished>),
    /// A person decided, durably.
    Decided { digest: Digest, reply: Reply, to: oneshot::Sender<Reply> },
    /// A person went on with another history of the coordinator's.
    HistoryAccepted,
    /// The site goes by another roster, durably.
    RosterAccepted,
    /// A person reported a withdrawal, durably.
    Withdrawn { withdrawal: Withdrawal, to: oneshot::Sender<Reply> },
}

/// What came of an action.
#[derive(Debug)]
struct Finished {
    id: ActionId,
    done: Done,
    /// The worker's files, needed until the update is encoded.
    files: Option<(StudyId, Round, TaskFolder)>,
}

/// Runs the session against the world.
#[derive(Debug)]
pub struct Driver {
    shared: Arc<Shared>,
    session: Session,
    connection: Option<Box<Connection>>,
    /// Counts connections, so that a late word of an old one is known as such.
    generation: u64,
    link_trouble: Option<String>,
    /// A roll call came whose place in the log was not asked for yet.
    is_head_due: bool,
    /// What the coordinator's log was last found to contradict this site with.
    contradicted: Option<HeadRow>,
    /// The day on which people were told of approvals last.
    announced: Option<Date>,
    running: HashMap<ActionId, CancellationToken>,
    /// What workers left that is not encoded yet: at most one a study.
    files: HashMap<StudyId, (Round, TaskFolder)>,
    events: mpsc::Sender<Event>,
    queue: mpsc::Receiver<Event>,
    tasks: TaskTracker,
}

impl Driver {
    /// A driver for what is durable at the site.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        let (events, queue) = mpsc::channel(EVENTS_MAX);
        let setup = study::setup(&shared);
        Self {
            session: Session::open(setup, shared.clock.now()),
            shared,
            connection: None,
            generation: 0,
            link_trouble: None,
            is_head_due: false,
            contradicted: None,
            announced: None,
            running: HashMap::new(),
            files: HashMap::new(),
            events,
            queue,
            tasks: TaskTracker::new(),
        }
    }

    /// Runs until `stop`; then stops the worker, closes the connection in good order and returns.
    /// `rules` come when people have the policy read again.
    pub async fn run(
        mut self,
        mut asked: mpsc::Receiver<Asked>,
        mut rules: mpsc::Receiver<Rules>,
        stop: CancellationToken,
    ) {
        let mut looks = tokio::time::interval(approval::LOOK_EVERY);
        let mut heads = tokio::time::interval(witness::ASK_EVERY);
        loop {
            self.act();
            let due = self.session.next_deadline();
            let wait = due.map(|at| Duration::from_millis(at.since(self.shared.clock.now()).0));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(event) = self.queue.recv() => self.handle(event),
                Some(question) = asked.recv() => self.answer(question),
                Some(rules) = rules.recv() => self.judge_again(rules),
                _ = looks.tick() => self.look_at_approvals(),
                _ = heads.tick() => self.ask_for_head(),
                () = sleep_or_forever(wait) => self.session.handle_timeout(self.shared.clock.now()),
            }
        }
        self.stop().await;
    }

    /// Puts rules in force and judges every kept study by them; a millisecond each, and nothing that
    /// people decide meanwhile can come in between.
    fn judge_again(&mut self, rules: Rules) {
        self.shared.put_in_force(rules);
        self.look_at_rosters();
        self.hold_plans_again();
    }

    /// Does what the session asks for.
    fn act(&mut self) {
        while let Some(action) = self.session.poll_action() {
            tracing::trace!(action = action.name());
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        let name = action.name();
        failpoints::before(name);
        match action {
            Action::Connect => self.connect(),
            Action::Close { reason } => {
                tracing::warn!(reason, "closing the connection");
                self.close(&reason);
                failpoints::after(name);
            }
            Action::Send { message } => {
                self.note_declined(&message);
                self.send(&message);
                failpoints::after(name);
            }
            Action::Stop { id } => {
                if let Some(token) = self.running.get(&id) {
                    token.cancel();
                }
                failpoints::after(name);
            }
            Action::Reported { withdrawal } => {
                self.reported(withdrawal);
                failpoints::after(name);
            }
            Action::JudgeStudy { id, offer } => {
                let (shared, carrier) = (Arc::clone(&self.shared), self.carrier());
                self.spawn(id, name, async move {
                    Done::Judged(study::judge(&shared, carrier, offer).await)
                });
            }
            Action::Fetch { id, plan } => {
                let context = self.context(id);
                let carrier = self.carrier();
                self.spawn(id, name, async move {
                    Done::Fetched(task::fetch(&context, carrier, &plan).await)
                });
            }
            Action::Train { id, plan } => self.train(id, name, plan),
            Action::Encode { id, plan, trained } => {
                let files = self.files.remove(&plan.study);
                let shared = Arc::clone(&self.shared);
                self.spawn(id, name, async move {
                    Done::Encoded(task::encode(shared, plan, *trained, files).await)
                });
            }
            Action::Push { id, retained } => {
                let context = self.context(id);
                let carrier = self.carrier();
                self.spawn(id, name, async move {
                    Done::Pushed(upload::push(&context, carrier, &retained).await)
                });
            }
            Action::Settle { id, study, round, counted } => {
                self.files.remove(&study);
                let context = self.context(id);
                self.spawn(id, name, async move {
                    upload::settle(&context, study, round, counted).await;
                    Done::Settled
                });
            }
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.shared.clock.now();
        match event {
            Event::Connected(connection) => self.connected(connection),
            Event::Lost { generation, reason } => self.lost(generation, reason),
            Event::Heard { generation, message } => {
                if self.is_current(generation) && self.is_witnessed(&message) {
                    if let Message::RosterOffer(offer) = *message {
                        return self.take_roster(offer);
                    }
                    connection::note(&message);
                    self.renew_if_asked(&message);
                    if matches!(*message, Message::Plan(_)) {
                        self.look_at_approvals();
                    }
                    self.session.handle_message(*message, self.shared.clock.wall(), now);
                }
            }
            Event::Moved { id, phase, done, total } => {
                self.session.handle_progress(id, phase, done, total, now)
            }
            Event::Done(finished) => {
                let Finished { id, done, files } = *finished;
                self.running.remove(&id);
                if let Some((study, round, folder)) = files {
                    self.files.insert(study, (round, folder));
                }
                note_fault(&done);
                self.session.handle_done(id, done, now);
            }
            Event::HistoryAccepted => self.session.handle_other_history(),
            Event::RosterAccepted => self.hold_plans_again(),
            Event::Withdrawn { withdrawal, to } => {
                self.session.handle_withdrawal(withdrawal, now);
                // The person may have gone.
                let _gone = to.send(Reply::Withdrawn);
            }
            Event::Decided { digest, reply, to } => {
                if let Some(judged) = self.shared.judged(&digest) {
                    self.session.handle_decision(digest, judged, now);
                }
                // The person may have gone.
                let _gone = to.send(reply);
            }
        }
    }

    /// The coordinator does not take the certificate, or not for long, whatever time it has left.
    fn renew_if_asked(&self, message: &Message) {
        let over = |refused: &Refused| refused.code == Code::CertificateExpired;
        let is_over = matches!(message, Message::Refused(refused) if over(refused));
        if is_over || matches!(message, Message::RenewCertificate(_)) {
            self.shared.renew_now.notify_one();
        }
    }

    /// People read in the log why a plan was not taken on.
    fn note_declined(&self, message: &Message) {
        let Message::PlanAnswer(PlanAnswer { study, round, answer: Answer::Declined { code, .. } }) =
            message
        else {
            return;
        };
        let declined = self.session.declined(study, self.shared.clock.now());
        let why = declined.filter(|declined| declined.round == *round && declined.code == *code);
        let why = why.map_or_else(|| advice(*code).to_owned(), |declined| declined.why);
        tracing::info!(%study, %round, %code, "plan declined: {why}");
    }

    fn train(&mut self, id: ActionId, name: &'static str, plan: Plan) {
        let context = self.context(id);
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let key = (plan.study.clone(), plan.round);
            let (trained, folder) = task::train(&context, &plan).await;
            failpoints::after(name);
            let files = folder.map(|folder| (key.0, key.1, folder));
            let done = Done::Trained(trained);
            // A closed queue means that the daemon stops.
            let _stopping = events.send(Event::Done(Box::new(Finished { id, done, files }))).await;
        });
    }

    /// Runs work beside the driver; what came of it comes back as an event.
    fn spawn(
        &self,
        id: ActionId,
        name: &'static str,
        work: impl Future<Output = Done> + Send + 'static,
    ) {
        let events = self.events.clone();
        self.tasks.spawn(async move {
            let done = work.await;
            failpoints::after(name);
            let files = None;
            // A closed queue means that the daemon stops.
            let _stopping = events.send(Event::Done(Box::new(Finished { id, done, files }))).await;
        });
    }

    /// What work of this id needs: everything shared, its own stop, and where progress goes.
    fn context(&mut self, id: ActionId) -> task::Context {
        let stop = CancellationToken::new();
        self.running.insert(id, stop.clone());
        task::Context { shared: Arc::clone(&self.shared), id, stop, events: self.events.clone() }
    }

    async fn stop(mut self) {
        tracing::info!("stopping");
        self.queue.close();
        self.running.values().for_each(CancellationToken::cancel);
        self.tasks.close();
        if tokio::time::timeout(STOP_PATIENCE, self.tasks.wait()).await.is_err() {
            tracing::warn!("some work did not end in time and is broken off");
        }
        if let Some(connection) = self.connection.take() {
            connection.shut_down(Arc::clone(&self.shared)).await;
        }
    }
}

fn note_fault(done: &Done) {
    let fault = match done {
        Done::Judged(Err(fault))
        | Done::Fetched(Err(fault))
        | Done::Trained(Err(fault))
        | Done::Encoded(Err(fault))
        | Done::Pushed(Err(fault)) => fault,
        Done::Judged(_)
        | Done::Fetched(_)
        | Done::Trained(_)
        | Done::Encoded(_)
        | Done::Pushed(_)
        | Done::Settled => return,
    };
    tracing::warn!(code = %fault.code, retryable = fault.retryable, "{}", fault.detail);
}

async fn sleep_or_forever(wait: Option<Duration>) {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
