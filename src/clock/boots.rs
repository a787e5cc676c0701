//! Which boot of the computer a tick is of, and what time it was then.
//!
//! A tick is the time since the computer started, above a number of its boot. So it means the same to every run of the
//! gateway, and a record of a clock that was not to be trusted can be given the right time once a trusted clock meets the
//! monotonic one. Where the computer is restarted before that, the record lies between the last time known before that boot
//! and the start of the first boot that was told the time.
//!
//! One line a boot in a file of the state directory: its number, the kernel's id of it, the earliest it can have begun, and
//! where they are known when it began and by when it was over; microseconds since 1970, `-` for what is not known.

use crate::disk::Disk;
use crate::model::time::{Timestamp, TrueTime};
use chairside_drivers::kit::time::Tick;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

/// Ticks of one boot: 8.9 years of microseconds.
const TICKS: u32 = 48;
/// So many boots are remembered; what the spool still has of an earlier one lies somewhere between the earliest of all and
/// the first that is remembered.
const REMEMBERED: usize = 256;
/// A longer file is not ours.
const MAX_BYTES: u64 = 64 * 1024;

/// The boots that are remembered; the last one is this one.
#[derive(Debug)]
pub(super) struct Boots {
    file: PathBuf,
    disk: Disk,
    /// The earliest of all that can be.
    earliest: Timestamp,
    known: VecDeque<Boot>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Boot {
    number: u16,
    id: String,
    /// The earliest it can have begun.
    floor: Timestamp,
    /// When it began.
    began: Option<Timestamp>,
    /// By when it was over.
    over: Option<Timestamp>,
}

impl Boots {
    /// Reads what runs before left, and adds this boot where it is another one. A missing or damaged file means that no
    /// earlier boot is known.
    pub(super) fn load(disk: Disk, state_dir: &Path, id: &str, floor: Timestamp) -> Self {
        let file = state_dir.join("boots");
        let is_small = std::fs::metadata(&file).is_ok_and(|meta| meta.len() <= MAX_BYTES);
        let text = if is_small { std::fs::read_to_string(&file).unwrap_or_default() } else { String::new() };
        let mut known: VecDeque<Boot> = text.lines().filter_map(Boot::read).collect();
        let is_same = |boot: &Boot| !id.is_empty() && boot.id == id;
        if !known.back().is_some_and(is_same) {
            // After a lost file no number may mean a boot of before, so counting begins anywhere.
            let first = || RandomState::new().hash_one(id) as u16;
            let number = known.back().map_or_else(first, |last| last.number.wrapping_add(1));
            let id = id.split_whitespace().next().unwrap_or("-").to_owned();
            known.push_back(Boot { number, id, floor, began: None, over: None });
        }
        let mut boots = Self { file, disk, earliest: super::BUILD_FLOOR, known };
        // Its records may outlive this run, and the next one has to know of which boot they are.
        if let Err(refusal) = boots.save(boots.known.clone()) {
            tracing::warn!(error = %refusal, "write down the boot; records of an untrusted clock may get no exact time");
        }
        boots
    }

    /// The tick at which this boot began.
    pub(super) fn begin(&self) -> Tick {
        Tick::from_micros(self.known.back().map_or(0, |boot| u64::from(boot.number)) << TICKS)
    }

    /// Whether a trusted clock was met in this boot.
    pub(super) fn is_met(&self) -> bool {
        self.known.back().is_some_and(|boot| boot.began.is_some())
    }

    /// What time it was at this tick. Nothing is known before the clock of this boot is trusted.
    pub(super) fn true_time(&self, tick: Tick) -> TrueTime {
        let Some(this) = self.known.back().and_then(|boot| boot.began) else { return TrueTime::Unknown };
        let number = tick.as_micros() >> TICKS;
        let after = i64::try_from(tick.as_micros() & ((1 << TICKS) - 1)).unwrap_or(i64::MAX);
        let Some(boot) = self.known.iter().rfind(|boot| u64::from(boot.number) == number) else {
            return TrueTime::Between { from: self.earliest, until: this };
        };
        if let Some(began) = boot.began {
            return TrueTime::At(began.shifted(after));
        }
        let until = boot.over.unwrap_or(this);
        TrueTime::Between { from: boot.floor.shifted(after).min(until), until }
    }

    /// A trusted clock showed `now` at this tick of this boot: writes down when it began, if that is not known yet.
    pub(super) fn meet(&mut self, tick: Tick, now: Timestamp) -> io::Result<()> {
        let since = tick.since(self.begin());
        let began = now.shifted(-i64::try_from(since.as_micros()).unwrap_or(i64::MAX));
        let mut known = self.known.clone();
        match known.back_mut() {
            Some(boot) if boot.began.is_none() => boot.began = Some(began),
            _ => return Ok(()),
        }
        for boot in &mut known {
            if boot.began.is_none() {
                boot.over.get_or_insert(began);
            }
        }
        self.save(known)
    }

