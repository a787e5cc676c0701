//! Records out of a broken disk: any folder, file or image with frames in it, whatever has become of what was around them.
//!
//! They come back in one of two ways. Where there is no spool yet, a new one is made of them, and everything in it is sent again.
//! Where there is one of the same store, what it does not hold is put beside its dead letters and sent from there. Either way a
//! record keeps its number and its ids, so sending what a receiver already has changes nothing there.

use crate::disk::{Start, folder_of};
use crate::model::time::Timestamp;
use crate::privacy::keyring::DataKeys;
use crate::spool::disk::{Disk, refusal};
use crate::spool::frame::{FrameFault, Header, Opener};
use crate::spool::letter::{Letter, Refusal};
use crate::spool::lock::Lock;
use crate::spool::look::Shelves;
use crate::spool::manifest::folder_name;
use crate::spool::scan::{Proof, walk_file};
use crate::spool::store::SledSpool;
use crate::spool::tools::Standing;
use crate::spool::{Sequence, SpoolError, StoreId};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

/// Records in a volume of a new spool.
const VOLUME: usize = 50_000;

/// Records looked at in one turn.
const TURN: usize = 256;

/// What was found.
#[derive(Debug, Default)]
pub struct Wreck {
    paths: Vec<PathBuf>,
    frames: BTreeMap<([u8; 16], u64), Spot>,
    /// Frames whose key was destroyed, or that another keyring sealed.
    pub sealed: u64,
    /// Files and folders that cannot be read at all.
    pub unreadable: u64,
}

#[derive(Clone, Copy, Debug)]
struct Spot {
    path: usize,
    offset: u64,
    length: usize,
}

/// Records of one store, as people are told of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The store.
    pub store: StoreId,
    /// How many.
    pub records: u64,
    /// Their numbers, as runs of first and last.
    pub runs: Vec<(u64, u64)>,
    /// Capture times of the first and the last one.
    pub times: Option<(Timestamp, Timestamp)>,
}

/// What a spool can take back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// It holds them already.
    pub here: u64,
    /// It does not hold them, and can take them back.
    pub missing: Vec<Sequence>,
    /// They are of another store, and their numbers belong to other records here.
    pub foreign: u64,
}

impl Wreck {
    /// Looks for frames everywhere under `from`, and changes nothing. `progress` hears how many bytes are done, and of how many.
    ///
    /// # Errors
    /// `Disk` and `Permission` when `from` itself cannot be read.
    pub fn search(
        from: &Path,
        keys: &dyn DataKeys,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, SpoolError> {
        let act = "look for records";
        let about = fs::metadata(from).map_err(|source| refusal(act, source))?;
        let mut wreck = Self::default();
        let paths = match about.is_dir() {
            true => wreck.files(from).map_err(|source| refusal(act, source))?,
            false => vec![from.to_owned()],
        };
        let lengths: Vec<Option<u64>> = paths.iter().map(|path| length(path).ok()).collect();
        let all: u64 = lengths.iter().flatten().sum();
        let (mut opener, mut done, mut sealed) = (Opener::new(keys), 0, BTreeMap::new());
        for (number, (path, length)) in paths.iter().zip(lengths).enumerate() {
            progress(done, all);
            let (Ok(file), Some(length)) = (File::open(path), length) else {
                wreck.unreadable += 1;
                continue;
            };
            let frames = &mut wreck.frames;
            walk_file(&file, length, &mut opener, |header, offset, proof| {
                let place = (header.store.0, header.sequence.0);
                let spot = Spot { path: number, offset, length: header.frame_length() };
                match proof {
                    Proof::Authentic => _ = frames.entry(place).or_insert(spot),
                    Proof::KeyGone => _ = sealed.entry(place).or_insert(spot),
                    Proof::Forged => {}
                }
            });
            done += length;
        }
        wreck.sealed = sealed.keys().filter(|place| !wreck.frames.contains_key(*place)).count() as u64;
        wreck.paths = paths;
        Ok(wreck)
    }

    /// All files under a folder. On a broken disk some of it cannot be read, which is counted and keeps nothing from being found
    /// beside it.
    fn files(&mut self, folder: &Path) -> std::io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let kind = entry.as_ref().ok().and_then(|entry| entry.file_type().ok());
            let (Ok(entry), Some(kind)) = (entry, kind) else {
                self.unreadable += 1;
                continue;
            };
            if kind.is_dir() {
                match self.files(&entry.path()) {
                    Ok(below) => found.extend(below),
                    Err(_) => self.unreadable += 1,
                }
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }

    /// Leaves out what is not of the store whose id begins so.
    pub fn only(&mut self, store: &str) {
        self.frames.retain(|(id, _), _| format!("{:?}", StoreId(*id)).starts_with(store));
    }

    /// How many records a new spool has no place for: it can keep one record of each number.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.records().saturating_sub(self.places().len() as u64)
    }

