//! Opening the spool: what the manifest promises is held against what the folder has, before the store engine sees any of it.

use crate::disk::folder_of;
use crate::model::name::UpstreamName;
use crate::model::time::Timestamp;
use crate::privacy::keyring::DataKeys;
use crate::spool::dead::DeadLetters;
use crate::spool::disk::{Disk, refusal};
use crate::spool::doubt::Doubts;
use crate::spool::frame::{Opener, Sealer};
use crate::spool::lock::Lock;
use crate::spool::manifest::{
    Contents, Found, Manifest, UpstreamEntry, VolumeEntry, folder_name, folder_number, read,
};
use crate::spool::room::{LEFT_FREE, Measured};
use crate::spool::salvage::{is_copy, listed};
use crate::spool::scan::{Index, Tail, survey};
use crate::spool::settlement::Settlement;
use crate::spool::shelf::Shelf;
use crate::spool::slots::SlotLedger;
use crate::spool::store::{Options, SledSpool, remove_folder};
use crate::spool::told::Told;
use crate::spool::{Sequence, SpoolError, StoreId, reserve};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Scans at a start of a volume that the device does not give.
const LOOKS: u32 = 3;

impl SledSpool {
    /// Opens the spool in this folder, or makes one. `now` is the time that volumes of a lost manifest count from.
    ///
    /// # Errors
    /// `Busy`, `Format` and `Permission` before a byte was changed; `Disk` and `Engine` otherwise.
    pub fn open(
        home: &Path,
        keys: Arc<dyn DataKeys>,
        upstreams: &[UpstreamName],
        options: Options,
        now: Timestamp,
    ) -> Result<Self, SpoolError> {
        let disk = Disk::new(options.faults.clone(), options.disk.clone());
        if !home.is_dir() {
            let make = || fs::DirBuilder::new().recursive(true).mode(0o700).create(home);
            disk.act("make the folder", make)?;
            disk.sync_folder("make the folder", folder_of(home))?;
        }
        let lock = Lock::take(home)?;
        let found = read(home)?;
        reserve::release_if_short(home);
        let folders = volume_folders(home)?;
        let mut opened = match found {
            Found::Manifest(contents, generation) => {
                recover(home, contents, Some(generation), &folders, &*keys)?
            }
            Found::Nothing if folders.is_empty() => Opened::new(new_store(random()?)),
            Found::Nothing | Found::Damaged => {
                tracing::error!("the manifest of the spool is lost, it is made anew from the volumes");
                rebuild(home, random()?, upstreams, &folders, now, &*keys)?
            }
        };
        let salt = random()?;
        if salt == opened.contents.salt {
            return Err(SpoolError::Engine { act: "draw a salt", why: "the random numbers repeat" });
        }
        let cut_off = !opened.contents.closed;
        opened.contents.salt = salt;
        opened.contents.closed = false;
        // The salt is durable before any frame is sealed with it.
        let manifest = match opened.generation {
            Some(generation) => {
                let mut manifest = Manifest::open(home, generation, &disk)?;
                manifest.commit_both(&opened.contents)?;
                manifest
            }
            None => Manifest::create(home, &opened.contents, &disk)?,
        };
        let mut contents = opened.contents;
        let settlement = Settlement::open(home, &disk, &contents.upstreams, upstreams, contents.last)?;
        contents.last = settlement.last();
        let mut spool = Self {
            home: home.into(),
            sealer: Sealer::new(contents.store, salt, keys.clone()),
            keys,
            options,
            contents,
            manifest,
            current: None,
            settlement,
            dead: DeadLetters::open(home, &disk)?,
            slots: SlotLedger::default(),
            // Nothing of it is written down before it is read.
            slots_written: Sequence(u64::MAX),
            shelf: Shelf::default(),
            resting_bytes: 0,
            measured: Measured::default(),
            failures: 0,
            broken: None,
            damaged: false,
            losses: BTreeMap::new(),
            untold: BTreeSet::new(),
            told: Told::default(),
            passed_over: BTreeSet::new(),
            doubts: Doubts::default(),
            oldest: BTreeMap::new(),
            heard: now,
            disk,
            _lock: lock,
        };
        spool.take_in(opened.scanned, opened.leftover, upstreams)?;
        spool.open_slots(cut_off)?;
        Ok(spool)
    }

    /// Whether this program knows the format of the spool in this folder, if there is one. Reads, and locks nothing: to be asked
    /// before anything else is changed.
    ///
    /// # Errors
    /// `Format`, `Permission` and `Disk`.
    pub fn check_format(home: &Path) -> Result<(), SpoolError> {
        read(home).map(drop)
    }

