//! The bytes of a dead letter: a sealed frame, who refused it, when, and the coded reasons.
//!
//! A letter needs nothing around it. Format 2, numbers big-endian:
//!
//! ```text
//!  0  4  magic                  14  4  CRC-32 of the 14 bytes before
//!  4  1  format                 18  n  body
//!  5  1  kind: letter, or done      4  CRC-32 of the body
//!  6  8  length of the body
//! ```
//!
//! The body of both begins with upstream and sequence. A letter goes on with the time of the refusal, how many parts were taken
//! and refused, the reasons and the frame, which stays as it was sealed.

use crate::model::name::UpstreamName;
use crate::model::time::Timestamp;
use crate::spool::bytes::Reader;
use crate::spool::{Reason, Sequence, Verdict};

const MAGIC: [u8; 4] = [0xF5, 0xC5, 0x9D, 0xD1];
const FORMAT: u8 = 2;
const LETTER: u8 = 1;
const DONE: u8 = 2;

/// Bytes in front of a body.
const HEADER: usize = 18;

/// Stands for the whole record where a part's number would be.
const WHOLE: u16 = u16::MAX;

/// A refusal, ready to be written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Letter {
    pub(crate) upstream: UpstreamName,
    pub(crate) sequence: Sequence,
    pub(crate) refused: Refusal,
    /// The record, sealed.
    pub(crate) frame: Vec<u8>,
}

/// What an upstream said of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When it was said, by the newest capture or upkeep before it.
    pub at: Timestamp,
    /// Parts of the record that the upstream took.
    pub parts_taken: u32,
    /// Parts that it refused.
    pub parts_refused: u32,
    /// What was refused.
    pub reasons: Vec<RefusedFor>,
}

/// A part, or a whole record, with the reason it was refused for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedFor {
    /// The number of the part within the record; `None`: all of it.
    pub part: Option<u16>,
    /// The status code of the answer.
    pub status: u16,
    /// The coded issue of an OperationOutcome.
    pub issue: Option<String>,
}

impl Refusal {
    /// The refusal in a verdict, if there is one.
    pub(crate) fn of(verdict: &Verdict, at: Timestamp) -> Option<Self> {
        let reason = |part: Option<u16>, reason: &Reason| RefusedFor {
            part,
            status: reason.status,
            issue: reason.issue.map(str::to_owned),
        };
        match verdict {
            Verdict::Refused { parts, reason: why } => {
                Some(Self { at, parts_taken: 0, parts_refused: *parts, reasons: vec![reason(None, why)] })
            }
            Verdict::Delivered { parts, refused_parts } if !refused_parts.is_empty() => Some(Self {
                at,
                parts_taken: *parts,
                parts_refused: u32::try_from(refused_parts.len()).unwrap_or(u32::MAX),
                reasons: refused_parts
                    .iter()
                    .map(|refused| reason(Some(refused.part), &refused.reason))
                    .collect(),
            }),
            Verdict::Delivered { .. }
            | Verdict::SkippedByPolicy
            | Verdict::Held(_)
            | Verdict::Retry { .. } => None,
        }
    }

    /// No refusal at all: the record was lost here and found on another disk.
    pub(crate) const fn found(at: Timestamp) -> Self {
        Self { at, parts_taken: 0, parts_refused: 0, reasons: Vec::new() }
    }

    /// Whether nothing of the record was taken.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.reasons.iter().any(|reason| reason.part.is_none())
    }
}

/// One entry of a file of letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Letter(Letter),
    /// The letter before is answered: the record was taken after all, or a person threw the letter away.
    Done(UpstreamName, Sequence),
}

impl Entry {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Entry::Letter(letter) => (LETTER, letter_body(letter)),
            Entry::Done(upstream, sequence) => (DONE, place(upstream, *sequence)),
        };
        let mut out = Vec::with_capacity(HEADER + body.len() + 4);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[FORMAT, kind]);
        out.extend_from_slice(&(body.len() as u64).to_be_bytes());
        out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
        out.extend_from_slice(&body);
        out.extend_from_slice(&crc32fast::hash(&body).to_be_bytes());
        out
    }
}

fn place(upstream: &UpstreamName, sequence: Sequence) -> Vec<u8> {
    let mut out = Vec::with_capacity(80);
    put_text(&mut out, upstream.as_str());
    out.extend_from_slice(&sequence.0.to_be_bytes());
    out
}

fn letter_body(letter: &Letter) -> Vec<u8> {
    let Letter { upstream, sequence, refused, frame } = letter;
    let mut body = place(upstream, *sequence);
    body.extend_from_slice(&refused.at.as_micros().to_be_bytes());
    body.extend_from_slice(&refused.parts_taken.to_be_bytes());
    body.extend_from_slice(&refused.parts_refused.to_be_bytes());
    let reasons = refused.reasons.iter().take(usize::from(u16::MAX));
    body.extend_from_slice(&(reasons.len() as u16).to_be_bytes());
    for reason in reasons {
        body.extend_from_slice(&reason.part.unwrap_or(WHOLE).to_be_bytes());
        body.extend_from_slice(&reason.status.to_be_bytes());
        put_text(&mut body, reason.issue.as_deref().unwrap_or_default());
    }
    body.extend_from_slice(frame);
    body
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = text.len().min(255);
    out.push(length as u8);
    out.extend(text.bytes().take(length));
}

