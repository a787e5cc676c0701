//! What the spool takes on disk, and how an append knows it without a look at every file.

use crate::privacy::record::Record;
use crate::spool::SpoolError;
use crate::spool::disk::{free, used};
use crate::spool::frame::FrameKind;
use crate::spool::manifest::ASIDE;
use crate::spool::space::{Level, Space};
use crate::spool::store::SledSpool;

/// A frame takes about twice its length in sled until its pages are tidied up.
const SLED_OVERHEAD: u64 = 2;

/// sled writes in segments of this size, and a commit can begin one.
pub(super) const SEGMENT: u64 = 512 * 1024;

/// This part of the space is kept back from readings, for alarms and treatment events.
const RESERVE: u64 = 40;

/// Bytes of the file system that are left to others, and to the settlement of what is stored.
pub(crate) const LEFT_FREE: u64 = 16 * 1024 * 1024;

/// The files are looked at again after this many appends.
const APPENDS: u32 = 16;

/// What the files took when they were last looked at. Good for appends that are far from every bound.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    /// All files.
    bytes: u64,
    /// The newest volume, if it is open.
    newest: u64,
    /// What appends may have added since, at most.
    added: u64,
    /// Appends until the next look.
    appends: u32,
}

impl SledSpool {
    /// What comes other than by appends is seen at the next look.
    pub(super) const fn look_again(&mut self) {
        self.measured.appends = 0;
    }

    fn measured(&mut self) -> Measured {
        if self.measured.appends == 0 {
            let (bytes, newest) = self.files();
            self.measured = Measured { bytes, newest, added: SEGMENT, appends: APPENDS };
        }
        self.measured
    }

    /// Frames of so many bytes were written.
    pub(super) const fn note_written(&mut self, frames: u64) {
        self.measured.added = self.measured.added.saturating_add(on_disk(frames));
        self.measured.appends = self.measured.appends.saturating_sub(1);
    }

    /// Whether so many bytes more leave the spool below every level, as far as that is known without a look.
    pub(super) fn has_ample_room(&mut self, bytes: u64) -> bool {
        let Measured { bytes: taken, added, .. } = self.measured();
        let free = free(&self.home).map_or(u64::MAX, |free| free.saturating_sub(LEFT_FREE));
        let taken = taken.saturating_add(added);
        Space::of(taken, self.options.max_bytes, free).with(bytes).level() == Level::Normal
    }

    /// Whether the newest volume takes at least so many bytes.
    pub(super) fn newest_takes(&mut self, bytes: u64) -> bool {
        let Measured { newest, added, .. } = self.measured();
        self.current.is_some() && newest.saturating_add(added) >= bytes && self.files().1 >= bytes
    }

    /// Whether frames of so many bytes may be written for these records.
    ///
    /// # Errors
    /// `Full`, or `Disk` when the file system cannot be asked.
    pub(super) fn check_space(&mut self, batch: &[Record], frames: u64) -> Result<(), SpoolError> {
        let bytes = on_disk(frames).saturating_add(SEGMENT);
        let urgent = batch.iter().all(|record| FrameKind::of(record.body()).passes_the_reserve());
        let kept_back = if urgent { 0 } else { self.options.max_bytes / RESERVE };
        // What says that records leave comes before they do: an eviction has to begin above the bound.
        let makes_room = batch.iter().all(|record| FrameKind::of(record.body()) == FrameKind::Evicted);
        let max = self.options.max_bytes;
        if !makes_room && !self.has_ample_room(bytes) {
            let used = self.used();
            if used.saturating_add(bytes) > max.saturating_sub(kept_back) {
                return Err(SpoolError::Full { used, max });
            }
        }
        let left = if urgent { LEFT_FREE / 4 } else { LEFT_FREE };
        let free = self.disk.act("ask for free space", || free(&self.home))?;
        if free < bytes.saturating_add(left) {
            let used = self.used();
            return Err(SpoolError::Full { used, max: used.saturating_add(free) });
        }
        Ok(())
    }

    /// How full the spool is.
    pub(super) fn room(&self) -> Space {
        let used = self.used();
        // A file system that cannot be asked is not taken for a full one.
        let free = free(&self.home).map_or(u64::MAX, |free| free.saturating_sub(LEFT_FREE));
        Space::of(used, self.options.max_bytes, free)
    }

    /// Bytes on disk.
    pub(super) fn used(&self) -> u64 {
        self.files().0
    }

    /// Bytes on disk, and those of the newest volume among them.
    fn files(&self) -> (u64, u64) {
        let newest = self.current.as_ref().and(self.contents.volumes.last());
        let newest = newest.map_or(0, |volume| used(&self.home.join(volume.folder())));
        let beside = ["settlement", "settlement-damaged", "dead", "contents", "manifest", ASIDE]
            .map(|name| used(&self.home.join(name)));
        (self.resting_bytes + newest + beside.iter().sum::<u64>(), newest)
    }

    pub(super) fn measure_resting_volumes(&mut self) {
        self.look_again();
        let written = self.current.as_ref().and(self.contents.volumes.last()).map(|volume| volume.number);
        let resting = self.contents.volumes.iter().filter(|volume| Some(volume.number) != written);
        self.resting_bytes = resting.map(|volume| used(&self.home.join(volume.folder()))).sum();
    }
}

/// Bytes that frames of so many bytes take on disk at most.
const fn on_disk(frames: u64) -> u64 {
    frames.saturating_mul(SLED_OVERHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Spool;
    use crate::spool::store::Options;
    use crate::spool::testing::{Keys, at, fast_home, reading, upstream};
    use std::sync::Arc;

    #[test]
    fn appends_between_two_looks_are_never_taken_for_less_than_they_take() {
        let home = fast_home();
        let options = Options { volume_records: 700, ..Options::new(1 << 30) };
        let keys = Arc::new(Keys::default());
        let mut spool = SledSpool::open(home.path(), keys, &[upstream("ehr")], options, at(0)).unwrap();
        let mut looked = 0;
        for append in 0..300 {
            let records: Vec<_> = (0..1 + append % 17).map(reading).collect();
            spool.append(&records).unwrap();
            looked += u32::from(spool.measured.appends + 1 == APPENDS);
            // After the next look nothing is guessed, so only what is in use now counts.
            let known = spool.measured;
            if known.appends > 0 {
                let (taken, newest) = spool.files();
                assert!(known.bytes + known.added >= taken, "append {append}: {known:?} of {taken}");
                assert!(known.newest + known.added >= newest, "append {append}: {known:?} of {newest}");
            }
        }
        assert!((18..40).contains(&looked), "{looked} looks");
    }

    #[test]
    fn what_a_person_lays_beside_the_records_is_seen_before_the_spool_is_full() {
        let home = fast_home();
        let keys = Arc::new(Keys::default());
        let options = Options::new(8 << 20);
        let mut spool = SledSpool::open(home.path(), keys, &[upstream("ehr")], options, at(0)).unwrap();
        spool.append(&[reading(1)]).unwrap();
        std::fs::create_dir_all(home.path().join(ASIDE)).unwrap();
        std::fs::write(home.path().join(ASIDE).join("left-behind"), vec![7; 8 << 20]).unwrap();
        let refused = (2..2 + u64::from(APPENDS) + 1).find(|n| spool.append(&[reading(*n)]).is_err());
        assert!(refused.is_some());
    }
}
