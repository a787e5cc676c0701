//! From one stored record to the resources it becomes at one receiver. A pure function of the record, the binding in
//! force and the settings, so that a retry sends the same content under the same ids.

use super::codes::{self, Own};
use super::draft::Draft;
use super::ids::Ids;
use super::procedure::Hint;
use super::r4::{Coding, Identifier, Meta, Resource, ResourceType};
use super::stencil::Stencils;
use crate::config::settings::{
    Changes, Environment, Every, FhirSettings, GatewaySettings, ResourceKind, SendPolicy, Subject, Unseated,
    UpstreamSettings, Wanted,
};
use crate::model::name::{MachineName, UpstreamName};
use crate::model::parameter::{Kind, Parameter};
use crate::model::time::Timestamp;
use crate::model::value::{Mark, Value};
use crate::normalise::Origin;
use crate::privacy::record::{Body, Record, Revision, TreatmentId};
use crate::spool::Stored;
use crate::upstream::{Identities, Pseudonym};
use chairside_drivers::kit::driver::ModelId;
use jiff::tz::TimeZone;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use uuid::Uuid;

/// Renders records for one receiver.
#[derive(Clone, Debug)]
pub struct Encoder {
    recipient: UpstreamName,
    pub(super) own: Own,
    pub(super) zone: TimeZone,
    pub(super) subject: Subject,
    resources: Vec<ResourceKind>,
    unseated: Unseated,
    send: SendPolicy,
    gateway: Environment,
    receiver: Environment,
    /// Ids of DeviceMetrics already derived: the same few dozen of a machine stand in every record.
    metric_ids: Arc<Mutex<HashMap<(MachineName, Parameter), Uuid>>>,
    pub(super) stencils: Stencils,
}

/// What a record becomes at this receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encoded {
    /// These resources, once what they need is there.
    Write(Rendering),
    /// Nothing before this treatment has a patient.
    Hold(TreatmentId),
    /// Nothing, ever: this receiver asked for less, or the record is none of its business.
    Skip,
}

/// The resources of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendering {
    /// The binding under which they are written.
    pub revision: Revision,
    /// What has to stand at the receiver first, in the order of writing.
    pub needs: Vec<Need>,
    /// The resources that are the record.
    pub parts: Vec<Part>,
}

/// One resource of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number within the record; the same at every retry.
    pub number: u16,
    /// The resource.
    pub draft: Draft,
}

/// A resource that others refer to. It is rendered only when the receiver does not have it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its id.
    pub id: Uuid,
    what: What,
    test: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Device { machine: MachineName, model: ModelId },
    Metric { machine: MachineName, parameter: Parameter },
    Patient { pseudonym: Pseudonym },
    Procedure { seated: Seated, machine: MachineName, hint: Hint, standing: Standing },
}

/// A treatment with a patient, under one binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seated {
    pub(super) treatment: TreatmentId,
    pub(super) revision: Revision,
    pub(super) pseudonym: Pseudonym,
}

/// Whether a resource holds, or is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It holds.
    Valid,
    /// It was written under a binding that was wrong: `entered-in-error`.
    Withdrawn,
}

/// What the receiver was to be sent when a record was written that is now taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// What it is to be sent now: this process wrote it.
    AsNow,
    /// An earlier process wrote it, perhaps for another `send`: all that any `send` lets through.
    Unknown,
}

impl Need {
    /// Its type; needs are written type by type, in the order of [`ResourceType`].
    #[must_use]
    pub const fn kind(&self) -> ResourceType {
        match self.what {
            What::Device { .. } => ResourceType::Device,
            What::Metric { .. } => ResourceType::DeviceMetric,
            What::Patient { .. } => ResourceType::Patient,
            What::Procedure { .. } => ResourceType::Procedure,
        }
    }

    /// Whether it holds or is taken back.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        match self.what {
            What::Procedure { standing, .. } => standing,
            What::Device { .. } | What::Metric { .. } | What::Patient { .. } => Standing::Valid,
        }
    }
}

