//! The spool on disk: sealed frames in sled volumes, a manifest that says what must be there, and a settlement store.
//!
//! Only the newest volume is open in sled, and only one that this process made or that was closed in order and has not
//! changed by a byte since. Every other volume is read from its raw files after a scan that proves each of its frames.

use crate::model::name::{ChairName, UpstreamName};
use crate::model::time::Timestamp;
use crate::privacy::keyring::DataKeys;
use crate::privacy::record::{Record, TreatmentId};
use crate::spool::dead::DeadLetters;
use crate::spool::disk::{Disk, Faults};
use crate::spool::doubt::Doubts;
use crate::spool::frame::{Header, Opener, Sealer};
use crate::spool::ledger::Ledger;
use crate::spool::lock::Lock;
use crate::spool::manifest::{Contents, Manifest, VolumeEntry, folder_name};
use crate::spool::room::{Measured, SEGMENT};
use crate::spool::rows::Volume;
use crate::spool::salvage::Runs;
use crate::spool::scan::digest;
use crate::spool::settlement::Settlement;
use crate::spool::shelf::Shelf;
use crate::spool::slots::{Left, SlotLedger};
use crate::spool::space::Space;
use crate::spool::told::Told;
use crate::spool::tools::SpoolTools;
use crate::spool::{
    BatchLimit, Lane, Pruned, Retention, Sequence, Spool, SpoolError, SpoolStatus, StoreId, Stored, Verdict,
    reserve,
};
use chairside_drivers::kit::time::Tick;
use std::collections::{BTreeMap, BTreeSet};
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
    /// Where the files go that we write ourselves.
    pub disk: crate::disk::Disk,
}

impl Options {
    /// The usual set-up within this many bytes.
    #[must_use]
    pub fn new(max_bytes: u64) -> Self {
        Self { max_bytes, volume_records: 50_000, faults: None, disk: crate::disk::Disk::default() }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { max_bytes, volume_records, faults: _, disk: _ } = self;
        write!(f, "Options {{ max_bytes: {max_bytes}, volume_records: {volume_records} }}")
    }
}

/// Records in one lease at most.
const LEASE: usize = 1_000;

