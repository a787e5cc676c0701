//! The circuit breaker of one upstream: how long to wait after a failure, and how many records to risk next.

use crate::spool::BatchLimit;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Back-off starts here and never gets shorter: a receiver that comes and goes sees one connection a second at most.
pub(super) const SHORTEST_WAIT: Duration = Duration::from_secs(1);
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// How often a paused upstream looks whether a person has put it right.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Records of one lease at most. A poll is up to sixty resources, so this is thousands of them.
const MOST_RECORDS: usize = 64;
/// The first lease: how quick the receiver is will be seen.
const FIRST_RECORDS: usize = 4;
/// A lease that takes longer than this makes the next ones smaller: fresh records wait behind the backlog ...
const SLOW: Duration = Duration::from_secs(2);
/// ... and one that is done sooner than this lets them grow.
const QUICK: Duration = Duration::from_millis(700);

/// How an upstream is tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Circuit {
    /// It takes records: as many at a time as it takes quickly.
    #[default]
    Closed,
    /// It failed: nothing is sent until the wait is over.
    Open,
    /// The wait is over: a single record shows whether it is back.
    Probing,
}

#[derive(Debug)]
pub(super) struct Breaker {
    circuit: Circuit,
    records: usize,
    /// The last lease was done quickly.
    is_quick: bool,
    backoff: Backoff,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            circuit: Circuit::Closed,
            records: FIRST_RECORDS,
            is_quick: false,
            backoff: Backoff::default(),
        }
    }
}

impl Breaker {
    pub(super) const fn circuit(&self) -> Circuit {
        self.circuit
    }

    /// Records to lease next.
    pub(super) const fn lease(&self) -> BatchLimit {
        let records = match self.circuit {
            Circuit::Closed => self.records,
            Circuit::Open | Circuit::Probing => 1,
        };
        BatchLimit { records }
    }

    /// Whether the receiver takes the largest leases, and quickly.
    pub(super) fn is_at_full_speed(&self) -> bool {
        self.circuit == Circuit::Closed && self.is_quick && self.records == MOST_RECORDS
    }

    /// The receiver took or judged something, whatever came after that.
    pub(super) fn answered(&mut self) {
        self.backoff = Backoff::default();
    }

    /// A lease of this many records went through.
    pub(super) fn passed(&mut self, records: usize, took: Duration) {
        self.circuit = Circuit::Closed;
        self.is_quick = took < QUICK;
        if took > SLOW {
            self.records = (self.records.min(records) / 2).max(1);
        } else if self.is_quick && records >= self.records {
            self.records = (self.records * 2).min(MOST_RECORDS);
        }
    }

    /// The receiver is not ready: opens, and says for how long.
    pub(super) fn failed(&mut self, at_least: Option<Duration>) -> Duration {
        self.open();
        self.backoff.next().max(at_least.unwrap_or_default())
    }

    /// A person is needed: opens, and says for how long.
    pub(super) fn paused(&mut self) -> Duration {
        self.open();
        LOOK_AGAIN
    }

    fn open(&mut self) {
        self.circuit = Circuit::Open;
        // A receiver that has just come back gets no more than a new one.
        self.records = self.records.min(FIRST_RECORDS);
    }

    /// The wait is over.
    pub(super) fn waited(&mut self) {
        self.circuit = Circuit::Probing;
    }
}

/// Full jitter: anything between nothing and a step that doubles, but never less than a second.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    steps: u32,
    random: RandomState,
}

impl Backoff {
    pub(super) fn next(&mut self) -> Duration {
        let step = SHORTEST_WAIT.saturating_mul(1 << self.steps.min(16)).min(LONGEST_WAIT);
        self.steps += 1;
        let span = u64::try_from(step.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(self.random.hash_one(self.steps) % span).max(SHORTEST_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_one_record_is_risked_and_then_more_and_more() {
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            breaker.passed(breaker.lease().records, Duration::from_millis(10));
        }
        assert_eq!((breaker.circuit(), breaker.lease().records), (Circuit::Closed, MOST_RECORDS));
        assert!(breaker.failed(None) >= SHORTEST_WAIT);
        assert_eq!((breaker.circuit(), breaker.lease().records), (Circuit::Open, 1));
        breaker.waited();
        assert_eq!((breaker.circuit(), breaker.lease().records), (Circuit::Probing, 1));
        breaker.passed(1, Duration::from_millis(10));
        assert_eq!((breaker.circuit(), breaker.lease().records), (Circuit::Closed, FIRST_RECORDS));
    }

    #[test]
    fn a_slow_receiver_is_leased_fewer_records_and_a_quick_one_more() {
        let mut breaker = Breaker::default();
        breaker.passed(4, Duration::from_secs(3));
        assert_eq!(breaker.lease().records, 2);
        breaker.passed(2, Duration::from_secs(30));
        breaker.passed(1, Duration::from_secs(30));
        assert_eq!(breaker.lease().records, 1);
        breaker.passed(1, Duration::from_secs(1));
        assert_eq!(breaker.lease().records, 1, "in good time");
        breaker.passed(1, Duration::from_millis(100));
        assert_eq!(breaker.lease().records, 2);
        breaker.passed(1, Duration::from_millis(100));
        assert_eq!(breaker.lease().records, 2, "there was no more to send");
    }

    #[test]
    fn waits_grow_and_never_fall_below_a_second_or_what_the_receiver_said() {
        let mut breaker = Breaker::default();
        let waits: Vec<Duration> = (0..200).map(|_| breaker.failed(None)).collect();
        assert!(waits.iter().all(|wait| (SHORTEST_WAIT..=LONGEST_WAIT).contains(wait)));
        assert!(waits.iter().any(|wait| *wait > Duration::from_secs(60)));
        assert_eq!(breaker.failed(Some(Duration::from_secs(900))), Duration::from_secs(900));
        breaker.answered();
        assert_eq!(breaker.failed(None), SHORTEST_WAIT);
    }
}
