//! How much goes into one request: fewer entries where the receiver is slow or asks for less, never more than it can read.

use chairside_drivers::kit::time::Tick;
use std::time::Duration;

/// What most servers take in one batch.
const MOST_ENTRIES: usize = 100;
const MOST_BYTES: usize = 1 << 20;
/// A limit below this is not about the size of a batch.
const LEAST_BYTES: usize = 4 << 10;
/// After an answer without trouble a batch may be this much larger again.
const STEP: usize = 10;
/// An answer that takes longer than this makes batches smaller: live records wait behind them ...
const SLOW: Duration = Duration::from_secs(2);
/// ... and one that is there sooner than this lets them grow.
const QUICK: Duration = Duration::from_secs(1);

/// A size that could not be read is tried again after this time: what stood in the way may have been set up anew.
const LIMIT_HOLDS: Duration = Duration::from_secs(3600);

/// What a receiver takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    limits: Limits,
    /// What it takes in good time just now.
    entries: usize,
}

/// What a receiver can read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    entries: usize,
    bytes: usize,
    /// When that was last found out, or doubted.
    since: Option<Tick>,
}

impl Default for Pace {
    fn default() -> Self {
        let limits = Limits { entries: MOST_ENTRIES, bytes: MOST_BYTES, since: None };
        Self { limits, entries: MOST_ENTRIES }
    }
}

impl Pace {
    /// Entries that may go into the next batch.
    pub(super) fn entries(&self) -> usize {
        self.limits.entries.min(self.entries).max(1)
    }

    /// Bytes that may go into the next batch.
    pub(super) const fn bytes(&self) -> usize {
        self.limits.bytes
    }

    /// The limits by now. One that has held for long may grow: where it still holds, that costs a request that is not read.
    pub(super) fn limits(&mut self, now: Tick) -> Limits {
        let Limits { entries, bytes, since } = &mut self.limits;
        let held = since.map_or(Duration::ZERO, |since| now.since(since));
        let hours = u32::try_from(held.as_secs() / LIMIT_HOLDS.as_secs()).unwrap_or(u32::MAX).min(16);
        if hours > 0 {
            *entries = entries.saturating_mul(1 << hours).min(MOST_ENTRIES);
            *bytes = bytes.saturating_mul(1 << hours).min(MOST_BYTES);
            *since = ((*entries, *bytes) != (MOST_ENTRIES, MOST_BYTES)).then_some(now);
        }
        self.limits
    }

    /// What was found out since was about a single entry that is too large by itself, and not about batches.
    pub(super) const fn back_to(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// A batch was answered, entry by entry.
    pub(super) fn answered(&mut self, sent: usize, took: Duration) {
        if took > SLOW {
            self.slow_down(sent);
        } else if took < QUICK {
            self.entries = (self.entries + STEP).min(MOST_ENTRIES);
        }
    }

    /// The receiver stumbled, was too slow, or asked for fewer at a time.
    pub(super) fn slow_down(&mut self, sent: usize) {
        self.entries = (self.entries.min(sent) / 2).max(1);
    }

    /// The receiver cannot read a batch of this size.
    pub(super) fn too_large(&mut self, sent: usize, bytes: usize, now: Tick) {
        self.limits = Limits {
            entries: (sent / 2).max(1),
            bytes: self.limits.bytes.min((bytes / 2).max(LEAST_BYTES)),
            since: Some(now),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn after(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    fn hour(number: u64) -> Tick {
        Tick::from_micros(number * 3_600_000_000)
    }

    #[test]
    fn a_slow_receiver_gets_fewer_and_a_quick_one_more_up_to_a_bound() {
        let mut pace = Pace::default();
        pace.answered(100, after(2500));
        assert_eq!(pace.entries(), 50);
        pace.answered(50, after(2500));
        assert_eq!(pace.entries(), 25);
        pace.answered(25, after(1500));
        assert_eq!(pace.entries(), 25, "in good time");
        for _ in 0..20 {
            pace.answered(25, after(100));
        }
        assert_eq!(pace.entries(), MOST_ENTRIES);
        for _ in 0..20 {
            pace.answered(pace.entries(), after(60_000));
        }
        assert_eq!(pace.entries(), 1, "one always goes");
    }

    #[test]
    fn a_size_that_cannot_be_read_is_not_tried_again_within_the_hour() {
        let mut pace = Pace::default();
        pace.too_large(100, 90_000, hour(0));
        assert_eq!((pace.entries(), pace.bytes()), (50, 45_000));
        pace.too_large(50, 40_000, hour(0));
        (0..50).for_each(|_| pace.answered(25, after(1)));
        pace.limits(Tick::from_micros(3_599_000_000));
        assert_eq!((pace.entries(), pace.bytes()), (25, 20_000));
        pace.too_large(2, 300, hour(0));
        assert_eq!((pace.entries(), pace.bytes()), (1, LEAST_BYTES), "an entry is no batch");
    }

    #[test]
    fn a_limit_is_doubted_once_an_hour_until_it_is_gone() {
        let mut pace = Pace::default();
        pace.too_large(8, 9_000, hour(0));
        let mut seen = Vec::new();
        for number in 1..12 {
            pace.limits(hour(number));
            seen.push((pace.entries(), pace.bytes()));
        }
        assert_eq!(seen[..3], [(8, 9_000), (16, 18_000), (32, 36_000)]);
        assert_eq!((pace, seen[10]), (Pace::default(), (MOST_ENTRIES, MOST_BYTES)));
    }
}
