//! The sealed frame: one record, encrypted, with everything in front of it that finds, names and opens it again.
//!
//! A frame needs nothing around it: a scan of raw bytes finds it by its magic and its header checksum, and the keyring
//! opens it. Format 1, numbers big-endian:
//!
//! ```text
//!  0  4  magic                     56 32  salt of the process start that sealed it
//!  4  1  format                    88  8  nonce: a count since that start
//!  5  1  flags, all zero           96  4  CRC-32 of the 96 bytes before
//!  6  2  length of what is sealed 100  n  AES-256-GCM ciphertext
//!  8 16  store                         16  tag
//! 24  8  sequence
//! 32  1  kind
//! 33  7  zero
//! 40 16  key id
//! ```
//!
//! The whole header is the associated data, so nothing of it can be changed and no frame can stand in for another.

use crate::privacy::keyring::record_key::TAG;
use crate::privacy::keyring::{DataKeys, KeyError, KeyId, RecordKey, Sealing};
use crate::privacy::record::{Body, Record, decode, encode_into};
use crate::spool::bytes::Reader;
use crate::spool::volume::Packing;
use crate::spool::{Sequence, SpoolError, StoreId, Stored};
use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;

/// A frame is never larger: sled moves larger values into files that leak.
pub(crate) const MAX_FRAME: usize = 8 * 1024;

/// Bytes in front of what is sealed.
pub(crate) const HEADER: usize = 100;

/// Chosen so that it is neither text nor a likely number.
pub(crate) const MAGIC: [u8; 4] = [0xF5, 0xC5, 0x9D, 0xF7];

/// The format this program writes, and the highest it reads.
pub(crate) const FORMAT: u8 = 1;

/// The longest record that fits, encoded.
pub(crate) const MAX_RECORD: usize = MAX_FRAME - HEADER - TAG;

/// What a record says, as far as the outside of its frame tells. Numbers are on disk: never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameKind {
    Values = 1,
    Alarm = 2,
    TreatmentStarted = 3,
    TreatmentEnded = 4,
    Gap = 5,
    ClockStep = 6,
    Evicted = 7,
    Correction = 8,
}

impl FrameKind {
    pub(crate) const fn of(body: &Body) -> Self {
        match body {
            Body::Values(_) => Self::Values,
            Body::Alarm(_) => Self::Alarm,
            Body::TreatmentStarted => Self::TreatmentStarted,
            Body::TreatmentEnded(_) => Self::TreatmentEnded,
            Body::Gap(_) => Self::Gap,
            Body::ClockStep(_) => Self::ClockStep,
            Body::Evicted(_) => Self::Evicted,
            Body::Correction(_) => Self::Correction,
        }
    }

    /// Whether it may use the space that is kept back from readings.
    pub(crate) const fn passes_the_reserve(self) -> bool {
        !matches!(self, Self::Values)
    }

    /// Whether it stays until it is delivered, however full the spool is.
    pub(crate) const fn is_never_evicted(self) -> bool {
        !matches!(self, Self::Values)
    }
}

/// Why bytes are no frame of ours, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameFault {
    #[error("there is no frame here")]
    NoFrame,
    #[error("the header of the frame is damaged")]
    Header,
    #[error("the frame has format {0}, this program knows format {FORMAT}")]
    Format(u8),
    #[error("the frame is cut off")]
    Cut,
    #[error("the key of the frame was destroyed")]
    KeyGone,
    #[error("the frame does not authenticate")]
    Forged,
    #[error("the frame authenticates and its record cannot be read")]
    Record,
}

/// What the outside of a frame says. Only what authenticates may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) sealed: u16,
    pub(crate) store: StoreId,
    pub(crate) sequence: Sequence,
    pub(crate) kind: u8,
    pub(crate) key: KeyId,
    pub(crate) salt: [u8; 32],
    pub(crate) counter: u64,
}

