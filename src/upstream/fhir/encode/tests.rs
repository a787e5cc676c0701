//! What each kind of record becomes, held against golden resources.

use super::*;
use crate::model::alarm::{Alarm, AlarmEdge, Phase};
use crate::model::value::{Doubts, Reading};
use crate::normalise::EndReason;
use crate::privacy::record::{Correction, Event, Gap, GapCause};
use crate::upstream::fhir::testing::{
    Bindings, NOON, Site, TREATMENT, json, number, origin, stored, stored_at, value,
};
use proptest::prelude::*;

fn written(encoded: Encoded) -> Rendering {
    match encoded {
        Encoded::Write(rendering) => rendering,
        other => panic!("nothing to write: {other:?}"),
    }
}

fn first(encoded: Encoded) -> serde_json::Value {
    json(&written(encoded).parts[0].draft.resource().unwrap())
}

fn codes(concept: &serde_json::Value) -> Vec<String> {
    let coding = concept["coding"].as_array().unwrap();
    coding.iter().map(|coding| coding["code"].as_str().unwrap().to_owned()).collect()
}

fn labels(resource: &serde_json::Value) -> Vec<String> {
    let labels = resource["meta"]["security"].as_array().cloned().unwrap_or_default();
    labels.iter().map(|coding| coding["code"].as_str().unwrap().to_owned()).collect()
}

fn pressure() -> Body {
    Body::Values(vec![number("venous_pressure", "142")])
}

fn cuff(mark: Mark) -> Body {
    let of = |key, text: &str| Value { mark, ..number(key, text) };
    Body::Values(vec![of("nibp_systolic", "128"), of("nibp_diastolic", "74"), of("nibp_pulse_rate", "66")])
}

#[test]
fn the_same_record_gives_the_same_ids_and_the_same_bytes() {
    let bindings = Bindings::of(TREATMENT, "p-1");
    let record = stored(5, Some(TREATMENT), pressure());
    let encoder = Site::default().encoder();
    assert_eq!(encoder.encode(&record, &bindings), encoder.encode(&record, &bindings));
}

#[test]
fn records_parts_bindings_and_recipients_have_different_ids() {
    let bindings = Bindings::of(TREATMENT, "p-1");
    let two = Body::Values(vec![number("venous_pressure", "142"), number("arterial_pressure", "-120")]);
    let mut site = Site::default();
    let mut ids = Vec::new();
    for sequence in [5, 6] {
        let rendering =
            written(site.encoder().encode(&stored(sequence, Some(TREATMENT), two.clone()), &bindings));
        ids.extend(rendering.parts.iter().map(|part| part.draft.id().to_owned()));
    }
    bindings.bind(TREATMENT, "p-2");
    ids.push(
        first(site.encoder().encode(&stored(5, Some(TREATMENT), two.clone()), &bindings))["id"].to_string(),
    );
    site.upstream.name = UpstreamName::new("research").unwrap();
    ids.push(first(site.encoder().encode(&stored(5, Some(TREATMENT), two), &bindings))["id"].to_string());
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), all);
    assert_eq!(all, 6);
}

#[test]
fn a_record_of_a_treatment_without_a_patient_is_held_and_never_belongs_to_anyone() {
    let bindings = Bindings::default();
    let encoder = Site::default().encoder();
    assert_eq!(encoder.encode(&stored(5, Some(TREATMENT), pressure()), &bindings), Encoded::Hold(TREATMENT));
    let start = stored(6, Some(TREATMENT), Body::TreatmentStarted);
    assert_eq!(encoder.encode(&start, &bindings), Encoded::Hold(TREATMENT));
    assert_eq!(encoder.encode(&stored(7, None, pressure()), &bindings), Encoded::Skip);
}

#[test]
fn what_the_receiver_does_not_want_is_not_held_either() {
    let mut site = Site::default();
    site.upstream.send.every = Every::Window(Duration::from_secs(300));
    let repeated = stored(5, Some(TREATMENT), pressure());
    assert_eq!(site.encoder().encode(&repeated, &Bindings::default()), Encoded::Skip);
}

