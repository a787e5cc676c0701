//! The rows of the settlement store, and what they say of each upstream.

use crate::model::name::UpstreamName;
use crate::spool::ledger::Ledger;
use crate::spool::manifest::UpstreamEntry;
use std::collections::BTreeMap;

/// A number this far ahead of the records is no number of theirs.
const LEAD: u64 = 1 << 24;

const SUMMARY: u8 = b's';
const CHUNK: u8 = b'c';

/// What the database has of an upstream: its summary, and its chunks by number.
type Kept<'a> = (&'a [u8], Vec<(u64, &'a [u8])>);

fn kept<'a>(rows: &BTreeMap<&[u8], &'a [u8]>, entry: &UpstreamEntry) -> Option<Kept<'a>> {
    let (from, to) = (chunk_key(&entry.name, 0), chunk_key(&entry.name, u64::MAX));
    let chunks = rows.range(from.as_slice()..=to.as_slice()).filter_map(|(key, value)| {
        let number = key.last_chunk().map(|number| u64::from_be_bytes(*number))?;
        Some((number, *value))
    });
    Some((rows.get(summary_key(&entry.name).as_slice())?, chunks.collect()))
}

/// What the database says of an upstream, and whether it was configured then.
pub(super) fn remembered(
    rows: &BTreeMap<&[u8], &[u8]>,
    entry: &UpstreamEntry,
    last: u64,
) -> Option<(Ledger, bool)> {
    let (summary, chunks) = kept(rows, entry)?;
    let (configured, numbers) = summary.split_first()?;
    Some((Ledger::restore(numbers, chunks.into_iter(), last)?, *configured != 0))
}

/// The highest sequence that any upstream knows. A disk that lost records behind `last` which it had confirmed may have kept
/// what became of them: their numbers, and the resource ids that follow from them, are never given again.
pub(super) fn highest_known(rows: &BTreeMap<&[u8], &[u8]>, known: &[UpstreamEntry], last: u64) -> u64 {
    let of = |entry: &UpstreamEntry| {
        let (summary, chunks) = kept(rows, entry)?;
        Ledger::highest_known(summary.split_first()?.1, chunks.into_iter())
    };
    let highest = known.iter().filter_map(of).max().unwrap_or(0);
    if highest > last {
        tracing::error!(last, highest, "records that an upstream knows are not in the spool any more");
    }
    if highest.saturating_sub(last) > LEAD { last } else { highest }
}

pub(super) fn summary_key(upstream: &UpstreamName) -> Vec<u8> {
    let name = upstream.as_str().as_bytes();
    [&[name.len() as u8], name, &[SUMMARY]].concat()
}

pub(super) fn chunk_key(upstream: &UpstreamName, number: u64) -> Vec<u8> {
    let name = upstream.as_str().as_bytes();
    [&[name.len() as u8], name, &[CHUNK], &number.to_be_bytes()].concat()
}
