//! Is any poll missing, and why: the ranges of every chair, and how many nobody can explain.

use super::slots::Due;
use super::{Moment, Slots, Snapshot};
use crate::model::name::ChairName;
use crate::spool::slots::{ChairSlots, Range};
use serde::{Deserialize, Serialize};

/// The answer for all chairs. Its JSON is what `chairside gaps --json` prints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gaps {
    /// When it was asked.
    pub now: Moment,
    /// The ward's time zone, by its IANA name.
    pub time_zone: String,
    /// The slots of all these chairs together.
    pub slots: Slots,
    /// The chairs of the configuration in its order, then those that are not in it any more.
    pub chairs: Vec<ChairGaps>,
}

/// The answer for one chair.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChairGaps {
    /// Its name.
    pub name: String,
    /// Whether the configuration still names it.
    pub configured: bool,
    /// Its slots, over all runs of the gateway.
    pub slots: Slots,
    /// The last ranges of missing slots, oldest first.
    pub ranges: Vec<GapRange>,
    /// Missing slots of ranges so old that only their number is kept.
    pub older: u64,
}

/// Slots in a row that are missing for one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapRange {
    /// Start of the first one.
    pub from: Moment,
    /// End of the last one.
    pub to: Moment,
    /// How many.
    pub polls: u64,
    /// Why, in words.
    pub cause: String,
}

impl Gaps {
    /// Of a board that has just seen these ledgers.
    #[must_use]
    pub fn of(board: &Snapshot, ledgers: &[(ChairName, ChairSlots)], time_zone: &str) -> Self {
        let configured = board.chairs.iter().map(|chair| {
            let ledger = ledgers.iter().find(|(name, _)| name.as_str() == chair.name);
            ChairGaps::of(&chair.name, true, chair.slots.clone(), ledger.map(|(_, ledger)| ledger))
        });
        let is_gone = |name: &ChairName| !board.chairs.iter().any(|chair| chair.name == name.as_str());
        let gone = ledgers.iter().filter(|(name, _)| is_gone(name)).map(|(name, ledger)| {
            let slots = Slots::of(ledger, Due::default(), board.now.into());
            ChairGaps::of(name.as_str(), false, slots, Some(ledger))
        });
        Self::with(board.now, time_zone.to_owned(), configured.chain(gone).collect())
    }

    /// Of one chair alone; `None` where there is no such chair.
    #[must_use]
    pub fn only(self, chair: &str) -> Option<Self> {
        let chairs: Vec<_> = self.chairs.into_iter().filter(|known| known.name == chair).collect();
        (!chairs.is_empty()).then(|| Self::with(self.now, self.time_zone, chairs))
    }

    fn with(now: Moment, time_zone: String, chairs: Vec<ChairGaps>) -> Self {
        let slots = Slots::sum(chairs.iter().map(|chair| &chair.slots));
        Self { now, time_zone, slots, chairs }
    }
}

impl ChairGaps {
    fn of(name: &str, configured: bool, slots: Slots, ledger: Option<&ChairSlots>) -> Self {
        let ranges: Vec<_> = ledger.map_or(&[][..], ChairSlots::ranges).iter().map(GapRange::from).collect();
        let told: u64 = ranges.iter().map(|range| range.polls).sum();
        Self { name: name.to_owned(), configured, older: slots.missing().saturating_sub(told), slots, ranges }
    }
}

impl From<&Range> for GapRange {
    fn from(range: &Range) -> Self {
        Self {
            from: range.from.into(),
            to: range.to.into(),
            polls: range.slots,
            cause: range.cause.words().to_owned(),
        }
    }
}