    /// What is told to anybody is durable before.
    fn save(&mut self, mut known: VecDeque<Boot>) -> io::Result<()> {
        while known.len() > REMEMBERED {
            known.pop_front();
        }
        let mut text = String::new();
        for Boot { number, id, floor, began, over } in &known {
            let word =
                |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| at.as_micros().to_string());
            let (began, over) = (word(*began), word(*over));
            let _ = writeln!(text, "{number} {id} {} {began} {over}", floor.as_micros());
        }
        self.disk.replace(&self.file, &self.file.with_extension("next"), text.as_bytes())?;
        self.known = known;
        Ok(())
    }
}

impl Boot {
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let number = words.next()?.parse().ok()?;
        let id = words.next()?.to_owned();
        let floor = Timestamp::from_micros(words.next()?.parse().ok()?);
        let time = |word: &str| match word {
            "-" => Some(None),
            micros => Some(Some(Timestamp::from_micros(micros.parse().ok()?))),
        };
        let (began, over) = (time(words.next()?)?, time(words.next()?)?);
        words.next().is_none().then_some(Self { number, id, floor, began, over })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOON: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    fn load(dir: &Path, id: &str, floor: Timestamp) -> Boots {
        Boots::load(Disk::default(), dir, id, floor)
    }

    fn minutes(minutes: u64) -> Duration {
        Duration::from_secs(minutes * 60)
    }

    #[test]
    fn a_tick_from_before_the_clock_was_trusted_gets_its_time_once_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut boots = load(dir.path(), "a", NOON);
        let early = boots.begin().after(minutes(3));
        assert_eq!(boots.true_time(early), TrueTime::Unknown);
        let now = NOON.after(minutes(600));
        boots.meet(boots.begin().after(minutes(10)), now).unwrap();
        assert_eq!(boots.true_time(early), TrueTime::At(NOON.after(minutes(593))));
    }

    #[test]
    fn another_run_in_the_same_boot_knows_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let early = load(dir.path(), "a", NOON).begin().after(minutes(3));
        let mut later = load(dir.path(), "a", NOON);
        assert!(!later.is_met());
        later.meet(later.begin().after(minutes(10)), NOON.after(minutes(600))).unwrap();
        assert!(load(dir.path(), "a", NOON).is_met());
        let known = TrueTime::At(NOON.after(minutes(593)));
        assert_eq!(later.true_time(early), known);
        // The first meeting counts: the same record gets the same time at every retry.
        later.meet(later.begin().after(minutes(20)), NOON.after(minutes(900))).unwrap();
        assert_eq!((later.true_time(early), load(dir.path(), "a", NOON).true_time(early)), (known, known));
    }

    #[test]
    fn a_boot_that_was_never_told_the_time_lies_between_the_floor_and_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let lost = load(dir.path(), "a", NOON).begin().after(minutes(3));
        load(dir.path(), "b", NOON);
        let mut boots = load(dir.path(), "c", NOON);
        assert_eq!(boots.true_time(lost), TrueTime::Unknown, "nobody knows the time yet");
        boots.meet(boots.begin().after(minutes(10)), NOON.after(minutes(600))).unwrap();
        let between = TrueTime::Between { from: NOON.after(minutes(3)), until: NOON.after(minutes(590)) };
        assert_eq!(boots.true_time(lost), between);
        let mut next = load(dir.path(), "d", NOON.after(minutes(700)));
        next.meet(next.begin(), NOON.after(minutes(800))).unwrap();
        assert_eq!(next.true_time(lost), between);
    }

    #[test]
    fn a_lost_or_damaged_file_gives_no_boot_of_before_a_wrong_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = load(dir.path(), "a", NOON);
        first.meet(first.begin(), NOON).unwrap();
        for damage in ["", "0 x 1 -\n", "7 a b c d\nnothing\n"] {
            std::fs::write(dir.path().join("boots"), damage).unwrap();
            let mut boots = load(dir.path(), "z", NOON.after(minutes(60)));
            boots.meet(boots.begin(), NOON.after(minutes(60))).unwrap();
            let other = Tick::from_micros(boots.begin().as_micros().wrapping_add(5 << TICKS));
            let found = boots.true_time(other);
            assert!(
                matches!(found, TrueTime::Between { until, .. } if until == NOON.after(minutes(60))),
                "{found:?}"
            );
        }
    }

    #[test]
    fn ticks_of_two_boots_are_never_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let first = load(dir.path(), "a", NOON).begin();
        let second = load(dir.path(), "b", NOON).begin();
        assert_ne!(first, second);
        assert_eq!(load(dir.path(), "b", NOON).begin(), second);
    }

    #[test]
    fn only_the_last_boots_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        for boot in 0..REMEMBERED + 10 {
            load(dir.path(), &boot.to_string(), NOON);
        }
        let text = std::fs::read_to_string(dir.path().join("boots")).unwrap();
        assert_eq!(text.lines().count(), REMEMBERED);
    }
}
