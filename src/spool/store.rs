//! The spool on disk: sealed frames in sled volumes, a manifest that says what must be there, and a settlement store.
//!
//! Only the newest volume is open in sled, and only one that this process made or that was closed in order and has not
//! changed by a byte since. Every other volume is read from its raw files after a scan that proves each of its frames.

use crate::model::name::UpstreamName;
use crate::model::time::Timestamp;
use crate::privacy::keyring::DataKeys;
use crate::privacy::record::{Record, TreatmentId};
use crate::spool::dead::{DeadLetters, is_refusal, letter};
use crate::spool::disk::{Disk, Faults, free, used};
use crate::spool::frame::{FrameFault, FrameKind, Header, Opener, Sealer};
use crate::spool::ledger::End;
use crate::spool::lock::Lock;
use crate::spool::manifest::{Contents, Manifest, VolumeEntry, folder_name};
use crate::spool::scan::{Index, Tail, digest};
use crate::spool::settlement::Settlement;
use crate::spool::shelf::{Shelf, Spans};
use crate::spool::volume::{Database, Row, pack};
use crate::spool::{
    BatchLimit, Lane, Pruned, Retention, Sequence, SetAside, Spool, SpoolError, SpoolStatus, StoreId, Stored,
    Verdict,
};
use chairside_drivers::kit::time::Tick;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How the spool is set up.
#[derive(Clone)]
pub struct Options {
    /// The spool may take this many bytes on disk.
    pub max_bytes: u64,
    /// A volume is full with this many records.
    pub volume_records: u64,
    /// Acts on files that fail, in tests.
    pub faults: Option<Arc<Faults>>,
}

impl Options {
    /// The usual set-up within this many bytes.
    #[must_use]
    pub const fn new(max_bytes: u64) -> Self {
        Self { max_bytes, volume_records: 50_000, faults: None }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { max_bytes, volume_records, faults: _ } = self;
        write!(f, "Options {{ max_bytes: {max_bytes}, volume_records: {volume_records} }}")
    }
}

/// A new volume is started a day after the first record of the last one.
const VOLUME_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// A volume is not made larger than this; a scan reads all of it.
const VOLUME_BYTES: u64 = 64 * 1024 * 1024;

/// A frame takes about twice its length in sled until its pages are tidied up.
const SLED_OVERHEAD: u64 = 2;

/// This part of the space is kept back from readings, for alarms and treatment events.
const RESERVE: u64 = 20;

/// Bytes of the file system that are left to others, and to the settlement of what is stored.
const LEFT_FREE: u64 = 16 * 1024 * 1024;

/// Records in one lease at most.
const LEASE: usize = 1_000;

/// Records read at a time in search of a treatment.
const STRIDE: usize = 256;

/// The spool in a folder. One process holds it; [`Spool::close`] ends it in order, dropping it is a crash.
pub struct SledSpool {
    pub(super) home: PathBuf,
    pub(super) keys: Arc<dyn DataKeys>,
    pub(super) options: Options,
    pub(super) disk: Disk,
    pub(super) contents: Contents,
    pub(super) manifest: Manifest,
    /// The newest volume, while it is open for writing.
    pub(super) current: Option<Database>,
    pub(super) settlement: Settlement,
    pub(super) dead: DeadLetters,
    pub(super) sealer: Sealer,
    pub(super) shelf: Shelf,
    /// Bytes of the volumes that are not written any more.
    pub(super) resting_bytes: u64,
    /// Acts of the disk that failed since the start. The second one ends the spool.
    pub(super) failures: u32,
    pub(super) broken: Option<SpoolError>,
    /// Capture times of records that were the oldest waiting when somebody last asked.
    pub(super) oldest: BTreeMap<u64, Timestamp>,
    /// Let go last.
    pub(super) _lock: Lock,
}

impl std::fmt::Debug for SledSpool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SledSpool({:?} at {})", self.contents.store, self.home.display())
    }
}

impl SledSpool {
    /// The store that new records belong to.
    #[must_use]
    pub const fn store(&self) -> StoreId {
        self.contents.store
    }

