//! The only place that asks the operating system what time it is, and how far the answer can be trusted.

mod boots;
mod source;

use crate::disk::Disk;
use crate::model::time::{ClockStep, ClockTrust, Timestamp, TrueTime};
use boots::Boots;
use chairside_drivers::kit::time::Tick;
use source::{Start, TimeSource};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// No build of this program can have run before its compiler was out: 2026-04-01T00:00:00Z. A box without a battery starts in 1970.
pub const BUILD_FLOOR: Timestamp = Timestamp::from_micros(1_775_001_600_000_000);

/// A wall clock that differs from the monotonic one by more than this between two looks was set, not steered.
pub const STEP: Duration = Duration::from_secs(2);

/// Tells time. Everything else in the house takes time as an argument or asks one of these.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Monotonic time, for waiting and intervals. Follows tokio's clock, so paused tests own it.
    fn tick(&self) -> Tick;
    /// Wall-clock time and how far it can be trusted.
    fn now(&self) -> (Timestamp, ClockTrust);
    /// Whether two ticks are of one boot of the computer, so that the time between them is known.
    fn is_one_boot(&self, one: Tick, other: Tick) -> bool {
        boots::is_one_boot(one, other)
    }
    /// What time it was at this tick, of this run or of one before; for records of a clock that was not to be trusted.
    fn true_time(&self, _tick: Tick) -> TrueTime {
        TrueTime::Unknown
    }
    /// Writes down where the wall clock stands against the monotonic one, where that has changed.
    ///
    /// # Errors
    /// What the operating system said; to be tried again.
    fn keep(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The machine's own clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: tokio::time::Instant,
    /// The tick at which it was made.
    first: Tick,
    floor: Timestamp,
    /// What the wall clock showed when it was made.
    opened: Timestamp,
    source: TimeSource,
    boots: Option<Mutex<Boots>>,
}

impl SystemClock {
    /// A clock that trusts no wall time before `floor`, asks for no time source and remembers nothing.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
    pub fn new(floor: Timestamp) -> Self {
        let started = tokio::time::Instant::now();
        let opened = wall_clock();
        Self { started, first: Tick::ZERO, floor, opened, source: TimeSource::Set, boots: None }
    }

    /// The clock of a gateway with this state directory. Its ticks are of the computer's boot, so that they mean the same to
    /// the next run and a record's true time can be found later. Where somebody answers for the clock, it waits for nothing.
    #[must_use]
    pub fn open(state_dir: &Path, floor: &TimeFloor, is_answered_for: bool) -> Self {
        Self::open_on_computer(Path::new("/"), state_dir, floor, is_answered_for)
    }

    /// The clock of the computer whose files are under `root`.
    fn open_on_computer(root: &Path, state_dir: &Path, floor: &TimeFloor, is_answered_for: bool) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let mut boots = Boots::load(floor.disk.clone(), state_dir, boot.trim(), floor.earliest());
        let (plain, runs) = (Self::new(floor.earliest()), since_boot());
        let first = boots.begin().after(runs);
        let at = plain.opened.shifted(-i64::try_from(runs.as_micros()).unwrap_or(i64::MAX));
        // A person may have set it while nobody looked.
        let was_set = boots.look(first, plain.opened).unwrap_or(false);
        let source = if is_answered_for || was_set || boots.is_met() {
            TimeSource::Set
        } else {
            TimeSource::of_computer(root, Start { at, last_alive: floor.last_alive() })
        };
        Self { first, source, boots: Some(Mutex::new(boots)), ..plain }
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the monotonic clock")]
    fn tick(&self) -> Tick {
        self.first.after(tokio::time::Instant::now().duration_since(self.started))
    }

    fn now(&self) -> (Timestamp, ClockTrust) {
        let now = wall_clock();
        let ran = self.tick().since(self.first);
        let is_trusted = now >= self.floor && self.source.is_set(self.opened.after(ran), now);
        (now, if is_trusted { ClockTrust::Trusted } else { ClockTrust::Untrusted })
    }

