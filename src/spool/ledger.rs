//! What one upstream has settled, compact enough to keep in memory for a month of records.
//!
//! Everything below a cursor is settled. Above it, sequences come in chunks of 256: a chunk nobody touched is not stored, a
//! chunk all settled takes no more than its number, any other one has a mark per record.

mod delays;
mod reopen;
mod stored;

use self::delays::Delays;
use crate::privacy::record::TreatmentId;
use crate::spool::{Counts, Lane, Sequence};
use chairside_drivers::kit::time::Tick;
use std::collections::{BTreeMap, BTreeSet};

/// Records in a chunk: one stored chunk stays far below the size of value that sled handles well.
const CHUNK: u64 = 256;

/// How a record ended at an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Delivered,
    Skipped,
    Refused,
    Lost,
    Erased,
    /// Removed unsent because the disk was full.
    Evicted,
}

/// The settlements of one upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// The first sequence it has to send.
    start: u64,
    /// The highest sequence there is.
    last: u64,
    /// Everything below is settled.
    cursor: u64,
    ends: [u64; 6],
    /// Single resources of records: delivered, refused.
    parts: [u64; 2],
    /// Records that are held now.
    held: u64,
    /// Nothing below is open: it is settled or held. What looks for the oldest open record starts here.
    open_from: u64,
    /// Above the cursor. `None`: all settled. Not in the map: all open.
    chunks: BTreeMap<u64, Chunk>,
    /// Leased sequences, with the count of releases at that time.
    leased: BTreeMap<u64, u64>,
    delayed: Delays,
    /// Chunks that changed since they were last written out.
    changed: BTreeSet<u64>,
}

type Chunk = Option<Box<Marks>>;

/// A mark per record: open, settled, or held for the treatment of that number.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Marks {
    marks: [u16; CHUNK as usize],
    treatments: Vec<TreatmentId>,
}

const OPEN: u16 = 0;
const SETTLED: u16 = 1;
const HELD: u16 = 2;

impl Marks {
    const NEW: Marks = Marks { marks: [OPEN; CHUNK as usize], treatments: Vec::new() };

    fn mark(&self, sequence: u64) -> u16 {
        self.marks.get((sequence % CHUNK) as usize).copied().unwrap_or(SETTLED)
    }

    fn set(&mut self, sequence: u64, mark: u16) {
        if let Some(place) = self.marks.get_mut((sequence % CHUNK) as usize) {
            *place = mark;
        }
    }

    fn hold(&mut self, sequence: u64, treatment: TreatmentId) {
        let known = self.treatments.iter().position(|other| *other == treatment);
        let number = known.unwrap_or_else(|| {
            self.treatments.push(treatment);
            self.treatments.len() - 1
        });
        // Treatments that hold nothing any more are dropped when the chunk is read back, not here.
        self.set(sequence, u16::try_from(number).map_or(OPEN, |number| number.saturating_add(HELD)));
    }

    fn treatment(&self, mark: u16) -> Option<TreatmentId> {
        self.treatments.get(usize::from(mark.checked_sub(HELD)?)).copied()
    }

    fn any_open(&self) -> bool {
        self.marks.contains(&OPEN)
    }

    fn all_settled(&self) -> bool {
        self.marks.iter().all(|mark| *mark == SETTLED)
    }
}

impl Ledger {
    /// A ledger of an upstream whose first record is `start`, while the spool has records up to `last`.
    pub(crate) fn new(start: u64, last: u64) -> Self {
        Self {
            start,
            last: last.max(start.saturating_sub(1)),
            cursor: start,
            open_from: start,
            ..Self::default()
        }
    }

    /// Records up to `last` exist now.
    pub(crate) fn appended(&mut self, last: u64) {
        self.last = self.last.max(last);
    }

