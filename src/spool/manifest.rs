//! The manifest: what the spool must hold. Two slots are written in turn, so that a torn write costs one commit at most.
//!
//! ```text
//!  0  4  magic            one slot; the file is two of them, preallocated
//!  4  4  format
//!  8  8  generation: the valid slot with the higher one counts
//! 16  4  length of the contents
//! 20  n  contents
//!     4  CRC-32 of everything before
//! ```
//!
//! Behind the slots is the mark, in two sectors written in turn: the last durable sequence of the newest volume. Each append
//! writes it and leaves the sync to every 64th, so it survives the end of the process, and a power cut may take it back a little.
//! It never leads: the records are durable before it is written.
//!
//! ```text
//!  0  4  magic                     20  8  number of the volume
//!  4 16  store                     28  8  last sequence
//!                                  36  4  CRC-32 of everything before
//! ```

use crate::disk::{Start, Written};
use crate::model::name::UpstreamName;
use crate::model::time::Timestamp;
use crate::spool::bytes::Reader;
use crate::spool::disk::{Disk, refusal};
use crate::spool::{SetAside, SpoolError, StoreId};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The on-disk format of the whole spool: folders, manifest and frames.
pub(crate) const FORMAT: u32 = 1;

const MAGIC: [u8; 4] = *b"CSMF";
const SLOT: u64 = 256 * 1024;
const MARK_MAGIC: [u8; 4] = *b"CSMK";
const MARK: usize = 40;
/// The unit that a disk writes whole or not at all.
const SECTOR: u64 = 512;
const LENGTH: u64 = 2 * SLOT + 4096;
/// Marks written between two syncs.
const MARKS: u64 = 64;
const FRONT: usize = 20;
const NAME: &str = "manifest";

/// What the spool must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    /// The store that new records belong to.
    pub(crate) store: StoreId,
    /// The salt of the newest process start.
    pub(crate) salt: [u8; 32],
    /// Whether that process ended in order.
    pub(crate) closed: bool,
    /// Highest durable sequence.
    pub(crate) last: u64,
    /// The number of the next volume.
    pub(crate) next_volume: u64,
    /// In the order of their sequences; the last one is the newest.
    pub(crate) volumes: Vec<VolumeEntry>,
    /// Every upstream that was ever configured.
    pub(crate) upstreams: Vec<UpstreamEntry>,
    /// Damaged volumes whose good records were copied; their files are kept for whoever wants to look at them.
    pub(crate) aside: Vec<AsideEntry>,
}

/// A damaged volume that was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AsideEntry {
    pub(crate) number: u64,
    /// Records it should have held.
    pub(crate) expected: u64,
    /// Records that were copied.
    pub(crate) found: u64,
    pub(crate) since: Timestamp,
}

impl Contents {
    /// The volumes that were found incomplete: those that still stand in their place, and those whose good records were copied.
    pub(crate) fn set_aside(&self) -> Vec<SetAside> {
        let standing = self.volumes.iter().filter_map(|volume| {
            Some(SetAside { volume: volume.folder(), expected: volume.records(), found: volume.set_aside? })
        });
        let copied = self.aside.iter().map(|aside| SetAside {
            volume: format!("{ASIDE}/{}", folder_name(aside.number)),
            expected: aside.expected,
            found: aside.found,
        });
        standing.chain(copied).collect()
    }
}

/// Where the files of damaged volumes are kept, under the spool.
pub(crate) const ASIDE: &str = "aside";

