//! One record with all it says, as JSON.

use super::{kind, short};
use crate::clock::stamp;
use crate::model::alarm::{AlarmEdge, Phase};
use crate::model::time::ClockTrust;
use crate::model::value::{Doubts, Mark, Reading, Value as Measured};
use crate::normalise::EndReason;
use crate::privacy::record::{Body, GapCause, LossCause};
use crate::spool::Stored;
use chairside_drivers::kit::decimal::Decimal;
use serde_json::{Number, Value, json};

/// The record, for people and for scripts. Numbers keep their digits.
#[must_use]
pub fn shown(stored: &Stored) -> Value {
    let origin = stored.record.origin();
    let mut shown = json!({
        "sequence": stored.sequence.0,
        "store": format!("{:?}", stored.store),
        "kind": kind(stored.record.body()),
        "at": stamp(origin.at),
        "clock_trusted": origin.clock == ClockTrust::Trusted,
        "chair": origin.chair.as_str(),
        "machine": origin.machine.as_str(),
        "model": origin.model.as_str(),
        "simulated": origin.simulated,
        "slot": origin.slot.map(|slot| slot.0),
        "treatment": stored.record.treatment().map(short),
    });
    if let (Some(all), Value::Object(body)) = (shown.as_object_mut(), body(stored.record.body())) {
        all.extend(body);
    }
    shown
}

fn body(body: &Body) -> Value {
    match body {
        Body::Values(values) => json!({ "values": values.iter().map(value).collect::<Vec<_>>() }),
        Body::Alarm(edge) => json!({ "alarm": alarm(edge) }),
        Body::TreatmentStarted => json!({}),
        Body::TreatmentEnded(reason) => json!({ "reason": end(*reason) }),
        Body::Gap(gap) => json!({
            "from": stamp(gap.from), "to": stamp(gap.to), "slots": gap.slots, "cause": cause(gap.cause),
        }),
        Body::ClockStep(step) => json!({ "expected": stamp(step.expected), "found": stamp(step.found) }),
        Body::Evicted(gone) => json!({
            "from": stamp(gone.from), "to": stamp(gone.to), "records": gone.records,
            "first": gone.first, "last": gone.last, "cause": loss(gone.cause),
        }),
        Body::Correction(correction) => json!({
            "corrected_treatment": short(correction.treatment),
            "old_binding": correction.old.0,
            "new_binding": correction.new.0,
        }),
    }
}

fn value(value: &Measured) -> Value {
    let row = value.parameter.row();
    let reading = match value.reading {
        Reading::Number(decimal) => number(decimal),
        Reading::State(name) => json!(name),
        Reading::UnknownState => json!("unknown"),
        Reading::Absent => Value::Null,
    };
    let mark = match value.mark {
        Mark::New => "new",
        Mark::Same => "same",
        Mark::Baseline => "baseline",
    };
    let unit = row.unit.map(|unit| unit.ucum());
    json!({ "parameter": row.key, "value": reading, "unit": unit, "mark": mark, "doubts": doubts(value.doubts) })
}

fn number(decimal: Decimal) -> Value {
    let text = decimal.to_string();
    text.parse::<Number>().map_or_else(|_| json!(text), Value::Number)
}

fn doubts(doubts: Doubts) -> Vec<&'static str> {
    const WORDS: [(Doubts, &str); 4] = [
        (Doubts::OUTSIDE_PLAUSIBLE, "outside_plausible"),
        (Doubts::MACHINE_CLOCK_WRONG, "machine_clock_wrong"),
        (Doubts::AFTER_GAP, "after_gap"),
        (Doubts::CLOCK_UNTRUSTED, "clock_untrusted"),
    ];
    WORDS.iter().filter(|(doubt, _)| doubts.contains(*doubt)).map(|(_, word)| *word).collect()
}

fn alarm(edge: &AlarmEdge) -> Value {
    let (phase, edges) = match edge.phase {
        Phase::Start => ("start", None),
        Phase::End => ("end", None),
        Phase::EndConnectionLost => ("end_connection_lost", None),
        Phase::EndTreatmentChanged => ("end_treatment_changed", None),
        Phase::EndGatewayDown => ("end_gateway_down", None),
        Phase::Chattering { edges } => ("chattering", Some(edges)),
    };
    json!({ "key": edge.alarm.row().key, "phase": phase, "edges": edges, "occurrence": edge.occurrence })
}

const fn end(reason: EndReason) -> &'static str {
    match reason {
        EndReason::FlagOff => "flag_off",
        EndReason::Frozen => "frozen",
        EndReason::ElapsedFell => "elapsed_fell",
        EndReason::Rinse => "rinse",
        EndReason::TooLong => "too_long",
        EndReason::Reseated => "reseated",
        EndReason::LostTrack => "lost_track",
    }
}

const fn cause(cause: GapCause) -> &'static str {
    match cause {
        GapCause::MachineSilent => "machine_silent",
        GapCause::AnswerFaulty => "answer_faulty",
        GapCause::LineDown => "line_down",
        GapCause::GatewayDown => "gateway_down",
        GapCause::Unkept => "unkept",
        GapCause::LostInStore => "lost_in_store",
    }
}

const fn loss(cause: LossCause) -> &'static str {
    match cause {
        LossCause::StoreFull => "store_full",
        LossCause::StoreDamaged => "store_damaged",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::testing::{reading, record};
    use crate::spool::{Sequence, StoreId};

    #[test]
    fn a_record_is_shown_with_its_digits_and_without_its_whole_treatment() {
        let stored = |record| Stored { store: StoreId([0xAB; 16]), sequence: Sequence(7), record };
        let text = shown(&stored(reading(3))).to_string();
        assert!(
            text.contains(r#""value":0.3"#) && text.contains(r#""parameter":"venous_pressure""#),
            "{text}"
        );
        assert!(text.contains(r#""treatment":"01010101""#), "{text}");
        let gap = shown(&stored(record(1)));
        let expected = json!({
            "sequence": 7, "store": "abababab", "kind": "gap", "at": "2027-01-01T00:00:01.000Z",
            "clock_trusted": true, "chair": "chair-1", "machine": "M-1", "model": "kpoll/nikkiso_dbb27c",
            "simulated": true, "slot": 1, "treatment": null, "from": "2027-01-01T00:00:01.000Z",
            "to": "2027-01-01T00:00:02.000Z", "slots": 1, "cause": "machine_silent",
        });
        assert_eq!(gap, expected);
    }
}
