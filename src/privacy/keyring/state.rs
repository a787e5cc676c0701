//! What the keyring holds, in memory and in its sealed form: keys, patients' rows, treatments with their bindings, seats.

use crate::model::alarm::Alarm;
use crate::model::name::{ChairName, MachineName, UpstreamName};
use crate::model::time::Timestamp;
use crate::privacy::bytes::{ReadError, Reader, Write};
use crate::privacy::crypto::{Refused, Secret};
use crate::privacy::keyring::KeyId;
use crate::privacy::record::{Correction, OpenAlarm, Revision, TreatmentId};
use chairside_drivers::kit::decimal::Decimal;
use chairside_drivers::kit::time::Tick;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// A patient: a random row that stands for a record number. No `Debug`: it is what pseudonyms are made from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::privacy) struct RowId(pub(in crate::privacy) [u8; 16]);

/// Everything in the keyring. A change makes a new one, and the old one stays in force until the new one is durable.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::privacy) struct State {
    /// Finds a patient's row by record number.
    pub(in crate::privacy) lookup: Secret,
    /// The data key of everything that belongs to no treatment.
    pub(in crate::privacy) facility: Secret,
    /// A pseudonym key per recipient.
    pub(in crate::privacy) recipients: BTreeMap<UpstreamName, Secret>,
    /// MAC of the canonical record number to row.
    pub(in crate::privacy) patients: BTreeMap<[u8; 32], RowId>,
    pub(in crate::privacy) treatments: BTreeMap<TreatmentId, Treatment>,
    pub(in crate::privacy) chairs: BTreeMap<ChairName, Chair>,
    /// Corrections that may not be in the spool yet: a crash between the two must not lose one.
    pub(in crate::privacy) untold: Vec<Correction>,
}

/// A treatment with its data key and who it is.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::privacy) struct Treatment {
    pub(in crate::privacy) key: Secret,
    pub(in crate::privacy) chair: ChairName,
    pub(in crate::privacy) machine: MachineName,
    pub(in crate::privacy) started: Timestamp,
    pub(in crate::privacy) ended: Option<Timestamp>,
    /// The patient of revision 1, 2, ...; empty is revision 0, no patient.
    pub(in crate::privacy) bindings: Vec<RowId>,
}

/// What a chair remembers between two acts.
#[derive(Clone, Default, PartialEq, Eq)]
pub(in crate::privacy) struct Chair {
    pub(in crate::privacy) running: Option<TreatmentId>,
    /// The last one that ended, if it is the last that ran.
    pub(in crate::privacy) last: Option<TreatmentId>,
    /// Elapsed time on the machine at a moment of the running treatment.
    pub(in crate::privacy) progress: Option<(Timestamp, Decimal)>,
    /// A seat that waits for the chair's next treatment.
    pub(in crate::privacy) waiting: Option<Waiting>,
    /// A seat that came while another patient's treatment ran.
    pub(in crate::privacy) early: Option<Early>,
    /// No late seat reaches the last treatment: it is of two words, or the clock cannot tell how long ago it ended.
    pub(in crate::privacy) late_closed: bool,
    /// By how many microseconds the wall clock was set forward since the running treatment began.
    pub(in crate::privacy) stepped: i64,
    /// A tick at which the wall clock was looked at and what it showed: the times above are of that clock.
    pub(in crate::privacy) clock: Option<(Tick, Timestamp)>,
    /// Alarms that were told to be on.
    pub(in crate::privacy) alarms: Vec<OpenAlarm>,
}

/// A seat that came while another patient's treatment ran: it is for the treatment that the machine begins next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::privacy) struct Early {
    /// The treatment that ran, up to the seat.
    pub(in crate::privacy) before: TreatmentId,
    /// What ran on from the seat: of two words, so nobody's.
    pub(in crate::privacy) piece: TreatmentId,
    /// Whom the seat is for, and since when; `None` once it is void.
    pub(in crate::privacy) seat: Option<Waiting>,
    /// The least elapsed time that the machine showed in the piece; the treatment that comes next shows less.
    pub(in crate::privacy) elapsed: Option<Decimal>,
}

