//! The slot ledger on disk: one small file that may lag behind the records and never leads them.

use super::chair::{ChairSlots, Hole, Range};
use super::hours::{Hour, Hours};
use super::{Missing, SlotLedger};
use crate::model::name::ChairName;
use crate::model::time::Timestamp;
use crate::privacy::record::{Gap, GapCause};
use crate::spool::Sequence;
use crate::spool::bytes::{Reader, checked, with_checksum};
use std::time::Duration;

/// The format this program writes, and the only one it reads. What it cannot read is counted anew.
const FORMAT: u8 = 1;

impl SlotLedger {
    /// The ledger as bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = vec![FORMAT, u8::from(self.ended_well)];
        out.extend(self.cursor.0.to_be_bytes());
        for (name, chair) in &self.chairs {
            let name = name.as_str().as_bytes();
            out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            out.extend(name.iter().take(usize::from(u8::MAX)));
            put_chair(&mut out, chair);
        }
        with_checksum(&out)
    }
}

/// The ledger of these bytes, which belong to records up to `last`. `None` where they are damaged or not of this format, or lead.
pub(super) fn restore(bytes: &[u8], last: Sequence) -> Option<SlotLedger> {
    let mut from = Reader::new(checked(bytes)?);
    if from.u8()? != FORMAT {
        return None;
    }
    let ended_well = from.u8()? != 0;
    let cursor = Sequence(from.u64()?);
    let mut ledger = SlotLedger { cursor, ended_well, ..SlotLedger::default() };
    while !from.is_empty() {
        let name = ChairName::new(from.text()?).ok()?;
        ledger.chairs.insert(name, chair(&mut from)?);
    }
    (cursor <= last).then_some(ledger)
}

fn put_chair(out: &mut Vec<u8>, chair: &ChairSlots) {
    let ChairSlots { every, captured, missing, next, holes, untold, through, lost, hours, ranges } = chair;
    let every = u64::try_from(every.as_micros()).unwrap_or(u64::MAX);
    for number in [every, *captured, *next].iter().chain(missing) {
        out.extend(number.to_be_bytes());
    }
    out.push(u8::from(*lost));
    out.push(u8::from(through.is_some()));
    put_time(out, through.unwrap_or(Timestamp::from_micros(0)));
    put_count(out, holes.len());
    for hole in holes {
        out.extend(hole.first.to_be_bytes());
        out.extend(hole.slots.to_be_bytes());
        put_time(out, hole.from);
        put_time(out, hole.to);
        out.push(u8::from(hole.lost));
    }
    put_count(out, untold.len());
    for gap in untold {
        put_range(
            out,
            &Range { from: gap.from, to: gap.to, slots: gap.slots.into(), cause: gap.cause.into() },
        );
    }
    put_count(out, ranges.len());
    ranges.iter().for_each(|range| put_range(out, range));
    put_count(out, hours.0.len());
    for hour in &hours.0 {
        out.extend(hour.hour.to_be_bytes());
        out.extend(hour.captured.to_be_bytes());
        hour.missing.iter().for_each(|count| out.extend(count.to_be_bytes()));
    }
}

fn chair(from: &mut Reader<'_>) -> Option<ChairSlots> {
    let mut chair = ChairSlots {
        every: Duration::from_micros(from.u64()?),
        captured: from.u64()?,
        next: from.u64()?,
        ..ChairSlots::default()
    };
    for count in &mut chair.missing {
        *count = from.u64()?;
    }
    chair.lost = from.u8()? != 0;
    let known = from.u8()? != 0;
    chair.through = Some(time(from)?).filter(|_| known);
    chair.holes = list(from, |from| {
        Some(Hole {
            first: from.u64()?,
            slots: from.u64()?,
            from: time(from)?,
            to: time(from)?,
            lost: from.u8()? != 0,
        })
    })?;
    chair.untold = list(from, |from| gap(range(from)?))?;
    chair.ranges = list(from, range)?;
    chair.hours = Hours(list(from, |from| {
        let mut hour = Hour { hour: from.i64()?, captured: from.u64()?, ..Hour::default() };
        for count in &mut hour.missing {
            *count = from.u64()?;
        }
        Some(hour)
    })?);
    Some(chair)
}

fn list<T>(from: &mut Reader<'_>, item: impl Fn(&mut Reader<'_>) -> Option<T>) -> Option<Vec<T>> {
    let count = from.u32()?;
    (0..count).map(|_| item(from)).collect()
}

fn put_range(out: &mut Vec<u8>, range: &Range) {
    put_time(out, range.from);
    put_time(out, range.to);
    out.extend(range.slots.to_be_bytes());
    out.push(range.cause as u8);
}

fn range(from: &mut Reader<'_>) -> Option<Range> {
    let (start, end, slots) = (time(from)?, time(from)?, from.u64()?);
    let cause = *Missing::ALL.get(usize::from(from.u8()?))?;
    Some(Range { from: start, to: end, slots, cause })
}

fn gap(range: Range) -> Option<Gap> {
    let cause = match range.cause {
        Missing::Unkept => GapCause::Unkept,
        Missing::LostInStore => GapCause::LostInStore,
        _ => return None,
    };
    Some(Gap { from: range.from, to: range.to, slots: u32::try_from(range.slots).ok()?, cause })
}

fn put_time(out: &mut Vec<u8>, at: Timestamp) {
    out.extend(at.as_micros().to_be_bytes());
}

fn time(from: &mut Reader<'_>) -> Option<Timestamp> {
    from.i64().map(Timestamp::from_micros)
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    out.extend(u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}
