//! The golden resources: one file a kind under `fixtures/fhir`, plain JSON so that validators nobody here wrote can read
//! them too. `CHAIRSIDE_BLESS=1 cargo test golden` writes them anew; look at the difference before committing it.

use super::fhir::encode::{Encoded, Then};
use super::fhir::r4::{self, Resource};
use super::fhir::testing::{Bindings, NOON, Site, TREATMENT, number, origin, stored, stored_at, value};
use crate::config::settings::{Subject, Unseated};
use crate::model::alarm::{Alarm, AlarmEdge, Phase};
use crate::model::time::{ClockTrust, Timestamp};
use crate::model::value::{Doubts, Mark, Reading, Value};
use crate::normalise::EndReason;
use crate::privacy::record::{Body, Gap, GapCause, LossCause, Revision, Tombstone};
use crate::spool::Stored;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

#[test]
fn every_kind_of_resource_is_exactly_the_golden_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/fhir");
    let bless = std::env::var_os("CHAIRSIDE_BLESS").is_some();
    let mut differing = Vec::new();
    let written = resources();
    for (name, text) in &written {
        let file = folder.join(format!("{name}.json"));
        if bless {
            std::fs::write(&file, text).unwrap();
        }
        if std::fs::read_to_string(&file).unwrap_or_default() != *text {
            differing.push(format!("--- {}\n{text}", file.display()));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(written.contains_key(name), "{} stands for nothing any more", path.display());
    }
}

#[test]
fn every_golden_resource_reads_back_as_what_was_written() {
    fn again<T: serde::de::DeserializeOwned + serde::Serialize>(text: &str) -> String {
        serde_json::to_string_pretty(&serde_json::from_str::<T>(text).unwrap()).unwrap() + "\n"
    }
    for (name, text) in resources() {
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let read = match value["resourceType"].as_str().unwrap() {
            "Observation" => again::<r4::Observation>(&text),
            "Device" => again::<r4::Device>(&text),
            "DeviceMetric" => again::<r4::DeviceMetric>(&text),
            "Patient" => again::<r4::Patient>(&text),
            "Procedure" => again::<r4::Procedure>(&text),
            "Bundle" => continue,
            other => panic!("{other}"),
        };
        assert_eq!(read, text, "{name}");
    }
}

