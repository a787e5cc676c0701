//! Copies sealed frames unchanged into a volume of their own: what can be saved of a damaged volume, or what has to
//! outlive an evicted one.
//!
//! Such a copy is written once, by us and not by the store engine, and never again:
//!
//! ```text
//! frames   the frames, one behind the other
//! list     which sequences they are: runs of first and last, with a checksum; written after the frames
//! ```
//!
//! A frame carries its store, key id, salt and nonce, so it opens in the copy as it did where it came from. Nothing of
//! the source is changed.

use crate::disk::{Start, Written};
use crate::spool::SpoolError;
use crate::spool::bytes::{Reader, checked, with_checksum};
use crate::spool::disk::Disk;
use crate::spool::frame::{FrameFault, Header, Opener};
use crate::spool::scan::Index;
use std::fs::{self, DirBuilder};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

const FRAMES: &str = "frames";
const LIST: &str = "list";

/// Frames read from the source at a time.
const STRIDE: usize = 256;

const ACT: &str = "copy records into a volume of their own";

/// Sequences in ascending order, as runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs(Vec<(u64, u64)>);

impl Runs {
    /// Adds a sequence above all others.
    pub(crate) fn push(&mut self, sequence: u64) {
        match self.0.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(sequence) => *last = sequence,
            _ => self.0.push((sequence, sequence)),
        }
    }

    /// Whether it is one of them.
    pub(crate) fn contains(&self, sequence: u64) -> bool {
        let place = self.0.partition_point(|(_, last)| *last < sequence);
        self.0.get(place).is_some_and(|(first, _)| *first <= sequence)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// First and last of each run.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().copied()
    }

    /// All of them, one by one.
    pub(crate) fn sequences(&self) -> impl Iterator<Item = u64> {
        self.iter().flat_map(|(first, last)| first..=last)
    }

    fn bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|(first, last)| [first, last]).flat_map(u64::to_be_bytes).collect()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader::new(bytes);
        let mut runs = Vec::new();
        let mut next = 0;
        while !from.is_empty() {
            let (first, last) = (from.u64()?, from.u64()?);
            if first < next || last < first {
                return None;
            }
            next = last.checked_add(1)?;
            runs.push((first, last));
        }
        Some(Self(runs))
    }
}

impl FromIterator<u64> for Runs {
    fn from_iter<T: IntoIterator<Item = u64>>(sequences: T) -> Self {
        let mut runs = Self::default();
        sequences.into_iter().for_each(|sequence| runs.push(sequence));
        runs
    }
}

/// Copies the frames of a scanned volume that are wanted into a new folder; durable when it returns, but for the name of
/// the folder in its parent. Gives what the copy holds; without a wanted frame no folder is made.
///
/// A frame is copied only if it authenticates now, or if its key was destroyed.
///
/// # Errors
/// [`SpoolError::Disk`] when a file cannot be read or written, or the folder is there already. What was written until
/// then is left for the caller to remove.
pub(crate) fn copy(
    source: &Index,
    wanted: &mut dyn FnMut(&Header) -> bool,
    into: &Path,
    disk: &Disk,
    opener: &mut Opener<'_>,
) -> Result<Runs, SpoolError> {
    let mut copied = Runs::default();
    let mut frames: Option<Written> = None;
    let present: Vec<_> = source.present().collect();
    for stride in present.chunks(STRIDE) {
        let mut bytes = Vec::new();
        for (sequence, frame) in stride.iter().zip(source.frames(stride)?) {
            let Some(frame) = frame else { continue };
            if let Some(header) = proved(opener, &frame)
                && header.sequence == *sequence
                && wanted(&header)
            {
                bytes.extend_from_slice(&frame);
                copied.push(sequence.0);
            }
        }
        if bytes.is_empty() {
            continue;
        }
        let mut file = match frames.take() {
            Some(file) => file,
            None => {
                disk.act(ACT, || DirBuilder::new().mode(0o700).create(into))?;
                disk.act(ACT, || disk.own().open(&into.join(FRAMES), Start::New))?
            }
        };
        disk.act(ACT, || file.write_all(&bytes))?;
        frames = Some(file);
    }
    if let Some(frames) = frames {
        disk.act(ACT, || frames.sync())?;
        disk.act(ACT, || disk.own().write_new(&into.join(LIST), &with_checksum(&copied.bytes())))?;
        disk.sync_folder(ACT, into)?;
    }
    Ok(copied)
}

