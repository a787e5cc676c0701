//! How full the spool is: what it takes, against what it may take or what the file system still has, whichever is less.

use serde::{Deserialize, Serialize};
use std::fmt;

/// From here on people are told.
const WARN: u64 = 80;

/// From here on callers who wait for an answer are refused, so that the machines keep what is left.
const REFUSE: u64 = 90;

/// From here on the oldest records make room for new ones.
const EVICT: u64 = 95;

/// The room of the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Space {
    /// Bytes it takes on disk.
    pub used: u64,
    /// Bytes it may take: `max_bytes`, or what it takes and the file system has free, if that is less.
    pub max: u64,
}

/// What the spool does about its room. In order: each level includes what the ones below it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// There is room.
    #[default]
    Normal,
    /// 80 %: people are told.
    Warn,
    /// 90 %: callers who wait for an answer are refused; what machines say is still taken.
    Refuse,
    /// 95 %: the oldest records make room for new ones.
    Evict,
}

impl Level {
    /// Its word, for `status` and its JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Warn => "warn",
            Self::Refuse => "refuse",
            Self::Evict => "evict",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl Space {
    /// A spool that takes `used` bytes of its `max_bytes`, on a file system with `free` bytes left for it.
    #[must_use]
    pub fn of(used: u64, max_bytes: u64, free: u64) -> Self {
        Self { used, max: max_bytes.min(used.saturating_add(free)) }
    }

    /// How full it is, in whole percent, rounded up: a level is never entered late.
    #[must_use]
    pub fn percent(self) -> u64 {
        let percent = (u128::from(self.used) * 100).div_ceil(u128::from(self.max.max(1)));
        u64::try_from(percent.min(100)).unwrap_or(100)
    }

    /// What has to be done about it.
    #[must_use]
    pub fn level(self) -> Level {
        match self.percent() {
            // A spool that may take anything is never full.
            _ if self.max == 0 && self.used == 0 => Level::Normal,
            EVICT.. => Level::Evict,
            REFUSE.. => Level::Refuse,
            WARN.. => Level::Warn,
            _ => Level::Normal,
        }
    }

    /// Bytes of the file system that something else may take for a while without anything changing for this spool, which takes `used`
    /// of its `max_bytes` and has `free` left for it: its level stays, and one that refuses or evicts lends nothing.
    #[must_use]
    pub fn lendable(used: u64, max_bytes: u64, free: u64) -> u64 {
        let bound = match Self::of(used, max_bytes, free).level() {
            Level::Normal => WARN,
            Level::Warn => REFUSE,
            Level::Refuse | Level::Evict => return 0,
        };
        // The least that must be free for `used` to round up to less than the bound.
        let needed =
            (u128::from(used) * 100).div_ceil(u128::from(bound - 1)).saturating_sub(u128::from(used));
        free.saturating_sub(u64::try_from(needed).unwrap_or(u64::MAX))
    }

    /// The same room with this much more in it.
    #[must_use]
    pub(crate) fn with(self, bytes: u64) -> Self {
        Self { used: self.used.saturating_add(bytes), ..self }
    }

    /// Bytes that may still come before the oldest records have to go: what days of autonomy are counted from.
    #[must_use]
    pub fn left(self) -> u64 {
        let usable = u128::from(self.max) * u128::from(EVICT) / 100;
        u64::try_from(usable).unwrap_or(u64::MAX).saturating_sub(self.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_begins_at_its_percent() {
        let level = |used| Space::of(used, 10_000, u64::MAX).level();
        assert_eq!([0, 7_900, 7_901, 8_900, 8_901, 9_400, 9_401, 20_000].map(level), {
            use Level::{Evict, Normal, Refuse, Warn};
            [Normal, Normal, Warn, Warn, Refuse, Refuse, Evict, Evict]
        });
    }

    proptest::proptest! {
        #[test]
        fn what_is_lent_changes_no_level_and_a_little_more_would(used in 0_u64..1_000, max in 1_u64..2_000, free in 0_u64..2_000) {
            let level = |free| Space::of(used, max, free).level();
            let lent = Space::lendable(used, max, free);
            assert!(lent <= free);
            if lent > 0 {
                assert_eq!(level(free - lent), level(free));
            }
            if level(free) < Level::Refuse && lent < free && max >= used + free {
                assert!(level(free - lent - 1) > level(free), "{lent} of {free} beside {used}");
            }
        }
    }

    #[test]
    fn whichever_fills_first_counts() {
        assert_eq!(Space::of(60, 100, 1_000).percent(), 60);
        assert_eq!(Space::of(60, 100, 20).percent(), 75);
        assert_eq!(Space::of(60, 100, 0).level(), Level::Evict);
        assert_eq!(Space::of(0, u64::MAX, u64::MAX).level(), Level::Normal);
    }

    #[test]
    fn what_is_left_ends_where_the_oldest_records_would_go() {
        assert_eq!(Space::of(40, 100, 1_000).left(), 55);
        assert_eq!(Space::of(96, 100, 1_000).left(), 0);
    }
}
