//! Code systems: the public ones, and ours under the configured namespace.

use super::r4::{CodeableConcept, Coding, Text};
use crate::model::alarm::Alarm;
use crate::model::parameter::{Kind, Parameter};
use crate::model::unit::Unit;

/// IEEE 11073-10101: the only vocabulary that covers the whole machine.
const MDC: &str = "urn:iso:std:iso:11073:10101";
const LOINC: &str = "http://loinc.org";
const UCUM: &str = "http://unitsofmeasure.org";
const SNOMED: &str = "http://snomed.info/sct";
const OBSERVATION_VALUE: &str = "http://terminology.hl7.org/CodeSystem/v3-ObservationValue";
const ACT_REASON: &str = "http://terminology.hl7.org/CodeSystem/v3-ActReason";
const CATEGORY: &str = "http://terminology.hl7.org/CodeSystem/observation-category";
const ABSENT: &str = "http://terminology.hl7.org/CodeSystem/data-absent-reason";
/// Measurement status of the Point-of-Care Device guide; base R4 has no code for "questionable".
const MEASUREMENT_STATUS: &str = "http://hl7.org/fhir/uv/pocd/CodeSystem/measurement-status";

/// LOINC codes of the R4 vital signs that a machine's own modules can measure.
const VITAL_SIGNS: &[&str] =
    &["8867-4", "85354-9", "8480-6", "8462-4", "8478-0", "2708-6", "8310-5", "29463-7"];

/// Whether R4 calls this a vital sign of the patient, as against a reading of the machine.
pub(super) fn is_vital_sign(parameter: Parameter) -> bool {
    parameter.row().loinc.is_some_and(|code| VITAL_SIGNS.contains(&code))
}

/// A code of IEEE 11073-10101.
pub(super) fn mdc((code, refid): (u32, &'static str)) -> Coding {
    Coding::new(MDC, code.to_string()).display(refid)
}

/// A LOINC code.
pub(super) fn loinc(code: &'static str) -> Coding {
    Coding::new(LOINC, code)
}

/// A SNOMED CT code.
pub(super) fn snomed(code: &'static str, display: &'static str) -> Coding {
    Coding::new(SNOMED, code).display(display)
}

/// A unit.
pub(super) fn unit(unit: Unit) -> Coding {
    Coding::new(UCUM, unit.ucum()).display(unit.ucum())
}

/// Why a value is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// The machine has none now.
    TemporarilyUnknown,
    /// It is lost.
    Error,
    /// Nobody measured.
    NotPerformed,
}

/// A `dataAbsentReason`.
pub(super) fn absent(why: Absent) -> CodeableConcept {
    let code = match why {
        Absent::TemporarilyUnknown => "temp-unknown",
        Absent::Error => "error",
        Absent::NotPerformed => "not-performed",
    };
    Coding::new(ABSENT, code).into()
}

/// The label of data about a pseudonym.
pub(super) fn pseudonymised() -> Coding {
    Coding::new(OBSERVATION_VALUE, "PSEUDED").display("pseudonymized")
}

/// The label of data that may be wrong.
pub(super) fn uncertain() -> Coding {
    Coding::new(OBSERVATION_VALUE, "UNCERTREL").display("uncertain reliability")
}

/// The label of data about nobody.
pub(super) fn test_data() -> Coding {
    Coding::new(ACT_REASON, "HTEST").display("test health data")
}

/// The interpretation of data that may be wrong.
pub(super) fn questionable() -> Coding {
    Coding::new(MEASUREMENT_STATUS, "questionable").display("Questionable")
}

/// The category of machine readings: circuit pressures are no vital signs.
pub(super) fn therapy() -> CodeableConcept {
    Coding::new(CATEGORY, "therapy").display("Therapy").into()
}

/// The category of a patient's vital signs.
pub(super) fn vital_signs() -> CodeableConcept {
    Coding::new(CATEGORY, "vital-signs").display("Vital Signs").into()
}

/// Our own systems under the configured namespace.
#[derive(Clone, Debug)]
pub(super) struct Own {
    namespace: String,
}

impl Own {
    /// Under this URL, which has no trailing slash.
    pub(super) fn under(namespace: &str) -> Self {
        Self { namespace: namespace.trim_end_matches('/').to_owned() }
    }

    /// One of our systems: `<namespace>/<name>`.
    pub(super) fn system(&self, name: &str) -> Text {
        format!("{}/{name}", self.namespace).into()
    }

    /// A code of one of our systems.
    pub(super) fn code(&self, system: &str, code: impl Into<Text>) -> Coding {
        Coding::new(self.system(system), code)
    }

    /// What a parameter is called: LOINC first for vital signs, else MDC first; ours where there is no public code.
    pub(super) fn parameter(&self, parameter: Parameter) -> CodeableConcept {
        let row = parameter.row();
        let mut coding = Vec::with_capacity(2);
        match row.mdc {
            Some(code) => coding.push(mdc(code)),
            None => coding.push(self.code("parameter", row.key).display(row.title)),
        }
        if let Some(code) = row.loinc {
            let at = if is_vital_sign(parameter) { 0 } else { coding.len() };
            coding.insert(at, loinc(code));
        }
        CodeableConcept { coding, text: Some(row.title.into()) }
    }

    /// The name of a state.
    pub(super) fn state(&self, parameter: Parameter, name: &'static str) -> CodeableConcept {
        let system = format!("{}/state/{}", self.namespace, parameter.key());
        CodeableConcept::from(Coding::new(system, name)).text(name)
    }

    /// What an alarm is called: the public event where there is one, and always our own name for it.
    pub(super) fn alarm(&self, alarm: Alarm) -> CodeableConcept {
        let row = alarm.row();
        let own = self.code("alarm", row.key).display(row.title);
        let coding = row.event.map(mdc).into_iter().chain([own]).collect();
        CodeableConcept { coding, text: Some(row.title.into()) }
    }
}

/// `DeviceMetric.category`.
pub(super) const fn metric_category(parameter: Parameter) -> &'static str {
    match parameter.row().kind {
        Kind::Setting => "setting",
        Kind::Measured | Kind::Total | Kind::State(_) | Kind::Spot => "measurement",
    }
}