impl Header {
    /// Reads the header at the front of `bytes`.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, FrameFault> {
        let (header, _) = bytes.split_first_chunk::<HEADER>().ok_or(FrameFault::NoFrame)?;
        let (covered, checksum) = header.split_last_chunk::<4>().ok_or(FrameFault::NoFrame)?;
        let mut from = Reader::new(covered);
        if from.array() != Some(MAGIC) {
            return Err(FrameFault::NoFrame);
        }
        if crc32fast::hash(covered).to_be_bytes() != *checksum {
            return Err(FrameFault::Header);
        }
        let mut fields = || {
            let (format, flags) = (from.u8()?, from.u8()?);
            let (sealed, store, sequence) = (from.u16()?, from.array()?, from.u64()?);
            let (kind, zero) = (from.u8()?, from.array::<7>()?);
            let (key, salt, counter) = (from.array()?, from.array()?, from.u64()?);
            let header = Self {
                sealed,
                store: StoreId(store),
                sequence: Sequence(sequence),
                kind,
                key: KeyId(key),
                salt,
                counter,
            };
            Some((format, flags == 0 && zero == [0; 7], header))
        };
        let (format, rest_is_zero, header) = fields().ok_or(FrameFault::NoFrame)?;
        if format != FORMAT {
            return Err(FrameFault::Format(format));
        }
        let fits = (TAG..=MAX_FRAME - HEADER).contains(&usize::from(header.sealed));
        if fits && rest_is_zero { Ok(header) } else { Err(FrameFault::Header) }
    }

    fn write(&self) -> [u8; HEADER] {
        let fields: [&[u8]; 10] = [
            &MAGIC,
            &[FORMAT, 0],
            &self.sealed.to_be_bytes(),
            &self.store.0,
            &self.sequence.0.to_be_bytes(),
            &[self.kind],
            &[0; 7],
            &self.key.0,
            &self.salt,
            &self.counter.to_be_bytes(),
        ];
        let mut out = [0; HEADER];
        if let Some((covered, checksum)) = out.split_last_chunk_mut::<4>() {
            let mut rest = &mut *covered;
            // They fill it: it has the length of all fields.
            fields.iter().for_each(|field| drop(rest.write_all(field)));
            *checksum = crc32fast::hash(covered).to_be_bytes();
        }
        out
    }

    /// The length of the whole frame.
    pub(crate) const fn frame_length(&self) -> usize {
        HEADER + self.sealed as usize
    }
}

/// Splits the frame at the front of `bytes` from what follows it.
pub(crate) fn split(bytes: &[u8]) -> Result<(Header, &[u8], &[u8]), FrameFault> {
    let header = Header::read(bytes)?;
    let (frame, rest) = bytes.split_at_checked(header.frame_length()).ok_or(FrameFault::Cut)?;
    Ok((header, frame, rest))
}

/// Seals records. One exists per store and process start: its salt is fresh and its counter never goes back.
pub(crate) struct Sealer {
    sealing: Sealing,
    counter: u64,
    keys: Arc<dyn DataKeys>,
}

impl Sealer {
    /// A sealer with a salt that was never used before.
    pub(crate) fn new(store: StoreId, salt: [u8; 32], keys: Arc<dyn DataKeys>) -> Self {
        Self { sealing: Sealing { store: store.0, salt }, counter: 0, keys }
    }

    /// The records as rows of frames, from this sequence on.
    ///
    /// # Errors
    /// `TooLarge`, or `Key` and `Disk` of the keyring.
    pub(crate) fn seal_all(&mut self, first: Sequence, batch: &[Record]) -> Result<Packing, SpoolError> {
        let mut rows = Packing::new(batch.len());
        for (sequence, record) in (first.0..).map(Sequence).zip(batch) {
            rows.add(sequence, |row| self.seal_into(row, sequence, record))?;
        }
        Ok(rows)
    }

    /// One record as a frame.
    #[cfg(test)]
    pub(crate) fn seal(&mut self, sequence: Sequence, record: &Record) -> Result<Vec<u8>, SpoolError> {
        let mut frame = Vec::new();
        self.seal_into(&mut frame, sequence, record).map(|()| frame)
    }

    /// A frame that authenticates and says nothing that this program knows.
    #[cfg(test)]
    pub(crate) fn seal_a_riddle(&mut self, sequence: Sequence) -> Vec<u8> {
        let mut text = b"from another time".to_vec();
        let (store, salt, counter) = (StoreId(self.sealing.store), self.sealing.salt, self.counter);
        self.counter += 1;
        let (sealed, key) = ((text.len() + TAG) as u16, KeyId::FACILITY);
        let front = Header { sealed, store, sequence, kind: 200, key, salt, counter }.write();
        let tag = self.keys.record_key(key, &self.sealing).unwrap().seal(counter, &front, &mut text).unwrap();
        [front.as_slice(), &text, &tag].concat()
    }

