//! Poll slots that nobody can fill any more become few records that say so: one a silence, not one a slot.

use crate::model::time::Timestamp;
use crate::privacy::record::{Gap, GapCause};
use crate::spool::slots::Left;
use chairside_drivers::kit::time::{Slot, Tick};
use std::time::Duration;

/// A silence that lasts is told piece by piece, so that a chart shows it before it is over.
pub(super) const PIECE: Duration = Duration::from_secs(5 * 60);

/// Slots in a row of this run that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Missed {
    /// The first one.
    pub(super) first: Slot,
    /// When, how many and why.
    pub(super) gap: Gap,
}

/// Collects the missed slots of one chair.
#[derive(Debug)]
pub(super) struct Gaps {
    every: Duration,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    missed: Missed,
    since: Tick,
}

impl Gaps {
    /// For a chair that is asked once in `every`.
    pub(super) const fn new(every: Duration) -> Self {
        Self { every, open: None }
    }

    /// `slots` slots in a row are missing, the first of them due at `at`. Returns the gap before them where its cause
    /// was another, or where it does not go on with them.
    pub(super) fn missed(
        &mut self,
        first: Slot,
        at: Timestamp,
        slots: u32,
        cause: GapCause,
        now: Tick,
    ) -> Option<Missed> {
        let to = at.after(self.every.saturating_mul(slots));
        match &mut self.open {
            Some(Open { missed, .. }) if missed.gap.cause == cause && missed.goes_on_with(first) => {
                missed.gap.slots = missed.gap.slots.saturating_add(slots);
                // Never backwards, where the wall clock was set back in the middle.
                missed.gap.to = missed.gap.to.max(to);
                None
            }
            _ => {
                let before = self.close();
                let gap = Gap { from: at, to, slots, cause };
                self.open = Some(Open { missed: Missed { first, gap }, since: now });
                before
            }
        }
    }

    /// The gap is over: the machine answered, or the gateway stops.
    pub(super) fn close(&mut self) -> Option<Missed> {
        self.open.take().map(|open| open.missed)
    }

    /// The piece of a silence that lasts and is long enough to be told.
    pub(super) fn piece(&mut self, now: Tick) -> Option<Missed> {
        self.open.take_if(|open| now.since(open.since) >= PIECE).map(|open| open.missed)
    }
}

impl Missed {
    fn goes_on_with(&self, slot: Slot) -> bool {
        self.first.0.checked_add(u64::from(self.gap.slots)) == Some(slot.0)
    }
}

