//! The spool of a stopped gateway, for reading: nothing of it is changed.

use crate::model::name::UpstreamName;
use crate::privacy::keyring::{DataKey, DataKeys, KeyError, KeyId};
use crate::spool::dead::DeadLetters;
use crate::spool::disk::{Disk, free, refusal, used};
use crate::spool::frame::Opener;
use crate::spool::lock::Lock;
use crate::spool::look::{self, Shelves};
use crate::spool::manifest::{Contents, Found, VolumeEntry, read};
use crate::spool::opening::volume_folders;
use crate::spool::room::LEFT_FREE;
use crate::spool::scan::{Index, Tail};
use crate::spool::settlement::Settlement;
use crate::spool::space::Space;
use crate::spool::tools::{self, Letters, Look, Page, Place, Standing, Wanted};
use crate::spool::volume::files;
use crate::spool::wreck::{Plan, Wreck};
use crate::spool::{Sequence, SpoolError, SpoolStatus, StoreId};
use crate::spool::{reserve, slots};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const ACT: &str = "look at the spool";

/// A spool that no gateway holds. As long as this lives, none can start.
pub struct StoppedSpool {
    home: PathBuf,
    keys: Arc<dyn DataKeys>,
    contents: Contents,
    settlement: Settlement,
    dead: DeadLetters,
    /// The volume that was read last.
    scanned: Option<(u64, Index)>,
    /// The copy that the settlements were read from: opening them in place would write to them.
    _copy: tempfile::TempDir,
    _lock: Lock,
}

impl std::fmt::Debug for StoppedSpool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoppedSpool({})", self.home.display())
    }
}

/// No key at all, for what can be told without opening a record.
#[derive(Clone, Copy, Debug)]
pub struct NoKeys;

impl DataKeys for NoKeys {
    fn seal_key(&self, _: KeyId) -> Result<DataKey, KeyError> {
        Err(KeyError::Destroyed)
    }

    fn open_key(&self, _: KeyId) -> Option<DataKey> {
        None
    }
}

impl StoppedSpool {
    /// Opens it. `None`: there is no spool in this folder yet.
    ///
    /// # Errors
    /// `Busy` while a gateway runs, `Format`, `Permission`, `Disk`, and `Engine` without a manifest.
    pub fn open(home: &Path, keys: Arc<dyn DataKeys>) -> Result<Option<Self>, SpoolError> {
        match fs::metadata(home) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            about => about.map_err(|source| refusal(ACT, source))?,
        };
        let lock = Lock::take(home)?;
        let mut contents = match read(home)? {
            Found::Manifest(contents, _) => contents,
            Found::Nothing if volume_folders(home)?.is_empty() => return Ok(None),
            Found::Nothing | Found::Damaged => {
                return Err(SpoolError::Engine {
                    act: ACT,
                    why: "the manifest is lost; the next start makes it anew",
                });
            }
        };
        let mut scanned = None;
        if let Some(newest) = contents.volumes.last_mut().filter(|_| !contents.closed) {
            // What the last process did not tell the manifest any more.
            let mut opener = Opener::new(&*keys);
            let index = scan(home, newest, Tail::Adopt, &mut opener)?;
            newest.last = newest.last.max(index.last());
            contents.last = contents.last.max(newest.last);
            scanned = Some((newest.number, index));
        }
        let copy = tempfile::tempdir().map_err(|source| refusal(ACT, source))?;
        copy_settlements(home, copy.path()).map_err(|source| refusal(ACT, source))?;
        let names: Vec<_> = contents.upstreams.iter().map(|entry| entry.name.clone()).collect();
        let disk = Disk::default();
        let settlement = Settlement::open(copy.path(), &disk, &contents.upstreams, &names, contents.last)?;
        contents.last = settlement.last();
        let dead = DeadLetters::open(home, &disk)?;
        let home = home.into();
        Ok(Some(Self { home, keys, contents, settlement, dead, scanned, _copy: copy, _lock: lock }))
    }

    /// What it holds. Records are counted by the manifest, not looked at; capture times of the oldest ones are not known.
    ///
    /// # Errors
    /// `Disk` when the file system does not say how much is free.
    pub fn status(&self, max_bytes: u64) -> Result<SpoolStatus, SpoolError> {
        let volumes = &self.contents.volumes;
        let held = |volume: &VolumeEntry| volume.set_aside.unwrap_or_else(|| volume.records());
        // As the running spool counts it: what is taken ahead is given back when the room is needed.
        let bytes = used(&self.home).saturating_sub(used(&self.home.join(reserve::NAME)));
        let last = Sequence(self.contents.last);
        let free = free(&self.home).map_err(|source| refusal(ACT, source))?.saturating_sub(LEFT_FREE);
        let counts = self.settlement.ledgers().map(|(name, ledger)| (name.clone(), ledger.counts()));
        Ok(SpoolStatus {
            last: self.contents.last,
            records: volumes.iter().map(held).sum(),
            bytes,
            space: Space::of(bytes, max_bytes, free),
            volumes: u32::try_from(volumes.len()).unwrap_or(u32::MAX),
            set_aside: self.contents.set_aside(),
            slots: slots::load(&self.home, last).map(|slots| slots.shown()).unwrap_or_default(),
            upstreams: counts.collect(),
        })
    }

    /// Whether the last process ended in order. If not, its last records are counted only with their keys.
    #[must_use]
    pub const fn was_closed(&self) -> bool {
        self.contents.closed
    }

    /// What it holds of a wreck, and what it could take back.
    ///
    /// # Errors
    /// [`SpoolError`] when the store cannot be read.
    pub fn compare(&mut self, wreck: &Wreck) -> Result<Plan, SpoolError> {
        wreck.compare(self)
    }

    fn index(&mut self, volume: &VolumeEntry) -> Result<&Index, SpoolError> {
        let index = match self.scanned.take() {
            Some((number, index)) if number == volume.number => index,
            _ => scan(&self.home, volume, Tail::Ignore, &mut Opener::new(&*self.keys))?,
        };
        Ok(&self.scanned.insert((volume.number, index)).1)
    }
}

