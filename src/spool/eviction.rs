//! What leaves the spool when it is full, in which order, and how nothing of it leaves unsaid.
//!
//! First what every upstream has settled, then what was set aside and copied from, then the oldest volume that
//! is still waited for. Of that one, alarms, treatments, gaps and corrections stay, in a copy of their own that is
//! never evicted. A crash between two steps repeats them:
//!
//! ```text
//! copy what stays -> say what goes (records, appended) -> settle it as evicted (synced) -> manifest -> remove the files
//! ```

use crate::model::name::ChairName;
use crate::model::time::Timestamp;
use crate::normalise::Origin;
use crate::privacy::record::{Event, LossCause, Record, Tombstone};
use crate::spool::disk::{free, used};
use crate::spool::frame::{FrameFault, FrameKind, Header, Opener};
use crate::spool::manifest::{VolumeEntry, folder_name};
use crate::spool::room::LEFT_FREE;
use crate::spool::salvage::{Runs, copy};
use crate::spool::scan::{Index, Tail};
use crate::spool::space::Level;
use crate::spool::store::{SledSpool, remove_folder};
use crate::spool::{Pruned, Sequence, SpoolError, reserve};
use std::collections::BTreeMap;

/// Records looked at together.
const STRIDE: usize = 256;

/// The newest volume is ended early, to be evicted, once it takes this part of the room.
const NEWEST_PART: u64 = 8;

/// What becomes of the records of a volume that is evicted.
#[derive(Default)]
struct Parting {
    /// They stay, in a copy.
    kept: Runs,
    /// Nobody can open them any more.
    erased: Runs,
    /// They go; by chair.
    gone: BTreeMap<ChairName, Going>,
}

/// What one chair loses.
struct Going {
    origin: Origin,
    from: Timestamp,
    to: Timestamp,
    first: u64,
    last: u64,
    records: u64,
}

impl SledSpool {
    /// Lets the oldest records go until this many bytes more fit below the level of eviction, or nothing can go.
    ///
    /// # Errors
    /// [`SpoolError`] when a step fails; what was done until then is consistent.
    pub(super) fn make_room(&mut self, bytes: u64, moment: &Origin) -> Result<Pruned, SpoolError> {
        let mut all = Pruned::default();
        // An eviction that was told of and then cut short is not taken back.
        let is_told = |volume: &&VolumeEntry| volume.told || self.told.is_leaving(volume);
        let told = self.contents.volumes.iter().filter(is_told).find(|volume| self.may_leave(volume));
        if let Some(number) = told.map(|volume| volume.number) {
            all = self.evict_volume(number, moment)?.unwrap_or_default();
        }
        let mut full = !self.has_ample_room(bytes) && self.room().with(bytes).level() == Level::Evict;
        if !full {
            return Ok(all);
        }
        if free(&self.home).is_ok_and(|free| free < LEFT_FREE) {
            reserve::release(&self.home);
        }
        while full {
            let Some(one) = self.evict_one(moment)? else { break };
            all.volumes += one.volumes;
            all.records += one.records;
            full = self.room().with(bytes).level() == Level::Evict;
        }
        reserve::hold(&self.home, self.options.max_bytes, LEFT_FREE, &self.disk);
        Ok(all)
    }

    /// Lets go of one volume; `None` if none can.
    fn evict_one(&mut self, moment: &Origin) -> Result<Option<Pruned>, SpoolError> {
        let newest = self.contents.volumes.last().map_or(0, |volume| volume.number);
        let resting = |volume: &&VolumeEntry| volume.number != newest && volume.set_aside.is_none();
        let mut volumes = self.contents.volumes.iter().filter(resting);
        if let Some(volume) = volumes.find(|volume| self.settlement.all_settled(volume.first, volume.last)) {
            let (number, records) = (volume.number, volume.records());
            tracing::warn!(volume = number, records, "delivered records leave early to make room");
            self.remove_volumes(&[number])?;
            return Ok(Some(Pruned { volumes: 1, records }));
        }
        if self.drop_oldest_aside()? {
            return Ok(Some(Pruned::default()));
        }
        let waited_for = self.contents.volumes.iter().filter(resting);
        let waited_for = waited_for.filter(|volume| !volume.kept && self.may_leave(volume));
        let oldest_first: Vec<u64> = waited_for.map(|volume| volume.number).collect();
        for number in oldest_first {
            if let Some(pruned) = self.evict_volume(number, moment)? {
                return Ok(Some(pruned));
            }
        }
        // Nothing is left but the newest volume and what is never evicted.
        let newest = self.contents.volumes.last().filter(|volume| volume.records() > 0);
        let large = newest
            .is_some_and(|volume| used(&self.home.join(volume.folder())) >= self.room().max / NEWEST_PART);
        if !large {
            return Ok(None);
        }
        self.rest_current();
        self.start_volume(moment.at)?;
        Ok(Some(Pruned::default()))
    }

