//! How records come out of the spool: each from the volume that must hold it, proved, or counted as lost.

use crate::model::name::UpstreamName;
use crate::spool::frame::{FrameFault, Opener};
use crate::spool::ledger::End;
use crate::spool::manifest::VolumeEntry;
use crate::spool::scan::{Index, Tail};
use crate::spool::shelf::Spans;
use crate::spool::store::SledSpool;
use crate::spool::{Sequence, SpoolError, Stored};
use std::collections::BTreeSet;

/// Records that could not be opened, each with what was in the way.
type Doubtful = Vec<(Sequence, FrameFault)>;

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
        let Some(index) = self.index(number)? else { return Ok(vec![None; wanted.len()]) };
        let frames = index.frames(wanted);
        if frames.is_err() {
            // Whether the volume can be read at all shows when it is looked through anew.
            self.shelf.drop_index(number);
        }
        frames
    }

    /// The scanned volume. A volume found incomplete is set aside, unless that is only because it cannot be read now.
    ///
    /// # Errors
    /// `Disk` while the device does not give what may be there.
    pub(super) fn index(&mut self, number: u64) -> Result<Option<&Index>, SpoolError> {
        if self.shelf.index(number).is_none() {
            let Some(entry) = self.contents.volumes.iter().find(|volume| volume.number == number) else {
                return Ok(None);
            };
            self.doubts.may_look(number)?;
            let mut opener = Opener::new(&*self.keys);
            let index = Index::of(&self.home, entry, Tail::Ignore, &mut opener)?;
            let lacks = match entry.set_aside {
                None => !index.is_complete(),
                Some(found) => index.found() < found,
            };
            if lacks && index.is_unreadable() {
                self.doubts.note(number)?;
            }
            if lacks {
                self.set_aside(number, &index)?;
            }
            self.doubts.forget(number);
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
        let before = self.losses.remove(&number).unwrap_or_default();
        let all: BTreeSet<u64> =
            before.sequences().chain(undelivered.iter().map(|sequence| sequence.0)).collect();
        self.losses.insert(number, all.into_iter().collect());
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

    /// What is due to an upstream and can be had, in ascending order. Nothing is ended by a single bad read: where a record is not
    /// what it was when its volume was scanned, the volume is scanned again.
    pub(super) fn read_due(
        &mut self,
        due: &[Sequence],
        upstream: &UpstreamName,
    ) -> Result<Vec<Stored>, SpoolError> {
        let frames = self.frames(due)?;
        let (mut opened, doubtful) = self.open_frames(due, frames, upstream)?;
        if doubtful.is_empty() {
            return Ok(opened);
        }
        let doubtful: Vec<Sequence> = doubtful.into_iter().map(|(sequence, _)| sequence).collect();
        let volumes: BTreeSet<u64> =
            doubtful.iter().filter_map(|it| Some(self.volume_of(*it)?.number)).collect();
        for number in volumes {
            self.shelf.drop_index(number);
            self.index(number)?;
        }
        let frames = self.frames(&doubtful)?;
        let (again, gone) = self.open_frames(&doubtful, frames, upstream)?;
        opened.extend(again);
        opened.sort_by_key(|stored| stored.sequence);
        for (sequence, fault) in &gone {
            // What is missing in a volume is told of when that is mended.
            let is_told = *fault == FrameFault::NoFrame
                && !self.dead.holds(*sequence)
                && self.volume_of(*sequence).is_some_and(|it| it.set_aside.is_some() || it.copied.is_some());
            if self.settlement.lose(*sequence) {
                tracing::error!(sequence = sequence.0, %fault, "a record is lost in the spool");
                self.untold.extend((!is_told).then_some(sequence.0));
            }
        }
        self.settlement.write()?;
        Ok(opened)
    }

    /// Opens what was read; gives what cannot be opened with its fault. What is erased is settled as such.
    fn open_frames(
        &mut self,
        due: &[Sequence],
        frames: Vec<Option<Vec<u8>>>,
        upstream: &UpstreamName,
    ) -> Result<(Vec<Stored>, Doubtful), SpoolError> {
        let keys = self.keys.clone();
        let mut opener = Opener::new(&*keys);
        let (mut opened, mut doubtful, mut erased) = (Vec::with_capacity(frames.len()), Vec::new(), false);
        for (sequence, frame) in due.iter().zip(frames) {
            match frame.map_or(Err(FrameFault::NoFrame), |frame| opener.open(&frame)) {
                Ok(stored) if self.belongs(&stored, *sequence) => opened.push(stored),
                Err(FrameFault::KeyGone) => {
                    self.settlement.ledger(upstream)?.end(*sequence, End::Erased);
                    erased = true;
                }
                // A frame of another place is as good as none.
                Ok(_) => doubtful.push((*sequence, FrameFault::Forged)),
                Err(fault) => doubtful.push((*sequence, fault)),
            }
        }
        if erased {
            self.settlement.write()?;
        }
        Ok((opened, doubtful))
    }

    /// The volume that this record must be in.
    fn volume_of(&self, sequence: Sequence) -> Option<&VolumeEntry> {
        let place = self.contents.volumes.partition_point(|volume| volume.last < sequence.0);
        self.contents.volumes.get(place).filter(|volume| volume.first <= sequence.0)
    }

    /// Whether a record is the one that was asked for.
    pub(super) fn belongs(&self, stored: &Stored, sequence: Sequence) -> bool {
        // Without a volume only a dead letter can have given it.
        stored.sequence == sequence
            && self.volume_of(sequence).is_none_or(|volume| volume.store == stored.store)
    }
}
