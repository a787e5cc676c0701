//! What is filled in is, byte for byte, what would have been rendered from nothing.

use super::*;
use crate::config::settings::{ResourceKind, Subject, Unseated};
use crate::model::name::MachineName;
use crate::model::time::Timestamp;
use crate::model::value::{Doubts, Mark};
use crate::privacy::record::{Body, Revision};
use crate::spool::Stored;
use crate::upstream::fhir::encode::{Encoded, Rendering, Then};
use crate::upstream::fhir::testing::{Bindings, NOON, Site, TREATMENT, number, origin, stored_at};
use proptest::prelude::*;
use std::time::Duration;

/// A namespace in which a mark stands: no stencil gives back what it was cut from, so everything is rendered from nothing.
const WITH_A_MARK: &str = "https://clinic.example/\u{e000}";
const WITHOUT: &str = "https://clinic.example/e000";

fn any_value() -> impl Strategy<Value = Value> {
    // Few of them, so that most are met again; heart rates and temperatures have profiles, states have no unit.
    const KEYS: [&str; 5] = [
        "venous_pressure",
        "nibp_pulse_rate",
        "treatment_modality",
        "dialysate_temperature",
        "venous_pressure_limit_high",
    ];
    let reading = prop_oneof![
        4 => (NUMBER + 1..=i64::MAX, 0_u8..=18)
            .prop_map(|(mantissa, scale)| Reading::Number(decimal::Decimal::new(mantissa, scale).unwrap())),
        1 => Just(Reading::UnknownState),
        1 => prop_oneof![Just(Reading::State("hd")), Just(Reading::State("hdf"))],
        1 => Just(Reading::Absent),
    ];
    (prop::sample::select(&KEYS), reading, 0_u16..16).prop_map(|(key, reading, doubts)| Value {
        parameter: Parameter::from_key(key).unwrap(),
        reading,
        mark: Mark::New,
        doubts: Doubts::from_bits(doubts).unwrap(),
    })
}

fn any_record() -> impl Strategy<Value = Stored> {
    let machine = prop_oneof![Just("asset-14"), Just("asset-2")];
    let after = 0_u64..400_000_000;
    (1_u64..1_000, machine, after, any::<bool>(), prop::collection::vec(any_value(), 1..12)).prop_map(
        |(sequence, machine, seconds, simulated, values)| {
            let mut origin = origin();
            origin.machine = MachineName::new(machine).unwrap();
            origin.at = NOON.after(Duration::from_secs(seconds));
            origin.simulated = simulated;
            stored_at(sequence, origin, Some(TREATMENT), Body::Values(values))
        },
    )
}

fn site(namespace: &str) -> Site {
    let mut site = Site::test();
    site.gateway.namespace = namespace.to_owned();
    site.gateway.unseated = Unseated::Machine;
    site
}

fn written(encoded: Encoded) -> Rendering {
    match encoded {
        Encoded::Write(rendering) => rendering,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn whatever_is_read_it_is_filled_in_as_it_would_be_rendered(
        records in prop::collection::vec((any_record(), 0_usize..3), 1..8),
        managed in any::<bool>(),
        metrics in any::<bool>(),
        devices in any::<bool>(),
    ) {
        let [filling_in, from_nothing] = [WITHOUT, WITH_A_MARK].map(|namespace| {
            let mut site = site(namespace);
            site.fhir.subject = if managed { Subject::Managed } else { Subject::Identifier };
            let left_out = |it: &ResourceKind| match it {
                ResourceKind::Device => !devices,
                ResourceKind::DeviceMetric => !metrics || !devices,
                _ => false,
            };
            site.fhir.resources.retain(|it| !left_out(it));
            site.encoder()
        });
        // The quotation mark of the last one is none that a text may hold as it is.
        let patients = [Bindings::default(), Bindings::of(TREATMENT, "p-1"), Bindings::of(TREATMENT, "p\"\\2")];
        for (record, patient) in &records {
            let filled_in = written(filling_in.encode(record, &patients[*patient]));
            let rendered = written(from_nothing.encode(record, &patients[*patient]));
            prop_assert_eq!(filled_in.parts.len(), rendered.parts.len());
            let needs = |rendering: &Rendering| rendering.needs.iter().map(|need| need.id).collect::<Vec<_>>();
            prop_assert_eq!(needs(&filled_in), needs(&rendered));
            for (filled_in, rendered) in filled_in.parts.iter().zip(&rendered.parts) {
                prop_assert!(matches!(filled_in.draft, Draft::Entry(_)));
                prop_assert!(matches!(rendered.draft, Draft::Resource(_)));
                let text = filled_in.draft.entry().unwrap();
                prop_assert_eq!(&*text, rendered.draft.entry().unwrap().replace('\u{e000}', "e000"));
                prop_assert_eq!((filled_in.number, filled_in.draft.id()), (rendered.number, rendered.draft.id()));
                let read_back = filled_in.draft.resource().unwrap();
                prop_assert_eq!(&*text, serde_json::to_string(&BatchEntry::put(&read_back)).unwrap());
            }
        }
    }
}

#[test]
fn stencils_are_as_many_as_kinds_of_readings_however_much_is_written() {
    let encoder = site(WITHOUT).encoder();
    for sequence in 1..200 {
        let mut origin = origin();
        origin.machine = MachineName::new(&format!("asset-{sequence}")).unwrap();
        origin.at = NOON.after(Duration::from_secs(sequence));
        let values = vec![number("venous_pressure", &sequence.to_string()), number("blood_flow_rate", "300")];
        let bindings = Bindings::of(TREATMENT, if sequence % 2 == 0 { "p-1" } else { "p-2" });
        written(
            encoder.encode(&stored_at(sequence, origin, Some(TREATMENT), Body::Values(values)), &bindings),
        );
    }
    assert_eq!(encoder.stencils.0.lock().unwrap().len(), 2);
}

#[test]
fn what_has_no_stencil_is_rendered_from_nothing() {
    let encoder = site(WITHOUT).encoder();
    let bindings = Bindings::of(TREATMENT, "p-1");
    let mut early = origin();
    early.clock = ClockTrust::Retimed;
    let mut impossible = origin();
    impossible.at = Timestamp::from_micros(i64::MAX);
    let usual = number("venous_pressure", "142");
    let mark = Value { reading: Reading::Number(decimal::Decimal::whole(NUMBER)), ..usual };
    for (origin, value) in [(early, usual), (impossible, usual), (origin(), mark)] {
        let record = stored_at(5, origin, Some(TREATMENT), Body::Values(vec![value]));
        let rendering = written(encoder.encode(&record, &bindings));
        assert!(matches!(rendering.parts[0].draft, Draft::Resource(_)));
    }
    let taken_back = stored_at(5, origin(), Some(TREATMENT), Body::Values(vec![usual]));
    let taken_back = written(encoder.withdraw(&taken_back, &bindings, Revision(1), Then::AsNow));
    assert!(matches!(taken_back.parts[0].draft, Draft::Resource(_)));
}
