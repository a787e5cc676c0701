//! Whether something has set the wall clock since the computer started.
//!
//! A box without a battery does not start in 1970 where its system remembers the last time it ran: it starts then, which
//! looks right and is wrong by as long as it was off. Only what set the clock can tell. Where nobody can be asked, in a
//! container or under a time service that leaves no trace in files, the time floor alone decides.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// What sets the wall clock.
#[derive(Debug)]
pub(super) enum TimeSource {
    /// Nobody can be asked.
    Unknown,
    /// The clock of a battery set it when the computer started.
    Battery,
    /// A time service that has to set it first, and makes this file then.
    Service {
        made_when_set: PathBuf,
        /// It was there once, and nothing takes it back.
        is_set: AtomicBool,
    },
}

impl TimeSource {
    /// The one of the computer whose files are under `root`.
    pub(super) fn of_computer(root: &Path) -> Self {
        let service = root.join("run/systemd/timesync");
        if has_battery(&root.join("sys/class/rtc")) {
            Self::Battery
        } else if service.is_dir() {
            Self::Service { made_when_set: service.join("synchronized"), is_set: AtomicBool::new(false) }
        } else {
            Self::Unknown
        }
    }

    /// Whether the clock is set, as far as anybody knows.
    pub(super) fn is_set(&self) -> bool {
        match self {
            Self::Unknown | Self::Battery => true,
            Self::Service { made_when_set, is_set } => {
                if !is_set.load(Ordering::Relaxed) && made_when_set.exists() {
                    is_set.store(true, Ordering::Relaxed);
                }
                is_set.load(Ordering::Relaxed)
            }
        }
    }
}

/// Whether the kernel set the wall clock from one that runs on a battery.
fn has_battery(clocks: &Path) -> bool {
    let Ok(clocks) = std::fs::read_dir(clocks) else { return false };
    let set_it =
        |clock: PathBuf| std::fs::read_to_string(clock.join("hctosys")).is_ok_and(|it| it.trim() == "1");
    clocks.flatten().any(|clock| set_it(clock.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_computer_without_battery_waits_for_its_time_service() {
        let root = tempfile::tempdir().unwrap();
        let service = root.path().join("run/systemd/timesync");
        assert!(TimeSource::of_computer(root.path()).is_set(), "nobody to ask");

        std::fs::create_dir_all(&service).unwrap();
        let source = TimeSource::of_computer(root.path());
        assert!(!source.is_set());
        std::fs::write(service.join("synchronized"), b"").unwrap();
        assert!(source.is_set());
        std::fs::remove_file(service.join("synchronized")).unwrap();
        assert!(source.is_set(), "what is set stays set");
    }

    #[test]
    fn a_battery_needs_no_time_service() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("run/systemd/timesync")).unwrap();
        let clock = root.path().join("sys/class/rtc/rtc0");
        std::fs::create_dir_all(&clock).unwrap();
        std::fs::write(clock.join("hctosys"), b"0\n").unwrap();
        assert!(!TimeSource::of_computer(root.path()).is_set(), "it was not asked when the computer started");
        std::fs::write(clock.join("hctosys"), b"1\n").unwrap();
        assert!(TimeSource::of_computer(root.path()).is_set());
    }
}