    /// Whether a volume that is waited for may leave now. One with records that an upstream has in hand waits until it has
    /// settled them: they may be delivered already.
    fn may_leave(&self, volume: &VolumeEntry) -> bool {
        volume.set_aside.is_none()
            && !self.passed_over.contains(&volume.number)
            && !self.settlement.any_leased(volume.first, volume.last)
    }

    /// Lets go of a volume that is waited for; `None` if it cannot go now.
    fn evict_volume(&mut self, number: u64, moment: &Origin) -> Result<Option<Pruned>, SpoolError> {
        let parting = match self.look_through(number) {
            Ok(Some(parting)) => parting,
            // It was found incomplete. The next append mends it.
            Ok(None) => return Ok(Some(Pruned::default())),
            Err(error) => {
                tracing::warn!(volume = number, %error, "a volume that has to leave cannot be read, another one leaves");
                self.passed_over.insert(number);
                return Ok(None);
            }
        };
        let copy = self.copy_kept(number, &parting.kept)?;
        let copy_number = copy.as_ref().map(|copy| copy.number);
        let parted = self.part(number, &parting, moment);
        let Ok(place) = parted else {
            if let Some(copy) = copy_number {
                self.drop_copy(copy);
            }
            return parted.map(|_| None);
        };
        let records: u64 = parting.gone.values().map(|going| going.records).sum();
        tracing::error!(
            volume = number,
            records,
            kept = parting.kept.count(),
            "the spool is full: records that were not delivered everywhere leave it"
        );
        self.replace_volume(place, copy.map(|copy| VolumeEntry { kept: true, ..copy }))?;
        self.shelf.forget(&self.home, number);
        let act = "remove an evicted volume";
        self.disk.act(act, || remove_folder(&self.home.join(folder_name(number))))?;
        self.disk.sync_folder(act, &self.home)?;
        self.measure_resting_volumes();
        Ok(Some(Pruned { volumes: 1, records }))
    }

    /// Says what goes and settles it; gives the place of the volume in the manifest.
    fn part(&mut self, number: u64, parting: &Parting, moment: &Origin) -> Result<usize, SpoolError> {
        let records: Vec<Record> = parting.gone.values().map(|going| going.tombstone(moment)).collect();
        self.say(number, &records, moment.at)?;
        let gone = SpoolError::Engine { act: "evict a volume", why: "the manifest does not name it" };
        let place = self.place_of(number).ok_or(gone.clone())?;
        let volume = self.contents.volumes.get(place).ok_or(gone)?;
        self.settlement.evict(volume.first, volume.last, &parting.kept, &parting.erased);
        self.sync_settlements()?;
        Ok(place)
    }

    /// A copy that nobody needs: it would go at the next start, and take room until then.
    pub(super) fn drop_copy(&mut self, number: u64) {
        self.shelf.forget(&self.home, number);
        let _ = remove_folder(&self.home.join(folder_name(number)));
    }

    /// Decides on every record of a volume. `None`: it was found incomplete, and is set aside now.
    fn look_through(&mut self, number: u64) -> Result<Option<Parting>, SpoolError> {
        let keys = self.keys.clone();
        let mut opener = Opener::new(&*keys);
        let Some(index) = self.index(number)?.filter(|index| index.is_complete()) else { return Ok(None) };
        let present: Vec<Sequence> = index.present().collect();
        let mut parting = Parting::default();
        for stride in present.chunks(STRIDE) {
            let Some(frames) = self.index(number)?.map(|index| index.frames(stride)).transpose()? else {
                return Ok(None);
            };
            for (sequence, frame) in stride.iter().zip(frames) {
                if self.settlement.all_settled(sequence.0, sequence.0) {
                    continue;
                }
                match frame.map(|frame| opener.open(&frame)) {
                    Some(Ok(stored)) => parting.part_with(sequence.0, &stored.record),
                    Some(Err(FrameFault::KeyGone)) => parting.erased.push(sequence.0),
                    // It is authentic, and nobody here knows what it says. It may be an alarm.
                    Some(Err(FrameFault::Record)) => parting.kept.push(sequence.0),
                    // It was there a moment ago. It is looked at again as a damaged volume, at its next reading.
                    Some(Err(_)) | None => {
                        self.shelf.drop_index(number);
                        return Err(SpoolError::Engine {
                            act: "evict a volume",
                            why: "it changed while it was read",
                        });
                    }
                }
            }
        }
        Ok(Some(parting))
    }

    /// Copies what stays into a volume of its own, and looks whether it is there. `None`: nothing stays.
    fn copy_kept(&mut self, number: u64, kept: &Runs) -> Result<Option<VolumeEntry>, SpoolError> {
        let mut wanted = |header: &Header| kept.contains(header.sequence.0);
        self.copy_volume(number, &mut wanted).and_then(|copied| match copied {
            Some(copy) if copy.records() == kept.count() => Ok(Some(copy)),
            None if kept.count() == 0 => Ok(None),
            Some(_) | None => Err(SpoolError::Engine {
                act: "keep records of an evicted volume",
                why: "some do not come over",
            }),
        })
    }

