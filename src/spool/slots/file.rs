//! Keeps the slot ledger over a restart, and takes in what it does not have yet.

use super::{ChairSlots, Left, SlotLedger, kept};
use crate::model::name::ChairName;
use crate::spool::disk::Disk;
use crate::spool::frame::{FrameFault, Opener};
use crate::spool::store::{SledSpool, another_time};
use crate::spool::{Sequence, SpoolError, reserve};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Its name in the spool's folder.
const FILE: &str = "slots";

/// It is written down once it lags by this many records, so that a start has no more to read than it has time for.
const LAG: u64 = 5_000;

/// Records read at a time.
const STRIDE: u64 = 512;

/// The ledger as it was last written down, if it is there, whole, and not ahead of the records.
pub(crate) fn load(home: &Path, last: Sequence) -> Option<SlotLedger> {
    kept::restore(&fs::read(home.join(FILE)).ok()?, last)
}

/// Writes the ledger down in place of what was there.
pub(super) fn write(disk: &Disk, home: &Path, slots: &SlotLedger) -> Result<(), SpoolError> {
    disk.act("write down the poll slots", || {
        disk.own().replace(&home.join(FILE), &home.join("slots.next"), &slots.bytes())
    })
}

impl SledSpool {
    /// Reads what was written down and takes in the records behind it. Where it is lost, it counts from the newest records on.
    /// After a run that was cut off, the newest records also say what it was about to do.
    pub(in crate::spool) fn open_slots(&mut self, cut_off: bool) -> Result<(), SpoolError> {
        let last = self.contents.last;
        let known = load(&self.home, Sequence(last));
        self.slots = known.unwrap_or_else(|| {
            if last > 0 {
                tracing::warn!("the counts of poll slots are lost, they start anew");
            }
            SlotLedger::starting_behind(Sequence(last.saturating_sub(LAG)))
        });
        self.slots_written = self.slots.cursor();
        let known = self.slots.cursor().0;
        let said = if cut_off { last.saturating_sub(STRIDE) } else { last };
        let mut next = known.min(said).saturating_add(1);
        while next <= last {
            let until = last.min(next.saturating_add(STRIDE - 1));
            let wanted: Vec<_> = (next..=until).map(Sequence).collect();
            let frames = match self.frames(&wanted) {
                Ok(frames) => frames,
                Err(error @ SpoolError::Disk { .. }) => {
                    tracing::warn!(%error, "poll slots of records that cannot be read count as lost in the store");
                    vec![None; wanted.len()]
                }
                Err(error) => return Err(error),
            };
            let keys = self.keys.clone();
            let mut opener = Opener::new(&*keys);
            for (sequence, frame) in wanted.into_iter().zip(frames) {
                let stored = frame.map_or(Err(FrameFault::NoFrame), |frame| opener.open(&frame));
                if let Ok(stored) = &stored {
                    self.told.note(&stored.record);
                }
                match stored {
                    _ if sequence.0 <= known => {}
                    Ok(stored) => self.slots.note(sequence, &stored.record),
                    Err(_) => self.slots.note_lost(sequence),
                }
            }
            next = until.saturating_add(1);
        }
        Ok(())
    }

    pub(in crate::spool) fn begin_slots(
        &mut self,
        chairs: &[(ChairName, Duration)],
    ) -> Result<BTreeMap<ChairName, Left>, SpoolError> {
        let left = self.slots.begin(chairs);
        // Slots are numbered from 0 again, and that is better known before the first of them is. Where the disk has no room, the
        // numbers themselves tell.
        self.write_slots().or_else(another_time)?;
        Ok(left)
    }

    /// Writes it down now and then. When that fails, the next start has more to read.
    pub(in crate::spool) fn slots_grew(&mut self) {
        if self.slots.cursor().0.saturating_sub(self.slots_written.0) < LAG {
            return;
        }
        if let Err(error) = self.write_slots() {
            tracing::warn!(%error, "the counts of poll slots cannot be written down");
            self.slots_written = self.slots.cursor();
        }
    }

    pub(in crate::spool) fn write_slots(&mut self) -> Result<(), SpoolError> {
        match write(&self.disk, &self.home, &self.slots) {
            Err(error) if error.is_no_space() && reserve::release(&self.home) => {
                write(&self.disk, &self.home, &self.slots)?;
            }
            written => written?,
        }
        self.slots_written = self.slots.cursor();
        Ok(())
    }

    pub(in crate::spool) fn slots_shown(&self) -> Vec<(ChairName, ChairSlots)> {
        self.slots.shown()
    }
}
