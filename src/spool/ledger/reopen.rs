//! Where one record stands, and how a settled one comes back: somebody mended what the upstream had refused it for.

use super::{CHUNK, End, Ledger, OPEN};
use crate::spool::Sequence;
use crate::spool::tools::Standing;

impl Ledger {
    /// Where a record stands at this upstream.
    pub(crate) fn standing(&self, sequence: Sequence) -> Standing {
        if sequence.0 < self.start {
            return Standing::BeforeItsTime;
        }
        if self.is_settled(sequence) {
            return Standing::Settled;
        }
        let chunk = self.chunks.get(&(sequence.0 / CHUNK)).and_then(Option::as_ref);
        let treatment = chunk.and_then(|marks| marks.treatment(marks.mark(sequence.0)));
        treatment.map_or(Standing::Waiting, Standing::Held)
    }

    /// Nobody works any more on what was leased; gives how many records that were.
    pub(crate) fn reclaim(&mut self) -> usize {
        std::mem::take(&mut self.leased).len()
    }

    /// Opens a settled record again and takes it off the count of what it had ended as, and its parts off theirs. Says whether it did:
    /// a record that is not settled, or that this upstream never had to send, stays as it is.
    pub(crate) fn reopen(&mut self, sequence: Sequence, ended: End, taken: u64, refused: u64) -> bool {
        let ours = (self.start..=self.last).contains(&sequence.0);
        if !ours || !self.is_settled(sequence) {
            return false;
        }
        self.move_cursor_back(sequence.0);
        self.mark_it(sequence.0, |marks| marks.set(sequence.0, OPEN));
        self.discount(ended);
        let [all_taken, all_refused] = &mut self.parts;
        *all_taken = all_taken.saturating_sub(taken);
        *all_refused = all_refused.saturating_sub(refused);
        true
    }

    /// Everything between the new cursor and the old one is settled, and has to be said chunk by chunk now.
    fn move_cursor_back(&mut self, to: u64) {
        if to >= self.cursor {
            return;
        }
        let reached = self.cursor / CHUNK;
        if !self.cursor.is_multiple_of(CHUNK) {
            // Marks what lies below the old cursor in its own chunk as settled.
            self.marks(self.cursor);
        }
        for number in to / CHUNK..reached {
            self.chunks.entry(number).or_insert(None);
            self.changed.insert(number);
        }
        self.cursor = to;
    }

    /// A count that damage had lowered before gives way to another one, so that the sum stays right.
    fn discount(&mut self, ended: End) {
        let others = [End::Delivered, End::Refused, End::Skipped, End::Evicted, End::Lost, End::Erased];
        for end in std::iter::once(ended).chain(others) {
            let counter = self.counter(end);
            if *counter > 0 {
                *counter -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Lane;
    use chairside_drivers::kit::time::Tick;
    use proptest::prelude::*;

    fn due(ledger: &Ledger) -> Vec<u64> {
        ledger.due(9999, Lane::Backlog, Tick::ZERO).iter().map(|sequence| sequence.0).collect()
    }

    #[test]
    fn a_refused_record_far_below_the_cursor_is_due_again_and_nothing_else_is() {
        let mut ledger = Ledger::new(10, 10_000);
        ledger.end(Sequence(300), End::Refused);
        ledger.end_all(10, 9_000, End::Delivered);
        assert!(ledger.reopen(Sequence(300), End::Refused, 0, 3));
        assert_eq!(due(&ledger), [vec![300], (9_001..=10_000).collect()].concat());
        let counts = ledger.counts();
        assert_eq!((counts.refused, counts.delivered, counts.waiting), (0, 8_990, 1_001));
        assert!(!ledger.reopen(Sequence(300), End::Refused, 0, 3), "it waits already");
        assert!(!ledger.reopen(Sequence(9), End::Refused, 0, 3), "it never had to be sent");
        ledger.end(Sequence(300), End::Delivered);
        assert_eq!((ledger.cursor, ledger.chunks.len()), (9_001, 1));
    }

    proptest! {
        #[test]
        fn reopened_records_are_exactly_what_is_due_whatever_was_settled_and_after_a_restart(
            start in 1_u64..300,
            settled in 1_u64..1500,
            more in 0_u64..600,
            reopened in proptest::collection::btree_set(1_u64..1500, 0..8),
        ) {
            let (settled, last) = (start + settled - 1, start + settled - 1 + more);
            let mut ledger = Ledger::new(start, last);
            ledger.end_all(start, settled, End::Refused);
            let expected: Vec<u64> = (start..=last).filter(|n| *n > settled || reopened.contains(n)).collect();
            for sequence in &reopened {
                let done = ledger.reopen(Sequence(*sequence), End::Refused, 0, 0);
                prop_assert_eq!(done, (start..=settled).contains(sequence));
            }
            prop_assert_eq!(due(&ledger), expected.clone());
            prop_assert_eq!(ledger.counts().waiting, expected.len() as u64);
            ledger.change_all();
            let (summary, changes) = (ledger.summary(), ledger.take_changes());
            let chunks = changes.iter().filter_map(|(number, bytes)| Some((*number, bytes.as_deref()?)));
            let back = Ledger::restore(&summary, chunks, last).unwrap();
            prop_assert_eq!(due(&back), expected);
            prop_assert_eq!(back.counts(), ledger.counts());
        }
    }
}