    /// Appends the record's frame. What is in the row behind an error is of no use.
    fn seal_into(
        &mut self,
        row: &mut Vec<u8>,
        sequence: Sequence,
        record: &Record,
    ) -> Result<(), SpoolError> {
        let start = row.len();
        row.extend_from_slice(&[0; HEADER]);
        encode_into(record, row);
        let length = row.len() - start - HEADER;
        if length > MAX_RECORD {
            return Err(SpoolError::TooLarge(length));
        }
        let header = Header {
            sealed: u16::try_from(length + TAG).map_err(|_| SpoolError::TooLarge(length))?,
            store: StoreId(self.sealing.store),
            sequence,
            kind: FrameKind::of(record.body()) as u8,
            key: record.treatment().map_or(KeyId::FACILITY, KeyId::from),
            salt: self.sealing.salt,
            counter: self.counter,
        };
        let key = self.keys.record_key(header.key, &self.sealing).map_err(refused)?;
        // Counted before use: whatever happens next, this nonce is spent.
        self.counter = self.counter.checked_add(1).ok_or(NO_CIPHER)?;
        let place = row.get_mut(start..).and_then(|frame| frame.split_first_chunk_mut::<HEADER>());
        let (front, text) = place.ok_or(NO_CIPHER)?;
        *front = header.write();
        let tag = key.seal(header.counter, front, text).ok_or(NO_CIPHER)?;
        row.extend_from_slice(&tag);
        Ok(())
    }
}

const NO_CIPHER: SpoolError = SpoolError::Engine { act: "seal a record", why: "the cipher refuses" };

fn refused(error: KeyError) -> SpoolError {
    match error {
        KeyError::Write(source) => super::disk::refusal("write the keyring for a record", source),
        KeyError::Cryptography => NO_CIPHER,
        KeyError::Destroyed => SpoolError::Key,
    }
}

/// Opens frames. It keeps derived keys, so it lives no longer than one act: a key that is destroyed is gone.
pub(crate) struct Opener<'a> {
    keys: &'a dyn DataKeys,
    derived: HashMap<Derivation, Option<RecordKey>>,
}

/// What a record key is derived from, beside the data key: store, key id and salt.
type Derivation = ([u8; 16], [u8; 16], [u8; 32]);

/// Derived keys kept at most, so that a hostile file cannot fill the memory with keys.
const DERIVED: usize = 512;

impl<'a> Opener<'a> {
    pub(crate) fn new(keys: &'a dyn DataKeys) -> Self {
        Self { keys, derived: HashMap::new() }
    }

    /// Whether the frame authenticates, and what its outside says.
    pub(crate) fn authenticate(&mut self, frame: &[u8]) -> Result<Header, FrameFault> {
        self.unseal(frame).map(|(header, _)| header)
    }

    /// The record in the frame.
    pub(crate) fn open(&mut self, frame: &[u8]) -> Result<Stored, FrameFault> {
        let (header, text) = self.unseal(frame)?;
        let record = decode(&text).map_err(|_| FrameFault::Record)?;
        let key = record.treatment().map_or(KeyId::FACILITY, KeyId::from);
        if key != header.key || FrameKind::of(record.body()) as u8 != header.kind {
            return Err(FrameFault::Record);
        }
        Ok(Stored { store: header.store, sequence: header.sequence, record })
    }

