//! One process holds the spool: a lock on its folder, which leaves no trace in it.

use crate::spool::SpoolError;
use crate::spool::disk::refusal;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::Path;

/// Held as long as it lives; the kernel lets go when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _folder: File,
}

impl Lock {
    /// Takes the lock, or says at once that another process has it.
    pub(crate) fn take(folder: &Path) -> Result<Self, SpoolError> {
        let act = "lock the folder";
        let file = File::open(folder).map_err(|source| refusal(act, source))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _folder: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(SpoolError::Busy(folder.into())),
            Err(errno) => Err(refusal(act, errno.into())),
        }
    }
}
