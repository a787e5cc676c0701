//! Dead letters: a copy of each record that an upstream refused, or refused parts of, with the coded reason.
//!
//! A letter is durable before the record counts as settled, so it outlives the volume the record came from. Letters are appended
//! to files of our own, a new one at each start: what a crash cut off is never written behind, and nothing in a
//! file is ever changed. The last entry about a record counts.

use crate::disk::{Start, Written};
use crate::model::name::UpstreamName;
use crate::privacy::keyring::KeyId;
use crate::spool::disk::{Disk, refusal};
use crate::spool::frame::Header;
use crate::spool::letter::{Entry, Found, Letter, next, read};
use crate::spool::{Sequence, SpoolError};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const FOLDER: &str = "dead";

/// A file is not continued beyond this length, so that it can be read in one piece.
const FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Files are not tidied up for less than this.
const WORTH_TIDYING: u64 = 256 * 1024;

/// Every start that refuses something makes a file; more of them than this are put together.
const FILES: u64 = 8;

/// The dead letters of a spool.
pub(crate) struct DeadLetters {
    folder: PathBuf,
    disk: Disk,
    /// Made with the first letter of this process.
    open: Option<Writing>,
    next_file: u64,
    /// Bytes of each file.
    files: BTreeMap<u64, u64>,
    letters: BTreeMap<UpstreamName, BTreeMap<u64, Place>>,
    /// Places in each file that hold no entry that can be read.
    damaged: BTreeMap<u64, u64>,
}

struct Writing {
    number: u64,
    file: Written,
}

/// Where the last letter about a record is.
#[derive(Clone, Copy, Debug)]
struct Place {
    file: u64,
    offset: u64,
    length: usize,
    key: KeyId,
}

impl DeadLetters {
    /// Finds the letters in this spool, and changes nothing.
    pub(crate) fn open(home: &Path, disk: &Disk) -> Result<Self, SpoolError> {
        let mut dead = Self {
            folder: home.join(FOLDER),
            disk: disk.clone(),
            open: None,
            next_file: 1,
            files: BTreeMap::new(),
            letters: BTreeMap::new(),
            damaged: BTreeMap::new(),
        };
        let act = "read the dead letters";
        let entries = match fs::read_dir(&dead.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(dead),
            Err(error) => return Err(refusal(act, error)),
        };
        let numbers: BTreeSet<u64> =
            entries.flatten().filter_map(|entry| file_number(entry.file_name().to_str()?)).collect();
        for number in numbers {
            dead.next_file = number.saturating_add(1);
            let bytes = fs::read(dead.path(number)).map_err(|source| refusal(act, source))?;
            dead.files.insert(number, bytes.len() as u64);
            dead.take_in(number, &bytes);
        }
        if dead.damaged() > 0 {
            tracing::error!(
                places = dead.damaged(),
                "dead letters are damaged; `chairside spool verify` counts them"
            );
        }
        Ok(dead)
    }

    fn take_in(&mut self, file: u64, bytes: &[u8]) {
        let (mut at, mut lost) = (0, false);
        while let Some(here) = bytes.get(at..).filter(|here| !here.is_empty()) {
            let (entry, length) = match read(here) {
                Found::Entry(entry, length) => (Some(entry), length),
                Found::Newer(length) => {
                    *self.damaged.entry(file).or_default() += 1;
                    (None, length)
                }
                Found::Cut => return,
                Found::Nothing => {
                    // However long the damage, it is counted once.
                    *self.damaged.entry(file).or_default() += u64::from(!lost);
                    lost = true;
                    at += next(here);
                    continue;
                }
            };
            lost = false;
            match entry {
                Some(Entry::Letter(letter)) => self.note(file, at as u64, length, &letter),
                Some(Entry::Done(upstream, sequence)) => self.strike(&upstream, sequence),
                None => {}
            }
            at += length;
        }
    }