    /// Sequences that may be leased, in ascending order, not more than `limit`.
    pub(crate) fn due(&self, limit: usize, lane: Lane, now: Tick) -> Vec<Sequence> {
        let free =
            |sequence: &u64| !self.leased.contains_key(sequence) && !self.delayed.waits(*sequence, now);
        let any_free = |number: &u64| self.open_in(*number) > self.delayed.waiting(*number, now);
        let chunks = self.open_chunks().filter(any_free);
        let mut due: Vec<u64> = match lane {
            Lane::Backlog => {
                chunks.flat_map(|number| self.open_of(number)).filter(free).take(limit).collect()
            }
            Lane::Live => {
                let downwards = chunks.rev().flat_map(|number| self.open_of(number).rev());
                downwards.filter(free).take(limit).collect()
            }
        };
        due.sort_unstable();
        due.into_iter().map(Sequence).collect()
    }

    /// Takes these sequences out until they are settled.
    pub(crate) fn lease(&mut self, sequences: impl IntoIterator<Item = Sequence>, releases_before: u64) {
        for Sequence(sequence) in sequences {
            self.delayed.remove(sequence);
            self.leased.insert(sequence, releases_before);
        }
    }

    /// The count of releases when this sequence was leased, while it is.
    pub(crate) fn leased_at(&self, sequence: Sequence) -> Option<u64> {
        self.leased.get(&sequence.0).copied()
    }

    /// Whether any record of a range is leased.
    pub(crate) fn any_leased_of(&self, first: u64, last: u64) -> bool {
        first <= last && self.leased.range(first..=last).next().is_some()
    }

    /// What is not settled of a range.
    pub(crate) fn unsettled(&self, first: u64, last: u64) -> impl Iterator<Item = u64> {
        let range = first.max(self.cursor)..=last.min(self.last);
        range.filter(|sequence| !self.is_settled(Sequence(*sequence)))
    }

    /// Whether any record is leased.
    pub(crate) fn any_leased(&self) -> bool {
        !self.leased.is_empty()
    }

    /// Ends a record; the first end stays.
    pub(crate) fn end(&mut self, sequence: Sequence, end: End) {
        if self.is_settled(sequence) {
            return;
        }
        self.forget(sequence);
        self.mark_it(sequence.0, |marks| marks.set(sequence.0, SETTLED));
        self.count(end, 1);
        self.tidy(sequence.0 / CHUNK);
        self.pass(sequence.0);
    }

    /// Ends a record that the upstream took or refused part by part; the first end stays, and its parts with it.
    pub(crate) fn end_in_parts(&mut self, sequence: Sequence, end: End, taken: u64, refused: u64) {
        if self.is_settled(sequence) {
            return;
        }
        let [all_taken, all_refused] = &mut self.parts;
        *all_taken = all_taken.saturating_add(taken);
        *all_refused = all_refused.saturating_add(refused);
        self.end(sequence, end);
    }

    /// Ends every unsettled record of a range.
    pub(crate) fn end_all(&mut self, first: u64, last: u64, end: End) {
        for sequence in first.max(self.cursor)..=last.min(self.last) {
            self.end(Sequence(sequence), end);
        }
    }

    /// Not leased again until its treatment is released.
    pub(crate) fn hold(&mut self, sequence: Sequence, treatment: TreatmentId) {
        if !self.is_settled(sequence) {
            self.forget(sequence);
            self.mark_it(sequence.0, |marks| marks.hold(sequence.0, treatment));
            self.pass(sequence.0);
        }
    }

    /// Not leased again before this tick.
    pub(crate) fn delay(&mut self, sequence: Sequence, not_before: Tick) {
        if self.is_settled(sequence) {
            return;
        }
        self.forget(sequence);
        if self.chunks.contains_key(&(sequence.0 / CHUNK)) && self.mark(sequence.0) != OPEN {
            self.mark_it(sequence.0, |marks| marks.set(sequence.0, OPEN));
        }
        if not_before > Tick::ZERO {
            self.delayed.insert(sequence.0, not_before);
        }
    }

