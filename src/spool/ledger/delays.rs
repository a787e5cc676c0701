//! Records that are not due yet, so that a lease need not look at each of a large backlog that waits.

use super::CHUNK;
use chairside_drivers::kit::time::Tick;
use std::collections::BTreeMap;

/// Until when records wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Delays {
    records: BTreeMap<u64, Tick>,
    /// By chunk: how many of its records wait, and a tick before which none of them is due.
    chunks: BTreeMap<u64, (u64, Tick)>,
}

impl Delays {
    /// The record is not due before this tick.
    pub(super) fn insert(&mut self, sequence: u64, not_before: Tick) {
        self.remove(sequence);
        self.records.insert(sequence, not_before);
        let (count, soonest) = self.chunks.entry(sequence / CHUNK).or_insert((0, not_before));
        *count += 1;
        *soonest = (*soonest).min(not_before);
    }

    /// Nothing delays this record any more.
    pub(super) fn remove(&mut self, sequence: u64) {
        if self.records.remove(&sequence).is_none() {
            return;
        }
        let chunk = sequence / CHUNK;
        if let Some((count, _)) = self.chunks.get_mut(&chunk) {
            *count -= 1;
            if *count == 0 {
                self.chunks.remove(&chunk);
            }
        }
    }

    /// Whether the record waits now.
    pub(super) fn waits(&self, sequence: u64, now: Tick) -> bool {
        self.records.get(&sequence).is_some_and(|not_before| *not_before > now)
    }

    /// How many records of a chunk wait; none, where one of them may be due now.
    pub(super) fn waiting(&self, chunk: u64, now: Tick) -> u64 {
        self.chunks.get(&chunk).filter(|(_, soonest)| *soonest > now).map_or(0, |(count, _)| *count)
    }
}
