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
use crate::spool::manifest::{ASIDE, AsideEntry, VolumeEntry, folder_name};
use crate::spool::salvage::Runs;
use crate::spool::scan::Index;
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
    /// Tells of what is lost and mends every volume that was set aside. What cannot be mended now stays as it is for a while.
    pub(super) fn mend(&mut self, moment: &Origin) {
        if let Err(error) = self.tell_of_single_records(moment) {
            tracing::warn!(%error, "records that say which ones are lost cannot be written yet");
        }
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
        let present = self.index(number)?.map_or(0, Index::found);
        let copy = self.copy_volume(number, &mut |_| true)?;
        if copy.as_ref().map_or(0, VolumeEntry::records) < present {
            // What was there a moment ago may be there again, or is found missing.
            self.shelf.drop_index(number);
            self.drop_copies(copy.as_ref());
            let why = "it changed while it was read";
            return Err(SpoolError::Engine { act: "copy a damaged volume", why });
        }
        // Without a note of this run, all that is lost may not have been delivered.
        let undelivered = self.losses.get(&number).cloned().unwrap_or(lost);
        let records = self.tell_of(&undelivered, moment);
        if let Err(error) = self.say(number, &records, moment.at) {
            self.drop_copies(copy.as_ref());
            return Err(error);
        }
        self.losses.remove(&number);
        let Some(place) = self.place_of(number) else { return Ok(()) };
        let expected = self.contents.volumes.get(place).map_or(0, |volume| volume.records());
        let found = copy.as_ref().map_or(0, |copy| copy.records());
        self.contents.aside.push(AsideEntry { number, expected, found, since: moment.at });
        self.replace_volume(place, copy)?;
        self.shelf.forget(&self.home, number);
        self.put_aside(number);
        self.measure_resting_volumes();
        tracing::warn!(volume = number, expected, found, "the good records of a damaged volume were copied");
        Ok(())
    }

    fn drop_copies(&mut self, copy: Option<&VolumeEntry>) {
        if let Some(copy) = copy {
            self.drop_copy(copy.number);
        }
    }

    fn tell_of_single_records(&mut self, moment: &Origin) -> Result<(), SpoolError> {
        if self.untold.is_empty() {
            return Ok(());
        }
        let lost: Runs = self.untold.iter().copied().collect();
        let records = self.tell_of(&lost, moment);
        self.keep(&records, moment.at)?;
        self.untold.clear();
        Ok(())
    }

    /// The records that tell of lost ones: between which times, and how many.
    fn tell_of(&mut self, lost: &Runs, moment: &Origin) -> Vec<Record> {
        let mut runs: Vec<(u64, u64, u64)> =
            lost.iter().map(|(first, last)| (first, last, last - first + 1)).collect();
        if runs.len() > TOLD_APART
            && let (Some((first, ..)), Some((_, last, _))) = (runs.first().copied(), runs.last().copied())
        {
            runs = vec![(first, last, lost.count())];
        }
        let mut records = Vec::with_capacity(runs.len());
        for (first, last, count) in runs {
            let (before, behind) = (self.neighbour(first.checked_sub(1)), self.neighbour(Some(last + 1)));
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
        records
    }

    /// A record beside a lost one, if it can be had now.
    fn neighbour(&mut self, sequence: Option<u64>) -> Option<Stored> {
        let sequence = sequence.filter(|sequence| (1..=self.contents.last).contains(sequence))?;
        let frame = self.frames(&[Sequence(sequence)]).ok()?.pop().flatten()?;
        Opener::new(&*self.keys).open(&frame).ok()
    }

    /// Removes the files of damaged volumes that were aside for long enough.
    pub(super) fn prune_aside(&mut self, now: Timestamp) -> Result<(), SpoolError> {
        let old = |aside: &AsideEntry| now.since(aside.since) >= KEPT;
        while self.drop_aside(old)? {}
        Ok(())
    }

    /// Removes the files of the volume that was damaged first; false if there are none, or none that can be removed.
    pub(super) fn drop_oldest_aside(&mut self) -> Result<bool, SpoolError> {
        self.drop_aside(|_| true)
    }

    /// Removes the first ones of these files. What nobody may remove is passed over.
    fn drop_aside(&mut self, which: impl Fn(&AsideEntry) -> bool) -> Result<bool, SpoolError> {
        for aside in self.contents.aside.clone().into_iter().filter(which) {
            if self.passed_over.contains(&aside.number) {
                continue;
            }
            let (standing, moved) =
                (self.home.join(folder_name(aside.number)), folder(&self.home, aside.number));
            let folder = if standing.exists() { standing } else { moved };
            let act = "remove the files of a damaged volume";
            if let Err(error) = self.disk.act(act, || remove_folder(&folder)) {
                let error = crate::telemetry::chain(&error);
                tracing::warn!(volume = aside.number, error, "the files of a damaged volume stay");
                self.passed_over.insert(aside.number);
                continue;
            }
            self.contents.aside.retain(|other| other.number != aside.number);
            self.commit_both()?;
            tracing::warn!(volume = aside.number, "the files of a damaged volume were removed");
            return Ok(true);
        }
        Ok(false)
    }

    /// Moves the files of a damaged volume aside. Where that fails they stay where they are; nobody looks for records in them.
    fn put_aside(&self, number: u64) {
        if let Err(error) = self.try_to_put_aside(number) {
            let error = crate::telemetry::chain(&error);
            tracing::warn!(volume = number, error, "the files of a damaged volume stay in their place");
        }
    }

    fn try_to_put_aside(&self, number: u64) -> Result<(), SpoolError> {
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
    pub(super) fn look_after_aside(&mut self) {
        for aside in self.contents.aside.clone() {
            if self.home.join(folder_name(aside.number)).exists() {
                self.put_aside(aside.number);
            }
        }
        let home = self.home.clone();
        let stands = |aside: &AsideEntry| home.join(folder_name(aside.number)).exists();
        self.contents.aside.retain(|aside| stands(aside) || folder(&home, aside.number).exists());
        self.damaged = self.contents.volumes.iter().any(|volume| volume.set_aside.is_some());
    }
}

/// Where the files of a damaged volume are.
pub(super) fn folder(home: &Path, number: u64) -> PathBuf {
    home.join(ASIDE).join(folder_name(number))
}
