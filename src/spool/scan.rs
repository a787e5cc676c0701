//! Finds the frames in the raw files of a volume, without the store engine and without changing a byte.
//!
//! sled keeps each value in one piece and as it was given, so every frame it wrote can be found by its magic and proved by its
//! tag, whatever has become of the pages around it. Opening a damaged database in sled rewrites it instead.

use crate::disk::{read_at, read_exact_at};
use crate::privacy::keyring::KeyId;
use crate::spool::disk::refusal;
use crate::spool::frame::{FrameFault, Header, MAGIC, MAX_FRAME, Opener};
use crate::spool::manifest::{Digest, VolumeEntry};
use crate::spool::salvage::{Runs, listed};
use crate::spool::volume::files;
use crate::spool::{Sequence, SpoolError, StoreId};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const READ: &str = "read a volume";

const CHUNK: usize = 256 * 1024;

/// A block that cannot be read counts as zeros of this length.
const UNREADABLE: usize = 4096;

/// An unacknowledged tail is one commit; this is far above it.
const TAIL: u64 = 65_536;

/// Where the frames of one volume are in its files.
#[derive(Debug)]
pub(crate) struct Index {
    files: Vec<PathBuf>,
    first: u64,
    places: Vec<Option<Place>>,
    /// First and last sequence of every key.
    keys: BTreeMap<[u8; 16], (u64, u64)>,
    /// Of a copy: which sequences it must hold, unless its list is damaged, and how many.
    copied: Option<(Option<Runs>, u64)>,
    unreadable: bool,
    /// Records that are there and that no key opens.
    sealed: Vec<Sequence>,
}

/// A place packed into eight bytes, for a volume has many: file (8 bits), offset (40), length (16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(std::num::NonZeroU64);

impl Place {
    fn new(file: usize, offset: u64, length: usize) -> Option<Self> {
        let (file, length) = (u8::try_from(file).ok()?, u16::try_from(length).ok()?);
        if offset >> 40 != 0 {
            return None;
        }
        let packed = u64::from(file) << 56 | offset << 16 | u64::from(length);
        std::num::NonZeroU64::new(packed).map(Self)
    }

    const fn parts(self) -> (usize, u64, usize) {
        let packed = self.0.get();
        ((packed >> 56) as usize, (packed >> 16) & 0xFF_FFFF_FFFF, (packed & 0xFFFF) as usize)
    }
}

/// What may lie behind the last sequence that the manifest knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// Nothing: the manifest is exact.
    Ignore,
    /// Records of a commit that was cut short: those without a gap before them belong to the volume.
    Adopt,
}

impl Index {
    /// Scans a volume of the manifest.
    pub(crate) fn of(
        home: &Path,
        volume: &VolumeEntry,
        tail: Tail,
        opener: &mut Opener<'_>,
    ) -> Result<Self, SpoolError> {
        let folder = home.join(volume.folder());
        let mut index = Self::scan(&folder, volume.store, volume.first, volume.last, tail, opener)?;
        index.copied = volume.copied.map(|copied| (listed(&folder), copied));
        Ok(index)
    }

