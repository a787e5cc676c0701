//! One small sled database in a folder of its own, guarded, and durable because its files are synced by us.
//!
//! sled's own flush ends in `sync_file_range`, which leaves the data in the cache of the device. So a write here is sled's flush
//! followed by `fdatasync` of every file of the database.

use crate::spool::disk::{Disk, refusal};
use crate::spool::frame::split;
use crate::spool::guard::{Fault, Guard, LIMIT};
use crate::spool::{Sequence, SpoolError};
use rustix::fs::{FlockOperation, flock};
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// sled's page cache; its default is 1 GiB.
const CACHE: u64 = 8 * 1024 * 1024;

/// Frames of one commit share values of at most this size: a sled page holds up to 16 values, and pages from 128 KiB on move
/// into files of their own.
const VALUE: usize = 4 * 1024;

/// A key and its value.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

/// A sled database, open.
pub(crate) struct Database {
    folder: PathBuf,
    guard: Guard,
    /// Taken only by the end of this value.
    db: Option<sled::Db>,
    file: Option<File>,
    /// Files other than `db` that were synced since they appeared.
    synced: HashSet<OsString>,
    disk: Disk,
}

impl Database {
    /// Opens the database in this folder, or makes it; whatever was made is durable when this returns.
    pub(crate) fn open(folder: &Path, disk: &Disk) -> Result<Self, SpoolError> {
        let act = "open a database";
        disk.act(act, || fs::create_dir_all(folder))?;
        let mut guard = Guard::new(LIMIT).map_err(|fault| gave_up(act, fault))?;
        let config = sled::Config::new().path(folder).cache_capacity(CACHE).flush_every_ms(None);
        let db = guard.run(move || config.open()).map_err(|fault| gave_up(act, fault))?;
        let db = db.map_err(|error| engine(act, error))?;
        let file = disk.act(act, || File::open(folder.join("db")))?;
        let mut database = Self {
            folder: folder.into(),
            guard,
            db: Some(db),
            file: Some(file),
            synced: HashSet::new(),
            disk: disk.clone(),
        };
        database.sync("sync a new database")?;
        disk.sync_folder("sync the folder of a new database", folder)?;
        if let Some(parent) = folder.parent() {
            disk.sync_folder("sync the folder of a new database", parent)?;
        }
        Ok(database)
    }

    /// Writes and removes rows and hands them to the operating system: they survive the end of this process.
    pub(crate) fn write(&mut self, rows: Vec<Row>, gone: Vec<Vec<u8>>) -> Result<(), SpoolError> {
        let act = "write to a database";
        self.disk.act(act, || Ok(()))?;
        let db = self.engine(act)?;
        let written = self.guard.run(move || {
            let mut batch = sled::Batch::default();
            rows.into_iter().for_each(|(key, value)| batch.insert(key, value));
            gone.into_iter().for_each(|key| batch.remove(key));
            db.apply_batch(batch)?;
            db.flush().map(|_| ())
        });
        written.map_err(|fault| gave_up(act, fault))?.map_err(|error| engine(act, error))
    }

    /// Makes what was written survive a power cut. A failure is final for this database.
    pub(crate) fn sync(&mut self, act: &'static str) -> Result<(), SpoolError> {
        if let Some(file) = &self.file {
            self.disk.sync(act, file)?;
        }
        for path in files(&self.folder).map_err(|source| refusal(act, source))? {
            let name = path.strip_prefix(&self.folder).unwrap_or(&path).as_os_str();
            if name == "db" || self.synced.contains(name) {
                continue;
            }
            match File::open(&path) {
                Ok(file) => self.disk.sync(act, &file)?,
                // sled removes its old snapshots when it likes.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(refusal(act, error)),
            }
            self.synced.insert(name.into());
        }
        Ok(())
    }

