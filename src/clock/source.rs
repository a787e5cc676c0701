//! Whether something has set the wall clock since the computer started.
//!
//! A box without a battery does not start in 1970 where its system remembers the last time it ran: it starts then, which
//! looks right and is wrong by as long as it was off. Only what set the clock can tell: a clock on a battery, a time
//! service, or a person who sets it forward by hand. Where none of them leaves a trace, a clock that was further on at the
//! start of the computer than anything this computer remembers knows it from elsewhere; one that was not may only go on
//! where it stopped, and waits for a trace, or for the word of the configuration.

use super::STEP;
use crate::model::time::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between the last word that a computer remembers and its end. A clock that was no further on than this when the computer
/// started says nothing of the time it was off.
const GOING_DOWN: Duration = Duration::from_secs(10 * 60);

/// A clock on a battery that is further behind than any time zone was not running.
const LOCAL_TIME: Duration = Duration::from_secs(26 * 60 * 60);

/// Systems without a battery keep their last time in one of these.
const LAST_TIMES: [&str; 3] =
    ["etc/fake-hwclock.data", "var/lib/systemd/timesync/clock", "var/lib/misc/openrc-shutdowntime"];

/// Time services that follow a server write one of these every hour or so, and never without a server.
const DRIFTS: [&str; 5] = [
    "var/lib/chrony/chrony.drift",
    "var/lib/chrony/drift",
    "var/lib/ntpsec/ntp.drift",
    "var/lib/ntp/ntp.drift",
    "var/lib/ntp/drift",
];

/// What sets the wall clock.
#[derive(Debug)]
pub(super) enum TimeSource {
    /// It is set: by a clock on a battery, by whoever answers for it, or from elsewhere before we came.
    Set,
    /// Nothing is known to have set it yet.
    Awaited(Awaited),
}

/// What tells that the clock was set.
#[derive(Debug)]
pub(super) struct Awaited {
    /// systemd's time service makes it then.
    made_when_set: PathBuf,
    /// Other time services write them then, later than this.
    drifts: Vec<PathBuf>,
    written_after: Timestamp,
    /// It was set once, and nothing takes that back.
    is_set: AtomicBool,
}

/// What is known of a computer before its clock is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// When it started, by its clock as it is now.
    pub(super) at: Timestamp,
    /// When a run of before was last alive.
    pub(super) last_alive: Option<Timestamp>,
}

impl TimeSource {
    /// The one of the computer whose files are under `root`.
    pub(super) fn of_computer(root: &Path, start: Start) -> Self {
        if has_battery(&root.join("sys/class/rtc"), start.last_alive) {
            return Self::Set;
        }
        let service = root.join("run/systemd/timesync");
        let remembered = LAST_TIMES.iter().filter_map(|file| written(&root.join(file)));
        // What was written since the start says nothing of the life before.
        let remembered = remembered.filter(|at| *at <= start.at.after(GOING_DOWN));
        let last = remembered.chain(start.last_alive).max();
        let goes_on = last.is_some_and(|last| start.at <= last.after(GOING_DOWN));
        if !service.is_dir() && !goes_on {
            return Self::Set;
        }
        Self::Awaited(Awaited {
            made_when_set: service.join("synchronized"),
            drifts: DRIFTS.iter().map(|file| root.join(file)).collect(),
            written_after: start.at.after(GOING_DOWN),
            is_set: AtomicBool::new(false),
        })
    }

    /// Whether the clock is set, as far as anybody knows. A clock that shows more than the `expected` was set by somebody.
    pub(super) fn is_set(&self, expected: Timestamp, now: Timestamp) -> bool {
        let Self::Awaited(awaited) = self else { return true };
        if !awaited.is_set.load(Ordering::Relaxed) && (now > expected.after(STEP) || awaited.has_come()) {
            awaited.is_set.store(true, Ordering::Relaxed);
        }
        awaited.is_set.load(Ordering::Relaxed)
    }
}

impl Awaited {
    fn has_come(&self) -> bool {
        let follows = |drift: &PathBuf| written(drift).is_some_and(|at| at > self.written_after);
        self.made_when_set.exists() || self.drifts.iter().any(follows)
    }
}

/// Whether the kernel set the wall clock from one that runs on a battery, and that battery is not dead.
fn has_battery(clocks: &Path, last_alive: Option<Timestamp>) -> bool {
    let Ok(clocks) = std::fs::read_dir(clocks) else { return false };
    let says = |clock: &Path, what: &str| {
        std::fs::read_to_string(clock.join(what)).ok().map(|said| said.trim().to_owned())
    };
    let runs = |clock: &Path| {
        let shown = says(clock, "since_epoch").and_then(|seconds| seconds.parse::<u64>().ok());
        let shown = shown.map(|seconds| Timestamp::from_micros(0).after(Duration::from_secs(seconds)));
        let earliest = last_alive.unwrap_or(super::BUILD_FLOOR);
        shown.is_none_or(|shown| shown.after(LOCAL_TIME) >= earliest)
    };
    let mut clocks = clocks.flatten().map(|clock| clock.path());
    clocks.any(|clock| says(&clock, "hctosys").is_some_and(|set_it| set_it == "1") && runs(&clock))
}

