//! How much goes into one request: fewer entries where the receiver is slow or asks for less, never more than it can read.

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

/// What a receiver takes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// What it can read at once. It never grows: a size limit stays.
    readable_entries: usize,
    readable_bytes: usize,
    /// What it takes in good time just now.
    entries: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self { readable_entries: MOST_ENTRIES, readable_bytes: MOST_BYTES, entries: MOST_ENTRIES }
    }
}

impl Pace {
    /// Entries that may go into the next batch.
    pub(super) fn entries(&self) -> usize {
        self.readable_entries.min(self.entries).max(1)
    }

    /// Bytes that may go into the next batch.
    pub(super) const fn bytes(&self) -> usize {
        self.readable_bytes
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
    pub(super) fn too_large(&mut self, sent: usize, bytes: usize) {
        self.readable_entries = (sent / 2).max(1);
        self.readable_bytes = self.readable_bytes.min((bytes / 2).max(LEAST_BYTES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn after(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
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
    fn a_size_that_cannot_be_read_is_never_tried_again() {
        let mut pace = Pace::default();
        pace.too_large(100, 90_000);
        assert_eq!((pace.entries(), pace.bytes()), (50, 45_000));
        pace.too_large(50, 40_000);
        (0..50).for_each(|_| pace.answered(25, after(1)));
        assert_eq!((pace.entries(), pace.bytes()), (25, 20_000));
        pace.too_large(1, 300);
        assert_eq!((pace.entries(), pace.bytes()), (1, LEAST_BYTES), "an entry is no batch");
    }
}
