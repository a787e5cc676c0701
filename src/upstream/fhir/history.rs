//! What this process may have written at the receiver, and under which binding: what a correction has to take back.

use super::encode::Then;
use crate::privacy::record::Revision;
use crate::spool::Sequence;
use std::collections::{BTreeSet, HashSet};

/// So many writings are remembered, some days of a large ward. What is older counts as perhaps written.
const MOST: usize = 200_000;

/// Remembers writings. Where it does not know, a record counts as written.
#[derive(Debug)]
pub(super) struct History {
    /// Up to here another process may have written, or what this one wrote was forgotten.
    unknown_up_to: Sequence,
    written: BTreeSet<(Sequence, Revision)>,
    /// Ids of resources that the server never took.
    refused: HashSet<String>,
}

impl Default for History {
    fn default() -> Self {
        Self { unknown_up_to: Sequence(u64::MAX), written: BTreeSet::new(), refused: HashSet::new() }
    }
}

impl History {
    /// Only records up to this one were there before us.
    pub(super) fn begins_behind(&mut self, last: Sequence) {
        self.unknown_up_to = last;
    }

    /// The server has the record under this binding, or may have it.
    pub(super) fn wrote(&mut self, sequence: Sequence, revision: Revision) {
        if sequence <= self.unknown_up_to {
            return;
        }
        self.written.insert((sequence, revision));
        if self.written.len() > MOST
            && let Some((oldest, _)) = self.written.pop_first()
        {
            self.unknown_up_to = self.unknown_up_to.max(oldest);
        }
    }

    /// Whether the server may have the record under this binding, and what was to be sent of it then.
    pub(super) fn written_under(&self, sequence: Sequence, revision: Revision) -> Option<Then> {
        if sequence <= self.unknown_up_to {
            return Some(Then::Unknown);
        }
        self.written.contains(&(sequence, revision)).then_some(Then::AsNow)
    }

    /// The server refused it for good.
    pub(super) fn refused(&mut self, id: &str) {
        if self.refused.len() < MOST {
            self.refused.insert(id.to_owned());
        }
    }

    /// The server took it after all.
    pub(super) fn taken(&mut self, id: &str) {
        if !self.refused.is_empty() {
            self.refused.remove(id);
        }
    }

    /// Whether the server refused it for good when it was written.
    pub(super) fn was_refused(&self, id: &str) -> bool {
        self.refused.contains(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_knowledge_a_record_counts_as_written() {
        let history = History::default();
        assert_eq!(history.written_under(Sequence(5), Revision(1)), Some(Then::Unknown));
    }

    #[test]
    fn what_this_process_wrote_is_known_with_its_binding() {
        let mut history = History::default();
        history.begins_behind(Sequence(4));
        history.wrote(Sequence(5), Revision(2));
        assert_eq!(history.written_under(Sequence(5), Revision(1)), None);
        assert_eq!(history.written_under(Sequence(5), Revision(2)), Some(Then::AsNow));
        assert_eq!(history.written_under(Sequence(4), Revision(2)), Some(Then::Unknown));
    }

    #[test]
    fn what_is_forgotten_counts_as_perhaps_written() {
        let mut history = History::default();
        history.begins_behind(Sequence(0));
        for sequence in 1..=MOST as u64 + 1 {
            history.wrote(Sequence(sequence), Revision(1));
        }
        assert_eq!(history.written_under(Sequence(1), Revision(2)), Some(Then::Unknown));
        assert_eq!(history.written_under(Sequence(2), Revision(2)), None);
    }
}