/// What one volume must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeEntry {
    pub(crate) number: u64,
    /// The store its records belong to.
    pub(crate) store: StoreId,
    /// Sequences `first..=last` are durable in it; none if `last < first`.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Capture time of its first record, to start a new volume each day.
    pub(crate) opened: Option<Timestamp>,
    /// When it was first seen that every upstream had settled it.
    pub(crate) settled: Option<Timestamp>,
    /// What its files looked like when it was closed in order.
    pub(crate) digest: Option<Digest>,
    /// It was found not to hold all it must: this many records were found. Its files are never touched again.
    pub(crate) set_aside: Option<u64>,
    /// It is a copy of this many records out of its range; its list says which. All others of the range are settled.
    pub(crate) copied: Option<u64>,
    /// It holds only what is never evicted.
    pub(crate) kept: bool,
    /// The records that say what leaves the spool with it are durable, so they are not written a second time.
    pub(crate) told: bool,
}

impl VolumeEntry {
    /// A volume that nothing has become of yet.
    pub(crate) const fn new(number: u64, store: StoreId, first: u64, last: u64) -> Self {
        Self {
            number,
            store,
            first,
            last,
            opened: None,
            settled: None,
            digest: None,
            set_aside: None,
            copied: None,
            kept: false,
            told: false,
        }
    }

    /// Records it must hold.
    pub(crate) const fn records(&self) -> u64 {
        match self.copied {
            Some(copied) => copied,
            None => self.last.saturating_add(1).saturating_sub(self.first),
        }
    }

    /// The name of its folder.
    pub(crate) fn folder(&self) -> String {
        folder_name(self.number)
    }
}

/// The name of a volume's folder.
pub(crate) fn folder_name(number: u64) -> String {
    format!("volume-{number:08}")
}

/// The number in the name of a volume's folder.
pub(crate) fn folder_number(name: &str) -> Option<u64> {
    name.strip_prefix("volume-")?.parse().ok()
}

/// Length and checksum over all files of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) bytes: u64,
    pub(crate) checksum: u32,
}

/// An upstream and the first sequence it has to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UpstreamEntry {
    pub(crate) name: UpstreamName,
    pub(crate) start: u64,
}

/// The file.
pub(crate) struct Manifest {
    path: PathBuf,
    file: Written,
    generation: u64,
    /// Marks written since this value was made.
    marks: u64,
    disk: Disk,
}

/// What was found where the manifest should be.
pub(crate) enum Found {
    Nothing,
    Damaged,
    Manifest(Contents, u64),
}

/// Reads the manifest and changes nothing.
pub(crate) fn read(folder: &Path) -> Result<Found, SpoolError> {
    let path = folder.join(NAME);
    let mut bytes = Vec::new();
    match File::open(&path) {
        Ok(file) => file
            .take(LENGTH)
            .read_to_end(&mut bytes)
            .map_err(|source| refusal("read the manifest", source))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(refusal("read the manifest", error)),
    };
    let cut = usize::try_from(SLOT).unwrap_or(usize::MAX).min(bytes.len());
    let (one, rest) = bytes.split_at(cut);
    let (two, marks) = rest.split_at(cut.min(rest.len()));
    let newest = [one, two].into_iter().filter_map(slot).max_by_key(|slot| slot.generation);
    let Some(newest) = newest else { return Ok(Found::Damaged) };
    if newest.format > FORMAT {
        return Err(SpoolError::Format { path, found: newest.format, known: FORMAT });
    }
    // A valid checksum over contents that cannot be read is damage of our own making; it is treated like any other.
    let Some(mut contents) = contents(newest.contents) else { return Ok(Found::Damaged) };
    let sectors = marks.chunks(usize::try_from(SECTOR).unwrap_or(usize::MAX)).take(2);
    sectors.filter_map(mark).for_each(|mark| mark.note_in(&mut contents));
    Ok(Found::Manifest(contents, newest.generation))
}

