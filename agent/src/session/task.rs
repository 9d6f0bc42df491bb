//! One running task: fetch what the plan names → train, score or count → encode. What it leaves is a retained update
//! (see `shelf`) or a code why there is none.

use consilium_common::time::Millis;
use consilium_common::wire::messages::{Plan, SitePhase, TaskKind};
use consilium_common::wire::reject::Code;

use super::action::{Action, ActionId, Done, Fault, Retained, Trained};
use super::outbox::Outbox;
use super::queue::progress;
use super::status::TaskStatus;
use super::throttle::{Report, Throttle};

/// A worker is started at most so often for one task, each time with the same seed.
const STARTS_MAX: u32 = 3;
/// A base is asked for at most so often over a live connection.
const FETCHES_MAX: u32 = 3;
/// Between two fetches: long enough for a lost connection to be noticed as such.
const FETCH_AGAIN: Millis = Millis::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Fetching(ActionId),
    /// A fetch failed; `None` waits for the next Welcome.
    FetchAgain(Option<Millis>),
    /// All that the worker needs is here; an update of an earlier round is not settled yet.
    Ready,
    Training(ActionId),
    Encoding(ActionId),
}

/// What a finished action means for the task.
#[derive(Debug)]
pub(super) enum Next {
    /// It goes on.
    Goes,
    /// The base was scored, and trained from if the plan asks for it, or counts were made; it goes on.
    Trained(Trained),
    /// It left an update.
    Retained(Retained),
    /// It cannot be done.
    Failed {
        fault: Fault,
        /// The same plan would fail again: not taken on a second time.
        lasting: bool,
    },
    /// Its round is over, and nothing is left.
    Over,
}

#[derive(Debug)]
pub(super) struct Task {
    plan: Plan,
    step: Step,
    /// Its round is over: whatever comes back is dropped.
    over: bool,
    fetches: u32,
    starts: u32,
    last: Report,
    last_fault: Option<String>,
    throttle: Throttle,
    /// Uploads close then.
    deadline: Millis,
    /// Since when its worker trains.
    trains_since: Option<Millis>,
}

