//! One small sled database in a folder of its own, guarded, and durable because its files are synced by us.
//!
//! sled's own flush ends in `sync_file_range`, which leaves the data in the cache of the device. So a write here is sled's flush
//! followed by `fdatasync` of every file of the database.

use crate::spool::disk::{Disk, refusal};
use crate::spool::guard::{Fault, Guard, LIMIT};
use crate::spool::{Sequence, SpoolError};
use rustix::fs::{FlockOperation, flock};
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// sled's page cache; its default is 1 GiB.
const CACHE: u64 = 8 * 1024 * 1024;

/// Frames of one commit share values of at most this size: a sled page may hold 16 rows, 7 of them with frames, and pages from
/// 128 KiB on move into files of their own.
const VALUE: usize = 8 * 1024;

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
        self.run(act, move |db| {
            let mut batch = sled::Batch::default();
            rows.into_iter().for_each(|(key, value)| batch.insert(key, value));
            gone.into_iter().for_each(|key| batch.remove(key));
            db.apply_batch(batch)?;
            db.flush().map(|_| ())
        })
    }

    /// As [`Self::sync`], for a database whose pages stay below 128 KiB: all that is written to it after its opening is in its log.
    pub(crate) fn sync_log(&mut self, act: &'static str) -> Result<(), SpoolError> {
        self.file.as_ref().map_or(Ok(()), |file| self.disk.sync(act, file))
    }

    /// Makes what was written survive a power cut. A failure is final for this database.
    pub(crate) fn sync(&mut self, act: &'static str) -> Result<(), SpoolError> {
        self.sync_log(act)?;
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

    /// Inserts rows under numbers, one by one in this order, and hands them to the operating system.
    pub(crate) fn insert(&mut self, rows: Vec<(u32, sled::IVec)>) -> Result<(), SpoolError> {
        let act = "write to a database";
        self.disk.act(act, || Ok(()))?;
        self.run(act, move |db| {
            for (key, value) in rows {
                db.insert(key.to_be_bytes(), value)?;
            }
            db.flush().map(|_| ())
        })
    }

    /// Every row, in the order of the keys.
    pub(crate) fn rows(&mut self) -> Result<Vec<Row>, SpoolError> {
        self.run("read a database", |db| {
            // An iterator that met damage repeats its error for ever, so the first one ends it.
            db.iter().map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
        })
    }

    /// Lets the engine work, guarded.
    pub(crate) fn run<T: Send + 'static>(
        &mut self,
        act: &'static str,
        work: impl FnOnce(&sled::Db) -> sled::Result<T> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let db = self.engine(act)?;
        let done = self.guard.run(move || work(&db)).map_err(|fault| gave_up(act, fault))?;
        done.map_err(|error| engine(act, error))
    }

    /// Writes everything out and lets go of the files.
    pub(crate) fn close(mut self) -> Result<(), SpoolError> {
        let act = "close a database";
        self.run(act, |db| db.flush().map(|_| ()))?;
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

/// The frames of one commit as rows, each known by the sequence of its first frame.
pub(crate) struct Packing {
    rows: Vec<(Sequence, Vec<u8>)>,
    /// Frames that may come.
    expected: usize,
}

/// Most frames are smaller; a buffer grows for those that are not.
const USUAL: usize = 512;

impl Packing {
    /// Rows of about so many frames.
    pub(crate) const fn new(frames: usize) -> Self {
        Self { rows: Vec::new(), expected: frames }
    }

    /// Takes the frame that `write` appends to a row into the last row, or into a new one where it does not fit.
    pub(crate) fn add<E>(
        &mut self,
        sequence: Sequence,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let room = self.expected.saturating_mul(USUAL).min(VALUE + USUAL);
        self.expected = self.expected.saturating_sub(1);
        let Some((_, row)) = self.rows.last_mut() else {
            let mut row = Vec::with_capacity(room);
            write(&mut row)?;
            self.rows.push((sequence, row));
            return Ok(());
        };
        let before = row.len();
        write(row)?;
        if row.len() > VALUE {
            let mut next = Vec::with_capacity(room);
            next.extend_from_slice(row.get(before..).unwrap_or_default());
            row.truncate(before);
            self.rows.push((sequence, next));
        }
        Ok(())
    }

    /// Bytes of all frames.
    pub(crate) fn bytes(&self) -> u64 {
        self.rows.iter().map(|(_, row)| row.len() as u64).sum()
    }

    /// The rows, ready for the engine: a copy of one is the same bytes.
    pub(crate) fn rows(self) -> Vec<(Sequence, sled::IVec)> {
        self.rows.into_iter().map(|(first, row)| (first, row.into())).collect()
    }
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
    use std::sync::{Arc, Mutex};

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