/// A seat that waits for the chair's next treatment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::privacy) struct Waiting {
    pub(in crate::privacy) row: RowId,
    pub(in crate::privacy) since: Timestamp,
}

impl Treatment {
    /// The binding in force.
    pub(in crate::privacy) fn revision(&self) -> Revision {
        Revision(u32::try_from(self.bindings.len()).unwrap_or(u32::MAX))
    }

    /// The patient in force.
    pub(in crate::privacy) fn patient(&self) -> Option<RowId> {
        self.bindings.last().copied()
    }

    /// The patient of a revision; 0 is nobody.
    pub(in crate::privacy) fn patient_of(&self, revision: Revision) -> Option<RowId> {
        self.bindings.get(usize::try_from(revision.0.checked_sub(1)?).ok()?).copied()
    }
}

const RUNNING: u8 = 1;
const LAST: u8 = 1 << 1;
const PROGRESS: u8 = 1 << 2;
const WAITING: u8 = 1 << 3;
const EARLY: u8 = 1 << 4;
const EARLY_SEAT: u8 = 1 << 5;
const LATE_CLOSED: u8 = 1 << 6;
const CLOCK: u8 = 1 << 7;

impl State {
    /// New keys and nothing else.
    pub(in crate::privacy) fn new() -> Result<Self, Refused> {
        Ok(Self {
            lookup: Secret::random()?,
            facility: Secret::random()?,
            recipients: BTreeMap::new(),
            patients: BTreeMap::new(),
            treatments: BTreeMap::new(),
            chairs: BTreeMap::new(),
            untold: Vec::new(),
        })
    }

    /// The data key of this id.
    pub(in crate::privacy) fn data_key(&self, id: KeyId) -> Option<&Secret> {
        if id == KeyId::FACILITY {
            return Some(&self.facility);
        }
        self.treatments.get(&TreatmentId::from_bytes(id.0)).map(|treatment| &treatment.key)
    }

    pub(in crate::privacy) fn encode(&self) -> Zeroizing<Vec<u8>> {
        // Room from the start: a buffer that grows would leave keys behind in freed memory. Names have at most 64 bytes.
        let bindings: usize = self.treatments.values().map(|treatment| treatment.bindings.len()).sum();
        let alarms: usize = self.chairs.values().map(|chair| chair.alarms.len()).sum();
        let room = 128
            + self.recipients.len() * 98
            + self.patients.len() * 48
            + self.treatments.len() * 216
            + bindings * 16
            + self.chairs.len() * 285
            + alarms * 98
            + self.untold.len() * 26;
        let mut out = Zeroizing::new(Vec::with_capacity(room));
        out.extend_from_slice(self.lookup.as_bytes());
        out.extend_from_slice(self.facility.as_bytes());
        out.put_varint(self.recipients.len() as u64);
        for (name, key) in &self.recipients {
            out.put_text(name.as_str());
            out.extend_from_slice(key.as_bytes());
        }
        out.put_varint(self.patients.len() as u64);
        for (mac, row) in &self.patients {
            out.extend_from_slice(mac);
            out.extend_from_slice(&row.0);
        }
        out.put_varint(self.treatments.len() as u64);
        for (id, treatment) in &self.treatments {
            out.extend_from_slice(id.as_bytes());
            put_treatment(&mut out, treatment);
        }
        out.put_varint(self.chairs.len() as u64);
        for (name, chair) in &self.chairs {
            out.put_text(name.as_str());
            put_chair(&mut out, chair);
        }
        out.put_varint(self.untold.len() as u64);
        for Correction { treatment, old, new } in &self.untold {
            out.extend_from_slice(treatment.as_bytes());
            out.put_varint(u64::from(old.0));
            out.put_varint(u64::from(new.0));
        }
        out
    }

