//! The one binary form of a record: versioned, compact, with one spelling per record.
//!
//! Format 1, in order: format, body kind, flags, capture time (zigzag varint), tick, slot where flagged, time since the
//! previous values where flagged, treatment id where flagged, chair, machine, model, body. Integers are varints in
//! their shortest form. What the format does not know is an error with its reason, never dropped.

use super::bytes::{ReadError, Reader, Write, varint, zigzag};
use super::record::{Body, Correction, Gap, GapCause, LossCause, Record, Revision, Tombstone, TreatmentId};
use crate::model::alarm::{Alarm, AlarmEdge, Phase};
use crate::model::name::{ChairName, MachineName, NameError};
use crate::model::parameter::{Kind, Parameter};
use crate::model::time::{ClockStep, ClockTrust, Timestamp};
use crate::model::value::{Doubts, Mark, Reading, Value};
use crate::normalise::{EndReason, Origin};
use chairside_drivers::kit::decimal::Decimal;
use chairside_drivers::kit::driver::ModelId;
use chairside_drivers::kit::time::{Slot, Tick};

/// The format this program writes, and the only one it reads.
const FORMAT: u8 = 1;

/// Why bytes are no record of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written in a format we do not know.
    #[error("the record has format {0}, this program knows format {FORMAT}")]
    Format(u8),
    /// Not readable as the fields of a record.
    #[error("read the record")]
    Bytes(#[from] ReadError),
    /// A code this program does not know, from a newer one.
    #[error("the record has {0} {1}, which this program does not know")]
    Unknown(&'static str, u32),
    /// A parameter whose row this program does not have.
    #[error("the record has parameter number {0}, which this program's table does not have")]
    Parameter(u16),
    /// A state that is not in the parameter's row.
    #[error("the record has a state of `{0}` that this program's table does not have")]
    State(&'static str),
    /// An alarm whose row this program does not have.
    #[error("the record has alarm number {0}, which this program's table does not have")]
    Alarm(u16),
    /// A second way to write what has a shorter one.
    #[error("the {0} is not written in its shortest form")]
    Spelling(&'static str),
    /// A name that is no name.
    #[error("the {0} of the record is no name")]
    Name(&'static str, #[source] NameError),
}

const UNTRUSTED: u8 = 1;
const SIMULATED: u8 = 1 << 1;
const SLOT: u8 = 1 << 2;
const PREVIOUS: u8 = 1 << 3;
const TREATMENT: u8 = 1 << 4;
const FLAGS: u8 = 0b1_1111;

/// The record as bytes; about 250 for a poll of 36 values.
#[must_use]
pub fn encode(record: &Record) -> Vec<u8> {
    let mut out = Vec::with_capacity(320);
    encode_into(record, &mut out);
    out
}

/// Appends what [`encode`] gives.
pub fn encode_into(record: &Record, out: &mut Vec<u8>) {
    let origin = record.origin();
    out.push(FORMAT);
    out.push(kind(record.body()));
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    out.push(
        flag(origin.clock != ClockTrust::Trusted, UNTRUSTED)
            | flag(origin.simulated, SIMULATED)
            | flag(origin.slot.is_some(), SLOT)
            | flag(origin.previous.is_some(), PREVIOUS)
            | flag(record.treatment().is_some(), TREATMENT),
    );
    out.put_zigzag(origin.at.as_micros());
    out.put_varint(origin.tick.as_micros());
    if let Some(Slot(slot)) = origin.slot {
        out.put_varint(slot);
    }
    if let Some(previous) = origin.previous {
        out.put_zigzag(origin.at.as_micros().wrapping_sub(previous.as_micros()));
    }
    if let Some(treatment) = record.treatment() {
        out.extend_from_slice(treatment.as_bytes());
    }
    out.put_text(origin.chair.as_str());
    out.put_text(origin.machine.as_str());
    out.put_text(origin.model.as_str());
    put_body(out, record.body());
}

/// The record of these bytes.
///
/// # Errors
/// [`DecodeError`] names the field and what is wrong with it; nothing is skipped or guessed.
pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    let mut from = Reader::new(bytes);
    let format = from.byte("format")?;
    if format != FORMAT {
        return Err(DecodeError::Format(format));
    }
    let kind = from.byte("kind")?;
    let flags = from.byte("flags")?;
    if flags & !FLAGS != 0 {
        return Err(DecodeError::Unknown("flags", u32::from(flags)));
    }
    let set = |bit: u8| flags & bit != 0;
    let at = from.zigzag("time")?;
    let tick = Tick::from_micros(from.varint("tick")?);
    let slot = if set(SLOT) { Some(Slot(from.varint("slot")?)) } else { None };
    let previous = if set(PREVIOUS) {
        Some(Timestamp::from_micros(at.wrapping_sub(from.zigzag("previous time")?)))
    } else {
        None
    };
    let treatment = if set(TREATMENT) { Some(treatment_id(&mut from)?) } else { None };
    let chair = ChairName::new(from.text("chair")?).map_err(|why| DecodeError::Name("chair", why))?;
    let machine = MachineName::new(from.text("machine")?).map_err(|why| DecodeError::Name("machine", why))?;
    let model = ModelId::from_owned(from.text("model")?.to_owned());
    let body = body(&mut from, kind)?;
    from.end()?;
    let origin = Origin {
        chair,
        machine,
        model,
        at: Timestamp::from_micros(at),
        tick,
        clock: if set(UNTRUSTED) { ClockTrust::Untrusted } else { ClockTrust::Trusted },
        slot,
        previous,
        simulated: set(SIMULATED),
    };
    Ok(Record::assemble(origin, treatment, body))
}

const fn kind(body: &Body) -> u8 {
    match body {
        Body::Values(_) => 1,
        Body::Alarm(_) => 2,
        Body::TreatmentStarted => 3,
        Body::TreatmentEnded(_) => 4,
        Body::Gap(_) => 5,
        Body::ClockStep(_) => 6,
        Body::Evicted(_) => 7,
        Body::Correction(_) => 8,
    }
}

fn put_body(out: &mut Vec<u8>, body: &Body) {
    match body {
        Body::Values(values) => {
            out.put_varint(values.len() as u64);
            values.iter().for_each(|value| put_value(out, value));
        }
        Body::Alarm(edge) => put_alarm(out, edge),
        Body::TreatmentStarted => {}
        Body::TreatmentEnded(reason) => out.push(end_code(*reason)),
        Body::Gap(gap) => {
            put_span(out, gap.from, gap.to);
            out.put_varint(u64::from(gap.slots));
            out.push(gap_code(gap.cause));
        }
        Body::ClockStep(step) => put_span(out, step.expected, step.found),
        Body::Evicted(tombstone) => {
            put_span(out, tombstone.from, tombstone.to);
            out.put_varint(tombstone.records);
            out.put_varint(tombstone.first);
            out.put_varint(tombstone.last);
            out.push(loss_code(tombstone.cause));
        }
        Body::Correction(correction) => {
            out.extend_from_slice(correction.treatment.as_bytes());
            out.put_varint(u64::from(correction.old.0));
            out.put_varint(u64::from(correction.new.0));
        }
    }
}

fn body(from: &mut Reader<'_>, kind: u8) -> Result<Body, DecodeError> {
    Ok(match kind {
        1 => Body::Values(values(from)?),
        2 => Body::Alarm(alarm(from)?),
        3 => Body::TreatmentStarted,
        4 => Body::TreatmentEnded(end_reason(from.byte("end reason")?)?),
        5 => {
            let (start, end) = span(from)?;
            let slots = from.number("slots")?;
            Body::Gap(Gap { from: start, to: end, slots, cause: gap_cause(from.byte("gap cause")?)? })
        }
        6 => {
            let (expected, found) = span(from)?;
            Body::ClockStep(ClockStep { expected, found })
        }
        7 => {
            let (start, end) = span(from)?;
            Body::Evicted(Tombstone {
                from: start,
                to: end,
                records: from.varint("records")?,
                first: from.varint("first sequence")?,
                last: from.varint("last sequence")?,
                cause: loss_cause(from.byte("cause")?)?,
            })
        }
        8 => Body::Correction(Correction {
            treatment: treatment_id(from)?,
            old: Revision(from.number("old revision")?),
            new: Revision(from.number("new revision")?),
        }),
        other => return Err(DecodeError::Unknown("body kind", u32::from(other))),
    })
}

fn treatment_id(from: &mut Reader<'_>) -> Result<TreatmentId, DecodeError> {
    Ok(TreatmentId::from_bytes(from.array("treatment")?))
}

/// Two times, the second as its distance from the first.
fn put_span(out: &mut Vec<u8>, first: Timestamp, second: Timestamp) {
    out.put_zigzag(first.as_micros());
    out.put_zigzag(second.as_micros().wrapping_sub(first.as_micros()));
}

fn span(from: &mut Reader<'_>) -> Result<(Timestamp, Timestamp), DecodeError> {
    let first = from.zigzag("first time")?;
    let second = first.wrapping_add(from.zigzag("second time")?);
    Ok((Timestamp::from_micros(first), Timestamp::from_micros(second)))
}

// The head byte of a value: reading in bits 0-1, mark in bits 2-3, bit 4 "doubts follow", scale in bits 5-7 of a number.
const NUMBER: u8 = 0;
const STATE: u8 = 1;
const UNKNOWN_STATE: u8 = 2;
const ABSENT: u8 = 3;
const DOUBTS: u8 = 1 << 4;
/// A scale of seven or more does not fit the head; its byte follows.
const LONG_SCALE: u8 = 7;

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mark = match value.mark {
        Mark::New => 0,
        Mark::Same => 1 << 2,
        Mark::Baseline => 2 << 2,
    };
    if let Reading::Number(number) = value.reading
        && number.scale() < LONG_SCALE
        && value.doubts.is_empty()
    {
        return put_number(out, value.parameter, mark, number);
    }
    out.put_varint(u64::from(value.parameter.row().number));
    let doubts = if value.doubts.is_empty() { 0 } else { DOUBTS };
    // A state outside the row is one the table does not know, and that is what gets stored.
    let reading = match value.reading {
        Reading::State(name) if state(value.parameter, name).is_none() => Reading::UnknownState,
        known => known,
    };
    out.push(
        mark | doubts
            | match reading {
                Reading::Number(number) => NUMBER | (number.scale().min(LONG_SCALE) << 5),
                Reading::State(_) => STATE,
                Reading::UnknownState => UNKNOWN_STATE,
                Reading::Absent => ABSENT,
            },
    );
    if !value.doubts.is_empty() {
        out.put_varint(u64::from(value.doubts.bits()));
    }
    match reading {
        Reading::Number(number) => {
            if number.scale() >= LONG_SCALE {
                out.push(number.scale());
            }
            out.put_zigzag(number.mantissa());
        }
        // The name and not its place in the row: a row may be put into another order.
        Reading::State(name) => out.put_text(name),
        Reading::UnknownState | Reading::Absent => {}
    }
}

/// What most values are, gathered before it goes to the buffer, which is asked for room at each piece.
fn put_number(out: &mut Vec<u8>, parameter: Parameter, mark: u8, number: Decimal) {
    // Three bytes, one and ten at most.
    let mut bytes = [0; 14];
    let mut places = bytes.iter_mut();
    let mut put = |byte| {
        if let Some(place) = places.next() {
            *place = byte;
        }
    };
    varint(u64::from(parameter.row().number), &mut put);
    put(mark | NUMBER | (number.scale() << 5));
    varint(zigzag(number.mantissa()), &mut put);
    let free = places.len();
    out.extend_from_slice(bytes.get(..bytes.len() - free).unwrap_or_default());
}

fn values(from: &mut Reader<'_>) -> Result<Vec<Value>, DecodeError> {
    let count: u64 = from.varint("number of values")?;
    // No capacity from an unchecked count: each value has at least two bytes, so the loop ends with the bytes.
    let mut values = Vec::new();
    for _ in 0..count {
        values.push(value(from)?);
    }
    Ok(values)
}

fn value(from: &mut Reader<'_>) -> Result<Value, DecodeError> {
    let number: u16 = from.number("parameter")?;
    let parameter = Parameter::from_number(number).ok_or(DecodeError::Parameter(number))?;
    let head = from.byte("value head")?;
    let mark = match (head >> 2) & 3 {
        0 => Mark::New,
        1 => Mark::Same,
        2 => Mark::Baseline,
        other => return Err(DecodeError::Unknown("mark", u32::from(other))),
    };
    let doubts = if head & DOUBTS == 0 { Doubts::NONE } else { doubts(from)? };
    let scale = head >> 5;
    let reading = match head & 3 {
        NUMBER => Reading::Number(decimal(from, scale)?),
        _ if scale != 0 => return Err(DecodeError::Spelling("value head")),
        STATE => {
            let name = from.text("state")?;
            Reading::State(state(parameter, name).ok_or(DecodeError::State(parameter.key()))?)
        }
        UNKNOWN_STATE => Reading::UnknownState,
        _ => Reading::Absent,
    };
    Ok(Value { parameter, reading, mark, doubts })
}

fn doubts(from: &mut Reader<'_>) -> Result<Doubts, DecodeError> {
    let bits: u16 = from.number("doubts")?;
    match Doubts::from_bits(bits) {
        Some(doubts) if doubts.is_empty() => Err(DecodeError::Spelling("doubts")),
        Some(doubts) => Ok(doubts),
        None => Err(DecodeError::Unknown("doubts", u32::from(bits))),
    }
}

fn decimal(from: &mut Reader<'_>, head_scale: u8) -> Result<Decimal, DecodeError> {
    let scale = if head_scale == LONG_SCALE { from.byte("scale")? } else { head_scale };
    if scale < head_scale {
        return Err(DecodeError::Spelling("scale"));
    }
    Decimal::new(from.zigzag("mantissa")?, scale).ok_or(DecodeError::Unknown("scale", u32::from(scale)))
}

/// The table's own text for a state, so that no other text can be in a record.
fn state(parameter: Parameter, name: &str) -> Option<&'static str> {
    match parameter.row().kind {
        Kind::State(names) => names.iter().copied().find(|known| *known == name),
        Kind::Measured | Kind::Setting | Kind::Total | Kind::Spot => None,
    }
}

fn put_alarm(out: &mut Vec<u8>, edge: &AlarmEdge) {
    out.put_varint(u64::from(edge.alarm.row().number));
    match edge.phase {
        Phase::Start => out.push(1),
        Phase::End => out.push(2),
        Phase::EndConnectionLost => out.push(3),
        Phase::Chattering { edges } => {
            out.push(4);
            out.put_varint(u64::from(edges));
        }
        Phase::EndTreatmentChanged => out.push(5),
        Phase::EndGatewayDown => out.push(6),
    }
    out.put_varint(u64::from(edge.raw));
    out.put_varint(u64::from(edge.occurrence));
}

fn alarm(from: &mut Reader<'_>) -> Result<AlarmEdge, DecodeError> {
    let number: u16 = from.number("alarm")?;
    let alarm = Alarm::from_number(number).ok_or(DecodeError::Alarm(number))?;
    let phase = match from.byte("alarm phase")? {
        1 => Phase::Start,
        2 => Phase::End,
        3 => Phase::EndConnectionLost,
        4 => Phase::Chattering { edges: from.number("edges")? },
        5 => Phase::EndTreatmentChanged,
        6 => Phase::EndGatewayDown,
        other => return Err(DecodeError::Unknown("alarm phase", u32::from(other))),
    };
    Ok(AlarmEdge { alarm, phase, raw: from.number("raw code")?, occurrence: from.number("occurrence")? })
}

const fn end_code(reason: EndReason) -> u8 {
    match reason {
        EndReason::FlagOff => 1,
        EndReason::Frozen => 2,
        EndReason::ElapsedFell => 3,
        EndReason::Rinse => 4,
        EndReason::TooLong => 5,
        EndReason::Reseated => 6,
        EndReason::LostTrack => 7,
    }
}

fn end_reason(code: u8) -> Result<EndReason, DecodeError> {
    Ok(match code {
        1 => EndReason::FlagOff,
        2 => EndReason::Frozen,
        3 => EndReason::ElapsedFell,
        4 => EndReason::Rinse,
        5 => EndReason::TooLong,
        6 => EndReason::Reseated,
        7 => EndReason::LostTrack,
        other => return Err(DecodeError::Unknown("end reason", u32::from(other))),
    })
}

const fn gap_code(cause: GapCause) -> u8 {
    match cause {
        GapCause::MachineSilent => 1,
        GapCause::AnswerFaulty => 2,
        GapCause::LineDown => 3,
        GapCause::GatewayDown => 4,
        GapCause::Unkept => 5,
        GapCause::LostInStore => 6,
    }
}

fn gap_cause(code: u8) -> Result<GapCause, DecodeError> {
    Ok(match code {
        1 => GapCause::MachineSilent,
        2 => GapCause::AnswerFaulty,
        3 => GapCause::LineDown,
        4 => GapCause::GatewayDown,
        5 => GapCause::Unkept,
        6 => GapCause::LostInStore,
        other => return Err(DecodeError::Unknown("gap cause", u32::from(other))),
    })
}

const fn loss_code(cause: LossCause) -> u8 {
    match cause {
        LossCause::StoreFull => 1,
        LossCause::StoreDamaged => 2,
    }
}

fn loss_cause(code: u8) -> Result<LossCause, DecodeError> {
    Ok(match code {
        1 => LossCause::StoreFull,
        2 => LossCause::StoreDamaged,
        other => return Err(DecodeError::Unknown("cause of a loss", u32::from(other))),
    })
}

#[cfg(test)]
mod tests;