    /// Copies records of a volume into a new one, unchanged, and gives the entry that can stand in its place.
    pub(super) fn copy_volume(
        &mut self,
        number: u64,
        wanted: &mut dyn FnMut(&Header) -> bool,
    ) -> Result<Option<VolumeEntry>, SpoolError> {
        let keys = self.keys.clone();
        let mut opener = Opener::new(&*keys);
        let copy_number = self.free_number();
        let folder = self.home.join(folder_name(copy_number));
        let disk = self.disk.clone();
        let Some(place) = self.place_of(number) else { return Ok(None) };
        let Some(index) = self.index(number)? else { return Ok(None) };
        let copied = copy(index, wanted, &folder, &disk, &mut opener).and_then(|copied| {
            disk.sync_folder("copy records into a volume of their own", &self.home).map(|()| copied)
        });
        let checked = copied.and_then(|copied| {
            let Some(source) = self.contents.volumes.get(place).filter(|_| copied.count() > 0) else {
                return Ok(None);
            };
            let copy = VolumeEntry {
                opened: source.opened,
                settled: source.settled,
                copied: Some(copied.count()),
                ..VolumeEntry::new(copy_number, source.store, source.first, source.last)
            };
            let index = Index::of(&self.home, &copy, Tail::Ignore, &mut opener)?;
            let complete = index.is_complete();
            self.shelf.put(copy_number, index);
            let why = "the copy does not hold what was copied";
            if complete {
                Ok(Some(copy))
            } else {
                Err(SpoolError::Engine { act: "copy records into a volume of their own", why })
            }
        });
        if checked.is_err() {
            self.drop_copy(copy_number);
        }
        checked
    }

    /// Appends records that tell of a volume's end, once.
    pub(super) fn say(&mut self, number: u64, records: &[Record], at: Timestamp) -> Result<(), SpoolError> {
        let told = |volume: &VolumeEntry| volume.number == number && volume.told;
        if records.is_empty() || self.contents.volumes.iter().any(told) {
            return Ok(());
        }
        let unsaid: Vec<Record> = records.iter().filter(|record| !self.told.has(record)).cloned().collect();
        if !unsaid.is_empty() {
            self.keep(&unsaid, at)?;
        }
        // Not before they are durable: a new volume for them commits the manifest as well.
        if let Some(volume) = self.contents.volumes.iter_mut().find(|volume| volume.number == number) {
            volume.told = true;
        }
        self.commit()
    }

    /// Puts a copy in the place of a volume, or nothing.
    pub(super) fn replace_volume(
        &mut self,
        place: usize,
        copy: Option<VolumeEntry>,
    ) -> Result<(), SpoolError> {
        match (copy, self.contents.volumes.get_mut(place)) {
            (Some(copy), Some(volume)) => *volume = copy,
            (None, Some(_)) => drop(self.contents.volumes.remove(place)),
            (_, None) => {}
        }
        self.commit_both()
    }

    pub(super) fn place_of(&self, number: u64) -> Option<usize> {
        self.contents.volumes.iter().position(|volume| volume.number == number)
    }

    /// The number for a new volume.
    pub(super) fn free_number(&mut self) -> u64 {
        let mut number = self.contents.next_volume;
        while self.home.join(folder_name(number)).exists() {
            number += 1;
        }
        self.contents.next_volume = number + 1;
        number
    }
}

impl Parting {
    fn part_with(&mut self, sequence: u64, record: &Record) {
        if FrameKind::of(record.body()).is_never_evicted() {
            self.kept.push(sequence);
            return;
        }
        let origin = record.origin();
        let going = self.gone.entry(origin.chair.clone()).or_insert_with(|| Going {
            origin: origin.clone(),
            from: origin.at,
            to: origin.at,
            first: sequence,
            last: sequence,
            records: 0,
        });
        going.origin = origin.clone();
        going.from = going.from.min(origin.at);
        going.to = going.to.max(origin.at);
        going.last = sequence;
        going.records += 1;
    }
}

impl Going {
    fn tombstone(&self, moment: &Origin) -> Record {
        let tombstone = Tombstone {
            from: self.from,
            to: self.to,
            records: self.records,
            first: self.first,
            last: self.last,
            cause: LossCause::StoreFull,
        };
        Record::event(spoken_at(&self.origin, moment), None, Event::Evicted(tombstone))
    }
}

/// The origin of a record that the spool itself makes: of this chair, at the moment of the append that asked for room.
pub(super) fn spoken_at(of: &Origin, moment: &Origin) -> Origin {
    let Origin { chair, machine, model, simulated, .. } = of.clone();
    Origin { chair, machine, model, simulated, slot: None, previous: None, ..moment.clone() }
}
