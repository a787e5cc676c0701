//! The judge against a small honest gateway and against lies.

use super::*;
use crate::model::parameter::Kind;
use crate::model::time::Timestamp;
use crate::sim::ward::Done;
use chairside_drivers::kit::simulator::{Act, Machine};
use chairside_drivers::kit::time::Tick;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

const NAMESPACE: &str = "https://test.invalid";
const EVERY: Duration = Duration::from_secs(10);

/// A Nikkiso's afternoon: patient 1 with a blood pressure, an empty chair, patient 2 under the same standing numbers.
struct Afternoon {
    map: DeviceMap,
    ledger: Ledger,
}

impl Afternoon {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = crate::config::load(&written(folder.path())).unwrap();
        let chair = &settings.chairs[0];
        let mut day = Day {
            machine: chair.model.machine(3),
            tick: Tick::ZERO,
            patient: None,
            ledger: Ledger::default(),
        };
        day.polls(2);
        day.patient = Some((1, Patient(1)));
        day.act(Act::StartTreatment);
        day.polls(3);
        day.act(Act::MeasureBloodPressure { systolic: 128, diastolic: 74, pulse: 66 });
        day.polls(3);
        day.act(Act::EndTreatment);
        day.patient = None;
        day.polls(2);
        day.patient = Some((2, Patient(2)));
        day.act(Act::StartTreatment);
        day.polls(4);
        Self { map: (*chair.map).clone(), ledger: day.ledger }
    }

    fn judged(&self, holdings: &Holdings) -> Comparison {
        let chair = Chair {
            name: "chair-1",
            model: "kpoll/nikkiso_dbb27c",
            map: &self.map,
            seated: true,
            ledger: &self.ledger,
        };
        compare(&[chair], holdings, NAMESPACE)
    }
}

/// A configuration with the shipped map.
fn written(folder: &Path) -> PathBuf {
    std::fs::create_dir(folder.join("devices")).unwrap();
    let map = include_str!("../../../config/devices/nikkiso_dbb27c.toml");
    std::fs::write(folder.join("devices/nikkiso_dbb27c.toml"), map).unwrap();
    let text = r#"
        [gateway]
        name = "test"
        state_dir = "state"
        time_zone = "UTC"
        environment = "test"
        [keys]
        root = { file = "root.key", created = true }
        [[chair]]
        name = "chair-1"
        machine = "HTEST-01"
        driver = "kpoll/nikkiso_dbb27c"
        port = "/dev/null"
        every = "10s"
        map = "nikkiso_dbb27c.toml"
    "#;
    std::fs::write(folder.join("gateway.toml"), text).unwrap();
    folder.join("gateway.toml")
}

struct Day {
    machine: Box<dyn Machine>,
    tick: Tick,
    patient: Option<(u32, Patient)>,
    ledger: Ledger,
}

impl Day {
    fn at(&self) -> Timestamp {
        Timestamp::from_micros(1_700_000_000_000_000 + i64::try_from(self.tick.as_micros()).unwrap())
    }

    fn act(&mut self, act: Act) {
        self.tick = self.tick.after(Duration::from_secs(1));
        self.machine.act(self.tick, act);
        self.ledger.done.push(Done { at: self.at(), act, treatment: self.patient });
    }

    fn polls(&mut self, count: usize) {
        for _ in 0..count {
            self.tick = self.tick.after(EVERY);
            self.machine.advance(self.tick);
            let screen = self.machine.screen().into_iter().collect();
            self.ledger.shown.push(Shown { at: self.at(), screen, treatment: self.patient });
        }
    }
}

/// What an honest gateway would send, entry by entry, dependencies first.
fn honest(afternoon: &Afternoon) -> Vec<Value> {
    let mut entries =
        vec![put("Device", 1, json!({"modelNumber": "kpoll/nikkiso_dbb27c", "type": {"text": "machine"}}))];
    for treatment in [1, 2] {
        let procedure = json!({"status": "completed", "subject": pseudonym(treatment)});
        entries.push(put("Procedure", 10 + u64::from(treatment), procedure));
    }
    let mut last: HashMap<&str, Option<Said>> = HashMap::new();
    let mut running = None;
    for (index, shown) in afternoon.ledger.shown.iter().enumerate() {
        let Some((treatment, _)) = shown.treatment else { continue };
        if running.replace(treatment) != Some(treatment) {
            last.clear();
        }
        for (place, entry) in (0..).zip(&afternoon.map.entries) {
            let (key, now) = (entry.parameter.key(), said(shown, entry));
            let wanted = match entry.parameter.row().kind {
                Kind::Measured | Kind::Total => true,
                Kind::Setting | Kind::State(_) => last.get(key) != Some(&now),
                // The only blood pressure was taken before the sixth screen.
                Kind::Spot => index == 5 && key == "nibp_pulse_rate",
            };
            last.insert(key, now);
            if wanted {
                entries.push(observation(
                    index,
                    place,
                    treatment,
                    shown,
                    code(entry.parameter),
                    value(entry, now.unwrap()),
                ));
            }
        }
        if index == 5 {
            let of = |key: &str, value: i64| {
                let code = code(Parameter::from_key(key).unwrap());
                json!({"code": code, "valueQuantity": {"value": value, "code": "mm[Hg]"}})
            };
            let panel = json!({"component": [of(SYSTOLIC, 128), of(DIASTOLIC, 74)]});
            let code = json!({"coding": [{"system": "http://loinc.org", "code": "85354-9"}]});
            entries.push(observation(index, 99, treatment, shown, code, panel));
        }
    }
    entries
}

