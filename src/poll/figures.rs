//! What one line has counted since the start, for `status` and the demo's verdict.

use crate::line::Gate;
use crate::poll::event::MissCause;
use crate::poll::schedule::Schedule;
use chairside_drivers::kit::driver::Trouble;
use chairside_drivers::kit::time::{Slot, Tick};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The counters of one line; one writer, any number of readers.
#[derive(Debug, Default)]
pub struct Figures(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    figures: LineFigures,
    slots: Slots,
}

/// Where the slots of a line stand.
#[derive(Debug, Default)]
struct Slots {
    /// When slot 0 was due, and the interval.
    begun: Option<(Tick, Duration)>,
    /// The slot behind the last one that was told.
    next: u64,
    /// Slots that were asked and not told yet, with the time they were due.
    asked: BTreeMap<Slot, Tick>,
}

/// Where a conversation goes on after one that ended by a fault of ours.
#[derive(Debug)]
pub(super) struct Resumed {
    pub(super) schedule: Schedule,
    /// Slots that the one before left open.
    pub(super) open: BTreeMap<Slot, Tick>,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineFigures {
    /// How often the port was opened.
    pub opened: u64,
    /// Slots that were answered.
    pub answered: u64,
    /// Slots that were missed, by cause.
    pub missed: BTreeMap<&'static str, u64>,
    /// Requests that went out, by name.
    pub sent: BTreeMap<&'static str, u64>,
    /// What was wrong on the line, by its word.
    pub troubles: BTreeMap<&'static str, u64>,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Bytes that were no part of a valid answer.
    pub bytes_dropped: u64,
}

impl Slots {
    fn told(&mut self, first: Slot, slots: u32) {
        let end = first.0.saturating_add(u64::from(slots));
        self.asked.retain(|slot, _| !(first.0..end).contains(&slot.0));
        self.next = self.next.max(end);
    }
}

impl LineFigures {
    /// Slots that were missed, whatever the cause.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.values().sum()
    }
}

impl Figures {
    /// The counters now.
    #[must_use]
    pub fn now(&self) -> LineFigures {
        self.lock().figures.clone()
    }

    /// How many slots were due up to `now` since the start, by the clock alone.
    #[must_use]
    pub fn due(&self, now: Tick) -> u64 {
        self.lock().slots.begun.map_or(0, |(start, every)| Schedule::due_by(start, every, now))
    }

    /// How many slots were due up to that long before `now`.
    #[must_use]
    pub fn due_before(&self, now: Tick, ago: Duration) -> u64 {
        let Some((start, every)) = self.lock().slots.begun else { return 0 };
        let then = Tick::from_micros(
            now.as_micros().saturating_sub(u64::try_from(ago.as_micros()).unwrap_or(u64::MAX)),
        );
        Schedule::due_by(start, every, then)
    }

    /// The schedule of this line: it begins now, or goes on where the conversation before left it.
    pub(super) fn resume(&self, now: Tick, every: Duration) -> Resumed {
        let mut counted = self.lock();
        let (start, every) = *counted.slots.begun.get_or_insert((now, every));
        let open = std::mem::take(&mut counted.slots.asked);
        let behind_open = open.keys().next_back().map_or(0, |slot| slot.0.saturating_add(1));
        let next = counted.slots.next.max(behind_open);
        Resumed { schedule: Schedule::resumed(start, every, next), open }
    }

    pub(super) fn asked(&self, slot: Slot, due: Tick) {
        self.lock().slots.asked.insert(slot, due);
    }

    pub(super) fn opened(&self) {
        self.lock().figures.opened += 1;
    }

    pub(super) fn answered(&self, slot: Slot) {
        let mut counted = self.lock();
        counted.figures.answered += 1;
        counted.slots.told(slot, 1);
    }

    pub(super) fn missed(&self, cause: MissCause, slot: Slot, slots: u32) {
        let mut counted = self.lock();
        *counted.figures.missed.entry(cause.word()).or_default() += u64::from(slots);
        counted.slots.told(slot, slots);
    }

    pub(super) fn read(&self, bytes: usize) {
        self.lock().figures.bytes_read += bytes as u64;
    }

    pub(super) fn sent(&self, gate: &Gate) {
        self.lock().figures.sent = gate.counts().collect();
    }

    pub(super) fn trouble(&self, trouble: Trouble) {
        let mut counted = self.lock();
        let figures = &mut counted.figures;
        let word = match trouble {
            Trouble::Junk { why, bytes } => {
                figures.bytes_dropped += bytes as u64;
                why.word()
            }
            Trouble::Unexpected => "unexpected",
            Trouble::Overrun => "overrun",
        };
        *figures.troubles.entry(word).or_default() += 1;
    }

    /// A driver ended a poll that nobody had asked for, or gave more samples than any machine has.
    pub(super) fn driver_fault(&self, word: &'static str) {
        *self.lock().figures.troubles.entry(word).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        // Counting cannot leave the figures half-written; a panic elsewhere is no reason to lose them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