impl Manifest {
    /// Makes a manifest, in place of a damaged one if need be.
    pub(crate) fn create(folder: &Path, contents: &Contents, disk: &Disk) -> Result<Self, SpoolError> {
        let (path, new) = (folder.join(NAME), folder.join("manifest.new"));
        let act = "make the manifest";
        let file = disk.act(act, || {
            let file = disk.own().open(&new, Start::Emptied)?;
            file.set_length(LENGTH)?;
            // Blocks that exist already cannot run out later.
            file.reserve(LENGTH)?;
            Ok(file)
        })?;
        let mut manifest = Self { path: path.clone(), file, generation: 0, marks: 0, disk: disk.clone() };
        manifest.commit_both(contents)?;
        disk.act(act, || manifest.file.sync())?;
        disk.act(act, || disk.own().rename(&new, &path))?;
        disk.sync_folder(act, folder)?;
        Ok(manifest)
    }

    /// Opens a manifest that was [`read`].
    pub(crate) fn open(folder: &Path, generation: u64, disk: &Disk) -> Result<Self, SpoolError> {
        let path = folder.join(NAME);
        let file = disk.act("open the manifest", || disk.own().open(&path, Start::Kept))?;
        Ok(Self { path, file, generation, marks: 0, disk: disk.clone() })
    }

    /// Writes the slot that does not count now; durable when it returns.
    pub(crate) fn commit(&mut self, contents: &Contents) -> Result<(), SpoolError> {
        let act = "write the manifest";
        let generation = self.generation + 1;
        let bytes = slot_bytes(generation, contents);
        if bytes.len() as u64 > SLOT {
            return Err(SpoolError::Engine { act, why: "there are too many volumes for it" });
        }
        self.disk.act(act, || self.file.write_all_at(&bytes, (generation % 2) * SLOT))?;
        self.disk.act(act, || self.file.sync())?;
        self.generation = generation;
        Ok(())
    }

    /// Notes the last sequence of the newest volume; it survives the end of the process when this returns.
    pub(crate) fn mark(&mut self, contents: &Contents) -> Result<(), SpoolError> {
        let Some(newest) = contents.volumes.last() else { return Ok(()) };
        let mark = Mark { store: newest.store, number: newest.number, last: newest.last };
        let (act, place) = ("write the manifest", 2 * SLOT + self.marks % 2 * SECTOR);
        self.disk.act(act, || self.file.write_all_at(&mark.bytes(), place))?;
        self.marks += 1;
        if self.marks.is_multiple_of(MARKS) { self.disk.act(act, || self.file.sync()) } else { Ok(()) }
    }

    /// Writes both slots, for what the older one must know too: volumes that come and go.
    pub(crate) fn commit_both(&mut self, contents: &Contents) -> Result<(), SpoolError> {
        self.commit(contents)?;
        self.commit(contents)
    }

    /// After a failed commit: the same contents in a file of its own, which takes the place of this one.
    pub(crate) fn replace(&mut self, contents: &Contents) -> Result<(), SpoolError> {
        let folder = self.path.parent().unwrap_or(Path::new(".")).to_path_buf();
        *self = Self::create(&folder, contents, &self.disk)?;
        Ok(())
    }
}

/// How far the newest volume had come.
#[derive(Clone, Copy)]
struct Mark {
    store: StoreId,
    number: u64,
    last: u64,
}

impl Mark {
    fn bytes(self) -> Vec<u8> {
        let (number, last) = (self.number.to_be_bytes(), self.last.to_be_bytes());
        let covered = [&MARK_MAGIC, self.store.0.as_slice(), &number, &last].concat();
        let checksum = crc32fast::hash(&covered).to_be_bytes();
        [covered.as_slice(), &checksum].concat()
    }

    fn note_in(self, contents: &mut Contents) {
        let Some(newest) = contents.volumes.last_mut() else { return };
        if (newest.number, newest.store) == (self.number, self.store) {
            newest.last = newest.last.max(self.last);
            contents.last = contents.last.max(self.last);
        }
    }
}

fn mark(bytes: &[u8]) -> Option<Mark> {
    let (covered, checksum) = bytes.get(..MARK)?.split_last_chunk::<4>()?;
    let mut from = Reader::new(covered);
    let magic = from.array()?;
    let mark = Mark { store: StoreId(from.array()?), number: from.u64()?, last: from.u64()? };
    (magic == MARK_MAGIC && crc32fast::hash(covered).to_be_bytes() == *checksum).then_some(mark)
}