impl Encoder {
    /// An encoder for one receiver.
    #[must_use]
    pub fn new(gateway: &GatewaySettings, upstream: &UpstreamSettings, fhir: &FhirSettings) -> Self {
        Self {
            recipient: upstream.name.clone(),
            own: Own::under(&gateway.namespace),
            zone: gateway.time_zone.clone(),
            subject: fhir.subject,
            resources: fhir.resources.clone(),
            unseated: gateway.unseated,
            send: upstream.send,
            gateway: gateway.environment,
            receiver: fhir.environment,
            metric_ids: Arc::default(),
            stencils: Stencils::default(),
        }
    }

    /// What the record becomes under the binding in force.
    #[must_use]
    pub fn encode(&self, stored: &Stored, identities: &dyn Identities) -> Encoded {
        let Some(treatment) = stored.record.treatment() else {
            return self.encode_as(stored, identities, None, Standing::Valid);
        };
        let revision = identities.revision(treatment).unwrap_or(Revision(0));
        let seated = self.seated(identities, treatment, revision);
        if seated.is_none() && self.unseated == Unseated::Hold && self.is_of_a_patient(&stored.record) {
            return Encoded::Hold(treatment);
        }
        self.encode_as(stored, identities, seated, Standing::Valid)
    }

    /// What takes the record back that was written under the binding `old`.
    #[must_use]
    pub fn withdraw(
        &self,
        stored: &Stored,
        identities: &dyn Identities,
        old: Revision,
        then: Then,
    ) -> Encoded {
        let Some(treatment) = stored.record.treatment() else { return Encoded::Skip };
        let seated = self.seated(identities, treatment, old);
        let was_written = seated.is_some() || self.unseated == Unseated::Machine;
        if !was_written || !is_about_a_treatment(stored.record.body()) {
            return Encoded::Skip;
        }
        let encoder = match then {
            Then::AsNow => self,
            Then::Unknown => &Self { send: SendPolicy::EVERYTHING, ..self.clone() },
        };
        encoder.encode_as(stored, identities, seated, Standing::Withdrawn)
    }

    /// What the record becomes under the binding `new`, as the replacement of what was withdrawn.
    #[must_use]
    pub fn replace(&self, stored: &Stored, identities: &dyn Identities) -> Encoded {
        if is_about_a_treatment(stored.record.body()) {
            self.encode(stored, identities)
        } else {
            Encoded::Skip
        }
    }

    /// Whether records without a patient are held, and so were never written.
    #[must_use]
    pub fn holds_unseated(&self) -> bool {
        self.unseated == Unseated::Hold
    }

    /// The resource that a need stands for.
    #[must_use]
    pub fn render(&self, need: &Need, identities: &dyn Identities) -> Resource {
        let ids = Ids { recipient: &self.recipient, identities };
        let test = need.test.then(codes::test_data);
        let of_machine = || Meta { profile: Vec::new(), security: test.clone().into_iter().collect() };
        let of_patient = || [codes::pseudonymised()].into_iter().chain(test.clone()).collect::<Vec<_>>();
        match &need.what {
            What::Device { machine, model } => self.device(ids, machine, model, of_machine()),
            What::Metric { machine, parameter } => self.metric(ids, machine, *parameter, of_machine()),
            What::Patient { pseudonym } => self.patient(ids, pseudonym, of_patient()),
            What::Procedure { seated, machine, hint, standing } => {
                let meta = Meta { profile: Vec::new(), security: of_patient() };
                self.procedure(ids, seated, machine, *hint, *standing, meta)
            }
        }
    }

    fn metric_id(&self, ids: Ids<'_>, machine: &MachineName, parameter: Parameter) -> Uuid {
        let mut known = self.metric_ids.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry((machine.clone(), parameter)).or_insert_with(|| ids.metric(machine, parameter))
    }

    pub(super) fn writes(&self, kind: ResourceKind) -> bool {
        self.resources.contains(&kind)
    }

    pub(super) fn identifier(&self, system: &str, id: Uuid) -> Identifier {
        Identifier { system: self.own.system(system), value: id.to_string().into() }
    }

    fn seated(
        &self,
        identities: &dyn Identities,
        treatment: TreatmentId,
        revision: Revision,
    ) -> Option<Seated> {
        if revision == Revision(0) {
            return None;
        }
        let pseudonym = identities.subject(&self.recipient, treatment, revision)?;
        Some(Seated { treatment, revision, pseudonym })
    }

