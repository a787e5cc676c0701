//! Volumes that are read and not written: scanned at their first use, a few kept at hand.

use crate::privacy::record::TreatmentId;
use crate::spool::bytes::{Reader, checked, with_checksum};
use crate::spool::manifest::folder_name;
use crate::spool::scan::Index;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::Path;

/// Volumes kept scanned; each takes up to 400 kB of memory.
const AT_HAND: usize = 3;

const FOLDER: &str = "contents";

/// First and last sequence of every treatment in a volume, by key id.
pub(crate) type Spans = BTreeMap<[u8; 16], (u64, u64)>;

/// Scanned volumes, the one used last in front, and which treatments every known volume has.
#[derive(Default)]
pub(crate) struct Shelf {
    scanned: Vec<(u64, Index)>,
    spans: BTreeMap<u64, Spans>,
}

impl Shelf {
    /// The scanned volume, if it is at hand.
    pub(crate) fn index(&mut self, volume: u64) -> Option<&Index> {
        let place = self.scanned.iter().position(|(number, _)| *number == volume)?;
        self.scanned.get_mut(..=place)?.rotate_right(1);
        self.scanned.first().map(|(_, index)| index)
    }

    /// Keeps a scanned volume at hand.
    pub(crate) fn put(&mut self, volume: u64, index: Index) {
        self.scanned.retain(|(number, _)| *number != volume);
        self.spans.insert(volume, index.keys().clone());
        self.scanned.insert(0, (volume, index));
        self.scanned.truncate(AT_HAND);
    }

    /// A volume is gone, or is written again.
    pub(crate) fn drop_index(&mut self, volume: u64) {
        self.scanned.retain(|(number, _)| *number != volume);
    }

    /// The treatments of a volume, if they are known without scanning it.
    /// A list that was written before the volume was, is no list of it.
    pub(crate) fn spans(&mut self, home: &Path, volume: u64, last: u64) -> Option<&Spans> {
        match self.spans.entry(volume) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(unknown) => Some(unknown.insert(read_spans(home, volume, last)?)),
        }
    }

    /// A record was appended to a volume.
    pub(crate) fn note(&mut self, volume: u64, treatment: Option<TreatmentId>, sequence: u64) {
        let spans = self.spans.entry(volume).or_default();
        if let Some(treatment) = treatment {
            let span = spans.entry(*treatment.as_bytes()).or_insert((sequence, sequence));
            *span = (span.0.min(sequence), span.1.max(sequence));
        }
    }

    /// Writes the treatments of a volume down, to spare a later scan. Nothing is lost when this fails.
    pub(crate) fn write_spans(&self, home: &Path, volume: u64, last: u64) {
        let Some(spans) = self.spans.get(&volume) else { return };
        let mut bytes = Vec::with_capacity(8 + spans.len() * 32);
        bytes.extend_from_slice(&last.to_be_bytes());
        for (treatment, (first, last)) in spans {
            bytes.extend_from_slice(treatment);
            bytes.extend_from_slice(&first.to_be_bytes());
            bytes.extend_from_slice(&last.to_be_bytes());
        }
        let folder = home.join(FOLDER);
        let written = fs::create_dir_all(&folder)
            .and_then(|()| fs::write(folder.join(folder_name(volume)), with_checksum(&bytes)));
        if let Err(error) = written {
            tracing::debug!(volume, %error, "the list of treatments of a volume cannot be written");
        }
    }

    /// A volume was removed.
    pub(crate) fn forget(&mut self, home: &Path, volume: u64) {
        self.drop_index(volume);
        self.spans.remove(&volume);
        let _ = fs::remove_file(home.join(FOLDER).join(folder_name(volume)));
    }
}

fn read_spans(home: &Path, volume: u64, last: u64) -> Option<Spans> {
    let bytes = fs::read(home.join(FOLDER).join(folder_name(volume))).ok()?;
    let mut from = Reader::new(checked(&bytes)?);
    if from.u64()? != last {
        return None;
    }
    let mut spans = Spans::new();
    while !from.is_empty() {
        spans.insert(from.array()?, (from.u64()?, from.u64()?));
    }
    Some(spans)
}