    /// Accounts for what opening found, now that there is a settlement store.
    fn take_in(
        &mut self,
        scanned: Vec<(u64, Index)>,
        leftover: Vec<PathBuf>,
        upstreams: &[UpstreamName],
    ) -> Result<(), SpoolError> {
        for name in upstreams {
            if !self.contents.upstreams.iter().any(|entry| entry.name == *name) {
                let start = self.contents.last + 1;
                self.contents.upstreams.push(UpstreamEntry { name: name.clone(), start });
            }
        }
        let (mut next, mut gone) = (1, Vec::new());
        for volume in &self.contents.volumes {
            if volume.first > next {
                gone.push((next, volume.first - 1));
            }
            next = next.max(volume.last + 1);
        }
        gone.push((next, self.contents.last));
        // A record that waits to be sent again may have its only copy in a dead letter.
        for (first, last) in gone.into_iter().flat_map(|(first, last)| self.dead.without_letters(first, last))
        {
            self.untold.extend(self.settlement.without_volume(first, last));
        }
        for (number, index) in scanned {
            let entry = self.contents.volumes.iter().find(|volume| volume.number == number);
            if !index.is_complete() && index.is_unreadable() {
                // Whoever needs it looks again; nothing is lost because a device was not ready at a start.
                continue;
            }
            if !index.is_complete() && entry.is_some_and(|entry| entry.set_aside.is_none()) {
                self.set_aside(number, &index)?;
            }
            self.shelf.put(number, index);
        }
        if self.settlement.any_forgotten() {
            for volume in self.contents.volumes.iter().filter(|volume| volume.kept) {
                if let Some(kept) = listed(&self.home.join(volume.folder())) {
                    self.settlement.not_in_copy(volume.first, volume.last, &kept);
                }
            }
        }
        self.settlement.write()?;
        self.look_after_aside();
        self.commit_both()?;
        for folder in leftover {
            self.disk.act("remove what is left of a volume", || remove_folder(&folder))?;
        }
        self.measure_resting_volumes();
        reserve::hold(&self.home, self.options.max_bytes, LEFT_FREE, &self.disk);
        Ok(())
    }
}

/// What a look at the folder gave.
struct Opened {
    contents: Contents,
    /// Of the manifest it came from; `None` if there has to be a new one.
    generation: Option<u64>,
    scanned: Vec<(u64, Index)>,
    leftover: Vec<PathBuf>,
}

impl Opened {
    const fn new(contents: Contents) -> Self {
        Self { contents, generation: None, scanned: Vec::new(), leftover: Vec::new() }
    }
}

fn new_store(store: [u8; 16]) -> Contents {
    Contents {
        store: StoreId(store),
        salt: [0; 32],
        closed: false,
        last: 0,
        next_volume: 1,
        volumes: Vec::new(),
        upstreams: Vec::new(),
        aside: Vec::new(),
    }
}

/// Finds what a process that did not end in order left behind.
fn recover(
    home: &Path,
    contents: Contents,
    generation: Option<u64>,
    folders: &[u64],
    keys: &dyn DataKeys,
) -> Result<Opened, SpoolError> {
    let closed = contents.closed;
    let mut opened = Opened { generation, ..Opened::new(contents) };
    let mut opener = Opener::new(keys);
    let contents = &mut opened.contents;
    let newest = contents.volumes.last().map_or(0, |volume| volume.number);
    let mut unreadable = false;
    for volume in &mut contents.volumes {
        let gone = volume.set_aside.is_none() && !folders.contains(&volume.number);
        let vanished = gone && volume.records() > 0;
        let in_doubt = volume.number == newest && !closed;
        if !vanished && !in_doubt {
            continue;
        }
        let tail = if in_doubt { Tail::Adopt } else { Tail::Ignore };
        let index = scan_patiently(home, volume, tail, &mut opener)?;
        unreadable |= volume.number == newest && index.is_unreadable();
        volume.last = volume.last.max(index.last());
        contents.last = contents.last.max(volume.last);
        opened.scanned.push((volume.number, index));
    }
    // A volume that was made and never written to.
    let empty = contents.volumes.pop_if(|volume| !closed && !unreadable && volume.records() == 0);
    opened.leftover.extend(empty.map(|empty| home.join(empty.folder())));
    adopt_unnamed(home, &mut opened, folders, &mut opener)?;
    Ok(opened)
}

/// Scans a volume, and again where the device does not give all of it: it may only have been slow to come up.
fn scan_patiently(
    home: &Path,
    volume: &VolumeEntry,
    tail: Tail,
    opener: &mut Opener<'_>,
) -> Result<Index, SpoolError> {
    let mut index = Index::of(home, volume, tail, opener)?;
    for _ in 1..LOOKS {
        if !index.is_unreadable() {
            break;
        }
        index = Index::of(home, volume, tail, opener)?;
    }
    Ok(index)
}

