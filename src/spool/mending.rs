//! What becomes of a volume that is incomplete: its good records go into a copy that takes its place, its files go aside untouched,
//! and a record says what is lost.
//!
//! It happens at the next append, whose moment the record carries. A crash between two steps repeats them:
//!
//! ```text
//! copy what is good -> say what is lost (records, appended) -> manifest -> move the files aside
//! ```

use crate::model::time::Timestamp;
use crate::normalise::Origin;
use crate::privacy::record::{Event, LossCause, Record, Tombstone};
use crate::spool::eviction::spoken_at;
use crate::spool::frame::Opener;
use crate::spool::manifest::{ASIDE, AsideEntry, folder_name};
use crate::spool::salvage::Runs;
use crate::spool::store::{SledSpool, remove_folder};
use crate::spool::{Sequence, SpoolError, Stored};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// They are kept this long, for whoever wants to look at them. Every good record of them was copied.
const KEPT: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// A volume with more holes than this tells of them together.
const TOLD_APART: usize = 8;

impl SledSpool {
    /// Mends every volume that was set aside. What cannot be mended now stays as it is until the next start.
    pub(super) fn mend(&mut self, moment: &Origin) {
        if !std::mem::take(&mut self.damaged) {
            return;
        }
        let aside = self.contents.volumes.iter().filter(|volume| volume.set_aside.is_some());
        let numbers: Vec<u64> = aside.map(|volume| volume.number).collect();
        for number in numbers {
            if let Err(error) = self.mend_volume(number, moment) {
                tracing::warn!(
                    volume = number,
                    %error,
                    "a damaged volume stays where it is; what is good in it is served from there"
                );
            }
        }
    }

    fn mend_volume(&mut self, number: u64, moment: &Origin) -> Result<(), SpoolError> {
        // Only one that is not written any more.
        if self.current.is_some() && self.contents.volumes.last().is_some_and(|last| last.number == number) {
            return Ok(());
        }
        let Some(lost) = self.index(number)?.map(|index| index.missing().map(|s| s.0).collect::<Runs>())
        else {
            return Ok(());
        };
        let copy = self.copy_volume(number, &mut |_| true)?;
        // Without a note of this run, all that is lost may not have been delivered.
        let undelivered = self.losses.get(&number).cloned().unwrap_or(lost);
        let told =
            self.tell_of(&undelivered, moment).and_then(|records| self.say(number, &records, moment.at));
        if let Err(error) = told {
            if let Some(copy) = copy {
                self.drop_copy(copy.number);
            }
            return Err(error);
        }
        self.losses.remove(&number);
        let Some(place) = self.place_of(number) else { return Ok(()) };
        let expected = self.contents.volumes.get(place).map_or(0, |volume| volume.records());
        let found = copy.as_ref().map_or(0, |copy| copy.records());
        self.contents.aside.push(AsideEntry { number, expected, found, since: moment.at });
        self.replace_volume(place, copy)?;
        self.shelf.forget(&self.home, number);
        self.put_aside(number)?;
        self.measure_resting_volumes();
        tracing::warn!(volume = number, expected, found, "the good records of a damaged volume were copied");
        Ok(())
    }

    /// The records that tell of lost ones: between which times, and how many.
    fn tell_of(&mut self, lost: &Runs, moment: &Origin) -> Result<Vec<Record>, SpoolError> {
        let mut runs: Vec<(u64, u64, u64)> =
            lost.iter().map(|(first, last)| (first, last, last - first + 1)).collect();
        if runs.len() > TOLD_APART
            && let (Some((first, ..)), Some((_, last, _))) = (runs.first().copied(), runs.last().copied())
        {
            runs = vec![(first, last, lost.count())];
        }
        let mut records = Vec::with_capacity(runs.len());
        for (first, last, count) in runs {
            let (before, behind) = (self.neighbour(first.checked_sub(1))?, self.neighbour(Some(last + 1))?);
            let origin = before.as_ref().or(behind.as_ref()).map_or(moment, |stored| stored.record.origin());
            let at = |stored: &Option<Stored>| stored.as_ref().map(|stored| stored.record.origin().at);
            let tombstone = Tombstone {
                from: at(&before).or(at(&behind)).unwrap_or(moment.at),
                to: at(&behind).unwrap_or(moment.at),
                records: count,
                first,
                last,
                cause: LossCause::StoreDamaged,
            };
            records.push(Record::event(spoken_at(origin, moment), None, Event::Evicted(tombstone)));
        }
        Ok(records)
    }

    fn neighbour(&mut self, sequence: Option<u64>) -> Result<Option<Stored>, SpoolError> {
        let Some(sequence) = sequence.filter(|sequence| (1..=self.contents.last).contains(sequence)) else {
            return Ok(None);
        };
        let frame = self.frames(&[Sequence(sequence)])?.pop().flatten();
        Ok(frame.and_then(|frame| Opener::new(&*self.keys).open(&frame).ok()))
    }

    /// Removes the files of damaged volumes that were aside for long enough; gives how many.
    pub(super) fn prune_aside(&mut self, now: Timestamp) -> Result<(), SpoolError> {
        while self.contents.aside.first().is_some_and(|aside| now.since(aside.since) >= KEPT) {
            self.drop_oldest_aside()?;
        }
        Ok(())
    }

    /// Removes the files of the volume that was damaged first.
    pub(super) fn drop_oldest_aside(&mut self) -> Result<bool, SpoolError> {
        let Some(aside) = self.contents.aside.first().cloned() else { return Ok(false) };
        let act = "remove the files of a damaged volume";
        self.disk.act(act, || remove_folder(&folder(&self.home, aside.number)))?;
        self.contents.aside.retain(|other| other.number != aside.number);
        self.commit_both()?;
        tracing::warn!(volume = aside.number, "the files of a damaged volume were removed");
        Ok(true)
    }

    fn put_aside(&self, number: u64) -> Result<(), SpoolError> {
        let act = "move a damaged volume aside";
        let (from, to) = (self.home.join(folder_name(number)), folder(&self.home, number));
        // A volume that vanished has no files.
        if !from.exists() {
            return Ok(());
        }
        let home = self.home.join(ASIDE);
        self.disk.act(act, || fs::DirBuilder::new().recursive(true).mode(0o700).create(&home))?;
        self.disk.act(act, || fs::rename(&from, &to))?;
        self.disk.sync_folder(act, &home)?;
        self.disk.sync_folder(act, &self.home)
    }

    /// Finishes moves that a crash cut short, and forgets what a person has removed.
    pub(super) fn look_after_aside(&mut self) -> Result<(), SpoolError> {
        for aside in self.contents.aside.clone() {
            if self.home.join(folder_name(aside.number)).exists() {
                self.put_aside(aside.number)?;
            }
        }
        let home = self.home.clone();
        self.contents.aside.retain(|aside| folder(&home, aside.number).exists());
        self.damaged = self.contents.volumes.iter().any(|volume| volume.set_aside.is_some());
        Ok(())
    }
}

/// Where the files of a damaged volume are.
pub(super) fn folder(home: &Path, number: u64) -> PathBuf {
    home.join(ASIDE).join(folder_name(number))
}