    /// Which record a new spool gets for each number: of two stores that gave it out, that of the one that began first.
    fn places(&self) -> BTreeMap<Sequence, (StoreId, Spot)> {
        let mut places = BTreeMap::new();
        for (store, numbers) in self.numbers() {
            for sequence in numbers {
                if let Some(spot) = self.frames.get(&(store.0, sequence.0)) {
                    places.entry(sequence).or_insert((store, *spot));
                }
            }
        }
        places
    }

    /// How many records were found.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.frames.len() as u64
    }

    /// What was found, by store.
    #[must_use]
    pub fn stretches(&self, keys: &dyn DataKeys) -> Vec<Stretch> {
        let mut opener = Opener::new(keys);
        let mut at = |spot: &Spot| Some(opener.open(&self.frame(*spot)?).ok()?.record.origin().at);
        let mut stretches: Vec<Stretch> = Vec::new();
        for ((store, sequence), spot) in &self.frames {
            match stretches.last_mut().filter(|stretch| stretch.store.0 == *store) {
                Some(stretch) => {
                    stretch.records += 1;
                    match stretch.runs.last_mut() {
                        Some((_, last)) if last.checked_add(1) == Some(*sequence) => *last = *sequence,
                        _ => stretch.runs.push((*sequence, *sequence)),
                    }
                }
                None => stretches.push(Stretch {
                    store: StoreId(*store),
                    records: 1,
                    runs: vec![(*sequence, *sequence)],
                    times: at(spot).map(|at| (at, at)),
                }),
            }
        }
        for stretch in &mut stretches {
            let last = stretch.runs.last().and_then(|(_, last)| self.frames.get(&(stretch.store.0, *last)));
            if let (Some((_, to)), Some(at)) = (&mut stretch.times, last.and_then(&mut at)) {
                *to = at;
            }
        }
        stretches
    }

    /// The numbers of each store, in ascending order; the store that began first in front.
    fn numbers(&self) -> Vec<(StoreId, Vec<Sequence>)> {
        let mut stores: Vec<(StoreId, Vec<Sequence>)> = Vec::new();
        for (store, sequence) in self.frames.keys() {
            match stores.last_mut().filter(|(last, _)| last.0 == *store) {
                Some((_, numbers)) => numbers.push(Sequence(*sequence)),
                None => stores.push((StoreId(*store), vec![Sequence(*sequence)])),
            }
        }
        stores.sort_by_key(|(_, numbers)| numbers.first().copied());
        stores
    }

    fn frame(&self, spot: Spot) -> Option<Vec<u8>> {
        let mut frame = vec![0; spot.length];
        File::open(self.paths.get(spot.path)?).ok()?.read_exact_at(&mut frame, spot.offset).ok()?;
        Some(frame)
    }

    /// What this spool holds of it, and what it could take back.
    pub(super) fn compare(&self, shelves: &mut impl Shelves) -> Result<Plan, SpoolError> {
        let mut plan = Plan::default();
        let keys = shelves.keys();
        let mut opener = Opener::new(&*keys);
        for (store, numbers) in self.numbers() {
            for some in numbers.chunks(TURN) {
                for (sequence, frame) in some.iter().zip(shelves.frames_of(some)?) {
                    let held = frame.and_then(|frame| match opener.authenticate(&frame) {
                        // It is here; that nobody can open it is as it was meant.
                        Err(FrameFault::KeyGone) => Header::read(&frame).ok(),
                        held => held.ok(),
                    });
                    match held {
                        Some(header) if header.store == store && header.sequence == *sequence => {
                            plan.here += 1
                        }
                        None if shelves.could_hold(store, *sequence) => plan.missing.push(*sequence),
                        Some(_) | None => plan.foreign += 1,
                    }
                }
            }
        }
        Ok(plan)
    }

    /// Makes a spool of it in a folder that has none, on this disk; durable when it returns. The next start makes the manifest and sends everything.
    /// Gives how many records it holds: of two stores that gave out the same number, only one record can be kept.
    ///
    /// # Errors
    /// `Disk` and `Permission`; what was written until then is a spool of its own with less in it.
    pub fn make_spool(&self, home: &Path, own: &crate::disk::Disk) -> Result<u64, SpoolError> {
        let (disk, act) = (Disk::new(None, own.clone()), "make a spool of what was found");
        disk.act(act, || fs::DirBuilder::new().recursive(true).mode(0o700).create(home))?;
        let mut kept = 0;
        let places: Vec<(StoreId, Spot)> = self.places().into_values().collect();
        let volumes = places.chunk_by(|(one, _), (other, _)| one == other).flat_map(|run| run.chunks(VOLUME));
        for (number, volume) in (1..).zip(volumes) {
            let folder = home.join(folder_name(number));
            disk.act(act, || fs::DirBuilder::new().mode(0o700).create(&folder))?;
            let mut file = disk.act(act, || disk.own().open(&folder.join("frames"), Start::New))?;
            for some in volume.chunks(TURN) {
                let frames: Vec<Vec<u8>> = some.iter().filter_map(|(_, spot)| self.frame(*spot)).collect();
                kept += frames.len() as u64;
                disk.act(act, || file.write_all(&frames.concat()))?;
            }
            disk.act(act, || file.sync())?;
            disk.sync_folder(act, &folder)?;
        }
        disk.sync_folder(act, home)?;
        disk.sync_folder(act, folder_of(home))?;
        Ok(kept)
    }
}