#[test]
fn with_unseated_machine_the_machine_is_the_subject() {
    let mut site = Site::default();
    site.gateway.unseated = Unseated::Machine;
    for treatment in [None, Some(TREATMENT)] {
        let rendering =
            written(site.encoder().encode(&stored(5, treatment, cuff(Mark::New)), &Bindings::default()));
        for part in &rendering.parts {
            let it = json(&part.draft.resource().unwrap());
            assert!(it["subject"]["reference"].as_str().unwrap().starts_with("Device/"), "{it}");
            assert!(it.get("partOf").is_none());
            assert!(it["meta"].get("profile").is_none(), "a machine has no vital signs");
            assert_eq!(codes(&it["category"][0]), ["therapy"]);
            assert!(!labels(&it).contains(&"PSEUDED".to_owned()));
        }
        assert!(rendering.needs.iter().all(|need| need.kind() != ResourceType::Procedure));
    }
    let start = stored(6, Some(TREATMENT), Body::TreatmentStarted);
    assert_eq!(site.encoder().encode(&start, &Bindings::default()), Encoded::Skip);
}

#[test]
fn a_receiver_that_takes_no_devices_gets_no_reference_to_one() {
    let mut site = Site::default();
    site.fhir.resources = vec![ResourceKind::Observation];
    let bindings = Bindings::of(TREATMENT, "p-1");
    let rendering = written(site.encoder().encode(&stored(5, Some(TREATMENT), pressure()), &bindings));
    assert_eq!(rendering.needs, []);
    let it = json(&rendering.parts[0].draft.resource().unwrap());
    assert!(it.get("device").is_none() && it.get("partOf").is_none(), "{it}");

    site.gateway.unseated = Unseated::Machine;
    let it = first(site.encoder().encode(&stored(5, None, pressure()), &Bindings::default()));
    assert_eq!(it["subject"]["type"], "Device");
    assert!(it["subject"].get("reference").is_none());
}

#[test]
fn needs_come_in_the_order_of_writing() {
    let mut site = Site::default();
    site.fhir.subject = Subject::Managed;
    let bindings = Bindings::of(TREATMENT, "p-1");
    let rendering = written(site.encoder().encode(&stored(5, Some(TREATMENT), cuff(Mark::New)), &bindings));
    let kinds: Vec<_> = rendering.needs.iter().map(Need::kind).collect();
    use ResourceType as R;
    assert_eq!(kinds, [R::Device, R::DeviceMetric, R::Patient, R::Procedure]);
    let it = json(&rendering.parts[0].draft.resource().unwrap());
    let patient = json(&site.encoder().render(&rendering.needs[2], &bindings));
    assert_eq!(it["subject"]["reference"], format!("Patient/{}", patient["id"].as_str().unwrap()));
}

#[test]
fn only_new_spot_values_ever_go_out_and_baselines_never() {
    let bindings = Bindings::of(TREATMENT, "p-1");
    let encoder = Site::default().encoder();
    for mark in [Mark::Same, Mark::Baseline] {
        assert_eq!(encoder.encode(&stored(5, Some(TREATMENT), cuff(mark)), &bindings), Encoded::Skip);
    }
    let rendering = written(encoder.encode(&stored(5, Some(TREATMENT), cuff(Mark::New)), &bindings));
    let numbers: Vec<_> = rendering.parts.iter().map(|part| part.number).collect();
    assert_eq!(numbers, [0, 2], "the panel in the place of its first value, and the pulse");
}

