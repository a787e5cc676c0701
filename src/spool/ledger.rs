//! What one upstream has settled, compact enough to keep in memory for a month of records.
//!
//! Everything below a cursor is settled. Above it, sequences come in chunks of 256: a chunk nobody touched is not stored, a
//! chunk all settled takes no more than its number, any other one has a mark per record.

mod reopen;

use crate::privacy::record::TreatmentId;
use crate::spool::bytes::Reader;
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
    delayed: BTreeMap<u64, Tick>,
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
        let free = |sequence: &u64| {
            !self.leased.contains_key(sequence) && self.delayed.get(sequence).is_none_or(|tick| *tick <= now)
        };
        let mut due: Vec<u64> = match lane {
            Lane::Backlog => self.open_upwards().filter(free).take(limit).collect(),
            Lane::Live => self.open_downwards().filter(free).take(limit).collect(),
        };
        due.sort_unstable();
        due.into_iter().map(Sequence).collect()
    }

    /// Takes these sequences out until they are settled.
    pub(crate) fn lease(&mut self, sequences: impl IntoIterator<Item = Sequence>, releases_before: u64) {
        for Sequence(sequence) in sequences {
            self.delayed.remove(&sequence);
            self.leased.insert(sequence, releases_before);
        }
    }

    /// The count of releases when this sequence was leased, while it is.
    pub(crate) fn leased_at(&self, sequence: Sequence) -> Option<u64> {
        self.leased.get(&sequence.0).copied()
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

    /// The counts, without the capture time of the oldest.
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
        self.delayed.remove(&sequence.0);
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
        let (from, last) = (self.open_from.max(self.cursor), self.last);
        let chunks = if from <= last { from / CHUNK..last / CHUNK + 1 } else { 0..0 };
        chunks.flat_map(move |number| {
            let span = self.open_span(number);
            span.filter(move |sequence| self.mark(*sequence) == OPEN)
        })
    }

    fn open_downwards(&self) -> impl Iterator<Item = u64> {
        let (from, last) = (self.open_from.max(self.cursor), self.last);
        let chunks = if from <= last { from / CHUNK..last / CHUNK + 1 } else { 0..0 };
        chunks.rev().flat_map(move |number| {
            let span = self.open_span(number);
            span.rev().filter(move |sequence| self.mark(*sequence) == OPEN)
        })
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

/// The numbers of a ledger, for the settlement store.
impl Ledger {
    /// Start, cursor and counts of records and of parts.
    pub(crate) fn summary(&self) -> Vec<u8> {
        let numbers = [self.start, self.cursor].into_iter().chain(self.ends).chain(self.parts);
        numbers.flat_map(u64::to_be_bytes).collect()
    }

    /// Chunks that changed, and their new form; `None` for one that is below the cursor now.
    pub(crate) fn take_changes(&mut self) -> Vec<(u64, Option<Vec<u8>>)> {
        let changed = std::mem::take(&mut self.changed);
        let form = |number: u64| (number, self.chunks.get(&number).map(chunk_bytes));
        changed.into_iter().map(form).collect()
    }

    /// All of it is to be written out again.
    pub(crate) fn change_all(&mut self) {
        self.changed.extend(self.chunks.keys());
    }

    /// A ledger out of what was stored. What is missing or unreadable is open: it is sent again, never skipped.
    pub(crate) fn restore<'a>(
        summary: &[u8],
        chunks: impl Iterator<Item = (u64, &'a [u8])>,
        last: u64,
    ) -> Option<Self> {
        let mut from = Reader::new(summary);
        let (start, cursor) = (from.u64()?, from.u64()?);
        let (mut ends, mut parts) = ([0; 6], [0; 2]);
        for count in ends.iter_mut().chain(&mut parts) {
            *count = from.u64()?;
        }
        // A cursor ahead of the records would skip what comes next.
        let cursor = cursor.clamp(start, last.saturating_add(1).max(start));
        let mut ledger = Self { start, cursor, open_from: cursor, ends, parts, ..Self::new(start, last) };
        for (number, bytes) in chunks.filter(|(number, _)| (cursor / CHUNK..=last / CHUNK).contains(number)) {
            if let Some(chunk) = chunk(bytes) {
                ledger.chunks.insert(number, within(chunk, number, cursor, last));
            }
        }
        ledger.held = ledger.held_by_marks();
        ledger.reconcile();
        (cursor / CHUNK..=last / CHUNK).for_each(|number| ledger.tidy(number));
        Some(ledger)
    }

    /// Makes the counts agree with the marks: what a lost chunk had counted will be counted again.
    fn reconcile(&mut self) {
        let settled_in = |number: u64, chunk: &Chunk| {
            let span =
                (number * CHUNK).max(self.cursor)..((number + 1) * CHUNK).min(self.last.saturating_add(1));
            match chunk {
                None => span.end.saturating_sub(span.start),
                Some(marks) => span.filter(|sequence| marks.mark(*sequence) == SETTLED).count() as u64,
            }
        };
        let above: u64 = self.chunks.iter().map(|(number, chunk)| settled_in(*number, chunk)).sum();
        let settled = self.cursor.saturating_sub(self.start) + above;
        let counted = self.ends.iter().fold(0_u64, |sum, end| sum.saturating_add(*end));
        let mut surplus = counted.saturating_sub(settled);
        for end in &mut self.ends {
            let taken = surplus.min(*end);
            *end -= taken;
            surplus -= taken;
        }
        self.count(End::Delivered, settled.saturating_sub(counted));
    }
}

/// A chunk whose marks say nothing of records that are not there yet: the records may have been cut, the marks not.
fn within(chunk: Chunk, number: u64, cursor: u64, last: u64) -> Chunk {
    let first = number * CHUNK;
    if cursor <= first && first + (CHUNK - 1) <= last {
        return chunk;
    }
    let mut marks =
        chunk.unwrap_or_else(|| Box::new(Marks { marks: [SETTLED; CHUNK as usize], ..Marks::NEW }));
    for (sequence, mark) in (first..).zip(&mut marks.marks) {
        match sequence {
            _ if sequence < cursor => *mark = SETTLED,
            _ if sequence > last => *mark = OPEN,
            _ => {}
        }
    }
    Some(marks)
}

const FORM_SETTLED: u8 = 1;
const FORM_MIXED: u8 = 2;

/// A chunk as bytes. Treatments that hold nothing any more are left out.
fn chunk_bytes(chunk: &Chunk) -> Vec<u8> {
    let Some(marks) = chunk else { return vec![FORM_SETTLED] };
    let mut numbers: BTreeMap<u16, u16> = BTreeMap::new();
    let mut treatments = Vec::new();
    let written = marks.marks.map(|mark| match marks.treatment(mark) {
        None => mark.min(SETTLED),
        Some(treatment) => *numbers.entry(mark).or_insert_with(|| {
            treatments.push(treatment);
            (treatments.len() - 1) as u16 + HELD
        }),
    });
    let mut out = vec![FORM_MIXED];
    out.extend_from_slice(&(treatments.len() as u16).to_be_bytes());
    treatments.iter().for_each(|treatment| out.extend_from_slice(treatment.as_bytes()));
    written.iter().for_each(|mark| out.extend_from_slice(&mark.to_be_bytes()));
    out
}

fn chunk(bytes: &[u8]) -> Option<Chunk> {
    let mut from = Reader::new(bytes);
    match from.u8()? {
        FORM_SETTLED => Some(None),
        FORM_MIXED => {
            let count = from.u16()?;
            let treatment = |from: &mut Reader<'_>| from.array().map(TreatmentId::from_bytes);
            let treatments: Vec<_> = (0..count).map(|_| treatment(&mut from)).collect::<Option<_>>()?;
            let mut marks = Marks { treatments, ..Marks::NEW };
            for mark in &mut marks.marks {
                *mark = from.u16()?;
            }
            let known = |mark: &u16| *mark <= SETTLED || marks.treatment(*mark).is_some();
            let valid = marks.marks.iter().all(known);
            valid.then(|| Some(Box::new(marks)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::testing::treatment;
    use proptest::prelude::*;

    fn restored(ledger: &mut Ledger, without: Option<u64>) -> Ledger {
        ledger.change_all();
        let summary = ledger.summary();
        let changes = ledger.take_changes();
        let chunks = changes
            .iter()
            .filter(|(number, _)| Some(*number) != without)
            .filter_map(|(number, bytes)| Some((*number, bytes.as_deref()?)));
        let mut back = Ledger::restore(&summary, chunks, ledger.last).unwrap();
        back.changed.clear();
        back
    }

    fn total(counts: Counts) -> u64 {
        counts.records()
    }

    #[test]
    fn a_settled_backlog_takes_one_chunk_of_memory() {
        let mut ledger = Ledger::new(1, 100_000);
        ledger.end_all(1, 100_000, End::Delivered);
        assert_eq!((ledger.cursor, ledger.chunks.len()), (100_001, 1));
        assert_eq!(ledger.counts().delivered, 100_000);
    }

    #[test]
    fn a_lost_chunk_is_sent_again_and_the_counts_still_agree() {
        let mut ledger = Ledger::new(1, 2000);
        ledger.end_all(600, 2000, End::Delivered);
        let back = restored(&mut ledger, Some(4));
        let again: Vec<_> = back.due(9999, Lane::Backlog, Tick::ZERO);
        assert_eq!(again.len(), 599 + 256);
        assert_eq!(total(back.counts()), 2000);
        assert_eq!(back.counts().waiting, 599 + 256);
    }

    #[test]
    fn a_cursor_ahead_of_the_records_skips_nothing_that_comes_later() {
        let mut ledger = Ledger::new(1, 500);
        ledger.end_all(1, 500, End::Delivered);
        let mut back = Ledger::restore(&ledger.summary(), std::iter::empty(), 400).unwrap();
        back.appended(401);
        assert_eq!(back.due(9, Lane::Backlog, Tick::ZERO), [Sequence(401)]);
    }

    #[test]
    fn marks_ahead_of_the_records_skip_nothing_that_comes_later() {
        let mut ledger = Ledger::new(1, 1000);
        ledger.end_all(300, 1000, End::Delivered);
        ledger.change_all();
        let (summary, changes) = (ledger.summary(), ledger.take_changes());
        let chunks = || changes.iter().filter_map(|(number, bytes)| Some((*number, bytes.as_deref()?)));
        let mut back = Ledger::restore(&summary, chunks(), 400).unwrap();
        assert_eq!((back.counts().delivered, back.counts().waiting), (101, 299));
        back.appended(402);
        let due = back.due(9999, Lane::Backlog, Tick::ZERO);
        assert_eq!(due.last(), Some(&Sequence(402)));
        assert_eq!(due.len(), 299 + 2);
    }

    /// Every second of 800,000 records is held, the others wait: what a day of an unseated ward and a receiver that is away leaves.
    #[test]
    fn counts_and_the_oldest_waiting_one_do_not_walk_through_a_large_backlog() {
        let mut ledger = Ledger::new(1, 800_000);
        (1..=400_000).for_each(|n| ledger.hold(Sequence(n), treatment((n % 5) as u8)));
        let walked = ledger.open_from;
        assert_eq!(walked, 400_001, "the held ones are behind it");
        assert_eq!(ledger.oldest_waiting(), Some(Sequence(400_001)));
        assert_eq!((ledger.counts().held, ledger.counts().waiting), (400_000, 400_000));
        ledger.release(treatment(0));
        assert_eq!(ledger.oldest_waiting(), Some(Sequence(5)));
        ledger.end(Sequence(5), End::Delivered);
        assert_eq!((ledger.oldest_waiting(), ledger.counts().held), (Some(Sequence(10)), 320_000));
    }

    #[derive(Clone, Debug)]
    enum Act {
        Append(u64),
        Lease(usize, bool),
        End(u64),
        Hold(u64, u8),
        Delay(u64, u64),
        Release(u8),
        Restart,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (1_u64..90).prop_map(Act::Append),
            (1_usize..60, any::<bool>()).prop_map(|(limit, live)| Act::Lease(limit, live)),
            (1_u64..900).prop_map(Act::End),
            (1_u64..900, 0_u8..5).prop_map(|(sequence, number)| Act::Hold(sequence, number)),
            (1_u64..900, 0_u64..3).prop_map(|(sequence, tick)| Act::Delay(sequence, tick)),
            (0_u8..5).prop_map(Act::Release),
            Just(Act::Restart),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_agrees_with_one_map_entry_a_record(
            start in 1_u64..300,
            acts in proptest::collection::vec(act(), 1..120),
        ) {
            #[derive(Clone, Copy, Debug, PartialEq)]
            enum Plain { Open(u64), Leased, Held(u8), Done }
            let mut ledger = Ledger::new(start, start - 1);
            let mut plain: BTreeMap<u64, Plain> = BTreeMap::new();
            let mut last = start - 1;
            for act in acts {
                match act {
                    Act::Append(count) => {
                        (last + 1..=last + count).for_each(|n| { plain.insert(n, Plain::Open(0)); });
                        last += count;
                        ledger.appended(last);
                    }
                    Act::Lease(limit, live) => {
                        let free = plain.iter().filter(|(_, p)| matches!(p, Plain::Open(at) if *at <= 1)).map(|(n, _)| *n);
                        let mut expected: Vec<u64> =
                            if live { free.rev().take(limit).collect() } else { free.take(limit).collect() };
                        expected.sort_unstable();
                        let lane = if live { Lane::Live } else { Lane::Backlog };
                        let due = ledger.due(limit, lane, Tick::from_micros(1));
                        prop_assert_eq!(due.iter().map(|s| s.0).collect::<Vec<_>>(), expected.clone());
                        ledger.lease(due, 0);
                        expected.iter().for_each(|n| { plain.insert(*n, Plain::Leased); });
                    }
                    Act::End(n) => {
                        ledger.end(Sequence(n), End::Delivered);
                        plain.entry(n).and_modify(|p| *p = Plain::Done);
                    }
                    Act::Hold(n, number) => {
                        ledger.hold(Sequence(n), treatment(number));
                        plain.entry(n).and_modify(|p| if *p != Plain::Done { *p = Plain::Held(number) });
                    }
                    Act::Delay(n, tick) => {
                        ledger.delay(Sequence(n), Tick::from_micros(tick));
                        plain.entry(n).and_modify(|p| if *p != Plain::Done { *p = Plain::Open(tick) });
                    }
                    Act::Release(number) => {
                        ledger.release(treatment(number));
                        plain.values_mut().filter(|p| **p == Plain::Held(number)).for_each(|p| *p = Plain::Open(0));
                    }
                    Act::Restart => {
                        ledger = restored(&mut ledger, None);
                        plain.values_mut()
                            .filter(|p| matches!(p, Plain::Open(_) | Plain::Leased))
                            .for_each(|p| *p = Plain::Open(0));
                    }
                }
                let counts = ledger.counts();
                let count = |wanted: fn(&Plain) -> bool| plain.values().filter(|p| wanted(p)).count() as u64;
                prop_assert_eq!(counts.delivered, count(|p| *p == Plain::Done));
                prop_assert_eq!(counts.held, count(|p| matches!(p, Plain::Held(_))));
                prop_assert_eq!(total(counts), plain.len() as u64);
                prop_assert_eq!(counts.held, ledger.held_by_marks());
                let oldest = plain.iter().find(|(_, p)| matches!(p, Plain::Open(_) | Plain::Leased)).map(|(n, _)| Sequence(*n));
                prop_assert_eq!(ledger.oldest_waiting(), oldest);
                let (from, to) = (start + 100, start + 200);
                let settled = plain.range(from..=to).all(|(_, p)| *p == Plain::Done);
                prop_assert_eq!(ledger.all_settled(from, to), settled);
            }
        }

        #[test]
        fn any_stored_bytes_are_read_without_a_panic(
            summary: Vec<u8>,
            numbers in proptest::array::uniform10(0_u64..2000),
            bytes: Vec<u8>,
            last in 0_u64..5000,
        ) {
            let _ = Ledger::restore(&summary, std::iter::once((3, bytes.as_slice())), last);
            let _ = chunk(&bytes);
            let summary: Vec<u8> = numbers.into_iter().flat_map(u64::to_be_bytes).collect();
            if let Some(ledger) = Ledger::restore(&summary, std::iter::once((3, bytes.as_slice())), last) {
                let everything = ledger.last.saturating_add(1).saturating_sub(ledger.start);
                prop_assert_eq!(total(ledger.counts()), everything);
            }
        }
    }
}