fn code(parameter: Parameter) -> Value {
    let (system, code) = match parameter.row().mdc {
        Some((code, _)) => ("urn:iso:std:iso:11073:10101".to_owned(), code.to_string()),
        None => (format!("{NAMESPACE}/parameter"), parameter.key().to_owned()),
    };
    json!({"coding": [{"system": system, "code": code}]})
}

fn value(entry: &MapEntry, said: Said) -> Value {
    match said {
        Said::Number(number) => {
            let digits: Value = serde_json::from_str(&number.to_string()).unwrap();
            json!({"valueQuantity": {"value": digits, "code": entry.parameter.row().unit.unwrap().ucum()}})
        }
        Said::State(name) => {
            let system = format!("{NAMESPACE}/state/{}", entry.parameter.key());
            json!({"valueCodeableConcept": {"coding": [{"system": system, "code": name}]}})
        }
        Said::Absent => json!({"dataAbsentReason": {"coding": [{"system": "s", "code": "temp-unknown"}]}}),
    }
}

fn observation(index: usize, place: u64, treatment: u32, shown: &Shown, code: Value, value: Value) -> Value {
    let at = jiff::Timestamp::from_microsecond(shown.at.as_micros() + 3_000).unwrap();
    let mut body = json!({
        "status": "final", "code": code, "subject": pseudonym(treatment), "effectiveDateTime": at.to_string(),
        "device": {"reference": format!("Device/{}", id(1))},
        "partOf": [{"reference": format!("Procedure/{}", id(10 + u64::from(treatment)))}],
    });
    body.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
    put("Observation", 10_000 + 100 * index as u64 + place, body)
}

fn pseudonym(treatment: u32) -> Value {
    json!({"type": "Patient", "identifier": {"system": "s", "value": format!("PSN-{treatment}")}})
}

fn id(number: u64) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

fn put(kind: &str, number: u64, mut body: Value) -> Value {
    body["resourceType"] = json!(kind);
    body["id"] = json!(id(number));
    body["meta"] = json!({"security": [{"system": "s", "code": "HTEST"}]});
    json!({"resource": body, "request": {"method": "PUT", "url": format!("{kind}/{}", id(number))}})
}

fn held(entries: Vec<Value>) -> Holdings {
    let mut holdings = Holdings::default();
    for entry in entries {
        let taken = holdings.take(std::slice::from_ref(&entry)).pop().unwrap();
        assert!(taken.1.is_ok(), "{taken:?}: {entry}");
    }
    holdings
}

/// The place of the Observation of a parameter in the middle of the first treatment.
fn place_of(entries: &[Value], key: &str) -> usize {
    let code = code(Parameter::from_key(key).unwrap());
    entries.iter().rposition(|entry| entry["resource"]["code"] == code).unwrap()
}

#[test]
fn an_honest_gateway_agrees() {
    let afternoon = Afternoon::new();
    let comparison = afternoon.judged(&held(honest(&afternoon)));
    assert!(comparison.agrees(), "{comparison:#?}");
    assert_eq!(comparison.treatments, 2);
    assert!(comparison.values > 100);
}

#[test]
fn one_wrong_digit_is_found() {
    let afternoon = Afternoon::new();
    let mut entries = honest(&afternoon);
    let place = place_of(&entries, "venous_pressure");
    let value = &mut entries[place]["resource"]["valueQuantity"]["value"];
    *value = json!(value.as_i64().unwrap() + 1);
    let comparison = afternoon.judged(&held(entries));
    assert_eq!((comparison.wrong, comparison.missing, comparison.agrees()), (1, 0, false), "{comparison:#?}");
}