    fn encode_as(
        &self,
        stored: &Stored,
        identities: &dyn Identities,
        seated: Option<Seated>,
        standing: Standing,
    ) -> Encoded {
        if !self.wants(&stored.record) {
            return Encoded::Skip;
        }
        let outside = stored.record.treatment().is_none() && is_about_a_treatment(stored.record.body());
        if outside && self.unseated == Unseated::Hold {
            return Encoded::Skip;
        }
        let ids = Ids { recipient: &self.recipient, identities };
        let mut scene = Scene { encoder: self, ids, stored, seated, standing, needs: Vec::new() };
        let parts = match stored.record.body() {
            Body::Values(values) => scene.values(values),
            Body::Alarm(edge) => scene.alarm(*edge),
            Body::TreatmentStarted => scene.treatment(Hint { started: Some(scene.at()), ended: None }),
            Body::TreatmentEnded(_) => scene.treatment(Hint { started: None, ended: Some(scene.at()) }),
            Body::Gap(gap) => scene.gap(*gap),
            Body::Evicted(tombstone) => scene.evicted(*tombstone),
            Body::ClockStep(_) | Body::Correction(_) => Vec::new(),
        };
        if parts.is_empty() {
            return Encoded::Skip;
        }
        let revision = scene.revision();
        Encoded::Write(Rendering { revision, needs: scene.needs_in_order(), parts })
    }

    /// Whether the receiver could be sent anything of the record once it has a patient.
    fn is_of_a_patient(&self, record: &Record) -> bool {
        is_about_a_treatment(record.body()) && self.wants(record)
    }

    fn wants(&self, record: &Record) -> bool {
        // Test data never goes to a receiver of real patients.
        if self.is_test(record.origin()) && self.receiver == Environment::Production {
            return false;
        }
        match record.body() {
            Body::Values(values) => {
                self.writes(ResourceKind::Observation)
                    && values.iter().any(|value| self.wants_value(value, record.origin()))
            }
            Body::Alarm(_) => self.writes(ResourceKind::Observation) && self.send.alarms == Wanted::Yes,
            Body::TreatmentStarted | Body::TreatmentEnded(_) => self.writes(ResourceKind::Procedure),
            Body::Gap(_) | Body::Evicted(_) => self.writes(ResourceKind::Observation),
            Body::ClockStep(_) | Body::Correction(_) => false,
        }
    }

    fn wants_value(&self, value: &Value, origin: &Origin) -> bool {
        match (value.parameter.row().kind, value.mark) {
            (_, Mark::Baseline) => false,
            (Kind::Measured | Kind::Total, Mark::New | Mark::Same) => match self.send.every {
                Every::Poll => true,
                Every::Window(length) => is_first_of_window(origin.at, origin.previous, length),
            },
            (Kind::Setting | Kind::State(_), mark) => {
                mark == Mark::New && self.send.settings == Changes::OnChange
            }
            (Kind::Spot, mark) => mark == Mark::New && self.send.spot == Wanted::Yes,
        }
    }

    fn is_test(&self, origin: &Origin) -> bool {
        origin.simulated || self.gateway == Environment::Test
    }
}

/// Whether no record of the same window came before, windows counted from UTC midnight.
fn is_first_of_window(at: Timestamp, previous: Option<Timestamp>, length: Duration) -> bool {
    const DAY: i64 = 86_400_000_000;
    let length = i64::try_from(length.as_micros()).unwrap_or(DAY).clamp(1, DAY);
    let window = |at: Timestamp| {
        let day = at.as_micros().div_euclid(DAY);
        (day, at.as_micros().rem_euclid(DAY) / length)
    };
    previous.is_none_or(|previous| window(previous) != window(at))
}

/// Whether a binding can change what is written of it; gaps are always about the machine alone.
const fn is_about_a_treatment(body: &Body) -> bool {
    match body {
        Body::Values(_) | Body::Alarm(_) | Body::TreatmentStarted | Body::TreatmentEnded(_) => true,
        Body::Gap(_) | Body::Evicted(_) | Body::ClockStep(_) | Body::Correction(_) => false,
    }
}

