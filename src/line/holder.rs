//! Who holds a port: looked up only to make the error about a busy port useful.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The program and process that has `port` open, as far as `/proc` lets us see it: `minicom, process 4711`.
pub(super) fn holder(port: &Path) -> Option<String> {
    let device = fs::metadata(port).ok()?.rdev();
    let own = std::process::id();
    fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .find(|process| holds(*process, device))
        .map(|process| {
            let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
            let name = if process == own { "this gateway itself, for another chair" } else { name.trim() };
            format!("{name}, process {process}")
        })
}

fn holds(process: u32, device: u64) -> bool {
    // Descriptors of other users' processes cannot be read without root; then nobody is named.
    let Ok(open) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    open.flatten().any(|descriptor| {
        fs::metadata(descriptor.path()).is_ok_and(|found| found.rdev() == device && device != 0)
    })
}