impl Task {
    pub(super) fn start(plan: Plan, now: Millis, out: &mut Outbox) -> Self {
        let mut throttle = Throttle::default();
        // Counts start from the site's own records: there is nothing to fetch.
        let counts = plan.task == TaskKind::Prepare;
        let deadline = now + plan.remaining;
        let first = if counts { SitePhase::Loading } else { SitePhase::Fetching };
        let last = Report::start(first);
        if let Some(report) = throttle.moved(last, now) {
            out.send(progress(&plan, report), now);
        }
        let step = if counts { Step::Ready } else { Step::Fetching(ask_fetch(&plan, out)) };
        Self {
            plan,
            step,
            over: false,
            fetches: u32::from(!counts),
            starts: 0,
            last,
            last_fault: None,
            throttle,
            deadline,
            trains_since: None,
        }
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Whether an edge works on this task under that id.
    pub(super) fn runs(&self, id: ActionId) -> bool {
        match self.step {
            Step::Fetching(own) | Step::Training(own) | Step::Encoding(own) => own == id,
            Step::FetchAgain(_) | Step::Ready => false,
        }
    }

    /// The base is here and training has to wait for the fate of an earlier update.
    pub(super) fn is_ready(&self) -> bool {
        self.step == Step::Ready && !self.over
    }

    /// Its round is over. True if nothing runs, so that the task can go at once.
    pub(super) fn end(&mut self, out: &mut Outbox) -> bool {
        let again = std::mem::replace(&mut self.over, true);
        match self.step {
            Step::Fetching(id) | Step::Training(id) => {
                if !again {
                    out.act(Action::Stop { id });
                }
                false
            }
            Step::Encoding(_) => false,
            Step::FetchAgain(_) | Step::Ready => true,
        }
    }

    pub(super) fn train(&mut self, now: Millis, out: &mut Outbox) {
        self.starts += 1;
        let plan = self.plan.clone();
        self.step = Step::Training(out.ask(|id| Action::Train { id, plan }));
        self.moved(Report::start(SitePhase::Loading), now, out);
    }

    pub(super) fn done(&mut self, done: Done, now: Millis, out: &mut Outbox) -> Next {
        match done {
            Done::Encoded(Ok(retained)) => Next::Retained(retained),
            _ if self.over => Next::Over,
            Done::Fetched(Ok(())) => {
                self.step = Step::Ready;
                Next::Goes
            }
            Done::Fetched(Err(fault)) => self.fetch_failed(fault, now, out),
            Done::Trained(Ok(trained)) => {
                let (plan, given) = (self.plan.clone(), Box::new(trained.clone()));
                self.step =
                    Step::Encoding(out.ask(|id| Action::Encode { id, plan, trained: given }));
                self.moved(Report::start(SitePhase::Encoding), now, out);
                Next::Trained(trained)
            }
            Done::Trained(Err(fault)) => self.train_failed(fault, now, out),
            Done::Encoded(Err(fault)) => Next::Failed { fault, lasting: true },
            Done::Judged(_) | Done::Pushed(_) | Done::Settled => Next::Goes,
        }
    }

    fn fetch_failed(&mut self, fault: Fault, now: Millis, out: &Outbox) -> Next {
        if !fault.retryable || (out.is_open() && self.fetches >= FETCHES_MAX) {
            let lasting = !fault.retryable;
            return Next::Failed { fault, lasting };
        }
        // Without a connection a failed fetch says nothing: the next Welcome brings another.
        self.step = Step::FetchAgain(out.is_open().then(|| now + FETCH_AGAIN));
        self.last_fault = Some(fault.detail);
        Next::Goes
    }

    fn train_failed(&mut self, mut fault: Fault, now: Millis, out: &mut Outbox) -> Next {
        if fault.retryable && self.starts < STARTS_MAX {
            self.last_fault = Some(fault.detail);
            self.train(now, out);
            return Next::Goes;
        }
        if fault.retryable {
            fault.code = Code::WorkerFailed;
        }
        Next::Failed { fault, lasting: true }
    }

    fn fetch(&mut self, out: &mut Outbox) {
        self.fetches += 1;
        self.step = Step::Fetching(ask_fetch(&self.plan, out));
    }

    /// Nothing is fetched without a connection.
    pub(super) fn disconnected(&mut self) {
        if matches!(self.step, Step::FetchAgain(_)) {
            self.step = Step::FetchAgain(None);
        }
    }

    /// A new connection: fetches count from the start.
    pub(super) fn welcomed(&mut self, out: &mut Outbox) {
        self.fetches = 0;
        if matches!(self.step, Step::FetchAgain(_)) {
            self.fetch(out);
        }
    }

    pub(super) fn moved(&mut self, report: Report, now: Millis, out: &mut Outbox) {
        self.trains_since = match report.phase {
            SitePhase::Training => self.trains_since.or(Some(now)),
            SitePhase::Queued
            | SitePhase::Fetching
            | SitePhase::Loading
            | SitePhase::Scoring
            | SitePhase::Encoding
            | SitePhase::Uploading => None,
        };
        self.last = report;
        if self.over {
            return;
        }
        if let Some(report) = self.throttle.moved(report, now) {
            out.send(progress(&self.plan, report), now);
        }
    }

    /// How long its slot is likely to be taken: what training has left by its pace so far, and never
    /// longer than the round. None while nothing tells.
    pub(super) fn left(&self, now: Millis) -> Option<Millis> {
        let (done, total) = (self.last.done, self.last.total);
        let took = now.since(self.trains_since?);
        let left = u128::from(took.0) * u128::from(total.checked_sub(done)?);
        let left = left.checked_div(u128::from(done))?;
        let left = Millis(u64::try_from(left).unwrap_or(u64::MAX));
        Some(left.min(self.deadline.since(now)))
    }

    /// Says where the task stands, to a coordinator that asks with a plan sent again.
    pub(super) fn tell(&self, now: Millis, out: &mut Outbox) {
        out.send(progress(&self.plan, self.last), now);
    }

    pub(super) fn handle_timeout(&mut self, now: Millis, out: &mut Outbox) {
        if self.over {
            return;
        }
        if let Some(report) = self.throttle.due(now) {
            out.send(progress(&self.plan, report), now);
        }
        if matches!(self.step, Step::FetchAgain(Some(at)) if now >= at) {
            self.fetch(out);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Millis> {
        if self.over {
            return None;
        }
        let again = match self.step {
            Step::FetchAgain(at) => at,
            Step::Fetching(_) | Step::Ready | Step::Training(_) | Step::Encoding(_) => None,
        };
        [again, self.throttle.next_deadline()].into_iter().flatten().min()
    }

    pub(super) fn status(&self) -> TaskStatus {
        let waits_for = match self.step {
            _ if self.over => Some("its round is over; waits for the work to stop".to_owned()),
            Step::FetchAgain(_) => Some("a connection, to fetch the base".to_owned()),
            Step::Ready => Some("the roll call of an earlier round".to_owned()),
            Step::Fetching(_) | Step::Training(_) | Step::Encoding(_) => None,
        };
        TaskStatus {
            study: self.plan.study.clone(),
            round: self.plan.round,
            task: self.plan.task,
            base_version: self.plan.base_version,
            phase: self.last.phase,
            done: self.last.done,
            total: self.last.total,
            worker_starts: self.starts,
            waits_for,
            last_fault: self.last_fault.clone(),
        }
    }
}

fn ask_fetch(plan: &Plan, out: &mut Outbox) -> ActionId {
    let plan = plan.clone();
    out.ask(|id| Action::Fetch { id, plan })
}
