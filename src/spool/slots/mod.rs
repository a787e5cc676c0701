//! Which poll slots of each chair are accounted for, and why the others are missing: a fold over the durable records.
//!
//! A slot is one poll that was due. A record of values fills one, a gap record accounts for as many as it says. Slots are
//! numbered from 0 in each run of the gateway, so a record that is not there leaves a hole between its neighbours.

mod chair;
mod file;
mod hours;
mod kept;

pub use chair::{ChairSlots, Range};
pub(crate) use file::load;
pub use hours::Hour;

use crate::model::name::ChairName;
use crate::model::time::Timestamp;
use crate::privacy::record::{Body, Gap, GapCause, LossCause, Record};
use crate::spool::Sequence;
use std::collections::BTreeMap;
use std::time::Duration;

/// Why a slot is missing. The numbers are on disk: never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Missing {
    /// The machine did not answer.
    MachineSilent = 0,
    /// The machine answered and the answer did not hold.
    AnswerFaulty = 1,
    /// The cable or the adapter was gone.
    LineDown = 2,
    /// The gateway was not running, or did not come to ask.
    GatewayDown = 3,
    /// The gateway was cut off before it had kept what it heard.
    Unkept = 4,
    /// The store lost them.
    LostInStore = 5,
    /// They were removed undelivered because the disk was full.
    Evicted = 6,
}

impl Missing {
    /// Every cause, in the order of its number.
    pub const ALL: [Self; 7] = [
        Self::MachineSilent,
        Self::AnswerFaulty,
        Self::LineDown,
        Self::GatewayDown,
        Self::Unkept,
        Self::LostInStore,
        Self::Evicted,
    ];

    /// Its words, for people and for JSON.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::MachineSilent => "machine silent",
            Self::AnswerFaulty => "answer faulty",
            Self::LineDown => "line down",
            Self::GatewayDown => "gateway down",
            Self::Unkept => "not kept in time",
            Self::LostInStore => "lost in store",
            Self::Evicted => "evicted",
        }
    }
}

impl From<GapCause> for Missing {
    fn from(cause: GapCause) -> Self {
        match cause {
            GapCause::MachineSilent => Self::MachineSilent,
            GapCause::AnswerFaulty => Self::AnswerFaulty,
            GapCause::LineDown => Self::LineDown,
            GapCause::GatewayDown => Self::GatewayDown,
            GapCause::Unkept => Self::Unkept,
            GapCause::LostInStore => Self::LostInStore,
        }
    }
}

/// Slots by cause.
pub type Causes = [u64; Missing::ALL.len()];

/// What a run before left of one chair, for the run that begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// End of the last slot that is accounted for; `None` where no clock that could be trusted says so.
    pub through: Option<Timestamp>,
    /// The poll interval then.
    pub every: Duration,
    /// Slots of that run that no record accounts for, to be told as gaps.
    pub holes: Vec<Gap>,
    /// That run was cut off.
    pub cut_off: bool,
}

/// The slots of every chair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotLedger {
    /// The last record in it.
    cursor: Sequence,
    /// The run before ended in order.
    ended_well: bool,
    chairs: BTreeMap<ChairName, ChairSlots>,
}

impl Default for SlotLedger {
    fn default() -> Self {
        Self { cursor: Sequence(0), ended_well: true, chairs: BTreeMap::new() }
    }
}

impl SlotLedger {
    /// The last record in it.
    #[must_use]
    pub const fn cursor(&self) -> Sequence {
        self.cursor
    }

    /// Every chair that ever had a slot, by name.
    pub fn chairs(&self) -> impl Iterator<Item = (&ChairName, &ChairSlots)> {
        self.chairs.iter()
    }

    /// An empty one that takes records in from behind this one on.
    pub(crate) fn starting_behind(cursor: Sequence) -> Self {
        Self { cursor, ..Self::default() }
    }

    /// A copy of what `status` shows.
    pub(crate) fn shown(&self) -> Vec<(ChairName, ChairSlots)> {
        self.chairs.iter().map(|(name, chair)| (name.clone(), chair.clone())).collect()
    }

    /// Takes in the next durable record.
    pub(crate) fn note(&mut self, sequence: Sequence, record: &Record) {
        self.cursor = sequence;
        let origin = record.origin();
        match record.body() {
            Body::Values(_) => {
                if let Some(slot) = origin.slot {
                    self.chair(record).answered(slot.0, origin.at, origin.clock);
                }
            }
            Body::Gap(gap) => {
                let chair = self.chair(record);
                match origin.slot {
                    Some(slot) => chair.missed(slot.0, *gap, origin.clock),
                    None => chair.told_afterwards(*gap, origin.clock),
                }
            }
            Body::Evicted(tombstone) => match tombstone.cause {
                LossCause::StoreFull => {
                    self.chair(record).evicted(tombstone.from, tombstone.to, tombstone.records);
                }
                // Whose they were cannot be read any more. What was counted of them before was captured all the same.
                LossCause::StoreDamaged => {}
            },
            Body::ClockStep(step) => {
                let by = step.found.micros_since(step.expected);
                self.chairs.values_mut().for_each(|chair| chair.clock_stepped(by));
            }
            Body::Alarm(_) | Body::TreatmentStarted | Body::TreatmentEnded(_) | Body::Correction(_) => {}
        }
    }

    /// The next record is not there any more, and nobody knows whose it was.
    pub(crate) fn note_lost(&mut self, sequence: Sequence) {
        self.cursor = sequence;
        self.chairs.values_mut().for_each(ChairSlots::record_lost);
    }

    /// A run begins with these chairs and poll intervals: their slots count from 0 again. A chair that is not among them has no
    /// slots until it is back.
    pub fn begin(&mut self, chairs: &[(ChairName, Duration)]) -> BTreeMap<ChairName, Left> {
        let cut_off = !std::mem::replace(&mut self.ended_well, false);
        for (name, chair) in &mut self.chairs {
            if !chairs.iter().any(|(running, _)| running == name) {
                let lost = chair.retire();
                if lost > 0 {
                    tracing::error!(
                        chair = name.as_str(),
                        polls = lost,
                        "polls of a chair that is not in the configuration any more have no record; `chairside gaps` shows them"
                    );
                }
            }
        }
        let begin = |(name, every): &(ChairName, Duration)| {
            let left = self.chairs.entry(name.clone()).or_default().begin(*every, cut_off);
            (name.clone(), left)
        };
        chairs.iter().map(begin).collect()
    }

    /// The run ends in order: everything it heard is in the ledger.
    pub(crate) const fn end(&mut self) {
        self.ended_well = true;
    }

    fn chair(&mut self, record: &Record) -> &mut ChairSlots {
        self.chairs.entry(record.origin().chair.clone()).or_default()
    }
}

#[cfg(test)]
mod tests;
