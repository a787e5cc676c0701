//! Golden files, round trips and arbitrary bytes of the record format.

use super::*;
use crate::model::alarm::ALARMS;
use crate::model::parameter::TABLE;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn origin() -> Origin {
    Origin {
        chair: ChairName::new("chair-1").unwrap(),
        machine: MachineName::new("asset-14").unwrap(),
        model: ModelId::from_static("kpoll/nikkiso_dbb27c"),
        at: Timestamp::from_micros(1_800_000_000_000_000),
        tick: Tick::from_micros(60_000_000),
        clock: ClockTrust::Trusted,
        slot: Some(Slot(6)),
        previous: Some(Timestamp::from_micros(1_799_999_990_000_000)),
        simulated: false,
    }
}

fn event_origin() -> Origin {
    Origin { slot: None, previous: None, ..origin() }
}

const TREATMENT: TreatmentId = TreatmentId::from_bytes(*b"\x10\x11\x12\x13treatment-01");

fn number(key: &str, text: &str, mark: Mark, doubts: Doubts) -> Value {
    let reading = Reading::Number(Decimal::parse(text.as_bytes()).unwrap());
    Value { parameter: Parameter::from_key(key).unwrap(), reading, mark, doubts }
}

fn reads(parameter: Parameter, reading: Reading) -> Value {
    Value { parameter, reading, mark: Mark::New, doubts: Doubts::NONE }
}

fn venous() -> Parameter {
    Parameter::from_key("venous_pressure").unwrap()
}

fn first_state() -> (Parameter, &'static str) {
    Parameter::all()
        .find_map(|parameter| match parameter.row().kind {
            Kind::State(names) => Some((parameter, *names.first()?)),
            _ => None,
        })
        .unwrap()
}

/// Every golden file with the record it stands for.
fn golden() -> Vec<(&'static str, Record)> {
    let record = |treatment, body| Record::assemble(event_origin(), treatment, body);
    let (state, name) = first_state();
    let values = vec![
        number("venous_pressure", "120", Mark::New, Doubts::NONE),
        number("venous_pressure", "-12.10", Mark::Same, Doubts::OUTSIDE_PLAUSIBLE.with(Doubts::AFTER_GAP)),
        number("venous_pressure", "0.00000001", Mark::Baseline, Doubts::NONE),
        reads(venous(), Reading::Absent),
        reads(state, Reading::State(name)),
        reads(state, Reading::UnknownState),
    ];
    let alarm = |phase| {
        let alarm = Alarm::from_key("venous_pressure").unwrap();
        Body::Alarm(AlarmEdge { alarm, phase, raw: 49, occurrence: 300 })
    };
    let earlier = Timestamp::from_micros(1_799_999_000_000_000);
    let later = Timestamp::from_micros(1_800_000_000_000_000);
    let cause = LossCause::StoreFull;
    let tombstone = Tombstone { from: earlier, to: later, records: 50_000, first: 3, last: 60_000, cause };
    let simulated = Origin { simulated: true, clock: ClockTrust::Untrusted, ..origin() };
    vec![
        ("values", Record::assemble(origin(), Some(TREATMENT), Body::Values(values))),
        ("values-none-simulated", Record::assemble(simulated, None, Body::Values(Vec::new()))),
        ("alarm-start", record(Some(TREATMENT), alarm(Phase::Start))),
        ("alarm-chattering", record(None, alarm(Phase::Chattering { edges: 7 }))),
        ("alarm-treatment-changed", record(Some(TREATMENT), alarm(Phase::EndTreatmentChanged))),
        ("treatment-started", record(Some(TREATMENT), Body::TreatmentStarted)),
        ("treatment-ended", record(Some(TREATMENT), Body::TreatmentEnded(EndReason::Rinse))),
        (
            "gap",
            record(None, Body::Gap(Gap { from: earlier, to: later, slots: 100, cause: GapCause::LineDown })),
        ),
        ("clock-step", record(None, Body::ClockStep(ClockStep { expected: later, found: earlier }))),
        ("evicted", record(None, Body::Evicted(tombstone))),
        (
            "correction",
            record(
                Some(TREATMENT),
                Body::Correction(Correction { treatment: TREATMENT, old: Revision(1), new: Revision(2) }),
            ),
        ),
    ]
}