    fn true_time(&self, tick: Tick) -> TrueTime {
        let Some(boots) = &self.boots else { return TrueTime::Unknown };
        boots.lock().unwrap_or_else(PoisonError::into_inner).true_time(tick)
    }

    fn keep(&self) -> io::Result<()> {
        let Some(boots) = &self.boots else { return Ok(()) };
        let ((now, trust), tick) = (self.now(), self.tick());
        let mut boots = boots.lock().unwrap_or_else(PoisonError::into_inner);
        boots.look(tick, now)?;
        if trust == ClockTrust::Trusted { boots.meet(tick, now) } else { Ok(()) }
    }
}

/// How long the computer has been running, sleep included, to a hundredth of a second; `/proc/uptime` says it.
fn since_boot() -> Duration {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split_whitespace().next().and_then(|word| word.parse().ok());
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default()
}

/// The wall clock as it stands, trusted or not: for log lines, which must not wait for trust.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub(crate) fn wall_clock() -> Timestamp {
    let micros = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
    };
    Timestamp::from_micros(micros)
}

/// A timestamp as people and logs read it, UTC with milliseconds.
#[must_use]
pub fn stamp(at: Timestamp) -> String {
    jiff::Timestamp::from_microsecond(at.as_micros())
        .map_or_else(|_| format!("{} us", at.as_micros()), |at| format!("{at:.3}"))
}

/// The earliest time it can be, kept in the state directory so that it survives a dead battery.
#[derive(Debug, Default)]
pub struct TimeFloor {
    file: PathBuf,
    disk: Disk,
    kept: Option<Timestamp>,
}

impl TimeFloor {
    /// Reads what an earlier run left in `state_dir`. A missing or damaged file means that only [`BUILD_FLOOR`] is known.
    #[must_use]
    pub fn load(state_dir: &Path) -> Self {
        Self::load_on(Disk::default(), state_dir)
    }

    /// Reads it on this disk.
    pub(crate) fn load_on(disk: Disk, state_dir: &Path) -> Self {
        let file = state_dir.join("time-floor");
        let kept = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        Self { file, disk, kept: kept.map(Timestamp::from_micros) }
    }

    /// The last time an earlier run was seen alive; `None` at the first start.
    #[must_use]
    pub const fn last_alive(&self) -> Option<Timestamp> {
        self.kept
    }

    /// The earliest time it can be now.
    #[must_use]
    pub fn earliest(&self) -> Timestamp {
        self.kept.map_or(BUILD_FLOOR, |kept| kept.max(BUILD_FLOOR))
    }

    /// Writes a trusted `now` down; a time before the floor leaves it as it is.
    ///
    /// # Errors
    /// What the operating system said; the old floor stays.
    pub fn raise(&mut self, now: Timestamp) -> io::Result<()> {
        if now < self.earliest() {
            return Ok(());
        }
        let next = self.file.with_extension("next");
        self.disk.replace(&self.file, &next, format!("{}\n", now.as_micros()).as_bytes())?;
        self.kept = Some(now);
        Ok(())
    }
}

/// Holds the wall clock against the monotonic one.
#[derive(Debug)]
pub struct StepWatch {
    seen: (Tick, Timestamp),
}

impl StepWatch {
    /// Starts from a first look at both clocks.
    #[must_use]
    pub const fn new(tick: Tick, now: Timestamp) -> Self {
        Self { seen: (tick, now) }
    }

    /// When it last looked.
    #[must_use]
    pub const fn last_look(&self) -> Tick {
        self.seen.0
    }

