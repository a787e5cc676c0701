//! The slots of one chair: what the records of a run account for, and what lies between them.

use super::hours::{Hour, Hours};
use super::{Causes, Left, Missing};
use crate::model::time::{ClockTrust, Timestamp};
use crate::privacy::record::{Gap, GapCause};
use std::time::Duration;

/// Ranges that are kept of one chair; older ones are only in the counts.
const RANGES: usize = 64;

/// Holes that are told apart; more than that is one damage, and told as one.
const HOLES: usize = 64;

/// Slots in a row that are missing for one cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Start of the first one.
    pub from: Timestamp,
    /// End of the last one.
    pub to: Timestamp,
    /// How many.
    pub slots: u64,
    /// Why.
    pub cause: Missing,
}

/// Slots of the present run between two that are accounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) first: u64,
    pub(super) slots: u64,
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
    /// A record of the store is missing there.
    pub(super) lost: bool,
}

/// The slots of one chair.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ChairSlots {
    pub(super) every: Duration,
    pub(super) captured: u64,
    pub(super) missing: Causes,
    /// The next slot of this run.
    pub(super) next: u64,
    pub(super) holes: Vec<Hole>,
    /// Holes of runs before, until a gap record tells of them.
    pub(super) untold: Vec<Gap>,
    /// End of the last slot that is accounted for, where the clock could be trusted.
    pub(super) through: Option<Timestamp>,
    /// A record is missing since the last one of this chair.
    pub(super) lost: bool,
    pub(super) hours: Hours,
    pub(super) ranges: Vec<Range>,
}

impl ChairSlots {
    /// Slots whose values are in the spool, or were.
    #[must_use]
    pub const fn captured(&self) -> u64 {
        self.captured
    }

    /// Slots that are missing with a cause.
    #[must_use]
    pub const fn missing(&self) -> &Causes {
        &self.missing
    }

    /// Slots of runs before that no record accounts for yet.
    #[must_use]
    pub fn untold(&self) -> u64 {
        self.untold.iter().map(|gap| u64::from(gap.slots)).sum()
    }

    /// Slots of this run that are accounted for.
    #[must_use]
    pub fn of_this_run(&self) -> u64 {
        self.next.saturating_sub(self.holes.iter().map(|hole| hole.slots).sum())
    }

    /// Slots of this run below `slot` that are not accounted for.
    #[must_use]
    pub fn open_below(&self, slot: u64) -> u64 {
        let below = |hole: &Hole| slot.saturating_sub(hole.first).min(hole.slots);
        let holes: u64 = self.holes.iter().map(below).sum();
        holes.saturating_add(slot.saturating_sub(self.next))
    }

    /// The last hours, oldest first.
    #[must_use]
    pub fn hours(&self) -> &[Hour] {
        self.hours.all()
    }

    /// The last ranges of missing slots, oldest first.
    #[must_use]
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    pub(super) fn answered(&mut self, slot: u64, at: Timestamp, clock: ClockTrust) {
        let to = at.after(self.every);
        self.account(slot, 1, at);
        self.reach(to, clock);
        self.captured = self.captured.saturating_add(1);
        if clock == ClockTrust::Trusted {
            self.hours.captured(at);
        }
    }

    pub(super) fn missed(&mut self, slot: u64, gap: Gap, clock: ClockTrust) {
        self.account(slot, u64::from(gap.slots), gap.from);
        self.miss(gap, clock);
    }

    /// A gap that is no slot of this run: what was missed before it, told by it.
    pub(super) fn told_afterwards(&mut self, gap: Gap, clock: ClockTrust) {
        match self.untold.iter().position(|untold| *untold == gap) {
            Some(place) => {
                self.untold.remove(place);
                self.count(gap, clock);
            }
            None => self.miss(gap, clock),
        }
    }

    pub(super) fn evicted(&mut self, from: Timestamp, to: Timestamp, records: u64) {
        // Only readings are evicted, and each is one slot.
        self.captured = self.captured.saturating_sub(records);
        self.add(Missing::Evicted, records);
        self.hours.evicted(from, to, records);
        self.range(Range { from, to, slots: records, cause: Missing::Evicted });
    }

    /// The wall clock was set; what was counted from it moves along.
    pub(super) fn clock_stepped(&mut self, by: i64) {
        self.through = self.through.map(|through| through.shifted(by));
    }

    pub(super) const fn record_lost(&mut self) {
        self.lost = true;
    }