#[test]
fn a_cuff_that_measured_one_pressure_says_that_the_other_is_missing() {
    let bindings = Bindings::of(TREATMENT, "p-1");
    let body = Body::Values(vec![
        number("nibp_systolic", "128"),
        value("nibp_diastolic", Reading::Absent, Mark::New),
    ]);
    let it = first(Site::default().encoder().encode(&stored(5, Some(TREATMENT), body), &bindings));
    assert_eq!(codes(&it["component"][1]["dataAbsentReason"]), ["temp-unknown"]);
    let nothing = Body::Values(vec![value("nibp_systolic", Reading::Absent, Mark::New)]);
    let encoded = Site::default().encoder().encode(&stored(5, Some(TREATMENT), nothing), &bindings);
    assert_eq!(encoded, Encoded::Skip);
}

#[test]
fn settings_and_states_go_out_when_they_change() {
    let bindings = Bindings::of(TREATMENT, "p-1");
    let setting = |mark| Value { mark, ..number("uf_target_volume", "3000") };
    let mut site = Site::default();
    let record = |mark| stored(5, Some(TREATMENT), Body::Values(vec![setting(mark)]));
    assert!(matches!(site.encoder().encode(&record(Mark::New), &bindings), Encoded::Write(_)));
    assert_eq!(site.encoder().encode(&record(Mark::Same), &bindings), Encoded::Skip);
    site.upstream.send.settings = Changes::Never;
    assert_eq!(site.encoder().encode(&record(Mark::New), &bindings), Encoded::Skip);
}

#[test]
fn the_first_record_of_each_aligned_window_is_sent() {
    let five = Duration::from_secs(300);
    let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
    assert!(is_first_of_window(at(600), None, five));
    assert!(is_first_of_window(at(600), Some(at(599)), five));
    assert!(!is_first_of_window(at(899), Some(at(600)), five));
    assert!(is_first_of_window(at(86_400), Some(at(86_399)), Duration::from_secs(7 * 3600)), "a new day");
    assert!(!is_first_of_window(at(-1), Some(at(-300)), five), "before 1970");
    assert!(is_first_of_window(at(1), Some(at(0)), Duration::ZERO), "no division by nothing");
}

#[test]
fn doubts_are_told_and_a_reading_after_a_gap_is_not_called_uncertain() {
    let bindings = Bindings::of(TREATMENT, "p-1");
    let doubtful = |doubts| {
        let body = Body::Values(vec![Value { doubts, ..number("venous_pressure", "900") }]);
        first(Site::default().encoder().encode(&stored(5, Some(TREATMENT), body), &bindings))
    };
    let it = doubtful(Doubts::OUTSIDE_PLAUSIBLE);
    assert_eq!(labels(&it), ["PSEUDED", "UNCERTREL"]);
    assert_eq!(codes(&it["interpretation"][0]), ["questionable", "outside-plausible"]);
    let it = doubtful(Doubts::AFTER_GAP);
    assert_eq!(labels(&it), ["PSEUDED"]);
    assert_eq!(codes(&it["interpretation"][0]), ["after-gap"]);
}

#[test]
fn a_record_of_an_untrusted_clock_is_questionable() {
    let mut origin = origin();
    origin.clock = crate::model::time::ClockTrust::Untrusted;
    let record = stored_at(5, origin, Some(TREATMENT), pressure());
    let it = first(Site::default().encoder().encode(&record, &Bindings::of(TREATMENT, "p-1")));
    assert_eq!(codes(&it["interpretation"][0]), ["questionable", "clock-untrusted"]);
}

#[test]
fn test_data_is_branded_and_never_goes_to_a_receiver_of_real_patients() {
    let bindings = Bindings::of(TREATMENT, "p-1");
    let mut origin = origin();
    origin.simulated = true;
    let simulated = stored_at(5, origin, Some(TREATMENT), pressure());
    assert_eq!(Site::default().encoder().encode(&simulated, &bindings), Encoded::Skip);
    let rendering = written(Site::test().encoder().encode(&simulated, &bindings));
    let encoder = Site::test().encoder();
    let all = rendering.needs.iter().map(|need| encoder.render(need, &bindings));
    for resource in all.chain(rendering.parts.iter().map(|part| part.draft.resource().unwrap().into_owned()))
    {
        assert!(labels(&json(&resource)).contains(&"HTEST".to_owned()), "{resource:?}");
    }
}