/// Volumes that the manifest does not name: rests of a removal, or newer than the slot that could be read.
fn adopt_unnamed(
    home: &Path,
    opened: &mut Opened,
    folders: &[u64],
    opener: &mut Opener<'_>,
) -> Result<(), SpoolError> {
    for number in folders {
        let folder = home.join(folder_name(*number));
        let contents = &mut opened.contents;
        let named = contents.volumes.iter().any(|volume| volume.number == *number);
        let aside = contents.aside.iter().any(|aside| aside.number == *number);
        if named || aside || opened.leftover.contains(&folder) {
            continue;
        }
        let newer = |(store, (_, last)): (&[u8; 16], &(u64, u64))| {
            *store == contents.store.0 && *last > contents.last
        };
        let survey = survey(&folder, opener)?;
        if survey.unreadable {
            tracing::error!(
                volume = *number,
                "a volume unknown to the manifest cannot be read and was left alone"
            );
            continue;
        }
        if !survey.stores.iter().any(newer) {
            // What another keyring sealed exists nowhere else, for all we know; a rest of a removal is of a store of ours.
            let ours = |store: &[u8; 16]| {
                *store == contents.store.0 || contents.volumes.iter().any(|volume| volume.store.0 == *store)
            };
            if survey.unopened.iter().all(ours) {
                opened.leftover.push(folder);
            } else {
                tell_unopened(*number);
            }
            continue;
        }
        let next = contents.last + 1;
        let index = Index::scan(&folder, contents.store, next, contents.last, Tail::Adopt, opener)?;
        if index.found() == 0 {
            tracing::error!(
                volume = *number,
                "a volume unknown to the manifest holds records and was left alone"
            );
            continue;
        }
        tracing::warn!(
            volume = *number,
            records = index.found(),
            "a volume unknown to the manifest was adopted"
        );
        let last = index.last();
        contents.volumes.push(VolumeEntry::new(*number, contents.store, next, last));
        contents.last = last;
        contents.next_volume = contents.next_volume.max(number.saturating_add(1));
        opened.scanned.push((*number, index));
    }
    Ok(())
}

fn tell_unopened(volume: u64) {
    tracing::error!(
        volume,
        "a volume unknown to the manifest holds records that this keyring does not open, and was left alone; look for \
         the keyring that sealed them"
    );
}

/// Makes the contents of a lost manifest out of the volumes. New records get a new store id: the sequences that the lost manifest
/// had given out are not known for certain, and no resource id may be given twice.
fn rebuild(
    home: &Path,
    store: [u8; 16],
    upstreams: &[UpstreamName],
    folders: &[u64],
    now: Timestamp,
    keys: &dyn DataKeys,
) -> Result<Opened, SpoolError> {
    let mut opened = Opened::new(new_store(store));
    let mut opener = Opener::new(keys);
    let contents = &mut opened.contents;
    let mut found = Vec::new();
    for number in folders {
        contents.next_volume = contents.next_volume.max(number.saturating_add(1));
        let survey = survey(&home.join(folder_name(*number)), &mut opener)?;
        if survey.stores.is_empty() && !survey.unopened.is_empty() {
            tell_unopened(*number);
        }
        found.extend(
            survey.stores.into_iter().map(|(store, (first, last))| (first, last, *number, StoreId(store))),
        );
    }
    // A copy has a higher number than what it was copied from and belongs in its place.
    found.sort_by_key(|(first, _, number, _)| (*first, *number));
    for (first, last, number, store) in found {
        let first = first.max(contents.last + 1);
        if last < first || contents.volumes.iter().any(|volume| volume.number == number) {
            continue;
        }
        let mut volume = VolumeEntry { opened: Some(now), ..VolumeEntry::new(number, store, first, last) };
        let folder = home.join(volume.folder());
        if is_copy(&folder) {
            let listed = listed(&folder).map(|runs| runs.count());
            let all = Index::scan(&folder, store, first, last, Tail::Ignore, &mut opener)?.found();
            volume.copied = Some(listed.unwrap_or(all));
        }
        opened.scanned.push((number, Index::of(home, &volume, Tail::Ignore, &mut opener)?));
        contents.volumes.push(volume);
        contents.last = last;
    }
    let start = contents.volumes.first().map_or(1, |volume| volume.first);
    contents.upstreams = upstreams.iter().map(|name| UpstreamEntry { name: name.clone(), start }).collect();
    Ok(opened)
}

/// The numbers of the volumes whose folders exist, in order.
pub(super) fn volume_folders(home: &Path) -> Result<Vec<u64>, SpoolError> {
    let act = "list the volumes";
    let entries = fs::read_dir(home).map_err(|source| refusal(act, source))?;
    let names = entries.flatten().filter_map(|entry| folder_number(entry.file_name().to_str()?));
    let mut numbers: Vec<u64> = names.collect();
    numbers.sort_unstable();
    Ok(numbers)
}

fn random<const N: usize>() -> Result<[u8; N], SpoolError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| SpoolError::Engine { act: "draw random numbers", why: "the system gives none" })?;
    Ok(bytes)
}