/// The folder of a new spool, empty and held: no gateway can start there before it is whole.
#[derive(Debug)]
pub struct Site {
    _lock: Lock,
}

impl Site {
    /// Makes the folder if there is none, and takes hold of it. `None`: something is in it.
    ///
    /// # Errors
    /// `Busy` when a gateway has it, `Disk` and `Permission`.
    pub fn take(home: &Path) -> Result<Option<Self>, SpoolError> {
        let act = "make the folder of a new spool";
        fs::DirBuilder::new().recursive(true).mode(0o700).create(home).map_err(|it| refusal(act, it))?;
        let lock = Lock::take(home)?;
        let mut entries = fs::read_dir(home).map_err(|source| refusal(act, source))?;
        Ok(entries.next().is_none().then_some(Self { _lock: lock }))
    }
}

impl SledSpool {
    /// Takes back what it does not hold: each record waits again at every upstream that had done with it. Gives how many records that
    /// are; one that an upstream still has to send needs no taking back there.
    ///
    /// # Errors
    /// [`SpoolError`] when the disk refuses; what was taken back until then stays so.
    pub fn take_back(&mut self, wreck: &Wreck) -> Result<u64, SpoolError> {
        self.usable()?;
        let plan = wreck.compare(self)?;
        let mut taken = 0;
        for some in plan.missing.chunks(TURN) {
            let mut letters = Vec::new();
            for sequence in some {
                let store = self.store_of_number(*sequence);
                let spot = wreck.frames.get(&(store.0, sequence.0));
                let Some(frame) = spot.and_then(|spot| wreck.frame(*spot)) else { continue };
                let done = self.standings(*sequence);
                let done = done.into_iter().filter(|(_, standing)| *standing == Standing::Settled);
                let before = letters.len();
                letters.extend(done.map(|(upstream, _)| Letter {
                    upstream,
                    sequence: *sequence,
                    refused: Refusal::found(self.heard),
                    frame: frame.clone(),
                }));
                taken += u64::from(letters.len() > before);
            }
            let places: Vec<_> =
                letters.iter().map(|letter| (letter.upstream.clone(), letter.sequence)).collect();
            self.dead.keep(letters)?;
            for (upstream, sequence) in places {
                self.settlement.reopen(&upstream, sequence, &Refusal::found(self.heard))?;
            }
        }
        self.settlement.sync()?;
        Ok(taken)
    }
}

fn length(path: &Path) -> std::io::Result<u64> {
    // The end is where a device says it is; what it says of its length is nothing.
    File::open(path)?.seek(SeekFrom::End(0))
}

#[cfg(test)]
mod tests;