/// A record takes about this much on disk.
const TYPICAL: u64 = 1024;

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
    pub(super) current: Option<Volume>,
    pub(super) settlement: Settlement,
    /// The poll slots that the records account for.
    pub(super) slots: SlotLedger,
    /// The last record of it that is written down.
    pub(super) slots_written: Sequence,
    pub(super) dead: DeadLetters,
    pub(super) sealer: Sealer,
    pub(super) shelf: Shelf,
    /// Bytes of the volumes that are not written any more.
    pub(super) resting_bytes: u64,
    pub(super) measured: Measured,
    /// Acts of the disk that failed since the start. The second one ends the spool.
    pub(super) failures: u32,
    pub(super) broken: Option<SpoolError>,
    /// A volume was set aside and is to be mended at the next append.
    pub(super) damaged: bool,
    /// What volumes lost that some upstream still waited for.
    pub(super) losses: BTreeMap<u64, Runs>,
    /// Records that are lost although their volume has them, to be told of at the next append.
    pub(super) untold: BTreeSet<u64>,
    /// Records that tell of lost ones, from before the start.
    pub(super) told: Told,
    /// What could not leave the spool, until somebody tries again.
    pub(super) passed_over: BTreeSet<u64>,
    /// Volumes that the device does not give now.
    pub(super) doubts: Doubts,
    /// Capture times of records that were the oldest waiting when somebody last asked.
    pub(super) oldest: BTreeMap<u64, Timestamp>,
    /// The newest time anybody told: of a capture, or of upkeep.
    pub(super) heard: Timestamp,
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

    pub(super) fn usable(&self) -> Result<(), SpoolError> {
        self.broken.clone().map_or(Ok(()), Err)
    }

    /// Writes the records; durable when it returns.
    pub(super) fn keep(&mut self, batch: &[Record], at: Timestamp) -> Result<Vec<Sequence>, SpoolError> {
        let first = self.contents.last + 1;
        let sealed = self.sealer.seal_all(Sequence(first), batch)?;
        let bytes = sealed.bytes();
        self.check_space(batch, bytes)?;
        self.write_frames(&sealed.rows(), at)?;
        self.note_written(bytes);
        let last = self.contents.last + batch.len() as u64;
        self.contents.last = last;
        if let Some(volume) = self.contents.volumes.last_mut() {
            volume.last = last;
            let places = (first..).zip(batch);
            places
                .for_each(|(sequence, record)| self.shelf.note(volume.number, record.treatment(), sequence));
        }
        self.mark()?;
        self.settlement.appended(last);
        (first..).zip(batch).for_each(|(sequence, record)| self.slots.note(Sequence(sequence), record));
        self.slots_grew();
        Ok((first..=last).map(Sequence).collect())
    }

    /// Makes what was settled durable, with the space that was kept for it where there is no other.
    pub(super) fn sync_settlements(&mut self) -> Result<(), SpoolError> {
        match self.settlement.sync() {
            Err(error) if error.is_no_space() && reserve::release(&self.home) => self.settlement.sync(),
            synced => synced,
        }
    }

    pub(super) fn remove_volumes(&mut self, expired: &[u64]) -> Result<(), SpoolError> {
        // A settlement that a power cut takes back would make records of a removed volume look lost.
        self.sync_settlements()?;
        // A start counts the poll slots of records anew where they were not written down, so those records must still be there.
        let leaving = self.contents.volumes.iter().filter(|volume| expired.contains(&volume.number));
        if leaving.map(|volume| volume.last).max() > Some(self.slots_written.0) {
            self.write_slots()?;
        }
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

/// A disk without room puts off what can wait. Any other failure of it does not pass.
pub(super) fn another_time(error: SpoolError) -> Result<(), SpoolError> {
    if !error.is_no_space() {
        return Err(error);
    }
    let error = crate::telemetry::chain(&error);
    tracing::warn!(error, "the disk has no room; this is done another time");
    Ok(())
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
        let moment = newest.origin();
        self.heard = moment.at;
        self.doubts.heard(moment.tick);
        self.mend(moment);
        if let Err(error) = self.make_room(batch.len() as u64 * TYPICAL + SEGMENT, moment) {
            tracing::warn!(%error, "no room could be made in the spool");
        }
        self.usable()?;
        self.keep(batch, moment.at)
    }

    fn lease(
        &mut self,
        upstream: &UpstreamName,
        limit: BatchLimit,
        lane: Lane,
        now: Tick,
    ) -> Result<Vec<Stored>, SpoolError> {
        self.doubts.heard(now);
        loop {
            let due = self.settlement.ledger(upstream)?.due(limit.records.min(LEASE), lane, now);
            if due.is_empty() {
                return Ok(Vec::new());
            }
            let leased = self.read_due(&due, upstream)?;
            // Everything that was due and cannot be had is settled now, so this ends.
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
        self.look_again();
        self.write_letters(upstream, verdicts)?;
        let answered = self.answered(upstream, verdicts)?;
        self.settlement.settle(upstream, verdicts)?;
        self.settlement.write()?;
        // A letter that stays behind is only sent once more, which changes nothing at the upstream.
        self.dead.strike_out(upstream, &answered)
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

    fn tools(&mut self) -> &mut dyn SpoolTools {
        self
    }

    fn prune(&mut self, policy: Retention, now: Timestamp) -> Result<Pruned, SpoolError> {
        self.heard = now;
        self.look_again();
        // What could not be mended may be, the next time.
        self.damaged |= self.contents.volumes.iter().any(|volume| volume.set_aside.is_some());
        self.passed_over.clear();
        self.dead.tidy().or_else(another_time)?;
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
            if let Err(error) = self.remove_volumes(&expired) {
                another_time(error)?;
                pruned = Pruned::default();
            }
        } else if noted {
            self.commit()?;
        }
        self.prune_aside(now)?;
        Ok(pruned)
    }

    fn space(&mut self) -> Space {
        self.room()
    }

    fn begin_run(
        &mut self,
        chairs: &[(ChairName, Duration)],
    ) -> Result<BTreeMap<ChairName, Left>, SpoolError> {
        self.usable()?;
        self.begin_slots(chairs)
    }

    fn status(&mut self) -> SpoolStatus {
        let ends = |ledger: &Ledger| [ledger.oldest_waiting(), ledger.oldest_unsent()];
        let oldest: Vec<_> =
            self.settlement.ledgers().flat_map(|(_, ledger)| ends(ledger)).flatten().collect();
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
        let counts = self.settlement.ledgers().map(|(name, ledger)| {
            let mut counts = ledger.counts();
            let captured = |of: Option<Sequence>| self.oldest.get(&of?.0).copied();
            [counts.oldest_waiting, counts.oldest_unsent] = ends(ledger).map(captured);
            (name.clone(), counts)
        });
        let space = self.room();
        SpoolStatus {
            last: self.contents.last,
            records: volumes.iter().map(|volume| volume.records().saturating_sub(missing(volume))).sum(),
            bytes: space.used,
            space,
            volumes: u32::try_from(volumes.len()).unwrap_or(u32::MAX),
            set_aside: self.contents.set_aside(),
            slots: self.slots_shown(),
            upstreams: counts.collect(),
        }
    }

    fn flush(&mut self) -> Result<(), SpoolError> {
        self.settlement.sync()
    }

    fn close(&mut self) -> Result<(), SpoolError> {
        reserve::release_if_short(&self.home);
        self.settlement.close()?;
        self.usable()?;
        self.slots.end();
        self.write_slots().or_else(another_time)?;
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
