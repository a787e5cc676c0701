//! Which boot of the computer a tick is of, and what time it was then.
//!
//! A tick is the time since the computer started, above a number of its boot. So it means the same to every run of the
//! gateway, and a record of a clock that was not to be trusted can be given the right time once a trusted clock meets the
//! monotonic one. Where the computer is restarted before that, the record lies between the last time known before that boot
//! and the start of the first boot that was told the time.
//!
//! One line a boot in a file of the state directory: its number, the kernel's id of it, the earliest it can have begun, and
//! where they are known when it began, by when it was over, and when it began by the clock as it was last seen, trusted or not;
//! microseconds since 1970, `-` for what is not known.

use super::STEP;
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
    /// When it began by the wall clock as it was last seen, trusted or not.
    seen: Option<Timestamp>,
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
            // No number may mean a boot of before: neither after the file was lost, nor after it was put back from a copy,
            // behind which other boots came.
            let is_known = |number: u16| known.iter().any(|boot| boot.number == number);
            let mut number = RandomState::new().hash_one(id) as u16;
            while is_known(number) {
                number = number.wrapping_add(1);
            }
            let id = id.split_whitespace().next().unwrap_or("-").to_owned();
            known.push_back(Boot { number, id, floor, began: None, over: None, seen: None });
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

    /// The wall clock, trusted or not, shows `now` at this tick of this boot; says whether somebody has set it forward since
    /// the last look, which may have been that of a run before.
    ///
    /// # Errors
    /// What the operating system said, where the look cannot be written down.
    pub(super) fn look(&mut self, tick: Tick, now: Timestamp) -> io::Result<bool> {
        let began = self.began(tick, now);
        let mut known = self.known.clone();
        let Some(boot) = known.back_mut() else { return Ok(false) };
        let before = boot.seen.replace(began);
        if before.is_none_or(|before| is_set(before, began)) {
            self.save(known)?;
        }
        Ok(before.is_some_and(|before| began > before.after(STEP)))
    }

    /// A trusted clock shows `now` at this tick of this boot: writes down when it began, if that is not known yet, or if the
    /// clock was set since. Whoever sets a trusted clock again knows better.
    pub(super) fn meet(&mut self, tick: Tick, now: Timestamp) -> io::Result<()> {
        let began = self.began(tick, now);
        let mut known = self.known.clone();
        let Some(boot) = known.back_mut() else { return Ok(()) };
        if boot.began.is_some_and(|before| !is_set(before, began)) {
            return Ok(());
        }
        let before = boot.began.replace(began);
        for boot in &mut known {
            if boot.began.is_none() && (boot.over.is_none() || boot.over == before) {
                boot.over = Some(began);
            }
        }
        self.save(known)
    }

    fn began(&self, tick: Tick, now: Timestamp) -> Timestamp {
        now.shifted(-i64::try_from(tick.since(self.begin()).as_micros()).unwrap_or(i64::MAX))
    }

    /// What is told to anybody is durable before.
    fn save(&mut self, mut known: VecDeque<Boot>) -> io::Result<()> {
        while known.len() > REMEMBERED {
            known.pop_front();
        }
        let mut text = String::new();
        for Boot { number, id, floor, began, over, seen } in &known {
            let word =
                |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| at.as_micros().to_string());
            let (began, over, seen) = (word(*began), word(*over), word(*seen));
            let _ = writeln!(text, "{number} {id} {} {began} {over} {seen}", floor.as_micros());
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
        let (began, over, seen) = (time(words.next()?)?, time(words.next()?)?, time(words.next()?)?);
        words.next().is_none().then_some(Self { number, id, floor, began, over, seen })
    }
}

/// Whether the clock was set between two looks that say when the boot began; both clocks are steered alike.
fn is_set(before: Timestamp, now: Timestamp) -> bool {
    now.since(before).max(before.since(now)) > STEP
}

/// Whether two ticks are of one boot, so that the time between them is known.
pub(super) const fn is_one_boot(one: Tick, other: Tick) -> bool {
    one.as_micros() >> TICKS == other.as_micros() >> TICKS
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
        // A clock that is only steered changes nothing: the same record gets the same time at every retry.
        later.meet(later.begin().after(minutes(20)), NOON.after(minutes(610)).after(STEP)).unwrap();
        assert_eq!((later.true_time(early), load(dir.path(), "a", NOON).true_time(early)), (known, known));
    }

    #[test]
    fn a_trusted_clock_that_is_set_again_mends_the_times_of_this_boot_and_of_those_before() {
        let dir = tempfile::tempdir().unwrap();
        let lost = load(dir.path(), "a", NOON).begin().after(minutes(3));
        let mut boots = load(dir.path(), "b", NOON);
        let early = boots.begin().after(minutes(3));
        boots.meet(boots.begin().after(minutes(10)), NOON.after(minutes(20))).unwrap();
        assert_eq!(boots.true_time(early), TrueTime::At(NOON.after(minutes(13))));
        boots.meet(boots.begin().after(minutes(20)), NOON.after(minutes(620))).unwrap();
        for boots in [&boots, &load(dir.path(), "b", NOON)] {
            assert_eq!(boots.true_time(early), TrueTime::At(NOON.after(minutes(603))));
            let between = TrueTime::Between { from: NOON.after(minutes(3)), until: NOON.after(minutes(600)) };
            assert_eq!(boots.true_time(lost), between);
        }
    }

    #[test]
    fn a_clock_set_forward_between_two_runs_of_one_boot_is_noticed_once() {
        let dir = tempfile::tempdir().unwrap();
        let look = |id: &str, at: u64, shown: u64| {
            let mut boots = load(dir.path(), id, NOON);
            boots.look(boots.begin().after(minutes(at)), NOON.after(minutes(shown))).unwrap()
        };
        assert!(!look("a", 1, 1), "the first look");
        assert!(!look("a", 30, 30));
        assert!(look("a", 40, 100));
        assert!(!look("a", 50, 110));
        assert!(!look("a", 60, 60), "set back");
        assert!(!look("b", 1, 500), "nothing is known of the time between two boots");
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
    fn two_boots_that_follow_the_same_copy_have_ticks_of_their_own() {
        let begin = |id: &str| {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("boots"), "7 a 0 - - -\n").unwrap();
            load(dir.path(), id, NOON).begin()
        };
        let begins: std::collections::BTreeSet<_> = (0..20).map(|boot| begin(&boot.to_string())).collect();
        assert!(begins.len() > 10, "{begins:?}");
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