/// The bytes of a golden file: hex left, what it means behind `#`.
fn bytes_of(text: &str) -> Vec<u8> {
    text.lines()
        .flat_map(|line| line.split('#').next().unwrap_or("").split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

#[test]
fn records_are_written_as_the_golden_files_say() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/records");
    for (name, record) in golden() {
        let text = std::fs::read_to_string(format!("{folder}/{name}.hex")).unwrap_or_default();
        let encoded = encode(&record);
        let shown: Vec<String> = encoded.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(encoded, bytes_of(&text), "{name}.hex should hold:\n{}", shown.join(" "));
        assert_eq!(decode(&bytes_of(&text)), Ok(record), "{name}");
    }
}

#[test]
fn a_poll_of_36_values_is_small() {
    let body = Body::Values(
        (0..36)
            .map(|n| number(TABLE[n % TABLE.len()].key, "1234.56", Mark::New, Doubts::AFTER_GAP))
            .collect(),
    );
    let size = encode(&Record::assemble(origin(), Some(TREATMENT), body)).len();
    assert!(size <= 350, "{size} bytes");
}

#[test]
fn a_parameter_of_a_newer_table_is_an_error_with_its_number() {
    let mut bytes = encode(&Record::assemble(event_origin(), None, Body::Values(Vec::new())));
    assert_eq!(bytes.pop(), Some(0));
    bytes.extend_from_slice(&[1, 0xe8, 0x07, 3]);
    assert_eq!(decode(&bytes), Err(DecodeError::Parameter(1000)));
}

#[test]
fn a_state_that_left_the_table_is_an_error_and_carries_no_text() {
    let (parameter, _) = first_state();
    let mut bytes = encode(&Record::assemble(event_origin(), None, Body::Values(Vec::new())));
    bytes.pop();
    bytes.put_varint(1);
    bytes.put_varint(u64::from(parameter.row().number));
    bytes.push(STATE);
    bytes.put_text("Mustermann");
    let why = decode(&bytes).unwrap_err();
    assert_eq!(why, DecodeError::State(parameter.key()));
    assert!(!format!("{why} {why:?}").contains("Mustermann"));
}

#[test]
fn a_state_outside_the_table_is_stored_as_unknown() {
    let record =
        |reading| Record::assemble(event_origin(), None, Body::Values(vec![reads(first_state().0, reading)]));
    let stored = decode(&encode(&record(Reading::State("no such state"))));
    assert_eq!(stored, Ok(record(Reading::UnknownState)));
}

#[test]
fn another_format_is_refused_by_its_number() {
    assert_eq!(decode(&[2, 1, 0]), Err(DecodeError::Format(2)));
    assert_eq!(decode(&[]), Err(DecodeError::Bytes(ReadError::Cut("format"))));
}

#[test]
fn every_golden_record_cut_short_or_made_longer_is_refused() {
    for (name, record) in golden() {
        let bytes = encode(&record);
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "{name} cut to {end}");
        }
        let longer: Vec<u8> = bytes.iter().copied().chain([0]).collect();
        assert_eq!(decode(&longer), Err(DecodeError::Bytes(ReadError::Trailing(1))), "{name}");
    }
}

fn timestamps() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp::from_micros)
}

fn origins() -> impl Strategy<Value = Origin> {
    let names = ("[a-zA-Z0-9._-]{1,64}", "[a-zA-Z0-9._-]{1,64}", "[a-z0-9_]{1,12}/[a-z0-9_]{1,40}");
    let times = (timestamps(), any::<u64>(), option::of(any::<u64>()), option::of(timestamps()));
    (names, times, any::<bool>(), any::<bool>()).prop_map(
        |((chair, machine, model), (at, tick, slot, previous), trusted, simulated)| Origin {
            chair: ChairName::new(&chair).unwrap(),
            machine: MachineName::new(&machine).unwrap(),
            model: ModelId::from_owned(model),
            at,
            tick: Tick::from_micros(tick),
            clock: if trusted { ClockTrust::Trusted } else { ClockTrust::Untrusted },
            slot: slot.map(Slot),
            previous,
            simulated,
        },
    )
}