#[test]
fn a_lost_digit_behind_the_point_is_found() {
    let afternoon = Afternoon::new();
    let mut entries = honest(&afternoon);
    let place = place_of(&entries, "dialysate_temperature");
    let value = &mut entries[place]["resource"]["valueQuantity"]["value"];
    *value = serde_json::from_str(&format!("{value}0")).unwrap();
    assert_eq!(afternoon.judged(&held(entries)).wrong, 1);
}

#[test]
fn one_missing_reading_is_found() {
    let afternoon = Afternoon::new();
    for key in ["venous_pressure", "treatment_modality", "nibp_pulse_rate"] {
        let mut entries = honest(&afternoon);
        entries.remove(place_of(&entries, key));
        let comparison = afternoon.judged(&held(entries));
        assert_eq!((comparison.missing, comparison.agrees()), (1, false), "{key}: {comparison:#?}");
    }
}

#[test]
fn a_reading_with_another_patient_s_pseudonym_is_found() {
    let afternoon = Afternoon::new();
    let mut entries = honest(&afternoon);
    let place = place_of(&entries, "venous_pressure");
    entries[place]["resource"]["subject"] = pseudonym(1);
    let comparison = afternoon.judged(&held(entries));
    assert_eq!((comparison.misattributed, comparison.agrees()), (1, false), "{comparison:#?}");
}

#[test]
fn the_first_patient_s_blood_pressure_under_the_second_is_found() {
    let afternoon = Afternoon::new();
    let mut entries = honest(&afternoon);
    let mut panel = entries.iter().find(|entry| entry["resource"]["component"].is_array()).unwrap().clone();
    let last = entries.last().unwrap().clone();
    for field in ["subject", "partOf", "effectiveDateTime"] {
        panel["resource"][field] = last["resource"][field].clone();
    }
    panel["resource"]["id"] = json!(id(77));
    panel["request"]["url"] = json!(format!("Observation/{}", id(77)));
    entries.push(panel);
    let comparison = afternoon.judged(&held(entries));
    assert_eq!((comparison.wrong, comparison.agrees()), (1, false), "{comparison:#?}");
}

#[test]
fn a_reading_of_an_empty_chair_with_a_patient_is_found() {
    let mut afternoon = Afternoon::new();
    let entries = honest(&afternoon);
    afternoon.ledger.shown.last_mut().unwrap().treatment = None;
    assert!(afternoon.judged(&held(entries)).misattributed > 0);
}

#[test]
fn the_same_reading_under_a_second_id_is_found() {
    let afternoon = Afternoon::new();
    let mut entries = honest(&afternoon);
    let mut again = entries[place_of(&entries, "venous_pressure")].clone();
    again["resource"]["id"] = json!(id(77));
    again["request"]["url"] = json!(format!("Observation/{}", id(77)));
    entries.push(again);
    let comparison = afternoon.judged(&held(entries));
    assert_eq!((comparison.duplicates, comparison.agrees()), (1, false));
}

#[test]
fn two_patients_under_one_pseudonym_are_found() {
    let afternoon = Afternoon::new();
    let mut entries = honest(&afternoon);
    for entry in &mut entries {
        if entry["resource"]["subject"].is_object() {
            entry["resource"]["subject"] = pseudonym(1);
        }
    }
    assert!(!afternoon.judged(&held(entries)).agrees());
}

#[test]
fn nothing_at_all_does_not_agree() {
    let afternoon = Afternoon::new();
    let comparison = afternoon.judged(&Holdings::default());
    assert!(!comparison.agrees());
    assert!(comparison.missing > 100);
}

#[test]
fn a_lost_poll_is_missing_unless_the_receiver_was_told_of_the_gap() {
    let afternoon = Afternoon::new();
    let lost = afternoon.ledger.shown[6].at.as_micros();
    let at = jiff::Timestamp::from_microsecond(lost + 3_000).unwrap().to_string();
    let mut entries = honest(&afternoon);
    entries.retain(|entry| entry["resource"]["effectiveDateTime"] != json!(at));
    let comparison = afternoon.judged(&held(entries.clone()));
    assert!(comparison.missing > 10 && !comparison.agrees());

    let event = |code: &str| json!({"coding": [{"system": format!("{NAMESPACE}/event"), "code": code}]});
    let until = jiff::Timestamp::from_microsecond(lost + 10_000_000).unwrap().to_string();
    entries.push(put(
        "Observation",
        77,
        json!({
            "status": "final", "code": event("gap"), "effectivePeriod": {"start": at, "end": until},
            "subject": {"reference": format!("Device/{}", id(1))},
            "component": [{"code": event("slots"), "valueQuantity": {"value": 1, "code": "1"}}],
        }),
    ));
    let comparison = afternoon.judged(&held(entries));
    assert!(comparison.agrees(), "{comparison:#?}");
    assert_eq!(comparison.told_as_gaps, 1);
}
