//! Dead letters: a copy of each record that an upstream refused, or refused parts of, with the coded reason.
//!
//! A letter is durable before the record counts as settled, so it outlives the volume the record came from. The record stays
//! sealed: the letter holds the frame as it is. A letter is found in raw bytes like a frame: magic, format, length, CRC-32 (over
//! all but itself and the magic), then upstream, reasons and frame.

use crate::model::name::UpstreamName;
use crate::spool::disk::Disk;
use crate::spool::volume::Database;
use crate::spool::{Reason, Sequence, SpoolError, Verdict};
use std::fs;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 4] = [0xF5, 0xC5, 0x9D, 0xD1];
const FORMAT: u8 = 1;

/// Stands for the whole record where a part's number would be.
const WHOLE: u16 = u16::MAX;

const FOLDER: &str = "dead";

/// The dead letters of this process start. A database is made with the first letter and never opened again by a later
/// start, because opening a damaged one could destroy what a scan still finds.
pub(crate) struct DeadLetters {
    home: PathBuf,
    disk: Disk,
    database: Option<Database>,
}

impl DeadLetters {
    pub(crate) fn new(home: &Path, disk: &Disk) -> Self {
        Self { home: home.join(FOLDER), disk: disk.clone(), database: None }
    }

    /// Keeps these letters; durable when it returns.
    pub(crate) fn keep(&mut self, letters: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), SpoolError> {
        if letters.is_empty() {
            return Ok(());
        }
        let mut database = match self.database.take() {
            Some(database) => database,
            None => self.create()?,
        };
        // A database that failed is left alone: the next letter starts another one.
        let kept = database.write(letters, Vec::new()).and_then(|()| database.sync("sync dead letters"));
        match kept {
            Ok(()) => self.database = Some(database),
            Err(_) => database.abandon(),
        }
        kept
    }

    fn create(&self) -> Result<Database, SpoolError> {
        let act = "make a store for dead letters";
        self.disk.act(act, || fs::create_dir_all(&self.home))?;
        if let Some(home) = self.home.parent() {
            self.disk.sync_folder(act, home)?;
        }
        let entries = self.disk.act(act, || fs::read_dir(&self.home))?;
        let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
        let next = numbers.max().map_or(1, |number| number.saturating_add(1));
        Database::open(&self.home.join(format!("{next:08}")), &self.disk)
    }

    pub(crate) fn close(&mut self) -> Result<(), SpoolError> {
        self.database.take().map_or(Ok(()), Database::close)
    }
}

/// Whether a verdict asks for a letter.
pub(crate) const fn is_refusal(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Refused { .. } => true,
        Verdict::Delivered { refused_parts, .. } => !refused_parts.is_empty(),
        Verdict::SkippedByPolicy | Verdict::Held(_) | Verdict::Retry { .. } => false,
    }
}

/// The letter of a refusal, with its key: one letter an upstream and record, so a repeated refusal replaces the first.
pub(crate) fn letter(
    upstream: &UpstreamName,
    sequence: Sequence,
    verdict: &Verdict,
    frame: &[u8],
) -> (Vec<u8>, Vec<u8>) {
    let reasons: Vec<(u16, Reason)> = match verdict {
        Verdict::Refused { reason, .. } => vec![(WHOLE, *reason)],
        Verdict::Delivered { refused_parts, .. } => {
            refused_parts.iter().map(|refused| (refused.part, refused.reason)).collect()
        }
        Verdict::SkippedByPolicy | Verdict::Held(_) | Verdict::Retry { .. } => Vec::new(),
    };
    let mut body = Vec::with_capacity(frame.len() + 128);
    put_text(&mut body, upstream.as_str());
    body.extend_from_slice(&(reasons.len() as u16).to_be_bytes());
    for (part, reason) in reasons {
        body.extend_from_slice(&part.to_be_bytes());
        body.extend_from_slice(&reason.status.to_be_bytes());
        put_text(&mut body, reason.issue.unwrap_or_default());
    }
    body.extend_from_slice(frame);
    let length = (body.len() as u32).to_be_bytes();
    let mut checksum = crc32fast::Hasher::new();
    [[FORMAT].as_slice(), &length, &body].into_iter().for_each(|part| checksum.update(part));
    let checksum = checksum.finalize().to_be_bytes();
    let letter = [MAGIC.as_slice(), &[FORMAT], &length, &checksum, &body].concat();
    let name = upstream.as_str().as_bytes();
    ([&[name.len() as u8], name, &sequence.0.to_be_bytes()].concat(), letter)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = text.len().min(255);
    out.push(length as u8);
    out.extend(text.bytes().take(length));
}