    /// What was held for this treatment may be leased again.
    pub(crate) fn release(&mut self, treatment: TreatmentId) {
        for (number, chunk) in &mut self.chunks {
            let Some(marks) = chunk else { continue };
            let Some(place) = marks.treatments.iter().position(|other| *other == treatment) else { continue };
            let Ok(held) = u16::try_from(place).map(|place| place.saturating_add(HELD)) else { continue };
            for (sequence, mark) in
                (*number * CHUNK..).zip(&mut marks.marks).filter(|(_, mark)| **mark == held)
            {
                *mark = OPEN;
                self.held = self.held.saturating_sub(1);
                self.open_from = self.open_from.min(sequence);
            }
            self.changed.insert(*number);
        }
    }

    /// Whether this upstream has nothing to do with it any more, or never had.
    pub(crate) fn is_settled(&self, sequence: Sequence) -> bool {
        sequence.0 < self.cursor || sequence.0 > self.last || self.mark(sequence.0) == SETTLED
    }

    /// Whether every record of a range is settled.
    pub(crate) fn all_settled(&self, first: u64, last: u64) -> bool {
        let mut sequence = first.max(self.cursor);
        while sequence <= last.min(self.last) {
            match self.chunks.get(&(sequence / CHUNK)) {
                None => return false,
                Some(None) => sequence = (sequence / CHUNK + 1) * CHUNK,
                Some(Some(marks)) if marks.mark(sequence) == SETTLED => sequence += 1,
                Some(Some(_)) => return false,
            }
        }
        true
    }

    /// The oldest record that still has to be sent and is not held.
    pub(crate) fn oldest_waiting(&self) -> Option<Sequence> {
        self.open_upwards().next().map(Sequence)
    }

    /// The oldest record that this upstream does not have yet, whether it waits to be sent or is held.
    pub(crate) fn oldest_unsent(&self) -> Option<Sequence> {
        // What is settled from the cursor on is passed by the cursor, so the first look finds it.
        (self.cursor..=self.last).find(|sequence| self.mark(*sequence) != SETTLED).map(Sequence)
    }

    /// The counts, without the capture times of the oldest.
    pub(crate) fn counts(&self) -> Counts {
        let [delivered, skipped, refused, lost, erased, evicted] = self.ends;
        let [parts_delivered, parts_refused] = self.parts;
        let all = self.last.saturating_add(1).saturating_sub(self.start);
        let (ended, held) = (self.ends.iter().sum::<u64>(), self.held);
        debug_assert!(ended + held <= all, "{ended} records ended and {held} held, of {all}");
        let waiting = all.saturating_sub(ended).saturating_sub(held);
        Counts {
            delivered,
            skipped,
            refused,
            evicted,
            lost,
            erased,
            held,
            waiting,
            parts_delivered,
            parts_refused,
            oldest_waiting: None,
            oldest_unsent: None,
        }
    }

    /// What is held, mark by mark.
    fn held_by_marks(&self) -> u64 {
        let held = |chunk: &Chunk| match chunk {
            None => 0,
            Some(marks) => marks.marks.iter().filter(|mark| **mark >= HELD).count() as u64,
        };
        self.chunks.values().map(held).sum()
    }

    /// Changes the mark of one record, and the count of what is held with it.
    fn mark_it(&mut self, sequence: u64, change: impl FnOnce(&mut Marks)) {
        let marks = self.marks(sequence);
        let before = marks.mark(sequence);
        change(marks);
        let after = marks.mark(sequence);
        self.held = (self.held + u64::from(after >= HELD)).saturating_sub(u64::from(before >= HELD));
        if after == OPEN {
            self.open_from = self.open_from.min(sequence);
        }
    }

    /// This record is not open any more: where it was the first one, the next one is looked for.
    fn pass(&mut self, sequence: u64) {
        if sequence == self.open_from || self.open_from < self.cursor {
            let next = self.open_upwards().next();
            self.open_from = next.unwrap_or_else(|| self.last.saturating_add(1));
        }
    }