    pub(in crate::privacy) fn decode(bytes: &[u8]) -> Result<Self, ReadError> {
        let mut from = Reader::new(bytes);
        let lookup = Secret::from_bytes(from.array("lookup key")?);
        let facility = Secret::from_bytes(from.array("facility key")?);
        let mut state = Self {
            lookup,
            facility,
            recipients: BTreeMap::new(),
            patients: BTreeMap::new(),
            treatments: BTreeMap::new(),
            chairs: BTreeMap::new(),
            untold: Vec::new(),
        };
        for _ in 0..from.varint("number of recipients")? {
            let name =
                UpstreamName::new(from.text("recipient")?).map_err(|_| ReadError::Text("recipient"))?;
            state.recipients.insert(name, Secret::from_bytes(from.array("recipient key")?));
        }
        for _ in 0..from.varint("number of patients")? {
            let mac = from.array("patient")?;
            state.patients.insert(mac, RowId(from.array("row")?));
        }
        for _ in 0..from.varint("number of treatments")? {
            let id = TreatmentId::from_bytes(from.array("treatment")?);
            state.treatments.insert(id, treatment(&mut from)?);
        }
        for _ in 0..from.varint("number of chairs")? {
            let name = chair_name(&mut from)?;
            state.chairs.insert(name, chair(&mut from)?);
        }
        for _ in 0..from.varint("number of corrections")? {
            let treatment = TreatmentId::from_bytes(from.array("corrected treatment")?);
            let old = Revision(from.number("old revision")?);
            let new = Revision(from.number("new revision")?);
            state.untold.push(Correction { treatment, old, new });
        }
        from.end()?;
        Ok(state)
    }
}

fn put_treatment(out: &mut Vec<u8>, treatment: &Treatment) {
    out.extend_from_slice(treatment.key.as_bytes());
    out.put_text(treatment.chair.as_str());
    out.put_text(treatment.machine.as_str());
    out.put_zigzag(treatment.started.as_micros());
    match treatment.ended {
        Some(ended) => {
            out.push(1);
            out.put_zigzag(ended.as_micros());
        }
        None => out.push(0),
    }
    out.put_varint(treatment.bindings.len() as u64);
    treatment.bindings.iter().for_each(|row| out.extend_from_slice(&row.0));
}

fn treatment(from: &mut Reader<'_>) -> Result<Treatment, ReadError> {
    let key = Secret::from_bytes(from.array("treatment key")?);
    let chair = chair_name(from)?;
    let machine = MachineName::new(from.text("machine")?).map_err(|_| ReadError::Text("machine"))?;
    let started = timestamp(from, "start")?;
    let ended = match from.byte("end flag")? {
        0 => None,
        1 => Some(timestamp(from, "end")?),
        _ => return Err(ReadError::Number("end flag")),
    };
    let mut bindings = Vec::new();
    for _ in 0..from.varint("number of bindings")? {
        bindings.push(RowId(from.array("binding")?));
    }
    Ok(Treatment { key, chair, machine, started, ended, bindings })
}