/// What stands at the front of bytes.
pub(crate) enum Found {
    /// An entry of this many bytes.
    Entry(Entry, usize),
    /// An entry of a format this program does not know, of this many bytes.
    Newer(usize),
    /// The bytes end within an entry: a process died while it wrote it, before anybody was told.
    Cut,
    /// No entry begins here.
    Nothing,
}

/// Reads the entry at the front of `bytes`.
pub(crate) fn read(bytes: &[u8]) -> Found {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else {
        let began = bytes.len() >= MAGIC.len() && bytes.starts_with(&MAGIC)
            || bytes.len() < MAGIC.len() && MAGIC.starts_with(bytes);
        return if began { Found::Cut } else { Found::Nothing };
    };
    let mut from = Reader::new(header);
    let fields = (from.array::<4>(), from.u8(), from.u8(), from.u64(), from.u32());
    let (Some(MAGIC), Some(format), Some(kind), Some(length), Some(checksum)) = fields else {
        return Found::Nothing;
    };
    let covered = header.split_last_chunk::<4>().map(|(covered, _)| crc32fast::hash(covered));
    let Ok(length) = usize::try_from(length) else { return Found::Nothing };
    if covered != Some(checksum) {
        return Found::Nothing;
    }
    let Some((body, checksum)) = rest.split_at_checked(length).and_then(|(body, rest)| {
        let (checksum, _) = rest.split_first_chunk::<4>()?;
        Some((body, u32::from_be_bytes(*checksum)))
    }) else {
        return Found::Cut;
    };
    if crc32fast::hash(body) != checksum {
        return Found::Nothing;
    }
    let whole = HEADER + length + 4;
    if format != FORMAT {
        return Found::Newer(whole);
    }
    let entry = match kind {
        LETTER => letter(body).map(Entry::Letter),
        DONE => done(body),
        _ => return Found::Newer(whole),
    };
    entry.map_or(Found::Nothing, |entry| Found::Entry(entry, whole))
}

fn done(body: &[u8]) -> Option<Entry> {
    let mut from = Reader::new(body);
    let upstream = UpstreamName::new(from.text()?).ok()?;
    Some(Entry::Done(upstream, Sequence(from.u64()?)))
}

fn letter(body: &[u8]) -> Option<Letter> {
    let mut from = Reader::new(body);
    let upstream = UpstreamName::new(from.text()?).ok()?;
    let sequence = Sequence(from.u64()?);
    let at = Timestamp::from_micros(from.i64()?);
    let (parts_taken, parts_refused) = (from.u32()?, from.u32()?);
    let reason = |from: &mut Reader<'_>| {
        let (part, status, issue) = (from.u16()?, from.u16()?, from.text()?);
        let part = (part != WHOLE).then_some(part);
        Some(RefusedFor { part, status, issue: (!issue.is_empty()).then(|| issue.to_owned()) })
    };
    let reasons = (0..from.u16()?).map(|_| reason(&mut from)).collect::<Option<_>>()?;
    let frame = from.rest().to_vec();
    let refused = Refusal { at, parts_taken, parts_refused, reasons };
    Some(Letter { upstream, sequence, refused, frame })
}

/// The distance to the next place where an entry may begin, at least 1.
pub(crate) fn next(bytes: &[u8]) -> usize {
    let behind = bytes.get(1..).unwrap_or_default();
    let found = behind.windows(MAGIC.len()).position(|window| window == MAGIC);
    found.map_or(bytes.len().max(1), |place| place + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::testing::{at, upstream};
    use proptest::prelude::*;

    fn some() -> Entry {
        Entry::Letter(Letter {
            upstream: upstream("ehr"),
            sequence: Sequence(7),
            refused: Refusal {
                at: at(3),
                parts_taken: 4,
                parts_refused: 2,
                reasons: vec![
                    RefusedFor { part: Some(2), status: 422, issue: Some("value".to_owned()) },
                    RefusedFor { part: None, status: 413, issue: None },
                ],
            },
            frame: vec![9; 300],
        })
    }

    #[test]
    fn an_entry_is_read_back_as_it_was() {
        for entry in [some(), Entry::Done(upstream("lab"), Sequence(u64::MAX))] {
            let bytes = [entry.bytes(), vec![0xF5; 9]].concat();
            let Found::Entry(read, length) = read(&bytes) else { panic!("no entry") };
            assert_eq!((read, length), (entry, bytes.len() - 9));
        }
    }

    #[test]
    fn a_cut_entry_is_told_from_a_damaged_one() {
        let bytes = some().bytes();
        for end in 0..bytes.len() {
            assert!(matches!(read(&bytes[..end]), Found::Cut), "{end}");
        }
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 0x20;
            assert!(matches!(read(&damaged), Found::Nothing), "{place}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, lead in 0_usize..40) {
            let _ = read(&bytes);
            let framed = [some().bytes()[..lead].to_vec(), bytes].concat();
            let _ = read(&framed);
            prop_assert!(next(&framed) >= 1);
        }
    }
}