fn values_of_the_table() -> impl Strategy<Value = Value> {
    let mark = prop_oneof![Just(Mark::New), Just(Mark::Same), Just(Mark::Baseline)];
    (0..TABLE.len(), any::<(i64, u8, u8)>(), mark, 0_u16..16).prop_map(
        |(row, (mantissa, scale, pick), mark, doubts)| {
            let parameter = Parameter::from_number(TABLE[row].number).unwrap();
            let reading = match (parameter.row().kind, pick % 4) {
                (_, 0) => Reading::Absent,
                (Kind::State(_), 1) => Reading::UnknownState,
                (Kind::State(names), _) => Reading::State(names[usize::from(pick) % names.len()]),
                _ => Reading::Number(Decimal::new(mantissa, scale % 19).unwrap()),
            };
            Value { parameter, reading, mark, doubts: Doubts::from_bits(doubts).unwrap() }
        },
    )
}

fn alarm_edges() -> impl Strategy<Value = AlarmEdge> {
    let phase = prop_oneof![
        Just(Phase::Start),
        Just(Phase::End),
        Just(Phase::EndConnectionLost),
        Just(Phase::EndTreatmentChanged),
        Just(Phase::EndGatewayDown),
        any::<u32>().prop_map(|edges| Phase::Chattering { edges }),
    ];
    (0..ALARMS.len(), phase, any::<(u32, u32)>()).prop_map(|(row, phase, (raw, occurrence))| AlarmEdge {
        alarm: Alarm::from_number(ALARMS[row].number).unwrap(),
        phase,
        raw,
        occurrence,
    })
}

fn bodies() -> impl Strategy<Value = Body> {
    let span = || (timestamps(), timestamps());
    prop_oneof![
        4 => vec(values_of_the_table(), 0..60).prop_map(Body::Values),
        2 => alarm_edges().prop_map(Body::Alarm),
        1 => Just(Body::TreatmentStarted),
        1 => (1_u8..=7).prop_map(|code| Body::TreatmentEnded(end_reason(code).unwrap())),
        1 => (span(), any::<u32>(), 1_u8..=4).prop_map(|((from, to), slots, cause)| {
            Body::Gap(Gap { from, to, slots, cause: gap_cause(cause).unwrap() })
        }),
        1 => span().prop_map(|(expected, found)| Body::ClockStep(ClockStep { expected, found })),
        1 => (span(), any::<(u64, u64, u64)>(), 1_u8..=2).prop_map(|((from, to), (records, first, last), cause)| {
            let cause = loss_cause(cause).unwrap();
            Body::Evicted(Tombstone { from, to, records, first, last, cause })
        }),
        1 => any::<([u8; 16], u32, u32)>().prop_map(|(id, old, new)| {
            let treatment = TreatmentId::from_bytes(id);
            Body::Correction(Correction { treatment, old: Revision(old), new: Revision(new) })
        }),
    ]
}

fn records() -> impl Strategy<Value = Record> {
    let treatment = option::of(any::<[u8; 16]>().prop_map(TreatmentId::from_bytes));
    (origins(), treatment, bodies())
        .prop_map(|(origin, treatment, body)| Record::assemble(origin, treatment, body))
}

proptest! {
    #[test]
    fn every_record_comes_back_as_written(record in records()) {
        prop_assert_eq!(decode(&encode(&record)), Ok(record));
    }

    #[test]
    fn any_bytes_are_a_record_with_this_one_spelling_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(record) = decode(&bytes) {
            prop_assert_eq!(encode(&record), bytes);
        }
    }

    #[test]
    fn a_damaged_record_is_another_record_or_an_error(record in records(), at: prop::sample::Index, bits in 1_u8..) {
        let mut bytes = encode(&record);
        let at = at.index(bytes.len());
        bytes[at] ^= bits;
        if let Ok(other) = decode(&bytes) {
            prop_assert_ne!(&other, &record);
            prop_assert_eq!(encode(&other), bytes);
        }
    }
}
