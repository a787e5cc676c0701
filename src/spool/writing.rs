//! How records come into the spool: volumes that are started, filled and given up.

use crate::model::time::Timestamp;
use crate::spool::manifest::{VolumeEntry, folder_name};
use crate::spool::room::SEGMENT;
use crate::spool::rows::Volume;
use crate::spool::scan::digest;
use crate::spool::store::SledSpool;
use crate::spool::{Sequence, SpoolError, reserve};
use std::time::Duration;

/// A new volume is started a day after the first record of the last one.
const VOLUME_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// A volume is not made larger than this; a scan reads all of it.
const VOLUME_BYTES: u64 = 64 * 1024 * 1024;

/// Nor than this part of a small room, so that little has to leave at once.
const VOLUME_PART: u64 = 16;

/// But never smaller than this because of it: an empty volume takes a good part of it.
const VOLUME_LEAST: u64 = 4 * SEGMENT;

impl SledSpool {
    /// Writes the frames; durable when it returns. A volume that fails is left as it is and its frames go to a new one.
    pub(super) fn write_frames(
        &mut self,
        rows: &[(Sequence, sled::IVec)],
        at: Timestamp,
    ) -> Result<(), SpoolError> {
        let mut last_chance = false;
        loop {
            let written = self.open_volume(at).and_then(|()| match self.current.as_mut() {
                Some(volume) => volume.write(rows).and_then(|()| volume.sync("sync records")),
                None => Err(SpoolError::Closed),
            });
            let Err(error) = written else { return Ok(()) };
            self.give_up_current();
            if error.is_no_space() {
                // The disk is sound. Room comes back; what the engine has begun in this volume does not.
                if last_chance || !reserve::release(&self.home) {
                    let used = self.used();
                    return Err(SpoolError::Full { used, max: used });
                }
                last_chance = true;
                continue;
            }
            self.failed(error, last_chance)?;
            last_chance = true;
        }
    }

    /// Counts a failure: the first one of the disk is survived, whatever comes after it ends the spool.
    pub(super) fn failed(&mut self, error: SpoolError, last_chance: bool) -> Result<(), SpoolError> {
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

    fn volume_bytes(&self) -> u64 {
        (self.options.max_bytes / VOLUME_PART).clamp(VOLUME_LEAST, VOLUME_BYTES)
    }

    /// Sees to it that the newest volume is open and has room.
    pub(super) fn open_volume(&mut self, at: Timestamp) -> Result<(), SpoolError> {
        let Some(newest) = self.contents.volumes.last() else { return self.start_volume(at) };
        let full = newest.records() >= self.options.volume_records
            || newest.opened.is_some_and(|opened| at.since(opened) >= VOLUME_AGE)
            || self.newest_takes(self.volume_bytes());
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
    pub(super) fn go_on_with_newest(&mut self) -> Option<Volume> {
        let newest = self.contents.volumes.last_mut()?;
        let closed = newest.digest.take()?;
        let folder = self.home.join(newest.folder());
        // Numbers that were given and lost come behind it: a volume has all of its range.
        if newest.last != self.contents.last
            || newest.set_aside.is_some()
            || newest.copied.is_some()
            || digest(&folder).ok()? != closed
        {
            return None;
        }
        let (number, last) = (newest.number, Sequence(newest.last));
        self.spans(number).ok()?;
        self.shelf.drop_index(number);
        let mut volume = Volume::open(&folder, &self.disk).ok()??;
        let found = volume.frames(&[last]);
        if matches!(found.as_deref(), Ok([Some(_)])) {
            return Some(volume);
        }
        volume.abandon();
        None
    }

    pub(super) fn start_volume(&mut self, at: Timestamp) -> Result<(), SpoolError> {
        let number = self.free_number();
        let volume = Volume::create(&self.home.join(folder_name(number)), &self.disk)?;
        let last = self.contents.last;
        let entry = VolumeEntry::new(number, self.contents.store, last + 1, last);
        self.contents.volumes.push(VolumeEntry { opened: Some(at), ..entry });
        self.current = Some(volume);
        self.measure_resting_volumes();
        self.commit_both()
    }

    /// The newest volume is full. What it holds is durable; closing it only tidies up.
    pub(super) fn rest_current(&mut self) {
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
    pub(super) fn give_up_current(&mut self) {
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
    pub(super) fn commit(&mut self) -> Result<(), SpoolError> {
        let written = self.manifest.commit(&self.contents);
        self.or_replace(written)
    }

    /// Notes in the manifest that the newest volume holds more; when that fails, as [`Self::commit`].
    pub(super) fn mark(&mut self) -> Result<(), SpoolError> {
        let written = self.manifest.mark(&self.contents);
        self.or_replace(written)
    }

    fn or_replace(&mut self, written: Result<(), SpoolError>) -> Result<(), SpoolError> {
        let Err(error) = written else { return Ok(()) };
        self.failed(error, false)?;
        let Err(error) = self.manifest.replace(&self.contents) else { return Ok(()) };
        self.failed(error, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Spool;
    use crate::spool::disk::used;
    use crate::spool::store::Options;
    use crate::spool::testing::{Keys, at, fast_home, reading, record};
    use std::path::Path;
    use std::sync::Arc;

    fn open(home: &Path, max_bytes: u64) -> SledSpool {
        SledSpool::open(home, Arc::new(Keys::default()), &[], Options::new(max_bytes), at(0)).unwrap()
    }

    #[test]
    fn a_volume_is_written_for_a_day_from_its_first_record() {
        const DAY: u64 = 24 * 60 * 60;
        let home = fast_home();
        let mut spool = open(home.path(), 1 << 30);
        let volumes_at = |spool: &mut SledSpool, second: u64| {
            spool.append(&[record(second)]).unwrap();
            spool.status().volumes
        };
        let seconds = [7, DAY + 6, DAY + 7, DAY + 8];
        assert_eq!(seconds.map(|second| volumes_at(&mut spool, second)), [1, 1, 2, 2]);
        spool.close().unwrap();
        drop(spool);
        // Neither an end in order begins the day again.
        let mut spool = open(home.path(), 1 << 30);
        assert_eq!([2 * DAY + 6, 2 * DAY + 7].map(|second| volumes_at(&mut spool, second)), [2, 3]);
    }

    #[test]
    fn a_volume_takes_64_mib_at_most_and_a_sixteenth_of_a_small_room() {
        const MIB: u64 = 1 << 20;
        let bytes = |max_bytes| open(fast_home().path(), max_bytes).volume_bytes() / MIB;
        let rooms = [u64::MAX, 2_048 * MIB, 1_024 * MIB, 1_008 * MIB, 48 * MIB, MIB];
        assert_eq!(rooms.map(bytes), [64, 64, 64, 63, 3, 2]);
        let home = fast_home();
        let mut spool = open(home.path(), 48 * MIB);
        let mut number = 0;
        while spool.status().volumes < 3 {
            spool.append(&(number..number + 100).map(reading).collect::<Vec<_>>()).unwrap();
            number += 100;
            assert!(number < 40_000, "volumes grow without an end");
        }
        for volume in [1, 2].map(|volume| used(&home.path().join(folder_name(volume)))) {
            assert!((2 * MIB..=4 * MIB).contains(&volume), "{volume} bytes");
        }
    }
}