    fn usable(&self) -> Result<(), SpoolError> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    fn check_space(&self, batch: &[Record], frames: &[Vec<u8>]) -> Result<(), SpoolError> {
        let bytes = frames.iter().map(|frame| frame.len() as u64).sum::<u64>() * SLED_OVERHEAD;
        let urgent = batch.iter().all(|record| FrameKind::of(record.body()).passes_the_reserve());
        let kept_back = if urgent { 0 } else { self.options.max_bytes / RESERVE };
        let (used, max) = (self.used(), self.options.max_bytes);
        if used.saturating_add(bytes) > max.saturating_sub(kept_back) {
            return Err(SpoolError::Full { used, max });
        }
        let left = if urgent { LEFT_FREE / 4 } else { LEFT_FREE };
        let free = self.disk.act("ask for free space", || free(&self.home))?;
        if free < bytes.saturating_add(left) {
            return Err(SpoolError::Full { used, max: used.saturating_add(free) });
        }
        Ok(())
    }

    /// Bytes on disk.
    fn used(&self) -> u64 {
        let newest = self.current.as_ref().and(self.contents.volumes.last());
        let newest = newest.map_or(0, |volume| used(&self.home.join(volume.folder())));
        let beside = ["settlement", "dead", "manifest"].map(|name| used(&self.home.join(name)));
        self.resting_bytes + newest + beside.iter().sum::<u64>()
    }

    pub(super) fn measure_resting_volumes(&mut self) {
        let written = self.current.as_ref().and(self.contents.volumes.last()).map(|volume| volume.number);
        let resting = self.contents.volumes.iter().filter(|volume| Some(volume.number) != written);
        self.resting_bytes = resting.map(|volume| used(&self.home.join(volume.folder()))).sum();
    }

    /// Writes the frames; durable when it returns. A volume that fails is left as it is and its frames go to a new one.
    fn write_frames(&mut self, rows: &[Row], at: Timestamp) -> Result<(), SpoolError> {
        let mut last_chance = false;
        loop {
            let written = self.open_volume(at).and_then(|()| match self.current.as_mut() {
                Some(volume) => {
                    volume.write(rows.to_vec(), Vec::new()).and_then(|()| volume.sync("sync records"))
                }
                None => Err(SpoolError::Closed),
            });
            let Err(error) = written else { return Ok(()) };
            self.give_up_current();
            self.failed(error, last_chance)?;
            last_chance = true;
        }
    }

    /// Counts a failure: the first one of the disk is survived, whatever comes after it ends the spool.
    fn failed(&mut self, error: SpoolError, last_chance: bool) -> Result<(), SpoolError> {
        if matches!(error, SpoolError::Disk { .. }) {
            self.failures += 1;
        }
        if last_chance || self.failures > 1 || matches!(error, SpoolError::Permission { .. }) {
            tracing::error!(%error, "the spool takes no more records");
            self.broken = Some(error.clone());
            return Err(error);
        }
        tracing::warn!(%error, "a volume failed, its records go to a new one");
        Ok(())
    }

    /// Sees to it that the newest volume is open and has room.
    fn open_volume(&mut self, at: Timestamp) -> Result<(), SpoolError> {
        let Some(newest) = self.contents.volumes.last() else { return self.start_volume(at) };
        let full = newest.records() >= self.options.volume_records
            || newest.opened.is_some_and(|opened| at.since(opened) >= VOLUME_AGE)
            || (self.current.is_some() && used(&self.home.join(newest.folder())) >= VOLUME_BYTES);
        match (self.current.is_some(), full) {
            (true, false) => Ok(()),
            (true, true) => {
                self.rest_current();
                self.start_volume(at)
            }
            (false, true) => self.start_volume(at),
            (false, false) => match self.go_on_with_newest() {
                Some(volume) => {
                    self.current = Some(volume);
                    self.measure_resting_volumes();
                    self.commit_both()
                }
                None => self.start_volume(at),
            },
        }
    }

    /// The newest volume, if it was closed in order and its files are byte for byte what they were then.
    fn go_on_with_newest(&mut self) -> Option<Database> {
        let newest = self.contents.volumes.last_mut()?;
        let closed = newest.digest.take()?;
        let folder = self.home.join(newest.folder());
        if newest.set_aside.is_some() || digest(&folder).ok()? != closed {
            return None;
        }
        let (number, last) = (newest.number, Sequence(newest.last));
        self.spans(number).ok()?;
        self.shelf.drop_index(number);
        let mut volume = Database::open(&folder, &self.disk).ok()?;
        let found = volume.frames(vec![last]);
        if matches!(found.as_deref(), Ok([Some(_)])) {
            return Some(volume);
        }
        volume.abandon();
        None
    }

