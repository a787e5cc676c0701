//! The newest volume as it is written: rows of sealed frames, each of them on disk once.
//!
//! sled keeps its rows in leaves and writes a whole leaf anew whenever it has grown too large and is split. Rows that come one
//! behind the other meet two splits each, so they would be on disk three times. Here their leaves are made beforehand out of
//! empty rows, which cost next to nothing, with room for as many rows as a leaf takes without being split:
//!
//! ```text
//! key   16 g + 0 ..= 16 g + 8   empty rows: the leaf of group g
//!       16 g + 9 ..= 16 g + 15  its rows, in the order of their sequences
//! ```
//!
//! If another version of sled splits otherwise, rows are written more often, and nothing else changes.

use crate::spool::disk::Disk;
use crate::spool::frame::{Header, split};
use crate::spool::volume::Database;
use crate::spool::{Sequence, SpoolError};
use std::path::Path;

/// sled splits a leaf of more than 16 rows, and leaves 9 of 17 in the lower half.
const EMPTY: u32 = 9;
const FILLED: u32 = 7;
const GROUP: u32 = EMPTY + FILLED;

/// Groups made beforehand: the last 17 empty rows may still share a leaf.
const AHEAD: u32 = 2;

/// A volume that is open for writing.
pub(crate) struct Volume {
    database: Database,
    /// The sequence of the first frame in each row.
    firsts: Vec<u64>,
    /// Groups whose leaves exist.
    groups: u32,
}

impl Volume {
    /// Makes a new volume in this folder; it is durable when this returns.
    pub(crate) fn create(folder: &Path, disk: &Disk) -> Result<Self, SpoolError> {
        Ok(Self { database: Database::open(folder, disk)?, firsts: Vec::new(), groups: 0 })
    }

    /// Opens a volume that was closed in order; `None` if it has other rows than those made here.
    pub(crate) fn open(folder: &Path, disk: &Disk) -> Result<Option<Self>, SpoolError> {
        let mut database = Database::open(folder, disk)?;
        let found = database.run("read a volume", |db| {
            let (mut firsts, mut groups) = (Vec::new(), 0);
            for row in db.iter() {
                let (key, value) = row?;
                let Some(key) = key.as_ref().try_into().ok().map(u32::from_be_bytes) else { return Ok(None) };
                groups = groups.max(key / GROUP + 1);
                if value.is_empty() {
                    continue;
                }
                match Header::read(&value) {
                    Ok(header) if row_key(firsts.len()) == Some(key) => firsts.push(header.sequence.0),
                    _ => return Ok(None),
                }
            }
            Ok(Some((firsts, groups)))
        })?;
        match found {
            Some((firsts, groups)) => Ok(Some(Self { database, firsts, groups })),
            None => {
                database.abandon();
                Ok(None)
            }
        }
    }

    /// Writes the rows of one commit, each under the sequence of its first frame, behind those that are there. They are with the
    /// operating system when it returns.
    pub(crate) fn write(&mut self, rows: &[(Sequence, sled::IVec)]) -> Result<(), SpoolError> {
        let full = SpoolError::Engine { act: "write to a volume", why: "it has too many rows" };
        let mut keyed = Vec::with_capacity(rows.len());
        let mut groups = self.groups;
        for (place, (sequence, value)) in (self.firsts.len()..).zip(rows) {
            let key = row_key(place).ok_or_else(|| full.clone())?;
            while groups <= key / GROUP + AHEAD {
                keyed.extend((0..EMPTY).map(|empty| (groups * GROUP + empty, sled::IVec::default())));
                groups += 1;
            }
            self.firsts.push(sequence.0);
            keyed.push((key, value.clone()));
        }
        self.groups = groups;
        self.database.insert(keyed)
    }

    /// Makes what was written survive a power cut. A failure is final for this volume.
    pub(crate) fn sync(&mut self, act: &'static str) -> Result<(), SpoolError> {
        self.database.sync_log(act)
    }

    /// The frames of these sequences, which must be in ascending order; `None` where there is none.
    pub(crate) fn frames(&mut self, wanted: &[Sequence]) -> Result<Vec<Option<Vec<u8>>>, SpoolError> {
        let row = |sequence: &Sequence| {
            let place = self.firsts.partition_point(|first| *first <= sequence.0).checked_sub(1)?;
            row_key(place)
        };
        let places: Vec<_> = wanted.iter().map(|sequence| (*sequence, row(sequence))).collect();
        self.database.run("read records", move |db| {
            let mut at_hand: Option<(u32, sled::IVec)> = None;
            let mut frames = Vec::with_capacity(places.len());
            for (sequence, place) in places {
                if at_hand.as_ref().map(|(key, _)| *key) != place {
                    at_hand = match place {
                        Some(key) => db.get(key.to_be_bytes())?.map(|value| (key, value)),
                        None => None,
                    };
                }
                let frame = at_hand.as_ref().and_then(|(_, value)| frame_in(value, sequence));
                frames.push(frame.map(<[u8]>::to_vec));
            }
            Ok(frames)
        })
    }