/// Name of the file and its text.
fn resources() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let seated = || Bindings::of(TREATMENT, "PSN-4f1c09ab77d2");
    let mut add = |name: &str, site: &Site, bindings: &Bindings, encoded: Encoded| {
        let Encoded::Write(rendering) = encoded else { panic!("{name}: {encoded:?}") };
        for part in &rendering.parts {
            all.insert(name.to_owned(), pretty(&part.draft.resource().unwrap()));
        }
        // Most records need the same machine and treatment; one file of each is enough.
        for need in &rendering.needs {
            let text = pretty(&site.encoder().render(need, bindings));
            if all.values().all(|known| *known != text) {
                all.insert(format!("{}-of-{name}", need.kind().as_str().to_lowercase()), text);
            }
        }
    };
    let mut encode = |name: &str, site: &Site, bindings: &Bindings, record: &Stored| {
        add(name, site, bindings, site.encoder().encode(record, bindings));
    };
    let site = Site::default();
    let inside = |sequence, body| stored(sequence, Some(TREATMENT), body);
    let one = |value| Body::Values(vec![value]);

    encode("reading", &site, &seated(), &inside(1, one(number("venous_pressure", "142"))));
    let absent = value("dialysate_temperature", Reading::Absent, Mark::New);
    encode("reading-missing", &site, &seated(), &inside(2, one(absent)));
    let odd = Value { doubts: Doubts::OUTSIDE_PLAUSIBLE, ..number("dialysate_conductivity", "19.40") };
    encode("reading-doubtful", &site, &seated(), &inside(3, one(odd)));
    encode("total", &site, &seated(), &inside(4, one(number("uf_removed_volume", "680"))));
    encode("setting", &site, &seated(), &inside(5, one(number("venous_pressure_limit_high", "250"))));
    let state = value("treatment_modality", Reading::UnknownState, Mark::New);
    encode("state-unknown", &site, &seated(), &inside(6, one(state)));
    let cuff = vec![number("nibp_systolic", "128"), number("nibp_diastolic", "74")];
    encode("blood-pressure", &site, &seated(), &inside(7, Body::Values(cuff.clone())));
    encode("pulse", &site, &seated(), &inside(8, one(number("nibp_pulse_rate", "66"))));

    let edge = |key, phase| {
        let alarm = Alarm::from_key(key).unwrap();
        Body::Alarm(AlarmEdge { alarm, phase, raw: 2, occurrence: 17 })
    };
    encode("alarm-start", &site, &seated(), &inside(9, edge("venous_pressure", Phase::Start)));
    encode("alarm-end", &site, &seated(), &inside(10, edge("venous_pressure", Phase::End)));
    let lost = edge("air_detected", Phase::EndConnectionLost);
    encode("alarm-connection-lost", &site, &seated(), &inside(11, lost));
    let cut_off = edge("venous_pressure", Phase::EndGatewayDown);
    encode("alarm-gateway-down", &site, &seated(), &inside(25, cut_off));
    let changed = edge("venous_pressure", Phase::EndTreatmentChanged);
    encode("alarm-treatment-changed", &site, &seated(), &inside(23, changed));
    let chattering = edge("other", Phase::Chattering { edges: 9 });
    encode("alarm-chattering", &site, &seated(), &inside(12, chattering));

    let to = NOON.after(Duration::from_secs(40));
    let gap = |cause| Body::Gap(Gap { from: NOON, to, slots: 4, cause });
    encode("gap-silent", &site, &seated(), &stored(13, None, gap(GapCause::MachineSilent)));
    encode("gap-not-kept", &site, &seated(), &stored(24, None, gap(GapCause::Unkept)));
    encode("gap-lost-in-store", &site, &seated(), &stored(25, None, gap(GapCause::LostInStore)));
    encode("gap-gateway-down", &site, &seated(), &stored(14, None, gap(GapCause::GatewayDown)));
    let gone =
        |cause| Body::Evicted(Tombstone { from: NOON, to, records: 1_200, first: 5, last: 2_004, cause });
    encode("evicted", &site, &seated(), &stored(15, None, gone(LossCause::StoreFull)));
    encode("lost-in-store", &site, &seated(), &stored(15, None, gone(LossCause::StoreDamaged)));

    encode("started", &site, &seated(), &inside(16, Body::TreatmentStarted));
    let ended = seated();
    ended.end(to);
    encode("ended", &site, &ended, &inside(17, Body::TreatmentEnded(EndReason::FlagOff)));

    let mut managed = Site::default();
    managed.fhir.subject = Subject::Managed;
    encode("managed", &managed, &seated(), &inside(18, one(number("blood_flow_rate", "300"))));
    let mut machine = Site::default();
    machine.gateway.unseated = Unseated::Machine;
    let nobody = Bindings::default();
    encode("unseated", &machine, &nobody, &stored(19, None, one(number("venous_pressure", "12"))));
    encode("unseated-blood-pressure", &machine, &nobody, &stored(20, None, Body::Values(cuff)));
    let mut early = origin();
    early.at = Timestamp::from_micros(60_000_000);
    early.clock = ClockTrust::Untrusted;
    early.simulated = true;
    let simulated = stored_at(21, early, Some(TREATMENT), one(number("venous_pressure", "142")));
    encode("simulated-clock-untrusted", &Site::test(), &seated(), &simulated);

    let mut unset = origin();
    unset.at = Timestamp::from_micros(60_000_000);
    unset.clock = ClockTrust::Untrusted;
    let unset = stored_at(24, unset, Some(TREATMENT), one(number("venous_pressure", "142")));
    let timed =
        |at, clock: ClockTrust| Stored { record: unset.record.clone().retimed(at, clock), ..unset.clone() };
    encode("clock-set-later", &site, &seated(), &timed(NOON, ClockTrust::Retimed));
    encode("clock-never-set", &site, &seated(), &timed(NOON, ClockTrust::Between { until: to }));

    let corrected = seated();
    corrected.bind(TREATMENT, "PSN-90aa17c3d04e");
    let record = inside(22, one(number("venous_pressure", "142")));
    add(
        "withdrawn",
        &site,
        &corrected,
        site.encoder().withdraw(&record, &corrected, Revision(1), Then::AsNow),
    );

    all.insert("batch".to_owned(), {
        let whole = inside(
            23,
            Body::Values(vec![number("venous_pressure", "142"), number("blood_flow_rate", "300")]),
        );
        let Encoded::Write(rendering) = site.encoder().encode(&whole, &seated()) else { panic!() };
        let entries = rendering.parts.iter().map(|part| part.draft.entry().unwrap());
        let bundle = r4::batch(&entries.collect::<Vec<_>>());
        let bundle: serde_json::Value = serde_json::from_slice(&bundle).unwrap();
        serde_json::to_string_pretty(&bundle).unwrap() + "\n"
    });
    all
}

fn pretty(resource: &Resource) -> String {
    serde_json::to_string_pretty(resource).unwrap() + "\n"
}
