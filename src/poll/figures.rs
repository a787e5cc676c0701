//! What one line has counted since the start, for `status` and the demo's verdict.

use crate::line::Gate;
use crate::poll::event::MissCause;
use chairside_drivers::kit::driver::Trouble;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The counters of one line; one writer, any number of readers.
#[derive(Debug, Default)]
pub struct Figures(Mutex<LineFigures>);

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineFigures {
    /// How often the port was opened.
    pub opened: u64,
    /// Slots that were answered.
    pub answered: u64,
    /// Slots that were missed, by cause.
    pub missed: BTreeMap<&'static str, u64>,
    /// Requests that went out, by name.
    pub sent: BTreeMap<&'static str, u64>,
    /// What was wrong on the line, by its word.
    pub troubles: BTreeMap<&'static str, u64>,
    /// Bytes that were read.
    pub bytes_read: u64,
    /// Bytes that were no part of a valid answer.
    pub bytes_dropped: u64,
}

impl LineFigures {
    /// Slots that were missed, whatever the cause.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed.values().sum()
    }
}

impl Figures {
    /// The counters now.
    #[must_use]
    pub fn now(&self) -> LineFigures {
        self.lock().clone()
    }

    pub(super) fn opened(&self) {
        self.lock().opened += 1;
    }

    pub(super) fn answered(&self) {
        self.lock().answered += 1;
    }

    pub(super) fn missed(&self, cause: MissCause, slots: u32) {
        *self.lock().missed.entry(cause.word()).or_default() += u64::from(slots);
    }

    pub(super) fn read(&self, bytes: usize) {
        self.lock().bytes_read += bytes as u64;
    }

    pub(super) fn sent(&self, gate: &Gate) {
        self.lock().sent = gate.counts().collect();
    }

    pub(super) fn trouble(&self, trouble: Trouble) {
        let mut figures = self.lock();
        let word = match trouble {
            Trouble::Junk { why, bytes } => {
                figures.bytes_dropped += bytes as u64;
                why.word()
            }
            Trouble::Unexpected => "unexpected",
            Trouble::Overrun => "overrun",
        };
        *figures.troubles.entry(word).or_default() += 1;
    }

    /// A driver ended a poll that nobody had asked for, or gave more samples than any machine has.
    pub(super) fn driver_fault(&self, word: &'static str) {
        *self.lock().troubles.entry(word).or_default() += 1;
    }

    fn lock(&self) -> MutexGuard<'_, LineFigures> {
        // Counting cannot leave the figures half-written; a panic elsewhere is no reason to lose them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