    /// A later look: says whether the wall clock jumped in between. A clock that is only steered never adds up, because
    /// each look starts anew. What was seen before the last look says nothing new.
    pub fn look(&mut self, tick: Tick, found: Timestamp) -> Option<ClockStep> {
        if tick < self.seen.0 {
            return None;
        }
        let expected = self.seen.1.after(tick.since(self.seen.0));
        self.seen = (tick, found);
        let apart = found.since(expected).max(expected.since(found));
        (apart > STEP).then_some(ClockStep { expected, found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::simulated::under_every_fault;

    const NOON: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    #[test]
    fn the_floor_rises_and_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut floor = TimeFloor::load(dir.path());
        assert_eq!((floor.last_alive(), floor.earliest()), (None, BUILD_FLOOR));
        floor.raise(NOON).unwrap();
        floor.raise(Timestamp::from_micros(0)).unwrap();
        let again = TimeFloor::load(dir.path());
        assert_eq!((again.last_alive(), again.earliest()), (Some(NOON), NOON));
    }

    #[test]
    fn a_damaged_floor_falls_back_to_the_build() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("time-floor"), [0xff, 0x00, b'7']).unwrap();
        assert_eq!(TimeFloor::load(dir.path()).earliest(), BUILD_FLOOR);
    }

    #[test]
    fn a_floor_that_was_raised_stays_raised_whatever_the_disk_does() {
        let noon = |hours: i64| Timestamp::from_micros(NOON.as_micros() + hours * 3_600_000_000);
        under_every_fault(
            20,
            |disk, home| {
                let mut floor = TimeFloor::load_on(disk.clone(), home);
                (1..=3).filter(|hours| floor.raise(noon(*hours)).is_ok()).last()
            },
            |home, raised| {
                let kept = TimeFloor::load(home).last_alive();
                assert!(kept.is_none_or(|kept| (1..=3).any(|hours| kept == noon(hours))), "{kept:?}");
                assert!(kept >= raised.map(noon), "{kept:?}");
            },
        );
    }

    #[tokio::test]
    async fn a_wall_clock_before_the_floor_is_not_trusted() {
        let ahead = wall_clock().after(Duration::from_secs(3600));
        assert_eq!(SystemClock::new(ahead).now().1, ClockTrust::Untrusted);
        assert_eq!(SystemClock::new(BUILD_FLOOR).now().1, ClockTrust::Trusted);
    }

    #[tokio::test]
    async fn a_clock_that_goes_on_where_the_last_run_stopped_is_not_trusted_unless_somebody_answers_for_it() {
        let (root, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut floor = TimeFloor::load(dir.path());
        // The computer went down a minute before it came up again, or its clock stood still meanwhile.
        floor
            .raise(wall_clock().shifted(-i64::try_from(since_boot().as_micros()).unwrap() - 60_000_000))
            .unwrap();
        let trust = |is_answered_for: bool| {
            let dir = tempfile::tempdir().unwrap();
            let clock = SystemClock::open_on_computer(root.path(), dir.path(), &floor, is_answered_for);
            clock.keep().unwrap();
            clock.now().1
        };
        assert_eq!((trust(false), trust(true)), (ClockTrust::Untrusted, ClockTrust::Trusted));
    }

    #[test]
    fn a_jump_is_a_step_in_both_directions_and_steering_is_none() {
        let mut watch = StepWatch::new(Tick::ZERO, NOON);
        let later = |seconds| Tick::ZERO.after(Duration::from_secs(seconds));
        assert_eq!(watch.look(later(60), NOON.after(Duration::from_millis(61_900))), None);
        assert_eq!(watch.look(later(120), NOON.after(Duration::from_millis(123_800))), None);
        let jumped = watch.look(later(180), NOON.after(Duration::from_secs(3600))).unwrap();
        assert_eq!(jumped.expected, NOON.after(Duration::from_millis(183_800)));
        assert_eq!(jumped.found, NOON.after(Duration::from_secs(3600)));
        assert!(watch.look(later(240), NOON).is_some());
    }

    #[test]
    fn a_stamp_is_utc_with_milliseconds() {
        assert_eq!(stamp(Timestamp::from_micros(1_775_001_600_123_456)), "2026-04-01T00:00:00.123Z");
    }
}
