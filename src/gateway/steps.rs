//! Steps of the wall clock: every chair sees them, and one record tells of each.

use crate::clock::STEP;
use crate::model::time::ClockStep;
use chairside_drivers::kit::time::Tick;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// So many steps are remembered; chairs see one within seconds of each other.
const REMEMBERED: usize = 16;

/// The steps that were told of lately.
#[derive(Debug, Default)]
pub(super) struct Steps(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    told: VecDeque<Told>,
    /// Those that nobody has noted yet for the people who look after the gateway.
    unnoted: VecDeque<ClockStep>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    after: Tick,
    by: Tick,
    micros: i64,
}

impl Steps {
    /// Whether nobody has told of this step yet, which happened after one tick and by the other. From now on somebody has.
    pub(super) fn is_news(&self, step: ClockStep, after: Tick, by: Tick) -> bool {
        let told = Told { after, by, micros: step.found.micros_since(step.expected) };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.told.iter().any(|known| known.is_the_same(told)) {
            return false;
        }
        known.told.truncate(REMEMBERED - 1);
        known.told.push_front(told);
        known.unnoted.push_back(step);
        true
    }

    /// The steps since the last time that somebody asked, oldest first.
    pub(super) fn take_unnoted(&self) -> VecDeque<ClockStep> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).unnoted)
    }
}

impl Told {
    /// Seen over the same stretch, and as wide but for what two looks at two clocks may differ by.
    fn is_the_same(self, other: Self) -> bool {
        let is_as_wide = u128::from(self.micros.abs_diff(other.micros)) <= STEP.as_micros();
        self.after < other.by && other.after < self.by && is_as_wide
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;
    use std::time::Duration;

    fn step(seconds: i64) -> ClockStep {
        let expected = Timestamp::from_micros(1_800_000_000_000_000);
        ClockStep { expected, found: expected.shifted(seconds * 1_000_000) }
    }

    fn tick(seconds: u64) -> Tick {
        Tick::ZERO.after(Duration::from_secs(seconds))
    }

    #[test]
    fn one_step_that_many_chairs_see_is_told_once() {
        let steps = Steps::default();
        assert!(steps.is_news(step(3600), tick(10), tick(20)));
        assert!(!steps.is_news(step(3601), tick(12), tick(22)));
        assert!(!steps.is_news(step(3600), tick(19), tick(29)));
        assert_eq!(steps.take_unnoted(), [step(3600)]);
        assert_eq!(steps.take_unnoted(), []);
    }

    #[test]
    fn the_next_step_and_one_of_another_width_are_told() {
        let steps = Steps::default();
        assert!(steps.is_news(step(3600), tick(10), tick(20)));
        assert!(steps.is_news(step(3600), tick(20), tick(30)));
        assert!(steps.is_news(step(-3600), tick(12), tick(22)));
        assert!(!steps.is_news(step(3600), tick(15), tick(19)), "a slow chair sees the first one late");
    }
}