#[test]
fn a_gap_is_the_machines_even_in_the_middle_of_a_treatment() {
    let gap = Gap { from: NOON, to: NOON, slots: 3, cause: GapCause::LineDown };
    let record = Record::event(origin(), Some(TREATMENT), Event::Gap(gap));
    let record = Stored { record, ..stored(9, None, pressure()) };
    for bindings in [Bindings::default(), Bindings::of(TREATMENT, "p-1")] {
        let it = first(Site::default().encoder().encode(&record, &bindings));
        assert!(it["subject"]["reference"].as_str().unwrap().starts_with("Device/"));
        assert!(it.get("partOf").is_none());
        assert!(labels(&it).is_empty());
        assert_eq!(codes(&it["dataAbsentReason"]), ["error"]);
    }
}

#[test]
fn a_treatment_once_ended_never_goes_back() {
    let bindings = Bindings::of(TREATMENT, "p-1");
    let encoder = Site::default().encoder();
    let start = stored(5, Some(TREATMENT), Body::TreatmentStarted);
    assert_eq!(first(encoder.encode(&start, &bindings))["status"], "in-progress");
    bindings.end(NOON.after(Duration::from_secs(60)));
    assert_eq!(first(encoder.encode(&start, &bindings))["status"], "completed");
    let end = stored(6, Some(TREATMENT), Body::TreatmentEnded(EndReason::FlagOff));
    let it = first(encoder.encode(&end, &bindings));
    assert_eq!(it["performedPeriod"]["end"], "2026-03-02T09:15:30.000+01:00");
}

#[test]
fn a_correction_takes_back_the_old_ids_and_writes_new_ones() {
    let bindings = Bindings::of(TREATMENT, "p-wrong");
    let encoder = Site::default().encoder();
    let record = stored(5, Some(TREATMENT), pressure());
    let wrong = first(encoder.encode(&record, &bindings));
    bindings.bind(TREATMENT, "p-right");
    let rendering = written(encoder.withdraw(&record, &bindings, Revision(1), Then::AsNow));
    let taken_back = json(&rendering.parts[0].draft.resource().unwrap());
    assert_eq!(taken_back["id"], wrong["id"]);
    assert_eq!(taken_back["status"], "entered-in-error");
    assert_eq!(taken_back["subject"]["identifier"]["value"], "p-wrong");
    let procedure = rendering.needs.iter().find(|need| need.kind() == ResourceType::Procedure).unwrap();
    assert_eq!(json(&encoder.render(procedure, &bindings))["status"], "entered-in-error");
    let right = first(encoder.replace(&record, &bindings));
    assert_ne!(right["id"], wrong["id"]);
    assert_eq!(right["subject"]["identifier"]["value"], "p-right");
}

#[test]
fn nothing_is_taken_back_that_was_held_or_is_the_machines_own() {
    let bindings = Bindings::of(TREATMENT, "p-1");
    let encoder = Site::default().encoder();
    let record = stored(5, Some(TREATMENT), pressure());
    assert_eq!(encoder.withdraw(&record, &bindings, Revision(0), Then::AsNow), Encoded::Skip);
    let gap = Body::Gap(Gap { from: NOON, to: NOON, slots: 3, cause: GapCause::LineDown });
    let gap = stored(6, Some(TREATMENT), gap);
    assert_eq!(encoder.withdraw(&gap, &bindings, Revision(1), Then::AsNow), Encoded::Skip);
    assert_eq!(encoder.replace(&gap, &bindings), Encoded::Skip);
    let mut site = Site::default();
    site.gateway.unseated = Unseated::Machine;
    let it = first(site.encoder().withdraw(&record, &bindings, Revision(0), Then::AsNow));
    assert_eq!(it["status"], "entered-in-error");
    assert!(it["subject"]["reference"].as_str().unwrap().starts_with("Device/"));
}

