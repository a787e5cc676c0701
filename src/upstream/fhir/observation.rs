//! Observations: one per reading of a poll, the cuff's blood pressure as one panel.

use super::codes::{self, Absent};
use super::encode::{Part, Scene, Standing};
use super::instant;
use super::r4::{
    CodeableConcept, Meta, Observation, ObservationComponent, Quantity, Reference, Resource, ResourceType,
    Text,
};
use crate::config::settings::ResourceKind;
use crate::model::parameter::{Kind, Parameter};
use crate::model::time::ClockTrust;
use crate::model::value::{Doubts, Reading, Value};

const BLOOD_PRESSURE: (u32, &str) = (150_020, "MDC_PRESS_BLD_NONINV");
const BLOOD_PRESSURE_LOINC: &str = "85354-9";
const BP_PROFILE: &str = "http://hl7.org/fhir/StructureDefinition/bp";
const SYSTOLIC: &str = "nibp_systolic";
const DIASTOLIC: &str = "nibp_diastolic";
const MEAN: &str = "nibp_mean";

impl Scene<'_> {
    /// Every value of a poll that this receiver wants.
    pub(super) fn values(&mut self, values: &[Value]) -> Vec<Part> {
        let wanted = || {
            let numbered = (0..=u16::MAX).zip(values);
            numbered.filter(|(_, value)| self.wants(value)).collect::<Vec<_>>()
        };
        let (cuff, others): (Vec<_>, Vec<_>) =
            wanted().into_iter().partition(|(_, value)| is_blood_pressure(value));
        let common = if others.is_empty() { None } else { self.common() };
        let single = others.into_iter().map(|(number, value)| {
            let draft = self.reading(number, value, common.as_ref());
            Part { number, draft }
        });
        let mut parts: Vec<Part> = single.collect();
        // The panel takes the place of its first value.
        if let Some((number, _)) = cuff.first().copied()
            && let Some(resource) = self.blood_pressure(number, &cuff)
        {
            parts.push(Part { number, draft: resource.into() });
            parts.sort_by_key(|part| part.number);
        }
        parts
    }

    /// One reading, from nothing.
    pub(super) fn single(&mut self, number: u16, value: &Value) -> Resource {
        let parameter = value.parameter;
        let device = self.metric_or_machine(parameter);
        let of_patient = codes::is_vital_sign(parameter) && self.seated.is_some();
        let mut it = self.observation(number, self.encoder.own.parameter(parameter), value.doubts);
        it.category = vec![if of_patient { codes::vital_signs() } else { codes::therapy() }];
        it.meta.profile.extend(vital_sign_profile(parameter).filter(|_| of_patient));
        it.device = device;
        match value.reading {
            Reading::Number(number) => match parameter.row().unit {
                Some(unit) => it.value_quantity = Some(Quantity::ucum(number, unit.ucum())),
                // A state has no unit; a number for one is no reading of it.
                None => it.value_codeable_concept = Some(self.encoder.own.state(parameter, "unknown")),
            },
            Reading::State(name) => it.value_codeable_concept = Some(self.encoder.own.state(parameter, name)),
            Reading::UnknownState => {
                it.value_codeable_concept = Some(self.encoder.own.state(parameter, "unknown"));
            }
            Reading::Absent => {
                it.data_absent_reason = Some(codes::absent(Absent::TemporarilyUnknown));
                it.interpretation.clear();
            }
        }
        Resource::Observation(Box::new(it))
    }

    /// One measurement of the cuff; `None` when it measured nothing.
    fn blood_pressure(&mut self, number: u16, cuff: &[(u16, &Value)]) -> Option<Resource> {
        let of = |key| cuff.iter().find(|(_, value)| value.parameter.key() == key).map(|(_, value)| **value);
        let measured = |value: &Value| matches!(value.reading, Reading::Number(_));
        if !cuff.iter().any(|(_, value)| measured(value)) {
            return None;
        }
        // The profile asks for systolic and diastolic, if only to say that one is missing.
        let both = [component(SYSTOLIC, of(SYSTOLIC)), component(DIASTOLIC, of(DIASTOLIC))];
        let mean = of(MEAN).filter(measured).and_then(|value| component(MEAN, Some(value)));
        let code = CodeableConcept {
            coding: vec![codes::loinc(BLOOD_PRESSURE_LOINC), codes::mdc(BLOOD_PRESSURE)],
            text: Some("blood pressure by cuff".into()),
        };
        self.need_device();
        let doubts = cuff.iter().fold(Doubts::NONE, |all, (_, value)| all.with(value.doubts));
        let mut it = self.observation(number, code, doubts);
        if self.seated.is_some() {
            it.category = vec![codes::vital_signs()];
            it.meta.profile.push(BP_PROFILE.into());
        } else {
            it.category = vec![codes::therapy()];
        }
        it.device = self.encoder.device_reference(self.ids, &self.origin().machine);
        it.component = both.into_iter().chain([mean]).flatten().collect();
        Some(Resource::Observation(Box::new(it)))
    }

    /// An observation of this record: everything but what was observed.
    pub(super) fn observation(&mut self, number: u16, code: CodeableConcept, doubts: Doubts) -> Observation {
        let id = self.observation_id(number);
        let (doubts, until) = match self.origin().clock {
            ClockTrust::Trusted | ClockTrust::Retimed => (doubts, None),
            ClockTrust::Untrusted => (doubts.with(Doubts::CLOCK_UNTRUSTED), None),
            ClockTrust::Between { until } => (doubts.with(Doubts::CLOCK_UNTRUSTED), Some(until)),
        };
        let (at, zone) = (self.at(), &self.encoder.zone);
        let (effective_date_time, effective_period) = match until {
            None => (instant::date_time(at, zone), None),
            // When it was within this time nobody can say any more.
            Some(until) => (None, instant::period(Some(at), Some(until), zone)),
        };
        let interpretation = self.interpretation(doubts);
        let mut security = self.labels();
        if is_questionable(doubts) {
            security.push(codes::uncertain());
        }
        self.need_patient();
        let part_of = self.need_procedure();
        Observation {
            resource_type: ResourceType::Observation,
            id: id.to_string(),
            meta: Meta { profile: Vec::new(), security },
            identifier: vec![self.encoder.identifier("observation", id)],
            part_of: part_of.map(|id| Reference::literal(ResourceType::Procedure, id)).into_iter().collect(),
            status: match self.standing {
                Standing::Valid => "final".into(),
                Standing::Withdrawn => "entered-in-error".into(),
            },
            category: Vec::new(),
            code,
            subject: Some(self.subject()),
            effective_date_time,
            effective_period,
            value_quantity: None,
            value_codeable_concept: None,
            data_absent_reason: None,
            interpretation,
            device: None,
            component: Vec::new(),
        }
    }

    /// The metric where the receiver takes metrics, else the machine, else nothing.
    pub(super) fn metric_or_machine(&mut self, parameter: Parameter) -> Option<Reference> {
        if !self.encoder.writes(ResourceKind::Device) {
            return None;
        }
        self.need_device();
        if self.encoder.writes(ResourceKind::DeviceMetric) {
            return Some(Reference::literal(ResourceType::DeviceMetric, self.need_metric(parameter)));
        }
        self.encoder.device_reference(self.ids, &self.origin().machine)
    }

    /// The patient by pseudonym; without one, the machine.
    pub(super) fn subject(&mut self) -> Reference {
        if let Some(seated) = &self.seated {
            return self.encoder.patient_reference(self.ids, &seated.pseudonym);
        }
        self.need_device();
        let machine = &self.origin().machine;
        self.encoder.device_reference(self.ids, machine).unwrap_or_else(|| {
            // A reading of nothing at all would be worse: the machine is named although it is not written.
            Reference::logical(ResourceType::Device, self.encoder.device_identifier(self.ids, machine))
        })
    }

    fn interpretation(&self, doubts: Doubts) -> Vec<CodeableConcept> {
        let is_retimed = self.origin().clock == ClockTrust::Retimed;
        if doubts.is_empty() && !is_retimed {
            return Vec::new();
        }
        let retimed = is_retimed.then(|| {
            let code = self.encoder.own.code("doubt", "time-derived");
            code.display("the clock was set later; the time was found from the monotonic clock")
        });
        let own = DOUBTS
            .iter()
            .filter(|(doubt, ..)| doubts.contains(*doubt))
            .map(|(_, code, display)| self.encoder.own.code("doubt", *code).display(*display));
        let questionable = is_questionable(doubts).then(codes::questionable);
        vec![CodeableConcept {
            coding: questionable.into_iter().chain(own).chain(retimed).collect(),
            text: None,
        }]
    }
}

