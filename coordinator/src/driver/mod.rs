//! The one task that owns a study's engine: events in from a bounded queue, actions out. Records go
//! to the store in the order in which the engine asked for them; CPU work goes to blocking threads;
//! messages go to the sites and are never waited for.
//!
//! A record that cannot be written ends the driver, and with it the process: it starts again from
//! what the log holds.

mod handle;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use consilium_common::audit::Record;
use consilium_common::ids::{Digest, Round, SiteId};
use consilium_common::time::{Clock, Date, Millis};
use consilium_common::wire::messages::{RollCall, RunState, UpdateRefused};
use consilium_common::wire::reject::Code;
use consilium_io::failpoints;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

pub use handle::{DriverGone, Event, Handle, Serving, View};

use crate::compute::Compute;
use crate::limits::APPROVAL_LOOK_INTERVAL;
use crate::round::{Action, ActionId, Done, Engine, History, HistoryError};
use crate::server::sites::Outbox;
use crate::stage::{Purpose, Stage};
use crate::store::{Store, StoreError};

/// Why a driver ended early.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A record may or may not be durable.
    #[error("the log failed, so this program stops; start it again when the disk is well: {0}")]
    Store(#[from] StoreError),
    /// The engine asked for a record that does not fit the log.
    #[error("a record does not fit the log and was not written; please report this: {0}")]
    History(#[from] HistoryError),
    /// A thread of the driver panicked.
    #[error("work for the study died: {0}")]
    Died(#[from] JoinError),
}

/// What a driver works with.
#[derive(Debug)]
pub struct Tools {
    /// Records.
    pub store: Arc<dyn Store>,
    /// Updates on their way in.
    pub stage: Arc<Stage>,
    /// The way to the sites.
    pub outbox: Arc<dyn Outbox>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Verify, Add, Aggregate.
    pub compute: Compute,
    /// How many threads compute at once, over all studies.
    pub threads: Arc<Semaphore>,
    /// What the log says: a record is held against it before it is written.
    pub history: Arc<Mutex<History>>,
}

/// An engine with its hands.
#[derive(Debug)]
pub struct Driver {
    engine: Engine,
    handle: Handle,
    tools: Tools,
    events: mpsc::Receiver<Event>,
    work: JoinSet<Result<Finished, StoreError>>,
    /// When the engine was told of a deadline last: it is not told twice for one moment.
    woken: Option<Millis>,
    /// The day on which the log said last that the study's approval ends.
    announced: Option<Date>,
}

/// An action that has come to its end.
#[derive(Debug)]
struct Finished {
    id: ActionId,
    name: &'static str,
    done: Done,
    /// The record that became durable, if anybody looks at it.
    record: Option<Box<Record>>,
}

impl Driver {
    /// A driver for `engine`; `events` are what `handle` tells.
    #[must_use]
    pub fn new(
        engine: Engine,
        handle: Handle,
        tools: Tools,
        events: mpsc::Receiver<Event>,
    ) -> Self {
        Self { engine, handle, tools, events, work: JoinSet::new(), woken: None, announced: None }
    }

    /// Runs until `stop`, or until nobody holds a handle.
    ///
    /// # Errors
    /// The log failed, or work panicked: the process must not go on.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), DriverError> {
        let mut looks = tokio::time::interval(APPROVAL_LOOK_INTERVAL);
        loop {
            self.act().await?;
            let wake = self.wake();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(finished) = self.work.join_next() => self.finish(finished??),
                event = self.events.recv() => match event {
                    Some(event) => self.take(event).await?,
                    None => return Ok(()),
                },
                _ = looks.tick() => self.announce_approval(),
                () = sleep_until(wake) => {
                    let now = self.tell_time();
                    self.woken = Some(now);
                    self.engine.handle_timeout(now);
                }
            }
        }
    }

    /// How long to sleep if nothing happens.
    fn wake(&self) -> Option<Duration> {
        let deadline = self.engine.next_deadline()?;
        let now = self.tools.clock.now();
        // The clock's unit is the millisecond: a deadline that was just told is not told again
        // before the next one.
        let least = u64::from(self.woken == Some(now));
        Some(Duration::from_millis(deadline.since(now).0.max(least)))
    }

    /// Tells the engine the calendar's time; the monotonic one for the call that follows.
    fn tell_time(&mut self) -> Millis {
        self.engine.handle_wall(self.tools.clock.wall());
        self.tools.clock.now()
    }

    /// Says once a day that the study's approval ends within a month, or has ended.
    fn announce_approval(&mut self) {
        let wall = self.tools.clock.wall();
        let approval = self.handle.study().governance.approval(wall);
        let Some(notice) = approval.and_then(|approval| approval.notice()) else {
            return;
        };
        let today = Some(Date::of(wall));
        let over = matches!(self.engine.state(), RunState::Stopped | RunState::Complete);
        if self.announced != today && !over {
            self.announced = today;
            tracing::warn!(study = %self.handle.id(), "{notice}");
        }
    }

    async fn take(&mut self, event: Event) -> Result<(), DriverError> {
        let now = self.tell_time();
        let engine = &mut self.engine;
        match event {
            Event::Ready(site) => engine.handle_site_ready(&site, now),
            Event::AcceptedAgain(site) => engine.handle_accepted_again(&site, now),
            Event::Gone(site) => engine.handle_site_gone(&site, now),
            Event::Quarantined(site) => engine.handle_site_quarantined(&site, now),
            Event::Members(members) => engine.handle_members((*members).clone(), now),
            Event::Message(site, message) => engine.handle_message(&site, message, now),
            // Whoever asked may have gone meanwhile; the same below.
            Event::Push { site, round, digest, bytes, answer } => {
                let _gone = answer.send(engine.wants_push(&site, round, digest, bytes));
            }
            Event::Moved { site, round, up, down } => {
                engine.handle_transfer(&site, round, up, down, now);
            }
            Event::Staged { site, round, digest } => {
                engine.handle_staged(&site, round, digest, now);
            }
            Event::Status { answer } => {
                let _gone = answer.send(engine.status(now));
            }
            Event::Command { command, by, answer } => {
                let taken = engine.handle_command(command, &by, now);
                // Queued before it is answered: what the asker writes next stands behind it.
                self.act().await?;
                let _gone = answer.send(taken);
            }
        }
        Ok(())
    }

    /// Does all that the engine asks for now.
    async fn act(&mut self) -> Result<(), DriverError> {
        while let Some(action) = self.engine.poll_action() {
            let name = action.name();
            failpoints::before(name);
            match action {
                Action::Persist { id, record } => self.persist(id, name, record).await?,
                Action::Send { site, message } => {
                    self.tools.outbox.send(&site, *message);
                    failpoints::after(name);
                }
                Action::Strike { site, code, detail } => {
                    self.tools.outbox.strike(&site, code, &detail);
                    failpoints::after(name);
                }
                Action::SendRollCall { site, round, update } => {
                    self.send_roll_call(&site, round, update).await?;
                    failpoints::after(name);
                }
                Action::Look { id, update, .. } => self.look(id, name, update),
                Action::Verify { id, update, rules, .. } => {
                    let compute = self.tools.compute.clone();
                    self.work_on(id, name, Some(update), move || {
                        Done::Verified(compute.verify(update, &rules))
                    });
                }
                Action::Add { id, update, weight, coordinates, .. } => {
                    let compute = self.tools.compute.clone();
                    self.work_on(id, name, Some(update), move || {
                        Done::Added(compute.add(update, weight, coordinates))
                    });
                }
                Action::Aggregate { id, base, strategy_state, weight, step_exponent, members } => {
                    let compute = self.tools.compute.clone();
                    self.work_on(id, name, None, move || {
                        let (state, sum) = (strategy_state, (weight, step_exponent));
                        Done::Aggregated(compute.aggregate(base, state, sum, members))
                    });
                }
                Action::Prepare { id, sites } => {
                    let compute = self.tools.compute.clone();
                    self.work_on(id, name, None, move || Done::Prepared(compute.prepare(sites)));
                }
                Action::Forget { round } => {
                    self.forget(round);
                    failpoints::after(name);
                }
            }
        }
        Ok(())
    }

    async fn persist(
        &mut self,
        id: ActionId,
        name: &'static str,
        record: Box<Record>,
    ) -> Result<(), DriverError> {
        // A record that no start could read again is never written.
        self.tools.history.lock().unwrap_or_else(PoisonError::into_inner).apply(&record)?;
        let pending = self.tools.store.submit(&record).await?;
        if let Record::Plan(plan) = &*record {
            self.handle.view().serving = Some(Serving::of(plan));
        }
        let looked_at = matches!(*record, Record::RollCall(_) | Record::StudyState(_));
        let record = looked_at.then_some(record);
        self.work.spawn(async move {
            pending.durable().await?;
            Ok(Finished { id, name, done: Done::Persisted, record })
        });
        Ok(())
    }

    fn look(&mut self, id: ActionId, name: &'static str, update: Digest) {
        let stage = Arc::clone(&self.tools.stage);
        let study = self.handle.id().clone();
        // Without a round nothing can have been staged for it.
        let Some(Serving { round, .. }) = self.handle.view().serving else {
            return self.told(Finished { id, name, done: Done::Staged(false), record: None });
        };
        self.work.spawn(async move {
            let looked = stage.look(&Purpose { study, round }, update).await;
            let staged = looked.unwrap_or_else(|error| {
                tracing::warn!(?update, %error, "the stage cannot be read: the site sends it again");
                false
            });
            Ok(Finished { id, name, done: Done::Staged(staged), record: None })
        });
    }

    /// CPU work: here and now if it is small and in memory, else on a thread.
    fn work_on(
        &mut self,
        id: ActionId,
        name: &'static str,
        update: Option<Digest>,
        work: impl FnOnce() -> Done + Send + 'static,
    ) {
        let small = update.is_some_and(|update| self.tools.stage.in_memory(update));
        if small && !self.tools.compute.retains() {
            return self.told(Finished { id, name, done: work(), record: None });
        }
        let threads = Arc::clone(&self.tools.threads);
        self.work.spawn(async move {
            // The semaphore is never closed; were it, the work would go on without a place.
            let _place = threads.acquire().await.ok();
            match tokio::task::spawn_blocking(work).await {
                Ok(done) => Ok(Finished { id, name, done, record: None }),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_going_down) => Err(StoreError::Closed),
                },
            }
        });
    }

    async fn send_roll_call(
        &self,
        site: &SiteId,
        round: Round,
        update: Digest,
    ) -> Result<(), DriverError> {
        let study = self.handle.id();
        let message = match self.tools.store.roll_call(study, round).await? {
            Some(signed) => RollCall { signed }.into(),
            None => UpdateRefused {
                study: study.clone(),
                round,
                digest: update,
                code: Code::WrongRound,
                detail: format!("study {study} had no round {round}"),
            }
            .into(),
        };
        self.tools.outbox.send(site, message);
        Ok(())
    }

    fn forget(&self, round: Round) {
        self.handle.view().serving = None;
        self.tools.compute.forget();
        let stage = Arc::clone(&self.tools.stage);
        let files = stage.forget(self.handle.id(), round);
        if !files.is_empty() {
            tokio::task::spawn_blocking(move || stage.remove_files(&files));
        }
    }

    fn finish(&mut self, finished: Finished) {
        match finished.record.as_deref() {
            Some(Record::RollCall(ended)) => match ended.signed.parse_unverified() {
                Ok(call) => {
                    tracing::info!(
                        study = %call.study, round = %call.round, outcome = %call.outcome,
                        millis = call.duration.0, "round ended"
                    );
                    let wall = self.tools.clock.wall();
                    self.handle.view().summary.add(&call, wall);
                }
                Err(error) => tracing::error!(%error, "our own roll call cannot be read"),
            },
            Some(Record::StudyState(set)) => {
                tracing::info!(study = %set.study, state = %set.state, by = set.by, "study state");
                let mut view = self.handle.view();
                (view.state, view.completion) = (set.state, set.completion);
            }
            _ => {}
        }
        self.told(finished);
    }

    fn told(&mut self, finished: Finished) {
        failpoints::after(finished.name);
        let now = self.tell_time();
        self.engine.handle_done(finished.id, finished.done, now);
    }
}

async fn sleep_until(wake: Option<Duration>) {
    match wake {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