/// What the run before left untold of a chair: slots it had heard of and not kept, and those that passed until `start`.
/// `alive` is when it is last known to have run.
pub(super) fn before_start(left: &Left, start: Timestamp, alive: Option<Timestamp>) -> Vec<Gap> {
    let mut gaps = left.holes.clone();
    let Some(through) = left.through else { return gaps };
    let every = left.every.as_micros();
    let slots = |until: Timestamp| until.since(through).as_micros().checked_div(every).unwrap_or(0);
    // Whole intervals: the one that runs is the first one of this run.
    let all = slots(start);
    let heard = match alive.filter(|_| left.cut_off) {
        Some(alive) => alive.since(through).as_micros().div_ceil(every.max(1)).min(all),
        None => 0,
    };
    let whole = |count: u128| u32::try_from(count).unwrap_or(u32::MAX);
    let turn = through.after(left.every.saturating_mul(whole(heard))).min(start);
    let piece = |from, to, count, cause| Gap { from, to, slots: whole(count), cause };
    gaps.push(piece(through, turn, heard, GapCause::Unkept));
    gaps.push(piece(turn, start, all - heard, GapCause::GatewayDown));
    gaps.retain(|gap| gap.slots > 0);
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVERY: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(0).after(Duration::from_secs(seconds))
    }

    fn tick(seconds: u64) -> Tick {
        Tick::ZERO.after(Duration::from_secs(seconds))
    }

    fn left(through: u64, cut_off: bool) -> Left {
        Left { through: Some(at(through)), every: EVERY, holes: Vec::new(), cut_off }
    }

    #[test]
    fn missed_slots_of_one_silence_become_one_gap() {
        let mut gaps = Gaps::new(EVERY);
        assert_eq!(gaps.missed(Slot(7), at(100), 1, GapCause::MachineSilent, tick(0)), None);
        assert_eq!(gaps.missed(Slot(8), at(110), 3, GapCause::MachineSilent, tick(10)), None);
        let gap = Gap { from: at(100), to: at(140), slots: 4, cause: GapCause::MachineSilent };
        assert_eq!(gaps.close(), Some(Missed { first: Slot(7), gap }));
        assert_eq!(gaps.close(), None);
    }

    #[test]
    fn another_cause_begins_another_gap() {
        let mut gaps = Gaps::new(EVERY);
        gaps.missed(Slot(0), at(100), 2, GapCause::MachineSilent, tick(0));
        let first = gaps.missed(Slot(2), at(120), 1, GapCause::LineDown, tick(20)).unwrap().gap;
        assert_eq!((first.slots, first.to, first.cause), (2, at(120), GapCause::MachineSilent));
        let second = gaps.close().unwrap().gap;
        assert_eq!((second.from, second.slots, second.cause), (at(120), 1, GapCause::LineDown));
    }

    #[test]
    fn a_slot_that_ends_behind_a_later_one_is_a_gap_of_its_own() {
        let mut gaps = Gaps::new(EVERY);
        gaps.missed(Slot(6), at(160), 2, GapCause::GatewayDown, tick(0));
        let later = gaps.missed(Slot(5), at(150), 1, GapCause::GatewayDown, tick(0)).unwrap();
        assert_eq!((later.first, later.gap.slots), (Slot(6), 2));
        assert_eq!(gaps.close().map(|missed| (missed.first, missed.gap.slots)), Some((Slot(5), 1)));
    }

    #[test]
    fn a_long_silence_is_told_every_five_minutes_and_no_slot_twice() {
        let mut gaps = Gaps::new(EVERY);
        let mut told = 0;
        for slot in 0..90 {
            gaps.missed(Slot(slot), at(slot * 10), 1, GapCause::MachineSilent, tick(slot * 10));
            told += gaps.piece(tick(slot * 10)).map_or(0, |missed| missed.gap.slots);
        }
        assert!(told >= 60, "{told}");
        assert_eq!(told + gaps.close().map_or(0, |missed| missed.gap.slots), 90);
    }

    #[test]
    fn a_stopped_gateway_leaves_a_gap_of_whole_slots() {
        assert_eq!(before_start(&left(100, false), at(109), None), []);
        assert_eq!(before_start(&left(200, false), at(100), None), [], "the clock was set back");
        let gap = Gap { from: at(100), to: at(145), slots: 4, cause: GapCause::GatewayDown };
        assert_eq!(before_start(&left(100, false), at(145), Some(at(120))), [gap]);
    }

    #[test]
    fn a_gateway_that_was_cut_off_had_heard_what_it_did_not_keep() {
        let unkept = Gap { from: at(100), to: at(120), slots: 2, cause: GapCause::Unkept };
        let down = Gap { from: at(120), to: at(145), slots: 2, cause: GapCause::GatewayDown };
        assert_eq!(before_start(&left(100, true), at(145), Some(at(111))), [unkept, down]);
        let all = Gap { from: at(100), to: at(140), slots: 4, cause: GapCause::Unkept };
        assert_eq!(before_start(&left(100, true), at(145), Some(at(999))), [all]);
    }

    #[test]
    fn where_no_clock_says_since_when_only_the_holes_are_told() {
        let hole = Gap { from: at(10), to: at(20), slots: 1, cause: GapCause::LostInStore };
        let left = Left { through: None, holes: vec![hole], ..left(0, true) };
        assert_eq!(before_start(&left, at(1_000_000), Some(at(50))), [hole]);
    }

    proptest! {
        #[test]
        fn the_gaps_before_a_start_are_its_whole_intervals_and_never_overlap(
            through in 0_u64..10_000, start in 0_u64..10_000, alive in proptest::option::of(0_u64..10_000), cut_off: bool,
        ) {
            let gaps = before_start(&left(through, cut_off), at(start), alive.map(at));
            let slots: u64 = gaps.iter().map(|gap| u64::from(gap.slots)).sum();
            prop_assert_eq!(slots, start.saturating_sub(through) / 10);
            for gap in &gaps {
                prop_assert!(at(through) <= gap.from && gap.from < gap.to && gap.to <= at(start));
            }
            prop_assert!(gaps.windows(2).all(|pair| pair[0].to <= pair[1].from));
        }
    }
}
