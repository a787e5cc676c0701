//! How records come out of the spool: each from the volume that must hold it, proved, or counted as lost.

use crate::model::name::UpstreamName;
use crate::spool::frame::{FrameFault, Opener};
use crate::spool::ledger::End;
use crate::spool::scan::{Index, Tail};
use crate::spool::shelf::Spans;
use crate::spool::store::SledSpool;
use crate::spool::{Sequence, SpoolError, Stored};

impl SledSpool {
    /// The frames of these sequences, in ascending order; `None` for what is lost.
    pub(super) fn frames(&mut self, wanted: &[Sequence]) -> Result<Vec<Option<Vec<u8>>>, SpoolError> {
        let mut frames = self.frames_in_volumes(wanted)?;
        // What an upstream refused has a copy that outlives the volume.
        let missing = wanted.iter().zip(&mut frames).filter(|(_, frame)| frame.is_none());
        missing.for_each(|(sequence, frame)| *frame = self.dead.frame(*sequence));
        Ok(frames)
    }

    fn frames_in_volumes(&mut self, wanted: &[Sequence]) -> Result<Vec<Option<Vec<u8>>>, SpoolError> {
        let mut frames = Vec::with_capacity(wanted.len());
        let mut rest = wanted;
        while let Some(Sequence(next)) = rest.first().copied() {
            let place = self.contents.volumes.partition_point(|volume| volume.last < next);
            let Some(volume) = self.contents.volumes.get(place).filter(|volume| volume.first <= next) else {
                frames.push(None);
                rest = rest.get(1..).unwrap_or_default();
                continue;
            };
            let (number, last) = (volume.number, volume.last);
            let here = rest.partition_point(|sequence| sequence.0 <= last);
            let (here, behind) = rest.split_at_checked(here).unwrap_or((rest, &[]));
            frames.extend(self.frames_in(number, here)?);
            rest = behind;
        }
        Ok(frames)
    }

    pub(super) fn frames_in(
        &mut self,
        number: u64,
        wanted: &[Sequence],
    ) -> Result<Vec<Option<Vec<u8>>>, SpoolError> {
        let newest = self.contents.volumes.last().is_some_and(|volume| volume.number == number);
        if let Some(volume) = self.current.as_mut().filter(|_| newest) {
            match volume.frames(wanted) {
                Ok(frames) if frames.iter().all(Option::is_some) => return Ok(frames),
                Ok(_) => tracing::warn!(volume = number, "the store engine does not show all records"),
                Err(error) => tracing::warn!(volume = number, %error, "the store engine failed in reading"),
            }
            self.give_up_current();
        }
        self.index(number)?.map_or_else(|| Ok(vec![None; wanted.len()]), |index| index.frames(wanted))
    }

    /// The scanned volume. A volume found incomplete is set aside.
    pub(super) fn index(&mut self, number: u64) -> Result<Option<&Index>, SpoolError> {
        if self.shelf.index(number).is_none() {
            let Some(entry) = self.contents.volumes.iter().find(|volume| volume.number == number) else {
                return Ok(None);
            };
            let mut opener = Opener::new(&*self.keys);
            let index = Index::of(&self.home, entry, Tail::Ignore, &mut opener)?;
            if !index.is_complete() && entry.set_aside.is_none() {
                self.set_aside(number, &index)?;
            }
            self.shelf.put(number, index);
        }
        Ok(self.shelf.index(number))
    }

    /// A volume does not hold all it must: its files are left untouched, what is missing is counted.
    pub(super) fn set_aside(&mut self, number: u64, index: &Index) -> Result<(), SpoolError> {
        let Some(entry) = self.contents.volumes.iter_mut().find(|volume| volume.number == number) else {
            return Ok(());
        };
        entry.set_aside = Some(index.found());
        tracing::error!(
            volume = number,
            expected = entry.records(),
            found = index.found(),
            "a volume is incomplete and was set aside"
        );
        let lost = index.missing().filter(|sequence| !self.dead.holds(*sequence));
        let undelivered: Vec<_> = lost.filter(|sequence| self.settlement.lose(*sequence)).collect();
        self.losses.insert(number, undelivered.into_iter().map(|sequence| sequence.0).collect());
        self.damaged = true;
        self.settlement.write()?;
        self.commit_both()
    }

    /// First and last sequence of every treatment in a volume.
    pub(super) fn spans(&mut self, number: u64) -> Result<Spans, SpoolError> {
        let Some(entry) = self.contents.volumes.iter().find(|volume| volume.number == number) else {
            return Ok(Spans::new());
        };
        if let Some(spans) = self.shelf.spans(&self.home, number, entry.last) {
            return Ok(spans.clone());
        }
        Ok(self.index(number)?.map(|index| index.keys().clone()).unwrap_or_default())
    }

    /// Opens what a lease found. What is lost or erased is settled as such.
    pub(super) fn open_frames(
        &mut self,
        due: &[Sequence],
        frames: Vec<Option<Vec<u8>>>,
        upstream: &UpstreamName,
    ) -> Result<Vec<Stored>, SpoolError> {
        let keys = self.keys.clone();
        let mut opener = Opener::new(&*keys);
        let mut opened = Vec::with_capacity(frames.len());
        let mut gone = 0_usize;
        for (sequence, frame) in due.iter().zip(frames) {
            let stored = match frame.map(|frame| opener.open(&frame)) {
                Some(Ok(stored)) if self.belongs(&stored, *sequence) => {
                    opened.push(stored);
                    continue;
                }
                Some(Err(fault)) => fault,
                Some(Ok(_)) | None => FrameFault::NoFrame,
            };
            gone += 1;
            if stored == FrameFault::KeyGone {
                self.settlement.ledger(upstream)?.end(*sequence, End::Erased);
            } else {
                tracing::error!(sequence = sequence.0, fault = %stored, "a record is lost in the spool");
                self.settlement.lose(*sequence);
            }
        }
        if gone > 0 {
            self.settlement.write()?;
        }
        Ok(opened)
    }

    /// Whether a record is the one that was asked for.
    pub(super) fn belongs(&self, stored: &Stored, sequence: Sequence) -> bool {
        let place = self.contents.volumes.partition_point(|volume| volume.last < sequence.0);
        let volume = self.contents.volumes.get(place).filter(|volume| volume.first <= sequence.0);
        // Without a volume only a dead letter can have given it.
        stored.sequence == sequence && volume.is_none_or(|volume| volume.store == stored.store)
    }
}
