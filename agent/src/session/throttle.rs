//! Progress comes as fast as batches go by; the coordinator needs to hear twice a second that
//! something moves.

use consilium_common::time::Millis;
use consilium_common::wire::messages::SitePhase;

/// Two reports of one phase are at least so far apart. Well below any sensible idle timeout.
const INTERVAL: Millis = Millis(500);

/// Where a piece of work stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) phase: SitePhase,
    pub(super) done: u64,
    pub(super) total: u64,
}

impl Report {
    pub(super) fn start(phase: SitePhase) -> Self {
        Self { phase, done: 0, total: 0 }
    }
}

/// Lets the first report of a phase through at once, then one an interval, and never swallows the
/// newest: it goes out when the interval is over.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    sent: Option<(Millis, SitePhase)>,
    pending: Option<Report>,
}

impl Throttle {
    /// Something moved; the report to send now, if any.
    pub(super) fn moved(&mut self, report: Report, now: Millis) -> Option<Report> {
        let due = match self.sent {
            Some((at, phase)) => phase != report.phase || now >= at + INTERVAL,
            None => true,
        };
        if due {
            self.sent = Some((now, report.phase));
            self.pending = None;
            return Some(report);
        }
        self.pending = Some(report);
        None
    }

    /// The report that waited for its interval.
    pub(super) fn due(&mut self, now: Millis) -> Option<Report> {
        let report = self.pending?;
        self.moved(report, now)
    }

    pub(super) fn next_deadline(&self) -> Option<Millis> {
        self.pending?;
        self.sent.map(|(at, _)| at + INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training(done: u64) -> Report {
        Report { phase: SitePhase::Training, done, total: 100 }
    }

    #[test]
    fn the_first_report_and_a_new_phase_pass_at_once_and_the_newest_is_never_lost() {
        let mut throttle = Throttle::default();
        assert_eq!(throttle.moved(training(1), Millis(0)), Some(training(1)));
        assert_eq!(throttle.moved(training(2), Millis(10)), None);
        assert_eq!(throttle.moved(training(3), Millis(20)), None);
        assert_eq!(throttle.next_deadline(), Some(Millis(500)));
        assert_eq!(throttle.due(Millis(499)), None);
        assert_eq!(throttle.due(Millis(500)), Some(training(3)));
        assert_eq!(throttle.next_deadline(), None);
        let encoding = Report::start(SitePhase::Encoding);
        assert_eq!(throttle.moved(encoding, Millis(501)), Some(encoding));
    }
}
