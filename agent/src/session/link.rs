//! The connection as the session sees it: connect, Hello, Welcome, heartbeats, and back off.

use consilium_common::limits::{CLOCK_SKEW_MAX, CONNECTION_IDLE_MAX, HEARTBEAT_INTERVAL};
use consilium_common::time::{Millis, WallMillis};
use consilium_common::wire::messages::{Heartbeat, Hello, Refused, Welcome};

use super::action::Action;
use super::backoff::Backoff;
use super::outbox::Outbox;
use super::status::{Connection, ConnectionState};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Backing off.
    Waiting { until: Millis },
    /// `Connect` was asked for.
    Connecting,
    /// Hello is sent.
    Greeting,
    /// Welcome came.
    Welcomed,
    /// `Close` was asked for.
    Closing,
}

#[derive(Debug)]
pub(super) struct Link {
    state: State,
    /// When the state was entered.
    since: Millis,
    backoff: Backoff,
    /// The site's calendar clock when the connection opened, and when that was.
    clock: (WallMillis, Millis),
    coordinator: Option<String>,
    trouble: Option<String>,
    /// The coordinator does not let this site in before.
    held_off: Option<Millis>,
}

/// The longest that a coordinator may hold this site off: its own longest quarantine.
const HELD_OFF_MAX: Millis = Millis::from_secs(3600);

impl Link {
    pub(super) fn open(now: Millis, out: &mut Outbox) -> Self {
        out.act(Action::Connect);
        Self {
            state: State::Connecting,
            since: now,
            backoff: Backoff::default(),
            clock: (WallMillis::default(), now),
            coordinator: None,
            trouble: None,
            held_off: None,
        }
    }

    fn enter(&mut self, state: State, now: Millis) {
        self.state = state;
        self.since = now;
    }

    pub(super) fn connected(&mut self, hello: Hello, now: Millis, out: &mut Outbox) {
        if self.state != State::Connecting {
            return;
        }
        self.enter(State::Greeting, now);
        self.clock = (hello.wall, now);
        out.greet(hello, now);
    }

    /// Whether the coordinator's Welcome opens the connection.
    pub(super) fn welcomed(&mut self, welcome: Welcome, now: Millis, out: &mut Outbox) -> bool {
        if self.state != State::Greeting {
            return false;
        }
        let (ours, theirs) = (self.wall(now), welcome.wall);
        let skew = Millis(ours.0.abs_diff(theirs.0));
        if skew > CLOCK_SKEW_MAX {
            self.close(
                format!(
                    "this machine's clock and the coordinator's are {skew} apart, at most \
                     {CLOCK_SKEW_MAX} is accepted: set the clock (NTP)"
                ),
                now,
                out,
            );
            return false;
        }
        self.enter(State::Welcomed, now);
        self.backoff.reset();
        self.coordinator = Some(welcome.coordinator);
        self.trouble = None;
        out.open();
        true
    }

    /// The coordinator refuses and will close.
    pub(super) fn refused(&mut self, refused: &Refused, now: Millis) {
        self.held_off = refused.retry_after.map(|wait| now + wait.min(HELD_OFF_MAX));
        self.trouble =
            Some(format!("refused by the coordinator ({}): {}", refused.code, refused.detail));
    }

    fn close(&mut self, reason: String, now: Millis, out: &mut Outbox) {
        self.enter(State::Closing, now);
        out.close();
        self.trouble = Some(reason.clone());
        out.act(Action::Close { reason });
    }

    pub(super) fn disconnected(&mut self, jitter: u32, now: Millis, out: &mut Outbox) {
        if matches!(self.state, State::Waiting { .. }) {
            return;
        }
        out.close();
        // Not all at once when a time is over, either.
        let from = self.held_off.take().map_or(now, |until| until.max(now));
        let until = from + self.backoff.next_wait(jitter);
        self.enter(State::Waiting { until }, now);
    }

    pub(super) fn handle_timeout(&mut self, now: Millis, out: &mut Outbox) {
        match self.state {
            State::Waiting { until } if now >= until => {
                self.enter(State::Connecting, now);
                out.act(Action::Connect);
            }
            State::Greeting if now >= self.since + CONNECTION_IDLE_MAX => {
                let waited = now.since(self.since);
                self.close(format!("no Welcome from the coordinator for {waited}"), now, out);
            }
            State::Welcomed if now >= out.last_sent() + HEARTBEAT_INTERVAL => {
                let wall = self.wall(now);
                out.send(Heartbeat { wall }, now);
            }
            State::Waiting { .. }
            | State::Connecting
            | State::Greeting
            | State::Welcomed
            | State::Closing => {}
        }
    }

    pub(super) fn next_deadline(&self, out: &Outbox) -> Option<Millis> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Greeting => Some(self.since + CONNECTION_IDLE_MAX),
            State::Welcomed => Some(out.last_sent() + HEARTBEAT_INTERVAL),
            State::Connecting | State::Closing => None,
        }
    }

    /// The site's calendar clock, carried forward from the start of the connection.
    fn wall(&self, now: Millis) -> WallMillis {
        let (wall, at) = self.clock;
        WallMillis(wall.0.saturating_add(now.since(at).0))
    }

    pub(super) fn status(&self, now: Millis) -> Connection {
        let (state, next_attempt_in) = match self.state {
            State::Waiting { until } => (ConnectionState::Waiting, Some(until.since(now))),
            State::Connecting | State::Greeting => (ConnectionState::Connecting, None),
            State::Welcomed => (ConnectionState::Connected, None),
            State::Closing => (ConnectionState::Closing, None),
        };
        Connection {
            state,
            for_ms: now.since(self.since),
            failed_attempts: self.backoff.attempts(),
            next_attempt_in_ms: next_attempt_in,
            coordinator: self.coordinator.clone(),
            trouble: self.trouble.clone(),
        }
    }
}