/// When a file was last written, by the clock of then.
fn written(file: &Path) -> Option<Timestamp> {
    let at = std::fs::metadata(file).ok()?.modified().ok()?;
    let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Timestamp::from_micros(0).after(since))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::time::UNIX_EPOCH;

    const NOON: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);
    const MINUTE: Duration = Duration::from_secs(60);

    /// A computer with some files, each with the seconds since NOON at which it was written.
    fn computer(files: &[(&str, &str, i64)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        files.iter().for_each(|(file, text, written)| write(&root, file, text, *written));
        root
    }

    fn write(root: &tempfile::TempDir, file: &str, text: &str, written: i64) {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        let at = u64::try_from(NOON.as_micros() / 1_000_000 + written).unwrap();
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(UNIX_EPOCH + Duration::from_secs(at))
            .unwrap();
    }

    /// Its source, where it started at noon by its clock.
    fn source(root: &tempfile::TempDir, last_alive: Option<Timestamp>) -> TimeSource {
        TimeSource::of_computer(root.path(), Start { at: NOON, last_alive })
    }

    fn is_set(source: &TimeSource) -> bool {
        source.is_set(NOON, NOON)
    }

    const SERVICE: (&str, &str, i64) = ("run/systemd/timesync/other", "", 0);

    #[test]
    fn a_clock_set_forward_by_hand_waits_for_no_time_service() {
        let source = source(&computer(&[SERVICE]), None);
        assert!(!source.is_set(NOON, NOON.after(STEP)), "steered");
        assert!(!source.is_set(NOON.after(2 * STEP), NOON), "set back");
        assert!(source.is_set(NOON, NOON.after(2 * STEP)));
        assert!(source.is_set(NOON, NOON), "what is set stays set");
    }

    #[test]
    fn a_computer_without_battery_waits_for_its_time_service() {
        let root = computer(&[SERVICE]);
        let source = source(&root, None);
        assert!(!is_set(&source));
        write(&root, "run/systemd/timesync/synchronized", "", 0);
        assert!(is_set(&source));
        fs::remove_file(root.path().join("run/systemd/timesync/synchronized")).unwrap();
        assert!(is_set(&source), "what is set stays set");
    }

    #[test]
    fn a_clock_that_only_goes_on_where_it_stopped_is_not_set() {
        let root = computer(&[]);
        let last = |minutes: i64| Some(NOON.shifted(minutes * 60_000_000));
        assert!(is_set(&source(&root, None)), "a computer that remembers nothing");
        assert!(is_set(&source(&root, last(-60))), "it knows of an hour that it was off");
        for minutes in [-10, -1, 0, 30] {
            let source = source(&root, last(minutes));
            assert!(!is_set(&source), "{minutes}");
            assert!(source.is_set(NOON, NOON.after(MINUTE)), "set by hand");
        }
    }

    #[test]
    fn what_the_system_kept_of_the_time_counts_where_the_gateway_was_stopped_long_before() {
        let stopped = Some(NOON.shifted(-3_600_000_000));
        for file in LAST_TIMES {
            assert!(!is_set(&source(&computer(&[(file, "", -5)]), stopped)), "{file}");
            assert!(is_set(&source(&computer(&[(file, "", -3600)]), stopped)), "{file}");
        }
        let later = computer(&[(LAST_TIMES[0], "", 3600)]);
        assert!(is_set(&source(&later, stopped)), "written since the start");
    }

    #[test]
    fn a_time_service_that_follows_a_server_is_seen_by_what_it_writes() {
        for file in DRIFTS {
            let root = computer(&[(file, "", -1)]);
            let source = source(&root, Some(NOON));
            assert!(!is_set(&source), "{file} of the life before");
            write(&root, file, "", 3600);
            assert!(is_set(&source), "{file}");
        }
    }

    #[test]
    fn a_battery_needs_no_time_service() {
        let root = computer(&[SERVICE, ("sys/class/rtc/rtc0/hctosys", "0\n", 0)]);
        assert!(!is_set(&source(&root, Some(NOON))), "it was not asked when the computer started");
        write(&root, "sys/class/rtc/rtc0/hctosys", "1\n", 0);
        assert!(is_set(&source(&root, Some(NOON))));
        write(&root, "sys/class/rtc/rtc0/since_epoch", "1799990000\n", 0);
        assert!(is_set(&source(&root, Some(NOON))), "it shows the ward's own time");
    }

    #[test]
    fn a_dead_battery_sets_nothing() {
        let root = computer(&[
            ("sys/class/rtc/rtc0/hctosys", "1\n", 0),
            ("sys/class/rtc/rtc0/since_epoch", "946684800\n", 0),
        ]);
        assert!(!is_set(&source(&root, Some(NOON))));
    }
}
