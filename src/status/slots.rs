//! Whether a poll is missing, and why: the slots of a chair, and of all chairs together, so that they add up.

use crate::model::time::Timestamp;
use crate::spool::slots::{ChairSlots, Missing};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Poll slots that were due, by what became of them. `due` is the sum of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// Slots that were due.
    pub due: u64,
    /// Slots that are being asked, or are on their way into the spool.
    pub open: u64,
    /// Slots whose values are in the spool, or were.
    pub captured: u64,
    /// Slots that are missing, by cause.
    pub missing: BTreeMap<String, u64>,
    /// Slots of which nobody knows what became of them.
    pub unaccounted: u64,
    /// The same over the last 24 hours, without those that are open.
    pub day: Day,
}

/// Slots of the last 24 hours, by the hour: what is older than that by less than an hour is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Day {
    /// Slots whose values were captured.
    pub captured: u64,
    /// Slots that are missing, by cause.
    pub missing: BTreeMap<String, u64>,
    /// Hours of it in which there was any slot.
    pub hours: u64,
}

impl Day {
    /// Slots that are missing.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing.values().sum()
    }

    /// Slots that were due.
    #[must_use]
    pub fn due(&self) -> u64 {
        self.captured.saturating_add(self.missing())
    }

    fn of(chair: &ChairSlots, now: Timestamp) -> Self {
        let this_hour = now.as_micros().div_euclid(3_600_000_000);
        let mut day = Self::default();
        for hour in chair.hours().iter().filter(|hour| (this_hour - 24..=this_hour).contains(&hour.hour)) {
            day.captured += hour.captured;
            day.hours += 1;
            add(&mut day.missing, &hour.missing);
        }
        day
    }
}

/// What the clock alone says of the slots of this run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Slots that were due up to now.
    pub by_now: u64,
    /// Slots that were due so long ago that something must be known of them.
    pub long_ago: u64,
}

impl Slots {
    /// The slots of one chair: what the records say, held against what the clock says.
    pub(super) fn of(chair: &ChairSlots, due: Due, now: Timestamp) -> Self {
        let known = chair.of_this_run();
        let open = due.by_now.saturating_sub(known);
        let late = chair.open_below(due.long_ago).min(open);
        let mut missing = BTreeMap::new();
        add(&mut missing, chair.missing());
        let mut slots = Self {
            due: 0,
            open: open - late,
            captured: chair.captured(),
            missing,
            unaccounted: chair.untold().saturating_add(late),
            day: Day::of(chair, now),
        };
        slots.due = slots.open + slots.captured + slots.missing() + slots.unaccounted;
        slots
    }

    /// A chair that has no record yet.
    pub(super) fn without_records(due: Due, now: Timestamp) -> Self {
        Self::of(&ChairSlots::default(), due, now)
    }

    /// Slots that are missing with a cause.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing.values().sum()
    }

    /// All of these together.
    #[must_use]
    pub fn sum<'a>(all: impl Iterator<Item = &'a Self>) -> Self {
        all.fold(Self::default(), |mut sum, slots| {
            sum.due += slots.due;
            sum.open += slots.open;
            sum.captured += slots.captured;
            sum.unaccounted += slots.unaccounted;
            sum.day.captured += slots.day.captured;
            sum.day.hours = sum.day.hours.max(slots.day.hours);
            merge(&mut sum.missing, &slots.missing);
            merge(&mut sum.day.missing, &slots.day.missing);
            sum
        })
    }
}

fn add(to: &mut BTreeMap<String, u64>, counts: &[u64]) {
    for (cause, count) in Missing::ALL.iter().zip(counts).filter(|(_, count)| **count > 0) {
        *to.entry(cause.words().to_owned()).or_default() += count;
    }
}

fn merge(to: &mut BTreeMap<String, u64>, counts: &BTreeMap<String, u64>) {
    for (cause, count) in counts {
        *to.entry(cause.clone()).or_default() += count;
    }
}
