//! What is known of one site: its session, and its part in the open round.

use consilium_common::audit::Receipt;
use consilium_common::ids::Digest;
use consilium_common::signed::Signed;
use consilium_common::time::Millis;
use consilium_common::wire::messages::SitePhase;
use consilium_common::wire::reject::Code;

use crate::limits::OFFERS_PER_ROUND_MAX;

/// A site's session, across rounds.
#[derive(Debug, Clone, Default)]
pub(super) struct Session {
    /// A live session that has accepted the study.
    pub(super) connected: bool,
    /// After a decline with a time: not counted as ready before it, and why.
    pub(super) declined: Option<(Millis, Code)>,
}

impl Session {
    pub(super) fn is_ready(&self, now: Millis) -> bool {
        self.connected && self.declined.is_none_or(|(until, _)| until <= now)
    }
}

/// Where a site stands in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SiteState {
    /// Asked; has not answered.
    Invited,
    /// Accepted; owes an update.
    Working,
    /// Offered an update; the driver looks whether it is staged.
    Looking,
    /// Was asked to push it.
    Wanted,
    /// It is here and is being held against the rules.
    Verifying,
    /// It holds; it is being added and its receipt written.
    Adding {
        /// It is in the sum.
        added: bool,
    },
    /// Added, and its receipt is durable.
    Delivered,
    /// Not part of the sum.
    Out(Why),
}

/// Why a site is not part of the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    NoAnswer,
    Declined(Code),
    Idle,
    Failed(Code),
    /// What it delivered broke a rule, or it is in quarantine, or out for good.
    Refused(Code),
    Late,
}

impl Why {
    pub(super) fn code(self) -> Code {
        match self {
            Self::NoAnswer => Code::NoAnswer,
            Self::Idle => Code::Idle,
            Self::Late => Code::Late,
            Self::Declined(code) | Self::Failed(code) | Self::Refused(code) => code,
        }
    }
}

impl SiteState {
    /// The site is to do something, so its clocks run.
    pub(super) fn owes(self) -> bool {
        matches!(self, Self::Invited | Self::Working | Self::Wanted)
    }

    /// The coordinator is at work on its update, which is waited for.
    pub(super) fn is_worked_on(self) -> bool {
        matches!(self, Self::Looking | Self::Verifying | Self::Adding { .. })
    }

    /// It said yes, by word or deed, and nothing has spoken against it since.
    pub(super) fn has_accepted(self) -> bool {
        !matches!(self, Self::Invited | Self::Out(_))
    }

    /// The state in a word, for screens.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Invited => "invited",
            Self::Working => "working",
            Self::Looking => "offered",
            Self::Wanted => "uploading",
            Self::Verifying => "verifying",
            Self::Adding { .. } => "adding",
            Self::Delivered => "delivered",
            Self::Out(Why::NoAnswer) => "no-answer",
            Self::Out(Why::Declined(_)) => "declined",
            Self::Out(Why::Idle) => "idle",
            Self::Out(Why::Failed(_)) => "failed",
            Self::Out(Why::Refused(_)) => "refused",
            Self::Out(Why::Late) => "late",
        }
    }
}

/// A site's part in the open round.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) state: SiteState,
    /// The update that it offered last.
    pub(super) offered: Option<Digest>,
    /// How many it has offered.
    pub(super) offers: u32,
    /// The update that was accepted or receipted: no other counts in this round.
    pub(super) bound: Option<Digest>,
    /// Given to the log.
    pub(super) receipt: Option<Signed<Receipt>>,
    /// And durable there.
    pub(super) receipt_durable: bool,
    /// n_i, once accepted.
    pub(super) weight: Option<u64>,
    /// What it said last: phase, done, total.
    pub(super) progress: Option<(SitePhase, u64, u64)>,
    /// When anything moved last.
    pub(super) moved: Millis,
    /// One refusal a round goes to the log, however many a site earns.
    pub(super) refusal_logged: bool,
}

impl Site {
    pub(super) fn new(state: SiteState, now: Millis) -> Self {
        Self {
            state,
            offered: None,
            offers: 0,
            bound: None,
            receipt: None,
            receipt_durable: false,
            weight: None,
            progress: None,
            moved: now,
            refusal_logged: false,
        }
    }

    /// The site shows by deed that it works for the round: it accepted, or is back.
    pub(super) fn moves(&mut self, now: Millis) {
        self.moved = now;
        let back =
            matches!(self.state, SiteState::Invited | SiteState::Out(Why::NoAnswer | Why::Idle));
        if back {
            self.state = SiteState::Working;
        }
    }

    /// Counts an offer; false if it is one too many. Each costs a place in the stage.
    pub(super) fn may_offer(&mut self, update: Digest) -> bool {
        if self.offered != Some(update) {
            self.offers = self.offers.saturating_add(1);
        }
        self.offers <= OFFERS_PER_ROUND_MAX
    }

    /// The site is in quarantine, or out for good: nothing is waited for. What was accepted of it counts.
    pub(super) fn put_out(&mut self, code: Code) {
        let waits = self.state.owes()
            || matches!(self.state, SiteState::Looking | SiteState::Verifying)
            || matches!(self.state, SiteState::Out(Why::NoAnswer | Why::Idle));
        if waits {
            self.state = SiteState::Out(Why::Refused(code));
        }
    }

    /// The site says yes to the plan, after whatever it said before.
    pub(super) fn accepts(&mut self, now: Millis) {
        self.moves(now);
        if matches!(self.state, SiteState::Out(Why::Declined(_) | Why::Failed(_))) {
            self.state = SiteState::Working;
        }
    }

    /// When the site counts as idle, if it owes something.
    pub(super) fn idle_at(&self, idle_timeout: Millis) -> Option<Millis> {
        self.state.owes().then(|| self.moved + idle_timeout)
    }
}