    /// See [`Database::close`].
    pub(crate) fn close(self) -> Result<(), SpoolError> {
        self.database.close()
    }

    /// See [`Database::abandon`].
    pub(crate) fn abandon(self) {
        self.database.abandon();
    }
}

/// The key of a row, counted from zero; `None` if there are too many for their keys.
fn row_key(place: usize) -> Option<u32> {
    let place = u32::try_from(place).ok()?;
    (place / FILLED).checked_add(AHEAD + 1)?.checked_mul(GROUP)?;
    Some(place / FILLED * GROUP + EMPTY + place % FILLED)
}

/// The frame of this sequence among those of a value.
fn frame_in(mut value: &[u8], sequence: Sequence) -> Option<&[u8]> {
    while let Ok((header, frame, rest)) = split(value) {
        if header.sequence == sequence {
            return Some(frame);
        }
        value = rest;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::StoreId;
    use crate::spool::disk::Disk;
    use crate::spool::frame::{Opener, Sealer};
    use crate::spool::testing::{Keys, record};
    use crate::spool::volume::files;
    use std::sync::Arc;

    fn fill(volume: &mut Volume, keys: &Arc<Keys>, sequences: std::ops::Range<u64>, commit: usize) {
        let mut sealer = Sealer::new(StoreId([1; 16]), [2; 32], keys.clone());
        let all: Vec<u64> = sequences.collect();
        for part in all.chunks(commit) {
            let records: Vec<_> = part.iter().map(|n| record(*n)).collect();
            volume.write(&sealer.seal_all(Sequence(part[0]), &records).unwrap().rows()).unwrap();
        }
    }

    fn present(volume: &mut Volume, keys: &Keys, wanted: &[u64]) -> Vec<bool> {
        let sequences: Vec<_> = wanted.iter().map(|n| Sequence(*n)).collect();
        let found = volume.frames(&sequences).unwrap();
        for (sequence, frame) in sequences.iter().zip(&found) {
            let Some(frame) = frame else { continue };
            let opened = Opener::new(keys).open(frame).unwrap();
            assert_eq!((opened.sequence, opened.record), (*sequence, record(sequence.0)));
        }
        found.iter().map(Option::is_some).collect()
    }

    #[test]
    fn frames_of_one_commit_share_rows_and_are_found_again_after_reopening() {
        let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
        let folder = home.path().join("v");
        let mut volume = Volume::create(&folder, &Disk::default()).unwrap();
        fill(&mut volume, &keys, 10..70, 60);
        assert!(volume.firsts.len() > 1 && volume.firsts.len() < 10, "{}", volume.firsts.len());
        fill(&mut volume, &keys, 70..100, 1);
        let rows = volume.firsts.clone();
        volume.close().unwrap();
        let mut volume = Volume::open(&folder, &Disk::default()).unwrap().unwrap();
        assert_eq!(volume.firsts, rows);
        fill(&mut volume, &keys, 100..130, 7);
        let found = present(&mut volume, &keys, &[9, 10, 11, 40, 69, 70, 99, 100, 129, 130]);
        assert_eq!(found, [false, true, true, true, true, true, true, true, true, false]);
    }

    #[test]
    fn a_database_of_other_rows_is_not_taken_for_a_volume() {
        let home = tempfile::tempdir().unwrap();
        for (number, row) in [(0_u8, (vec![1], vec![2])), (1, (vec![0, 0, 0, 9], b"no frame".to_vec()))] {
            let folder = home.path().join(number.to_string());
            let mut database = Database::open(&folder, &Disk::default()).unwrap();
            database.write(vec![row], Vec::new()).unwrap();
            database.close().unwrap();
            assert!(Volume::open(&folder, &Disk::default()).unwrap().is_none());
        }
    }

    #[test]
    fn a_row_is_on_disk_once_and_in_no_other_file_than_the_log() {
        for commit in [1, 3, 100] {
            let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
            let mut volume = Volume::create(home.path(), &Disk::default()).unwrap();
            let at_first = files(home.path()).unwrap();
            fill(&mut volume, &keys, 1..3_000, commit);
            assert_eq!(files(home.path()).unwrap(), at_first);
            volume.close().unwrap();
            let bytes = std::fs::read(home.path().join("db")).unwrap();
            let frames = (0..bytes.len()).filter(|at| Header::read(&bytes[*at..]).is_ok()).count();
            assert_eq!(frames, 2_999, "commits of {commit}");
        }
    }
}