struct Slot<'a> {
    format: u32,
    generation: u64,
    contents: &'a [u8],
}

fn slot(bytes: &[u8]) -> Option<Slot<'_>> {
    let mut from = Reader::new(bytes);
    let magic = from.array::<4>()?;
    let (format, generation, length) = (from.u32()?, from.u64()?, from.u32()?);
    let contents = from.take(usize::try_from(length).ok()?)?;
    let checksum = from.u32()?;
    let covered = bytes.get(..FRONT + contents.len())?;
    (magic == MAGIC && crc32fast::hash(covered) == checksum).then_some(Slot { format, generation, contents })
}

fn slot_bytes(generation: u64, contents: &Contents) -> Vec<u8> {
    let contents = contents_bytes(contents);
    let mut out = Vec::with_capacity(contents.len() + FRONT + 4);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT.to_be_bytes());
    out.extend_from_slice(&generation.to_be_bytes());
    out.extend_from_slice(&u32::try_from(contents.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(&contents);
    out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
    out
}

const CLOSED: u8 = 1;
const OPENED: u8 = 1;
const SETTLED: u8 = 1 << 1;
const DIGEST: u8 = 1 << 2;
const SET_ASIDE: u8 = 1 << 3;
const COPIED: u8 = 1 << 4;
const KEPT: u8 = 1 << 5;
const TOLD: u8 = 1 << 6;

fn contents_bytes(contents: &Contents) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&contents.store.0);
    out.extend_from_slice(&contents.salt);
    out.push(if contents.closed { CLOSED } else { 0 });
    out.extend_from_slice(&contents.last.to_be_bytes());
    out.extend_from_slice(&contents.next_volume.to_be_bytes());
    out.extend_from_slice(&(contents.volumes.len() as u32).to_be_bytes());
    contents.volumes.iter().for_each(|volume| put_volume(&mut out, volume));
    out.extend_from_slice(&(contents.upstreams.len() as u32).to_be_bytes());
    for upstream in &contents.upstreams {
        out.push(upstream.name.as_str().len() as u8);
        out.extend_from_slice(upstream.name.as_str().as_bytes());
        out.extend_from_slice(&upstream.start.to_be_bytes());
    }
    out.extend_from_slice(&(contents.aside.len() as u32).to_be_bytes());
    for aside in &contents.aside {
        let numbers = [aside.number, aside.expected, aside.found];
        numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
        out.extend_from_slice(&aside.since.as_micros().to_be_bytes());
    }
    out
}

/// An entry has its length in front, so that fields can be added behind the ones of today.
fn put_volume(out: &mut Vec<u8>, volume: &VolumeEntry) {
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let flags = flag(volume.opened.is_some(), OPENED)
        | flag(volume.settled.is_some(), SETTLED)
        | flag(volume.digest.is_some(), DIGEST)
        | flag(volume.set_aside.is_some(), SET_ASIDE)
        | flag(volume.copied.is_some(), COPIED)
        | flag(volume.kept, KEPT)
        | flag(volume.told, TOLD);
    let mut entry = Vec::with_capacity(96);
    entry.extend_from_slice(&volume.number.to_be_bytes());
    entry.extend_from_slice(&volume.store.0);
    entry.extend_from_slice(&volume.first.to_be_bytes());
    entry.extend_from_slice(&volume.last.to_be_bytes());
    entry.push(flags);
    let times = [volume.opened, volume.settled].into_iter().flatten();
    times.for_each(|time| entry.extend_from_slice(&time.as_micros().to_be_bytes()));
    if let Some(digest) = volume.digest {
        entry.extend_from_slice(&digest.bytes.to_be_bytes());
        entry.extend_from_slice(&digest.checksum.to_be_bytes());
    }
    let counts = [volume.set_aside, volume.copied].into_iter().flatten();
    counts.for_each(|count| entry.extend_from_slice(&count.to_be_bytes()));
    out.extend_from_slice(&(entry.len() as u16).to_be_bytes());
    out.extend_from_slice(&entry);
}

