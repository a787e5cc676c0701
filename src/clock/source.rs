//! Whether something has set the wall clock since the computer started.
//!
//! A box without a battery does not start in 1970 where its system remembers the last time it ran: it starts then, which
//! looks right and is wrong by as long as it was off. Only what set the clock can tell: the time service, or a person who
//! sets it forward by hand. Where nobody can be asked, in a
//! container or under a time service that leaves no trace in files, the time floor alone decides.

use super::STEP;
use crate::model::time::Timestamp;
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

    /// Whether the clock is set, as far as anybody knows. A clock that shows more than the `expected` was set by somebody.
    pub(super) fn is_set(&self, expected: Timestamp, now: Timestamp) -> bool {
        match self {
            Self::Unknown | Self::Battery => true,
            Self::Service { made_when_set, is_set } => {
                if !is_set.load(Ordering::Relaxed) && (made_when_set.exists() || now > expected.after(STEP)) {
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

    const NOON: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    #[test]
    fn a_clock_set_forward_by_hand_waits_for_no_time_service() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("run/systemd/timesync")).unwrap();
        let source = TimeSource::of_computer(root.path());
        assert!(!source.is_set(NOON, NOON.after(STEP)), "steered");
        assert!(!source.is_set(NOON.after(2 * STEP), NOON), "set back");
        assert!(source.is_set(NOON, NOON.after(2 * STEP)));
        assert!(source.is_set(NOON, NOON), "what is set stays set");
    }

    #[test]
    fn a_computer_without_battery_waits_for_its_time_service() {
        let root = tempfile::tempdir().unwrap();
        let service = root.path().join("run/systemd/timesync");
        assert!(TimeSource::of_computer(root.path()).is_set(NOON, NOON), "nobody to ask");

        std::fs::create_dir_all(&service).unwrap();
        let source = TimeSource::of_computer(root.path());
        assert!(!source.is_set(NOON, NOON));
        std::fs::write(service.join("synchronized"), b"").unwrap();
        assert!(source.is_set(NOON, NOON));
        std::fs::remove_file(service.join("synchronized")).unwrap();
        assert!(source.is_set(NOON, NOON), "what is set stays set");
    }

    #[test]
    fn a_battery_needs_no_time_service() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("run/systemd/timesync")).unwrap();
        let clock = root.path().join("sys/class/rtc/rtc0");
        std::fs::create_dir_all(&clock).unwrap();
        std::fs::write(clock.join("hctosys"), b"0\n").unwrap();
        assert!(
            !TimeSource::of_computer(root.path()).is_set(NOON, NOON),
            "it was not asked when the computer started"
        );
        std::fs::write(clock.join("hctosys"), b"1\n").unwrap();
        assert!(TimeSource::of_computer(root.path()).is_set(NOON, NOON));
    }
}