/// Our own names of doubts, beside the public "questionable".
const DOUBTS: &[(Doubts, &str, &str)] = &[
    (Doubts::OUTSIDE_PLAUSIBLE, "outside-plausible", "outside the plausible range while treating"),
    (
        Doubts::MACHINE_CLOCK_WRONG,
        "machine-clock-wrong",
        "the machine's clock disagrees by more than a minute",
    ),
    (Doubts::AFTER_GAP, "after-gap", "the first reading after a gap"),
    (Doubts::CLOCK_UNTRUSTED, "clock-untrusted", "the gateway's clock was not trusted at capture"),
];

/// A reading after a gap is as right as any other; the rest of the doubts is about the reading or its time.
fn is_questionable(doubts: Doubts) -> bool {
    [Doubts::OUTSIDE_PLAUSIBLE, Doubts::MACHINE_CLOCK_WRONG, Doubts::CLOCK_UNTRUSTED]
        .into_iter()
        .any(|doubt| doubts.contains(doubt))
}

fn is_blood_pressure(value: &Value) -> bool {
    value.parameter.row().kind == Kind::Spot && [SYSTOLIC, DIASTOLIC, MEAN].contains(&value.parameter.key())
}

fn component(key: &str, value: Option<Value>) -> Option<ObservationComponent> {
    let parameter = Parameter::from_key(key)?;
    let row = parameter.row();
    let coding = row.loinc.map(codes::loinc).into_iter().chain(row.mdc.map(codes::mdc)).collect();
    let quantity = match (value.map(|value| value.reading), row.unit) {
        (Some(Reading::Number(number)), Some(unit)) => Some(Quantity::ucum(number, unit.ucum())),
        _ => None,
    };
    let missing = quantity.is_none().then(|| codes::absent(Absent::TemporarilyUnknown));
    Some(ObservationComponent {
        code: CodeableConcept { coding, text: Some(row.title.into()) },
        value_quantity: quantity,
        value_codeable_concept: None,
        data_absent_reason: missing,
    })
}

/// The R4 profile of a single vital sign.
fn vital_sign_profile(parameter: Parameter) -> Option<Text> {
    match parameter.row().loinc {
        Some("8867-4") => Some("http://hl7.org/fhir/StructureDefinition/heartrate".into()),
        Some("2708-6") => Some("http://hl7.org/fhir/StructureDefinition/oxygensat".into()),
        Some("8310-5") => Some("http://hl7.org/fhir/StructureDefinition/bodytemp".into()),
        Some("29463-7") => Some("http://hl7.org/fhir/StructureDefinition/bodyweight".into()),
        _ => None,
    }
}