fn put_chair(out: &mut Vec<u8>, chair: &Chair) {
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    out.push(
        flag(chair.running.is_some(), RUNNING)
            | flag(chair.last.is_some(), LAST)
            | flag(chair.progress.is_some(), PROGRESS)
            | flag(chair.waiting.is_some(), WAITING)
            | flag(chair.early.is_some(), EARLY)
            | flag(chair.early.is_some_and(|early| early.seat.is_some()), EARLY_SEAT)
            | flag(chair.late_closed, LATE_CLOSED)
            | flag(chair.clock.is_some(), CLOCK),
    );
    out.put_zigzag(chair.stepped);
    if let Some((tick, at)) = chair.clock {
        out.put_varint(tick.as_micros());
        out.put_zigzag(at.as_micros());
    }
    for id in [chair.running, chair.last].into_iter().flatten() {
        out.extend_from_slice(id.as_bytes());
    }
    if let Some((at, elapsed)) = chair.progress {
        out.put_zigzag(at.as_micros());
        put_decimal(out, elapsed);
    }
    if let Some(waiting) = chair.waiting {
        put_waiting(out, waiting);
    }
    if let Some(early) = chair.early {
        out.extend_from_slice(early.before.as_bytes());
        out.extend_from_slice(early.piece.as_bytes());
        if let Some(seat) = early.seat {
            put_waiting(out, seat);
        }
        out.push(u8::from(early.elapsed.is_some()));
        if let Some(elapsed) = early.elapsed {
            put_decimal(out, elapsed);
        }
    }
    out.put_varint(chair.alarms.len() as u64);
    for OpenAlarm { alarm, raw, occurrence, machine, treatment } in &chair.alarms {
        out.put_varint(u64::from(alarm.row().number));
        out.put_varint(u64::from(*raw));
        out.put_varint(u64::from(*occurrence));
        out.put_text(machine.as_str());
        out.push(u8::from(treatment.is_some()));
        if let Some(treatment) = treatment {
            out.extend_from_slice(treatment.as_bytes());
        }
    }
}

fn put_waiting(out: &mut Vec<u8>, Waiting { row, since }: Waiting) {
    out.extend_from_slice(&row.0);
    out.put_zigzag(since.as_micros());
}

fn put_decimal(out: &mut Vec<u8>, number: Decimal) {
    out.put_zigzag(number.mantissa());
    out.push(number.scale());
}

fn chair(from: &mut Reader<'_>) -> Result<Chair, ReadError> {
    let flags = from.byte("chair flags")?;
    let mut chair = Chair {
        late_closed: flags & LATE_CLOSED != 0,
        stepped: from.zigzag("clock steps")?,
        ..Chair::default()
    };
    if flags & CLOCK != 0 {
        let tick = Tick::from_micros(from.varint("clock tick")?);
        chair.clock = Some((tick, timestamp(from, "clock time")?));
    }
    if flags & RUNNING != 0 {
        chair.running = Some(TreatmentId::from_bytes(from.array("running treatment")?));
    }
    if flags & LAST != 0 {
        chair.last = Some(TreatmentId::from_bytes(from.array("last treatment")?));
    }
    if flags & PROGRESS != 0 {
        let at = timestamp(from, "progress time")?;
        chair.progress = Some((at, decimal(from)?));
    }
    if flags & WAITING != 0 {
        chair.waiting = Some(waiting(from)?);
    }
    if flags & EARLY != 0 {
        let before = TreatmentId::from_bytes(from.array("treatment before")?);
        let piece = TreatmentId::from_bytes(from.array("treatment since the seat")?);
        let seat = if flags & EARLY_SEAT != 0 { Some(waiting(from)?) } else { None };
        let elapsed = match from.byte("elapsed flag")? {
            0 => None,
            1 => Some(decimal(from)?),
            _ => return Err(ReadError::Number("elapsed flag")),
        };
        chair.early = Some(Early { before, piece, seat, elapsed });
    }
    for _ in 0..from.varint("number of alarms")? {
        let number: u16 = from.number("alarm")?;
        let raw = from.number("machine code")?;
        let occurrence = from.number("occurrence")?;
        let machine = MachineName::new(from.text("machine")?).map_err(|_| ReadError::Text("machine"))?;
        let treatment = match from.byte("treatment flag")? {
            0 => None,
            1 => Some(TreatmentId::from_bytes(from.array("treatment of an alarm")?)),
            _ => return Err(ReadError::Number("treatment flag")),
        };
        let alarm = Alarm::from_number(number);
        let alarm = alarm.ok_or(ReadError::Number("alarm"))?;
        chair.alarms.push(OpenAlarm { alarm, raw, occurrence, machine, treatment });
    }
    Ok(chair)
}