    fn start_volume(&mut self, at: Timestamp) -> Result<(), SpoolError> {
        let mut number = self.contents.next_volume;
        while self.home.join(folder_name(number)).exists() {
            number += 1;
        }
        self.contents.next_volume = number + 1;
        let volume = Database::open(&self.home.join(folder_name(number)), &self.disk)?;
        self.contents.volumes.push(VolumeEntry {
            number,
            store: self.contents.store,
            first: self.contents.last + 1,
            last: self.contents.last,
            opened: Some(at),
            settled: None,
            digest: None,
            set_aside: None,
        });
        self.current = Some(volume);
        self.measure_resting_volumes();
        self.commit_both()
    }

    /// The newest volume is full. What it holds is durable; closing it only tidies up.
    fn rest_current(&mut self) {
        let Some(volume) = self.current.take() else { return };
        if let Some(entry) = self.contents.volumes.last() {
            self.shelf.write_spans(&self.home, entry.number, entry.last);
        }
        if let Err(error) = volume.close() {
            tracing::warn!(%error, "a full volume could not be closed in order");
        }
        self.measure_resting_volumes();
    }

    /// The engine or the disk failed under the newest volume. From now on it is read from its raw files.
    fn give_up_current(&mut self) {
        if let Some(volume) = self.current.take() {
            volume.abandon();
            self.measure_resting_volumes();
        }
    }

    pub(super) fn commit_both(&mut self) -> Result<(), SpoolError> {
        self.commit()?;
        self.commit()
    }

    /// Writes the manifest; when that fails, once more into a new file.
    fn commit(&mut self) -> Result<(), SpoolError> {
        let Err(error) = self.manifest.commit(&self.contents) else { return Ok(()) };
        self.failed(error, false)?;
        let Err(error) = self.manifest.replace(&self.contents) else { return Ok(()) };
        self.failed(error, true)
    }

