//! A file system that a test can fill.

use std::fs;
use std::path::Path;

/// A file system of its own, or `None` with a sentence why where this process may not mount one.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub(crate) fn new(megabytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "none"])
            .arg(folder.path())
            .output();
        if mount.is_ok_and(|mount| mount.status.success()) {
            return Some(Self(folder));
        }
        assert!(
            std::env::var_os("CHAIRSIDE_MUST_MOUNT").is_none(),
            "this test has to run here, and no file system can be mounted"
        );
        println!("skipped: only root may mount the small file system that this test fills");
        None
    }

    /// Its root.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Somebody else takes all that is left.
    pub(crate) fn fill(&self) {
        let mut file =
            fs::OpenOptions::new().append(true).create(true).open(self.path().join("else")).unwrap();
        while std::io::Write::write_all(&mut file, &[7; 65_536]).is_ok() {}
        while std::io::Write::write_all(&mut file, &[7; 512]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