/// What a copy must hold. `None`: the folder is no copy, or its list is damaged.
pub(crate) fn listed(folder: &Path) -> Option<Runs> {
    let bytes = fs::read(folder.join(LIST)).ok()?;
    Runs::read(checked(&bytes)?)
}

/// Whether the folder was made by [`copy`].
pub(crate) fn is_copy(folder: &Path) -> bool {
    folder.join(FRAMES).exists()
}

fn proved(opener: &mut Opener<'_>, frame: &[u8]) -> Option<Header> {
    match opener.authenticate(frame) {
        Ok(header) => Some(header),
        // It cannot be proved any more, and nobody can read it; it counts as erased, not as lost.
        Err(FrameFault::KeyGone) => Header::read(frame).ok(),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::simulated::under_every_fault;
    use crate::spool::frame::Sealer;
    use crate::spool::scan::Tail;
    use crate::spool::testing::{Keys, pack, record, record_of, treatment};
    use crate::spool::volume::{Database, files};
    use crate::spool::{Sequence, StoreId};
    use proptest::prelude::*;
    use std::path::PathBuf;
    use std::sync::Arc;

    const STORE: StoreId = StoreId([1; 16]);

    struct Source {
        home: tempfile::TempDir,
        keys: Arc<Keys>,
    }

    impl Source {
        /// A volume of 200 records, every tenth one of facility data.
        fn new() -> Self {
            let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
            let mut sealer = Sealer::new(STORE, [2; 32], keys.clone());
            let kind = |n| if n % 10 == 0 { record(n) } else { record_of(treatment(1), n) };
            let frames: Vec<_> = (1..=200).map(|n| sealer.seal(Sequence(n), &kind(n)).unwrap()).collect();
            let mut volume = Database::open(&home.path().join("volume"), &Disk::default()).unwrap();
            volume.write(pack(Sequence(1), &frames), Vec::new()).unwrap();
            volume.close().unwrap();
            Self { home, keys }
        }

        fn volume(&self) -> PathBuf {
            self.home.path().join("volume")
        }

        fn copy(&self) -> PathBuf {
            self.home.path().join("copy")
        }

        fn index(&self, folder: &Path) -> Index {
            Index::scan(folder, STORE, 1, 200, Tail::Ignore, &mut Opener::new(&*self.keys)).unwrap()
        }

        fn copy_where(
            &self,
            mut wanted: impl FnMut(&Header) -> bool,
            disk: &Disk,
        ) -> Result<Runs, SpoolError> {
            let source = self.index(&self.volume());
            copy(&source, &mut wanted, &self.copy(), disk, &mut Opener::new(&*self.keys))
        }
    }

    fn contents(folder: &Path) -> Vec<Vec<u8>> {
        files(folder).unwrap().iter().map(|path| fs::read(path).unwrap()).collect()
    }

    #[test]
    fn a_copy_holds_what_was_wanted_byte_for_byte_and_the_source_is_not_touched() {
        let source = Source::new();
        let before = contents(&source.volume());
        let copied = source.copy_where(|header| header.sequence.0 % 10 == 0, &Disk::default()).unwrap();
        assert_eq!(copied.sequences().collect::<Vec<_>>(), (1..=20).map(|n| n * 10).collect::<Vec<_>>());
        assert_eq!(listed(&source.copy()), Some(copied.clone()));
        let wanted: Vec<_> = copied.sequences().map(Sequence).collect();
        let (old, new) = (source.index(&source.volume()), source.index(&source.copy()));
        assert_eq!(new.frames(&wanted).unwrap(), old.frames(&wanted).unwrap());
        assert_eq!(new.found(), 20);
        assert_eq!(contents(&source.volume()), before);
    }

    #[test]
    fn a_damaged_frame_is_left_out_and_one_of_a_destroyed_key_is_not() {
        let source = Source::new();
        let path = source.volume().join("db");
        let mut bytes = fs::read(&path).unwrap();
        let needle = [STORE.0.as_slice(), &77_u64.to_be_bytes()].concat();
        let hits: Vec<_> = (0..bytes.len() - 24).filter(|at| bytes[*at..*at + 24] == needle).collect();
        assert!(!hits.is_empty());
        hits.iter().for_each(|at| bytes[at + 60] ^= 1);
        fs::write(&path, &bytes).unwrap();
        source.keys.destroy(treatment(1).into());
        let copied = source.copy_where(|_| true, &Disk::default()).unwrap();
        assert_eq!((copied.count(), copied.contains(77), copied.contains(78)), (199, false, true));
        assert_eq!(copied.iter().collect::<Vec<_>>(), [(1, 76), (78, 200)]);
    }

    #[test]
    fn nothing_wanted_makes_no_folder_and_a_folder_that_is_there_is_not_written_to() {
        let source = Source::new();
        assert_eq!(source.copy_where(|_| false, &Disk::default()).unwrap(), Runs::default());
        assert!(!source.copy().exists());
        fs::create_dir(source.copy()).unwrap();
        assert!(matches!(source.copy_where(|_| true, &Disk::default()), Err(SpoolError::Disk { .. })));
        assert_eq!(contents(&source.copy()), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_copy_that_was_acknowledged_is_whole_whatever_the_disk_does() {
        let source = Source::new();
        let before = contents(&source.volume());
        let index = source.index(&source.volume());
        under_every_fault(
            8,
            |own, home| {
                let disk = Disk::new(None, own.clone());
                let mut opener = Opener::new(&*source.keys);
                let copied = copy(&index, &mut |_| true, &home.join("copy"), &disk, &mut opener);
                copied.is_ok() && disk.sync_folder(ACT, home).is_ok()
            },
            |home, acknowledged| {
                let found = source.index(&home.join("copy"));
                let listed = listed(&home.join("copy"));
                // A list that can be read is right, and whatever of the frames is there authenticates.
                assert!(listed.as_ref().is_none_or(|listed| listed.count() == 200));
                if *acknowledged {
                    assert_eq!((found.found(), listed.is_some()), (200, true));
                }
            },
        );
        assert_eq!(contents(&source.volume()), before);
    }

    #[test]
    fn a_list_that_was_cut_or_changed_is_none() {
        let source = Source::new();
        source.copy_where(|header| header.sequence.0 % 10 == 0, &Disk::default()).unwrap();
        let list = source.copy().join(LIST);
        let whole = fs::read(&list).unwrap();
        for length in 0..whole.len() {
            fs::write(&list, &whole[..length]).unwrap();
            assert_eq!(listed(&source.copy()), None, "{length}");
        }
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 4;
            fs::write(&list, &damaged).unwrap();
            assert_eq!(listed(&source.copy()), None, "{place}");
        }
    }

    proptest! {
        #[test]
        fn runs_are_the_set_they_were_made_of(set in proptest::collection::btree_set(0_u64..80, 0..60)) {
            let runs: Runs = set.iter().copied().collect();
            prop_assert_eq!(runs.count(), set.len() as u64);
            prop_assert!((0..90).all(|n| runs.contains(n) == set.contains(&n)));
            prop_assert_eq!(runs.sequences().collect::<std::collections::BTreeSet<_>>(), set);
            prop_assert_eq!(Runs::read(&runs.bytes()), Some(runs));
        }

        #[test]
        fn any_list_is_read_without_a_panic(bytes: Vec<u8>) {
            let _ = Runs::read(&bytes).map(|runs| runs.count());
        }
    }
}