#[test]
fn clock_steps_and_corrections_are_no_resources() {
    let step = crate::model::time::ClockStep { expected: NOON, found: NOON };
    let correction = Correction { treatment: TREATMENT, old: Revision(1), new: Revision(2) };
    for body in [Body::ClockStep(step), Body::Correction(correction)] {
        let bindings = Bindings::default();
        assert_eq!(
            Site::default().encoder().encode(&stored(5, None, body.clone()), &bindings),
            Encoded::Skip
        );
        let inside = stored(5, Some(TREATMENT), body);
        assert_eq!(Site::default().encoder().encode(&inside, &bindings), Encoded::Skip);
    }
}

#[test]
fn the_edges_of_one_alarm_share_an_identifier_and_say_no_priority() {
    let bindings = Bindings::of(TREATMENT, "p-1");
    let edge = |phase| AlarmEdge {
        alarm: Alarm::from_key("venous_pressure").unwrap(),
        phase,
        raw: 2,
        occurrence: 17,
    };
    let encoder = Site::default().encoder();
    let all = [
        Phase::Start,
        Phase::End,
        Phase::EndConnectionLost,
        Phase::EndTreatmentChanged,
        Phase::EndGatewayDown,
        Phase::Chattering { edges: 9 },
    ];
    let mut occurrences: Vec<_> = (5..)
        .zip(all)
        .map(|(sequence, phase)| {
            let it = first(
                encoder.encode(&stored(sequence, Some(TREATMENT), Body::Alarm(edge(phase))), &bindings),
            );
            let text = it.to_string();
            assert!(!text.contains("68484") && !text.contains("MDC_EVT_HI"), "{text}");
            it["identifier"][1]["value"].to_string()
        })
        .collect();
    occurrences.dedup();
    assert_eq!(occurrences.len(), 1);
}

/// Every row of the table as a value that goes out.
fn everything() -> Vec<Value> {
    let reading = |parameter: Parameter| match parameter.row().kind {
        Kind::State(names) => names.first().map_or(Reading::UnknownState, |name| Reading::State(name)),
        _ => Reading::Number(chairside_drivers::kit::decimal::Decimal::new(1250, 2).unwrap()),
    };
    Parameter::all()
        .map(|parameter| Value {
            parameter,
            reading: reading(parameter),
            mark: Mark::New,
            doubts: Doubts::NONE,
        })
        .collect()
}

#[test]
fn every_parameter_leaves_by_the_rules_of_r4() {
    let mut site = Site::test();
    site.fhir.subject = Subject::Managed;
    let bindings = Bindings::of(TREATMENT, "p-1");
    let rendering =
        written(site.encoder().encode(&stored(5, Some(TREATMENT), Body::Values(everything())), &bindings));
    assert_eq!(rendering.parts.len(), Parameter::all().count() - 1, "one panel for two pressures");
    for part in &rendering.parts {
        follows_the_rules(&json(&part.draft.resource().unwrap()));
    }
    for need in &rendering.needs {
        follows_the_rules(&json(&site.encoder().render(need, &bindings)));
    }
}

/// What neither the JSON schema nor a model of FHIR notices.
fn follows_the_rules(resource: &serde_json::Value) {
    nothing_is_empty(resource);
    let has_value =
        |it: &serde_json::Value| it.as_object().unwrap().keys().any(|key| key.starts_with("value"));
    if resource["resourceType"] == "Observation" {
        let components = resource["component"].as_array().cloned().unwrap_or_default();
        // obs-6: a value or the reason why there is none.
        for it in [resource].into_iter().chain(&components) {
            assert!(!(has_value(it) && it.get("dataAbsentReason").is_some()), "{it}");
        }
        assert!(
            has_value(resource) || resource.get("dataAbsentReason").is_some() || !components.is_empty(),
            "{resource}"
        );
        // obs-7: no value beside a component of the same code.
        let own = codes(&resource["code"]);
        for component in &components {
            let same = codes(&component["code"]).iter().any(|code| own.contains(code));
            assert!(!(same && has_value(resource)), "{resource}");
        }
    }
}