    /// The frames of these sequences, in ascending order; `None` for what is lost.
    fn frames(&mut self, wanted: &[Sequence]) -> Result<Vec<Option<Vec<u8>>>, SpoolError> {
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

    fn frames_in(&mut self, number: u64, wanted: &[Sequence]) -> Result<Vec<Option<Vec<u8>>>, SpoolError> {
        let newest = self.contents.volumes.last().is_some_and(|volume| volume.number == number);
        if let Some(volume) = self.current.as_mut().filter(|_| newest) {
            match volume.frames(wanted.to_vec()) {
                Ok(frames) if frames.iter().all(Option::is_some) => return Ok(frames),
                Ok(_) => tracing::warn!(volume = number, "the store engine does not show all records"),
                Err(error) => tracing::warn!(volume = number, %error, "the store engine failed in reading"),
            }
            self.give_up_current();
        }
        self.index(number)?.map_or_else(|| Ok(vec![None; wanted.len()]), |index| index.frames(wanted))
    }

    /// The scanned volume. A volume found incomplete is set aside.
    fn index(&mut self, number: u64) -> Result<Option<&Index>, SpoolError> {
        if self.shelf.index(number).is_none() {
            let Some(entry) = self.contents.volumes.iter().find(|volume| volume.number == number) else {
                return Ok(None);
            };
            let folder = self.home.join(entry.folder());
            let mut opener = Opener::new(&*self.keys);
            let index =
                Index::scan(&folder, entry.store, entry.first, entry.last, Tail::Ignore, &mut opener)?;
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
        index.missing().for_each(|sequence| self.settlement.lose(sequence));
        self.settlement.write()?;
        self.commit_both()
    }

    /// First and last sequence of every treatment in a volume.
    fn spans(&mut self, number: u64) -> Result<Spans, SpoolError> {
        let Some(entry) = self.contents.volumes.iter().find(|volume| volume.number == number) else {
            return Ok(Spans::new());
        };
        if let Some(spans) = self.shelf.spans(&self.home, number, entry.last) {
            return Ok(spans.clone());
        }
        Ok(self.index(number)?.map(|index| index.keys().clone()).unwrap_or_default())
    }

    /// Opens what a lease found. What is lost or erased is settled as such.
    fn open_frames(
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
    fn belongs(&self, stored: &Stored, sequence: Sequence) -> bool {
        let place = self.contents.volumes.partition_point(|volume| volume.last < sequence.0);
        let store = self.contents.volumes.get(place).map(|volume| volume.store);
        stored.sequence == sequence && Some(stored.store) == store
    }

    /// Writes the dead letters that these verdicts ask for.
    fn write_letters(
        &mut self,
        upstream: &UpstreamName,
        verdicts: &[(Sequence, Verdict)],
    ) -> Result<(), SpoolError> {
        let ledger = self.settlement.ledger(upstream)?;
        let mut refused: Vec<_> = verdicts
            .iter()
            .filter(|(sequence, verdict)| is_refusal(verdict) && !ledger.is_settled(*sequence))
            .collect();
        if refused.is_empty() {
            return Ok(());
        }
        refused.sort_by_key(|(sequence, _)| *sequence);
        let wanted: Vec<_> = refused.iter().map(|(sequence, _)| *sequence).collect();
        let frames = self.frames(&wanted)?;
        let letters = refused
            .into_iter()
            .zip(frames)
            .map(|((sequence, verdict), frame)| {
                letter(upstream, *sequence, verdict, &frame.unwrap_or_default())
            })
            .collect();
        self.dead.keep(letters)
    }

    fn remove_volumes(&mut self, expired: &[u64]) -> Result<(), SpoolError> {
        // A settlement that a power cut takes back would make records of a removed volume look lost.
        self.settlement.sync()?;
        self.contents.volumes.retain(|volume| !expired.contains(&volume.number));
        self.commit_both()?;
        let act = "remove a volume";
        for number in expired {
            self.shelf.forget(&self.home, *number);
            self.disk.act(act, || remove_folder(&self.home.join(folder_name(*number))))?;
        }
        self.disk.sync_folder(act, &self.home)?;
        self.measure_resting_volumes();
        Ok(())
    }
}

pub(super) fn remove_folder(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Spool for SledSpool {
    fn append(&mut self, batch: &[Record]) -> Result<Vec<Sequence>, SpoolError> {
        self.usable()?;
        let Some(newest) = batch.last() else { return Ok(Vec::new()) };
        let first = self.contents.last + 1;
        let frames = (first..)
            .zip(batch)
            .map(|(sequence, record)| self.sealer.seal(Sequence(sequence), record))
            .collect::<Result<Vec<_>, _>>()?;
        self.check_space(batch, &frames)?;
        self.write_frames(&pack(Sequence(first), &frames), newest.origin().at)?;
        let last = self.contents.last + batch.len() as u64;
        self.contents.last = last;
        if let Some(volume) = self.contents.volumes.last_mut() {
            volume.last = last;
            let places = (first..).zip(batch);
            places
                .for_each(|(sequence, record)| self.shelf.note(volume.number, record.treatment(), sequence));
        }
        self.commit()?;
        self.settlement.appended(last);
        Ok((first..=last).map(Sequence).collect())
    }

    fn lease(
        &mut self,
        upstream: &UpstreamName,
        limit: BatchLimit,
        lane: Lane,
        now: Tick,
    ) -> Result<Vec<Stored>, SpoolError> {
        loop {
            let due = self.settlement.ledger(upstream)?.due(limit.records.min(LEASE), lane, now);
            if due.is_empty() {
                return Ok(Vec::new());
            }
            let frames = self.frames(&due)?;
            let leased = self.open_frames(&due, frames, upstream)?;
            // Everything that was due and cannot be opened is settled now, so this ends.
            if !leased.is_empty() {
                let sequences: Vec<_> = leased.iter().map(|stored| stored.sequence).collect();
                self.settlement.lease(upstream, &sequences)?;
                return Ok(leased);
            }
        }
    }

    fn settle(
        &mut self,
        upstream: &UpstreamName,
        verdicts: &[(Sequence, Verdict)],
    ) -> Result<(), SpoolError> {
        self.write_letters(upstream, verdicts)?;
        self.settlement.settle(upstream, verdicts)?;
        self.settlement.write()
    }

    fn release(&mut self, treatment: TreatmentId) -> Result<(), SpoolError> {
        self.settlement.release(treatment);
        self.settlement.write()
    }

    fn read_treatment(
        &mut self,
        treatment: TreatmentId,
        after: Sequence,
        limit: BatchLimit,
    ) -> Result<Vec<Stored>, SpoolError> {
        let keys = self.keys.clone();
        let mut opener = Opener::new(&*keys);
        let mut found = Vec::new();
        let volumes: Vec<u64> =
            self.contents.volumes.iter().filter(|volume| volume.last > after.0).map(|v| v.number).collect();
        for number in volumes {
            let Some((first, last)) = self.spans(number)?.get(treatment.as_bytes()).copied() else {
                continue;
            };
            let sequences: Vec<_> = (first.max(after.0.saturating_add(1))..=last).map(Sequence).collect();
            for stride in sequences.chunks(STRIDE) {
                for frame in self.frames_in(number, stride)?.into_iter().flatten() {
                    if found.len() >= limit.records {
                        return Ok(found);
                    }
                    let ours = Header::read(&frame).is_ok_and(|header| header.key == treatment.into());
                    let stored = ours.then(|| opener.open(&frame).ok()).flatten();
                    found.extend(stored.filter(|stored| stored.record.treatment() == Some(treatment)));
                }
            }
        }
        Ok(found)
    }

    fn prune(&mut self, policy: Retention, now: Timestamp) -> Result<Pruned, SpoolError> {
        self.options.max_bytes = policy.max_bytes;
        let newest = self.contents.volumes.last().map_or(0, |volume| volume.number);
        let (mut expired, mut pruned, mut noted) = (Vec::new(), Pruned::default(), false);
        for volume in self.contents.volumes.iter_mut().filter(|volume| volume.number != newest) {
            // What was set aside stays until a person has dealt with it.
            if volume.set_aside.is_some() || !self.settlement.all_settled(volume.first, volume.last) {
                continue;
            }
            noted |= volume.settled.is_none();
            if now.since(*volume.settled.get_or_insert(now)) >= policy.keep_delivered {
                expired.push(volume.number);
                pruned.volumes += 1;
                pruned.records += volume.records();
            }
        }
        if !expired.is_empty() {
            self.remove_volumes(&expired)?;
        } else if noted {
            self.commit()?;
        }
        Ok(pruned)
    }

    fn status(&mut self) -> SpoolStatus {
        let oldest: Vec<_> =
            self.settlement.ledgers().filter_map(|(_, ledger)| ledger.oldest_waiting()).collect();
        let known = std::mem::take(&mut self.oldest);
        for sequence in oldest {
            let at = known.get(&sequence.0).copied().or_else(|| {
                let frame = self.frames(&[sequence]).ok()?.pop().flatten()?;
                let stored = Opener::new(&*self.keys).open(&frame).ok()?;
                Some(stored.record.origin().at)
            });
            at.and_then(|at| self.oldest.insert(sequence.0, at));
        }
        let volumes = &self.contents.volumes;
        let missing =
            |volume: &VolumeEntry| volume.set_aside.map_or(0, |found| volume.records().saturating_sub(found));
        let set_aside = volumes.iter().filter_map(|volume| {
            let (expected, found) = (volume.records(), volume.set_aside?);
            Some(SetAside { volume: volume.folder(), expected, found })
        });
        let counts = self.settlement.ledgers().map(|(name, ledger)| {
            let mut counts = ledger.counts();
            let oldest = ledger.oldest_waiting();
            counts.oldest_waiting = oldest.and_then(|sequence| self.oldest.get(&sequence.0).copied());
            (name.clone(), counts)
        });
        SpoolStatus {
            last: self.contents.last,
            records: volumes.iter().map(|volume| volume.records().saturating_sub(missing(volume))).sum(),
            bytes: self.used(),
            volumes: u32::try_from(volumes.len()).unwrap_or(u32::MAX),
            set_aside: set_aside.collect(),
            upstreams: counts.collect(),
        }
    }

    fn flush(&mut self) -> Result<(), SpoolError> {
        self.settlement.sync()
    }

    fn close(&mut self) -> Result<(), SpoolError> {
        self.settlement.close()?;
        self.dead.close()?;
        self.usable()?;
        if let (Some(volume), Some(entry)) = (self.current.take(), self.contents.volumes.last_mut()) {
            self.shelf.write_spans(&self.home, entry.number, entry.last);
            volume.close()?;
            entry.digest = digest(&self.home.join(entry.folder())).ok();
        }
        self.contents.closed = true;
        self.commit_both()?;
        self.broken = Some(SpoolError::Closed);
        Ok(())
    }
}