    /// Scans a folder that must hold `first..=last`.
    pub(crate) fn scan(
        folder: &Path,
        store: StoreId,
        first: u64,
        last: u64,
        tail: Tail,
        opener: &mut Opener<'_>,
    ) -> Result<Self, SpoolError> {
        let expected = last.saturating_add(1).saturating_sub(first);
        let expected = usize::try_from(expected).unwrap_or(usize::MAX);
        let places = vec![None; expected];
        let mut index = Self {
            files: Vec::new(),
            first,
            places,
            keys: BTreeMap::new(),
            copied: None,
            sealed: Vec::new(),
            unreadable: false,
        };
        let mut behind = BTreeMap::new();
        // A frame whose key was destroyed cannot be proved, but it is no loss either.
        let mut unproved = BTreeMap::new();
        let walked = walk(folder, opener, |header, place, proof| {
            if header.store != store || header.sequence.0 < first {
                return;
            }
            let offset = header.sequence.0 - first;
            match (index.places.get_mut(usize::try_from(offset).unwrap_or(usize::MAX)), proof) {
                (Some(known), Proof::Authentic) => *known = Some(place),
                (Some(_), Proof::KeyGone) => {
                    unproved.insert(offset, (place, header.key));
                }
                (Some(_), Proof::Forged) => return,
                (None, Proof::Authentic)
                    if tail == Tail::Adopt && header.sequence.0 <= last.saturating_add(TAIL) =>
                {
                    behind.insert(header.sequence.0, (place, header.key));
                }
                (None, _) => return,
            }
            if header.sequence.0 <= last {
                index.note_key(header.key, header.sequence.0);
            }
        })?;
        (index.files, index.unreadable) = (walked.files, walked.unreadable);
        for (offset, (place, _)) in unproved {
            let known = usize::try_from(offset).ok().and_then(|offset| index.places.get_mut(offset));
            if let Some(known @ None) = known {
                *known = Some(place);
                index.sealed.push(Sequence(first + offset));
            }
        }
        let mut next = first.max(last.saturating_add(1));
        while let Some((place, key)) = behind.remove(&next) {
            index.places.push(Some(place));
            index.note_key(key, next);
            next += 1;
        }
        Ok(index)
    }

    fn note_key(&mut self, key: KeyId, sequence: u64) {
        let span = self.keys.entry(key.0).or_insert((sequence, sequence));
        *span = (span.0.min(sequence), span.1.max(sequence));
    }

    /// The last sequence it should hold, with an adopted tail.
    pub(crate) const fn last(&self) -> u64 {
        (self.first + self.places.len() as u64).saturating_sub(1)
    }

    /// Records found.
    pub(crate) fn found(&self) -> u64 {
        self.places.iter().flatten().count() as u64
    }

    /// Records among them that no key of the keyring opens.
    pub(crate) fn sealed(&self) -> &[Sequence] {
        &self.sealed
    }

    /// Whether nothing is missing.
    pub(crate) fn is_complete(&self) -> bool {
        match &self.copied {
            Some((_, copied)) => self.found() >= *copied,
            None => self.places.iter().all(Option::is_some),
        }
    }

    /// Sequences that were found.
    pub(crate) fn present(&self) -> impl Iterator<Item = Sequence> {
        let places = (self.first..).zip(&self.places);
        places.filter(|(_, place)| place.is_some()).map(|(sequence, _)| Sequence(sequence))
    }

    /// Sequences that should be there and are not; of a copy whose list is damaged, all that are not there.
    pub(crate) fn missing(&self) -> impl Iterator<Item = Sequence> {
        let listed = self.copied.as_ref().and_then(|(listed, _)| listed.as_ref());
        let places = (self.first..).zip(&self.places);
        places
            .filter(move |(sequence, place)| {
                place.is_none() && listed.is_none_or(|listed| listed.contains(*sequence))
            })
            .map(|(sequence, _)| Sequence(sequence))
    }

    /// First and last sequence of every key.
    pub(crate) const fn keys(&self) -> &BTreeMap<[u8; 16], (u64, u64)> {
        &self.keys
    }

    /// Whether a part of its files could not be read. What is missing may be there the next time.
    pub(crate) const fn is_unreadable(&self) -> bool {
        self.unreadable
    }