fn contents(bytes: &[u8]) -> Option<Contents> {
    let mut from = Reader::new(bytes);
    let (store, salt, flags) = (StoreId(from.array()?), from.array()?, from.u8()?);
    let (last, next_volume) = (from.u64()?, from.u64()?);
    let volumes = (0..from.u32()?).map(|_| volume(&mut from)).collect::<Option<_>>()?;
    let upstream = |from: &mut Reader<'_>| {
        Some(UpstreamEntry { name: UpstreamName::new(from.text()?).ok()?, start: from.u64()? })
    };
    let upstreams = (0..from.u32()?).map(|_| upstream(&mut from)).collect::<Option<_>>()?;
    let aside = |from: &mut Reader<'_>| {
        let (number, expected, found) = (from.u64()?, from.u64()?, from.u64()?);
        Some(AsideEntry { number, expected, found, since: Timestamp::from_micros(from.i64()?) })
    };
    let aside = (0..from.u32()?).map(|_| aside(&mut from)).collect::<Option<_>>()?;
    let closed = flags & CLOSED != 0;
    Some(Contents { store, salt, closed, last, next_volume, volumes, upstreams, aside })
}

fn volume(from: &mut Reader<'_>) -> Option<VolumeEntry> {
    let length = from.u16()?;
    let mut from = Reader::new(from.take(length.into())?);
    let (number, store, first, last) = (from.u64()?, StoreId(from.array()?), from.u64()?, from.u64()?);
    let flags = from.u8()?;
    let mut when = |bit: u8| {
        if flags & bit == 0 {
            Some(None)
        } else {
            from.i64().map(|micros| Some(Timestamp::from_micros(micros)))
        }
    };
    let (opened, settled) = (when(OPENED)?, when(SETTLED)?);
    let digest = match flags & DIGEST {
        0 => None,
        _ => Some(Digest { bytes: from.u64()?, checksum: from.u32()? }),
    };
    let mut count = |bit: u8| if flags & bit == 0 { Some(None) } else { from.u64().map(Some) };
    let (set_aside, copied) = (count(SET_ASIDE)?, count(COPIED)?);
    let (kept, told) = (flags & KEPT != 0, flags & TOLD != 0);
    let times = VolumeEntry { opened, settled, ..VolumeEntry::new(number, store, first, last) };
    Some(VolumeEntry { digest, set_aside, copied, kept, told, ..times })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::simulated::under_every_fault;
    use crate::spool::testing::{at, upstream};
    use proptest::prelude::*;
    use std::fs;

    fn some(last: u64) -> Contents {
        let volume = VolumeEntry {
            opened: Some(at(1)),
            digest: Some(Digest { bytes: 7, checksum: 8 }),
            ..VolumeEntry::new(1, StoreId([1; 16]), 1, 40)
        };
        let aside = VolumeEntry {
            number: 2,
            first: 41,
            last,
            settled: Some(at(9)),
            set_aside: Some(3),
            copied: Some(4),
            kept: true,
            told: true,
            ..volume.clone()
        };
        Contents {
            store: StoreId([1; 16]),
            salt: [2; 32],
            closed: true,
            last,
            next_volume: 3,
            volumes: vec![volume, aside],
            upstreams: vec![UpstreamEntry { name: upstream("ehr"), start: 5 }],
            aside: vec![AsideEntry { number: 9, expected: 50, found: 49, since: at(3) }],
        }
    }

    fn found(folder: &Path) -> Option<Contents> {
        match read(folder).unwrap() {
            Found::Manifest(contents, _) => Some(contents),
            Found::Nothing | Found::Damaged => None,
        }
    }

    #[test]
    fn the_newest_commit_is_read_back() {
        let home = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::create(home.path(), &some(50), &Disk::default()).unwrap();
        for last in 51..60 {
            manifest.commit(&some(last)).unwrap();
            assert_eq!(found(home.path()), Some(some(last)));
        }
    }

    #[test]
    fn a_mark_is_read_back_for_the_volume_it_was_made_for() {
        let home = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::create(home.path(), &some(50), &Disk::default()).unwrap();
        for last in 51..200 {
            manifest.mark(&some(last)).unwrap();
            assert_eq!(found(home.path()), Some(some(last)));
        }
        // A torn mark leaves the one before.
        let mut bytes = fs::read(home.path().join(NAME)).unwrap();
        for sector in [2 * SLOT, 2 * SLOT + SECTOR].map(|sector| sector as usize) {
            bytes[sector + 30] ^= 1;
            fs::write(home.path().join(NAME), &bytes).unwrap();
            bytes[sector + 30] ^= 1;
            assert!(matches!(found(home.path()).unwrap().last, 198 | 199));
        }
        let mut next = some(50);
        next.volumes[1].number = 7;
        fs::write(home.path().join(NAME), &bytes).unwrap();
        let mut manifest = Manifest::open(home.path(), 2, &Disk::default()).unwrap();
        manifest.commit(&next).unwrap();
        assert_eq!(found(home.path()), Some(next));
    }

    #[test]
    fn a_damaged_slot_costs_one_commit_at_most() {
        let home = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::create(home.path(), &some(50), &Disk::default()).unwrap();
        manifest.commit(&some(51)).unwrap();
        let whole = fs::read(home.path().join(NAME)).unwrap();
        for place in [0, 5, 9, 17, 30, 100, 200] {
            for slot in [0, SLOT as usize] {
                let mut damaged = whole.clone();
                damaged[slot + place] ^= 0x10;
                fs::write(home.path().join(NAME), &damaged).unwrap();
                let last = found(home.path()).unwrap().last;
                assert!(last == 50 || last == 51, "{last}");
            }
        }
    }

    #[test]
    fn a_commit_that_was_acknowledged_is_read_back_whatever_the_disk_does() {
        // Behind a failed commit the file is replaced, as the spool does it.
        let commit = |manifest: &mut Manifest, last: u64| {
            let contents = some(last);
            manifest.commit(&contents).or_else(|_| manifest.replace(&contents)).is_ok()
        };
        under_every_fault(
            20,
            |own, home| {
                let disk = Disk::new(None, own.clone());
                let mut manifest = Manifest::create(home, &some(50), &disk).ok()?;
                // The first one that fails twice is the last one: the spool takes no more.
                Some((51..56).take_while(|last| commit(&mut manifest, *last)).last().unwrap_or(50))
            },
            |home, committed| {
                let Some(committed) = *committed else { return };
                let found = found(home).unwrap();
                assert_eq!(found, some(found.last));
                assert!((committed..56).contains(&found.last), "{}", found.last);
            },
        );
    }

    #[test]
    fn a_newer_format_is_refused() {
        let home = tempfile::tempdir().unwrap();
        Manifest::create(home.path(), &some(50), &Disk::default()).unwrap();
        let mut bytes = fs::read(home.path().join(NAME)).unwrap();
        let length = slot_bytes(2, &some(50)).len();
        bytes[4..8].copy_from_slice(&9_u32.to_be_bytes());
        let checksum = crc32fast::hash(&bytes[..length - 4]).to_be_bytes();
        bytes[length - 4..length].copy_from_slice(&checksum);
        fs::write(home.path().join(NAME), &bytes).unwrap();
        assert!(matches!(read(home.path()), Err(SpoolError::Format { found: 9, known: FORMAT, .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = contents(&bytes);
            let _ = slot(&bytes);
            let _ = mark(&bytes);
        }
    }
}
