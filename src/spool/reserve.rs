//! Space that is taken ahead of need: when others have filled the file system, giving it back lets alarms, the records of an
//! eviction and an orderly end still be written.

use crate::spool::disk::{Disk, free, used};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub(super) const NAME: &str = "reserve";

/// Enough for some copied volumes and a new one.
const BYTES: u64 = 16 * 1024 * 1024;

/// A small spool reserves no more than this part of what it may take.
const PART: u64 = 64;

/// Takes the space, if as much as that again stays free for everybody else. Whether it could be taken changes nothing now.
pub(super) fn hold(home: &Path, max_bytes: u64, left_free: u64, disk: &Disk) {
    let (path, bytes) = (home.join(NAME), BYTES.min(max_bytes / PART));
    if used(&path) >= bytes || free(home).map_or(true, |free| free < bytes.saturating_add(2 * left_free)) {
        return;
    }
    let taken = disk.act("reserve space", || {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
            // Without it a file would be an empty promise.
            Err(rustix::io::Errno::OPNOTSUPP) => fs::remove_file(&path),
            Err(errno) => Err(errno.into()),
            Ok(()) => file.sync_all(),
        }
    });
    if let Err(error) = taken {
        tracing::debug!(%error, "no space is reserved for a full disk");
    }
}

/// Less than this is left on a file system that others have filled.
const SHORT: u64 = 4 * 1024 * 1024;

/// Gives the space back where the file system is full, for what has to be written before the spool is open.
pub(crate) fn release_if_short(home: &Path) -> bool {
    free(home).is_ok_and(|free| free < SHORT) && release(home)
}

/// Gives the space back; whether there was any.
pub(crate) fn release(home: &Path) -> bool {
    let path = home.join(NAME);
    let there = used(&path) > 0;
    let removed = fs::remove_file(&path).is_ok();
    if there && removed {
        tracing::warn!("the file system is full; the space that the spool had reserved is given back");
    }
    there && removed
}
