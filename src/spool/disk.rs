//! What the spool does to files, by name, and what it means for the spool when that fails.

use crate::spool::SpoolError;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Says whether an act fails now, and how. The argument is the act's name.
pub type Faults = dyn Fn(&'static str) -> Option<io::Error> + Send + Sync;

/// The disk under the spool. What the spool writes itself goes to `own`; what sled writes can only be refused, by the name of
/// the act.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    faults: Option<Arc<Faults>>,
    own: crate::disk::Disk,
}

impl Disk {
    pub(crate) const fn new(faults: Option<Arc<Faults>>, own: crate::disk::Disk) -> Self {
        Self { faults, own }
    }

    /// For files that we write ourselves: manifest, keep volumes, what is salvaged.
    pub(crate) const fn own(&self) -> &crate::disk::Disk {
        &self.own
    }

    /// `fdatasync`. Its failure is final for this file: what the cache then holds is unknown.
    pub(crate) fn sync(&self, act: &'static str, file: &File) -> Result<(), SpoolError> {
        self.act(act, || file.sync_data())
    }

    /// Makes creations, renames and removals in a folder durable.
    pub(crate) fn sync_folder(&self, act: &'static str, folder: &Path) -> Result<(), SpoolError> {
        self.act(act, || self.own.sync_folder(folder))
    }

    /// Any other act on files.
    pub(crate) fn act<T>(
        &self,
        act: &'static str,
        work: impl FnOnce() -> io::Result<T>,
    ) -> Result<T, SpoolError> {
        match self.faults.as_ref().and_then(|faults| faults(act)) {
            Some(fault) => Err(refusal(act, fault)),
            None => self.own.pass(act).and_then(|()| work()).map_err(|source| refusal(act, source)),
        }
    }
}

/// What an error of the operating system means for the spool.
pub(crate) fn refusal(act: &'static str, source: io::Error) -> SpoolError {
    let not_permitted = source.kind() == io::ErrorKind::PermissionDenied;
    let source = Arc::new(source);
    if not_permitted { SpoolError::Permission { act, source } } else { SpoolError::Disk { act, source } }
}

/// Bytes that a file, or all files under a folder, take on disk. What vanishes meanwhile takes none.
pub(crate) fn used(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(about) = fs::symlink_metadata(path) else { return 0 };
    if !about.is_dir() {
        return about.blocks().saturating_mul(512);
    }
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries.flatten().map(|entry| used(&entry.path())).sum()
}

/// Bytes that we may still write to the file system of this folder.
pub(crate) fn free(folder: &Path) -> io::Result<u64> {
    let about = rustix::fs::statvfs(folder)?;
    Ok(about.f_bavail.saturating_mul(about.f_frsize))
}
