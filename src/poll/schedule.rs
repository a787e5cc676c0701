//! When a chair's machine is asked: slot n is due n intervals after the start, for ever, whatever happens between.

use chairside_drivers::kit::time::{Slot, Tick};
use std::time::Duration;

/// The slots of one chair, in order.
#[derive(Debug)]
pub struct Schedule {
    start: Tick,
    every: Duration,
    next: u64,
}

/// A slot that has come, and those nobody came for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The newest slot that is due.
    pub slot: Slot,
    /// When it was due.
    pub at: Tick,
    /// Slots before it that passed unasked: asking late for all of them would bunch, so they are counted instead.
    pub skipped: Option<Skipped>,
}

/// Slots in a row that passed unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The first one.
    pub first: Slot,
    /// When the first one was due.
    pub at: Tick,
    /// How many.
    pub slots: u32,
}

impl Schedule {
    /// Slots from `start` on. An interval below a millisecond is a millisecond.
    #[must_use]
    pub fn new(start: Tick, every: Duration) -> Self {
        Self { start, every: every.max(Duration::from_millis(1)), next: 0 }
    }

    /// The same, with the slots below `next` behind it.
    #[must_use]
    pub fn resumed(start: Tick, every: Duration, next: u64) -> Self {
        Self { next, ..Self::new(start, every) }
    }

    /// How many slots were due up to `now`, whatever became of them.
    #[must_use]
    pub fn due_by(start: Tick, every: Duration, now: Tick) -> u64 {
        if now < start {
            return 0;
        }
        Self::new(start, every).newest(now).saturating_add(1)
    }

    /// When the next slot is due.
    #[must_use]
    pub fn next_due(&self) -> Tick {
        self.due(self.next)
    }

    /// The newest slot that is due now, if one is; it is not given again.
    pub fn take(&mut self, now: Tick) -> Option<Due> {
        if now < self.next_due() {
            return None;
        }
        let newest = self.newest(now);
        let skipped = (newest > self.next).then(|| Skipped {
            first: Slot(self.next),
            at: self.next_due(),
            slots: u32::try_from(newest - self.next).unwrap_or(u32::MAX),
        });
        self.next = newest.saturating_add(1);
        Some(Due { slot: Slot(newest), at: self.due(newest), skipped })
    }

    fn due(&self, slot: u64) -> Tick {
        let micros = self.micros().saturating_mul(slot);
        self.start.after(Duration::from_micros(micros))
    }

    fn newest(&self, now: Tick) -> u64 {
        let passed = now.as_micros().saturating_sub(self.start.as_micros());
        (passed / self.micros()).max(self.next)
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.every.as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVERY: Duration = Duration::from_secs(10);

    fn seconds(seconds: u64) -> Tick {
        Tick::ZERO.after(Duration::from_secs(seconds))
    }

    #[test]
    fn the_first_slot_is_due_at_once_and_the_next_ones_on_the_interval() {
        let mut schedule = Schedule::new(seconds(3), EVERY);
        assert_eq!(schedule.take(seconds(2)), None);
        assert_eq!(schedule.take(seconds(3)), Some(Due { slot: Slot(0), at: seconds(3), skipped: None }));
        assert_eq!(schedule.take(seconds(12)), None);
        assert_eq!(schedule.next_due(), seconds(13));
        assert_eq!(schedule.take(seconds(14)), Some(Due { slot: Slot(1), at: seconds(13), skipped: None }));
        assert_eq!(schedule.next_due(), seconds(23), "a late poll does not move the next one");
    }

    #[test]
    fn slots_that_passed_unasked_are_counted_and_not_bunched() {
        let mut schedule = Schedule::new(seconds(0), EVERY);
        schedule.take(seconds(0));
        let due = schedule.take(seconds(47)).unwrap();
        assert_eq!(due.slot, Slot(4));
        assert_eq!(due.skipped, Some(Skipped { first: Slot(1), at: seconds(10), slots: 3 }));
        assert_eq!(schedule.take(seconds(47)), None);
    }

    proptest! {
        #[test]
        fn every_slot_is_given_or_counted_exactly_once(every in 1_u64..50, steps in prop::collection::vec(0_u64..400, 1..60)) {
            let mut schedule = Schedule::new(Tick::ZERO, Duration::from_millis(every));
            let mut now = Tick::ZERO;
            let mut expected = 0;
            for step in steps {
                now = now.after(Duration::from_millis(step));
                if let Some(due) = schedule.take(now) {
                    if let Some(skipped) = due.skipped {
                        prop_assert_eq!(skipped.first, Slot(expected));
                        expected += u64::from(skipped.slots);
                    }
                    prop_assert_eq!(due.slot, Slot(expected));
                    prop_assert!(due.at <= now);
                    expected += 1;
                }
            }
            prop_assert_eq!(expected, now.as_micros() / (every * 1_000) + 1);
        }
    }
}