    /// The frames of these sequences; `None` where there is none.
    ///
    /// # Errors
    /// `Disk` when the device does not give them now.
    pub(crate) fn frames(&self, wanted: &[Sequence]) -> Result<Vec<Option<Vec<u8>>>, SpoolError> {
        let mut open: BTreeMap<usize, File> = BTreeMap::new();
        let mut frames = Vec::with_capacity(wanted.len());
        for sequence in wanted {
            let offset = sequence.0.checked_sub(self.first).and_then(|offset| usize::try_from(offset).ok());
            let place = offset.and_then(|offset| self.places.get(offset).copied().flatten());
            let Some((number, offset, length)) = place.map(Place::parts) else {
                frames.push(None);
                continue;
            };
            let file = match (open.remove(&number), self.files.get(number)) {
                (Some(file), _) => file,
                (None, Some(path)) => match File::open(path) {
                    Ok(file) => file,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        frames.push(None);
                        continue;
                    }
                    Err(error) => return Err(refusal(READ, error)),
                },
                (None, None) => {
                    frames.push(None);
                    continue;
                }
            };
            let mut frame = vec![0; length];
            frames.push(match read_exact_at(&file, &mut frame, offset) {
                Ok(()) => Some(frame),
                // A file that became shorter does not have the record. A read that fails says nothing of it.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
                Err(error) => return Err(refusal(READ, error)),
            });
            open.insert(number, file);
        }
        Ok(frames)
    }
}

/// What is in a folder that no manifest describes.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// First and last sequence of each store, as far as they authenticate.
    pub(crate) stores: BTreeMap<[u8; 16], (u64, u64)>,
    /// Stores of frames that this keyring does not open.
    pub(crate) unopened: BTreeSet<[u8; 16]>,
    /// A part of its files could not be read.
    pub(crate) unreadable: bool,
}

/// Which stores have frames in a folder.
pub(crate) fn survey(folder: &Path, opener: &mut Opener<'_>) -> Result<Survey, SpoolError> {
    let mut survey = Survey::default();
    let walked = walk(folder, opener, |header, _, proof| match proof {
        Proof::Authentic => {
            let one = (header.sequence.0, header.sequence.0);
            let span = survey.stores.entry(header.store.0).or_insert(one);
            *span = (span.0.min(header.sequence.0), span.1.max(header.sequence.0));
        }
        Proof::KeyGone | Proof::Forged => {
            survey.unopened.insert(header.store.0);
        }
    })?;
    survey.unreadable = walked.unreadable;
    Ok(survey)
}

/// Length and checksum over all files of a volume, to know again what was closed in order.
pub(crate) fn digest(folder: &Path) -> io::Result<Digest> {
    let mut checksum = crc32fast::Hasher::new();
    let mut bytes = 0;
    for path in files(folder)? {
        checksum.update(path.strip_prefix(folder).unwrap_or(&path).as_os_str().as_encoded_bytes());
        let file = File::open(&path)?;
        let mut chunk = vec![0; CHUNK];
        let mut offset = 0;
        loop {
            let length = file.read_at(&mut chunk, offset)?;
            let Some(read) = chunk.get(..length).filter(|read| !read.is_empty()) else { break };
            checksum.update(read);
            offset += length as u64;
        }
        checksum.update(&offset.to_be_bytes());
        bytes += offset;
    }
    Ok(Digest { bytes, checksum: checksum.finalize() })
}

/// What is known of a frame that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    Authentic,
    KeyGone,
    /// Its header is whole, and it is damaged or of another keyring.
    Forged,
}

/// EIO: the device does not give it. Any other error is of our own rights or limits, and no word about the files.
fn is_of_the_device(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// The files of a folder that was walked through.
#[derive(Default)]
struct Walked {
    files: Vec<PathBuf>,
    unreadable: bool,
}

/// Shows every frame in the files of a folder.
fn walk(
    folder: &Path,
    opener: &mut Opener<'_>,
    mut see: impl FnMut(&Header, Place, Proof),
) -> Result<Walked, SpoolError> {
    let act = "scan a volume";
    let paths = match files(folder) {
        Ok(paths) => paths,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Walked::default()),
        Err(error) if is_of_the_device(&error) => {
            return Ok(Walked { files: Vec::new(), unreadable: true });
        }
        Err(error) => return Err(refusal(act, error)),
    };
    let mut unreadable = false;
    for (number, path) in paths.iter().enumerate() {
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (length, file) = match opened {
            Ok(opened) => opened,
            Err(error) if is_of_the_device(&error) => {
                unreadable = true;
                continue;
            }
            Err(error) => return Err(refusal(act, error)),
        };
        unreadable |= walk_file(&file, length, opener, |header, offset, proof| {
            if let Some(place) = Place::new(number, offset, header.frame_length()) {
                see(header, place, proof);
            }
        });
    }
    Ok(Walked { files: paths, unreadable })
}