    fn note(&mut self, file: u64, offset: u64, length: usize, letter: &Letter) {
        let key = Header::read(&letter.frame).map_or(KeyId::FACILITY, |header| header.key);
        let place = Place { file, offset, length, key };
        self.letters.entry(letter.upstream.clone()).or_default().insert(letter.sequence.0, place);
    }

    fn strike(&mut self, upstream: &UpstreamName, sequence: Sequence) {
        if let Some(letters) = self.letters.get_mut(upstream) {
            letters.remove(&sequence.0);
        }
    }

    /// Keeps these letters; durable when it returns.
    pub(crate) fn keep(&mut self, letters: Vec<Letter>) -> Result<(), SpoolError> {
        self.append(letters.into_iter().map(Entry::Letter).collect())
    }

    /// These letters are answered; durable when it returns.
    pub(crate) fn strike_out(
        &mut self,
        upstream: &UpstreamName,
        sequences: &[Sequence],
    ) -> Result<(), SpoolError> {
        let known = sequences.iter().filter(|sequence| self.has(upstream, **sequence));
        self.append(known.map(|sequence| Entry::Done(upstream.clone(), *sequence)).collect())
    }

    fn append(&mut self, entries: Vec<Entry>) -> Result<(), SpoolError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut writing = match self.open.take() {
            Some(writing) if self.files.get(&writing.number).is_some_and(|bytes| *bytes < FILE_BYTES) => {
                writing
            }
            _ => self.create()?,
        };
        let forms: Vec<Vec<u8>> = entries.iter().map(Entry::bytes).collect();
        // A file that failed is left alone: the next letter starts another one.
        self.disk.act("write dead letters", || writing.file.write_all(&forms.concat()))?;
        self.disk.act("sync dead letters", || writing.file.sync())?;
        let mut offset = self.files.get(&writing.number).copied().unwrap_or(0);
        for (entry, form) in entries.into_iter().zip(forms) {
            match entry {
                Entry::Letter(letter) => self.note(writing.number, offset, form.len(), &letter),
                Entry::Done(upstream, sequence) => self.strike(&upstream, sequence),
            }
            offset += form.len() as u64;
        }
        self.files.insert(writing.number, offset);
        self.open = Some(writing);
        Ok(())
    }

    fn create(&mut self) -> Result<Writing, SpoolError> {
        let act = "make a file for dead letters";
        self.disk.act(act, || fs::create_dir_all(&self.folder))?;
        if let Some(home) = self.folder.parent() {
            self.disk.sync_folder(act, home)?;
        }
        let number = self.next_file;
        self.next_file = number.saturating_add(1);
        let file = self.disk.act(act, || self.disk.own().open(&self.path(number), Start::New))?;
        self.files.insert(number, 0);
        self.disk.sync_folder(act, &self.folder)?;
        Ok(Writing { number, file })
    }

    /// Whether this upstream has a letter about this record.
    pub(crate) fn has(&self, upstream: &UpstreamName, sequence: Sequence) -> bool {
        self.letters.get(upstream).is_some_and(|letters| letters.contains_key(&sequence.0))
    }

    /// Whether any letter is about this record.
    pub(crate) fn holds(&self, sequence: Sequence) -> bool {
        self.letters.values().any(|letters| letters.contains_key(&sequence.0))
    }

    /// Upstreams and sequences of all letters behind `after`, in their order.
    pub(crate) fn places(
        &self,
        after: Option<(&UpstreamName, Sequence)>,
    ) -> impl Iterator<Item = (&UpstreamName, Sequence)> {
        let behind = move |upstream: &UpstreamName, sequence: u64| {
            after.is_none_or(|(name, last)| (upstream, sequence) > (name, last.0))
        };
        self.letters.iter().flat_map(move |(upstream, letters)| {
            let ours = letters.keys().filter(move |sequence| behind(upstream, **sequence));
            ours.map(move |sequence| (upstream, Sequence(*sequence)))
        })
    }

    /// The letter of this upstream about this record. `None`: there is none, or it cannot be read any more.
    pub(crate) fn letter(&self, upstream: &UpstreamName, sequence: Sequence) -> Option<Letter> {
        self.read(*self.letters.get(upstream)?.get(&sequence.0)?)
    }

    /// The sealed record of this sequence, if any letter holds it.
    pub(crate) fn frame(&self, sequence: Sequence) -> Option<Vec<u8>> {
        let places = self.letters.values().filter_map(|letters| letters.get(&sequence.0));
        places.filter_map(|place| self.read(*place)).map(|letter| letter.frame).next()
    }

    fn read(&self, place: Place) -> Option<Letter> {
        let mut bytes = vec![0; place.length];
        File::open(self.path(place.file)).ok()?.read_exact_at(&mut bytes, place.offset).ok()?;
        match read(&bytes) {
            Found::Entry(Entry::Letter(letter), _) => Some(letter),
            Found::Entry(Entry::Done(..), _) | Found::Newer(_) | Found::Cut | Found::Nothing => None,
        }
    }

    /// The parts of a range of sequences that no letter is about.
    pub(crate) fn without_letters(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let spoken_of: BTreeSet<u64> = self
            .letters
            .values()
            .flat_map(|letters| letters.range(first..=last.max(first)))
            .map(|(sequence, _)| *sequence)
            .collect();
        let mut parts = Vec::new();
        let mut from = first;
        for sequence in spoken_of.into_iter().filter(|sequence| *sequence <= last) {
            if sequence > from {
                parts.push((from, sequence - 1));
            }
            from = sequence.saturating_add(1);
        }
        if from <= last {
            parts.push((from, last));
        }
        parts
    }

    /// The keys of all records in letters.
    pub(crate) fn keys(&self) -> BTreeSet<[u8; 16]> {
        self.letters.values().flat_map(BTreeMap::values).map(|place| place.key.0).collect()
    }

    /// How many letters there are.
    pub(crate) fn count(&self) -> u64 {
        self.letters.values().map(|letters| letters.len() as u64).sum()
    }

    /// Places in the files that hold no entry that can be read.
    pub(crate) fn damaged(&self) -> u64 {
        self.damaged.values().sum()
    }

    /// Puts what still counts into new files when most of the old ones does not count any more, or when they are many. The old ones go
    /// oldest first: an entry that says "done" never goes before the letter it is about.
    pub(crate) fn tidy(&mut self) -> Result<(), SpoolError> {
        let live: u64 =
            self.letters.values().flat_map(BTreeMap::values).map(|place| place.length as u64).sum();
        let all: u64 = self.files.values().sum();
        let many = self.files.len() as u64 > FILES + live / (FILE_BYTES / 2);
        let worth = all > live.saturating_mul(2).saturating_add(WORTH_TIDYING) || (live == 0 && all > 0);
        if !many && !worth {
            return Ok(());
        }
        let old: Vec<u64> = self.files.keys().copied().collect();
        self.open = None;
        let places: Vec<(u64, Place)> =
            self.letters.values().flatten().map(|(sequence, place)| (*sequence, *place)).collect();
        for some in places.chunks(256) {
            let letters: Vec<Letter> = some.iter().filter_map(|(_, place)| self.read(*place)).collect();
            // A letter that cannot be read keeps the files as they are; somebody may still get it out.
            if letters.len() < some.len() {
                return Ok(());
            }
            self.keep(letters)?;
        }
        let act = "remove answered dead letters";
        for number in old {
            let path = self.path(number);
            // What cannot be read is left for whoever wants to look at it.
            let aside = self.damaged.contains_key(&number).then(|| path.with_extension("damaged"));
            self.disk.act(act, || match &aside {
                Some(aside) => self.disk.own().rename(&path, aside),
                None => self.disk.own().remove(&path),
            })?;
            self.damaged.remove(&number);
            self.files.remove(&number);
            // One by one: a power cut that keeps a later removal and not this one would bring an answered letter back.
            self.disk.sync_folder(act, &self.folder)?;
        }
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:08}.letters"))
    }
}

fn file_number(name: &str) -> Option<u64> {
    name.strip_suffix(".letters")?.parse().ok()
}

#[cfg(test)]
mod tests;