fn waiting(from: &mut Reader<'_>) -> Result<Waiting, ReadError> {
    let row = RowId(from.array("waiting row")?);
    Ok(Waiting { row, since: timestamp(from, "waiting since")? })
}

fn decimal(from: &mut Reader<'_>) -> Result<Decimal, ReadError> {
    let mantissa = from.zigzag("elapsed time")?;
    Decimal::new(mantissa, from.byte("elapsed scale")?).ok_or(ReadError::Number("elapsed scale"))
}

fn chair_name(from: &mut Reader<'_>) -> Result<ChairName, ReadError> {
    ChairName::new(from.text("chair")?).map_err(|_| ReadError::Text("chair"))
}

fn timestamp(from: &mut Reader<'_>, field: &'static str) -> Result<Timestamp, ReadError> {
    from.zigzag(field).map(Timestamp::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full() -> State {
        let mut state = State::new().unwrap();
        let chair = ChairName::new(&"c".repeat(64)).unwrap();
        let id = TreatmentId::from_bytes([5; 16]);
        state.recipients.insert(UpstreamName::new(&"u".repeat(64)).unwrap(), Secret::from_bytes([1; 32]));
        state.patients.insert([2; 32], RowId([3; 16]));
        for (ended, bindings) in
            [(None, vec![]), (Some(Timestamp::from_micros(i64::MAX)), vec![RowId([3; 16]); 3])]
        {
            let treatment = Treatment {
                key: Secret::from_bytes([4; 32]),
                chair: chair.clone(),
                machine: MachineName::new(&"m".repeat(64)).unwrap(),
                started: Timestamp::from_micros(i64::MIN),
                ended,
                bindings,
            };
            state.treatments.insert(TreatmentId::from_bytes([state.treatments.len() as u8; 16]), treatment);
        }
        state.chairs.insert(ChairName::new("empty").unwrap(), Chair::default());
        state.chairs.insert(
            chair,
            Chair {
                running: Some(id),
                last: Some(id),
                progress: Some((Timestamp::from_micros(i64::MIN), Decimal::new(i64::MIN, 18).unwrap())),
                waiting: Some(Waiting { row: RowId([3; 16]), since: Timestamp::from_micros(i64::MAX) }),
                early: Some(Early {
                    before: id,
                    piece: id,
                    seat: Some(Waiting { row: RowId([3; 16]), since: Timestamp::from_micros(i64::MIN) }),
                    elapsed: Decimal::new(i64::MIN, 18),
                }),
                late_closed: true,
                stepped: i64::MIN,
                clock: Some((Tick::from_micros(u64::MAX), Timestamp::from_micros(i64::MIN))),
                alarms: vec![
                    OpenAlarm {
                        alarm: Alarm::from_key("blood_leak").unwrap(),
                        raw: u32::MAX,
                        occurrence: u32::MAX,
                        machine: MachineName::new(&"m".repeat(64)).unwrap(),
                        treatment: Some(id),
                    };
                    2
                ],
            },
        );
        state.untold.push(Correction { treatment: id, old: Revision(u32::MAX - 1), new: Revision(u32::MAX) });
        state
    }

    #[test]
    fn what_is_written_is_read_back_and_the_buffer_never_grew() {
        let state = full();
        let bytes = state.encode();
        assert!(State::decode(&bytes) == Ok(state.clone()));
        assert!(bytes.len() <= 128 + 98 + 48 + 2 * 216 + 3 * 16 + 2 * 285 + 2 * 98 + 26, "{}", bytes.len());
    }

    #[test]
    fn a_cut_state_is_refused() {
        let bytes = full().encode();
        for end in 0..bytes.len() {
            assert!(State::decode(&bytes[..end]).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = State::decode(&bytes);
        }
    }
}
