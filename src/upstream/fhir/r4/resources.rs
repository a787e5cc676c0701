//! Resources of FHIR R4, each with the members that chairside uses.

use super::types::{CodeableConcept, Identifier, Meta, Period, Quantity, Reference, ResourceType, Text};
use serde::{Deserialize, Serialize};

/// One resource of any type that chairside writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Resource {
    /// A reading, an alarm edge, a gap.
    Observation(Box<Observation>),
    /// A machine.
    Device(Device),
    /// What a machine measures.
    DeviceMetric(DeviceMetric),
    /// A patient, known by pseudonym only.
    Patient(Patient),
    /// A treatment.
    Procedure(Procedure),
}

impl Resource {
    /// Its type.
    #[must_use]
    pub const fn kind(&self) -> ResourceType {
        match self {
            Self::Observation(_) => ResourceType::Observation,
            Self::Device(_) => ResourceType::Device,
            Self::DeviceMetric(_) => ResourceType::DeviceMetric,
            Self::Patient(_) => ResourceType::Patient,
            Self::Procedure(_) => ResourceType::Procedure,
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        match self {
            Self::Observation(it) => &it.id,
            Self::Device(it) => &it.id,
            Self::DeviceMetric(it) => &it.id,
            Self::Patient(it) => &it.id,
            Self::Procedure(it) => &it.id,
        }
    }
}

/// `Observation`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Observation {
    /// `Observation`.
    pub resource_type: ResourceType,
    /// Derived, never drawn.
    pub id: String,
    /// Profiles and labels.
    #[serde(default, skip_serializing_if = "Meta::is_empty")]
    pub meta: Meta,
    /// The id again, for receivers that give ids of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identifier: Vec<Identifier>,
    /// The treatment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub part_of: Vec<Reference>,
    /// `final` or `entered-in-error`.
    pub status: Text,
    /// `therapy`, `vital-signs`, or of our own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub category: Vec<CodeableConcept>,
    /// What was measured.
    pub code: CodeableConcept,
    /// Of whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Reference>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_date_time: Option<String>,
    /// From when to when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_period: Option<Period>,
    /// A number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_quantity: Option<Quantity>,
    /// A code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_codeable_concept: Option<CodeableConcept>,
    /// Why there is no value; never together with one (obs-6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_absent_reason: Option<CodeableConcept>,
    /// Doubts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interpretation: Vec<CodeableConcept>,
    /// The metric or machine it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Reference>,
    /// Values that belong together.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub component: Vec<ObservationComponent>,
}

/// `Observation.component`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObservationComponent {
    /// What it is.
    pub code: CodeableConcept,
    /// A number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_quantity: Option<Quantity>,
    /// A code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_codeable_concept: Option<CodeableConcept>,
    /// Why there is no value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_absent_reason: Option<CodeableConcept>,
}

/// `Device`: one dialysis machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// `Device`.
    pub resource_type: ResourceType,
    /// Derived, never drawn.
    pub id: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "Meta::is_empty")]
    pub meta: Meta,
    /// The keyed identifier; never the machine's serial number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identifier: Vec<Identifier>,
    /// `active`.
    pub status: Text,
    /// Maker and model in the maker's words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub device_name: Vec<DeviceName>,
    /// The model id of the driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_number: Option<Text>,
    /// A dialysis machine.
    #[serde(rename = "type")]
    pub of: CodeableConcept,
}

/// `Device.deviceName`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceName {
    /// The name.
    pub name: Text,
    /// What kind of name.
    #[serde(rename = "type")]
    pub of: Text,
}

/// `DeviceMetric`: one thing that one machine measures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceMetric {
    /// `DeviceMetric`.
    pub resource_type: ResourceType,
    /// Derived, never drawn.
    pub id: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "Meta::is_empty")]
    pub meta: Meta,
    /// The id again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identifier: Vec<Identifier>,
    /// What it measures.
    #[serde(rename = "type")]
    pub of: CodeableConcept,
    /// In which unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<CodeableConcept>,
    /// The machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Reference>,
    /// The machine again: VMD and channel levels are not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Reference>,
    /// `on`.
    pub operational_status: Text,
    /// `measurement` or `setting`.
    pub category: Text,
}

/// `Patient` with the pseudonym as its only content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Patient {
    /// `Patient`.
    pub resource_type: ResourceType,
    /// Derived, never drawn.
    pub id: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "Meta::is_empty")]
    pub meta: Meta,
    /// The pseudonym.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identifier: Vec<Identifier>,
}

/// `Procedure`: one treatment of a seated patient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Procedure {
    /// `Procedure`.
    pub resource_type: ResourceType,
    /// Derived, never drawn.
    pub id: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "Meta::is_empty")]
    pub meta: Meta,
    /// The id again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identifier: Vec<Identifier>,
    /// `in-progress`, `completed` or `entered-in-error`.
    pub status: Text,
    /// Renal dialysis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<CodeableConcept>,
    /// Haemodialysis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<CodeableConcept>,
    /// Of whom.
    pub subject: Reference,
    /// From when to when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub performed_period: Option<Period>,
    /// The machine.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used_reference: Vec<Reference>,
}

/// What a server says about itself; unknown members are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CapabilityStatement {
    /// `CapabilityStatement`, where it is one.
    pub resource_type: String,
    /// `4.0.1`.
    pub fhir_version: String,
    /// The formats it takes.
    pub format: Vec<String>,
}