    /// Every row, in the order of the keys.
    pub(crate) fn rows(&mut self) -> Result<Vec<Row>, SpoolError> {
        let act = "read a database";
        let db = self.engine(act)?;
        let rows = self.guard.run(move || {
            // An iterator that met damage repeats its error for ever, so the first one ends it.
            db.iter()
                .map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())))
                .collect::<Result<_, _>>()
        });
        rows.map_err(|fault| gave_up(act, fault))?.map_err(|error| engine(act, error))
    }

    /// The frames of these sequences, which must be in ascending order; `None` where there is none.
    pub(crate) fn frames(&mut self, wanted: Vec<Sequence>) -> Result<Vec<Option<Vec<u8>>>, SpoolError> {
        let act = "read records";
        let db = self.engine(act)?;
        let found = self.guard.run(move || {
            let mut value: Option<sled::IVec> = None;
            wanted
                .into_iter()
                .map(|sequence| {
                    if let Some(frame) = value.as_deref().and_then(|value| frame_in(value, sequence)) {
                        return Ok(Some(frame.to_vec()));
                    }
                    let up_to = ..=sequence.0.to_be_bytes();
                    value = db.range(up_to).next_back().transpose()?.map(|(_, value)| value);
                    Ok(value.as_deref().and_then(|value| frame_in(value, sequence)).map(<[u8]>::to_vec))
                })
                .collect::<sled::Result<Vec<_>>>()
        });
        found.map_err(|fault| gave_up(act, fault))?.map_err(|error| engine(act, error))
    }

    /// Writes everything out and lets go of the files.
    pub(crate) fn close(mut self) -> Result<(), SpoolError> {
        let act = "close a database";
        let db = self.engine(act)?;
        let flushed = self.guard.run(move || db.flush().map(|_| ()));
        flushed.map_err(|fault| gave_up(act, fault))?.map_err(|error| engine(act, error))?;
        self.sync(act)?;
        self.let_go().map_err(|fault| gave_up(act, fault))
    }

    /// Drops the engine and waits until its threads, which outlive it a little, have let go of the file.
    fn let_go(&mut self) -> Result<(), Fault> {
        let (db, file) = (self.db.take(), self.file.take());
        if db.is_none() {
            return Ok(());
        }
        self.guard.run(move || {
            drop(db);
            let _ = file.map(|file| flock(&file, FlockOperation::LockExclusive));
        })
    }

    /// Leaves the database as it is. Dropping it would write to its files, and sync them, once more.
    pub(crate) fn abandon(mut self) {
        std::mem::forget((self.db.take(), self.file.take()));
    }

    fn engine(&self, act: &'static str) -> Result<sled::Db, SpoolError> {
        self.db.clone().ok_or(SpoolError::Engine { act, why: "the store was given up" })
    }
}

impl Drop for Database {
    /// sled writes when it is dropped, and panics when it cannot.
    fn drop(&mut self) {
        let _ = self.let_go();
    }
}

/// Packs the frames of one commit into rows: the key of a row is the sequence of its first frame.
pub(crate) fn pack(first: Sequence, frames: &[Vec<u8>]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (sequence, frame) in (first.0..).zip(frames) {
        match rows.last_mut() {
            Some((_, value)) if value.len() + frame.len() <= VALUE => value.extend_from_slice(frame),
            _ => rows.push((sequence.to_be_bytes().to_vec(), frame.clone())),
        }
    }
    rows
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

/// All files under a folder, in a fixed order.
pub(crate) fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())?),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found.sort();
    Ok(found)
}

fn gave_up(act: &'static str, fault: Fault) -> SpoolError {
    SpoolError::Engine { act, why: fault.why() }
}

fn engine(act: &'static str, error: sled::Error) -> SpoolError {
    match error {
        sled::Error::Io(source) => refusal(act, source),
        sled::Error::Corruption { .. } => SpoolError::Engine { act, why: "the store is damaged" },
        _ => SpoolError::Engine { act, why: "the store engine refuses" },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::StoreId;
    use crate::spool::frame::{Opener, Sealer};
    use crate::spool::testing::{Keys, record};
    use std::sync::{Arc, Mutex};

    fn frames(keys: &Arc<Keys>, first: u64, count: u64) -> Vec<Vec<u8>> {
        let mut sealer = Sealer::new(StoreId([1; 16]), [2; 32], keys.clone());
        (first..first + count).map(|n| sealer.seal(Sequence(n), &record(n)).unwrap()).collect()
    }

    #[test]
    fn frames_of_one_commit_share_values_and_are_found_again_after_reopening() {
        let (home, keys) = (tempfile::tempdir().unwrap(), Arc::new(Keys::default()));
        let mut volume = Database::open(&home.path().join("v"), &Disk::default()).unwrap();
        let written = frames(&keys, 10, 60);
        let rows = pack(Sequence(10), &written);
        assert!(rows.len() > 1 && rows.len() < 20, "{}", rows.len());
        volume.write(rows, Vec::new()).unwrap();
        volume.sync("sync records").unwrap();
        volume.close().unwrap();
        let mut volume = Database::open(&home.path().join("v"), &Disk::default()).unwrap();
        let wanted = [9, 10, 11, 40, 69, 70].map(Sequence);
        let found = volume.frames(wanted.to_vec()).unwrap();
        let present: Vec<_> = found.iter().map(Option::is_some).collect();
        assert_eq!(present, [false, true, true, true, true, false]);
        let opened = Opener::new(&*keys).open(found[3].as_ref().unwrap()).unwrap();
        assert_eq!((opened.sequence, opened.record), (Sequence(40), record(40)));
    }

    #[test]
    fn every_file_of_a_new_database_is_synced_before_it_is_used() {
        let home = tempfile::tempdir().unwrap();
        let acts = Arc::new(Mutex::new(Vec::new()));
        let noted = acts.clone();
        let faults = Arc::new(move |act| {
            noted.lock().unwrap().push(act);
            None
        });
        let disk = Disk::new(Some(faults), crate::disk::Disk::default());
        Database::open(&home.path().join("v"), &disk).unwrap();
        let acts = acts.lock().unwrap();
        let syncs = acts.iter().filter(|act| **act == "sync a new database").count();
        assert!(syncs >= files(&home.path().join("v")).unwrap().len(), "{acts:?}");
        assert_eq!(acts.iter().filter(|act| act.contains("folder")).count(), 2);
    }
}