    fn unseal(&mut self, frame: &[u8]) -> Result<(Header, Vec<u8>), FrameFault> {
        let (header, frame, _) = split(frame)?;
        let (front, sealed) = frame.split_at_checked(HEADER).ok_or(FrameFault::Cut)?;
        if self.derived.len() >= DERIVED {
            self.derived.clear();
        }
        let keys = self.keys;
        let cipher = self.derived.entry((header.store.0, header.key.0, header.salt)).or_insert_with(|| {
            let sealing = Sealing { store: header.store.0, salt: header.salt };
            RecordKey::derive(&keys.open_key(header.key)?, header.key, &sealing)
        });
        let cipher = cipher.as_ref().ok_or(FrameFault::KeyGone)?;
        let mut text = sealed.to_vec();
        let length = cipher.open(header.counter, front, &mut text).ok_or(FrameFault::Forged)?;
        text.truncate(length);
        Ok((header, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::testing::{Keys, record, record_of, treatment};
    use proptest::prelude::*;

    const STORE: StoreId = StoreId([3; 16]);

    fn sealer(keys: &Arc<Keys>) -> Sealer {
        Sealer::new(STORE, [9; 32], keys.clone())
    }

    #[test]
    fn a_sealed_record_comes_back_with_its_place() {
        let keys = Arc::new(Keys::default());
        let frame = sealer(&keys).seal(Sequence(7), &record(1)).unwrap();
        let opened = Opener::new(&*keys).open(&frame).unwrap();
        assert_eq!(opened, Stored { store: STORE, sequence: Sequence(7), record: record(1) });
    }

    #[test]
    fn no_nonce_is_used_twice_under_one_salt() {
        let keys = Arc::new(Keys::default());
        let mut sealer = sealer(&keys);
        let mut seen = std::collections::HashSet::new();
        for n in 0..100 {
            let frame = sealer.seal(Sequence(1), &record_of(treatment((n % 3) as u8 + 1), n)).unwrap();
            assert!(seen.insert(Header::read(&frame).unwrap().counter));
        }
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let keys = Arc::new(Keys::default());
        let frame = sealer(&keys).seal(Sequence(7), &record(1)).unwrap();
        for place in 0..frame.len() {
            for bit in 0..8 {
                let mut damaged = frame.clone();
                damaged[place] ^= 1 << bit;
                assert!(Opener::new(&*keys).open(&damaged).is_err(), "byte {place}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_header_rewritten_with_a_right_checksum_does_not_authenticate() {
        let keys = Arc::new(Keys::default());
        let frame = sealer(&keys).seal(Sequence(7), &record(1)).unwrap();
        let header = Header::read(&frame).unwrap();
        let forgeries = [
            Header { sequence: Sequence(8), ..header },
            Header { store: StoreId([4; 16]), ..header },
            Header { kind: FrameKind::Alarm as u8, ..header },
            Header { counter: 1, ..header },
            Header { salt: [8; 32], ..header },
            Header { key: treatment(1).into(), ..header },
        ];
        keys.seal_key(treatment(1).into()).unwrap();
        for forgery in forgeries {
            let forged = [forgery.write().as_slice(), &frame[HEADER..]].concat();
            assert_eq!(Opener::new(&*keys).open(&forged), Err(FrameFault::Forged), "{forgery:?}");
        }
    }

    #[test]
    fn a_frame_of_a_destroyed_key_says_so() {
        let keys = Arc::new(Keys::default());
        let frame = sealer(&keys).seal(Sequence(7), &record_of(treatment(1), 1)).unwrap();
        keys.destroy(treatment(1).into());
        assert_eq!(Opener::new(&*keys).open(&frame), Err(FrameFault::KeyGone));
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let keys = Arc::new(Keys::default());
        let mut frame = sealer(&keys).seal(Sequence(7), &record(1)).unwrap();
        frame[4] = 2;
        let checksum = crc32fast::hash(&frame[..HEADER - 4]).to_be_bytes();
        frame[HEADER - 4..HEADER].copy_from_slice(&checksum);
        assert_eq!(Opener::new(&*keys).open(&frame), Err(FrameFault::Format(2)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes: Vec<u8>) {
            prop_assert!(Opener::new(&Keys::default()).open(&bytes).is_err());
        }

        #[test]
        fn any_fields_behind_a_right_magic_and_checksum_are_refused(
            mut covered in proptest::collection::vec(any::<u8>(), HEADER - 4),
            behind in proptest::collection::vec(any::<u8>(), 0..300),
            sealed in 0_u16..400,
        ) {
            covered[..4].copy_from_slice(&MAGIC);
            covered[4..6].copy_from_slice(&[FORMAT, 0]);
            covered[6..8].copy_from_slice(&sealed.to_be_bytes());
            covered[33..56].fill(0);
            let checksum = crc32fast::hash(&covered).to_be_bytes();
            let bytes = [covered, checksum.to_vec(), behind].concat();
            let keys = Keys::default();
            keys.seal_key(KeyId::FACILITY).unwrap();
            prop_assert!(Opener::new(&keys).open(&bytes).is_err());
        }
    }
}