/// Shows every frame in a file, with its offset. Says whether any part of it could not be read.
pub(crate) fn walk_file(
    file: &File,
    length: u64,
    opener: &mut Opener<'_>,
    mut see: impl FnMut(&Header, u64, Proof),
) -> bool {
    let mut unreadable = false;
    let mut window: Vec<u8> = Vec::with_capacity(CHUNK + MAX_FRAME);
    let mut start = 0_u64;
    loop {
        let ended = fill(file, length, start, &mut window, &mut unreadable);
        let mut at = 0;
        while let Some(step) = next_magic(window.get(at..).unwrap_or_default()) {
            at += step;
            let here = window.get(at..).unwrap_or_default();
            if here.len() < MAX_FRAME && !ended {
                break;
            }
            at += match opener.authenticate(here) {
                Ok(header) => {
                    see(&header, start + at as u64, Proof::Authentic);
                    header.frame_length()
                }
                Err(fault @ (FrameFault::KeyGone | FrameFault::Forged)) => {
                    let proof = if fault == FrameFault::KeyGone { Proof::KeyGone } else { Proof::Forged };
                    if let Ok(header) = Header::read(here) {
                        see(&header, start + at as u64, proof);
                    }
                    1
                }
                Err(_) => 1,
            };
        }
        if ended {
            return unreadable;
        }
        // Without a magic in the rest of the window, only its last bytes can begin one.
        let rest = window.len().saturating_sub(at);
        let keep = if next_magic(window.get(at..).unwrap_or_default()).is_some() {
            rest
        } else {
            rest.min(MAGIC.len() - 1)
        };
        let done = window.len() - keep;
        window.drain(..done);
        start += done as u64;
    }
}

/// Fills the window up; true when it reaches the end of the file.
fn fill(file: &File, length: u64, start: u64, window: &mut Vec<u8>, unreadable: &mut bool) -> bool {
    while window.len() < CHUNK + MAX_FRAME {
        let offset = start + window.len() as u64;
        if offset >= length {
            return true;
        }
        let have = window.len();
        let wanted = (CHUNK + MAX_FRAME - have).min(usize::try_from(length - offset).unwrap_or(usize::MAX));
        while window.len() < have + wanted {
            let more = (have + wanted - window.len()).min(ZEROS.len());
            window.extend_from_slice(ZEROS.get(..more).unwrap_or_default());
        }
        let read = window.get_mut(have..).map_or(Ok(0), |into| read_at(file, into, offset));
        let kept = match read {
            Ok(0) => {
                window.truncate(have);
                return true;
            }
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            // An unreadable block: zeros stand in for it up to the next one.
            Err(_) => {
                *unreadable = true;
                (UNREADABLE - (offset % UNREADABLE as u64) as usize).min(wanted)
            }
        };
        window.truncate(have + kept);
    }
    false
}

/// sled takes space ahead, so most of a young volume is zeros, which are skipped a block at a time.
static ZEROS: [u8; 4096] = [0; 4096];

fn next_magic(bytes: &[u8]) -> Option<usize> {
    let [first, ..] = MAGIC;
    let mut from = 0;
    for block in bytes.chunks(ZEROS.len()) {
        if ZEROS.get(..block.len()) != Some(block) {
            let mut starts = (from..).zip(block).filter(|(_, byte)| **byte == first);
            let found = starts.find(|(at, _)| bytes.get(*at..).is_some_and(|rest| rest.starts_with(&MAGIC)));
            if let Some((at, _)) = found {
                return Some(at);
            }
        }
        from += block.len();
    }
    None
}

#[cfg(test)]
mod tests;