    fn count(&mut self, end: End, records: u64) {
        *self.counter(end) += records;
    }

    const fn counter(&mut self, end: End) -> &mut u64 {
        let [delivered, skipped, refused, lost, erased, evicted] = &mut self.ends;
        match end {
            End::Delivered => delivered,
            End::Skipped => skipped,
            End::Refused => refused,
            End::Lost => lost,
            End::Erased => erased,
            End::Evicted => evicted,
        }
    }

    fn forget(&mut self, sequence: Sequence) {
        self.leased.remove(&sequence.0);
        self.delayed.remove(sequence.0);
    }

    fn mark(&self, sequence: u64) -> u16 {
        match self.chunks.get(&(sequence / CHUNK)) {
            None => OPEN,
            Some(None) => SETTLED,
            Some(Some(marks)) => marks.mark(sequence),
        }
    }

    /// The marks of this sequence's chunk, to change them.
    fn marks(&mut self, sequence: u64) -> &mut Marks {
        let (number, cursor) = (sequence / CHUNK, self.cursor);
        self.changed.insert(number);
        let chunk = self.chunks.entry(number).or_insert_with(|| {
            let mut marks = Marks::NEW;
            (number * CHUNK..cursor.min((number + 1) * CHUNK))
                .for_each(|settled| marks.set(settled, SETTLED));
            Some(Box::new(marks))
        });
        // What is settled is never changed, so this stands for a chunk that is not reached.
        chunk.get_or_insert_with(|| Box::new(Marks { marks: [SETTLED; CHUNK as usize], ..Marks::NEW }))
    }

    /// Folds a chunk that is all settled and moves the cursor over what is.
    fn tidy(&mut self, number: u64) {
        if let Some(chunk) = self.chunks.get_mut(&number)
            && chunk.as_ref().is_some_and(|marks| marks.all_settled())
        {
            *chunk = None;
        }
        loop {
            let number = self.cursor / CHUNK;
            match self.chunks.get(&number) {
                Some(None) => {
                    self.chunks.remove(&number);
                    self.changed.insert(number);
                    self.cursor = (number + 1) * CHUNK;
                }
                Some(Some(marks)) if marks.mark(self.cursor) == SETTLED => self.cursor += 1,
                _ => return,
            }
        }
    }

    fn open_upwards(&self) -> impl Iterator<Item = u64> {
        self.open_chunks().flat_map(|number| self.open_of(number))
    }

    /// The chunks in which open records may be.
    fn open_chunks(&self) -> std::ops::Range<u64> {
        let (from, last) = (self.open_from.max(self.cursor), self.last);
        if from <= last { from / CHUNK..last / CHUNK + 1 } else { 0..0 }
    }

    /// The open records of a chunk.
    fn open_of(&self, number: u64) -> impl DoubleEndedIterator<Item = u64> {
        self.open_span(number).filter(move |sequence| self.mark(*sequence) == OPEN)
    }

    /// How many records of a chunk are open.
    fn open_in(&self, number: u64) -> u64 {
        let span = self.open_span(number);
        match self.chunks.get(&number) {
            Some(Some(marks)) => span.filter(|sequence| marks.mark(*sequence) == OPEN).count() as u64,
            Some(None) | None => span.end - span.start,
        }
    }

    /// The part of a chunk where open records may be.
    fn open_span(&self, number: u64) -> std::ops::Range<u64> {
        let nothing_open = match self.chunks.get(&number) {
            None => false,
            Some(None) => true,
            Some(Some(marks)) => !marks.any_open(),
        };
        if nothing_open {
            return 0..0;
        }
        let end = ((number + 1) * CHUNK).min(self.last.saturating_add(1));
        (number * CHUNK).max(self.cursor).max(self.open_from)..end
    }
}

#[cfg(test)]
mod tests;
