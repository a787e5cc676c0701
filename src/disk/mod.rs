//! The disk as we write to it ourselves: one place for the writes, syncs and renames of files that have to outlive a power cut, so
//! that a test can put a disk there that tears, forgets, refuses, lies and loses power.
//!
//! What sled writes does not come through here, and its folders are made, moved and removed whole by their own calls, which a
//! test can refuse by the name of the act (`spool/disk.rs`); their names are synced here. Nor do files that may go missing at any
//! time: the spool's reserve and its lists of treatments. Of what is read, only records are: after a power cut a test builds the folder
//! that the disk would show, and that is read like any other.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

pub(crate) mod reading;
#[cfg(test)]
pub(crate) mod simulated;

pub(crate) use reading::{read_at, read_exact_at};

/// The disk. A copy of it is the same disk.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    #[cfg(test)]
    simulated: Option<std::sync::Arc<simulated::Simulated>>,
}

/// What becomes of what a file held before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// There must be no such file.
    New,
    /// It is emptied; a missing file is made.
    Emptied,
    /// It is kept and every write goes to its end; a missing file is made.
    Appended,
    /// It is kept and written in place; a missing file is an error.
    Kept,
}

/// A file that we write. It is readable and writable by its owner alone.
#[derive(Debug)]
pub(crate) struct Written {
    file: File,
    #[cfg(test)]
    simulated: Option<simulated::Handle>,
}

impl Disk {
    /// Opens a file to write to it.
    pub(crate) fn open(&self, path: &Path, start: Start) -> io::Result<Written> {
        let mut options = OpenOptions::new();
        options.mode(0o600);
        match start {
            Start::New => options.write(true).create_new(true),
            Start::Emptied => options.write(true).create(true).truncate(true),
            Start::Appended => options.read(true).append(true).create(true),
            Start::Kept => options.write(true),
        };
        #[cfg(test)]
        if let Some(disk) = &self.simulated {
            let (file, handle) = simulated::open(disk, path, start, &options)?;
            return Ok(Written { file, simulated: Some(handle) });
        }
        Ok(Written {
            file: options.open(path)?,
            #[cfg(test)]
            simulated: None,
        })
    }

    /// Gives a file another name, in place of whatever had it. Durable once the folder is synced.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        #[cfg(test)]
        if let Some(disk) = &self.simulated {
            return disk.rename(from, to);
        }
        fs::rename(from, to)
    }

    /// Gives a file a second name. Durable once the folder is synced.
    pub(crate) fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        #[cfg(test)]
        if let Some(disk) = &self.simulated {
            return disk.link(from, to);
        }
        fs::hard_link(from, to)
    }

    /// Removes a file, if it is there. Durable once the folder is synced.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        #[cfg(test)]
        if let Some(disk) = &self.simulated {
            return disk.remove(path);
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Makes creations, renames and removals in a folder durable.
    pub(crate) fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        #[cfg(test)]
        if let Some(disk) = &self.simulated {
            return disk.sync_folder(folder);
        }
        File::open(folder)?.sync_all()
    }

    /// Replaces a small file in one step: whoever reads it later finds the old bytes or the new ones, and the new ones for certain
    /// once this has returned well. The draft beside it is called `draft`.
    pub(crate) fn replace(&self, path: &Path, draft: &Path, bytes: &[u8]) -> io::Result<()> {
        self.write_new(draft, bytes)?;
        self.rename(draft, path)?;
        self.sync_folder(folder_of(path))
    }

    /// A file with these bytes, in place of any that a crash left under this name. The bytes are durable when this returns, the name
    /// is once the folder is synced.
    pub(crate) fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.remove(path)?;
        let mut file = self.open(path, Start::New)?;
        file.set_permissions(0o600)?;
        file.write_all(bytes)?;
        file.sync()
    }

    /// An act that is not written by us (sled's, mostly): a simulated disk can refuse it, and knows nothing else of it.
    pub(crate) fn pass(&self, _act: &'static str) -> io::Result<()> {
        #[cfg(test)]
        if let Some(disk) = &self.simulated {
            return disk.pass(_act);
        }
        Ok(())
    }
}

/// The folder that a file's name stands in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Written {
    /// The open file, to lock or to read it.
    pub(crate) const fn file(&self) -> &File {
        &self.file
    }

    /// Writes all of it at this offset.
    pub(crate) fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = bytes.get(written..).unwrap_or_default();
                    offset += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        #[cfg(test)]
        if let Some(simulated) = &self.simulated {
            return simulated.write_at(&self.file, bytes, offset);
        }
        self.file.write_at(bytes, offset)
    }

    /// Makes the file this long; what is new in it reads as zeros.
    pub(crate) fn set_length(&self, length: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some(simulated) = &self.simulated {
            return simulated.set_length(&self.file, length);
        }
        self.file.set_len(length)
    }

    /// Takes the blocks of the first `length` bytes, so that writing there cannot run out of space later. A file system that
    /// cannot do this is asked for nothing.
    pub(crate) fn reserve(&self, length: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some(simulated) = &self.simulated {
            simulated.reserve(&self.file, length)?;
        }
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, length) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(crate) fn set_permissions(&self, mode: u32) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(mode))
    }

    /// `fdatasync`. Its failure is final for this file: what it then holds on the device is unknown, and asking again would not tell.
    pub(crate) fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(simulated) = &self.simulated {
            return simulated.sync(&self.file);
        }
        self.file.sync_data()
    }
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        #[cfg(test)]
        if let Some(simulated) = &self.simulated {
            return simulated.append(&mut self.file, bytes);
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
