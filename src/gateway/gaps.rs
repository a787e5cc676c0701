//! Poll slots that nobody can fill any more become few records that say so: one a silence, not one a slot.

use crate::model::time::Timestamp;
use crate::privacy::record::{Gap, GapCause};
use chairside_drivers::kit::time::Tick;
use std::time::Duration;

/// A silence that lasts is told piece by piece, so that a chart shows it before it is over.
const PIECE: Duration = Duration::from_secs(5 * 60);

/// Collects the missed slots of one chair.
#[derive(Debug)]
pub(super) struct Gaps {
    every: Duration,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    gap: Gap,
    since: Tick,
}

impl Gaps {
    /// For a chair that is asked once in `every`.
    pub(super) const fn new(every: Duration) -> Self {
        Self { every, open: None }
    }

    /// `slots` slots in a row are missing, the first of them due at `at`. Returns the gap before them where its cause
    /// was another.
    pub(super) fn missed(&mut self, at: Timestamp, slots: u32, cause: GapCause, now: Tick) -> Option<Gap> {
        let to = at.after(self.every.saturating_mul(slots));
        match &mut self.open {
            Some(open) if open.gap.cause == cause => {
                open.gap.slots = open.gap.slots.saturating_add(slots);
                // Never backwards, where the wall clock was set back in the middle.
                open.gap.to = open.gap.to.max(to);
                None
            }
            _ => {
                let before = self.close();
                self.open = Some(Open { gap: Gap { from: at, to, slots, cause }, since: now });
                before
            }
        }
    }

    /// The gap is over: the machine answered, or the gateway stops.
    pub(super) fn close(&mut self) -> Option<Gap> {
        self.open.take().map(|open| open.gap)
    }

    /// The piece of a silence that lasts and is long enough to be told.
    pub(super) fn piece(&mut self, now: Tick) -> Option<Gap> {
        self.open.take_if(|open| now.since(open.since) >= PIECE).map(|open| open.gap)
    }

    /// Up to when everything is accounted for, where a silence is not told yet.
    pub(super) fn untold_since(&self) -> Option<Timestamp> {
        self.open.as_ref().map(|open| open.gap.from)
    }
}

/// What was missed while the gateway did not run: whole intervals between the last slot accounted for and now.
pub(super) fn while_down(last: Timestamp, now: Timestamp, every: Duration) -> Option<Gap> {
    let slots = now.since(last).as_micros().checked_div(every.as_micros())?;
    let slots = u32::try_from(slots).unwrap_or(u32::MAX);
    (slots > 0).then_some(Gap { from: last, to: now, slots, cause: GapCause::GatewayDown })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(0).after(Duration::from_secs(seconds))
    }

    fn tick(seconds: u64) -> Tick {
        Tick::ZERO.after(Duration::from_secs(seconds))
    }

    #[test]
    fn missed_slots_of_one_silence_become_one_gap() {
        let mut gaps = Gaps::new(EVERY);
        assert_eq!(gaps.missed(at(100), 1, GapCause::MachineSilent, tick(0)), None);
        assert_eq!(gaps.missed(at(110), 3, GapCause::MachineSilent, tick(10)), None);
        assert_eq!(gaps.untold_since(), Some(at(100)));
        let gap = Gap { from: at(100), to: at(140), slots: 4, cause: GapCause::MachineSilent };
        assert_eq!(gaps.close(), Some(gap));
        assert_eq!((gaps.close(), gaps.untold_since()), (None, None));
    }

    #[test]
    fn another_cause_begins_another_gap() {
        let mut gaps = Gaps::new(EVERY);
        gaps.missed(at(100), 2, GapCause::MachineSilent, tick(0));
        let first = gaps.missed(at(120), 1, GapCause::LineDown, tick(20)).unwrap();
        assert_eq!((first.slots, first.to, first.cause), (2, at(120), GapCause::MachineSilent));
        let second = gaps.close().unwrap();
        assert_eq!((second.from, second.slots, second.cause), (at(120), 1, GapCause::LineDown));
    }

    #[test]
    fn a_long_silence_is_told_every_five_minutes_and_no_slot_twice() {
        let mut gaps = Gaps::new(EVERY);
        let mut told = 0;
        for slot in 0..90 {
            gaps.missed(at(slot * 10), 1, GapCause::MachineSilent, tick(slot * 10));
            told += gaps.piece(tick(slot * 10)).map_or(0, |gap| gap.slots);
        }
        assert!(told >= 60, "{told}");
        assert_eq!(told + gaps.close().map_or(0, |gap| gap.slots), 90);
    }

    #[test]
    fn a_stopped_gateway_leaves_a_gap_of_whole_slots() {
        assert_eq!(while_down(at(100), at(109), EVERY), None);
        assert_eq!(while_down(at(200), at(100), EVERY), None);
        let gap = while_down(at(100), at(145), EVERY).unwrap();
        assert_eq!((gap.from, gap.to, gap.slots), (at(100), at(145), 4));
    }
}