    pub(super) fn begin(&mut self, every: Duration, cut_off: bool) -> Left {
        self.turn();
        let left = Left { through: self.through, every: self.every, holes: self.untold.clone(), cut_off };
        self.every = every;
        left
    }

    /// The chair is not asked any more: no slot of it is due until it is back. Nobody is left to write its holes down, so they count
    /// as missing from here on. Gives how many slots that are.
    pub(super) fn retire(&mut self) -> u64 {
        self.turn();
        self.through = None;
        let slots = self.untold();
        let untold = std::mem::take(&mut self.untold);
        untold.into_iter().for_each(|gap| self.count(gap, ClockTrust::Trusted));
        slots
    }

    /// The next slot is the first one of a run.
    fn turn(&mut self) {
        let tell = |hole: &Hole| Gap {
            from: hole.from,
            to: hole.to,
            slots: u32::try_from(hole.slots).unwrap_or(u32::MAX),
            cause: if hole.lost { GapCause::LostInStore } else { GapCause::Unkept },
        };
        self.untold.extend(self.holes.drain(..).map(|hole| tell(&hole)));
        (self.next, self.lost) = (0, false);
    }

    fn account(&mut self, first: u64, slots: u64, from: Timestamp) {
        if first < self.next && !self.fill(first, slots) {
            // Slot numbers start again only with a run. It did not come to say so.
            self.turn();
        }
        if first >= self.next {
            if first > self.next {
                self.open_hole(first, from);
            }
            self.next = first.saturating_add(slots);
            self.lost = false;
        }
    }

    fn open_hole(&mut self, until: u64, to: Timestamp) {
        let from = self.through.filter(|through| *through <= to).unwrap_or(to);
        let hole = Hole { first: self.next, slots: until - self.next, from, to, lost: self.lost };
        let many = self.holes.len() >= HOLES;
        match self.holes.last_mut() {
            Some(last) if many => {
                last.slots = last.slots.saturating_add(hole.slots);
                last.to = to;
            }
            _ => self.holes.push(hole),
        }
    }

    /// A slot that comes after later ones: the driver was still busy with it. False where it is no slot of a hole.
    fn fill(&mut self, first: u64, slots: u64) -> bool {
        let Some(end) = first.checked_add(slots) else { return false };
        let holds = |hole: &Hole| hole.first <= first && end <= hole.first.saturating_add(hole.slots);
        let Some(place) = self.holes.iter().position(holds) else { return false };
        let hole = self.holes.remove(place);
        let before = Hole { slots: first - hole.first, ..hole };
        let behind = Hole { first: end, slots: (hole.first + hole.slots) - end, ..hole };
        let rest = [before, behind].into_iter().filter(|hole| hole.slots > 0);
        self.holes.splice(place..place, rest);
        true
    }

    fn miss(&mut self, gap: Gap, clock: ClockTrust) {
        self.reach(gap.to, clock);
        self.count(gap, clock);
    }

    fn count(&mut self, gap: Gap, clock: ClockTrust) {
        let (cause, slots) = (Missing::from(gap.cause), u64::from(gap.slots));
        self.add(cause, slots);
        if clock == ClockTrust::Trusted {
            self.hours.missed(gap.from, gap.to, slots, cause);
        }
        self.range(Range { from: gap.from, to: gap.to, slots, cause });
    }

    fn add(&mut self, cause: Missing, slots: u64) {
        if let Some(count) = self.missing.get_mut(cause as usize) {
            *count = count.saturating_add(slots);
        }
    }

    /// Everything up to `to` is accounted for. It goes back where the clock was set back: later records count from there.
    const fn reach(&mut self, to: Timestamp, clock: ClockTrust) {
        self.through = match clock {
            ClockTrust::Trusted | ClockTrust::Retimed => Some(to),
            ClockTrust::Untrusted | ClockTrust::Between { .. } => None,
        };
    }

    /// A long silence is told piece by piece and shown as one.
    fn range(&mut self, range: Range) {
        let slack = self.every;
        let goes_on = |last: &Range| {
            last.cause == range.cause && range.from >= last.from && range.from <= last.to.after(slack)
        };
        if let Some(last) = self.ranges.last_mut().filter(|last| goes_on(last)) {
            last.to = last.to.max(range.to);
            last.slots = last.slots.saturating_add(range.slots);
            return;
        }
        if self.ranges.len() >= RANGES {
            self.ranges.remove(0);
        }
        self.ranges.push(range);
    }
}
