//! A ledger as bytes for the settlement store, and back: what is missing there is sent again, never skipped.

use super::{CHUNK, Chunk, End, HELD, Ledger, Marks, OPEN, SETTLED};
use crate::privacy::record::TreatmentId;
use crate::spool::bytes::Reader;
use std::collections::BTreeMap;

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

    /// The highest sequence that what was stored speaks of.
    pub(crate) fn highest_known<'a>(
        summary: &[u8],
        chunks: impl Iterator<Item = (u64, &'a [u8])>,
    ) -> Option<u64> {
        let mut from = Reader::new(summary);
        let (start, cursor) = (from.u64()?, from.u64()?);
        let below = start.max(cursor).saturating_sub(1);
        let marked = chunks.filter_map(|(number, bytes)| {
            let chunk = chunk(bytes)?;
            let behind = match &chunk {
                None => CHUNK - 1,
                Some(marks) => marks.marks.iter().rposition(|mark| *mark != OPEN)? as u64,
            };
            number.checked_mul(CHUNK)?.checked_add(behind)
        });
        marked.max().max(Some(below))
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

pub(super) fn chunk(bytes: &[u8]) -> Option<Chunk> {
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
