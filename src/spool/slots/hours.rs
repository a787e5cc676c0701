//! The slots of one chair by the hour, for the last day.

use super::{Causes, Missing};
use crate::model::time::Timestamp;

/// Hours that are kept: the one that runs, and a day before it.
const KEPT: i64 = 25;

const HOUR: i64 = 3_600_000_000;

/// What became of the slots of one hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Hour {
    /// Hours since 1970.
    pub hour: i64,
    /// Slots whose values were kept.
    pub captured: u64,
    /// Slots that are missing.
    pub missing: Causes,
}

/// The last hours of one chair, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Hours(pub(super) Vec<Hour>);

impl Hours {
    pub(super) fn all(&self) -> &[Hour] {
        &self.0
    }

    pub(super) fn captured(&mut self, at: Timestamp) {
        if let Some(hour) = self.hour(at.as_micros().div_euclid(HOUR)) {
            hour.captured = hour.captured.saturating_add(1);
        }
    }

    /// Spreads the slots over the hours they were due in.
    pub(super) fn missed(&mut self, from: Timestamp, to: Timestamp, slots: u64, cause: Missing) {
        let (from, to) = (from.as_micros(), to.as_micros().max(from.as_micros()));
        let last = (to - 1).max(from).div_euclid(HOUR);
        // Hours that would not be kept anyway are not walked through.
        let first = from.div_euclid(HOUR).max(last - KEPT);
        let due_before = |at: i64| -> u64 {
            let span = i128::from(to - from).max(1);
            let share = i128::from(at.clamp(from, to) - from) * i128::from(slots);
            // Slots are due at the start of their share of the span.
            u64::try_from((share + span - 1) / span).unwrap_or(slots).min(slots)
        };
        for number in first..=last {
            let begins = number.saturating_mul(HOUR);
            let until = if number == last { slots } else { due_before(begins.saturating_add(HOUR)) };
            let here = until.saturating_sub(due_before(begins));
            if here == 0 {
                continue;
            }
            if let Some(count) = self.hour(number).and_then(|hour| hour.missing.get_mut(cause as usize)) {
                *count = count.saturating_add(here);
            }
        }
    }

    /// What was captured then is gone.
    pub(super) fn evicted(&mut self, from: Timestamp, to: Timestamp, records: u64) {
        let (first, last) = (from.as_micros().div_euclid(HOUR), to.as_micros().div_euclid(HOUR));
        let mut left = records;
        for hour in self.0.iter_mut().filter(|hour| (first..=last).contains(&hour.hour)) {
            let here = left.min(hour.captured);
            hour.captured -= here;
            left -= here;
            if let Some(count) = hour.missing.get_mut(Missing::Evicted as usize) {
                *count = count.saturating_add(here);
            }
        }
    }

    /// The counts of an hour; `None` for one that is too old to be kept.
    fn hour(&mut self, number: i64) -> Option<&mut Hour> {
        let place = match self.0.binary_search_by_key(&number, |hour| hour.hour) {
            Ok(place) => place,
            Err(place) => {
                let newest = self.0.last().map_or(number, |hour| hour.hour.max(number));
                if number <= newest - KEPT {
                    return None;
                }
                self.0.insert(place, Hour { hour: number, ..Hour::default() });
                let before = self.0.len();
                self.0.retain(|hour| hour.hour > newest - KEPT);
                place - (before - self.0.len())
            }
        };
        self.0.get_mut(place)
    }
}