fn scan(home: &Path, volume: &VolumeEntry, tail: Tail, opener: &mut Opener<'_>) -> Result<Index, SpoolError> {
    Index::of(home, volume, tail, opener)
}

/// Copies the settlements, which opening them in place would write to.
pub(super) fn copy_settlements(home: &Path, copy: &Path) -> std::io::Result<()> {
    let store = home.join("settlement");
    if !store.is_dir() {
        return Ok(());
    }
    for path in files(&store)? {
        let target = copy.join(path.strip_prefix(home).unwrap_or(&path));
        target.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::copy(&path, &target)?;
    }
    Ok(())
}

impl Shelves for StoppedSpool {
    fn keys(&self) -> Arc<dyn DataKeys> {
        self.keys.clone()
    }

    fn volumes(&self) -> &[VolumeEntry] {
        &self.contents.volumes
    }

    fn dead(&self) -> &DeadLetters {
        &self.dead
    }

    fn newest(&self) -> (StoreId, Sequence) {
        (self.contents.store, Sequence(self.contents.last))
    }

    fn frames_of(&mut self, wanted: &[Sequence]) -> Result<Vec<Option<Vec<u8>>>, SpoolError> {
        let mut frames = Vec::with_capacity(wanted.len());
        for sequence in wanted {
            let volumes = &self.contents.volumes;
            let place = volumes.partition_point(|volume| volume.last < sequence.0);
            let volume = volumes.get(place).filter(|volume| volume.first <= sequence.0).cloned();
            let frame = match volume {
                Some(volume) => self.index(&volume)?.frames(&[*sequence])?.pop().flatten(),
                None => None,
            };
            frames.push(frame.or_else(|| self.dead.frame(*sequence)));
        }
        Ok(frames)
    }

    fn standings(&self, sequence: Sequence) -> Vec<(UpstreamName, Standing)> {
        self.settlement.standings(sequence)
    }
}

impl Look for StoppedSpool {
    fn look(&mut self, after: Sequence, limit: usize) -> Result<Page, SpoolError> {
        look::look(self, after, limit)
    }

    fn find(&mut self, sequence: Sequence) -> Result<Option<tools::Found>, SpoolError> {
        look::find(self, sequence)
    }

    fn letters(
        &mut self,
        wanted: &Wanted,
        after: Option<&Place>,
        limit: usize,
    ) -> Result<Letters, SpoolError> {
        Ok(look::letters(self, wanted, after, limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::store::{Options, SledSpool};
    use crate::spool::testing::{Keys, at, record, upstream};
    use crate::spool::tools::{Content, SpoolTools};
    use crate::spool::{Reason, Spool, Verdict};

    fn bytes_of(home: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        files(home).unwrap().into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }

    #[test]
    fn a_stopped_spool_answers_as_the_running_one_does_and_no_byte_changes() {
        for in_order in [true, false] {
            let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
            let options = Options { volume_records: 10, ..Options::new(1 << 30) };
            let mut spool =
                SledSpool::open(home.path(), keys.clone(), &[upstream("ehr")], options, at(0)).unwrap();
            for n in 1..=25 {
                spool.append(&[record(n)]).unwrap();
            }
            let refused = Verdict::Refused { parts: 1, reason: Reason { status: 422, issue: None } };
            spool.settle(&upstream("ehr"), &[(Sequence(3), refused)]).unwrap();
            let ask = |spool: &mut dyn Look| {
                let page = spool.look(Sequence(0), 100).unwrap();
                assert!(page.seen.iter().all(|seen| matches!(seen.content, Content::Record(_))));
                let letters = spool.letters(&Wanted::default(), None, 9).unwrap();
                (page, spool.find(Sequence(3)).unwrap(), spool.find(Sequence(26)).unwrap(), letters)
            };
            let running = ask(&mut spool);
            let counts = spool.status().upstreams[0].1;
            let space = spool.status().space;
            if in_order {
                spool.close().unwrap();
            }
            drop(spool);
            let before = bytes_of(home.path());
            let mut stopped = StoppedSpool::open(home.path(), keys).unwrap().unwrap();
            assert_eq!(ask(&mut stopped), running);
            let status = stopped.status(1 << 30).unwrap();
            assert_eq!(
                (status.last, status.records, status.upstreams[0].1.refused),
                (25, 25, counts.refused)
            );
            assert_eq!((status.space.percent(), status.space.level()), (space.percent(), space.level()));
            drop(stopped);
            assert_eq!(bytes_of(home.path()), before);
        }
    }

    #[test]
    fn nothing_is_no_spool_and_a_running_one_is_busy() {
        let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
        assert!(StoppedSpool::open(&home.path().join("none"), keys.clone()).unwrap().is_none());
        assert!(StoppedSpool::open(home.path(), keys.clone()).unwrap().is_none());
        let mut running =
            SledSpool::open(home.path(), keys.clone(), &[], Options::new(1 << 30), at(0)).unwrap();
        assert!(matches!(StoppedSpool::open(home.path(), keys), Err(SpoolError::Busy(_))));
        assert_eq!(running.without_trace(&[]).unwrap(), []);
    }
}