fn nothing_is_empty(it: &serde_json::Value) {
    match it {
        serde_json::Value::Null => panic!("a null"),
        serde_json::Value::Array(all) => {
            assert!(!all.is_empty(), "an empty array");
            all.iter().for_each(nothing_is_empty);
        }
        serde_json::Value::Object(all) => {
            assert!(!all.is_empty(), "an empty object");
            if all.get("system").is_some_and(|system| system == "http://unitsofmeasure.org") {
                let code = all["code"].as_str().unwrap();
                assert!(crate::model::unit::Unit::from_ucum(code).is_some(), "{code} is no UCUM code");
            }
            all.values().for_each(nothing_is_empty);
        }
        serde_json::Value::String(text) => assert!(!text.trim().is_empty(), "an empty string"),
        serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {}
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let reading = prop_oneof![
        (any::<i64>(), 0_u8..=18).prop_map(|(mantissa, scale)| {
            Reading::Number(chairside_drivers::kit::decimal::Decimal::new(mantissa, scale).unwrap())
        }),
        Just(Reading::UnknownState),
        Just(Reading::State("hd")),
        Just(Reading::Absent),
    ];
    let mark = prop_oneof![Just(Mark::New), Just(Mark::Same), Just(Mark::Baseline)];
    (0..Parameter::all().count(), reading, mark, 0_u16..16).prop_map(|(row, reading, mark, doubts)| Value {
        parameter: Parameter::all().nth(row).unwrap(),
        reading,
        mark,
        doubts: Doubts::from_bits(doubts).unwrap(),
    })
}

proptest! {
    #[test]
    fn any_record_leaves_by_the_rules_of_r4(
        values in prop::collection::vec(any_value(), 0..40),
        at in any::<i64>(),
        previous in prop::option::of(any::<i64>()),
        seated in any::<bool>(),
    ) {
        let mut site = Site::default();
        site.gateway.unseated = Unseated::Machine;
        let bindings = if seated { Bindings::of(TREATMENT, "p-1") } else { Bindings::default() };
        let mut origin = origin();
        origin.at = Timestamp::from_micros(at);
        origin.previous = previous.map(Timestamp::from_micros);
        let record = stored_at(5, origin, Some(TREATMENT), Body::Values(values));
        if let Encoded::Write(rendering) = site.encoder().encode(&record, &bindings) {
            let mut numbers: Vec<_> = rendering.parts.iter().map(|part| part.number).collect();
            numbers.dedup();
            prop_assert_eq!(numbers.len(), rendering.parts.len());
            for part in &rendering.parts {
                follows_the_rules(&json(&part.draft.resource().unwrap()));
            }
        }
    }
}

#[test]
fn an_alarm_goes_out_at_once_however_seldom_readings_do() {
    let bindings = Bindings::of(TREATMENT, "p-1");
    let mut site = Site::default();
    site.upstream.send.every = Every::Window(Duration::from_secs(3600));
    let encoder = site.encoder();
    // Not the first record of its window.
    assert_eq!(encoder.encode(&stored(5, Some(TREATMENT), pressure()), &bindings), Encoded::Skip);
    let alarm = Alarm::from_key("venous_pressure").unwrap();
    for phase in [Phase::Start, Phase::End] {
        let edge = AlarmEdge { alarm, phase, raw: 2, occurrence: 17 };
        let encoded = encoder.encode(&stored(6, Some(TREATMENT), Body::Alarm(edge)), &bindings);
        assert!(matches!(encoded, Encoded::Write(_)), "{phase:?}");
    }
}