/// One record on its way to resources.
pub(super) struct Scene<'a> {
    pub(super) encoder: &'a Encoder,
    pub(super) ids: Ids<'a>,
    pub(super) stored: &'a Stored,
    /// `None`: the machine is the subject.
    pub(super) seated: Option<Seated>,
    pub(super) standing: Standing,
    needs: Vec<Need>,
}

impl Scene<'_> {
    pub(super) const fn origin(&self) -> &Origin {
        self.stored.record.origin()
    }

    pub(super) const fn at(&self) -> Timestamp {
        self.origin().at
    }

    pub(super) fn wants(&self, value: &Value) -> bool {
        self.encoder.wants_value(value, self.origin())
    }

    pub(super) fn observation_id(&self, part: u16) -> Uuid {
        self.ids.observation(self.stored, part, self.revision())
    }

    pub(super) fn is_test(&self) -> bool {
        self.encoder.is_test(self.origin())
    }

    fn revision(&self) -> Revision {
        self.seated.as_ref().map_or(Revision(0), |seated| seated.revision)
    }

    /// The labels every resource of this record carries.
    pub(super) fn labels(&self) -> Vec<Coding> {
        let pseudonymised = self.seated.is_some().then(codes::pseudonymised);
        let test = self.is_test().then(codes::test_data);
        pseudonymised.into_iter().chain(test).collect()
    }

    /// The machine will be referred to.
    pub(super) fn need_device(&mut self) {
        let is_needed = self.needs.iter().any(|need| matches!(need.what, What::Device { .. }));
        if self.encoder.writes(ResourceKind::Device) && !is_needed {
            let (machine, model) = (self.origin().machine.clone(), self.origin().model.clone());
            self.need(self.ids.device(&machine), What::Device { machine, model });
        }
    }

    /// What the machine measures will be referred to.
    pub(super) fn need_metric(&mut self, parameter: Parameter) -> Uuid {
        let machine = self.origin().machine.clone();
        let id = self.encoder.metric_id(self.ids, &machine, parameter);
        self.need(id, What::Metric { machine, parameter });
        id
    }

    /// The patient will be referred to, if there is one and we write it.
    pub(super) fn need_patient(&mut self) {
        let Some(seated) = &self.seated else { return };
        if self.encoder.subject == Subject::Managed {
            let pseudonym = seated.pseudonym.clone();
            self.need(self.ids.patient(&pseudonym), What::Patient { pseudonym });
        }
    }

    /// The treatment will be referred to, if it has a patient and the receiver takes treatments.
    pub(super) fn need_procedure(&mut self) -> Option<Uuid> {
        let seated = self.seated.clone()?;
        if !self.encoder.writes(ResourceKind::Procedure) {
            return None;
        }
        // One record is about one treatment: its id is derived once.
        if let Some(need) = self.needs.iter().find(|need| matches!(need.what, What::Procedure { .. })) {
            return Some(need.id);
        }
        let id = self.ids.procedure(seated.treatment, seated.revision);
        let machine = self.origin().machine.clone();
        self.need(id, What::Procedure { seated, machine, hint: Hint::default(), standing: self.standing });
        Some(id)
    }

    /// The treatment itself is what the record says.
    fn treatment(&mut self, hint: Hint) -> Vec<Part> {
        let Some(seated) = self.seated.clone() else { return Vec::new() };
        self.need_device();
        self.need_patient();
        let meta = Meta { profile: Vec::new(), security: self.labels() };
        let machine = &self.origin().machine;
        let resource = self.encoder.procedure(self.ids, &seated, machine, hint, self.standing, meta);
        vec![Part { number: 0, draft: resource.into() }]
    }

    fn need(&mut self, id: Uuid, what: What) {
        if self.needs.iter().all(|need| need.id != id) {
            let test = self.is_test();
            self.needs.push(Need { id, what, test });
        }
    }

    fn needs_in_order(mut self) -> Vec<Need> {
        self.needs.sort_by_key(Need::kind);
        self.needs
    }
}

#[cfg(test)]
mod tests;
